"""PIL images -> codes -> PIL images in one process: encoding, decoding, reconstructions and variations.

    picture -> pixels -> latents -> codes          and          codes, seed -> latents -> pixels -> picture

The Python API of a model's visual tokenizer, and the only place that encodes pictures for users. Knows nothing of
prompts, of the LLM's weights other than its text rows, or of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from v2flow_engine.checkpoint import open_tokenizer
from v2flow_engine.fitting import check_fit, fit_picture
from v2flow_engine.generation.image_request import give_seeds
from v2flow_engine.generation.limits import check_whole
from v2flow_engine.generation.model_files import check_weight_files
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.generation.pipeline import DEFAULT_MODEL, default_device, describe_parameters
from v2flow_engine.reading import WHITE, Color, to_rgb

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import TokenizerFolder
    from v2flow_engine.decoding.load import PictureDecoder

BATCH = 16
MAX_BATCH = 4096
MAX_VARIATIONS = 10_000
DESCRIBED = (
    "model",
    "model_digest",
    "size",
    "rounds",
    "flow_steps",
    "decoder_guidance",
    "decoder_temperature",
    "solver",
)


@dataclass(frozen=True)
class ImageCodes:
    """An image as the model's visual tokens. codes: (S,) int64 in [0, K), in raster order; size: "WxH" in pixels."""

    codes: torch.Tensor
    size: str


@dataclass(frozen=True)
class Reconstruction:
    """What became of a picture, all three of the same size.

    original: what the model was given, so already fitted. by_autoencoder: through the autoencoder alone, the best
    that the tokenizer could do. by_tokenizer: decoded from `codes` with the noise of `seed`.
    """

    original: Image.Image
    by_autoencoder: Image.Image
    by_tokenizer: Image.Image
    codes: ImageCodes
    seed: int


