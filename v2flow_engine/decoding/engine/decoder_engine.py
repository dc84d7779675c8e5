"""DecodeRequests -> pictures, with images joining and leaving between rounds.

    add -> queue -> (step: admit; one masked round for everything that runs; finished latents -> pixels)

The same latents as `decoding.sampler` gives for the request alone. Knows nothing of prompts or files. Calls must come
one after the other, those of `decode` aside.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.decoding.engine.image_state import ImageSchedule, ImageState
from v2flow_engine.decoding.engine.model import EngineModel
from v2flow_engine.decoding.engine.pace import Pace
from v2flow_engine.decoding.engine.pixels import HostPicture, PixelDecoder
from v2flow_engine.decoding.engine.preview import preview_latents
from v2flow_engine.decoding.engine.rounds import run_round
from v2flow_engine.decoding.engine.scheduler import Scheduler
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.engine.warm_up import WarmUp
from v2flow_engine.decoding.limits import Limits
from v2flow_engine.decoding.request import DecodeRequest, ImageNoise, image_noise
from v2flow_engine.errors import RequestError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

DEFAULT_MAX_TOKENS = 16384
PROCESSOR_MAX_TOKENS = 3072  # more rows at once leave the caches and are slower, see docs/decoder.md


@dataclass(frozen=True)
class DecodedImage:
    """latents: (C, h, w), scaled, float32, on the device. on_host: the picture, which may be on its way."""

    request_id: str
    latents: torch.Tensor
    on_host: HostPicture

    @property
    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8. On CUDA the thread that asks waits until it has been decoded and copied."""
        return self.on_host.numpy()


@dataclass(frozen=True)
class _Queued:
    request: DecodeRequest
    schedule: ImageSchedule
    own: ImageNoise | None


