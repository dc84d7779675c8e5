"""latents -> futures of pictures: the autoencoder in a thread beside the one that draws the next rounds.

    submit -> queue -> (thread: all that wait, of one size, up to a batch -> autoencoder) -> futures, in order

On a processor rounds and pixels then run on different cores, and pictures that were finished meanwhile share a batch.
On CUDA the autoencoder is queued at once, as the engine does it, and the thread waits for the copies alone. Knows
nothing of requests.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from v2flow_engine.decoding.engine.pixels import HostPicture, PixelDecoder

Pixels = Future[np.ndarray]  # (H, W, 3) uint8


class BackgroundPixels:
    """A `PixelDecoder` that nobody else uses while pictures are under way.

    Who shares a batch depends on the moment, and with it a picture's last bits.
    """

    def __init__(self, pixels: PixelDecoder, device: torch.device) -> None:
        self._pixels, self._cuda = pixels, device.type == "cuda"
        self._waiting: deque[tuple[torch.Tensor, Pixels]] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "v2flow-pixels")

    def submit(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        """latents (C, h, w) of each image -> futures, which raise what the autoencoder raises.

        One that is cancelled before its turn is not computed. Those of one size are done in the order of submission.
        """
        futures: list[Pixels] = [Future() for _ in latents]
        if self._cuda:
            with torch.inference_mode():
                pictures = self._pixels(latents)
            for picture, future in zip(pictures, futures, strict=True):
                self._thread.submit(_wait_for, picture, future)
        elif futures:
            with self._lock:
                self._waiting.extend(zip(latents, futures, strict=True))
            self._thread.submit(self._work)
        return futures

    def close(self) -> None:
        """End the thread after the batch that it is at; what waits is cancelled."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.cancel()
        self._thread.shutdown(cancel_futures=True)

    def _work(self) -> None:
        while batch := self._next_batch():
            futures = [future for _, future in batch]
            try:
                with torch.inference_mode():
                    pictures = [
                        picture.numpy() for picture in self._pixels([latents for latents, _ in batch])
                    ]
            except Exception as error:
                for future in futures:
                    future.set_exception(error)
            else:
                for future, picture in zip(futures, pictures, strict=True):
                    future.set_result(picture)

    def _next_batch(self) -> list[tuple[torch.Tensor, Pixels]]:
        """All that wait, of the first one's size, up to a batch; empty if nothing does."""
        batch: list[tuple[torch.Tensor, Pixels]] = []
        with self._lock:
            left: deque[tuple[torch.Tensor, Pixels]] = deque()
            for latents, future in self._waiting:
                fits = len(batch) < self._pixels.batch and (not batch or latents.shape == batch[0][0].shape)
                if not fits:
                    left.append((latents, future))
                elif future.set_running_or_notify_cancel():
                    batch.append((latents, future))
            self._waiting = left
        return batch


def _wait_for(picture: HostPicture, future: Pixels) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(picture.numpy())
    except Exception as error:
        future.set_exception(error)
