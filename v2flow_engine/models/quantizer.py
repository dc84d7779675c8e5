"""vectors -> codes: nearest by cosine similarity in a codebook of unit vectors, learnt by moving averages.

Source: VQ-VAE's EMA codebook (arXiv 1711.00937, appendix A.1) with cosine similarity (arXiv 2110.04627) and revival
of dead codes. Knows nothing of images or of the LLM: the space is whatever the vectors live in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Quantized:
    """codes (B, S) int64; vectors (B, S, D): the codebook's, with a straight-through gradient; commitment: scalar."""

    codes: torch.Tensor
    vectors: torch.Tensor
    commitment: torch.Tensor


class CosineQuantizer(nn.Module):
    """A codebook (K, D) of unit vectors; the state of its moving averages is in `CodebookTrainer`."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("codebook", F.normalize(torch.randn(codebook_size, code_dim), dim=-1))

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """codes (...) -> vectors (..., D)."""
        return F.embedding(codes, self.codebook)

    def assign(self, vectors: torch.Tensor) -> torch.Tensor:
        """vectors (..., D) -> codes (...), the most similar by cosine. Computed in float32."""
        directions = F.normalize(vectors.float(), dim=-1)
        with torch.autocast(directions.device.type, enabled=False):
            return (directions @ self.codebook.float().t()).argmax(dim=-1)

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """vectors (B, S, D) -> codes, their vectors and the commitment loss (mean squared error of unit vectors)."""
        directions = F.normalize(vectors.float(), dim=-1)
        codes = self.assign(directions)
        nearest = self.lookup(codes)
        commitment = F.mse_loss(directions, nearest.detach())
        return Quantized(codes, directions + (nearest - directions).detach(), commitment)


class CodebookTrainer(nn.Module):
    """Moving averages of a codebook: each code drifts to the mean direction of what it is given.

    Args:
        quantizer: whose codebook is updated in place.
        decay: of the moving averages.
        dead_share: a code used less than this share of an even distribution is replaced by a random recent vector.
    """

    def __init__(self, quantizer: CosineQuantizer, decay: float = 0.99, dead_share: float = 0.05) -> None:
        super().__init__()
        self.decay, self.dead_share = decay, dead_share
        self.register_buffer("count", torch.ones(len(quantizer.codebook)))
        self.register_buffer("total", quantizer.codebook.clone())

    @torch.no_grad()
    def initialise(
        self, quantizer: CosineQuantizer, vectors: torch.Tensor, generator: torch.Generator
    ) -> None:
        """Fill the codebook with directions (n, D) drawn from the first batches."""
        directions = F.normalize(vectors.float(), dim=-1)
        size = quantizer.codebook.shape[0]
        if len(directions) >= size:
            picks = torch.randperm(len(directions), generator=generator)[:size]
        else:
            picks = torch.randint(len(directions), (size,), generator=generator)
        chosen = directions[picks.to(directions.device)]
        jitter = 1e-3 * torch.randn(chosen.shape, generator=generator).to(chosen)
        quantizer.codebook.copy_(F.normalize(chosen + jitter, dim=-1))
        self.total.copy_(quantizer.codebook)
        self.count.fill_(1.0)

    @torch.no_grad()
    def update(
        self,
        quantizer: CosineQuantizer,
        vectors: torch.Tensor,
        codes: torch.Tensor,
        generator: torch.Generator,
        revive: bool = True,
    ) -> None:
        """One step from vectors (n, D) and the codes (n,) that they were given."""
        directions = F.normalize(vectors.float(), dim=-1)
        size = quantizer.codebook.shape[0]
        count = torch.zeros_like(self.count).index_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))
        total = torch.zeros_like(self.total).index_add_(0, codes, directions)
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        quantizer.codebook.copy_(F.normalize(self.total, dim=-1))
        if not revive:
            return
        even = len(directions) / size
        replacement = directions[
            torch.randint(len(directions), (size,), generator=generator).to(directions.device)
        ]
        dead = self.count < self.dead_share * even
        quantizer.codebook.copy_(torch.where(dead[:, None], replacement, quantizer.codebook))
        # A revived code starts alive, else the next step would replace it again.
        alive = min(1.0, 2 * self.dead_share) * even
        self.total.copy_(torch.where(dead[:, None], alive * replacement, self.total))
        self.count.copy_(torch.where(dead, torch.full_like(self.count, alive), self.count))
