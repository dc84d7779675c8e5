"""The plugin on a CUDA device: both of vLLM's model runners, eager, and compiled with CUDA graphs; two precisions.

    python -m tests.gpu.test_plugin_cuda [CASE ...]        a table of the cases, each in a process of its own

Greedy tokens are judged by transformers in float32 on the CPU, fed with the engine's own tokens: the regret
is how far the engine's choice lay below the best guided logit. An unguided or shuffled engine has regrets of
a standard deviation and more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCALES = (1.0, 1.5, 3.0, 5.0, 3.0, 7.5)
NUM_TOKENS = 64


@dataclass(frozen=True)
class Case:
    """One way to run the engine, and the most regret it may have, in logits of a standard deviation near 0.5.

    A repetition may differ in bfloat16, where a prompt found in the prefix cache is rounded otherwise.
    """

    runner: str
    dtype: str
    eager: bool
    guided: bool = True
    most_regret: float = 0.02


CASES = {
    "v1-float32-eager": Case("0", "float32", eager=True),
    "v1-float32-graphs": Case("0", "float32", eager=False),
    "v2-float32-eager": Case("1", "float32", eager=True),
    "v2-float32-graphs": Case("1", "float32", eager=False),
    "v1-bfloat16-graphs": Case("0", "bfloat16", eager=False, most_regret=0.5),
    "v2-bfloat16-graphs": Case("1", "bfloat16", eager=False, most_regret=0.5),
    "v1-bfloat16-unguided": Case("0", "bfloat16", eager=False, guided=False, most_regret=0.1),
}


def measure(case: Case) -> dict[str, float | int | str]:
    """Run a case in this process: greedy tokens against the reference, seeds, speed."""
    import torch
    import vllm

    from tests.tiny_llm import CAPTIONS, build_tiny_llm
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.config import GenerationDefaults, ModelConfig, load_json
    from v2flow_engine.generation.request import TokenRequest
    from v2flow_engine.generation.token_generator import TokenGenerator

    path = Path(tempfile.mkdtemp())
    vocabulary = build_tiny_llm(path / "llm", tie=False)
    config = ModelConfig("tiny", "64x64", GenerationDefaults())
    folder = ModelFolder(path, config, None, load_json(path / "llm" / "config.json"), vocabulary)
    scales = SCALES if case.guided else (1.0,) * len(SCALES)
    requests = [
        TokenRequest(folder.prompt_encoder.encode(caption, "64x64"), NUM_TOKENS, seed, scale, temperature=0.0)
        for seed, (caption, scale) in enumerate(zip(CAPTIONS, scales, strict=True))
    ]
    started = time.perf_counter()
    settings = {"dtype": case.dtype, "guided": case.guided, "engine_args": {"enforce_eager": case.eager}}
    with TokenGenerator(folder, max_num_seqs=64, kv_cache_gib=0.25, **settings) as generator:
        ready_s = time.perf_counter() - started
        written = generator.generate(requests)
        regrets = [regret(path / "llm", vocabulary, r, w) for r, w in zip(requests, written, strict=True)]
        first = vocabulary.visual_offset
        known = [
            [None if (i + r) % 3 else first + i for i in range(NUM_TOKENS)] for r in range(len(requests))
        ]
        mixed = [replace(r, forced_visual_token_ids=k) for r, k in zip(requests, known, strict=True)]
        forced = generator.generate([*mixed, *requests])[: len(mixed)]
        drawn = [replace(requests[i % 6], seed=i, temperature=1.0, top_k=20) for i in range(64)]
        tokens = generator.generate(drawn)
        started = time.perf_counter()
        again = generator.generate(drawn)
        seconds = time.perf_counter() - started
    last = first + vocabulary.codebook_size
    free_regrets = [
        each
        for r, w, k in zip(requests, forced, known, strict=True)
        for each, known_id in zip(regret(path / "llm", vocabulary, r, w), k, strict=True)
        if known_id is None
    ]
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "requests": len(requests),
        "ready_s": round(ready_s, 1),
        "worst_regret": round(max(max(r) for r in regrets), 4),
        "best_choices": sum(r == 0 for request in regrets for r in request),
        "choices": len(requests) * NUM_TOKENS,
        "foreign_ids": sum(not first <= i < last for w in tokens for i in w),
        "forced_missed": sum(
            b not in (None, a) for w, k in zip(forced, known, strict=True) for a, b in zip(w, k, strict=True)
        ),
        "worst_regret_between_forced": round(max(free_regrets), 4),
        "seeds_differ": sum(a != b for a, b in zip(tokens, again, strict=True)),
        "distinct_images": len({tuple(w) for w in tokens}),
        "tokens_per_s_at_64": round(64 * NUM_TOKENS / seconds),
    }


def regret(llm_dir: Path, vocabulary: Any, request: Any, visual_token_ids: list[int]) -> list[float]:
    """At each position, the reference's best guided logit minus that of the token that was taken."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(llm_dir, dtype=torch.float32).eval()
    token_ids = torch.tensor([*request.prompt_token_ids, *visual_token_ids])
    visual = slice(vocabulary.visual_offset, vocabulary.visual_offset + vocabulary.codebook_size)
    with torch.inference_mode():
        both = torch.stack((token_ids, vocabulary.unconditional_ids(token_ids)))
        cond, uncond = model(both).logits[:, len(request.prompt_token_ids) - 1 : -1, visual]
    logits = uncond + request.guidance_scale * (cond - uncond)
    taken = token_ids[len(request.prompt_token_ids) :] - vocabulary.visual_offset
    return (logits.max(dim=1).values - logits.gather(1, taken[:, None])[:, 0]).tolist()


def run_apart(name: str) -> dict[str, float | int | str]:
    """Measure a case in a process of its own, where vLLM reads its environment afresh."""
    paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "VLLM_USE_V2_MODEL_RUNNER": CASES[name].runner,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
    }
    command = [sys.executable, "-m", "tests.gpu.test_plugin_cuda", "--here", name]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    if result.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def check(name: str, found: dict[str, float | int | str]) -> list[str]:
    """What is wrong with a case's measurements; nothing if all is well."""
    most_regret = CASES[name].most_regret
    limits = {
        "worst_regret": most_regret,
        "worst_regret_between_forced": most_regret,
        "foreign_ids": 0,
        "forced_missed": 0,
    }
    if CASES[name].dtype == "float32":
        limits["seeds_differ"] = 0
    wrong = [f"{key} {found[key]} > {most}" for key, most in limits.items() if found[key] > most]
    if found["distinct_images"] != 64:
        wrong.append(f"only {found['distinct_images']} different images from 64 seeds")
    return wrong


@pytest.mark.parametrize("name", list(CASES))
def test_guided_tokens_on_cuda(name: str) -> None:
    assert check(name, run_apart(name)) == []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument(
        "--here", action="store_true", help="measure the one case in this process, print JSON"
    )
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(CASES[arguments.cases[0]])))
        return 0
    failures = 0
    for name in arguments.cases or CASES:
        try:
            found = run_apart(name)
            wrong = check(name, found)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            found, wrong = {}, [str(error)]
        failures += bool(wrong)
        print(f"{name:22} {'FAILED ' + '; '.join(wrong) if wrong else 'ok'} {json.dumps(found)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
