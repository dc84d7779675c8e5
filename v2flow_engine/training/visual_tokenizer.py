"""Trains the visual tokenizer: latents -> codes -> latents, through the masked rectified-flow decoder.

First a warm start, in which a throw-away convolutional head predicts the latents from the conditions: without it the
decoder, which can do without conditions at first, sends back too little gradient and the codebook collapses. The head
stays on as a small auxiliary loss. Knows nothing of pixels but for showing and judging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from safetensors.torch import save_file
from torch import nn

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.config import Grid, VisualTokenizerConfig, save_json
from v2flow_engine.decoding.request import images_noise
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.errors import DataError
from v2flow_engine.flow.path import interpolate, net_time, sample_time, to_velocity
from v2flow_engine.models.quantizer import Assignments, CodebookTrainer
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.batches import BatchPart, spread
from v2flow_engine.training.draws import Draws, mixed_seed
from v2flow_engine.training.growing import grow_tokenizer
from v2flow_engine.training.latents import Latents
from v2flow_engine.training.loop import LoopConfig, Stage
from v2flow_engine.training.pictures import Pictures, psnr
from v2flow_engine.training.ranks import Ranks
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
        factor = config.downsample
        self.body = nn.Sequential(
            nn.Conv2d(config.width, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, config.latent_channels * factor**2, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, conditions: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Predict the latents directly."""
        return self.body(rearrange(conditions, "b (h w) d -> b d h w", h=grid[0]))


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
    """Tokenizer training on cached latents, in one set for each size of picture.

    init: a model folder to start from, its text rows included, instead of random weights; the config may have more
        latent channels.
    """

    def __init__(
        self,
        config: VisualTokenizerTraining,
        latents: Sequence[Latents],
        heldout: Sequence[Pictures],
        autoencoder: Autoencoder,
        device: torch.device,
        init: ModelFolder | None = None,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.latents, self.heldout = config, latents, heldout
        self.autoencoder, self.device = autoencoder, device
        self.grids = [self._grid(each.values) for each in latents]
        net = TrainedTokenizer(config.model, config.readout_gain)
        rows, dim = config.model.text_vocab_size, config.model.code_dim
        text = None if rows is None else random_text_embedding(rows, dim, config.vocabulary_seed)
        self.from_init = init is not None
        if init is not None:
            grow_tokenizer(net.tokenizer, init.load_visual_tokenizer(), f"{init.path}: visual_tokenizer")
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
        self._assigned: Assignments | None = None  # of the current step

    def compile(self) -> None:
        """The velocity net, whose rows are most of the work; their number changes from step to step."""
        self.net.tokenizer.velocity.compile(dynamic=True)

    def state_modules(self) -> dict[str, nn.Module]:
        """The codebook's moving averages."""
        return {"codebook": self.codebook}

    @property
    def counts(self) -> list[int]:
        """Pictures of each size."""
        return [len(each) for each in self.latents]

    @torch.no_grad()
    def before_step(self, parts: Sequence[BatchPart], ranks: Ranks) -> None:
        """Fill the codebook from the whole first batch."""
        if parts[0].step > 0 or self.from_init:
            return
        quantizer = self.net.tokenizer.quantizer
        for part in parts:
            vectors = self._vectors(part, *self._batch(part), part.draws(self.device))
            self._count(part, vectors, quantizer.assign(vectors))
        ranks.add_up(self._assigned.tensors())
        generator = torch.Generator().manual_seed(self.config.loop.seed)
        self.codebook.initialise(quantizer, self._assigned, generator)
        self._assigned = None

    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """Commitment, head and (after the warm start) flow loss of some latents."""
        config, tokenizer = self.config, self.net.tokenizer
        latents, grid = self._batch(part)
        draws = part.draws(self.device)
        vectors = self._vectors(part, latents, grid, draws)
        quantized = tokenizer.quantizer(vectors)
        self._count(part, vectors.detach(), quantized.codes)
        conditions = tokenizer.projector(quantized.vectors)
        head = F.mse_loss(self.net.head(conditions, grid).float(), latents)
        losses = {"commitment": quantized.commitment, "head": head}
        if part.step < self.warm_steps:
            loss = head
        else:
            # One number for the whole batch, so that its rows have one shape.
            share = _masked_share(config.mask_ratio_min, mixed_seed(part.seed, part.step))
            if config.model.flow.method == "regression":
                losses["flow"] = self._regression_loss(latents, conditions, grid)
            else:
                losses["flow"] = self._flow_loss(latents, conditions, grid, share, draws)
            loss = losses["flow"] + config.head_weight * head
        return {"loss": loss + config.commitment_weight * quantized.commitment, **losses}

    def _batch(self, part: BatchPart) -> tuple[torch.Tensor, Grid]:
        """The part's latents (b, C, h, w), and their grid of visual tokens."""
        return self.latents[part.chosen].batch(part.indices, self.device), self.grids[part.chosen]

    def _vectors(self, part: BatchPart, latents: torch.Tensor, grid: Grid, draws: Draws) -> torch.Tensor:
        """The part's latents in LLM space, (b, S, D), Gumbel noise included."""
        config, tokenizer = self.config, self.net.tokenizer
        fade = max(0.0, 1.0 - part.step / max(1.0, config.gumbel_share * config.loop.steps))
        # From a trained model on, the codes have settled.
        scale = 0.0 if self.from_init else config.gumbel_noise * fade
        uniform = None
        if scale and config.model.text_vocab_size is not None:
            uniform = draws.rand(grid[0] * grid[1], config.model.text_vocab_size)
        return tokenizer.llm_space(latents, scale, uniform).float()

    def _count(self, part: BatchPart, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Note which codes the part's vectors (b, S, D) were given."""
        num_tokens = vectors.shape[1]
        if self._assigned is None:
            generator = torch.Generator().manual_seed(mixed_seed(part.seed, part.step))
            self._assigned = Assignments(self.net.tokenizer.quantizer, part.whole * num_tokens, generator)
        self._assigned.add(vectors.flatten(0, 1), codes.flatten(), part.first * num_tokens)

    def after_step(self, step: int, ranks: Ranks) -> dict[str, torch.Tensor]:
        """Move the codebook, revive dead codes until `revive_share` of the run; report how the codes were used.

        mixture_cosine: mean similarity of any two vectors of the batch, 1 where all mixtures are the same.
        """
        assigned, self._assigned = self._assigned, None
        ranks.add_up(assigned.tensors())
        if not self.config.freeze_codes:
            revive = step < self.config.revive_share * self.config.loop.steps
            self.codebook.update(self.net.tokenizer.quantizer, assigned, revive)
        mean = assigned.total.sum(dim=0) / assigned.num_vectors
        return {"codes_used": (assigned.count > 0).sum(), "mixture_cosine": mean.square().sum()}

    def _grid(self, latents: torch.Tensor) -> Grid:
        """(rows, columns) of visual tokens of latents (B, C, h, w)."""
        factor = self.config.model.downsample
        grid = latents.shape[-2] // factor, latents.shape[-1] // factor
        self.config.model.positions_of(grid)
        return grid

    def _flow_loss(
        self,
        latents: torch.Tensor,
        conditions: torch.Tensor,
        grid: Grid,
        masked_share: float,
        draws: Draws,
    ) -> torch.Tensor:
        """Squared error of the velocity at the masked positions, each with several times and noises."""
        config, tokenizer = self.config, self.net.tokenizer
        flow, repeats = config.model.flow, config.flow_repeats
        tokens = tokenizer.patchify(latents)  # (B, N, C p^2)
        num_positions, channels = tokens.shape[1:]
        dropped = draws.rand(1, 1) < config.drop_condition
        null = tokenizer.null_conditions(*conditions.shape[:2]).to(conditions.dtype)
        conditions = torch.where(dropped, null, conditions)
        order = draws.rand(num_positions).argsort(dim=1)
        masked = min(num_positions, int(np.ceil(num_positions * masked_share)))
        known = order[:, masked:].sort(dim=1).values
        chosen = order[:, :masked, None]
        features = tokenizer.masked_transformer(tokens, known, conditions, grid)
        features = features.gather(1, chosen.expand(-1, -1, features.shape[-1]))
        data = tokens.gather(1, chosen.expand(-1, -1, channels))
        features, data = (repeat(each, "b m c -> (b r m) c", r=repeats) for each in (features, data))
        noise = draws.randn(repeats * masked, channels).flatten(0, 1)
        t = sample_time(flow, repeats * masked, draws).flatten()
        output = tokenizer.velocity(interpolate(noise, data, t), net_time(flow, t), features)
        return F.mse_loss(to_velocity(flow, output).float(), data - noise)

    def _regression_loss(self, latents: torch.Tensor, conditions: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Squared error of the latents that are predicted from the conditions alone."""
        tokenizer = self.net.tokenizer
        data = tokenizer.patchify(latents)  # (B, N, C p^2)
        known = torch.empty(len(data), 0, dtype=torch.int64, device=data.device)
        features = tokenizer.masked_transformer(data, known, conditions, grid).flatten(0, 1)
        nothing = torch.zeros(0, device=data.device)
        output = tokenizer.velocity(nothing, nothing, features)
        return F.mse_loss(output.float(), data.flatten(0, 1))

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Held-out PSNR through codes and decoder (in dB), the autoencoder's own, and the codebook's usage."""
        parts = [self._reconstruct(ema, pictures, 128) for pictures in self.heldout]
        codes = [
            ema.tokenizer.encode(latents.batch(part, self.device)).flatten()
            for latents in self.latents
            for part in spread(latents, 2048).split(256)
        ]
        counts = torch.cat(codes).bincount(minlength=self.config.model.codebook_size).float()
        share = counts / counts.sum()
        return {
            "heldout_psnr": float(torch.cat([psnr(rebuilt, pixels) for pixels, rebuilt, *_ in parts]).mean()),
            "autoencoder_psnr": float(
                torch.cat([psnr(direct, pixels) for pixels, _, direct, _ in parts]).mean()
            ),
            "codebook_usage": float((counts > 0).float().mean()),
            "codebook_perplexity": float((-(share * share.clamp_min(1e-12).log()).sum()).exp()),
        }

    @torch.inference_mode()
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Held-out pictures of each size, the tokenizer's, the autoencoder's, and the warm start's head."""
        save_sheet([row for each in self.heldout for row in self._reconstruct(ema, each, 8)], path)

    def _reconstruct(self, ema: nn.Module, pictures: Pictures, count: int) -> tuple[torch.Tensor, ...]:
        """count -> that many pixels: the originals, the tokenizer's, the autoencoder's, the head's."""
        tokenizer = ema.tokenizer
        pixels = pictures.batch(spread(pictures, count), self.device)
        latents = self.autoencoder.encode(pixels)
        codes, grid = tokenizer.encode(latents), self._grid(latents)
        own = images_noise(self.config.model, range(len(codes)), grid, self.device)
        decoded = sample_latents(
            tokenizer,
            codes,
            own.order,
            own.noise,
            grid=grid,
            rounds=self.config.rounds,
            flow_steps=self.config.flow_steps,
        )
        decode = self.autoencoder.decode
        return pixels, decode(decoded), decode(latents), decode(ema.head(tokenizer.conditions(codes), grid))

    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/visual_tokenizer in float32; the text rows beside it, for the LLM that will be built around them."""
        folder = run_dir / "visual_tokenizer"
        folder.mkdir(exist_ok=True)
        weights = {key: value.contiguous() for key, value in ema.tokenizer.state_dict().items()}
        save_file(weights, str(folder / "model.safetensors"))
        if self.text_embedding is not None:
            save_file({"embedding": self.text_embedding}, str(folder / "vocabulary.safetensors"))
        save_json(self.config.model, folder / "config.json")


def _masked_share(ratio_min: float, seed: int) -> float:
    """Share of positions masked in a step: normal around 1 with std 0.35, cut to [ratio_min, 1] (after MAR, arXiv
    2406.11838). Drawn on the CPU, so that the device need not wait.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        ratio = 1.0 - 0.35 * abs(float(torch.randn((), generator=generator)))
        if ratio >= ratio_min:
            return ratio
