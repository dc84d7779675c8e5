"""Counts and a device -> seconds of one image in each stage, and how many images are on the device at once.

Knows nothing of how many devices there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from v2flow_engine.errors import RequestError
from v2flow_engine.planning.decoder_cost import DecoderShape
from v2flow_engine.planning.hardware import Device
from v2flow_engine.planning.llm_cost import LlmShape

DECODER_BATCH = 16  # images that the decoder's autoencoder decodes at once
RATE_OF_PART = {
    "masked transformer": "transformer",
    "velocity net": "velocity",
    "autoencoder": "autoencoder",
}


@dataclass(frozen=True)
class TokenWork:
    """What the LLM is asked for each image.

    prompt_tokens: control tokens included. streams: 2 under guidance. max_in_flight: images that the engine may have
    at once. memory_share: of the device, that engine and cache may take.
    """

    prompt_tokens: int
    visual_tokens: int
    streams: int
    max_in_flight: int
    memory_share: float

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "visual_tokens", "max_in_flight"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name.replace('_', ' ')} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.memory_share <= 1:
            raise RequestError(f"the share of memory must be in (0, 1], got {self.memory_share:g}")


@dataclass(frozen=True)
class TokenStage:
    """The LLM on one device.

    seconds: of the device for one image. in_flight: images at once, of which memory would hold memory_for.
    kv_bytes: that an image keeps at its end. bound: what rules a step.
    """

    seconds: float
    in_flight: int
    memory_for: int
    weight_bytes: float
    kv_bytes: float
    step_seconds: float
    step_flops: float
    step_bytes: float
    bound: str


@dataclass(frozen=True)
class DecoderStage:
    """The decoder on one device: seconds of it for one image, in all and by part; images decoded at once."""

    seconds: float
    parts: dict[str, float]
    batch: int
    flops: dict[str, float]
    memory_bytes: float


def token_stage(shape: LlmShape, device: Device, work: TokenWork, reserved: float = 0.0) -> TokenStage:
    """Time the LLM. reserved: bytes that something else takes. Raises `RequestError` if not one image fits."""
    hardware, rates, numbers = device.hardware, device.rates, device.hardware.number_bytes
    weights = shape.parameters * numbers
    kv_token = shape.kv_numbers * numbers * work.streams
    kv_image = kv_token * (work.prompt_tokens + work.visual_tokens)
    memory_for = math.floor((hardware.memory * work.memory_share - weights - reserved) / kv_image)
    if memory_for < 1:
        raise RequestError(
            f"{hardware.name} has {hardware.memory / 1e9:.0f} GB, of which {work.memory_share:.0%} may be used: "
            f"the LLM's weights take {weights / 1e9:.1f} GB, the KV cache of one image {kv_image / 1e9:.2f} GB and "
            f"the rest {reserved / 1e9:.1f} GB; LLMs over several GPUs are not planned here"
        )
    in_flight = min(memory_for, work.max_in_flight)
    context = work.prompt_tokens + work.visual_tokens / 2  # the mean over the steps
    flops = in_flight * work.streams * shape.step(context)
    moved = shape.parameters_read * numbers + in_flight * kv_token * context
    products = flops / hardware.matmul / rates.llm_compute
    reads = moved / hardware.bandwidth / rates.llm_bandwidth
    step = max(products, reads) + rates.step_overhead
    # Prompts are read many at once, so that products rule; the first token comes from there.
    prefill = work.streams * shape.prefill(work.prompt_tokens) / hardware.matmul / rates.llm_compute
    bounds = {"products": products, "memory reads": reads, "step overhead": rates.step_overhead}
    return TokenStage(
        seconds=prefill + (work.visual_tokens - 1) * step / in_flight + rates.step_overhead / in_flight,
        in_flight=in_flight,
        memory_for=memory_for,
        weight_bytes=weights,
        kv_bytes=kv_image,
        step_seconds=step,
        step_flops=flops,
        step_bytes=moved,
        bound=max(bounds, key=lambda name: bounds[name]),
    )


def decoder_stage(shape: DecoderShape, device: Device, memory_share: float) -> DecoderStage:
    """Time the decoder and the file's encoding. Raises `RequestError` if not one image fits."""
    hardware, rates = device.hardware, device.rates
    weights = shape.parameters() * hardware.number_bytes
    image = shape.largest_activation() * hardware.number_bytes
    batch = min(DECODER_BATCH, math.floor((hardware.memory * memory_share - weights) / image))
    if batch < 1:
        raise RequestError(
            f"{memory_share:.0%} of {hardware.name}'s {hardware.memory / 1e9:.0f} GB does not hold the decoder: "
            f"weights {weights / 1e9:.1f} GB, an image {image / 1e9:.1f} GB"
        )
    work = shape.work()
    parts = {
        name: hardware.seconds(each.flops, each.moved(batch, hardware.number_bytes))
        / getattr(rates, RATE_OF_PART[name])
        for name, each in work.items()
    }
    parts["file"] = rates.encode * shape.num_pixels / 1e6
    return DecoderStage(
        seconds=sum(parts.values()),
        parts=parts,
        batch=batch,
        flops={name: each.flops for name, each in work.items()},
        memory_bytes=weights + batch * image,
    )
