"""Trains the autoencoder: pictures -> latents -> pictures.

Loss: L1 plus squared error of the pixels. A little noise on the latents makes the decoder forgiving of what a flow
will not get exactly right. Knows nothing of tokens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from v2flow_engine.checkpoint import ModelFolder, load_state
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.training.loop import LoopConfig, Stage, epoch_indices
from v2flow_engine.training.pictures import Pictures, psnr
from v2flow_engine.training.sheets import save_sheet


@dataclass(frozen=True)
class AutoencoderConfig:
    """model: AutoencoderDC's keyword arguments. latent_noise: noise on the latents, in their standard deviations."""

    model: dict[str, Any]
    loop: LoopConfig
    latent_noise: float = 0.05
    squared_weight: float = 2.0


class AutoencoderStage(Stage):
    """Autoencoder training on pictures in memory.

    init: a model folder to start from instead of random weights.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        train: Pictures,
        heldout: Pictures,
        device: torch.device,
        init: ModelFolder | None = None,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.train, self.heldout, self.device = config, train, heldout, device
        net = Autoencoder.from_config(config.model)
        if init is not None:
            load_state(net, init.load_autoencoder().state_dict(), f"{init.path}: vae")
        self.net = net.to(device, memory_format=torch.channels_last)

    def compile(self) -> None:
        """Encoder and decoder; shapes never change in training."""
        self.net.net.encoder.compile()
        self.net.net.decoder.compile()

    def loss(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """L1 + squared_weight * MSE of one batch."""
        loop = self.config.loop
        pixels = self.train.batch(
            epoch_indices(len(self.train), loop.batch_size, step, loop.seed), self.device
        )
        latents = self.net.encode(pixels)
        scale = self.config.latent_noise * latents.detach().float().std()
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        rebuilt = self.net.decode(latents + (scale * noise).to(latents.dtype)).float()
        squared = F.mse_loss(rebuilt, pixels)
        loss = F.l1_loss(rebuilt, pixels) + self.config.squared_weight * squared
        return {"loss": loss, "psnr": 10 * torch.log10(4.0 / squared.detach())}

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Mean PSNR of up to 512 held-out pictures, in dB."""
        values = []
        for start in range(0, min(512, len(self.heldout)), 64):
            indices = torch.arange(start, min(start + 64, len(self.heldout)))
            pixels = self.heldout.batch(indices, self.device)
            values.append(psnr(ema.decode(ema.encode(pixels)), pixels))
        return {"heldout_psnr": float(torch.cat(values).mean())}

    @torch.inference_mode()
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Held-out pictures above what is rebuilt of them."""
        pixels = self.heldout.batch(torch.arange(min(8, len(self.heldout))), self.device)
        save_sheet([pixels, ema.decode(ema.encode(pixels))], path)

    @torch.inference_mode()
    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/vae, a diffusers folder in float32, its scaling factor measured on training pictures."""
        net = copy.deepcopy(ema.net).float().to(memory_format=torch.contiguous_format)
        sample = torch.linspace(0, len(self.train) - 1, min(1024, len(self.train))).long()
        latents = [net.encode(self.train.batch(part, self.device)).latent for part in sample.split(64)]
        net.register_to_config(scaling_factor=round(float(1.0 / torch.cat(latents).std()), 6))
        net.save_pretrained(str(run_dir / "vae"))
