"""The state-dict keys of the reference implementation (github.com/zhangguiwei610/V2Flow) -> this package's, and back.

Knows nothing of files: `dict in, dict or model out`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from v2flow_engine.config import VisualTokenizerConfig
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

CODEBOOK = "quantizer._codebook.embed"
VOCABULARY = "llm_embed_tokens"
RENAMED = {  # prefix of the reference's key -> prefix of ours
    "downsampler.": "resampler.",
    "flowloss.net.": "velocity.",
    "fake_latent": "null_condition",
    "z_proj_ln.": "masked_transformer.input_norm.",
    "z_proj.": "masked_transformer.latent_proj.",
    "encoder_pos_embed_learned": "masked_transformer.encoder_position",
    "decoder_pos_embed_learned": "masked_transformer.decoder_position",
    "diffusion_pos_embed_learned": "masked_transformer.output_position",
    "encoder_blocks.": "masked_transformer.encoder_blocks.",
    "decoder_blocks.": "masked_transformer.decoder_blocks.",
    "encoder_norm.": "masked_transformer.encoder_norm.",
    "decoder_norm.": "masked_transformer.decoder_norm.",
    "decoder_embed.": "masked_transformer.decoder_embed.",
    "mask_token": "masked_transformer.mask_token",
    CODEBOOK: "quantizer.codebook",
}
UNUSED = {  # the reference's key -> why it is left out
    "class_emb.weight": "the reference never reads it",
    "quantizer._codebook.cluster_size": "state of the codebook's training",
    "quantizer._codebook.embed_avg": "state of the codebook's training",
    "quantizer._codebook.initted": "state of the codebook's training",
}
NAMED_IN_ERRORS = 8


@dataclass(frozen=True)
class FromReference:
    """A model made of reference weights, in eval mode, and what became of each of them.

    used: reference key -> our key, of every weight that is in the model. left: the reference keys that are not.
    """

    tokenizer: VisualTokenizer
    used: dict[str, str]
    left: list[str]


def our_key(key: str) -> str:
    """The key of a reference weight in `VisualTokenizer`."""
    prefix = next((p for p in RENAMED if key.startswith(p)), "")
    return RENAMED.get(prefix, "") + key[len(prefix) :]


def reference_key(key: str) -> str:
    """The inverse of `our_key`."""
    theirs, ours = next(((t, o) for t, o in RENAMED.items() if key.startswith(o)), ("", ""))
    return theirs + key[len(ours) :]


def build_from_reference(
    config: VisualTokenizerConfig, weights: dict[str, torch.Tensor], source: str
) -> FromReference:
    """Reference weights -> a visual tokenizer in float32 with its vocabulary, if the config has one.

    float32 weights are not copied. Raises `ModelFolderError` that names, as the reference does, the keys that are
    missing, unexpected or misshaped.
    """
    weights = dict(weights)
    left = sorted(weights.keys() & UNUSED.keys())
    for key in left:
        del weights[key]
    with torch.device("meta"):  # the largest has 2 GB that need neither memory nor random numbers
        tokenizer = VisualTokenizer(config)
    expected = {reference_key(k): tuple(v.shape) for k, v in tokenizer.state_dict().items()}
    expected[CODEBOOK] = (1, *expected[CODEBOOK])
    if config.text_vocab_size is not None:
        expected[VOCABULARY] = (config.text_vocab_size, config.code_dim)
    _check(weights, expected, source)
    vocabulary = weights.pop(VOCABULARY, None)
    used = {key: our_key(key) for key in weights}
    ours = {used[k]: (v[0] if k == CODEBOOK else v).detach().float().contiguous() for k, v in weights.items()}
    tokenizer.load_state_dict(ours, assign=True)
    if vocabulary is not None:
        tokenizer.set_vocabulary(vocabulary.detach().float())
        used[VOCABULARY] = "vocabulary"
    return FromReference(tokenizer.eval(), used, left)


def _check(weights: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]], source: str) -> None:
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {expected[key]}"
            for key in sorted(expected.keys() & weights.keys())
            if tuple(weights[key].shape) != expected[key]
        ],
    }
    found = [f"{kind} {_named(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ModelFolderError(f"{source}: the weights do not fit the configuration: {'; '.join(found)}")


def _named(keys: list[str]) -> str:
    more = len(keys) - NAMED_IN_ERRORS
    return ", ".join(keys[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
