"""Moves a trained tokenizer's codes into another LLM's vocabulary space: same codes, same decoder, other words.

New are the readout, the codebook and the projector. The readout learns to tell the codes apart (cross-entropy of the
cosines to the codebook), the codebook to say what the decoder wants to hear. At first the mixture is replaced by its
linear part, which costs a hundredth of a softmax over a large vocabulary. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.config import save_json
from v2flow_engine.models.resampler import mlp
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.batches import BatchPart, spread
from v2flow_engine.training.coded import say_moved_from
from v2flow_engine.training.latents import Latents
from v2flow_engine.training.loop import LoopConfig, Stage
from v2flow_engine.training.ranks import Ranks

LOOKED_AT = 2048  # pictures of each size, for how often codes are used and what they look like


@dataclass(frozen=True)
class TransplantTraining:
    """warm_share: of all steps, with the mixture's linear part. sharpness: cosines are multiplied by it.

    readout_gain: standard deviation of the logits over the vocabulary. mlp_depth: linear layers of the readout.
    """

    loop: LoopConfig
    warm_share: float = 0.75
    sharpness: float = 20.0
    readout_gain: float = 1.5
    mlp_depth: int = 2


class Transplant(nn.Module):
    """What is trained: readout, directions (K, D_llm) of the codes, and the projector of these."""

    def __init__(self, hidden: int, dim: int, width: int, codebook_size: int, mlp_depth: int) -> None:
        super().__init__()
        self.readout = mlp(mlp_depth, hidden, dim)
        self.directions = nn.Parameter(F.normalize(torch.randn(codebook_size, dim), dim=-1))
        self.projector = nn.Linear(dim, width)

    def codebook(self) -> torch.Tensor:
        """Unit vectors (K, D_llm)."""
        return F.normalize(self.directions, dim=-1)


class TransplantStage(Stage):
    """Training on cached latents of any sizes.

    init: the model whose codes and decoder are kept. text_embedding: (V, D_llm) of the LLM that is to write the codes.
    """

    def __init__(
        self,
        config: TransplantTraining,
        latents: Sequence[Latents],
        heldout: Sequence[Latents],
        init: ModelFolder,
        text_embedding: torch.Tensor,
        device: torch.device,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.latents, self.heldout, self.device = config, latents, heldout, device
        self.source = init.path / "visual_tokenizer"
        self.trained = init.load_visual_tokenizer(device, with_vocabulary=True).requires_grad_(False)
        rows, dim = text_embedding.shape
        shape = replace(
            self.trained.config,
            text_vocab_size=rows,
            code_dim=dim,
            readout_gain=config.readout_gain,
            resampler_mlp_depth=config.mlp_depth,
            projector_depth=1,
        )
        self.moved = VisualTokenizer(shape).to(device).requires_grad_(False).eval()
        kept = {k: v for k, v in self.trained.state_dict().items() if not k.startswith(_NEW)}
        self.moved.load_state_dict(kept, strict=False)
        self.text_embedding = text_embedding
        self.moved.set_vocabulary(text_embedding.to(device))
        hidden, width, size = shape.resampler_hidden, shape.width, shape.codebook_size
        self.net = Transplant(hidden, dim, width, size, config.mlp_depth).to(device)
        self.warm_steps = round(config.warm_share * config.loop.steps)
        with torch.no_grad():
            self.conditions = self.trained.projector(self.trained.quantizer.codebook)
            self.scale = self.conditions.var(dim=0).mean()
            counts = torch.zeros(size, device=device)
            for _, codes in self._looked_at():
                counts += codes.bincount(minlength=size)
            # Backgrounds are most tokens; the rest should be learnt, too.
            self.weights = counts.clamp_min(1).rsqrt()

    @property
    def counts(self) -> list[int]:
        """Pictures of each size."""
        return [len(each) for each in self.latents]

    @torch.no_grad()
    def before_step(self, parts: Sequence[BatchPart], ranks: Ranks) -> None:
        """As the softmax begins, the codes start from the mean of the mixtures that they stand for."""
        if parts[0].step != self.warm_steps:
            return
        total = torch.zeros_like(self.net.directions)
        for features, codes in self._looked_at():
            vectors = self._vectors(self.net, features, warm=False).float()
            total.index_add_(0, codes, F.normalize(vectors, dim=-1))
        known = total.norm(dim=-1, keepdim=True) > 0
        self.net.directions.copy_(torch.where(known, F.normalize(total, dim=-1), self.net.codebook()))

    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """Cross-entropy of the codes and error of the conditions, relative to their variance."""
        features, codes = self._features(self.latents[part.chosen].batch(part.indices, self.device))
        vectors = F.normalize(self._vectors(self.net, features, part.step < self.warm_steps), dim=-1)
        codebook = self.net.codebook()
        cosines = self.config.sharpness * (vectors @ codebook.t())
        weights = self.weights[codes]
        entropy = (weights * F.cross_entropy(cosines, codes, reduction="none")).sum() / weights.sum()
        errors = (self.net.projector(codebook[codes]) - self.conditions[codes]).square().mean(dim=-1)
        error = (weights * errors).sum() / weights.sum() / self.scale
        return {"loss": entropy + error, "cross_entropy": entropy, "condition_error": error}

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """On held-out pictures: the share of codes that are kept, and the squared error of the conditions, relative to
        their variance.
        """
        moved, (kept, errors, variance) = self._result(ema), (0.0, 0.0, 0.0)
        told = moved.projector(moved.quantizer.codebook)
        total, mean = 0, self.conditions.mean(dim=0)
        for each in self.heldout:
            for part in spread(each, 128).split(32):
                latents = each.batch(part, self.device)
                _, codes = self._features(latents)
                found = moved.encode(latents).flatten()
                kept += float((found == codes).sum())
                errors += float((told[found] - self.conditions[codes]).square().sum())
                variance += float((self.conditions[codes] - mean).square().sum())
                total += len(codes)
        return {"heldout_codes_kept": kept / total, "heldout_condition_error": errors / max(variance, 1e-12)}

    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """None: `v2flow reconstruct` shows the model that it becomes a part of."""

    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/visual_tokenizer in float32, with the LLM's text rows beside it, and whose codes it has."""
        folder = run_dir / "visual_tokenizer"
        folder.mkdir(exist_ok=True)
        moved = self._result(ema)
        save_file(
            {k: v.contiguous() for k, v in moved.state_dict().items()}, str(folder / "model.safetensors")
        )
        save_file({"embedding": self.text_embedding.contiguous()}, str(folder / "vocabulary.safetensors"))
        save_json(moved.config, folder / "config.json")
        say_moved_from(folder, self.source)

    @torch.no_grad()
    def _result(self, net: nn.Module) -> VisualTokenizer:
        """The tokenizer with what was trained in it; the projector is the best linear one for its codebook."""
        moved, codebook = self.moved, net.codebook()
        moved.resampler.readout.load_state_dict(net.readout.state_dict())
        moved.quantizer.codebook.copy_(codebook)
        ones = torch.ones_like(codebook[:, :1])
        solved = torch.linalg.lstsq(torch.cat([codebook, ones], dim=1), self.conditions).solution
        moved.projector[0].weight.copy_(solved[:-1].t())
        moved.projector[0].bias.copy_(solved[-1])
        return moved

    @torch.no_grad()
    def _features(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """latents (B, C, h, w) -> what the readout is given (B S, hidden), and the trained model's codes (B S)."""
        resampler = self.trained.resampler
        features = resampler.features(latents)
        codes = self.trained.quantizer.assign(self.trained.vectors(resampler.readout(features)))
        return features.flatten(0, 1), codes.flatten()

    def _vectors(self, net: nn.Module, features: torch.Tensor, warm: bool) -> torch.Tensor:
        """features (n, hidden) -> vectors in LLM space (n, D_llm)."""
        moved = self.moved
        queries = moved.queries(net.readout(features))
        if warm:
            # What a softmax's mixture is to first order in its logits.
            return queries @ moved.vocabulary_products
        return moved.mix(moved.soft_tokens(moved.logits(queries)))

    def _looked_at(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        parts = [
            each.batch(part, self.device)
            for each in self.latents
            for part in spread(each, LOOKED_AT).split(16)
        ]
        return [self._features(latents) for latents in parts]


_NEW = ("resampler.readout.", "quantizer.", "projector.")
