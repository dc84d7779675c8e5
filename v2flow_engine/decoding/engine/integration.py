"""The flow of one round's positions, over all images: noise -> data, with shared evaluations of the velocity net.

Rows of images with more evaluations stand first, so those still under way are always the first rows: an image whose
steps are done leaves by a shorter slice. Nothing is read back from the device. Knows nothing of rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from v2flow_engine.decoding.engine.upload import upload
from v2flow_engine.decoding.engine.velocity import FusedVelocity
from v2flow_engine.flow.dopri5 import dopri5
from v2flow_engine.flow.linear_updates import LinearUpdates


@dataclass(frozen=True)
class FlowPart:
    """One image's positions of this round.

    noise: (M, C p^2), float32. features: (M, D). updates: the solver's; None is dopri5.
    scale: of the guidance; None for a field without guidance.
    unconditional: features (M, D) of the guidance's other half; None if that is the null vector in all rows.
    """

    noise: torch.Tensor
    features: torch.Tensor
    updates: LinearUpdates | None
    scale: float | None = None
    unconditional: torch.Tensor | None = None

    @property
    def evaluations(self) -> int:
        """Of the field, for a solver that knows them beforehand."""
        return len(self.updates) if self.updates else 0


def integrate(net: FusedVelocity, parts: Sequence[FlowPart], null: torch.Tensor) -> list[torch.Tensor]:
    """Each part's data (M, C p^2), float32, in the order given; null is the null vector (1, D)."""
    results: list[torch.Tensor] = [part.noise for part in parts]
    shared = [i for i, part in enumerate(parts) if part.updates is not None]
    shared.sort(key=lambda i: -parts[i].evaluations)
    if shared:
        data = _Shared(net, [parts[i] for i in shared], null).run()
        for i, rows in zip(shared, data.split([len(parts[i].noise) for i in shared]), strict=True):
            results[i] = rows
    for i, part in enumerate(parts):
        if part.updates is None:  # its times follow from its own rows' errors: no evaluations to share
            results[i] = _adaptive(net, part, null)
    return results


