"""`v2flow train vae|tokenizer|llm`: arguments -> data -> stage -> loop."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.loop import Stage, train
from v2flow_engine.training.settings import DEFAULTS, load_settings

HELP = "train the autoencoder, the visual tokenizer or the LLM"
HELDOUT = ("heldout_combination", "heldout_emoji")
Built = tuple[Stage, Any, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of all three stages; `args.subcommand` says which one runs."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of WebDataset shards (v2flow data emoji)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the run's folder; an unfinished run there goes on"
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file (default: the one v2flow-emoji was trained with)"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, such as loop.steps=1000 (repeatable)",
    )
    parser.add_argument("--vae", type=Path, help="folder of a trained autoencoder (tokenizer, llm)")
    parser.add_argument("--tokenizer", type=Path, help="folder of a trained visual tokenizer (llm)")
    parser.add_argument("--init", metavar="NAME|DIR", help="start from this model's weights")
    parser.add_argument("--name", default="v2flow-emoji", help="name of the model folder that llm assembles")
    parser.add_argument(
        "--model-config", type=Path, default=DEFAULTS / "model.yaml", help="its default generation parameters"
    )
    parser.add_argument("--limit", type=int, help="train on this many pictures at most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that read shards")


def run(args: argparse.Namespace) -> int:
    """Train one stage to its end."""
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    build: dict[str, Callable[[argparse.Namespace, torch.device], Built]] = {
        "vae": _build_autoencoder,
        "tokenizer": _build_tokenizer,
        "llm": _build_llm,
    }
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {args.out}: cannot be written ({error.strerror})") from error
    started = time.perf_counter()
    stage, loop, settings = build[args.subcommand](args, device)
    parameters = sum(p.numel() for p in stage.net.parameters())
    print(
        f"{args.subcommand}: {parameters:,} parameters on {device}, {loop.steps} steps of {loop.batch_size}, "
        f"prepared in {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    train(
        stage,
        loop,
        args.out,
        device,
        {"stage": args.subcommand, "settings": settings, "limit": args.limit, "init": args.init},
    )
    if args.subcommand == "llm":
        _assemble(args)
    print(f"done in {time.perf_counter() - started:.0f} s: {args.out}", flush=True)
    return 0


def _settings(args: argparse.Namespace, cls: type) -> tuple[Any, dict[str, Any]]:
    return load_settings(cls, args.config or DEFAULTS / f"{args.subcommand}.yaml", args.overrides)


def _pictures(args: argparse.Namespace, device: torch.device) -> tuple[Any, Any]:
    from v2flow_engine.training.pictures import Pictures, load_pictures

    started = time.perf_counter()
    training = load_pictures(args.data, ["train"], args.workers, args.limit)
    heldout = load_pictures(args.data, HELDOUT, args.workers)
    print(
        f"{len(training)} pictures, {len(heldout)} held out, read in {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    if device.type == "cuda":
        training = Pictures(training.pixels.to(device), training.records)
        heldout = Pictures(heldout.pixels.to(device), heldout.records)
    return training, heldout


def _required(args: argparse.Namespace, name: str) -> Path:
    path = getattr(args, name)
    if path is None or not Path(path).is_dir():
        raise DataError(f"v2flow train {args.subcommand} needs --{name} DIR, an existing folder; got {path}")
    return path


def _init(args: argparse.Namespace) -> ModelFolder | None:
    return open_model(args.init) if args.init is not None else None


def _build_autoencoder(args: argparse.Namespace, device: torch.device) -> Built:
    from v2flow_engine.training.autoencoder import AutoencoderConfig, AutoencoderStage

    config, values = _settings(args, AutoencoderConfig)
    return AutoencoderStage(config, *_pictures(args, device), device, _init(args)), config.loop, values


def _build_tokenizer(args: argparse.Namespace, device: torch.device) -> Built:
    from v2flow_engine.models.vae import Autoencoder
    from v2flow_engine.training.latents import cached_latents
    from v2flow_engine.training.visual_tokenizer import VisualTokenizerStage, VisualTokenizerTraining

    config, values = _settings(args, VisualTokenizerTraining)
    autoencoder = Autoencoder.from_folder(_required(args, "vae"), device)
    training, heldout = _pictures(args, device)
    latents = cached_latents(training, args.vae, device)
    return (
        VisualTokenizerStage(config, latents, heldout, autoencoder, device, _init(args)),
        config.loop,
        values,
    )


def _build_llm(args: argparse.Namespace, device: torch.device) -> Built:
    from v2flow_engine.training.llm import LlmTraining
    from v2flow_engine.training.llm_data import build_llm_stage

    config, values = _settings(args, LlmTraining)
    vae, tokenizer = _required(args, "vae"), _required(args, "tokenizer")
    training, heldout = _pictures(args, device)
    return (
        build_llm_stage(config, training, heldout, vae, tokenizer, device, _init(args)),
        config.loop,
        values,
    )


def _assemble(args: argparse.Namespace) -> None:
    from v2flow_engine.config import ModelConfig, load_json
    from v2flow_engine.training.assemble import assemble

    size = next(iter(load_json(args.out / "llm" / "config.json")["v2flow"]["grids"]))
    identity = [f"name={args.name}", f"default_size={size}"]
    config, _ = load_settings(ModelConfig, args.model_config, identity)
    folder = assemble(config, args.vae, args.tokenizer, args.out / "llm", args.out / args.name)
    size_mib = sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file()) / 2**20
    print(f"model folder: {folder.path} ({size_mib:.1f} MiB)", flush=True)
