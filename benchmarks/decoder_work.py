"""What the decoder benchmark decodes, and with what: seeded requests, and the decoders side by side."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.decoder_reference import ReferenceDecoder
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import RequestError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

AnyDecoder = Decoder | DecoderEngine | ReferenceDecoder
Decode = Callable[[Sequence[DecodeRequest]], object]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BASELINE = "plain float32"


def build_decoders(
    wanted: Sequence[str],
    tokenizer: VisualTokenizer,
    autoencoder: Autoencoder,
    attention: Sequence[str],
    settings: EngineSettings,
    reference: Path | None,
) -> dict[str, AnyDecoder]:
    """The decoders of these names on the same weights: "plain", "engine" or "reference" and a dtype.

    An engine comes once for each kind of attention. Raises `RequestError` for an unknown name.
    """
    decoders: dict[str, AnyDecoder] = {}
    for name in wanted:
        kind, _, dtype = name.partition(" ")
        if dtype not in DTYPES or kind not in ("plain", "engine", "reference"):
            raise RequestError(
                f"no decoder {name!r}; there are plain, engine and reference, float32 and bfloat16"
            )
        own = tokenizer if dtype == "float32" else copy.deepcopy(tokenizer).to(DTYPES[dtype])
        pixels = autoencoder if dtype == "float32" else copy.deepcopy(autoencoder).to(DTYPES[dtype])
        if kind == "plain":
            decoders[name] = Decoder(own, pixels)
        elif kind == "reference":
            if reference is None:
                raise RequestError(f"{name!r} needs --reference")
            decoders[name] = ReferenceDecoder(reference, own)
        else:
            for each in attention:
                full = name if len(attention) == 1 else f"{name} {each}"
                decoders[full] = DecoderEngine(own, pixels, dataclasses.replace(settings, attention=each))
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
