"""Functions of rows, (R, ...) tensors -> (R, ...), each row for itself: compiled, or as CUDA graphs.

Everything in the decoder but attention is such a function. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.errors import RequestError

RowFunction = Callable[..., torch.Tensor]
SMALLEST_BUCKET = 64  # rows


def wrap_row_function(function: RowFunction, settings: EngineSettings, device: torch.device) -> RowFunction:
    """The same function, run as the settings say. Raises `RequestError` for CUDA graphs without CUDA."""
    if settings.compile:
        function = torch.compile(function, dynamic=True)
    if settings.cuda_graphs:
        if device.type != "cuda":
            raise RequestError(f"cuda_graphs needs a CUDA device, got {device}")
        return GraphedRows(function)
    return function


def bucket_of(rows: int) -> int:
    """The rows that a graph is recorded for: the next power of two, or halfway to it."""
    power = max(SMALLEST_BUCKET, 1 << (rows - 1).bit_length())
    return power * 3 // 4 if rows <= power * 3 // 4 and power > SMALLEST_BUCKET else power


class GraphedRows:
    """A row function as CUDA graphs, one for each bucket, recorded on first use. Not yet run.

    Rows behind those that were given hold what an earlier call left there; each row is computed for itself, so they
    touch nothing. The result is a copy, since the next replay overwrites the graph's output.
    """

    def __init__(self, function: RowFunction) -> None:
        self.function = function
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Copy into the bucket's inputs and replay."""
        rows = len(tensors[0])
        bucket = bucket_of(rows)
        if bucket not in self._graphs:
            self._graphs[bucket] = self._record(bucket, tensors)
        graph, inputs, output = self._graphs[bucket]
        for kept, given in zip(inputs, tensors, strict=True):
            kept[:rows].copy_(given)
        graph.replay()
        return output[:rows].clone()

    def _record(
        self, bucket: int, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        inputs = [t.new_zeros(bucket, *t.shape[1:]) for t in tensors]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries make their handles and workspaces before the recording
            for _ in range(2):
                self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.function(*inputs)
        return graph, inputs, output
