"""The velocity net for a solver's inner loop: what depends on time alone or on features alone is taken out of it.

    once a round:       features -> rows (M, W); times -> rows (evaluations, W)
    each evaluation:    their sum -> all blocks' shifts, scales and gates in one product -> the blocks

Equal to `models.velocity.VelocityNet`, with the path's sign. Knows nothing of solvers or guidance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F

from v2flow_engine.config import FlowConfig
from v2flow_engine.decoding.engine.row_functions import RowFunction
from v2flow_engine.decoding.engine.upload import upload
from v2flow_engine.flow.path import net_time, to_velocity
from v2flow_engine.models.transformer import NORM_EPS
from v2flow_engine.models.velocity import VelocityNet

KEPT_TIMES = 64  # sequences of times whose embeddings are kept


class FusedVelocity:
    """A velocity net's weights, its modulations fused.

    Args:
        net: in eval mode; its weights are shared, but for a fused copy of the modulations.
        wrap: how row functions are run.
    """

    def __init__(
        self, net: VelocityNet, flow: FlowConfig, wrap: Callable[[RowFunction], RowFunction]
    ) -> None:
        self.net, self.flow = net, flow
        self.width = net.input_proj.out_features
        self.dtype, self.device = net.input_proj.weight.dtype, net.input_proj.weight.device
        layers = [
            *(block.adaLN_modulation[1] for block in net.res_blocks),
            net.final_layer.adaLN_modulation[1],
        ]
        self._weight = torch.cat([layer.weight for layer in layers])
        self._bias = torch.cat([layer.bias for layer in layers])
        self._times: OrderedDict[tuple[float, ...], torch.Tensor] = OrderedDict()
        self.modulate = wrap(self._modulate)
        self.blocks = wrap(self._blocks)

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """t (T,) float32 on the host, in [0, 1] -> (T, W)."""
        return self.net.time_embed(net_time(self.flow, upload(t, self.device)))

    def embed_times(self, times: tuple[float, ...]) -> torch.Tensor:
        """The same of a solver's evaluations, (evaluations, W), kept for the next time."""
        if times not in self._times:
            self._times[times] = self.embed_time(torch.tensor(times, dtype=torch.float32))
            if len(self._times) > KEPT_TIMES:
                self._times.popitem(last=False)
        self._times.move_to_end(times)
        return self._times[times]

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """features (M, D) -> (M, W)."""
        return self.net.cond_embed(features)

    def hidden(self, x_t: torch.Tensor) -> torch.Tensor:
        """x_t (M, C p^2) -> what enters the first block, (M, W)."""
        return self.net.input_proj(x_t.to(self.dtype))

    def _modulate(self, embedding: torch.Tensor) -> torch.Tensor:
        """Time and features, summed, (M, W) -> all shifts, scales and gates (M, (3 depth + 2) W)."""
        return F.linear(F.silu(embedding), self._weight, self._bias)

    def _blocks(self, hidden: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """hidden (M, W), modulation (M, (3 depth + 2) W) -> velocity (M, C p^2), float32."""
        parts = modulation.split(self.width, dim=-1)
        for i, block in enumerate(self.net.res_blocks):
            shift, scale, gate = parts[3 * i : 3 * i + 3]
            inner = torch.addcmul(shift, block.in_ln(hidden), 1 + scale)
            hidden = torch.addcmul(hidden, gate, block.mlp(inner))
        shift, scale = parts[-2:]
        hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPS)
        output = self.net.final_layer.linear(torch.addcmul(shift, hidden, 1 + scale))
        return to_velocity(self.flow, output.float())
