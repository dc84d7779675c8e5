"""`v2flow train vae|tokenizer|vocabulary|llm|features`: arguments -> data -> stage -> loop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import DataError, RequestError
from v2flow_engine.files import mebibytes, told_as_output_error
from v2flow_engine.precision import bfloat16_is_faster
from v2flow_engine.training.coded import check_tokenizer, is_coded, read_coded
from v2flow_engine.training.loop import Stage, train
from v2flow_engine.training.picture_options import (
    add_picture_arguments,
    read_pictures,
    sizing_of,
    tell_counts,
)
from v2flow_engine.training.ranks import Ranks, join, leave
from v2flow_engine.training.settings import DEFAULTS, load_settings

HELP = "train the autoencoder, the visual tokenizer (or only its vocabulary), the LLM or the feature network of FID"
Built = tuple[Stage, Any, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of all stages; `args.subcommand` says which one runs."""
    add_picture_arguments(parser)
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
    parser.add_argument(
        "--llm",
        type=Path,
        metavar="DIR",
        help="llm: start from this LLM, which v2flow convert llm --base gave visual tokens; vocabulary: the checkpoint "
        "whose text rows the codes are to be mixtures of",
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="llm: plain text, or JSONL with `text`, that a base LLM is to go on knowing (v2flow data text)",
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME|DIR",
        help="llm: a model of the same codes that draws already: it encodes the pictures, and what it expects of each "
        "visual token is learnt, too (teacher_share)",
    )
    parser.add_argument("--name", default="v2flow-emoji", help="name of the model folder that llm assembles")
    parser.add_argument(
        "--model-config", type=Path, default=DEFAULTS / "model.yaml", help="its default generation parameters"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="under torchrun, cuda is one GPU for each process",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        metavar="MINUTES",
        help="how long a process waits for another, which may be encoding or evaluating, before it gives up",
    )


