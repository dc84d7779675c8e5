"""Trains the feature network of FID: pictures -> what their records say of them (emoji, style, background, count).

Knows nothing of tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.features import FeatureNet, save_features
from v2flow_engine.training.batches import BatchPart, spread
from v2flow_engine.training.loop import LoopConfig, Stage
from v2flow_engine.training.pictures import Pictures

ATTRIBUTES = ("label", "style", "background", "count")


@dataclass(frozen=True)
class FeatureTraining:
    """noise: standard deviation of the noise on the pixels, which are in [-1, 1]."""

    loop: LoopConfig
    noise: float = 0.05


class FeatureStage(Stage):
    """Classification of pictures in memory, in one set for each size.

    Raises `DataError` if their records lack an attribute.
    """

    def __init__(
        self,
        config: FeatureTraining,
        train: Sequence[Pictures],
        heldout: Sequence[Pictures],
        device: torch.device,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.train, self.heldout, self.device = config, train, heldout, device
        values = {name: _values(train, name) for name in ATTRIBUTES}
        self.targets = [_targets(pictures, values).to(device) for pictures in train]
        self.heldout_targets = [_targets(pictures, values).to(device) for pictures in heldout]
        self.net = FeatureNet({name: len(known) for name, known in values.items()}).to(device)

    @property
    def counts(self) -> list[int]:
        """Pictures of each size."""
        return [len(pictures) for pictures in self.train]

    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """Sum of the attributes' cross-entropies, in nats."""
        pixels = self.train[part.chosen].batch(part.indices, self.device)
        pixels = pixels + self.config.noise * part.draws(self.device).randn(*pixels.shape[1:])
        features = self.net.features(pixels)
        targets = self.targets[part.chosen][part.indices.to(self.device)]
        losses = {
            name: F.cross_entropy(head(features).float(), targets[:, i])
            for i, (name, head) in enumerate(self.net.heads.items())
        }
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Accuracy of each attribute on up to 512 held-out pictures of each size; unknown values count as wrong."""
        right = []
        for pictures, targets in zip(self.heldout, self.heldout_targets, strict=True):
            for indices in spread(pictures, 512).split(64):
                features = ema.features(pictures.batch(indices, self.device))
                said = torch.stack([head(features).argmax(dim=1) for head in ema.heads.values()], dim=1)
                right.append(said == targets[indices.to(self.device)])
        shares = torch.cat(right).float().mean(dim=0).tolist()
        return {f"heldout_{name}": share for name, share in zip(ATTRIBUTES, shares, strict=True)}

    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Nothing: this network draws no pictures."""

    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/features.safetensors and RUN/features.json."""
        save_features(ema, run_dir)


def _values(train: Sequence[Pictures], name: str) -> dict[str, int]:
    try:
        found = sorted({str(record[name]) for pictures in train for record in pictures.records})
    except KeyError as error:
        raise DataError(
            f"the pictures' records have no {name!r}, which the feature network learns"
        ) from error
    return {value: index for index, value in enumerate(found)}


def _targets(pictures: Pictures, values: dict[str, dict[str, int]]) -> torch.Tensor:
    """(n, 4) int64, -1 for a value that training does not have."""
    rows = [
        [known.get(str(record.get(name)), -1) for name, known in values.items()]
        for record in pictures.records
    ]
    return torch.tensor(rows)
