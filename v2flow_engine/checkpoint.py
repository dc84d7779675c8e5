"""A model folder: found by name or path, cross-checked once, its parts loaded from safetensors.

    MODEL/config.json   llm/   visual_tokenizer/   vae/

Knows nothing of vLLM: the token generator loads llm/ itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from v2flow_engine.adapted_model import is_adapted, whole_model
from v2flow_engine.config import (
    GenerationDefaults,
    Grid,
    ModelConfig,
    VisualTokenizerConfig,
    find_grid,
    from_dict,
    load_json,
    parse_size,
)
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.llm_config import longest_sequence
from v2flow_engine.prompts import PromptEncoder
from v2flow_engine.vocabulary import VisualVocabulary

if TYPE_CHECKING:
    from v2flow_engine.models.vae import Autoencoder
    from v2flow_engine.models.visual_tokenizer import VisualTokenizer

ASSETS = Path(__file__).parent / "assets"
PARTS = ("llm", "visual_tokenizer", "vae")


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    if not ASSETS.is_dir():
        return []
    return sorted(p.name for p in ASSETS.iterdir() if (p / "config.json").is_file())


def is_embedded(name_or_dir: str | Path) -> bool:
    """Whether `open_model` takes it for the name of an embedded model; a folder goes first."""
    return not Path(name_or_dir).is_dir() and str(name_or_dir) in embedded_models()


def open_model(name_or_dir: str | Path) -> ModelFolder:
    """Find a model by the name of an embedded one or by its folder, and check it.

    Raises `ModelFolderError` saying what is unknown, missing or contradictory.
    """
    return ModelFolder.open(_find(name_or_dir))


def open_tokenizer(name_or_dir: str | Path) -> TokenizerFolder:
    """As `open_model`, but the LLM may be missing: what encoding and reconstructing pictures needs."""
    path = _find(name_or_dir)
    return (ModelFolder if (path / "llm").is_dir() else TokenizerFolder).open(path)


def _find(name_or_dir: str | Path) -> Path:
    path = ASSETS / str(name_or_dir) if is_embedded(name_or_dir) else Path(name_or_dir)
    if not path.is_dir():
        known = ", ".join(embedded_models()) or "none"
        raise ModelFolderError(
            f"no model {str(name_or_dir)!r}: neither a folder nor an embedded model ({known})"
        )
    return whole_model(path) if is_adapted(path) else path


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; raises `ModelFolderError` if it is missing or damaged."""
    if not path.is_file():
        raise ModelFolderError(f"{path}: no such file")
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{path}: not a readable safetensors file ({error})") from error


