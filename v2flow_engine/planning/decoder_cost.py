"""A visual tokenizer's config, rounds, steps and guidance -> the work of decoding one image, by part.

Counts what the decoder engine computes (docs/decoder.md says what it leaves out), and for a model without a flow what
the plain decoder does. What it computes once for many images is left out. Knows nothing of weights or of hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from v2flow_engine.config import Grid, VisualTokenizerConfig
from v2flow_engine.errors import RequestError
from v2flow_engine.planning.autoencoder_cost import (
    autoencoder_parameters,
    autoencoder_work,
    downscale,
    widest_map,
)
from v2flow_engine.planning.work import Work, attention, linear

FREQUENCIES = 256  # sinusoids of a time, as in `models.velocity`
EVALUATIONS = {"euler": 1, "dpm_solver_pp_2m": 1, "heun": 2}  # of the field in a solver's step
MLP_RATIO = 4


@dataclass(frozen=True)
class DecoderShape:
    """A decoder as it is asked for.

    autoencoder: its config. grid: (rows, columns) of visual tokens. guidance: of the decoder; 1 is none.
    """

    tokenizer: VisualTokenizerConfig
    autoencoder: dict[str, Any]
    grid: Grid
    rounds: int
    flow_steps: int
    guidance: float
    solver: str

    def __post_init__(self) -> None:
        if self.solver not in EVALUATIONS and self.tokenizer.flow.method != "regression":
            raise RequestError(
                f"the work of solver {self.solver!r} can't be counted, it chooses its own steps; give --solver, one of "
                f"{', '.join(sorted(EVALUATIONS))}"
            )
        if not 1 <= self.rounds <= self.num_positions:
            raise RequestError(f"rounds must be between 1 and {self.num_positions}, got {self.rounds}")
        if self.flow_steps < 1:
            raise RequestError(f"flow steps must be at least 1, got {self.flow_steps}")

    @property
    def num_visual_tokens(self) -> int:
        """S."""
        return math.prod(self.grid)

    @property
    def num_positions(self) -> int:
        """N."""
        return math.prod(self.tokenizer.positions_of(self.grid))

    @property
    def latent_grid(self) -> Grid:
        """(h, w)."""
        return self.grid[0] * self.tokenizer.downsample, self.grid[1] * self.tokenizer.downsample

    @property
    def num_pixels(self) -> int:
        """Of the picture."""
        return math.prod(self.latent_grid) * downscale(self.autoencoder) ** 2

    def largest_activation(self) -> float:
        """Numbers that one image needs at once, roughly: four of the autoencoder's widest maps, by far the largest."""
        return 4.0 * widest_map(self.autoencoder, self.latent_grid)

    def work(self) -> dict[str, Work]:
        """The work of one image: masked transformer, velocity net, autoencoder."""
        transformer, velocity = self._flow() if self._has_flow else self._regression()
        return {
            "masked transformer": _projector(self.tokenizer, self.num_visual_tokens) + transformer,
            "velocity net": velocity,
            "autoencoder": autoencoder_work(self.autoencoder, self.latent_grid),
        }

    @property
    def _has_flow(self) -> bool:
        return self.tokenizer.flow.method != "regression"

    def _flow(self) -> tuple[Work, Work]:
        """Masked transformer and velocity net over all rounds."""
        config, tokens, positions = self.tokenizer, self.num_visual_tokens, self.num_positions
        transformer, velocity = Work(), Work()
        evaluations = EVALUATIONS[self.solver] * self.flow_steps
        guided = self.guidance != 1.0
        twice = guided and config.flow.unconditional == "transformer"
        for known, chosen in self._rounds():
            # While nothing is known, the unconditional half is the same for all images.
            passes = 2 if twice and known else 1
            transformer += _pass(config, tokens, positions, known, chosen) * passes
            transformer += linear(chosen, config.token_channels, config.width)  # what is known from now on
            velocity += linear(chosen, config.width, config.velocity_width) * (2 if twice else 1)
            velocity += _evaluation(config, chosen, guided, twice) * evaluations
        return transformer, velocity

    def _regression(self) -> tuple[Work, Work]:
        """One round, of all positions."""
        config, tokens, positions = self.tokenizer, self.num_visual_tokens, self.num_positions
        passes = 2 if self.guidance != 1.0 and config.flow.unconditional == "transformer" else 1
        blocks = _block(config.width, tokens, tokens) * config.encoder_depth
        blocks += _block(config.width, tokens + positions, tokens + positions) * config.decoder_depth
        transformer = (blocks + linear(tokens, config.width, config.width)) * passes
        head = linear(positions, config.width, config.token_channels)
        return transformer, head * (2 if self.guidance != 1.0 else 1)

    def _rounds(self) -> Iterator[tuple[int, int]]:
        """(positions known before a round, positions drawn in it)."""
        from v2flow_engine.decoding.schedule import mask_lengths  # loads torch

        before = self.num_positions
        for after in mask_lengths(self.num_positions, self.rounds):
            yield self.num_positions - before, before - after
            before = after

    def parameters(self) -> float:
        """Numbers in the weights that decoding reads, biases and norms aside."""
        config = self.tokenizer
        blocks = (config.encoder_depth + config.decoder_depth) * _block(config.width, 1, 1).weights
        inner = linear(1, config.token_channels, config.width) + linear(1, config.width, config.width)
        return (
            blocks
            + inner.weights
            + _velocity_parameters(config)
            + _projector(config, 1).weights
            + config.codebook_size * config.code_dim
            + autoencoder_parameters(self.autoencoder)
        )


