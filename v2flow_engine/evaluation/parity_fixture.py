"""A golden fixture on the disk -> its shape, its tensors, and the model that it describes.

    NAME.json   NAME.weights.safetensors (or NAME.weights-1.safetensors, -2, ...)   NAME.tensors.safetensors

What another implementation computed, with weights under the reference's keys. Does not know what is compared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from v2flow_engine.checkpoint import load_weights
from v2flow_engine.config import VisualTokenizerConfig, from_dict, load_json
from v2flow_engine.decoding.schedule import mask_lengths
from v2flow_engine.errors import DataError
from v2flow_engine.models.reference_keys import CODEBOOK, VOCABULARY, build_from_reference
from v2flow_engine.models.reference_sampling import ReferenceSampling
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

Axes = tuple[int | str, ...]  # a name stands for any length, the same wherever it comes again


@dataclass(frozen=True, kw_only=True)
class FixtureShape(ReferenceSampling):
    """NAME.json, without what only tells the reader something. `grid`: side of the latents, in latents."""

    grid: int
    latent_channels: int
    width: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    velocity_depth: int
    velocity_width: int
    resampler_hidden: int
    resampler_depth: int
    resampler_mlp_depth: int
    codebook_size: int
    batch: int
    projector_depth: int = 1
    patch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            lowest = 0 if name.endswith("_depth") else 1
            if isinstance(value, int) and value < lowest:
                raise DataError(f"{name} must be at least {lowest}, got {value}")

    def tokenizer_config(self, code_dim: int, text_vocab_size: int | None) -> VisualTokenizerConfig:
        """The model's config; raises `ModelFolderError` if the shape contradicts itself."""
        same = {f.name for f in dataclasses.fields(VisualTokenizerConfig)} & set(vars(self))
        return VisualTokenizerConfig(
            latent_grid=(self.grid, self.grid),
            code_dim=code_dim,
            text_vocab_size=text_vocab_size,
            flow=self.flow(),
            **{name: getattr(self, name) for name in same},
        )


@dataclass(frozen=True)
class Fixture:
    """A model with the fixture's weights, in eval mode, and the tensors that it is fed with and compared to."""

    name: str
    shape: FixtureShape
    tokenizer: VisualTokenizer
    tensors: dict[str, torch.Tensor]


def load_fixture(path: Path) -> Fixture:
    """Read NAME.json and its neighbours.

    Raises `DataError` or `ModelFolderError` for a file or tensor that is missing, or whose shape disagrees with the
    others'. Keys of NAME.json that nothing here depends on are ignored, so are further tensors.
    """
    values = load_json(path)
    fields = dataclasses.fields(FixtureShape)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise DataError(f"{path}: missing {', '.join(missing)}")
    shape = from_dict(FixtureShape, {f.name: values[f.name] for f in fields if f.name in values}, str(path))
    weights = _load_parts(path)
    source = str(path.with_suffix(".weights.safetensors"))
    vocabulary, codebook = weights.get(VOCABULARY), weights.get(CODEBOOK)
    if codebook is None or codebook.ndim != 3:
        raise DataError(f"{source}: no {CODEBOOK} of shape (1, codebook_size, channels)")
    config = shape.tokenizer_config(codebook.shape[2], None if vocabulary is None else len(vocabulary))
    tokenizer = build_from_reference(config, weights, source).tokenizer
    tensors = load_weights(path.with_suffix(".tensors.safetensors"))
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    check_tensors(tensors, shape, config, str(path.with_suffix(".tensors.safetensors")))
    return Fixture(path.stem, shape, tokenizer, tensors)


def _load_parts(path: Path) -> dict[str, torch.Tensor]:
    whole = path.with_suffix(".weights.safetensors")
    parts = [] if whole.is_file() else sorted(path.parent.glob(f"{path.stem}.weights-*.safetensors"))
    return {key: value for part in parts or [whole] for key, value in load_weights(part).items()}


def expected_axes(shape: FixtureShape, config: VisualTokenizerConfig) -> dict[str, Axes]:
    """The shape of each tensor that a fixture of this shape has."""
    batch, tokens, positions = shape.batch, config.num_visual_tokens, config.num_positions
    latents = (batch, config.latent_channels, *config.latent_grid)
    axes: dict[str, Axes] = {
        "latents_in": latents,
        "resampler_out": (batch, tokens, config.text_vocab_size or config.code_dim),
        "indices": (batch, tokens),
        "vq_embeddings": (batch, tokens, config.code_dim),
        "condition_tokens": (batch, tokens, config.width),
        "velocity_x": ("M", config.token_channels),
        "velocity_t": ("M",),
        "velocity_c": ("M", config.width),
        "velocity_out": ("M", config.token_channels),
        "orders": (batch, positions),
        "latents_out": latents,
    }
    if config.text_vocab_size is not None:
        axes["soft_tokens"] = (batch, tokens, config.text_vocab_size)
        axes["llm_space_tokens"] = (batch, tokens, config.code_dim)
    masked = [positions, *mask_lengths(positions, shape.num_iter)]
    for i in range(shape.num_iter):
        axes[f"noise_{i}"] = (batch * (masked[i] - masked[i + 1]), config.token_channels)
    return axes


def check_tensors(
    tensors: dict[str, torch.Tensor], shape: FixtureShape, config: VisualTokenizerConfig, source: str
) -> None:
    """Raise `DataError` naming a tensor that is missing, or whose shape or values cannot be right."""
    lengths: dict[str, int] = {}
    for name, axes in expected_axes(shape, config).items():
        if name not in tensors:
            raise DataError(f"{source}: tensor {name} is missing")
        found = tuple(tensors[name].shape)
        if len(found) == len(axes):
            lengths |= {axis: n for axis, n in zip(axes, found, strict=True) if axis not in lengths}
        expected = tuple(lengths.get(axis, axis) if isinstance(axis, str) else axis for axis in axes)
        if found != expected:
            raise DataError(f"{source}: {name} has shape {found}, expected {expected}")
    indices, orders = tensors["indices"], tensors["orders"]
    if indices.is_floating_point() or indices.min() < 0 or indices.max() >= config.codebook_size:
        raise DataError(f"{source}: indices must be whole numbers in [0, {config.codebook_size})")
    every = torch.arange(config.num_positions)
    if orders.is_floating_point() or not torch.equal(
        orders.sort(dim=1).values.long(), every.expand_as(orders)
    ):
        raise DataError(
            f"{source}: each row of orders must be a permutation of {config.num_positions} positions"
        )
