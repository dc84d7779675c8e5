"""A model on this machine -> the machine's rates, and the shares of them that both stages reach.

Some batches through the token generator and the decoder, each by itself, and one small job of `v2flow generate` for the
start-up. What comes out lets `plan` predict other sizes, rounds, steps and numbers of images.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.decoding.engine.decoder_engine import DecoderEngine
from v2flow_engine.errors import DataError
from v2flow_engine.planning.decoder_cost import DecoderShape
from v2flow_engine.planning.device_rates import matmul_rate, median_seconds, memory_rate, synchronize
from v2flow_engine.planning.hardware import Device, Hardware, Rates
from v2flow_engine.planning.llm_cost import LlmShape
from v2flow_engine.planning.stages import DECODER_BATCH, TokenWork, decoder_stage, token_stage

PROMPT = "a red apple on a white background"
BATCHES = (8, 64)  # images in flight, few and many: their difference tells a step's overhead from its work
STARTUP_IMAGES = 2
ENCODERS = 4  # threads, as in `offline.stages`
Say = Callable[[str], None]


@dataclass(frozen=True)
class TimedDecoder:
    """Seconds of one image of a batch: masked transformer, autoencoder, and all else; and of encoding its file."""

    transformer: float
    autoencoder: float
    rest: float
    file: float


def measure(
    folder: ModelFolder, shape: DecoderShape, guidance: float, say: Say
) -> tuple[Hardware, Rates, dict]:
    """Calibrate on a GPU, or on the whole machine without one: the hardware, the shares, and what was measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    say("rates of the machine")
    hardware = measure_hardware(device)
    say("the decoder")
    decoder = time_decoder(folder, device, shape)
    say("the LLM")
    prompt_tokens, batches = time_llm(folder, shape.num_visual_tokens, guidance)
    language = LlmShape.from_config(folder.llm_config)
    work = TokenWork(prompt_tokens, shape.num_visual_tokens, 1 if guidance == 1 else 2, max(BATCHES), 0.9)
    rates = to_rates(hardware, shape, language, work, decoder, batches)
    say("the start-up of v2flow generate")
    wall = time_small_job(folder)
    ready = Device(hardware, rates, {})
    image = token_stage(language, ready, work).seconds + decoder_stage(shape, ready, 0.9).seconds
    startup = max(0.0, wall - STARTUP_IMAGES * image)
    measured = {
        "decoder": vars(decoder),
        "llm_seconds": {str(batch): seconds for batch, seconds in batches.items()},
        "prompt_tokens": prompt_tokens,
        "small_job_seconds": wall,
    }
    return hardware, dataclasses.replace(rates, startup=startup), measured


