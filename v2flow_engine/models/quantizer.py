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


class Assignments:
    """What the vectors of one batch say of a codebook: sums, so that parts of a batch can be counted one by one.

    count (K,): vectors given to each code. total (K, D): the sum of their directions. picked (K, D): for each code the
    direction of a vector drawn at random from the whole batch.

    Args:
        quantizer: whose codes are counted.
        num_vectors: of the whole batch.
        generator: a CPU generator for the draw; processes that share a batch must bring equal ones.
    """

    def __init__(self, quantizer: CosineQuantizer, num_vectors: int, generator: torch.Generator) -> None:
        size, device = len(quantizer.codebook), quantizer.codebook.device
        self.num_vectors = num_vectors
        self.count = torch.zeros(size, device=device)
        self.total = torch.zeros_like(quantizer.codebook)
        self.picked = torch.zeros_like(quantizer.codebook)
        if num_vectors >= size:
            picks = torch.randperm(num_vectors, generator=generator)[:size]
        else:
            picks = torch.randint(num_vectors, (size,), generator=generator)
        self._picks = picks.to(device)

    @torch.no_grad()
    def add(self, vectors: torch.Tensor, codes: torch.Tensor, first: int = 0) -> None:
        """Count vectors (n, D) and the codes (n,) they were given; `first` is the first one's place in the batch."""
        directions = F.normalize(vectors.float(), dim=-1)
        self.count.index_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))
        self.total.index_add_(0, codes, directions)
        places = self._picks - first
        here = ((places >= 0) & (places < len(directions)))[:, None]
        self.picked += directions[places.clamp(0, len(directions) - 1)] * here

    def tensors(self) -> list[torch.Tensor]:
        """Count, total and picked: what the sum over all parts makes that of the batch."""
        return [self.count, self.total, self.picked]


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
        self, quantizer: CosineQuantizer, assignments: Assignments, generator: torch.Generator
    ) -> None:
        """Fill the codebook with what was picked from the first batch; the codes of that batch do not matter."""
        jitter = 1e-3 * torch.randn(assignments.picked.shape, generator=generator).to(assignments.picked)
        quantizer.codebook.copy_(F.normalize(assignments.picked + jitter, dim=-1))
        self.total.copy_(quantizer.codebook)
        self.count.fill_(1.0)

    @torch.no_grad()
    def update(self, quantizer: CosineQuantizer, assignments: Assignments, revive: bool = True) -> None:
        """One step from a whole batch's assignments."""
        self.count.lerp_(assignments.count, 1 - self.decay)
        self.total.lerp_(assignments.total, 1 - self.decay)
        quantizer.codebook.copy_(F.normalize(self.total, dim=-1))
        if not revive:
            return
        even = assignments.num_vectors / len(quantizer.codebook)
        replacement = assignments.picked
        dead = self.count < self.dead_share * even
        quantizer.codebook.copy_(torch.where(dead[:, None], replacement, quantizer.codebook))
        # A revived code starts alive, else the next step would replace it again.
        alive = min(1.0, 2 * self.dead_share) * even
        self.total.copy_(torch.where(dead[:, None], alive * replacement, self.total))
        self.count.copy_(torch.where(dead, torch.full_like(self.count, alive), self.count))
