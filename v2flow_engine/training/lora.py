"""Low-rank adapters (LoRA, arXiv 2106.09685) in an LLM that is trained, by peft; merged where it is exported.

Knows nothing of pictures or of how the LLM is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from v2flow_engine.errors import DataError

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
