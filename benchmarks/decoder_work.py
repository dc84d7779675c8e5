"""What the decoder benchmark decodes, and with what: seeded requests, and the decoders side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest

Decode = Callable[[Sequence[DecodeRequest]], list[np.ndarray]]


def load_decoders(
    folder: TokenizerFolder, device: str, settings: EngineSettings
) -> dict[str, Decoder | DecoderEngine]:
    """The plain sampler and the engine, in float32 and bfloat16."""
    decoders: dict[str, Decoder | DecoderEngine] = {
        "plain float32": Decoder.from_folder(folder, device, torch.float32)
    }
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        decoders[f"engine {name}"] = DecoderEngine.from_folder(folder, device, dtype, settings)
    return decoders


def make_requests(
    limits: Limits, size: str, count: int, rounds: int, flow_steps: int, guidance: float, seed: int = 0
) -> list[DecodeRequest]:
    """Random codes: the decoder's work does not depend on what they show."""
    generator = torch.Generator().manual_seed(seed)
    tokens = math.prod(limits.grid_of(size))
    return [
        DecodeRequest(
            codes=torch.randint(limits.config.codebook_size, (tokens,), generator=generator),
            seed=seed + number,
            size=size,
            rounds=rounds,
            flow_steps=flow_steps,
            guidance_scale=guidance,
        )
        for number in range(count)
    ]


def mixed_requests(limits: Limits, requests: Sequence[DecodeRequest], seed: int) -> list[DecodeRequest]:
    """The same requests on mixed grids: full, and cut to half in one direction or both; rounds vary by one."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = limits.config.token_grid
    side = limits.config.downsample * limits.downscale
    mixed = []
    for request in requests:
        halved = torch.randint(2, (2,), generator=generator).tolist()
        height, width = max(1, rows // (1 + halved[0])), max(1, columns // (1 + halved[1]))
        mixed.append(
            dataclasses.replace(
                request,
                codes=request.codes[: height * width],
                size=f"{width * side}x{height * side}",
                rounds=request.rounds + int(torch.randint(2, (1,), generator=generator)),
            )
        )
    return mixed
