"""Pictures -> features for FID: a small convolutional network trained on the same data (`v2flow train features`).

Inception's features, which FID is usually taken with, know photographs, not drawings. Figures of this network compare
only with figures of the same weights; its digest says which these are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from v2flow_engine.errors import DataError

FEATURES = 128
WEIGHTS = "features.safetensors"
CONFIG = "features.json"


class FeatureNet(nn.Module):
    """Five convolutions of stride 2, averaged over the picture; one linear head for each attribute that it is taught.

    Args:
        classes: attribute -> number of its values.
    """

    def __init__(self, classes: dict[str, int]) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 128, FEATURES)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.GELU())
                for a, b in pairwise(widths)
            )
        )
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, count) for name, count in classes.items()})
        self.num_features = FEATURES  # torchmetrics' name

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> (B, 128)."""
        return self.stages(pixels).mean(dim=(2, 3))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures (B, 3, H, W) uint8, as torchmetrics gives them -> (B, 128)."""
        return self.features(pictures.float() / 127.5 - 1)


def save_features(net: FeatureNet, folder: Path) -> None:
    """features.safetensors and features.json."""
    classes = {name: head.out_features for name, head in net.heads.items()}
    (folder / CONFIG).write_text(json.dumps({"classes": classes}, indent=2) + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, str(folder / WEIGHTS))


def load_features(folder: Path) -> tuple[FeatureNet, str]:
    """A folder of `v2flow train features` -> the network in eval mode, and 16 hex digits of its weights' sha256.

    Raises `DataError` if it is none.
    """
    try:
        classes = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["classes"]
        net = FeatureNet(classes)
        net.load_state_dict(load_file(str(folder / WEIGHTS)))
        digest = sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
    except Exception as error:
        raise DataError(f"{folder}: not a folder of `v2flow train features` ({error})") from error
    return net.eval(), digest


@torch.inference_mode()
def fid(net: FeatureNet, pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> float:
    """Frechet distance of the features of two sets of pictures, (H, W, 3) uint8 each (arXiv 1706.08500).

    Raises `DataError` for fewer pictures than the network has features: their covariance would have no full rank.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    for each in (pictures, originals):
        if len(each) <= FEATURES:
            raise DataError(f"FID needs more than {FEATURES} pictures, got {len(each)}")
    height, width = originals[0].shape[:2]
    metric = FrechetInceptionDistance(feature=net, input_img_size=(3, height, width))
    for each, real in ((originals, True), (pictures, False)):
        for start in range(0, len(each), 64):
            batch = torch.from_numpy(np.stack(each[start : start + 64])).permute(0, 3, 1, 2)
            metric.update(batch, real=real)
    return float(metric.compute())
