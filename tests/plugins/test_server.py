"""vLLM's own server on MODEL/llm, without an option of ours: token ids in, token ids out, guided as each asks.

One real server; its tokens are the two-pass loop's. V2FLOW_TEST_TENSOR_PARALLEL=2 splits its model over two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.ports import free_port

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCALES = (3.0, 1.0, 6.0, 2.0)
NUM_TOKENS = 24
START_S = 400.0
CORES = sorted(os.sched_getaffinity(0))
PROCESSES = int(os.environ.get("V2FLOW_TEST_TENSOR_PARALLEL", "1"))


@pytest.fixture(scope="module")
def url(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the tiny LLM."""
    if len(CORES) < PROCESSES:
        pytest.skip("vLLM binds each process to cores of its own")
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log.txt"
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--served-model-name",
        "tiny",
        "--dtype",
        "float32",
    ]
    options += ["--enforce-eager", "--tensor-parallel-size", str(PROCESSES), "--max-num-seqs", "4"]
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(str(core) for core in CORES[:PROCESSES]),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    command = [sys.executable, "-m", *server_module(), str(tiny.folder), *options]
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1/completions"
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def server_module() -> list[str]:
    """`vllm serve`, or what it starts: that command of vllm-cpu 0.32 ends because no package is called vllm."""
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return ["vllm.entrypoints.openai.api_server", "--model"]
    return ["vllm.entrypoints.cli.main", "serve"]


def _wait(health: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")


def post(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps({"model": "tiny"} | body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def complete(url: str, prompt: list[int], **changes: Any) -> list[int]:
    """Greedy token ids for a prompt of token ids."""
    body = {"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "return_token_ids": True}
    answer = post(url, **body | changes)
    (choice,) = answer["choices"]
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])
    return choice["token_ids"]


def test_completions_are_guided_as_each_asks(tiny: SimpleNamespace, url: str) -> None:
    """Four clients at once, each with its own scale."""
    with ThreadPoolExecutor(len(SCALES)) as clients:
        answers = [
            clients.submit(complete, url, prompt, vllm_xargs={"guidance_scale": scale})
            for prompt, scale in zip(tiny.prompts, SCALES, strict=False)
        ]
        written = [answer.result() for answer in answers]
    for index, (prompt, scale) in enumerate(zip(tiny.prompts, SCALES, strict=False)):
        assert written[index] == tiny.loop.greedy(prompt, NUM_TOKENS, scale), f"prompt {index}"


def test_schedules_and_forced_tokens_go_through_json(tiny: SimpleNamespace, url: str) -> None:
    """JSON of vllm_xargs has no null in lists: -1 leaves a position free."""
    first = tiny.vocabulary.visual_offset
    forced = [-1, first + 3, -1, -1, first + 9, *[-1] * (NUM_TOKENS - 5)]
    extra = {"guidance_scale": 5.0, "guidance_schedule": "linear", "forced_visual_token_ids": forced}
    known = [None if each < 0 else each for each in forced]
    expected = tiny.loop.greedy(tiny.prompts[1], NUM_TOKENS, 5.0, known, "linear")
    assert complete(url, tiny.prompts[1], vllm_xargs=extra) == expected


def test_a_seed_gives_the_same_image_again(tiny: SimpleNamespace, url: str) -> None:
    drawn = [
        complete(url, tiny.prompts[0], temperature=1.0, seed=seed, vllm_xargs={"guidance_scale": 2.0})
        for seed in (5, 5, 6)
    ]
    first, last = tiny.vocabulary.visual_offset, tiny.vocabulary.visual_offset + tiny.vocabulary.codebook_size
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(first <= i < last for ids in drawn for i in ids)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (None, "vllm_xargs of a server"),
        ({"guidance_scale": 3.0, "negative_prompt": "dull"}, "negative prompts are not supported"),
    ],
)
def test_mistakes_are_the_clients(
    tiny: SimpleNamespace, url: str, extra: dict[str, Any] | None, said: str
) -> None:
    body = {"prompt": tiny.prompts[0], "max_tokens": 4} | ({"vllm_xargs": extra} if extra else {})
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, **body)
    assert caught.value.code == 400 and said in caught.value.read().decode()
