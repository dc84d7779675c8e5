"""prompts -> PIL images in one process: a token generator and a decoder, one after the other.

The Python API for scripts, notebooks and tests. Knows nothing of Ray or of files other than the picture that
a caller saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from PIL import Image

from v2flow_engine.checkpoint import ModelFolder, TokenizerFolder, open_model
from v2flow_engine.generation.image_request import ImageRequest, plan_requests
from v2flow_engine.generation.model_files import check_weight_files, model_digest
from v2flow_engine.generation.parameters import GenerationParameters
from v2flow_engine.images import ImageMetadata, encode_image, format_of
from v2flow_engine.precision import decoder_dtype, named_dtype

if TYPE_CHECKING:
    import numpy as np

    from v2flow_engine.decoding.load import PictureDecoder
    from v2flow_engine.decoding.request import DecodeRequest
    from v2flow_engine.generation.editing import EditedImage
    from v2flow_engine.generation.image_tokenizer import ImageTokenizer
    from v2flow_engine.generation.token_generator import TokenGenerator
    from v2flow_engine.reading import Color

DEFAULT_MODEL = "v2flow-emoji"
DECODER_BATCH = 16


@dataclass(frozen=True)
class GeneratedImage:
    """A picture and how it was made. `parameters` names the model and the generation parameters."""

    image: Image.Image
    prompt: str
    seed: int
    parameters: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a PNG, WebP or JPEG file (by its suffix) with prompt, seed and parameters in its metadata."""
        metadata = ImageMetadata(self.prompt, self.seed, self.parameters)
        Path(path).write_bytes(encode_image(self.image, format_of(path), metadata))


def describe_parameters(folder: TokenizerFolder, parameters: GenerationParameters) -> dict[str, Any]:
    """The `parameters` object that goes into pictures and manifests: which model, and its settings."""
    return {"model": folder.config.name, "model_digest": model_digest(folder), **parameters.to_dict()}


def default_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Pipeline:
    """A loaded model that turns prompts into pictures. Use `from_pretrained`; close it or use it in a
    `with` block.
    """

    def __init__(
        self,
        folder: ModelFolder,
        token_generator: TokenGenerator,
        decoder: PictureDecoder,
        dtype: str = "auto",
    ) -> None:
        self.folder = folder
        self.token_generator = token_generator
        self.decoder = decoder
        self.dtype = dtype

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = DEFAULT_MODEL, *, device: str | None = None, dtype: str = "auto"
    ) -> Pipeline:
        """Load a model by the name of an embedded one or by its folder.

        Args:
            device: of the decoder; None takes a GPU where there is one. The LLM runs where the installed
                vLLM does.
            dtype: that both compute in, "float32" or "bfloat16"; "auto" is float32 on a CPU and bfloat16 on a GPU.

        Raises:
            ModelFolderError: the model is unknown, incomplete or damaged; found before any engine starts.
            RequestError: an unknown dtype.
        """
        device = device or default_device()
        precision = decoder_dtype(dtype, device)
        folder = open_model(name_or_dir)
        check_weight_files(folder)
        from v2flow_engine.decoding.load import load_decoder
        from v2flow_engine.generation.token_generator import TokenGenerator

        decoder = load_decoder(folder, device=device, dtype=precision)
        return cls(folder, TokenGenerator(folder, dtype=dtype), decoder, dtype)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        n: int = 1,
        seed: int | None = None,
        size: str | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
        negative_prompt: str | None = None,
    ) -> list[GeneratedImage]:
        """Make `n` pictures of each prompt, in the order of the prompts.

        Args:
            prompts: one prompt or several.
            n: pictures of each prompt.
            seed: picture k of the call gets `seed + k` and can be made again alone with it; None draws a
                fresh seed.
            size: "WxH" in pixels. This and the rest default to the model's own; see `GenerationParameters`.
            negative_prompt: not supported; there only to say so.

        Raises:
            RequestError: a prompt is empty or too long, or a parameter is out of range; nothing is generated
            then. EngineDeadError: the LLM's engine stopped working.
        """
        parameters = GenerationParameters.resolve(
            self.folder,
            size=size,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            rounds=rounds,
            flow_steps=flow_steps,
            decoder_guidance=decoder_guidance,
            decoder_temperature=decoder_temperature,
            solver=solver,
            negative_prompt=negative_prompt,
        )
        requests = plan_requests(prompts, parameters, n=n, seed=seed)
        described = describe_parameters(self.folder, parameters) | named_dtype(self.dtype)
        return [
            GeneratedImage(Image.fromarray(pixels), request.prompt, request.seed, dict(described))
            for request, pixels in zip(requests, self.run(requests), strict=True)
        ]

    def run(self, requests: Sequence[ImageRequest]) -> list[np.ndarray]:
        """requests -> pixels (H, W, 3) uint8 each, in the same order."""
        visual_token_ids = self.token_generator.generate([r.token_request(self.folder) for r in requests])
        decode_requests = [
            request.decode_request(self.folder, ids)
            for request, ids in zip(requests, visual_token_ids, strict=True)
        ]
        return self.decode(decode_requests)

    def decode(self, decode_requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """What the decoder is asked -> pixels (H, W, 3) uint8 each, in the same order."""
        return self.decoder.decode(decode_requests)

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        """The same model's, for pictures that are there already."""
        from v2flow_engine.generation.image_tokenizer import ImageTokenizer

        return ImageTokenizer(self.folder, self.decoder)

    def edit(
        self,
        image: Image.Image,
        mask: Image.Image | None,
        prompt: str,
        *,
        n: int = 1,
        seed: int | None = None,
        size: str | None = None,
        fit: str = "crop",
        pad_color: Color | None = None,
        raw: bool = False,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        rounds: int | None = None,
        flow_steps: int | None = None,
        decoder_guidance: float | None = None,
        decoder_temperature: float | None = None,
        solver: str | None = None,
        negative_prompt: str | None = None,
    ) -> list[EditedImage]:
        """Draw a part of an image anew, as the prompt says, `n` times; the rest stays as it is.

        Args:
            image: of any size and mode; it is fitted as in `ImageTokenizer.fit`.
            mask: of the image's size: white, or if it has transparent parts these, is drawn anew; see
                `v2flow_engine.masks`. None takes the image's own transparent parts.
            prompt: for the whole picture, as in `generate`.
            raw: the decoder's pixels everywhere, in place of the original's own outside the mask.
            rounds: more than there are latent positions to draw count as so many.

        The other arguments are those of `generate`.

        Raises:
            RequestError: as in `generate`, and for a mask that is empty or of another size than the image.
        """
        from v2flow_engine.generation.editing import plan_edit, run_edit

        plan = plan_edit(
            self.folder,
            image,
            mask,
            prompt,
            n=n,
            seed=seed,
            fit=fit,
            pad_color=pad_color,
            size=size,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            rounds=rounds,
            flow_steps=flow_steps,
            decoder_guidance=decoder_guidance,
            decoder_temperature=decoder_temperature,
            solver=solver,
            negative_prompt=negative_prompt,
        )
        return run_edit(self, plan, raw=raw)

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self.token_generator.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
