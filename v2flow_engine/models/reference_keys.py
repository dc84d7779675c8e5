"""The state-dict keys of the reference implementation (github.com/zhangguiwei610/V2Flow) -> this package's.

Knows nothing of files: `dict in, dict out`.
"""

from __future__ import annotations

import torch

RENAMED = {
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
}
CODEBOOK = "quantizer._codebook.embed"
VOCABULARY = "llm_embed_tokens"
# Training state of the codebook, and an embedding that the reference never reads.
UNUSED = ("class_emb.", "quantizer._codebook.")


def from_reference(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Reference weights -> (weights of `VisualTokenizer`, the reference keys that were left out).

    The LLM's embedding, where there is one, comes back under its own key `llm_embed_tokens`.
    """
    converted, left = {}, []
    for key, value in weights.items():
        if key == CODEBOOK:
            converted["quantizer.codebook"] = value.squeeze(0)
        elif key.startswith(UNUSED):
            left.append(key)
        else:
            prefix = next((p for p in RENAMED if key.startswith(p)), None)
            converted[RENAMED[prefix] + key[len(prefix) :] if prefix else key] = value
    return converted, left
