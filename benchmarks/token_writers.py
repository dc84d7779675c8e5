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

Write = Callable[[int, int, float, float], list[list[int]]]
"""(images, first seed, guidance scale, temperature) -> visual_token_ids of each."""


@dataclass(frozen=True)
class Writer:
    """engine: "vllm" or "transformers". guided: of vLLM, the deployment. most: images at once."""

    engine: str
    guided: bool = True
    most: int = 64


class WriterProcess:
    """A writer in a process of its own; `write` waits for it and says how long it wrote."""

    def __init__(self, writer: Writer, work: TokenWork, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, writer, work, threads), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def write(
        self, images: int, seed: int, scale: float, temperature: float
    ) -> tuple[list[list[int]], float]:
        """visual_token_ids and seconds."""
        self._pipe.send((images, seed, scale, temperature))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(timeout=60)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a writer's process ended; its own message is above") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Connection, writer: Writer, work: TokenWork, threads: int) -> None:
    sys.stdout = sys.stderr  # the parent's standard output ends with the document
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(threads)
    try:
        write = (_vllm if writer.engine == "vllm" else _transformers)(writer, work)
        pipe.send(None)
        while (asked := pipe.recv()) is not None:
            start = time.perf_counter()
            written = write(*asked)
            pipe.send((written, time.perf_counter() - start))
    except EOFError:  # the parent is gone
        return
    except Exception as error:
        pipe.send(f"{writer.engine}: {type(error).__name__}: {error}")
        raise


def _vllm(writer: Writer, work: TokenWork) -> Write:
    """Requests with a seed each, as users get them; no prefix is shared, as transformers shares none."""
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.generation.token_generator import TokenGenerator

    arguments = {"enable_prefix_caching": False} | ({"load_format": "dummy"} if work.random else {})
    generator = TokenGenerator(
        work.folder(), dtype=work.dtype, max_num_seqs=writer.most, guided=writer.guided, engine_args=arguments
    )

    def write(images: int, seed: int, scale: float, temperature: float) -> list[list[int]]:
        return generator.generate(
            [
                TokenRequest(
                    work.prompt(number), work.num_visual_tokens, seed + number, scale, temperature, work.top_k
                )
                for number in range(images)
            ]
        )

    return write


def _transformers(writer: Writer, work: TokenWork) -> Write:
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
    def write(images: int, seed: int, scale: float, temperature: float) -> list[list[int]]:
        torch.manual_seed(seed)
        prompts = [work.prompt(number) for number in range(images)]
        longest = max(map(len, prompts))
        ids = torch.full((images, longest), vocabulary.null_id)
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