def load_state(module: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load weights that must fit exactly; raises `ModelFolderError` naming the first keys that do not."""
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    misfit = [
        f"{k} {tuple(weights[k].shape)} for {expected[k]}"
        for k in expected.keys() & weights.keys()
        if tuple(weights[k].shape) != expected[k]
    ]
    if missing or unknown or misfit:
        raise ModelFolderError(
            f"{source}: weights do not fit the config; missing {missing[:3]}, unknown {unknown[:3]}, "
            f"wrong shape {sorted(misfit)[:3]}"
        )
    module.load_state_dict(weights)


def read_visual_tokenizer(folder: Path) -> VisualTokenizer:
    """A visual_tokenizer/ folder (config.json, model.safetensors) in float32 on the CPU, without text rows."""
    from v2flow_engine.models.visual_tokenizer import VisualTokenizer

    source = folder / "config.json"
    tokenizer = VisualTokenizer(from_dict(VisualTokenizerConfig, load_json(source), str(source)))
    load_state(tokenizer, load_weights(folder / "model.safetensors"), str(folder / "model.safetensors"))
    return tokenizer


@dataclass(frozen=True)
class TokenizerFolder:
    """A checked folder that encodes and reconstructs pictures: a model folder, or one without llm/.

    Opening reads the JSON files only; weights load when asked for.
    """

    path: Path
    config: ModelConfig
    visual_tokenizer_config: VisualTokenizerConfig

    @classmethod
    def open(cls, path: Path) -> TokenizerFolder:
        """Read and cross-check config.json, visual_tokenizer/ and vae/; raises `ModelFolderError`."""
        config, tokenizer_config = _read_configs(path, PARTS[1:])
        folder = cls(path, config, tokenizer_config)
        folder._raise_if(folder._problems())
        return folder

    def _problems(self) -> list[str]:
        """Where the parts disagree."""
        vae_channels = load_json(self.path / "vae" / "config.json").get("latent_channels")
        if vae_channels == self.visual_tokenizer_config.latent_channels:
            return []
        channels = self.visual_tokenizer_config.latent_channels
        return [f"latent_channels {vae_channels} in vae, {channels} in visual_tokenizer"]

    def _raise_if(self, problems: list[str]) -> None:
        if problems:
            raise ModelFolderError(f"{self.path}: the parts disagree: {'; '.join(problems)}")

    @property
    def defaults(self) -> GenerationDefaults:
        """The model's own generation parameters."""
        return self.config.defaults

    @property
    def grids(self) -> dict[str, Grid]:
        """size "WxH" in pixels -> (rows, columns) of visual tokens, of all sizes that the model has."""
        return {self.config.default_size: self.visual_tokenizer_config.token_grid}

    def grid_of(self, size: str) -> Grid:
        """(rows, columns) of visual tokens of pictures of `size`; raises `RequestError` for one the model has not."""
        return find_grid(self.grids, size)

    def load_visual_tokenizer(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        with_vocabulary: bool = False,
    ) -> VisualTokenizer:
        """The visual tokenizer in eval mode. `with_vocabulary` adds the LLM's text rows, which encoding needs."""
        tokenizer = read_visual_tokenizer(self.path / "visual_tokenizer")
        if with_vocabulary and self.visual_tokenizer_config.text_vocab_size is not None:
            tokenizer.set_vocabulary(self.load_text_embedding())
        return tokenizer.to(device=device, dtype=dtype).eval()

    def load_text_embedding(self) -> torch.Tensor:
        """The LLM's own text rows, (V, D_llm) float32: where mixtures over its vocabulary live."""
        return load_weights(self.path / "visual_tokenizer" / "vocabulary.safetensors")["embedding"].float()

    def load_autoencoder(
        self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Autoencoder:
        """The autoencoder in eval mode."""
        from v2flow_engine.models.vae import Autoencoder

        return Autoencoder.from_folder(self.path / "vae", device=device, dtype=dtype)


@dataclass(frozen=True)
class ModelFolder(TokenizerFolder):
    """A checked model folder, with the LLM: prompts to pictures."""

    llm_config: dict[str, Any]
    vocabulary: VisualVocabulary

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read and cross-check the folder's configs; raises `ModelFolderError`."""
        config, tokenizer_config = _read_configs(path, PARTS)
        llm_config = load_json(path / "llm" / "config.json")
        vocabulary = VisualVocabulary.from_llm_config(llm_config, str(path / "llm" / "config.json"))
        folder = cls(path, config, tokenizer_config, llm_config, vocabulary)
        folder._raise_if(folder._problems())
        return folder

    def _problems(self) -> list[str]:
        vocabulary, tokenizer = self.vocabulary, self.visual_tokenizer_config
        problems = super()._problems()
        if vocabulary.codebook_size != tokenizer.codebook_size:
            problems.append(
                f"codebook_size {vocabulary.codebook_size} in llm, {tokenizer.codebook_size} in visual_tokenizer"
            )
        hidden = self.llm_config.get("hidden_size")
        if tokenizer.text_vocab_size is not None and hidden != tokenizer.code_dim:
            problems.append(f"hidden_size {hidden} in llm, code_dim {tokenizer.code_dim} in visual_tokenizer")
        if self.config.default_size not in vocabulary.grids:
            problems.append(
                f"default_size {self.config.default_size} is none of llm's {sorted(vocabulary.grids)}"
            )
        for size, (rows, columns) in vocabulary.grids.items():
            width, height = parse_size(size)
            if (
                rows > tokenizer.token_grid[0]
                or columns > tokenizer.token_grid[1]
                or width * rows != height * columns
            ):
                problems.append(
                    f"grid {rows}x{columns} of size {size} does not fit token grid {tokenizer.token_grid}"
                )
        return problems

    @property
    def grids(self) -> dict[str, Grid]:
        """Those that the LLM has size tokens for."""
        return {size: (rows, columns) for size, (rows, columns) in self.vocabulary.grids.items()}

    @property
    def llm_dir(self) -> Path:
        """What vLLM loads."""
        return self.path / "llm"

    @cached_property
    def prompt_encoder(self) -> PromptEncoder:
        """prompt -> prompt_token_ids, its tokenizer read once."""
        return PromptEncoder(self.llm_dir, self.vocabulary, longest_sequence(self.llm_config))

    def load_text_embedding(self) -> torch.Tensor:
        """The LLM's own text rows, (V, D_llm) float32: where mixtures over its vocabulary live."""
        if (self.path / "visual_tokenizer" / "vocabulary.safetensors").is_file():
            return super().load_text_embedding()
        return load_text_rows(self.llm_dir, self.visual_tokenizer_config.text_vocab_size)


def load_text_rows(llm_dir: Path, rows: int | None = None) -> torch.Tensor:
    """The first rows of an LLM's embedding, (V, D_llm) float32. None: of an LLM with visual tokens its text rows, of
    another one all. Raises `ModelFolderError`.
    """
    if rows is None and "v2flow" in (config := load_json(llm_dir / "config.json")):
        rows = VisualVocabulary.from_llm_config(config, str(llm_dir / "config.json")).text_vocab_size
    for path in sorted(llm_dir.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as weights:
            if "model.embed_tokens.weight" in weights.keys():  # noqa: SIM118 (safe_open is no mapping)
                return weights.get_slice("model.embed_tokens.weight")[:rows].float()
    raise ModelFolderError(f"{llm_dir}: no safetensors file holds model.embed_tokens.weight")


def _read_configs(path: Path, parts: Sequence[str]) -> tuple[ModelConfig, VisualTokenizerConfig]:
    """config.json and visual_tokenizer/config.json of a folder that must have these parts."""
    missing = [part for part in parts if not (path / part).is_dir()]
    if missing:
        raise ModelFolderError(f"{path}: not a model folder, {', '.join(missing)} missing")
    source = path / "visual_tokenizer" / "config.json"
    return (
        from_dict(ModelConfig, load_json(path / "config.json"), str(path / "config.json")),
        from_dict(VisualTokenizerConfig, load_json(source), str(source)),
    )
