"""`v2flow eval tokenizers`: several models' visual tokenizers on the same held-out pictures, side by side.

Each is reconstructed with the model's own settings and judged by PSNR, SSIM and FID, by how it uses its codebook, and
by how well its LLM predicts its tokens.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from v2flow_engine.config import SOLVERS
from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.report import format_table, last_line, machine

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.evaluation.features import FeatureNet
    from v2flow_engine.training.pictures import Pictures

HELP = "Compare models' visual tokenizers on held-out pictures of a dataset."
COLUMNS = (
    "autoencoder_psnr",
    "psnr",
    "ssim",
    "fid",
    "codebook_usage",
    "codebook_perplexity",
    "llm_loss",
    "images_per_second",
)
SHEET_COLUMNS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="embedded models or model folders")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="datasets whose held-out part is used",
    )
    parser.add_argument(
        "--features", type=Path, metavar="DIR", help="of `v2flow train features`; no FID without"
    )
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the decoder's noise (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="R", help="of the decoder; each model's own by default")
    parser.add_argument("--flow-steps", type=int, metavar="F", help="of the decoder, in each round")
    parser.add_argument("--decoder-temperature", type=float, metavar="T", help="of the decoder's noise")
    parser.add_argument("--solver", choices=SOLVERS, help="of the decoder's velocity field")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="write a sheet: originals above each model's"
    )


def run(args: argparse.Namespace) -> int:
    """Load the pictures, measure every model, report."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.evaluation.features import load_features
    from v2flow_engine.files import check_file
    from v2flow_engine.training.batches import spread
    from v2flow_engine.training.pictures import HELDOUT, Pictures, load_pictures

    named = [_named(each) for each in args.models]
    folders = {name: open_model(model) for name, model in named}
    if len(folders) < len(named):
        raise RequestError(f"names must differ, got {', '.join(name for name, _ in named)}")
    if args.images < 2:
        raise RequestError(f"--images must be at least 2, got {args.images}")
    if args.out is not None:
        check_file(args.out)
    features, digest = (None, None) if args.features is None else load_features(args.features)
    held_out = load_pictures(args.data, HELDOUT, workers=2)[0]
    rows = spread(held_out, args.images)
    pictures = Pictures(held_out.pixels[rows], [held_out.records[i] for i in rows.tolist()])
    settings = {
        name: getattr(args, name) for name in ("rounds", "flow_steps", "decoder_temperature", "solver")
    }
    results, sheet = {}, [pictures.pixels[:SHEET_COLUMNS]]
    for name, folder in folders.items():
        print(f"{name}: {len(pictures)} pictures of {pictures.size}", file=sys.stderr, flush=True)
        results[name], made = measure(folder, pictures, features, args.seed, settings)
        sheet.append(torch.from_numpy(np.stack(made[:SHEET_COLUMNS])))
    if args.out is not None:
        from v2flow_engine.training.sheets import save_sheet

        save_sheet([each.permute(0, 3, 1, 2).float() / 127.5 - 1 for each in sheet], args.out)
    print(format_table(["tokenizer", *COLUMNS], [[n, *(r[c] for c in COLUMNS)] for n, r in results.items()]))
    setup = {
        "images": len(pictures),
        "size": pictures.size,
        "seed": args.seed,
        **settings,
        "features": digest,
        "hardware": machine(),
    }
    print(last_line({"command": "eval tokenizers", "tokenizers": results, "setup": setup}), flush=True)
    return 0


def _named(text: str) -> tuple[str, str]:
    """ "NAME=MODEL" or "MODEL" -> (name, model)."""
    name, equals, model = text.partition("=")
    return (name, model) if equals else (Path(text).name, text)


def measure(
    folder: ModelFolder,
    pictures: Pictures,
    features: FeatureNet | None,
    seed: int,
    settings: dict[str, Any],
) -> tuple[dict[str, float | None], list[np.ndarray]]:
    """One model's figures, and its reconstructions (H, W, 3) uint8. Raises `RequestError` for a size it has not."""
    from v2flow_engine.evaluation.comparison import compare, mean_metrics
    from v2flow_engine.evaluation.features import fid
    from v2flow_engine.evaluation.metrics import codebook_statistics
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer

    tokenizer = ImageTokenizer.from_folder(folder, batch_size=64)
    originals = list(pictures.pixels.numpy())
    images = [Image.fromarray(each) for each in originals]
    made = tokenizer.reconstruct(images, seeds=seed, size=pictures.size, **settings)
    means = mean_metrics(compare([""] * len(made), [""] * len(made), made))
    rebuilt = [np.asarray(each.by_tokenizer) for each in made]
    codes = torch.stack([each.codes.codes for each in made])
    started = time.perf_counter()
    tokenizer.decode([each.codes for each in made[:256]], seeds=seed, **settings)
    seconds = time.perf_counter() - started
    return {
        "autoencoder_psnr": means["autoencoder_psnr"],
        "psnr": means["tokenizer_psnr"],
        "ssim": means["tokenizer_ssim"],
        "fid": None if features is None else fid(features, rebuilt, originals),
        **codebook_statistics(codes, folder.visual_tokenizer_config.codebook_size),
        "llm_loss": llm_loss(folder, pictures, codes),
        "images_per_second": min(len(made), 256) / seconds,
    }, rebuilt


@torch.inference_mode()
def llm_loss(folder: ModelFolder, pictures: Pictures, codes: torch.Tensor) -> float:
    """Mean cross-entropy of the pictures' codes (n, S) and image_end under the model's LLM, in nats per token."""
    from transformers import AutoModelForCausalLM

    from v2flow_engine.training.llm_losses import cross_entropy, image_logits
    from v2flow_engine.training.text import caption_pictures

    vocabulary = folder.vocabulary
    longest = int(folder.llm_config["max_position_embeddings"])
    tokenizer = folder.prompt_encoder.tokenizer
    data = caption_pictures(pictures, codes, tokenizer, vocabulary, 1, longest, seed=0)
    llm = AutoModelForCausalLM.from_pretrained(
        folder.llm_dir, dtype=torch.float32, local_files_only=True
    ).eval()
    losses = [
        cross_entropy(
            *image_logits(
                llm,
                vocabulary,
                data,
                rows,
                torch.zeros_like(rows),
                torch.zeros(len(rows), 1, dtype=torch.bool),
            )
        )
        * len(rows)
        for rows in torch.arange(len(data)).split(128)
    ]
    return float(torch.stack(losses).sum()) / len(data)
