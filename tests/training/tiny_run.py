"""Tiny data and configs for the three trainings: shards of coloured squares, networks of a few thousand weights."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.tiny_model import tiny_autoencoder, tiny_tokenizer_config
from v2flow_engine.config import to_dict

SIDE = 64
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (240, 210, 40)}
LOOP = {"steps": 6, "batch_size": 4, "learning_rate": 0.002, "warmup": 2, "log_every": 1, "checkpoint_every": 3,
        "sample_every": 6, "bf16": False}  # fmt: skip


def write_squares(
    folder: Path, train: int = 24, heldout: int = 8, width: int = SIDE, height: int = SIDE
) -> Path:
    """WebDataset shards of one coloured square each, its place and colour in the caption."""
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("heldout_combination", heldout)):
        with tarfile.open(folder / f"{split}-000000.tar", "w") as archive:
            for i in range(count):
                name, colour = list(COLOURS.items())[i % 4]
                pixels = np.full((height, width, 3), 245, np.uint8)
                left = 8 * (i // 4 % 4)
                pixels[16:48, left : left + 32] = colour
                image = io.BytesIO()
                Image.fromarray(pixels).save(image, "WEBP", lossless=True)
                record = json.dumps({"caption": f"a {name} square at {left}", "split": split}).encode()
                for suffix, content in ((".webp", image.getvalue()), (".json", record)):
                    member = tarfile.TarInfo(f"{split}-{i:06d}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def write_all(root: Path) -> None:
    """Configs, square pictures in data/ and wide ones in wide/: what a training of several sizes needs."""
    write_configs(root)
    write_squares(root / "data")
    write_squares(root / "wide", train=12, heldout=4, width=64, height=32)


def write_configs(folder: Path) -> Path:
    """vae.yaml, tokenizer.yaml and llm.yaml."""
    model = {k: v for k, v in tiny_autoencoder().config.items() if not k.startswith("_")}
    configs = {
        "vae": {"model": json.loads(json.dumps(model)), "loop": LOOP},
        "tokenizer": {"model": json.loads(json.dumps(to_dict(tiny_tokenizer_config(300)))), "loop": LOOP,
                      "warm_share": 0.3, "rounds": 2, "flow_steps": 2},
        "llm": {"model": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
                "text_vocab_size": 300, "caption_variants": 2, "max_position_embeddings": 64, "loop": LOOP},
    }  # fmt: skip
    for name, values in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder
