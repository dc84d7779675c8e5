"""How the engine runs: budget, attention, compilation. None of it changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass

from v2flow_engine.errors import RequestError

ATTENTION = ("auto", "grouped", "padded", "varlen", "xformers")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Raises `RequestError` for a value out of range.

    max_tokens: the budget of a round, in rows of the masked transformer's decoder: S + N for an image, twice that
        while it is guided by a second pass. None: 3,072 on a processor, 16,384 elsewhere, or one guided image of the
        full grid if that is more.
    attention: how images of different lengths share a call, see `engine.attention`; "auto" picks by device and dtype.
    pixel_batch: images of one size that the autoencoder decodes at once.
    tile: pictures with a longer side, in pixels, are decoded in tiles of this one; None: all of them whole.
    compile: torch.compile of the row-wise parts (all but attention). Not yet run on CUDA.
    cuda_graphs: record the row-wise parts as CUDA graphs, in buckets of rows. CUDA only, not yet run.
    """

    max_tokens: int | None = None
    attention: str = "auto"
    pixel_batch: int = 16
    tile: int | None = 1024
    compile: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise RequestError(f"attention must be one of {', '.join(ATTENTION)}, got {self.attention!r}")
        for name in ("max_tokens", "pixel_batch", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, got {value}")
