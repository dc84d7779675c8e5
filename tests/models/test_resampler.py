"""The local resampler: a token's logits depend on its own neighbourhood alone; the reference's depend on all."""

import pytest
import torch

from v2flow_engine.models.resampler import Resampler


@pytest.mark.parametrize(("local", "reach"), [(True, 1), (False, 8)])
def test_what_a_token_sees(local: bool, reach: int) -> None:
    torch.manual_seed(0)
    resampler = Resampler(
        4, 16, 24, depth=2, mlp_depth=1, downsample=2, readout_norm=True, local=local
    ).eval()
    latents = torch.randn(1, 4, 16, 16)
    changed = latents.clone()
    changed[:, :, 0, 0] += 1.0
    with torch.inference_mode():
        moved = (resampler(latents) - resampler(changed)).abs().amax(-1).view(8, 8) > 0
    rows, columns = moved.nonzero(as_tuple=True)
    assert moved[0, 0]
    assert int(torch.maximum(rows, columns).max()) == min(reach, 7)
