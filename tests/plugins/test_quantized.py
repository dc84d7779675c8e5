"""Quantised weights, loaded by vLLM's own loaders into both streams: guided log-probabilities are those of the same
weights unpacked, in transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.engine_common import one_thread
from tests.plugins.engines import runner_of, start_engine, stop_engine
from tests.quantized_llm import KINDS, quantize
from tests.two_pass import TwoPass

vllm = pytest.importorskip("vllm")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2",
    reason="on a CPU without AVX-512 vLLM has no kernel for 4 bits, and the one for 8 bits overflows",
)

SCALE = 3.0
DTYPES = {"gptq": "bfloat16", "awq": "bfloat16", "compressed-tensors": "float32", "fp8": "bfloat16"}
# Mean distance of log-probabilities allowed: 16 bits on the way, or activations in 8 bits as well
MOST = {"gptq": 0.2, "awq": 0.2, "compressed-tensors": 0.2, "fp8": 1.0}
ON_GPU_ONLY = ("fp8",)  # the CPU build has no kernel that scales to float8


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.gpu] if k in ON_GPU_ONLY else []) for k in KINDS]
)
def test_guided_log_probabilities(tiny: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    folder = quantize(tiny.folder, tmp_path / kind, kind)
    first, size, prompt = tiny.vocabulary.visual_offset, tiny.vocabulary.codebook_size, tiny.prompts[1]
    loop = TwoPass(folder / "plain", tiny.vocabulary)
    params = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=8,
        logprobs=size,
        ignore_eos=True,
        detokenize=False,
        extra_args={"guidance_scale": SCALE},
    )
    with one_thread():
        engine = start_engine(folder / "llm", dtype=DTYPES[kind], max_num_seqs=2, max_logprobs=size)
        layer = runner_of(engine).model.model.layers[0]
        method = type(layer.mlp.down_proj.quant_method).__name__
        assert "Unquantized" not in method
        engine.add_request("q", {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            (output,) = engine.step() or [None]
        stop_engine(engine)
    written, given = output.outputs[0].token_ids, output.outputs[0].logprobs
    off, plain_off = [], []
    for position, found in enumerate(given):
        known = torch.tensor([*prompt, *written[:position]])
        got = torch.tensor([found[first + code].logprob for code in range(size)])
        for reference, differences in ((loop, off), (tiny.loop, plain_off)):
            cond = reference.visual_logits(known)
            uncond = reference.visual_logits(tiny.vocabulary.unconditional_ids(known))
            expected = (uncond + SCALE * (cond - uncond)).log_softmax(dim=-1)
            differences.append(float((got - expected).abs().mean()))
    assert max(off) < MOST[kind]
    assert max(off) < max(plain_off)  # nearer to these weights than to those before quantising
