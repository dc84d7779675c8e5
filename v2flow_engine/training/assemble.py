"""Three trained parts -> one model folder, its weights in bfloat16.

Knows nothing of how the parts were trained.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from v2flow_engine.checkpoint import ModelFolder, load_weights, open_model
from v2flow_engine.config import ModelConfig, save_json

WEIGHTS = {
    "llm": "model.safetensors",
    "visual_tokenizer": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def assemble(
    config: ModelConfig, autoencoder_dir: Path, visual_tokenizer_dir: Path, llm_dir: Path, out: Path
) -> ModelFolder:
    """Write the folder (replacing one that is there only when it is whole) and open it, which checks it."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_json(config, building / "config.json")
    for name, source in (
        ("llm", llm_dir),
        ("visual_tokenizer", visual_tokenizer_dir),
        ("vae", autoencoder_dir),
    ):
        copy_in_bfloat16(source, building / name, WEIGHTS[name])
    open_model(building)
    shutil.rmtree(out, ignore_errors=True)
    building.rename(out)
    return open_model(out)


def copy_in_bfloat16(source: Path, target: Path, weights_name: str) -> None:
    """A part's JSON files and weights, in a new folder `target`. Raises `ModelFolderError` for damaged weights."""
    target.mkdir()
    for path in sorted(source.glob("*.json")):
        shutil.copy(path, target / path.name)
    weights = load_weights(source / weights_name)
    halved = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in weights.items()}
    save_file(halved, str(target / weights_name), metadata={"format": "pt"})
