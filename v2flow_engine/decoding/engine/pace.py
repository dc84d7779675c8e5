"""How far the host may run ahead of the device. Knows nothing of what runs there."""

from __future__ import annotations

from collections import deque

import torch

ROUNDS_AHEAD = 2


class Pace:
    """On CUDA a round is queued long before it has run: without a limit, a newcomer would wait behind all of them.

    With two queued the device has work while the host prepares the next one. Not yet run.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._queued: deque[torch.cuda.Event] = deque()

    def keep(self) -> None:
        """Call after a round has been queued."""
        if not self._cuda:
            return
        self._queued.append(torch.cuda.Event())
        self._queued[-1].record()
        if len(self._queued) > ROUNDS_AHEAD:
            self._queued.popleft().synchronize()
