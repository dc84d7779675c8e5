"""Fused norms of an eager engine on a CPU: the same numbers as the plain definition, and really in use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.engine_common import one_thread
from tests.plugins.engines import drain, greedy_params, start_engine, stop_engine

vllm = pytest.importorskip("vllm")
pytest.importorskip("vllm.ir")
from vllm.platforms import current_platform  # noqa: E402

if not current_platform.is_cpu():
    pytest.skip("for CPUs", allow_module_level=True)
from vllm import ir  # noqa: E402

from v2flow_vllm import cpu_norms  # noqa: E402


@pytest.fixture(autouse=True)
def provided() -> None:
    cpu_norms.provide()
    cpu_norms.provide()  # any number of times


@pytest.mark.parametrize("shape", [(7, 64), (128, 256), (3, 48)])
def test_they_compute_what_the_plain_ones_do(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.rand(shape[-1]) + 0.5
    plain = ir.ops.rms_norm.impls["native"].impl_fn
    fused = ir.ops.rms_norm.impls[cpu_norms.PROVIDER].impl_fn
    torch.testing.assert_close(fused(x, weight, 1e-5), plain(x, weight, 1e-5), rtol=1e-5, atol=1e-6)
    plain = ir.ops.fused_add_rms_norm.impls["native"].impl_fn
    fused = ir.ops.fused_add_rms_norm.impls[cpu_norms.PROVIDER].impl_fn
    expected = plain(x, residual, weight, 1e-5)
    for ours, theirs in zip(fused(x.clone(), residual.clone(), weight, 1e-5), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "used"), [(None, True), ({"rms_norm": ["native"], "fused_add_rms_norm": ["native"]}, False)]
)
def test_an_eager_engine_uses_them_unless_told_otherwise(
    tiny: SimpleNamespace, asked: dict[str, list[str]] | None, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in cpu_norms.OPERATIONS:
        implementation = getattr(ir.ops, name).impls[cpu_norms.PROVIDER]
        kernel = implementation.impl_fn
        monkeypatch.setattr(
            implementation,
            "impl_fn",
            lambda *a, kernel=kernel, name=name: (calls.append(name), kernel(*a))[1],
        )
    options = {} if asked is None else {"ir_op_priority": asked}
    with one_thread():
        engine = start_engine(tiny.folder, max_num_seqs=2, kv_cache_gib=1 / 64, **options)
        try:
            prompt = tiny.prompts[0]
            engine.add_request("a", {"prompt_token_ids": prompt}, greedy_params(3.0, num_tokens=4))
            written = drain(engine)["a"]
        finally:
            stop_engine(engine)
    assert written == tiny.loop.greedy(prompt, 4, 3.0)
    assert set(calls) == (set(cpu_norms.OPERATIONS) if used else set())
