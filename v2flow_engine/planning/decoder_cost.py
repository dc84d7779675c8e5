"""A visual tokenizer's config, rounds, steps and guidance -> the work of decoding one image, by part.

Counts what `decoding.decoder.Decoder`, the plain sampler, computes, and so what `v2flow generate` does. Knows nothing
of weights or of hardware.
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
        config = self.tokenizer
        transformer = _projector(config, self.num_visual_tokens)
        velocity = Work()
        guided = self.guidance != 1.0
        both = 2 if guided and config.flow.unconditional == "transformer" else 1
        for known, chosen in self._rounds():
            transformer += _pass(config, self.num_visual_tokens, self.num_positions, known) * both
            velocity += _velocity(config, chosen) * (self._evaluations() * (2 if guided else 1))
        return {
            "masked transformer": transformer,
            "velocity net": velocity,
            "autoencoder": autoencoder_work(self.autoencoder, self.latent_grid),
        }

    def _evaluations(self) -> int:
        """Of the field in a round."""
        if self.tokenizer.flow.method == "regression":
            return 1
        return EVALUATIONS[self.solver] * self.flow_steps

    def _rounds(self) -> Iterator[tuple[int, int]]:
        """(positions known before a round, positions drawn in it)."""
        from v2flow_engine.decoding.schedule import mask_lengths  # loads torch

        rounds = 1 if self.tokenizer.flow.method == "regression" else self.rounds
        before = self.num_positions
        for after in mask_lengths(self.num_positions, rounds):
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
            + _velocity(config, 1).weights
            + _projector(config, 1).weights
            + config.codebook_size * config.code_dim
            + autoencoder_parameters(self.autoencoder)
        )


def _projector(config: VisualTokenizerConfig, rows: int) -> Work:
    first = linear(rows, config.code_dim, config.width)
    return first + linear(rows, config.width, config.width) * (config.projector_depth - 1)


def _pass(config: VisualTokenizerConfig, tokens: int, positions: int, known: int) -> Work:
    """One pass of the masked transformer: the encoder sees what is known, the decoder all positions."""
    width = config.width
    return (
        linear(known, config.token_channels, width)
        + _block(width, tokens + known, tokens + known) * config.encoder_depth
        + linear(tokens + known, width, width)
        + _block(width, tokens + positions, tokens + positions) * config.decoder_depth
    )


def _block(width: int, queries: int, keys: int) -> Work:
    return (
        linear(queries, width, 3 * width)
        + attention(queries, keys, width)
        + linear(queries, width, width)
        + linear(queries, width, MLP_RATIO * width)
        + linear(queries, MLP_RATIO * width, width)
    )


def _velocity(config: VisualTokenizerConfig, rows: int) -> Work:
    """One evaluation for `rows` positions."""
    width, channels = config.velocity_width, config.token_channels
    if config.flow.method == "regression":
        return linear(rows, config.width, channels)
    block = linear(rows, width, 3 * width) + linear(rows, width, width) * 2
    return (
        linear(rows, FREQUENCIES, width)
        + linear(rows, width, width)
        + linear(rows, config.width, width)
        + linear(rows, channels, width)
        + block * config.velocity_depth
        + linear(rows, width, 2 * width)
        + linear(rows, width, channels)
    )
