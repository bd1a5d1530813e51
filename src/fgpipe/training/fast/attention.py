"""Causal attention over rows packed on one token axis, with a sliding window: FlashAttention on a GPU.

The reference for a CPU is plain matrix products, a row at a time. Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253


@torch.library.custom_op("fgpipe::packed_attention", mutates_args=())  # type: ignore[untyped-decorator]
def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, window: Tensor, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention output, and the logarithm of the softmax's denominator for the backward pass.

    Args:
        query: (tokens, heads, head size).
        key: (tokens, key heads, head size); key heads divide heads.
        value: as `key`.
        bounds: (rows + 1,) int32, where rows begin and end.
        window: () on the CPU: places a token looks back, itself included; 0 for all. A tensor, since a number would
            have the layer compiled twice.
        longest: no row is longer, in tokens.
        scale: of the scores.
    """
    span = int(window)
    if not query.is_cuda:
        out = torch.empty_like(query)
        for row in _rows(bounds):
            chance = _probabilities(query[row], key[row], span, scale)
            out[row] = (chance @ _heads(value[row], query.shape[1])).transpose(0, 1)
        return out, query.new_zeros(0)
    out, denominator, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, 0.0, True, False, scale=scale, **_window(span)
    )
    return out, denominator


@packed_attention.register_fake  # type: ignore[untyped-decorator]
def _(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, window: Tensor, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    if not query.is_cuda:
        return torch.empty_like(query), query.new_empty(0)
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)


@torch.library.custom_op("fgpipe::packed_attention_backward", mutates_args=())  # type: ignore[untyped-decorator]
def packed_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    denominator: Tensor,
    bounds: Tensor,
    window: Tensor,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    span = int(window)
    if query.is_cuda:
        random = torch.empty(2, dtype=torch.uint64, device=query.device)
        nothing = torch.empty(0, device=query.device)
        of_query, of_key, of_value = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, out, denominator, bounds, bounds, longest, longest, 0.0, True, random, nothing,
            scale=scale, **_window(span),
        )  # fmt: skip
        return of_query, of_key, of_value
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for row in _rows(bounds):
        heads, shared = query.shape[1], key.shape[1]
        chance = _probabilities(query[row], key[row], span, scale)
        upper = gradient[row].transpose(0, 1)
        of_chance = upper @ _heads(value[row], heads).transpose(1, 2)
        of_score = chance * (of_chance - (of_chance * chance).sum(-1, keepdim=True)) * scale
        of_query[row] = (of_score @ _heads(key[row], heads)).transpose(0, 1)
        of_key[row] = _shared(of_score.transpose(1, 2) @ query[row].transpose(0, 1), shared)
        of_value[row] = _shared(chance.transpose(1, 2) @ upper, shared)
    return of_query, of_key, of_value


@packed_attention_backward.register_fake  # type: ignore[untyped-decorator]
def _(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    denominator: Tensor,
    bounds: Tensor,
    window: Tensor,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, bounds, window, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, bounds, window)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    found = torch.ops.fgpipe.packed_attention_backward(gradient.contiguous(), *saved, ctx.longest, ctx.scale)
    return (*found, None, None, None, None)


packed_attention.register_autograd(_backward, setup_context=_save)


def _window(span: int) -> dict[str, int]:
    """FlashAttention's arguments: places before and after a token, -1 for all."""
    return {"window_size_left": span - 1, "window_size_right": 0} if span else {}


def _rows(bounds: Tensor) -> Iterator[slice]:
    edges = bounds.tolist()
    return (slice(start, end) for start, end in itertools.pairwise(edges) if end > start)


def _heads(shared: Tensor, heads: int) -> Tensor:
    """(time, key heads, size) as (heads, time, size)."""
    return shared.transpose(0, 1).repeat_interleave(heads // shared.shape[1], 0)


def _shared(by_head: Tensor, shared: int) -> Tensor:
    """(heads, time, size) summed to (time, key heads, size)."""
    return by_head.unflatten(0, (shared, -1)).sum(1).transpose(0, 1)


def _probabilities(query: Tensor, key: Tensor, span: int, scale: float) -> Tensor:
    """(heads, time, time) of one row."""
    time = len(query)
    scores = query.transpose(0, 1) @ _heads(key, query.shape[1]).transpose(1, 2) * scale
    back = torch.arange(time)[:, None] - torch.arange(time)[None, :]
    hidden = (back < 0) | (back >= span) if span else back < 0
    return scores.masked_fill_(hidden, float("-inf")).softmax(-1)
