"""An `llm/` folder with quantised layers in formats that people publish, and beside it the same weights unpacked.

Quantised here from random weights, without the formats' own tools. Knows nothing of vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

GROUP = 32
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Packed = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Stored tensors by suffix, and the weight that they stand for."""


def quantize(llm: Path, out: Path, kind: str) -> Path:
    """Write `out`/llm as `kind`, of KINDS, and `out`/plain with the unpacked weights; returns `out`."""
    pack, settings = KINDS[kind]
    stored, plain = {}, load_file(llm / "model.safetensors")
    for name, weight in plain.items():
        if name.split(".")[-2] not in LINEAR:
            stored[name] = weight
            continue
        tensors, plain[name] = pack(weight)
        stored |= {
            f"{name.removesuffix('.weight')}.{suffix}": t.contiguous() for suffix, t in tensors.items()
        }
    config = json.loads((llm / "config.json").read_text())
    for folder, weights, extra in (
        ("llm", stored, {"quantization_config": settings}),
        ("plain", plain, {}),
    ):
        (out / folder).mkdir(parents=True)
        save_file(weights, out / folder / "model.safetensors")
        (out / folder / "config.json").write_text(json.dumps(config | extra))
    return out


def _gptq(weight: torch.Tensor) -> Packed:
    """4 bits, symmetric: eight rows of a column in a word."""
    codes, scales = _four_bits(weight.T, symmetric=True)  # (K, N), (K / GROUP, N)
    words = codes.view(-1, 8, codes.shape[1])
    zeros = torch.full((len(scales), codes.shape[1] // 8), 0x77777777, dtype=torch.int32)
    tensors = {
        "qweight": _word([words[:, i] for i in range(8)]),
        "qzeros": zeros,  # the format stores one less than the zero point, which is 8
        "scales": scales,
        "g_idx": torch.arange(len(codes), dtype=torch.int32) // GROUP,
    }
    return tensors, ((codes - 8) * scales.repeat_interleave(GROUP, 0)).T.contiguous()


def _awq(weight: torch.Tensor) -> Packed:
    """4 bits with zero points: eight columns of a row in a word, in an order of its own."""
    codes, scales, zeros = _four_bits(weight.T, symmetric=False)
    tensors = {
        "qweight": _word([codes.view(len(codes), -1, 8)[:, :, i] for i in AWQ_ORDER]),
        "qzeros": _word([zeros.view(len(zeros), -1, 8)[:, :, i] for i in AWQ_ORDER]),
        "scales": scales,
    }
    spread = [each.repeat_interleave(GROUP, 0) for each in (scales, zeros)]
    return tensors, ((codes - spread[1]) * spread[0]).T.contiguous()


def _int8(weight: torch.Tensor) -> Packed:
    """compressed-tensors: 8 bits with a scale for each row; activations are quantised on the way."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes * scale


def _fp8(weight: torch.Tensor) -> Packed:
    """float8 with one scale for the matrix; activations are quantised on the way."""
    scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


def _four_bits(weight: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, ...]:
    """(K, N) -> codes 0..15 (K, N) int32, scales (K / GROUP, N), and zero points unless symmetric."""
    groups = weight.view(-1, GROUP, weight.shape[1])
    if symmetric:
        scales = groups.abs().amax(dim=1) / 7
        codes = (groups / scales[:, None]).round().clamp(-8, 7) + 8
        return codes.view_as(weight).to(torch.int32), scales
    low, high = groups.amin(dim=1).clamp_max(0), groups.amax(dim=1).clamp_min(0)
    scales = (high - low) / 15
    zeros = (-low / scales).round()
    codes = ((groups / scales[:, None]).round() + zeros[:, None]).clamp(0, 15)
    return codes.view_as(weight).to(torch.int32), scales, zeros.to(torch.int32)


def _word(nibbles: list[torch.Tensor]) -> torch.Tensor:
    """Eight tensors of 0..15, the lowest bits first -> int32."""
    total = sum(each.to(torch.int64) << (4 * place) for place, each in enumerate(nibbles))
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


_INT8_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
_INT8_INPUTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
KINDS: dict[str, tuple[Callable[[torch.Tensor], Packed], dict[str, Any]]] = {
    "gptq": (
        _gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False},
    ),
    "awq": (
        _awq,
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    ),
    "compressed-tensors": (
        _int8,
        {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": _INT8_WEIGHTS,
                    "input_activations": _INT8_INPUTS,
                }
            },
        },
    ),
    "fp8": (_fp8, {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]}),
}
