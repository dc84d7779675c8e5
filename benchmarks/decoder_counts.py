"""Floating-point operations of the decoder, by part, and the machine's own rate of matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.request import DecodeRequest


def _processor_attention(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


# The counter knows CUDA's attention kernels; this is the one that processors use.
EXTRA = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _processor_attention}


class _Counted:
    """A function whose operations are summed over its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.flops = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with FlopCounterMode(display=False, custom_mapping=EXTRA) as counter:
            result = self.function(*args, **kwargs)
        self.flops += counter.get_total_flops()
        return result


def count_flops(decoder: Decoder | DecoderEngine, requests: Sequence[DecodeRequest]) -> dict[str, float]:
    """Operations per image of velocity net, autoencoder, the rest (the masked transformer), and in all."""
    tokenizer = decoder.model.tokenizer if isinstance(decoder, DecoderEngine) else decoder.tokenizer
    tokenizer.requires_grad_(False)  # the counter hooks what has gradients, which inference mode refuses
    if isinstance(decoder, DecoderEngine):
        owner, names = decoder.model.velocity, ("embed_features", "hidden", "modulate", "blocks")
    else:
        owner, names = decoder.tokenizer.velocity, ("forward",)
    places = [(owner, name) for name in names] + [(decoder.autoencoder, "decode")]
    counted = []
    for place, name in places:
        counted.append(_Counted(getattr(place, name)))
        setattr(place, name, counted[-1])
    try:
        whole = _Counted(decoder.decode)
        whole(requests)
    finally:
        for (place, name), each in zip(places, counted, strict=True):
            setattr(place, name, each.function)
    velocity, pixels = sum(each.flops for each in counted[:-1]), counted[-1].flops
    parts = {
        "masked transformer": whole.flops - velocity - pixels,
        "velocity net": velocity,
        "autoencoder": pixels,
        "all": whole.flops,
    }
    return {name: value / len(requests) for name, value in parts.items()}


def matmul_rate(device: str, dtype: torch.dtype, side: int = 2048, repeats: int = 5) -> float:
    """Operations per second of a square product, the median: what the decoder's rate is compared with."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / statistics.median(seconds[1:])


def synchronize(device: str) -> None:
    """Wait for the device; a processor is never behind."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
