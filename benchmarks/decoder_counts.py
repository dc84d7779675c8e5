"""Floating-point operations of the decoder, by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.decoder_reference import ReferenceDecoder
from benchmarks.decoder_work import AnyDecoder, Decode
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.models.vae import Autoencoder

Place = tuple[object, str]  # an object, and the name of its method


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


def count_flops(decoder: AnyDecoder, decode: Decode, requests: Sequence[DecodeRequest]) -> dict[str, float]:
    """Operations per image of velocity net, autoencoder, the rest (the masked transformer), and in all."""
    decoder.tokenizer.requires_grad_(
        False
    )  # the counter hooks what has gradients, which inference mode refuses
    velocity, pixels = _places(decoder)
    counted = [_Counted(getattr(*place)) for place in velocity + pixels]
    for (owner, name), each in zip(velocity + pixels, counted, strict=True):
        setattr(owner, name, each)
    try:
        whole = _Counted(decode)
        whole(requests)
    finally:
        for (owner, name), each in zip(velocity + pixels, counted, strict=True):
            setattr(owner, name, each.function)
    of_velocity = sum(each.flops for each in counted[: len(velocity)])
    of_pixels = sum(each.flops for each in counted[len(velocity) :])
    parts = {
        "masked transformer": whole.flops - of_velocity - of_pixels,
        "velocity net": of_velocity,
        "autoencoder": of_pixels,
        "all": whole.flops,
    }
    return {name: value / len(requests) for name, value in parts.items()}


def _places(decoder: AnyDecoder) -> tuple[list[Place], list[Place]]:
    """The methods that are the velocity net, and those that are the autoencoder."""
    if isinstance(decoder, ReferenceDecoder):
        return [(decoder.model.flowloss.net, "forward")], []
    names, owner = ("forward",), decoder.tokenizer.velocity
    if isinstance(decoder, DecoderEngine):
        names, owner = ("embed_features", "hidden", "modulate", "blocks"), decoder.model.velocity
    pixels = [(decoder.autoencoder, name) for name in ("decode", "decode_tiled")]
    return [(owner, name) for name in names], pixels


@torch.inference_mode()
def autoencoder_flops(autoencoder: Autoencoder, limits: Limits, size: str) -> float:
    """Operations of one picture; the autoencoder may be without weights."""
    rows, columns = (side * limits.config.downsample for side in limits.grid_of(size))
    weight = next(autoencoder.requires_grad_(False).parameters())
    latents = torch.zeros(1, limits.config.latent_channels, rows, columns, device=weight.device)
    counted = _Counted(autoencoder.decode)
    counted(latents.to(weight.dtype))
    return float(counted.flops)
