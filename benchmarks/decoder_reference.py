"""The reference implementation itself, from a checkout that the user has: the same weights, noise and order as ours.

    git clone https://github.com/zhangguiwei610/V2Flow DIR        (none of its code is in this project)

Its decoder has no entry for codes and takes its randomness where it goes, so four things are given to it from outside:
the conditions in place of its resampler, quantizer and projector; the order; the noise; and, on a processor, tensors
that stay where they are when its code moves them to CUDA. What it imports must be installed beside this package:
timm, a torchvision that matches torch, einx, frozendict, scipy, and what the product has anyway. linear_flow only.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from v2flow_engine.decoding.request import DecodeRequest, image_noise
from v2flow_engine.decoding.schedule import round_positions
from v2flow_engine.errors import DataError
from v2flow_engine.models.reference_keys import CODEBOOK, reference_key
from v2flow_engine.models.reference_sampling import ReferenceSampling
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

NOT_ITS_OWN = (
    "downsampler.",
    "quantizer.",
    "projector.",
    "class_emb.",
)  # replaced by given conditions, or never read


def reference_sampling(rounds: int) -> ReferenceSampling:
    """Its options of sampling, which our decoders are set to for the comparison."""
    return ReferenceSampling(flow_method="linear_flow", cfg=2.9, num_iter=rounds)


def import_reference(checkout: Path) -> tuple[ModuleType, ModuleType]:
    """Its modules models.V2Flow and models.flowloss. Raises `DataError` for a wrong folder or a missing package."""
    if not (checkout / "models" / "V2Flow.py").is_file():
        raise DataError(f"--reference {checkout}: no models/V2Flow.py in it")
    sys.path[:0] = [str(checkout), str(checkout / "flow_matching")]
    try:
        return importlib.import_module("models.V2Flow"), importlib.import_module("models.flowloss")
    except (ImportError, RuntimeError) as error:
        raise DataError(f"--reference {checkout}: its imports fail: {error}") from error
    finally:
        del sys.path[:2]


class ReferenceDecoder:
    """The reference's model with a visual tokenizer's weights, on its device and in its dtype.

    Args:
        tokenizer: as many visual tokens as latent positions, on a square grid: it knows no other shape.
    """

    def __init__(self, checkout: Path, tokenizer: VisualTokenizer) -> None:
        self.tokenizer = tokenizer
        self.modules = import_reference(checkout)
        self.model = _build(self.modules[0], tokenizer)

    @torch.inference_mode()
    def decode_latents(self, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
        """Requests of the full grid with equal rounds -> latents (C, h, w) each."""
        config, rounds = self.tokenizer.config, requests[0].rounds
        own = [image_noise(config, request.seed, None, request.temperature) for request in requests]
        orders = torch.stack([each.order for each in own])
        codes = torch.stack([request.codes for request in requests]).to(self.tokenizer.null_condition.device)
        self.model.projector = _Given(self.tokenizer.conditions(codes))
        self.model.sample_orders = lambda bsz: orders.to(codes.device)
        chosen = [round_positions(order, rounds) for order in orders]
        noise = [
            torch.cat([each.noise[positions[i]] for each, positions in zip(own, chosen, strict=True)])
            for i in range(rounds)
        ]
        start = codes.new_zeros(
            (len(requests), config.latent_channels, *config.latent_grid), dtype=torch.float32
        )
        sampling = reference_sampling(rounds)
        with _given_noise(self.modules[1], noise), _where_it_is(codes.device):
            latents = self.model.sample_tokens(
                start, len(requests), num_iter=rounds, cfg=sampling.cfg, cfg_schedule=sampling.cfg_schedule
            )
        return list(latents.float())


def _build(module: ModuleType, tokenizer: VisualTokenizer) -> nn.Module:
    config = tokenizer.config
    side = config.position_grid[0]
    if config.position_grid != (side, side) or config.num_visual_tokens != side * side:
        raise DataError(
            f"the reference has a square grid and a visual token for each position, not {config.token_grid} for "
            f"{config.position_grid}"
        )
    width, heads = config.width, config.num_heads
    with torch.device("meta"):
        model = module.V2Flow(
            img_size=config.latent_grid[0],
            vae_stride=1,
            patch_size=config.patch_size,
            vae_embed_dim=config.latent_channels,
            buffer_size=config.num_visual_tokens,
            encoder_embed_dim=width,
            encoder_depth=config.encoder_depth,
            encoder_num_heads=heads,
            decoder_embed_dim=width,
            decoder_depth=config.decoder_depth,
            decoder_num_heads=heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            flowloss_d=config.velocity_depth,
            flowloss_w=config.velocity_width,
            flow_method="linear_flow",
        )
    model.downsampler, model.quantizer = nn.Identity(), _Quantized()
    model.class_emb = nn.Identity()
    weights = {reference_key(k): v for k, v in tokenizer.state_dict().items()}
    weights = {k: v for k, v in weights.items() if not k.startswith(NOT_ITS_OWN) and k != CODEBOOK}
    model.projector = nn.Identity()
    model.load_state_dict(weights, assign=True)
    return model.eval()


class _Quantized(nn.Module):
    """In the quantizer's place: what comes, its codes and its loss, of which only the first is handed on."""

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return vectors, None, None


class _Given(nn.Module):
    """In the projector's place: the conditions (B, S, D), whatever comes."""

    def __init__(self, conditions: torch.Tensor) -> None:
        super().__init__()
        self.conditions = conditions

    def forward(self, vectors: Any) -> torch.Tensor:
        return self.conditions


class _TorchWithNoise:
    """The torch module for the reference's flowloss; its randn gives the noise of one round after another."""

    def __init__(self, noise: Sequence[torch.Tensor]) -> None:
        self._noise = iter(noise)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, *shape: int) -> torch.Tensor:
        noise = next(self._noise)
        assert tuple(noise.shape) == shape, f"the reference asks for noise {shape}, expected {noise.shape}"
        return noise


@contextlib.contextmanager
def _given_noise(module: ModuleType, noise: Sequence[torch.Tensor]) -> Iterator[None]:
    module.torch = _TorchWithNoise(noise)
    try:
        yield
    finally:
        module.torch = torch


@contextlib.contextmanager
def _where_it_is(device: torch.device) -> Iterator[None]:
    """On a processor `.cuda()` leaves a tensor where it is; progress bars are silent."""
    moved = torch.Tensor.cuda
    if device.type == "cpu":
        torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.Tensor.cuda = moved  # type: ignore[method-assign]
