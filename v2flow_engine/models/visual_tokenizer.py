"""The visual tokenizer: latents -> codes, codes -> conditions, and the networks that decode them.

    encode: latents -> resampler -> mixture over the LLM's text vocabulary -> nearest code
    decode: codes -> codebook vectors in LLM space -> projector -> conditions -> (masked transformer, velocity net)

Knows nothing of rounds, solvers or pixels: `decoding/` drives it.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import nn

from v2flow_engine.config import Grid, VisualTokenizerConfig
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.models.masked_transformer import MaskedTransformer
from v2flow_engine.models.quantizer import CosineQuantizer
from v2flow_engine.models.resampler import Resampler, mlp
from v2flow_engine.models.velocity import RegressionHead, VelocityNet

MIXED_AT_ONCE = 1024  # tokens


class VisualTokenizer(nn.Module):
    """Resampler, quantizer, projector, masked transformer and velocity net of one config.

    The LLM's text rows, which encoding mixes, are no part of the state: they are the LLM's (`set_vocabulary`).
    """

    def __init__(self, config: VisualTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        own_readout = config.text_vocab_size is not None and config.readout_gain is None
        self.resampler = Resampler(
            config.latent_channels,
            config.resampler_hidden,
            config.text_vocab_size if own_readout else config.code_dim,
            config.resampler_depth,
            config.resampler_mlp_depth,
            config.downsample,
            config.readout_norm,
            config.resampler_local,
        )
        self.quantizer = CosineQuantizer(config.codebook_size, config.code_dim)
        self.projector = mlp(config.projector_depth, config.code_dim, config.width)
        self.null_condition = nn.Parameter(0.02 * torch.randn(1, config.width))
        self.masked_transformer = MaskedTransformer(
            config.token_channels,
            config.width,
            config.encoder_depth,
            config.decoder_depth,
            config.num_heads,
            config.token_grid,
            config.position_grid,
        )
        self.velocity = (
            RegressionHead(config.token_channels, config.width)
            if config.flow.method == "regression"
            else VelocityNet(
                config.token_channels, config.width, config.velocity_width, config.velocity_depth
            )
        )
        self.register_buffer("vocabulary", None, persistent=False)
        self.register_buffer("vocabulary_products", None, persistent=False)

    def set_vocabulary(self, text_embedding: torch.Tensor) -> None:
        """Give the LLM's text rows (V, D_llm). Raises `ModelFolderError` if their shape is not the config's."""
        expected = (self.config.text_vocab_size, self.config.code_dim)
        if tuple(text_embedding.shape) != expected:
            raise ModelFolderError(
                f"the text embedding has shape {tuple(text_embedding.shape)}, expected {expected}"
            )
        self.vocabulary = text_embedding
        if self.config.readout_gain is not None:
            self.vocabulary = text_embedding - text_embedding.mean(dim=0)
            self.vocabulary_products = self.vocabulary.t() @ self.vocabulary / len(self.vocabulary)

    def llm_space(
        self, latents: torch.Tensor, gumbel_noise: float = 0.0, uniform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """latents (B, C, h, w) -> vectors (B, S, D_llm).

        With a vocabulary, the softmax of the resampler's logits mixes the text rows; in training Gumbel noise of the
        given scale is added to the logits (1 is the Gumbel-softmax), made from `uniform` (B, S, V) in [0, 1). Without
        one, the resampler's features.
        """
        return self.vectors(self.resampler(latents), gumbel_noise, uniform)

    def vectors(
        self, readout: torch.Tensor, gumbel_noise: float = 0.0, uniform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The resampler's output (B, S, out_features) -> vectors (B, S, D_llm); noise as in `llm_space`."""
        if self.config.text_vocab_size is None:
            return readout
        if self.config.readout_gain is None:
            return self.mix(self.soft_tokens(readout, gumbel_noise, uniform))
        queries = self.queries(readout)
        if torch.is_grad_enabled() or uniform is not None:
            return self.mix(self.soft_tokens(self.logits(queries), gumbel_noise, uniform))
        # A large vocabulary's weights of all tokens at once may not fit.
        parts = queries.flatten(0, 1).split(MIXED_AT_ONCE)
        mixed = torch.cat([self.mix(self.soft_tokens(self.logits(part))) for part in parts])
        return mixed.unflatten(0, queries.shape[:2])

    def queries(self, readout: torch.Tensor) -> torch.Tensor:
        """The readout (..., D_llm) of a model with `readout_gain`, scaled so that its logits have that deviation."""
        variance = ((readout @ self._rows(self.vocabulary_products)) * readout).sum(dim=-1, keepdim=True)
        return readout * (self.config.readout_gain * variance.clamp_min(1e-12).rsqrt())

    def logits(self, queries: torch.Tensor) -> torch.Tensor:
        """queries (..., D_llm) -> logits of the text rows (..., V)."""
        return queries @ self._rows(self.vocabulary).t()

    def soft_tokens(
        self, logits: torch.Tensor, gumbel_noise: float = 0.0, uniform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The resampler's logits (B, S, V) -> weights of the text rows, in float32; Gumbel noise as in `llm_space`."""
        logits = logits.float()
        if uniform is not None:
            logits = logits - gumbel_noise * (-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()
        return logits.softmax(dim=-1)

    def mix(self, soft_tokens: torch.Tensor) -> torch.Tensor:
        """Weights (..., V) -> the mixture of the text rows, (..., D_llm). Raises without a vocabulary."""
        rows = self._rows(self.vocabulary)
        return soft_tokens.to(rows.dtype) @ rows

    @staticmethod
    def _rows(buffer: torch.Tensor | None) -> torch.Tensor:
        if buffer is None:
            raise ModelFolderError("encoding needs the LLM's text embedding: call set_vocabulary first")
        return buffer

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w), scaled -> codes (B, S) int64, in raster order."""
        return self.quantizer.assign(self.llm_space(latents))

    def conditions(self, codes: torch.Tensor) -> torch.Tensor:
        """codes (B, S) -> conditions (B, S, D)."""
        return self.projector(self.quantizer.lookup(codes))

    def null_conditions(self, batch: int, num_visual_tokens: int) -> torch.Tensor:
        """The conditions of nothing in particular, (B, S, D)."""
        return self.null_condition[None].expand(batch, num_visual_tokens, -1)

    def patchify(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (B, C, h, w) -> latent_tokens (B, N, C p^2)."""
        p = self.config.patch_size
        return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)

    def unpatchify(self, latent_tokens: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """latent_tokens (B, N, C p^2) of images of a grid (None: the full one) -> latents (B, C, h, w)."""
        p, (rows, columns) = self.config.patch_size, self.config.positions_of(grid or self.config.token_grid)
        return rearrange(latent_tokens, "b (h w) (c p q) -> b c (h p) (w q)", p=p, q=p, h=rows, w=columns)
