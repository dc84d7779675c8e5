"""A model folder -> the decoder that serves it: the engine, or the plain one for a model without a flow.

Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


class PictureDecoder(Protocol):
    """What `Decoder` and `DecoderEngine` have in common."""

    tokenizer: VisualTokenizer
    autoencoder: Autoencoder
    limits: Limits

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def decode(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Requests -> pictures (H, W, 3) uint8 in the same order. Raises `RequestError` before any work."""


def load_decoder(
    folder: TokenizerFolder,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: EngineSettings | None = None,
) -> DecoderEngine | Decoder:
    """Load both parts of a folder, which needs no LLM.

    Args:
        settings: the engine's; None for the defaults. A model without a flow (method "regression") takes none.

    Raises `ModelFolderError` for a damaged folder, `RequestError` for settings that cannot be.
    """
    if folder.visual_tokenizer_config.flow.method == "regression":
        return Decoder.from_folder(folder, device, dtype)
    return DecoderEngine.from_folder(folder, device, dtype, settings)
