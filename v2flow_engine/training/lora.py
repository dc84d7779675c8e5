"""Low-rank adapters (LoRA, arXiv 2106.09685) in an LLM that is trained, by peft; merged, or by themselves, on export.

Knows nothing of pictures or of how the LLM is trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from v2flow_engine.adapted_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PEFT_PREFIX, ROWS
from v2flow_engine.errors import DataError
from v2flow_engine.training.split_rows import rows_from

# The linear layers of LLaMA, and Phi-3's, which joins some of them.
TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
)


@dataclass(frozen=True)
class LoraSettings:
    """rank: of every adapter. alpha: its product is scaled by alpha / rank. dropout: of its input."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise DataError(
                f"lora: rank must be at least 1, alpha above 0 and dropout in [0, 1), got {self.rank}, "
                f"{self.alpha:g} and {self.dropout:g}"
            )


def add_adapters(net: nn.Module, settings: LoraSettings, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Freeze a transformers model and put adapters, which start as no change, into its linear layers.

    frozen_dtype: what the weights beside the adapters are kept in: bfloat16 spares autocast a copy in each forward
        pass. Raises `DataError` without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DataError("adapters (lora) need peft: pip install 'v2flow_engine[train]'") from error
    names = {name.rpartition(".")[2] for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(names.intersection(TARGETS)),
    )
    net.requires_grad_(False)
    inject_adapter_in_model(config, net)
    for module in net.modules():
        if hasattr(module, "base_layer"):
            module.base_layer.to(frozen_dtype)
            # peft would bring what comes in to the adapters' dtype, and autocast that back to its own.
            module.cast_input_dtype_enabled = False


@torch.no_grad()
def merged_weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model as if it never had adapters: each one's product added to the weight that it is beside."""
    products = {
        f"{name}.base_layer.weight": module.get_delta_weight("default")
        for name, module in net.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    merged = {}
    for name, value in net.state_dict().items():
        if ".lora_" in name:
            continue
        if name in products:
            value = value.float() + products[name].float()
        merged[name.replace(".base_layer.", ".")] = value
    return merged


def save_adapters(net: nn.Module, settings: LoraSettings, first_row: int, folder: Path) -> None:
    """Write the adapters as peft does, in bfloat16, and beside them the rows from `first_row` on, behind the text's."""
    folder.mkdir(exist_ok=True)
    layers = {name: module for name, module in net.named_modules() if hasattr(module, "get_delta_weight")}
    weights = {
        f"{PEFT_PREFIX}{name}.lora_{side}.weight": getattr(module, f"lora_{side}")["default"].weight
        for name, module in layers.items()
        for side in "AB"
    }
    pair = {"model.embed_tokens.weight": net.get_input_embeddings()}
    if not net.config.tie_word_embeddings:
        pair["lm_head.weight"] = net.get_output_embeddings()
    rows = {name: rows_from(module, first_row) for name, module in pair.items()}
    for name, values in ((ADAPTER_WEIGHTS, weights), (ROWS, rows)):
        halved = {key: value.detach().to("cpu", torch.bfloat16).clone() for key, value in values.items()}
        save_file(halved, str(folder / name), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "base_model_name_or_path": None,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
