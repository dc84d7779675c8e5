"""How the reference implementation samples, as settings of a model of ours.

Knows nothing of shapes or weights. Source: github.com/zhangguiwei610/V2Flow, its defaults and the numbers in its code.
"""

from __future__ import annotations

from dataclasses import dataclass

from v2flow_engine.config import FlowConfig
from v2flow_engine.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ReferenceSampling:
    """The reference's options of sampling, under its own names, and what it has as numbers.

    num_iter: rounds. cfg, cfg_schedule: CondOT's guidance and how it goes over the rounds. linear_flow has a guidance
    of its own whatever `cfg` says, `inner_cfg_scale`, and a solver of `flow_steps` steps with time shift `flow_shift`;
    these three are no options there. CondOT's solver chooses its steps itself.
    """

    flow_method: str
    cfg: float
    num_iter: int
    cfg_schedule: str = "linear"
    inner_cfg_scale: float | None = 4.5
    flow_steps: int = 20
    flow_shift: float = 3.0

    def __post_init__(self) -> None:
        if self.flow_method == "linear_flow" and self.inner_cfg_scale is None:
            raise DataError("linear_flow needs inner_cfg_scale, got null")

    @property
    def guidance_scale(self) -> float:
        """What the decoder's guidance is."""
        return self.inner_cfg_scale if self.flow_method == "linear_flow" else self.cfg

    def flow(self) -> FlowConfig:
        """The model's flow: linear_flow guides against the raw null vector. Raises `ModelFolderError`."""
        if self.flow_method == "CondOT":
            return FlowConfig("CondOT", solver="dopri5", guidance_schedule=self.cfg_schedule)
        return FlowConfig(self.flow_method, unconditional="null_condition", shift=self.flow_shift)
