"""What can be checked of the CUDA paths without CUDA: the signatures they rely on, and the packed mask's meaning."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F

from v2flow_engine.decoding.engine.attention import choose_attention, grouped, padded
from v2flow_engine.decoding.engine.row_functions import bucket_of
from v2flow_engine.errors import RequestError

QUERIES, KEYS = [3, 3, 5, 1], [7, 7, 70, 2]
CPU = torch.device("cpu")


def packed_rows(*lengths: list[int]) -> list[torch.Tensor]:
    """Random rows (T, 2, 8) for each list of lengths."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(sum(each), 2, 8, generator=generator) for each in lengths]


def block_diagonal() -> torch.Tensor:
    """(T_q, T_k): true where query and key belong to the same image."""
    image_of_query = torch.arange(len(QUERIES)).repeat_interleave(torch.tensor(QUERIES))
    image_of_key = torch.arange(len(KEYS)).repeat_interleave(torch.tensor(KEYS))
    return image_of_query[:, None] == image_of_key[None]


@pytest.mark.parametrize("make", [grouped, padded])
def test_each_image_attends_to_itself_alone(make) -> None:
    query, key, value = packed_rows(QUERIES, KEYS, KEYS)
    expected = F.scaled_dot_product_attention(
        *(rows.transpose(0, 1) for rows in (query, key, value)), attn_mask=block_diagonal()
    ).transpose(0, 1)
    torch.testing.assert_close(make(QUERIES, KEYS, CPU)(query, key, value), expected, rtol=1e-5, atol=1e-6)


def test_torchs_variable_length_kernel_takes_what_it_is_given() -> None:
    from torch.nn.attention.varlen import varlen_attn

    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


def test_xformers_mask_means_the_same() -> None:
    bias = pytest.importorskip("xformers.ops.fmha.attn_bias").BlockDiagonalMask
    mask = bias.from_seqlens(QUERIES, KEYS, device=CPU).materialize((sum(QUERIES), sum(KEYS)))
    assert torch.equal(mask == 0, block_diagonal())


def test_attention_is_chosen_by_device_and_dtype() -> None:
    cuda = torch.device("cuda")
    assert choose_attention("auto", CPU, torch.bfloat16) == "grouped"
    assert choose_attention("auto", cuda, torch.bfloat16) == "varlen"
    assert choose_attention("auto", cuda, torch.float32) == "grouped"
    with pytest.raises(RequestError, match=r"needs float16 or bfloat16, got torch\.float32"):
        choose_attention("varlen", cuda, torch.float32)


@pytest.mark.parametrize(
    ("rows", "bucket"), [(1, 64), (64, 64), (65, 96), (97, 128), (129, 192), (1000, 1024)]
)
def test_graphs_are_recorded_for_few_numbers_of_rows(rows: int, bucket: int) -> None:
    assert bucket_of(rows) == bucket