def _projector(config: VisualTokenizerConfig, rows: int) -> Work:
    first = linear(rows, config.code_dim, config.width)
    return first + linear(rows, config.width, config.width) * (config.projector_depth - 1)


def _pass(config: VisualTokenizerConfig, tokens: int, positions: int, known: int, chosen: int) -> Work:
    """One pass of the masked transformer: the encoder sees what is known, the decoder all positions.

    The last block computes keys and values of all rows, all else for the chosen ones alone.
    """
    width, rows = config.width, tokens + positions
    work = (
        _block(width, tokens + known, tokens + known) * config.encoder_depth
        + linear(tokens + known, width, width)
        + _block(width, rows, rows) * max(0, config.decoder_depth - 1)
    )
    if not config.decoder_depth:
        return work
    last = linear(rows, width, 2 * width) + linear(chosen, width, width) + attention(chosen, rows, width)
    return work + last + _behind_attention(width, chosen)


def _block(width: int, queries: int, keys: int) -> Work:
    return (
        linear(queries, width, 3 * width)
        + attention(queries, keys, width)
        + _behind_attention(width, queries)
    )


def _behind_attention(width: int, rows: int) -> Work:
    return (
        linear(rows, width, width)
        + linear(rows, width, MLP_RATIO * width)
        + linear(rows, MLP_RATIO * width, width)
    )


def _evaluation(config: VisualTokenizerConfig, rows: int, guided: bool, twice: bool) -> Work:
    """One evaluation of the velocity net for `rows` positions.

    Both halves of guidance share what x_t gives. Under a null vector its modulations are computed once.
    """
    width, channels = config.velocity_width, config.token_channels
    both = 2 * rows if guided else rows
    modulated = 2 * rows if twice else rows
    return (
        linear(rows, channels, width)
        + linear(modulated, width, (3 * config.velocity_depth + 2) * width)
        + linear(both, width, width) * (2 * config.velocity_depth)
        + linear(both, width, channels)
    )


def _velocity_parameters(config: VisualTokenizerConfig) -> float:
    width = config.velocity_width
    if config.flow.method == "regression":
        return linear(1, config.width, config.token_channels).weights
    once = linear(1, FREQUENCIES, width) + linear(1, width, width) + linear(1, config.width, width)
    return once.weights + _evaluation(config, 1, False, False).weights
