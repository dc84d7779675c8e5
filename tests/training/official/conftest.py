"""Checkpoints as the reference's training writes them, made of the golden weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_model import tiny_autoencoder

GOLDEN = Path(__file__).parents[2] / "golden"


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    """The whole state dict, with the entries that the golden files leave out."""
    weights = {k: v for n in (1, 2) for k, v in load_file(GOLDEN / f"{name}.weights-{n}.safetensors").items()}
    codebook = weights["quantizer._codebook.embed"]
    return weights | {
        "class_emb.weight": torch.zeros(4, 4096),
        "quantizer._codebook.initted": torch.ones(1),
        "quantizer._codebook.cluster_size": torch.ones(codebook.shape[:2]),
        "quantizer._codebook.embed_avg": codebook.clone(),
    }


def golden_options(name: str) -> dict:
    """What the training command would have been given for a golden model."""
    shape = json.loads((GOLDEN / f"{name}.json").read_text())
    sides = {f"{side}_{key}": shape[ours] for side in ("encoder", "decoder") for key, ours in SIDES.items()}
    return sides | {
        "encoder_depth": shape["encoder_depth"],
        "decoder_depth": shape["decoder_depth"],
        "img_size": 8 * shape["grid"],
        "vae_stride": 8,
        "vae_embed_dim": shape["latent_channels"],
        "flow_method": shape["flow_method"],
        "visual_vocabulary": shape["visual_vocabulary"],
        "downsampler_hidden_dim": shape["resampler_hidden"],
        "flowloss_d": shape["velocity_depth"],
        "flowloss_w": shape["velocity_width"],
        "num_iter": shape["num_iter"],
        "cfg": shape["cfg"],
        "scaling_factor": 1.0,
        "batch_size": 16,
        # With a vocabulary the reference's code does not look at these three, so they are left at its defaults.
        **(
            {}
            if shape["visual_vocabulary"]
            else {"downsampler_depth": 2, "downsampler_mlp_depth": 2, "visual_codebook_size": 128}
        ),
    }


SIDES = {"embed_dim": "width", "num_heads": "num_heads"}


def write_checkpoint(path: Path, name: str, args: dict | None = None) -> Path:
    """A `.pth`: the golden weights as the moving average, others as the last ones, an optimizer, maybe options."""
    ema = golden_weights(name)
    keep = {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 3,
    }
    keep |= {} if args is None else {"args": argparse.Namespace(**args)}
    parameters = {k: torch.nn.Parameter(v) if v.ndim > 1 else v for k, v in ema.items()}
    torch.save({"model": {k: v + 1 for k, v in ema.items()}, "model_ema": parameters, **keep}, path)
    return path


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder that fits the golden models: 8 channels, 8 pixels per latent."""
    folder = tmp_path_factory.mktemp("autoencoder") / "vae"
    tiny_autoencoder(latent_channels=8).save_pretrained(str(folder))
    return folder
