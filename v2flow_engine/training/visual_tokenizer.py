"""Trains the visual tokenizer: latents -> codes -> latents, through the masked rectified-flow decoder.

First a warm start, in which a throw-away convolutional head predicts the latents from the conditions: without it the
decoder, which can do without conditions at first, sends back too little gradient and the codebook collapses. The head
stays on as a small auxiliary loss. Knows nothing of pixels but for showing and judging.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import nn

from v2flow_engine.checkpoint import ModelFolder, load_state
from v2flow_engine.config import VisualTokenizerConfig, save_json
from v2flow_engine.decoding.request import image_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.errors import DataError
from v2flow_engine.flow.path import interpolate, net_time, sample_time, to_velocity
from v2flow_engine.models.quantizer import CodebookTrainer
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.latents import Latents
from v2flow_engine.training.loop import LoopConfig, Stage, epoch_indices
from v2flow_engine.training.pictures import Pictures, psnr
from v2flow_engine.training.sheets import save_sheet


@dataclass(frozen=True)
class VisualTokenizerTraining:
    """model: the shape. The shares are of all steps.

    flow_repeats: times and noises drawn per masked position and step.
    mask_ratio_min: least share of positions masked; the share is a truncated normal around 1.
    revive_share: until when dead codes are revived. gumbel_share: until when the Gumbel noise fades out.
    freeze_codes: train the decoder alone, so that an LLM that writes these codes stays valid.
    """

    model: VisualTokenizerConfig
    loop: LoopConfig
    vocabulary_seed: int = 0
    warm_share: float = 0.15
    flow_repeats: int = 2
    mask_ratio_min: float = 0.25
    drop_condition: float = 0.05
    commitment_weight: float = 4.0
    head_weight: float = 0.25
    gumbel_noise: float = 0.5
    gumbel_share: float = 0.5
    revive_share: float = 0.7
    readout_gain: float = 4.0
    rounds: int = 4
    flow_steps: int = 10
    freeze_codes: bool = False


def random_text_embedding(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Text rows (V, D) for an LLM that starts from nothing: normal of std 0.02, centred."""
    embedding = 0.02 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return embedding - embedding.mean(dim=0)


