"""A plain LLaMA or Phi-3 -> an llm/ folder with visual tokens: `convert llm --base`.

    text ids | image_start, image_end, null, sizes | visual ids

Nothing of the base is changed: what it answered to text it answers still. What it draws has to be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from v2flow_engine.config import Grid
from v2flow_engine.converting.base_llm import EMBEDDING, HEAD, BaseLlm, open_base
from v2flow_engine.converting.codebook import Codebook
from v2flow_engine.converting.rows import extended_rows
from v2flow_engine.converting.shards import write_shards
from v2flow_engine.converting.text_tokenizer import extend_tokenizer
from v2flow_engine.errors import DataError
from v2flow_engine.files import whole_folder
from v2flow_engine.llm_config import longest_sequence
from v2flow_engine.training.vocabulary_surgery import lay_out_vocabulary, write_llm_config
from v2flow_engine.vocabulary import VisualVocabulary


def add_visual_tokens(
    base: Path, visual_tokenizer: Path, sizes: Sequence[str] | dict[str, Grid] | None, out: Path
) -> VisualVocabulary:
    """Write the folder `out`; returns its vocabulary.

    base: a checkpoint's folder or GGUF file. visual_tokenizer, sizes: see `Codebook`; or sizes with their grids. Raises
    `ModelFolderError` for a base or tokenizer that is not whole, `DataError` for two that do not fit, `OutputError` for
    `out`.
    """
    codebook = Codebook.open(visual_tokenizer)
    with whole_folder(out) as building, open_base(base, building.parent) as llm:
        _check_fit(llm, codebook, base)
        grids = sizes if isinstance(sizes, dict) else codebook.grids(sizes)
        config = codebook.config
        vocabulary = lay_out_vocabulary(
            int(llm.config["vocab_size"]), llm.bos_id, config.codebook_size, grids
        )
        _check_length(llm, vocabulary)
        extend_tokenizer(llm.folder, vocabulary, building)
        _write_weights(llm, codebook, vocabulary, building)
        # Code that a checkpoint brings for its config is not copied, nor needed.
        values = {key: value for key, value in llm.config.items() if key != "auto_map"}
        values |= {
            "vocab_size": vocabulary.visual_offset + config.codebook_size,
            "bos_token_id": vocabulary.bos_id,
            "eos_token_id": vocabulary.image_end_id,
        }
        write_llm_config(values, vocabulary, building)
    return vocabulary


def _check_fit(llm: BaseLlm, codebook: Codebook, base: Path) -> None:
    config, hidden = codebook.config, llm.config["hidden_size"]
    if config.code_dim != hidden:
        raise DataError(
            f"{codebook.folder}: code_dim {config.code_dim}, and hidden_size {hidden} of {base}; the codes are vectors "
            "in the LLM's embedding space, so the two must be equal"
        )
    if config.text_vocab_size is not None and config.text_vocab_size > llm.config["vocab_size"]:
        raise DataError(
            f"{codebook.folder}: mixes {config.text_vocab_size} text rows, and {base} has "
            f"{llm.config['vocab_size']}; it was trained with another LLM"
        )


def _check_length(llm: BaseLlm, vocabulary: VisualVocabulary) -> None:
    # as the defaults of transformers, where a config leaves it out
    default = {"llama": 2048, "phi3": 4096}[llm.config["model_type"]]
    longest = longest_sequence(
        {"max_position_embeddings": default} | llm.config, str(llm.folder / "config.json")
    )
    for size in vocabulary.grids:
        if vocabulary.num_visual_tokens(size) + 4 > longest:  # BOS, a word, image_start, size
            raise DataError(
                f"an image of {size} has {vocabulary.num_visual_tokens(size)} visual tokens, and a sequence of "
                f"{llm.folder} at most {longest} tokens"
            )


def _write_weights(llm: BaseLlm, codebook: Codebook, vocabulary: VisualVocabulary, out: Path) -> None:
    def build(file: str) -> dict[str, torch.Tensor]:
        made = {}
        for name in llm.shards.files[file]:
            if name.endswith("rotary_emb.inv_freq") or (name == HEAD and llm.tied):
                continue  # of old checkpoints, computed today; the embedding once more
            tensor = llm.shards.read(name)
            if name in (EMBEDDING, HEAD):
                tensor = extended_rows(tensor, codebook.vectors, vocabulary)
            made[name] = tensor
        return made

    write_shards(out, list(llm.shards.files), build)