def measure_hardware(device: str) -> Hardware:
    """Rates of a large product and of a copy; both stages compute in float32 on a CPU, and on a GPU in bfloat16."""
    from v2flow_engine.evaluation.report import machine

    on_gpu = device == "cuda"
    about = machine(device)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    memory = (
        torch.cuda.get_device_properties(0).total_memory
        if on_gpu
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    name = about["device"] if on_gpu else f"{about['cpu']}, {about['cores']} cores"
    return Hardware(
        name=name,
        matmul=matmul_rate(device, dtype),
        bandwidth=memory_rate(device),
        memory=float(memory),
        number_bytes=torch.finfo(dtype).bits // 8,
        source="measured: a product of 2048 x 2048, a copy of 256 MiB",
        whole_machine=not on_gpu,
    )


class _Timed:
    """A function whose time is summed over its calls."""

    def __init__(self, function: Callable[..., Any], device: str) -> None:
        self.function, self.device, self.seconds = function, device, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        synchronize(self.device)
        start = time.perf_counter()
        result = self.function(*args, **kwargs)
        synchronize(self.device)
        self.seconds += time.perf_counter() - start
        return result


def time_decoder(folder: ModelFolder, device: str, shape: DecoderShape, repeats: int = 3) -> TimedDecoder:
    """Decode a batch of random codes; the run with the median time counts."""
    from v2flow_engine.images import ImageMetadata, encode_image

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    decoder = DecoderEngine.from_folder(folder, device, dtype)
    transformer = _Timed(decoder.model.transformer._forward, device)
    autoencoder = _Timed(decoder.autoencoder.decode, device)
    decoder.model.transformer._forward = transformer  # type: ignore[method-assign]
    decoder.autoencoder.decode = autoencoder  # type: ignore[method-assign]
    requests = _decode_requests(folder, shape)
    runs, pictures = [], []
    for _ in range(repeats + 1):
        transformer.seconds = autoencoder.seconds = 0.0
        start = time.perf_counter()
        pictures = decoder.decode(requests)
        whole = time.perf_counter() - start
        runs.append((whole, transformer.seconds, autoencoder.seconds))
    whole, inside, pixels = sorted(runs[1:])[repeats // 2]

    def encode() -> None:
        with ThreadPoolExecutor(max_workers=ENCODERS) as pool:
            list(pool.map(lambda each: encode_image(each, "png", ImageMetadata(PROMPT, 0, {})), pictures))

    count = len(requests)
    file = median_seconds(encode, "cpu", repeats) / count
    return TimedDecoder(inside / count, pixels / count, (whole - inside - pixels) / count, file)


def _decode_requests(folder: ModelFolder, shape: DecoderShape) -> list[Any]:
    from v2flow_engine.decoding.request import DecodeRequest

    generator = torch.Generator().manual_seed(0)
    size = next(size for size, grid in folder.grids.items() if tuple(grid) == tuple(shape.grid))
    return [
        DecodeRequest(
            codes=torch.randint(
                shape.tokenizer.codebook_size, (shape.num_visual_tokens,), generator=generator
            ),
            seed=seed,
            size=size,
            rounds=shape.rounds,
            flow_steps=shape.flow_steps,
            guidance_scale=shape.guidance,
            temperature=folder.defaults.decoder_temperature,
            solver=shape.solver,
        )
        for seed in range(2 * DECODER_BATCH)
    ]


def time_llm(folder: ModelFolder, visual_tokens: int, guidance: float) -> tuple[int, dict[int, float]]:
    """Tokens of the prompt; and for each of `BATCHES` the seconds that writing so many images at once takes."""
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.generation.token_generator import TokenGenerator

    size = next(s for s, grid in folder.grids.items() if grid[0] * grid[1] == visual_tokens)
    prompt = folder.prompt_encoder.encode(PROMPT, size)

    def requests(count: int) -> list[TokenRequest]:
        return [
            TokenRequest(prompt, visual_tokens, seed, guidance, folder.defaults.temperature)
            for seed in range(count)
        ]

    generator = TokenGenerator(folder, guided=guidance != 1.0)
    try:
        seconds = {
            batch: median_seconds(lambda batch=batch: generator.generate(requests(batch)), "cpu", 3)
            for batch in BATCHES
        }
    finally:
        generator.close()
    return len(prompt), seconds


def to_rates(
    hardware: Hardware,
    shape: DecoderShape,
    language: LlmShape,
    work: TokenWork,
    decoder: TimedDecoder,
    llm_seconds: dict[int, float],
) -> Rates:
    """Shares of the roofline, so that the stages' costs are what was measured. startup is still 0."""
    perfect = Device(hardware, Rates(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0), {})
    few, many = sorted(llm_seconds)
    image = (llm_seconds[many] - llm_seconds[few]) / (many - few)
    overhead = (llm_seconds[few] - few * image) / work.visual_tokens
    if image <= 0 or overhead < 0:  # too small a model, or too busy a machine, to tell the two apart
        image, overhead = llm_seconds[many] / many, 0.0
    llm = token_stage(language, perfect, work).seconds / image
    parts = decoder_stage(shape, perfect, 0.9).parts
    megapixels = shape.num_pixels / 1e6
    return Rates(
        llm_bandwidth=llm,
        llm_compute=llm,
        step_overhead=overhead,
        transformer=parts["masked transformer"] / decoder.transformer,
        velocity=parts["velocity net"] / decoder.rest,
        autoencoder=parts["autoencoder"] / decoder.autoencoder,
        encode=decoder.file / megapixels,
        startup=0.0,
    )


def time_small_job(folder: ModelFolder) -> float:
    """Seconds of `v2flow generate` through Ray for `STARTUP_IMAGES` pictures. Raises `DataError` if it fails."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        job = ("--model", str(folder.path), "--prompt", PROMPT, "--n", str(STARTUP_IMAGES))
        run_generate(*job, "--out", f"{out}/pictures", "--token-actors", "1", "--decoder-actors", "1")
        return time.perf_counter() - start


def run_generate(*options: str) -> None:
    """`v2flow generate` in a process of its own. Raises `DataError` with the last line that it said if it fails."""
    command = [sys.executable, "-m", "v2flow_engine.cli", "generate", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"v2flow generate ended with status {result.returncode}: {last}")
