"""The writers that the token benchmark compares, each in a process of its own: images -> visual_token_ids.

vLLM keeps state per process and changes torch's threads for the whole of it, so a writer shares its process with no
other. The parent tells one at a time what to write.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.token_work import TokenWork

Write = Callable[[range, int, float, float], list[list[int]]]
"""(images' numbers, first seed, guidance scale, temperature) -> visual_token_ids of each."""


@dataclass(frozen=True)
class Writer:
    """engine: "vllm" or "transformers". guided, compiled: of vLLM, the deployment. most: images at once.

    processes: engines that share the images and the processor's threads.
    """

    engine: str
    guided: bool = True
    most: int = 64
    compiled: bool = False
    processes: int = 1


class WriterProcesses:
    """A writer in processes of its own; `write` waits for them and says how long they wrote."""

    def __init__(self, writer: Writer, work: TokenWork, threads: int) -> None:
        self._parts = [_Part(writer, work, number, threads) for number in range(writer.processes)]
        for part in self._parts:
            part.answer()

    def write(
        self, images: int, seed: int, scale: float, temperature: float
    ) -> tuple[list[list[int]], float]:
        """visual_token_ids, and seconds until the last of the processes was done."""
        start = time.perf_counter()
        for part in self._parts:
            part.send((images, seed, scale, temperature))
        written: list[list[int]] = [[]] * images
        for number, part in enumerate(self._parts):
            written[number :: len(self._parts)] = part.answer()
        return written, time.perf_counter() - start

    def close(self) -> None:
        """End the processes."""
        for part in self._parts:
            part.close()


class _Part:
    """One of a writer's processes: it writes every so-manieth image."""

    def __init__(self, writer: Writer, work: TokenWork, number: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, writer, work, number, threads), daemon=True
        )
        self._process.start()
        theirs.close()

    def send(self, asked: tuple[int, int, float, float]) -> None:
        self._pipe.send(asked)

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(timeout=60)
        if self._process.is_alive():
            self._process.kill()

    def answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a writer's process ended; its own message is above") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Connection, writer: Writer, work: TokenWork, number: int, threads: int) -> None:
    sys.stdout = sys.stderr  # the parent's standard output ends with the document
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if writer.processes > 1 and work.device == "cpu":
        _take_share(number, writer.processes)
        threads = max(1, threads // writer.processes)
    torch.set_num_threads(threads)
    try:
        write = (_vllm if writer.engine == "vllm" else transformers_writer)(writer, work)
        pipe.send(None)
        while (asked := pipe.recv()) is not None:
            images, *rest = asked
            numbers = range(number, images, writer.processes)
            pipe.send(write(numbers, *rest) if numbers else [])
    except EOFError:  # the parent is gone
        return
    except Exception as error:
        pipe.send(f"{writer.engine}: {type(error).__name__}: {error}")
        raise


def _take_share(number: int, processes: int) -> None:
    """Keep this process to its share of the processor's cores, as an engine for each would be deployed."""
    cores = sorted(os.sched_getaffinity(0))
    share = cores[number * len(cores) // processes : (number + 1) * len(cores) // processes]
    if share:
        os.sched_setaffinity(0, share)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, share))
        os.environ["OMP_NUM_THREADS"] = str(len(share))


def _vllm(writer: Writer, work: TokenWork) -> Write:
    """Requests with a seed each, as users get them; no prefix is shared, as transformers shares none."""
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.generation.token_generator import TokenGenerator

    arguments = {"enable_prefix_caching": False} | ({"load_format": "dummy"} if work.random else {})
    if writer.compiled:
        arguments["enforce_eager"] = False
    most = -(-writer.most // writer.processes)
    generator = TokenGenerator(
        work.folder(), dtype=work.dtype, max_num_seqs=most, guided=writer.guided, engine_args=arguments
    )

    def write(images: range, seed: int, scale: float, temperature: float) -> list[list[int]]:
        return generator.generate(
            [
                TokenRequest(
                    work.prompt(number), work.num_visual_tokens, seed + number, scale, temperature, work.top_k
                )
                for number in images
            ]
        )

    return write


def transformers_writer(writer: Writer, work: TokenWork) -> Write:
    """`generate` in one batch, padded in front; ids that are not visual are suppressed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = work.folder()
    dtype, vocabulary = getattr(torch, work.dtype), folder.vocabulary
    if work.random:
        with torch.device(work.device):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder.llm_dir), dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder.llm_dir, dtype=dtype).to(work.device)
    model.eval()
    visual = range(vocabulary.visual_offset, vocabulary.visual_offset + vocabulary.codebook_size)
    others = [i for i in range(folder.llm_config["vocab_size"]) if i not in visual]

    @torch.inference_mode()
    def write(images: range, seed: int, scale: float, temperature: float) -> list[list[int]]:
        torch.manual_seed(seed + images.start)
        prompts = [work.prompt(number) for number in images]
        longest = max(map(len, prompts))
        ids = torch.full((len(images), longest), vocabulary.null_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(work.device), mask.to(work.device)
        guidance = {
            "guidance_scale": scale,
            "negative_prompt_ids": vocabulary.unconditional_ids(ids),
            "negative_prompt_attention_mask": mask,
        }
        sampling = {"do_sample": True, "temperature": temperature, "top_k": work.top_k}
        written = model.generate(
            ids,
            attention_mask=mask,
            min_new_tokens=work.num_visual_tokens,
            max_new_tokens=work.num_visual_tokens,
            suppress_tokens=others,
            pad_token_id=vocabulary.null_id,
            **(guidance if scale != 1 else {}),
            **(sampling if temperature else {"do_sample": False}),
        )
        return written[:, longest:].cpu().tolist()

    return write