class ImageTokenizer:
    """The autoencoder and the visual tokenizer of one model, in float32. Use `from_pretrained`.

    Args:
        folder: the model.
        decoder: of this model; its tokenizer and autoencoder encode as well where they are in float32.
        batch_size: images at once.
    """

    def __init__(self, folder: TokenizerFolder, decoder: PictureDecoder, batch_size: int = BATCH) -> None:
        self.folder = folder
        self.decoder = decoder
        self.batch_size = check_whole("batch_size", batch_size, 1, MAX_BATCH)

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = DEFAULT_MODEL, *, device: str | None = None, batch_size: int = BATCH
    ) -> ImageTokenizer:
        """Load a model by the name of an embedded one or by its folder, which needs no LLM.

        device None takes a GPU where there is one.

        Raises `ModelFolderError` if the model is unknown, incomplete or damaged.
        """
        return cls.from_folder(open_tokenizer(name_or_dir), device=device, batch_size=batch_size)

    @classmethod
    def from_folder(
        cls, folder: TokenizerFolder, *, device: str | None = None, batch_size: int = BATCH
    ) -> ImageTokenizer:
        """The same for a folder that is open already."""
        from v2flow_engine.decoding.load import load_decoder

        check_weight_files(folder)
        decoder = load_decoder(folder, device=device or default_device(), dtype=torch.float32)
        return cls(folder, decoder, batch_size)

    @cached_property
    def _exact(self) -> PictureDecoder:
        """What encodes: a code is the nearest of many, and which one that is must not be a matter of rounding."""
        from v2flow_engine.decoding.decoder import Decoder

        parts = self.decoder.tokenizer, self.decoder.autoencoder
        if all(next(part.parameters()).dtype == torch.float32 for part in parts):
            return self.decoder
        return Decoder.from_folder(self.folder, self.decoder.device)

    @cached_property
    def codebook_digest(self) -> str:
        """16 hex digits of the codebook: codes mean the same in all models that share it, and nothing elsewhere."""
        codebook = self._exact.tokenizer.quantizer.codebook
        return sha256(codebook.float().cpu().numpy().tobytes()).hexdigest()[:16]

    def fit(
        self,
        images: Image.Image | Sequence[Image.Image],
        *,
        size: str | None = None,
        fit: str = "crop",
        pad_color: Color | None = None,
    ) -> list[Image.Image]:
        """Images of any size and mode -> RGB pictures of one of the model's sizes.

        Args:
            images: upright or with an EXIF orientation, which is applied; one or several.
            size: "WxH" in pixels; None is the model's default size.
            fit: "crop", "pad" or "stretch", see `v2flow_engine.fitting`.
            pad_color: (red, green, blue) that padding and transparent parts get; None pads with the mean colour
                of the picture's border, and lays what is transparent on white.

        Raises:
            RequestError: a size that the model has not, an unknown fit, or what is no PIL image.
        """
        size = self._settings(size).size
        check_fit(fit)
        several = [images] if isinstance(images, Image.Image) else images
        return [fit_picture(to_rgb(each, pad_color or WHITE), size, fit, pad_color) for each in several]

    def encode(
        self,
        images: Image.Image | Sequence[Image.Image],
        *,
        size: str | None = None,
        fit: str = "crop",
        pad_color: Color | None = None,
    ) -> list[ImageCodes]:
        """Images -> the codes of each, in their order; arguments and errors as in `fit`."""
        pictures = self.fit(images, size=size, fit=fit, pad_color=pad_color)
        encoded: list[ImageCodes] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = pictures[start : start + self.batch_size]
            encoded += self.encode_latents(self.latents_of(batch))
        return encoded

    def decode(
        self,
        codes: ImageCodes | Sequence[ImageCodes],
        *,
        seeds: int | Sequence[int] = 0,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
    ) -> list[Image.Image]:
        """Codes -> pictures, in their order; sizes may be mixed.

        Args:
            codes: one image's or several.
            seeds: of the decoder's noise, one for each image; a single number is the first image's, and the next
                ones count on from it. A picture depends on its own codes and seed alone.
            rounds, flow_steps, decoder_guidance, decoder_temperature, solver: see `GenerationParameters`; None is
                the model's own.

        Raises:
            RequestError: codes that are no image of their size, or a parameter out of range.
        """
        from v2flow_engine.decoding.request import DecodeRequest

        several = [codes] if isinstance(codes, ImageCodes) else list(codes)
        requests = []
        for each, seed in zip(several, give_seeds(seeds, len(several)), strict=True):
            settings = self._settings(
                each.size, rounds, flow_steps, decoder_guidance, decoder_temperature, solver
            )
            requests.append(
                DecodeRequest(
                    codes=each.codes,
                    seed=seed,
                    size=each.size,
                    rounds=settings.rounds,
                    flow_steps=settings.flow_steps,
                    guidance_scale=settings.decoder_guidance,
                    temperature=settings.decoder_temperature,
                    solver=settings.solver,
                )
            )
        pixels: list[np.ndarray] = []
        for start in range(0, len(requests), self.batch_size):
            pixels += self.decoder.decode(requests[start : start + self.batch_size])
        return [Image.fromarray(picture) for picture in pixels]

    def reconstruct(
        self,
        images: Image.Image | Sequence[Image.Image],
        *,
        seeds: int | Sequence[int] = 0,
        size: str | None = None,
        fit: str = "crop",
        pad_color: Color | None = None,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
    ) -> list[Reconstruction]:
        """Images -> what the autoencoder alone and the whole tokenizer make of them; arguments as above."""
        pictures = self.fit(images, size=size, fit=fit, pad_color=pad_color)
        given = give_seeds(seeds, len(pictures))
        made: list[Reconstruction] = []
        for start in range(0, len(pictures), self.batch_size):
            batch, own = (several[start : start + self.batch_size] for several in (pictures, given))
            latents = self.latents_of(batch)
            by_autoencoder = self._autoencoded(latents)
            codes = self.encode_latents(latents)
            by_tokenizer = self.decode(
                codes,
                seeds=own,
                rounds=rounds,
                flow_steps=flow_steps,
                decoder_guidance=decoder_guidance,
                decoder_temperature=decoder_temperature,
                solver=solver,
            )
            made += map(Reconstruction, batch, by_autoencoder, by_tokenizer, codes, own)
        return made

    def variations(
        self,
        image: Image.Image,
        *,
        n: int = 4,
        seed: int = 0,
        size: str | None = None,
        fit: str = "crop",
        pad_color: Color | None = None,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
    ) -> list[Image.Image]:
        """An image -> `n` pictures from its codes, with the noise of the seeds `seed`, `seed + 1`, and so on.

        The first one is its reconstruction with `seed`. Other arguments as above.
        """
        check_whole("n", n, 1, MAX_VARIATIONS)
        codes = self.encode([image], size=size, fit=fit, pad_color=pad_color)
        return self.decode(
            codes * n,
            seeds=seed,
            rounds=rounds,
            flow_steps=flow_steps,
            decoder_guidance=decoder_guidance,
            decoder_temperature=decoder_temperature,
            solver=solver,
        )

    def describe(self, size: str | None = None, **decoder_settings: float | str | None) -> dict[str, Any]:
        """The `parameters` object for pictures of this API: the model, and what its decoder is told."""
        described = describe_parameters(self.folder, self._settings(size, **decoder_settings))
        return {name: described[name] for name in DESCRIBED}

    def _settings(
        self,
        size: str | None,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
    ) -> GenerationParameters:
        return GenerationParameters.resolve(
            self.folder,
            size=size,
            rounds=rounds,
            flow_steps=flow_steps,
            decoder_guidance=decoder_guidance,
            decoder_temperature=decoder_temperature,
            solver=solver,
        )

    @torch.inference_mode()
    def latents_of(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of one of the model's sizes -> latents (B, C, h, w), scaled."""
        return self._exact.autoencoder.encode(to_pixels(pictures).to(self.decoder.device))

    @torch.inference_mode()
    def encode_latents(self, latents: torch.Tensor) -> list[ImageCodes]:
        """latents (B, C, h, w), scaled -> the codes of each image."""
        tokenizer = self._exact.tokenizer
        if tokenizer.config.text_vocab_size is not None and tokenizer.vocabulary is None:
            # Read when first needed: decoding does without, and a large LLM's text rows are large.
            tokenizer.set_vocabulary(self.folder.load_text_embedding().to(latents.device))
        side = self.decoder.autoencoder.downscale
        size = f"{latents.shape[3] * side}x{latents.shape[2] * side}"
        return [ImageCodes(each, size) for each in tokenizer.encode(latents).cpu()]

    @torch.inference_mode()
    def _autoencoded(self, latents: torch.Tensor) -> list[Image.Image]:
        from v2flow_engine.decoding.decoder import to_uint8

        return [Image.fromarray(picture) for picture in to_uint8(self._exact.autoencoder.decode(latents))]


def to_pixels(pictures: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
    """RGB pictures (H, W, 3) of one size -> pixels (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