class _Guided:
    """The guided field of some parts' rows; the first n rows can be asked for alone.

    Both halves share the projection of x_t. If the other half is the null vector in all rows, and all rows have the
    same time, its modulation is one row.
    """

    def __init__(self, net: FusedVelocity, parts: Sequence[FlowPart], null: torch.Tensor) -> None:
        self.net = net
        self.conditional = net.embed_features(torch.cat([part.features for part in parts]))
        self.ends = [0, *accumulate(len(p.noise) for p in parts)]
        self.guided_ends = [0, *accumulate(len(p.noise) * (p.scale is not None) for p in parts)]
        self._modulation: tuple[torch.Tensor, torch.Tensor | None] | None = None
        guided = [i for i, part in enumerate(parts) if part.scale is not None]
        if not guided:
            return
        rows = [torch.arange(self.ends[i], self.ends[i + 1]) for i in guided]
        scales = [torch.full((len(own), 1), parts[i].scale) for i, own in zip(guided, rows, strict=True)]
        self.rows, self.scales = upload(torch.cat(rows), net.device), upload(torch.cat(scales), net.device)
        features = [parts[i].unconditional for i in guided]
        self.single = all(each is None for each in features)
        self.unconditional = net.embed_features(null if self.single else torch.cat(features))

    def velocity(
        self, x_t: torch.Tensor, time: torch.Tensor, active: int, same_time: bool = False
    ) -> torch.Tensor:
        """x_t (n, C p^2) of the first `active` parts; time (1, W) or (n, W) -> velocity (n, C p^2), float32.

        same_time: time and parts are those of the call before, and so are the modulations.
        """
        hidden = self.net.hidden(x_t)
        count = self.guided_ends[active]
        if not same_time or self._modulation is None:
            self._modulation = self._modulate(time, len(x_t), count)
        conditional, unconditional = self._modulation
        if not count:
            return self.net.blocks(hidden, conditional)
        everything = count == len(x_t)
        rows = self.rows[:count]
        own = hidden if everything else hidden[rows]
        if unconditional is None:  # both halves in one call
            velocity = self.net.blocks(torch.cat([hidden, own]), conditional)
            velocity, without = velocity[: len(x_t)], velocity[len(x_t) :]
        else:
            velocity, without = self.net.blocks(hidden, conditional), self.net.blocks(own, unconditional)
        if everything:
            return torch.lerp(without, velocity, self.scales[:count])
        return velocity.index_copy(0, rows, torch.lerp(without, velocity[rows], self.scales[:count]))

    def _modulate(
        self, time: torch.Tensor, rows: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The conditional half's modulations and the unconditional one's; None if both are in the first."""
        embedding = self.conditional[:rows] + time
        if not count:
            return self.net.modulate(embedding), None
        if len(time) > 1 and count < rows:
            time = time[self.rows[:count]]
        if self.single and len(time) == 1:
            return self.net.modulate(embedding), self.net.modulate(self.unconditional + time).expand(
                count, -1
            )
        unconditional = self.unconditional if self.single else self.unconditional[:count]
        return self.net.modulate(torch.cat([embedding, unconditional + time])), None


class _Shared:
    """Parts that know their times, those with more evaluations first."""

    def __init__(self, net: FusedVelocity, parts: Sequence[FlowPart], null: torch.Tensor) -> None:
        self.net, self.parts = net, parts
        self.field = _Guided(net, parts, null)
        self.kinds = list(dict.fromkeys(part.updates for part in parts))
        if len(self.kinds) == 1:
            return
        longest = self.kinds[0].times  # of the first part, which has the most evaluations
        of_part = torch.tensor([self.kinds.index(part.updates) for part in parts])
        counts = torch.tensor([len(part.noise) for part in parts])
        self.kind_of_row = upload(of_part.repeat_interleave(counts), net.device)
        table = torch.zeros(len(longest), len(self.kinds), 6)
        for i, kind in enumerate(self.kinds):
            table[: len(kind), i] = torch.tensor(kind.coefficients)
        self.coefficients = upload(table, net.device)

    def run(self) -> torch.Tensor:
        """All parts' data, (M, C p^2)."""
        x_t = torch.cat([part.noise for part in self.parts])
        memory = torch.zeros_like(x_t)
        before: list[float] | None = None
        for k in range(self.parts[0].evaluations):
            active = sum(part.evaluations > k for part in self.parts)
            rows = self.field.ends[active]
            kinds = list(dict.fromkeys(part.updates for part in self.parts[:active]))
            times = [part.updates.times[k] for part in self.parts[:active]]
            velocity = self.field.velocity(
                x_t[:rows], self._time(kinds, k, rows), active, same_time=times == before
            )
            x_t[:rows], memory[:rows] = self._update(kinds, k, x_t[:rows], memory[:rows], velocity)
            before = times
        return x_t

    def _time(self, kinds: Sequence[LinearUpdates], k: int, rows: int) -> torch.Tensor:
        """The embedding of evaluation k's time: (1, W) if there is one kind, else (rows, W)."""
        tables = [self.net.embed_times(kind.times) for kind in kinds]
        if len(kinds) == 1:
            return tables[0][k : k + 1]
        # kinds appear in the order of the parts, so those still active have the first numbers
        return torch.stack([table[k] for table in tables])[self.kind_of_row[:rows]]

    def _update(
        self,
        kinds: Sequence[LinearUpdates],
        k: int,
        x_t: torch.Tensor,
        memory: torch.Tensor,
        velocity: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_t and memory after evaluation k."""
        if len(kinds) == 1:
            a, b, c, d, e, f = kinds[0].coefficients[k]
        else:
            a, b, c, d, e, f = self.coefficients[k][self.kind_of_row[: len(x_t)]][:, None].unbind(-1)
        return a * x_t + b * memory + c * velocity, d * x_t + e * memory + f * velocity


def _adaptive(net: FusedVelocity, part: FlowPart, null: torch.Tensor) -> torch.Tensor:
    """dopri5 on one image's rows; its error control waits for the device at every step."""
    guided = _Guided(net, [part], null)

    def field(x_t: torch.Tensor, t: float) -> torch.Tensor:
        return guided.velocity(x_t, net.embed_time(torch.tensor([t])), 1)

    return dopri5(field, part.noise, steps=0)
