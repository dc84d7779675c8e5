"""Trains the autoencoder: pictures -> latents -> pictures.

Loss: L1 plus squared error of the pixels, or PSNR, which weighs every picture alike however hard it is. A little noise
on the latents makes the decoder forgiving of what a flow will not get exactly right. Knows nothing of tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.config import parse_size
from v2flow_engine.errors import DataError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.training.batches import BatchPart, spread
from v2flow_engine.training.growing import grow_autoencoder, scale_channels
from v2flow_engine.training.loop import LoopConfig, Stage
from v2flow_engine.training.pictures import Pictures, psnr
from v2flow_engine.training.ranks import Ranks
from v2flow_engine.training.sheets import save_sheet

LEAST_ERROR = 1e-7  # squared, of pixels in [-1, 1]: 76 dB


@dataclass(frozen=True)
class AutoencoderConfig:
    """model: AutoencoderDC's keyword arguments. latent_noise: noise on the latents, in standard deviations.

    squared_weight, psnr_weight: what the mean squared error and the mean PSNR, in dB, weigh in the loss beside L1.

    keep_channels: leave the latent channels of the model to start from exactly as they are, and train the decoder and
        the channels that this config has more, so that codes made of the old ones stay valid.
    """

    model: dict[str, Any]
    loop: LoopConfig
    latent_noise: float = 0.05
    squared_weight: float = 2.0
    psnr_weight: float = 0.0
    keep_channels: bool = False


class LatentSpread(nn.Module):
    """The standard deviation of the last batch's latents; 0 before the first.

    Noise is in units of it. It is the last batch's and not the current one's because that one may be spread over
    processes, or not be encoded in full yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.zeros(()))
        # count, sum, sum of squares; in float64, where the difference of two large sums does no harm
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64), persistent=False)

    def add(self, latents: torch.Tensor) -> None:
        """Count some of a batch's latents (b, C, h, w)."""
        values = latents.double()
        self.sums += torch.stack(
            [torch.full_like(values.sum(), values.numel()), values.sum(), values.square().sum()]
        )

    def update(self, ranks: Ranks) -> None:
        """Take what was counted, in all processes, as the new measure."""
        ranks.add_up([self.sums])
        count, total, squares = self.sums
        self.deviation.copy_((squares / count - (total / count) ** 2).clamp_min(0).sqrt())
        self.sums.zero_()


class AutoencoderStage(Stage):
    """Autoencoder training on pictures in memory, in one set for each size.

    init: a model folder to start from instead of random weights; the config may have more latent channels.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        train: Sequence[Pictures],
        heldout: Sequence[Pictures],
        device: torch.device,
        init: ModelFolder | None = None,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.train, self.heldout, self.device = config, train, heldout, device
        net = Autoencoder.from_config(config.model)
        if init is not None:
            trained = init.load_autoencoder().net
            grow_autoencoder(net.net, trained, torch.Generator().manual_seed(config.loop.seed))
        elif config.keep_channels:
            raise DataError("keep_channels needs a trained autoencoder: --init MODEL")
        self.kept: tuple[torch.Tensor, ...] = ()
        if config.keep_channels:
            net.net.encoder.requires_grad_(False)
            last = net.net.encoder.conv_out.requires_grad_(True)
            self.kept = tuple(
                each[: trained.config.latent_channels].clone().to(device) for each in last.parameters()
            )
        self.net = net.to(device, memory_format=torch.channels_last)
        self.spread = LatentSpread().to(device)
        for pictures in (*train, *heldout):
            if any(side % net.downscale for side in parse_size(pictures.size)):
                raise DataError(
                    f"pictures of {pictures.size} do not fit an autoencoder of {net.downscale} pixels per latent: "
                    f"both sides must be multiples of {net.downscale}"
                )

    def compile(self) -> None:
        """Encoder and decoder; there are as many shapes as sizes."""
        self.net.net.encoder.compile()
        self.net.net.decoder.compile()

    @property
    def counts(self) -> list[int]:
        """Pictures of each size."""
        return [len(pictures) for pictures in self.train]

    def state_modules(self) -> dict[str, nn.Module]:
        """The latents' spread."""
        return {"spread": self.spread}

    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """L1 + squared_weight * MSE - psnr_weight * PSNR of some pictures, and their mean PSNR in dB."""
        pixels = self.train[part.chosen].batch(part.indices, self.device)
        latents = self.net.encode(pixels)
        self.spread.add(latents.detach().float())
        noise = part.draws(self.device).randn(*latents.shape[1:])
        scale = self.config.latent_noise * self.spread.deviation
        rebuilt = self.net.decode(latents + (scale * noise).to(latents.dtype)).float()
        loss = F.l1_loss(rebuilt, pixels) + self.config.squared_weight * F.mse_loss(rebuilt, pixels)
        if self.config.psnr_weight:
            loss = loss - self.config.psnr_weight * psnr(rebuilt, pixels, LEAST_ERROR).mean()
        return {"loss": loss, "psnr": psnr(rebuilt.detach(), pixels).mean()}

    def after_step(self, step: int, ranks: Ranks) -> dict[str, torch.Tensor]:
        """Measure the spread of the whole batch's latents, for the next step's noise; put kept channels back."""
        self.spread.update(ranks)
        with torch.no_grad():
            for parameter, kept in zip(self.net.net.encoder.conv_out.parameters(), self.kept, strict=False):
                parameter[: len(kept)] = kept
        return {}

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Mean PSNR of up to 512 held-out pictures of each size, in dB."""
        values = []
        for pictures in self.heldout:
            for indices in spread(pictures, 512).split(64):
                pixels = pictures.batch(indices, self.device)
                values.append(psnr(ema.decode(ema.encode(pixels)), pixels))
        return {"heldout_psnr": float(torch.cat(values).mean())}

    @torch.inference_mode()
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Held-out pictures of the first size above what is rebuilt of them."""
        pixels = self.heldout[0].batch(spread(self.heldout[0], 8), self.device)
        save_sheet([pixels, ema.decode(ema.encode(pixels))], path)

    @torch.inference_mode()
    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/vae, a diffusers folder in float32.

        Latents come out with a standard deviation of 1, measured on training pictures: all together, or, where some
        channels are kept, each of the new ones.
        """
        net = copy.deepcopy(ema).float().to(memory_format=torch.contiguous_format)
        latents = [
            net.encode(pictures.batch(part, self.device)).transpose(0, 1).flatten(1)
            for pictures in self.train
            for part in spread(pictures, 1024).split(64)
        ]
        values = torch.cat(latents, dim=1)
        if self.kept:
            factors = 1 / values.std(dim=1)
            factors[: len(self.kept[0])] = 1
            scale_channels(net.net, factors)
        else:
            net.net.register_to_config(scaling_factor=round(float(net.scaling_factor / values.std()), 6))
        net.net.save_pretrained(str(run_dir / "vae"))
