"""Trained adapters -> the folder that `adapted_model` completes: config, recipe, adapters, visual tokenizer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from v2flow_engine.adapted_model import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ADAPTERS,
    RECIPE,
    ROWS,
    Recipe,
    adapter_settings,
)
from v2flow_engine.checkpoint import load_weights
from v2flow_engine.config import ModelConfig, load_json, save_json
from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.files import whole_folder
from v2flow_engine.training.assemble import WEIGHTS, copy_in_bfloat16
from v2flow_engine.vocabulary import VisualVocabulary

LEAST_PROMPT = 8  # tokens: BOS, a few words, image_start, size


def write_adapted(
    run: Path,
    visual_tokenizer: Path,
    base: str,
    vae: str,
    sizes: Sequence[str] | None,
    longest: int | None,
    strength: float,
    config_of: Callable[[str], ModelConfig],
    out: Path,
) -> dict[str, list[int]]:
    """Write the folder `out` and return the grids of its sizes.

    run: with adapters/ and llm/. sizes: which to keep, the first one the default; None keeps all. Tokens of the others
    are left out, so that nobody can ask for what was not trained. longest: see `Recipe`. strength: of the adapters, as
    a share of what was trained; the rows of tokens stay as they are. Raises `V2FlowError`.
    """
    adapters, source = run / ADAPTERS, run / "llm" / "config.json"
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ROWS) if not (adapters / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{adapters}: no {', '.join(missing)}; train llm --set lora.rank=R writes them"
        )
    settings = adapter_settings(adapters)
    vocabulary = VisualVocabulary.from_llm_config(load_json(source), str(source))
    kept = list(vocabulary.grids) if sizes is None else list(dict.fromkeys(sizes))
    if unknown := [size for size in kept if size not in vocabulary.grids]:
        raise RequestError(f"--size {unknown[0]}: the LLM has {', '.join(vocabulary.grids)}")
    # Tokens of sizes stand in the LLM's order, whichever is the default.
    grids = {size: list(grid) for size, grid in vocabulary.grids.items() if size in kept}
    least = max(rows * columns for rows, columns in grids.values()) + LEAST_PROMPT
    if longest is not None and longest < least:
        raise RequestError(f"--longest must be at least {least} for pictures of these sizes, got {longest}")
    if not 0 < strength < math.inf:
        raise RequestError(f"--strength must be above 0 and finite, got {strength:g}")
    dropped = {vocabulary.size_token_ids[size] for size in vocabulary.grids if size not in kept}
    with whole_folder(out) as building:
        save_json(config_of(kept[0]), building / "config.json")
        save_json(Recipe(base, vae, grids, longest), building / RECIPE)
        (building / ADAPTERS).mkdir()
        shutil.copyfile(adapters / ADAPTER_WEIGHTS, building / ADAPTERS / ADAPTER_WEIGHTS)
        settings["lora_alpha"] *= strength
        save_json(settings, building / ADAPTERS / ADAPTER_CONFIG)
        rows = load_weights(adapters / ROWS)
        ids = torch.arange(vocabulary.text_vocab_size, vocabulary.visual_offset + vocabulary.codebook_size)
        chosen = torch.tensor([int(id_) not in dropped for id_ in ids])
        rows = {name: values[chosen].contiguous() for name, values in rows.items()}
        save_file(rows, str(building / ADAPTERS / ROWS), metadata={"format": "pt"})
        copy_in_bfloat16(visual_tokenizer, building / "visual_tokenizer", WEIGHTS["visual_tokenizer"])
    return grids