class DecoderEngine:
    """Continuous batching for one model.

    Args:
        tokenizer: in eval mode, on its device; its dtype is that of weights and activations. Noise, solver state and
            latents are float32 whatever it is.
        autoencoder: likewise, in a dtype of its own.
        settings: None for the defaults.

    Raises:
        RequestError: a budget too small for one guided image of the full grid, settings that need CUDA, or a model
            without a flow.
    """

    def __init__(
        self, tokenizer: VisualTokenizer, autoencoder: Autoencoder, settings: EngineSettings | None = None
    ) -> None:
        if tokenizer.config.flow.method == "regression":
            raise RequestError("the engine integrates a flow, and this model has none: use Decoder")
        self.settings = settings or EngineSettings()
        self.tokenizer, self.autoencoder = tokenizer, autoencoder
        self.limits = Limits(tokenizer.config, autoencoder.downscale)
        self.model = EngineModel(tokenizer, self.settings)
        self.pixels = PixelDecoder(autoencoder, self.settings)
        largest = 2 * (tokenizer.config.num_visual_tokens + tokenizer.config.num_positions)
        default = PROCESSOR_MAX_TOKENS if self.device.type == "cpu" else DEFAULT_MAX_TOKENS
        budget = self.settings.max_tokens or max(default, largest)
        if budget < largest:
            raise RequestError(f"max_tokens must be at least {largest}, one guided image, got {budget}")
        self.scheduler: Scheduler[_Queued] = Scheduler(budget)
        self._running: dict[str, ImageState] = {}
        self._pace, self._turn = Pace(self.device), threading.Lock()
        self._count = 0

    @classmethod
    def from_folder(
        cls,
        folder: TokenizerFolder,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        settings: EngineSettings | None = None,
    ) -> DecoderEngine:
        """Load both parts of a folder, which needs no LLM."""
        tokenizer = folder.load_visual_tokenizer(device, dtype)
        return cls(tokenizer, folder.load_autoencoder(device, dtype), settings)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self.scheduler.num_waiting or self.scheduler.num_running)

    def add(
        self, request: DecodeRequest, request_id: str | None = None, own: ImageNoise | None = None
    ) -> str:
        """Queue an image and return its id.

        Args:
            request_id: None for a new one.
            own: order and noise in place of those of the request's seed.

        Raises:
            RequestError: the model cannot make this picture, or the id is in use.
        """
        self.limits.check(request)
        num_positions, num_masked = self.limits.num_positions(request), self.limits.num_masked(request)
        schedule = ImageSchedule.of(self.model.tokenizer, request, num_positions, num_masked)
        cost = schedule.passes * (len(request.codes) + num_positions)
        if request_id is None:
            request_id = f"image-{self._count}"
        self.scheduler.add(request_id, _Queued(request, schedule, own), cost)
        self._count += 1
        return request_id

    def has(self, request_id: str) -> bool:
        """Whether the image is waiting or under way."""
        return request_id in self._running or self.scheduler.is_waiting(request_id)

    def rounds_done(self, request_id: str) -> int | None:
        """Rounds behind an image under way; None for one that is waiting, finished or unknown."""
        state = self._running.get(request_id)
        return None if state is None else state.round

    def cancel(self, request_id: str) -> None:
        """Forget an image, waiting or under way; its place is free at once. Raises `RequestError` if there is none."""
        self.scheduler.leave(request_id)
        self._running.pop(request_id, None)

    def cancel_all(self) -> None:
        """Forget every image, waiting or under way."""
        for request_id in self.scheduler.request_ids:
            self.cancel(request_id)

    @torch.inference_mode()
    def step(self) -> list[DecodedImage]:
        """Admit what there is room for, run one round, and return the images that it finished.

        On CUDA it queues the work and comes back; whoever asks for an image's picture waits for it.
        """
        images = self._decoded(self._advance())
        self._pace.keep()
        return images

    @torch.inference_mode()
    def step_latents(self) -> list[tuple[str, torch.Tensor]]:
        """The same as far as latents: the id of each image that the round finished, and (C, h, w), scaled, float32."""
        finished = [(state.request_id, state.image_latents()) for state in self._advance()]
        self._pace.keep()
        return finished

    def _advance(self) -> list[ImageState]:
        self._start(self.scheduler.admit())
        drawing = [state for state in self._running.values() if not state.done]
        if drawing:
            run_round(self.model, drawing)
        finished = [state for state in self._running.values() if state.done]
        for state in finished:
            self.scheduler.leave(state.request_id)
            del self._running[state.request_id]
        return finished

    @torch.inference_mode()
    def preview_latents(self, request_ids: Sequence[str]) -> list[torch.Tensor]:
        """Latents (C, h, w), float32, of images under way as they might end; see `engine.preview`.

        Raises `RequestError` for an image that has not had a place yet, is finished, or never was.
        """
        for request_id in request_ids:
            if request_id not in self._running:
                state = "is still waiting" if self.scheduler.is_waiting(request_id) else "is not running"
                raise RequestError(f"request {request_id!r} {state}: there is nothing to preview")
        return (
            preview_latents(self.model, [self._running[each] for each in request_ids]) if request_ids else []
        )

    @torch.inference_mode()
    def preview(self, request_id: str) -> np.ndarray:
        """The picture, (H, W, 3) uint8, of `preview_latents` for one image."""
        return self.pixels(self.preview_latents([request_id]))[0].numpy()

    def decode(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        """Requests -> pictures (H, W, 3) uint8 in the same order; threads that call it take turns.

        For an engine without other requests, whose images would be lost. Raises `RequestError` before any work.
        """
        images: dict[str, DecodedImage] = {}
        with self._turn:
            ids = self.add_all(requests)
            with self.cancelling():
                while self.busy:
                    images |= {image.request_id: image for image in self.step()}
        return [images[request_id].picture for request_id in ids]

    @torch.inference_mode()
    def decode_latents(self, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
        """The same as far as latents (C, h, w), scaled, float32, on the device."""
        latents: dict[str, torch.Tensor] = {}
        with self._turn:
            ids = self.add_all(requests)
            with self.cancelling():
                while self.busy:
                    latents |= {state.request_id: state.image_latents() for state in self._advance()}
        return [latents[request_id] for request_id in ids]

    def add_all(self, requests: Sequence[DecodeRequest]) -> list[str]:
        """Queue all of them in an idle engine, or none. Raises `RequestError` like `add`, or if it is busy."""
        if self.busy:
            raise RequestError("this needs an idle engine; this one has requests under way")
        for request in requests:
            self.limits.check(request)
        return [self.add(request) for request in requests]

    @contextlib.contextmanager
    def cancelling(self) -> Iterator[None]:
        """Forget all images if the block fails: out of memory, an interrupt. The next call finds an idle engine."""
        try:
            yield
        except BaseException:
            self.cancel_all()
            raise

    def warm_up(self, requests: Sequence[DecodeRequest]) -> WarmUp:
        """Decode typical requests and throw the pictures away, so that later ones find all compiled and recorded.

        Each request is run alone first and then all of them together. Raises `RequestError` for an engine that is
        not idle, or a request that it cannot serve.
        """
        started, rounds = time.perf_counter(), 0
        batches = [[request] for request in requests] + ([list(requests)] if len(requests) > 1 else [])
        for batch in batches:
            self.add_all(batch)
            with self.cancelling():
                while self.busy:
                    for image in self.step():
                        image.on_host.numpy()
                    rounds += 1
        return WarmUp(sum(map(len, batches)), rounds, time.perf_counter() - started)

    def _start(self, admitted: Sequence[tuple[str, _Queued]]) -> None:
        """Conditions of all newcomers in one call, and their states."""
        if not admitted:
            return
        model = self.model
        codes = torch.cat([queued.request.codes.to(model.device) for _, queued in admitted])
        conditions = model.tokenizer.conditions(codes[None])[0]
        lengths = [len(queued.request.codes) for _, queued in admitted]
        for (request_id, queued), rows in zip(admitted, conditions.split(lengths), strict=True):
            request = queued.request
            grid = self.limits.grid_of(request.size)
            own = queued.own or image_noise(model.tokenizer.config, request.seed, grid, request.temperature)
            state = ImageState(
                request_id, request, queued.schedule, model.tables(grid), rows, own, model.tokenizer
            )
            state.start(model.transformer)
            self._running[request_id] = state

    def _decoded(self, states: Sequence[ImageState]) -> list[DecodedImage]:
        latents = [state.image_latents() for state in states]
        pictures = self.pixels(latents)
        return [
            DecodedImage(state.request_id, own, picture)
            for state, own, picture in zip(states, latents, pictures, strict=True)
        ]
