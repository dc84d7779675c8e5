"""The ways to make many pictures that the offline benchmark compares, from prompts to files.

Each runs in a process of its own. Loading is told apart from work. Pictures of every way have the same prompts, seeds,
size and settings.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.errors import DataError
from v2flow_engine.planning.calibrate import run_generate

BATCH = 64
WARM_UP = 4  # images


@dataclass(frozen=True)
class Measured:
    """images: made. seconds: of work, from the first batch on. loading: seconds before. overhead: see `ray_data`.

    middle: images/s of the pictures from a quarter to three quarters of all, which neither a queue that fills nor one
        that runs empty speeds up; None where they came at once.
    """

    images: int
    seconds: float
    loading: float
    overhead: float | None = None
    middle: float | None = None

    @property
    def rate(self) -> float:
        """Images per second of work."""
        return self.images / self.seconds


def in_own_process(
    way: Callable[[str, Sequence[str], int, Path, str], Measured],
    model: str,
    prompts: Sequence[str],
    images: int,
    out: Path,
    dtype: str,
) -> Measured:
    """Run a way where nothing else was loaded."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, model, prompts, images, out, dtype).result()


def plain_loop(model: str, prompts: Sequence[str], images: int, out: Path, dtype: str) -> Measured:
    """Batches through transformers' guided `generate`, the plain sampler, the autoencoder, and Pillow."""
    from PIL import Image

    from benchmarks.token_work import TokenWork
    from benchmarks.token_writers import Writer, transformers_writer
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.decoding.decoder import Decoder
    from v2flow_engine.precision import decoder_dtype

    started = time.perf_counter()
    folder = open_model(model)
    requests = plan(model, prompts, images)
    parameters = requests[0].parameters
    work = TokenWork(
        model=str(folder.path),
        random=False,
        prompts=tuple(
            tuple(folder.prompt_encoder.encode(request.prompt, parameters.size)) for request in requests
        ),
        num_visual_tokens=folder.vocabulary.num_visual_tokens(parameters.size),
        guidance_scale=parameters.guidance_scale,
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        dtype=dtype,
        device="cpu",
    )
    write = transformers_writer(Writer("transformers"), work)
    decoder = Decoder.from_folder(folder, "cpu", decoder_dtype(dtype, "cpu"))
    decoder.max_batch = BATCH

    def make(numbers: range) -> None:
        some = [requests[number] for number in numbers]
        tokens = write(numbers, 0, parameters.guidance_scale, parameters.temperature)
        asked = [r.decode_request(folder, ids) for r, ids in zip(some, tokens, strict=True)]
        for request, pixels in zip(some, decoder.decode(asked), strict=True):
            Image.fromarray(pixels).save(out / f"{request.index:06d}.png")

    make(range(min(WARM_UP, images)))
    loaded = time.perf_counter()
    for first in range(0, images, BATCH):
        make(range(first, min(first + BATCH, images)))
    return Measured(images, time.perf_counter() - loaded, loaded - started)


def single_process(model: str, prompts: Sequence[str], images: int, out: Path, dtype: str) -> Measured:
    """The two stages of `v2flow generate`, one after the other, without Ray; whole files, no manifest."""
    from v2flow_engine.files import write_whole
    from v2flow_engine.generation.pipeline import Pipeline
    from v2flow_engine.offline.batches import by_size
    from v2flow_engine.offline.stages import make_images, make_tokens

    started = time.perf_counter()
    requests = plan(model, prompts, images)
    with Pipeline.from_pretrained(model, dtype=dtype) as pipeline:

        def make(some: Sequence[Any]) -> None:
            tokens = make_tokens(pipeline.folder, pipeline.token_generator, some)
            for made in make_images(pipeline.folder, pipeline.decoder, some, tokens, "png", {"model": model}):
                if made.error:
                    raise DataError(made.error)
                write_whole(out / f"{made.index:06d}.png", made.image)

        make(requests[:WARM_UP])
        loaded = time.perf_counter()
        for batch in by_size(requests, BATCH):
            make(batch)
        return Measured(images, time.perf_counter() - loaded, loaded - started)


def ray_data(
    model: str,
    prompts: Sequence[str],
    images: int,
    out: Path,
    dtype: str,
    token_actors: int,
    decoder_actors: int,
) -> Measured:
    """`v2flow generate` with so many actors, as a user runs it.

    Work is counted from the first finished pictures to the last ones, and so are the pictures. overhead: the share of
    that time in which an actor of the busier pool did not work: Ray's, the feed's and the sink's part of the run.
    """
    rows = out.with_suffix(".txt")
    rows.write_text("".join(f"{prompts[i % len(prompts)]}\n" for i in range(images)), encoding="utf-8")
    actors = ("--token-actors", str(token_actors), "--decoder-actors", str(decoder_actors))
    run_generate("--model", model, "--dtype", dtype, "--prompts", str(rows), "--out", str(out), *actors)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    timings = [json.loads(line)["timings"] for line in (out / "manifest.jsonl").open(encoding="utf-8")]
    return steady(metrics, timings, {"tokens": token_actors, "decoder": decoder_actors})


def steady(metrics: dict[str, Any], timings: Iterable[dict[str, float]], actors: dict[str, int]) -> Measured:
    """What a job's metrics.json and its pictures' timings say of the time in which both pools were at work."""
    history = [(point["seconds"], point["made"]) for point in metrics["history"]]
    first = next((point for point in history if point[1] > 0), (metrics["seconds"], 0))
    last = next(point for point in history if point[1] == history[-1][1])
    images, seconds = last[1] - first[1], last[0] - first[0]
    if images <= 0:  # all came in one batch
        images, seconds = metrics["made"], metrics["seconds"] - metrics["seconds_to_first_picture"]
        return Measured(images, max(seconds, 1e-9), metrics["seconds_to_first_picture"])
    sums = dict.fromkeys(actors, 0.0)
    for each in timings:
        for pool in sums:
            sums[pool] += each[pool]
    busy = max(sums[pool] / metrics["made"] * images / count for pool, count in actors.items())
    overhead = max(0.0, 1 - busy / seconds)
    return Measured(images, seconds, metrics["seconds_to_first_picture"], overhead, _middle(history))


def _middle(history: Sequence[tuple[float, int]]) -> float | None:
    last = history[-1][1]
    (start, before), (end, after) = (
        next(point for point in history if point[1] >= share * last) for share in (0.25, 0.75)
    )
    return (after - before) / (end - start) if after > before else None


def plan(model: str, prompts: Sequence[str], images: int) -> list[Any]:
    """The requests of every way: prompts in turn, seeds from 0 on, the model's own settings."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.image_request import plan_requests
    from v2flow_engine.generation.parameters import GenerationParameters

    parameters = GenerationParameters.resolve(open_model(model))
    return plan_requests([prompts[i % len(prompts)] for i in range(images)], parameters, seed=0)
