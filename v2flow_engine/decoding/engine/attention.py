"""Self-attention over images of different lengths that lie behind each other in one flat list of rows.

An image attends to itself alone. Four ways to do that, of one interface:

    grouped   scaled_dot_product_attention once for each run of images of equal lengths; no padding, exact
    padded    one call for each bucket of lengths, padded to the bucket, with a mask of the keys
    varlen    torch's variable-length kernel: one call; CUDA, float16 or bfloat16
    xformers  memory_efficient_attention under a BlockDiagonalMask: one call; CUDA

`varlen` and `xformers` have not been run yet. Knows nothing of images or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F

from v2flow_engine.decoding.engine.upload import upload
from v2flow_engine.errors import RequestError

# query (T_q, H, d), key and value (T_k, H, d) -> (T_q, H, d)
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# (query rows of each image, key rows of each image, device) -> what attends among them
MakeAttend = Callable[[Sequence[int], Sequence[int], torch.device], Attend]

BUCKET = 64  # key rows: lengths are padded to multiples of it


def grouped(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Attend:
    """Runs of images with equal lengths are views of the flat rows: nothing is copied or padded."""
    runs = [(len(list(run)), *lengths) for lengths, run in groupby(zip(queries, keys, strict=True))]
    query_rows = [count * q for count, q, _ in runs]
    key_rows = [count * k for count, _, k in runs]

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        parts = (query.split(query_rows), key.split(key_rows), value.split(key_rows))
        mixed = [_attend_alike(*part, count) for (count, _, _), *part in zip(runs, *parts, strict=True)]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    return attend


def _attend_alike(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, count: int) -> torch.Tensor:
    """`count` images of equal lengths: rows (count L, H, d)."""
    split = [rows.unflatten(0, (count, -1)).transpose(1, 2) for rows in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(0, 1)


def padded(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Attend:
    """Images whose keys round up to the same multiple of `BUCKET` share a call."""
    buckets: dict[int, list[int]] = {}
    for image, length in enumerate(keys):
        buckets.setdefault(-(-length // BUCKET) * BUCKET, []).append(image)
    query_starts, key_starts = _starts(queries), _starts(keys)
    plans = []
    for width, images in buckets.items():
        query_width = max(queries[i] for i in images)
        query_index, query_mask = _padding(images, query_starts, queries, query_width)
        key_index, key_mask = _padding(images, key_starts, keys, width)
        plans.append([upload(t, device) for t in (query_index, query_mask, key_index, key_mask)])

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        for query_index, query_mask, key_index, key_mask in plans:
            split = [
                rows[index].transpose(1, 2)
                for rows, index in ((query, query_index), (key, key_index), (value, key_index))
            ]
            out = F.scaled_dot_product_attention(*split, attn_mask=key_mask[:, None, None]).transpose(1, 2)
            # Padding repeats the image's first row, so it must write back exactly what that row gets.
            mixed.index_put_((query_index,), torch.where(query_mask[..., None, None], out, out[:, :1]))
        return mixed

    return attend


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def _padding(
    images: Sequence[int], starts: Sequence[int], lengths: Sequence[int], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, width): the flat row of each place, and whether it is one of the image's own.

    Places behind an image's rows repeat its first row.
    """
    length = torch.tensor([lengths[i] for i in images])[:, None]
    start = torch.tensor([starts[i] for i in images])[:, None]
    place = torch.arange(width)[None]
    mask = place < length
    return torch.where(mask, start + place, start), mask


def varlen(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Attend:
    """torch.nn.attention.varlen, which is FlashAttention. Not yet run."""
    from torch.nn.attention.varlen import varlen_attn  # not in every build that the package supports

    ends = [upload(torch.tensor(_starts(each), dtype=torch.int32), device) for each in (queries, keys)]
    longest = max(queries), max(keys)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return varlen_attn(query, key, value, *ends, *longest)

    return attend


def xformers(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Attend:
    """xformers' memory_efficient_attention with a BlockDiagonalMask. Not yet run."""
    from xformers.ops import memory_efficient_attention  # an optional dependency of CUDA machines
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    bias = BlockDiagonalMask.from_seqlens(list(queries), list(keys), device=device)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return memory_efficient_attention(query[None], key[None], value[None], attn_bias=bias)[0]

    return attend


KINDS: dict[str, MakeAttend] = {
    "grouped": grouped,
    "padded": padded,
    "varlen": varlen,
    "xformers": xformers,
}


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The kind that "auto" stands for. Raises `RequestError` for one that needs CUDA, or another dtype."""
    half = dtype in (torch.float16, torch.bfloat16)
    if name == "auto":
        return "varlen" if device.type == "cuda" and half else "grouped"
    if name in ("varlen", "xformers") and device.type != "cuda":
        raise RequestError(f"attention {name!r} needs a CUDA device, got {device}")
    if name == "varlen" and not half:
        raise RequestError(f"attention 'varlen' needs float16 or bfloat16, got {dtype}")
    return name
