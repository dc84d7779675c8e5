"""A visual_tokenizer/ folder -> what an LLM needs of it: the codebook, and the grids of the sizes in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from v2flow_engine.config import Grid, VisualTokenizerConfig, from_dict, load_json, parse_size
from v2flow_engine.errors import DataError, ModelFolderError, RequestError

_CODEBOOK = "quantizer.codebook"


@dataclass(frozen=True)
class Codebook:
    """vectors: (K, D) unit vectors in the LLM's embedding space."""

    folder: Path
    config: VisualTokenizerConfig
    vectors: torch.Tensor

    @classmethod
    def open(cls, folder: Path) -> Codebook:
        """A visual_tokenizer/ folder, or the model folder that it is in. Raises `ModelFolderError`."""
        if (folder / "visual_tokenizer").is_dir():
            folder = folder / "visual_tokenizer"
        source, weights = folder / "config.json", folder / "model.safetensors"
        config = from_dict(VisualTokenizerConfig, load_json(source), str(source))
        try:
            with safe_open(str(weights), framework="pt") as file:
                vectors = file.get_tensor(_CODEBOOK)
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{weights}: no codebook to be read ({error})") from error
        if tuple(vectors.shape) != (config.codebook_size, config.code_dim):
            raise ModelFolderError(
                f"{weights}: codebook {tuple(vectors.shape)}, expected {(config.codebook_size, config.code_dim)}"
            )
        return cls(folder, config, vectors)

    def grids(self, sizes: Sequence[str] | None) -> dict[str, Grid]:
        """Size "WxH" in pixels -> (rows, columns) of visual tokens.

        How many pixels a token covers is what the model folder around says; without one, the largest of `sizes`
        takes the whole grid. `sizes` None: those of the model around. Raises `DataError` for a size that is not a
        whole number of tokens, or too large.
        """
        known = self._grids_around()
        if not known:
            if not sizes:
                raise DataError(
                    f"{self.folder}: no model folder around it tells its sizes in pixels; give them (--size)"
                )
            largest = max(sizes, key=lambda size: parse_size(size)[0] * parse_size(size)[1])
            known = {largest: self.config.token_grid}
        if not sizes:
            return known
        return {size: self._grid(size, *next(iter(known.items()))) for size in sizes}

    def _grid(self, size: str, known_size: str, known_grid: Grid) -> Grid:
        (width, height), (known_width, known_height) = parse_size(size), parse_size(known_size)
        grid = (height * known_grid[0] // known_height, width * known_grid[1] // known_width)
        whole = (
            grid[0] * known_height == height * known_grid[0]
            and grid[1] * known_width == width * known_grid[1]
        )
        try:
            if not whole:
                raise RequestError("it is not a whole number of visual tokens")
            self.config.positions_of(grid)
        except RequestError as error:
            raise DataError(
                f"--size {size}: {error} ({known_size} has {known_grid[0]} x {known_grid[1]})"
            ) from error
        return grid

    def _grids_around(self) -> dict[str, Grid]:
        around = self.folder.resolve().parent
        if (around / "llm" / "config.json").is_file():
            block = load_json(around / "llm" / "config.json").get("v2flow", {})
            return {size: (rows, columns) for size, (rows, columns) in block.get("grids", {}).items()}
        if (around / "config.json").is_file():
            size = load_json(around / "config.json").get("default_size")
            return {size: self.config.token_grid} if isinstance(size, str) else {}
        return {}