def run(args: argparse.Namespace) -> int:
    """Train one stage to its end, alone or (under torchrun) with other processes."""
    ranks = join(args.device, args.patience)
    if ranks.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    build: dict[str, Callable[[argparse.Namespace, Ranks], Built]] = {
        "vae": _build_autoencoder,
        "tokenizer": _build_tokenizer,
        "vocabulary": _build_vocabulary,
        "llm": _build_llm,
        "features": _build_features,
    }
    with told_as_output_error(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    if args.text and (args.subcommand != "llm" or args.llm is None):
        raise RequestError(
            "--text is what a base LLM is to go on knowing: it goes with v2flow train llm --llm"
        )
    if args.teacher is not None and args.subcommand != "llm":
        raise RequestError(f"--teacher goes with v2flow train llm, not with {args.subcommand}")
    if args.llm is not None and args.subcommand not in ("llm", "vocabulary"):
        raise RequestError(f"--llm goes with v2flow train llm and vocabulary, not with {args.subcommand}")
    started = time.perf_counter()
    stage, loop, settings = build[args.subcommand](args, ranks)
    parameters = sum(p.numel() for p in stage.net.parameters())
    together = f" x {ranks.world} processes" if ranks.world > 1 else ""
    ranks.say(
        f"{args.subcommand}: {parameters:,} parameters on {ranks.device.type}{together}, {loop.steps} steps of "
        f"{loop.batch_size}, prepared in {time.perf_counter() - started:.0f} s"
    )
    train(stage, loop, args.out, _identity(args, settings, stage), ranks)
    if args.subcommand == "llm" and ranks.is_first:
        _assemble(args, stage.sizes)
    ranks.say(f"done in {time.perf_counter() - started:.0f} s: {args.out}")
    leave(ranks)
    return 0


def _identity(args: argparse.Namespace, settings: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """All that changes the result; see `same_run`."""
    return {
        "stage": args.subcommand,
        "settings": settings,
        "limit": args.limit,
        "init": args.init,
        **({"teacher": args.teacher} if args.teacher else {}),
        "llm": None if args.llm is None else str(args.llm),
        **({"text": [str(path) for path in args.text]} if args.text else {}),
        "pictures": stage.counts,
        **sizing_of(args).describe(),
    }


def _settings(args: argparse.Namespace, ranks: Ranks, cls: type) -> tuple[Any, dict[str, Any]]:
    path = args.config or DEFAULTS / f"{args.subcommand}.yaml"
    config, values = load_settings(cls, path, args.overrides)
    if config.loop.bf16 is None:
        faster = ranks.once(lambda: bfloat16_is_faster(ranks.device))
        config = replace(config, loop=replace(config.loop, bf16=faster))
    return config, values


def _coded_or_pictures(
    args: argparse.Namespace, teacher: ModelFolder | None, ranks: Ranks
) -> tuple[list[Any], list[Any]]:
    """What an LLM is trained on: pictures, or the codes that `v2flow data codes` made of them."""
    coded = [folder for folder in args.data if is_coded(folder)]
    if not coded:
        return read_pictures(args, ranks)
    others = [str(folder) for folder in args.data if folder not in coded]
    if others or args.size:
        raise DataError(
            f"{', '.join(map(str, coded))}: codes (v2flow data codes) go with no pictures and no --size, got "
            f"{', '.join(others or args.size)}"
        )
    encoder = args.tokenizer if teacher is None else teacher.path / "visual_tokenizer"
    check_tokenizer(coded, encoder)
    training, heldout = read_coded(coded, "train", args.limit), read_coded(coded, "heldout")
    tell_counts(training, heldout, ranks)
    return training, heldout


def _required(args: argparse.Namespace, name: str) -> Path:
    path = getattr(args, name)
    if path is None or not Path(path).is_dir():
        raise DataError(f"v2flow train {args.subcommand} needs --{name} DIR, an existing folder; got {path}")
    return path


def _init(args: argparse.Namespace) -> ModelFolder | None:
    return open_model(args.init) if args.init is not None else None


def _build_autoencoder(args: argparse.Namespace, ranks: Ranks) -> Built:
    from v2flow_engine.training.autoencoder import AutoencoderConfig, AutoencoderStage

    config, values = _settings(args, ranks, AutoencoderConfig)
    return (
        AutoencoderStage(config, *read_pictures(args, ranks), ranks.device, _init(args)),
        config.loop,
        values,
    )


def _build_features(args: argparse.Namespace, ranks: Ranks) -> Built:
    from v2flow_engine.training.features import FeatureStage, FeatureTraining

    config, values = _settings(args, ranks, FeatureTraining)
    return FeatureStage(config, *read_pictures(args, ranks), ranks.device), config.loop, values


def _build_tokenizer(args: argparse.Namespace, ranks: Ranks) -> Built:
    from v2flow_engine.models.vae import Autoencoder
    from v2flow_engine.training.latents import cached_latents
    from v2flow_engine.training.visual_tokenizer import VisualTokenizerStage, VisualTokenizerTraining

    config, values = _settings(args, ranks, VisualTokenizerTraining)
    autoencoder = Autoencoder.from_folder(_required(args, "vae"), ranks.device)
    training, heldout = read_pictures(args, ranks)
    latents = [cached_latents(pictures, args.vae, ranks, config.loop.bf16) for pictures in training]
    return (
        VisualTokenizerStage(config, latents, heldout, autoencoder, ranks.device, _init(args)),
        config.loop,
        values,
    )


def _build_vocabulary(args: argparse.Namespace, ranks: Ranks) -> Built:
    from v2flow_engine.checkpoint import load_text_rows
    from v2flow_engine.training.latents import cached_latents
    from v2flow_engine.training.transplant import TransplantStage, TransplantTraining

    config, values = _settings(args, ranks, TransplantTraining)
    if args.init is None:
        raise RequestError("v2flow train vocabulary needs --init MODEL, whose codes and decoder are kept")
    init, text = open_model(args.init), load_text_rows(_required(args, "llm"))
    vae = _required(args, "vae")
    latents, heldout = (
        [cached_latents(each, vae, ranks, config.loop.bf16) for each in pictures]
        for pictures in read_pictures(args, ranks)
    )
    return TransplantStage(config, latents, heldout, init, text, ranks.device), config.loop, values


def _build_llm(args: argparse.Namespace, ranks: Ranks) -> Built:
    from v2flow_engine.training.llm import LlmTraining
    from v2flow_engine.training.llm_data import build_llm_stage

    config, values = _settings(args, ranks, LlmTraining)
    vae, tokenizer = _required(args, "vae"), _required(args, "tokenizer")
    base = None if args.llm is None else _required(args, "llm")
    if base is not None and args.init is not None:
        raise RequestError("--llm and --init do not go together: both say what to start from")
    if base is None and config.start != "pretrained":
        raise RequestError(f"start={config.start} says what is kept of a base LLM: it needs --llm DIR")
    teacher = None if args.teacher is None else open_model(args.teacher)
    training, heldout = _coded_or_pictures(args, teacher, ranks)
    stage = build_llm_stage(
        config, training, heldout, vae, tokenizer, ranks, _init(args), base, args.text, teacher
    )
    return stage, config.loop, values


def _assemble(args: argparse.Namespace, sizes: Sequence[str]) -> None:
    from v2flow_engine.config import ModelConfig, load_json
    from v2flow_engine.training.assemble import assemble

    grids = load_json(args.out / "llm" / "config.json")["v2flow"]["grids"]
    size = max(sizes, key=lambda name: grids[name][0] * grids[name][1])
    identity = [f"name={args.name}", f"default_size={size}"]
    config, _ = load_settings(ModelConfig, args.model_config, identity)
    folder = assemble(config, args.vae, args.tokenizer, args.out / "llm", args.out / args.name)
    print(f"model folder: {folder.path} ({mebibytes(folder.path):.1f} MiB)", flush=True)
