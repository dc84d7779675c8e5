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
_Item = tuple["torch.Tensor | HostPicture", Pixels]  # still to be decoded, or on its way from the device


class BackgroundPixels:
    """A `PixelDecoder` that nobody else uses while pictures are under way.

    Who shares a batch depends on the moment, and with it a picture's last bits.
    """

    def __init__(self, pixels: PixelDecoder, device: torch.device) -> None:
        self._pixels, self._cuda = pixels, device.type == "cuda"
        self._waiting: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "v2flow-pixels")

    def submit(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        """latents (C, h, w) of each image -> futures, which raise what the autoencoder raises.

        One that is cancelled before its turn is not computed. Those of one size are done in the order of submission.
        """
        futures: list[Pixels] = [Future() for _ in latents]
        made: Sequence[torch.Tensor | HostPicture] = latents
        if self._cuda:
            with torch.inference_mode():
                made = self._pixels(latents)
        if futures:
            with self._lock:
                self._waiting.extend(zip(made, futures, strict=True))
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
                pictures = self._pictures([each for each, _ in batch])
            except Exception as error:
                for future in futures:
                    future.set_exception(error)
            else:
                for future, picture in zip(futures, pictures, strict=True):
                    future.set_result(picture)

    def _pictures(self, batch: Sequence[torch.Tensor | HostPicture]) -> list[np.ndarray]:
        latents = [each for each in batch if isinstance(each, torch.Tensor)]
        with torch.inference_mode():
            made = self._pixels(latents) if latents else batch
        return [picture.numpy() for picture in made if isinstance(picture, HostPicture)]

    def _next_batch(self) -> list[_Item]:
        """All that wait, of the first one's size, up to a batch; empty if nothing does."""
        batch: list[_Item] = []
        with self._lock:
            left: deque[_Item] = deque()
            for each, future in self._waiting:
                fits = len(batch) < self._pixels.batch and (not batch or _size(each) == _size(batch[0][0]))
                if not fits:
                    left.append((each, future))
                elif future.set_running_or_notify_cancel():
                    batch.append((each, future))
            self._waiting = left
        return batch


def _size(each: torch.Tensor | HostPicture) -> torch.Size:
    return each.shape if isinstance(each, torch.Tensor) else each.pixels.shape