class LatentHead(nn.Module):
    """conditions (B, S, D) -> latents (B, C, h, w), by convolution: the warm start's throw-away decoder."""

    def __init__(self, config: VisualTokenizerConfig, hidden: int = 256) -> None:
        super().__init__()
        self.rows = config.token_grid[0]
        factor = config.downsample
        self.body = nn.Sequential(
            nn.Conv2d(config.width, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, config.latent_channels * factor**2, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, conditions: torch.Tensor) -> torch.Tensor:
        """Predict the latents directly."""
        return self.body(rearrange(conditions, "b (h w) d -> b d h w", h=self.rows))


class TrainedTokenizer(nn.Module):
    """The tokenizer and its throw-away head, so that one optimizer and one EMA hold both."""

    def __init__(self, config: VisualTokenizerConfig, readout_gain: float) -> None:
        super().__init__()
        self.tokenizer = VisualTokenizer(config)
        self.head = LatentHead(config)
        if config.text_vocab_size is not None:
            # Logits of a standard deviation of about `readout_gain`: mixtures that differ from the first step.
            readout = self.tokenizer.resampler.readout[-1]
            nn.init.normal_(readout.weight, std=readout_gain * readout.in_features**-0.5)
            nn.init.zeros_(readout.bias)


class VisualTokenizerStage(Stage):
    """Tokenizer training on cached latents.

    init: a model folder to start from, its text rows included, instead of random weights.
    """

    def __init__(
        self,
        config: VisualTokenizerTraining,
        latents: Latents,
        heldout: Pictures,
        autoencoder: Autoencoder,
        device: torch.device,
        init: ModelFolder | None = None,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.latents, self.heldout = config, latents, heldout
        self.autoencoder, self.device = autoencoder, device
        net = TrainedTokenizer(config.model, config.readout_gain)
        rows, dim = config.model.text_vocab_size, config.model.code_dim
        text = None if rows is None else random_text_embedding(rows, dim, config.vocabulary_seed)
        self.from_init = init is not None
        if init is not None:
            load_state(
                net.tokenizer, init.load_visual_tokenizer().state_dict(), f"{init.path}: visual_tokenizer"
            )
            text = None if rows is None else init.load_text_embedding()
        elif config.freeze_codes:
            raise DataError("freeze_codes needs a trained tokenizer: --init MODEL")
        self.net, self.text_embedding = net.to(device), text
        if text is not None:
            self.net.tokenizer.set_vocabulary(text.to(device))
        if config.freeze_codes:
            self.net.tokenizer.resampler.requires_grad_(False)
        self.codebook = CodebookTrainer(self.net.tokenizer.quantizer).to(device)
        self.warm_steps = 0 if self.from_init else round(config.warm_share * config.loop.steps)
        self._assigned: tuple[torch.Tensor, torch.Tensor] | None = None

    def compile(self) -> None:
        """The velocity net, whose rows are most of the work; their number changes from step to step."""
        self.net.tokenizer.velocity.compile(dynamic=True)

    def state_modules(self) -> dict[str, nn.Module]:
        """The codebook's moving averages."""
        return {"codebook": self.codebook}

    def loss(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Commitment, head and (after the warm start) flow loss of one batch of latents."""
        config, tokenizer, loop = self.config, self.net.tokenizer, self.config.loop
        latents = self.latents.batch(
            epoch_indices(len(self.latents), loop.batch_size, step, loop.seed), self.device
        )
        fade = max(0.0, 1.0 - step / max(1.0, config.gumbel_share * loop.steps))
        if self.from_init:
            fade = 0.0  # the codes have settled
        vectors = tokenizer.llm_space(latents, config.gumbel_noise * fade, generator).float()
        if step == 0 and not self.from_init:
            self.codebook.initialise(
                tokenizer.quantizer, vectors.detach().flatten(0, 1), torch.Generator().manual_seed(loop.seed)
            )
        quantized = tokenizer.quantizer(vectors)
        self._assigned = (vectors.detach().flatten(0, 1), quantized.codes.flatten())
        conditions = tokenizer.projector(quantized.vectors)
        head = F.mse_loss(self.net.head(conditions).float(), latents)
        losses = {"commitment": quantized.commitment, "head": head}
        if step < self.warm_steps:
            loss = head
        else:
            losses["flow"] = self._flow_loss(latents, conditions, generator)
            loss = losses["flow"] + config.head_weight * head
        with torch.no_grad():
            used = torch.zeros(config.model.codebook_size, device=self.device)
            losses["codes_used"] = used.index_fill_(0, quantized.codes.flatten(), 1.0).sum()
            directions = F.normalize(vectors[:, 0], dim=-1)
            losses["mixture_cosine"] = (directions @ directions.t()).mean()
        return {"loss": loss + config.commitment_weight * quantized.commitment, **losses}

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Move the codebook; revive dead codes until `revive_share` of the run."""
        if self.config.freeze_codes:
            return
        vectors, codes = self._assigned
        revive = step < self.config.revive_share * self.config.loop.steps
        self.codebook.update(self.net.tokenizer.quantizer, vectors, codes, generator, revive)

    def _flow_loss(
        self, latents: torch.Tensor, conditions: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Squared error of the velocity at the masked positions, each with several times and noises."""
        config, tokenizer = self.config, self.net.tokenizer
        shape = config.model
        tokens = tokenizer.patchify(latents)  # (B, N, C p^2)
        batch = tokens.shape[0]
        dropped = torch.rand(batch, 1, 1, generator=generator, device=self.device) < config.drop_condition
        conditions = torch.where(dropped, tokenizer.null_conditions(batch).to(conditions.dtype), conditions)
        order = torch.rand(batch, shape.num_positions, generator=generator, device=self.device).argsort(dim=1)
        masked = _masked_count(shape.num_positions, config.mask_ratio_min, generator)
        known = order[:, masked:].sort(dim=1).values
        chosen = order[:, :masked, None]
        features = tokenizer.masked_transformer(tokens, known, conditions)
        features = features.gather(1, chosen.expand(-1, -1, features.shape[-1])).flatten(0, 1)
        data = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[-1])).flatten(0, 1)
        features, data = features.repeat(config.flow_repeats, 1), data.repeat(config.flow_repeats, 1)
        noise = torch.randn(data.shape, generator=generator, device=self.device)
        t = sample_time(shape.flow, len(data), generator)
        output = tokenizer.velocity(interpolate(noise, data, t), net_time(shape.flow, t), features)
        return F.mse_loss(to_velocity(shape.flow, output).float(), data - noise)

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Held-out PSNR through codes and decoder (in dB), the autoencoder's own, and the codebook's usage."""
        pixels, rebuilt, direct, _ = self._reconstruct(ema, 128)
        codes = torch.cat(
            [
                ema.tokenizer.encode(self.latents.batch(part, self.device))
                for part in torch.linspace(0, len(self.latents) - 1, 2048).long().split(256)
            ]
        )
        counts = codes.flatten().bincount(minlength=self.config.model.codebook_size).float()
        share = counts / counts.sum()
        return {
            "heldout_psnr": float(psnr(rebuilt, pixels).mean()),
            "autoencoder_psnr": float(psnr(direct, pixels).mean()),
            "codebook_usage": float((counts > 0).float().mean()),
            "codebook_perplexity": float((-(share * share.clamp_min(1e-12).log()).sum()).exp()),
        }

    @torch.inference_mode()
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Held-out pictures, the autoencoder's, the tokenizer's, and the warm start's head."""
        save_sheet(list(self._reconstruct(ema, 8)), path)

    def _reconstruct(self, ema: nn.Module, count: int) -> tuple[torch.Tensor, ...]:
        tokenizer = ema.tokenizer
        indices = torch.from_numpy(np.linspace(0, len(self.heldout) - 1, count).astype(np.int64))
        pixels = self.heldout.batch(indices, self.device)
        latents = self.autoencoder.encode(pixels)
        codes = tokenizer.encode(latents)
        own = [image_noise(self.config.model, seed) for seed in range(count)]
        decoded = sample_latents(
            tokenizer,
            codes,
            torch.stack([n.order for n in own]).to(self.device),
            torch.stack([n.noise for n in own]).to(self.device),
            rounds=self.config.rounds,
            flow_steps=self.config.flow_steps,
        )
        decode = self.autoencoder.decode
        return pixels, decode(decoded), decode(latents), decode(ema.head(tokenizer.conditions(codes)))

    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/visual_tokenizer in float32; the text rows beside it, for the LLM that will be built around them."""
        folder = run_dir / "visual_tokenizer"
        folder.mkdir(exist_ok=True)
        weights = {key: value.contiguous() for key, value in ema.tokenizer.state_dict().items()}
        save_file(weights, str(folder / "model.safetensors"))
        if self.text_embedding is not None:
            save_file({"embedding": self.text_embedding}, str(folder / "vocabulary.safetensors"))
        save_json(self.config.model, folder / "config.json")


def _masked_count(num_positions: int, ratio_min: float, generator: torch.Generator) -> int:
    """Positions masked in a step: normal around 1 with std 0.35, cut to [ratio_min, 1] (after MAR, arXiv 2406.11838).

    Drawn on the CPU from the step's seed, so that the device need not wait.
    """
    cpu = torch.Generator().manual_seed(generator.initial_seed())
    while True:
        ratio = 1.0 - 0.35 * abs(float(torch.randn((), generator=cpu)))
        if ratio >= ratio_min:
            return min(num_positions, int(np.ceil(num_positions * ratio)))
