"""Causal attention over rows packed on one token axis, with a sliding window: FlashAttention on a GPU.

On a CPU it goes row by row, and autograd differentiates it. Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

import itertools

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor  # noqa: TID253


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, window: int, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention output, and the logarithm of the softmax's denominator for the backward pass of a GPU.

    Args:
        query: (tokens, heads, head size).
        key: (tokens, key heads, head size); key heads divide heads.
        value: as `key`.
        bounds: (rows + 1,) int32, where rows begin and end.
        window: places a token looks back, itself included; 0 for all.
        longest: no row is longer, in tokens.
        scale: of the scores.
    """
    if not query.is_cuda:
        edges = itertools.pairwise(bounds.tolist())
        rows = [slice(start, end) for start, end in edges if end > start]
        return torch.cat([_row(query[row], key[row], value[row], window, scale) for row in rows]), query.new_empty(0)
    out, denominator, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, 0.0, True, False, scale=scale, **_window(window)
    )
    return out, denominator


def packed_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    denominator: Tensor,
    bounds: Tensor,
    window: int,
    longest: int,
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value, given what `packed_attention` returned."""
    if not query.is_cuda:
        with torch.enable_grad():
            query, key, value = inputs = tuple(part.detach().requires_grad_() for part in (query, key, value))
            found, _ = packed_attention(query, key, value, bounds, window, longest, scale)
        return tuple(torch.autograd.grad(found, inputs, gradient))
    random = torch.empty(2, dtype=torch.uint64, device=query.device)
    nothing = torch.empty(0, device=query.device)
    gradients: tuple[Tensor, ...] = torch.ops.aten._flash_attention_backward(
        gradient, query, key, value, out, denominator, bounds, bounds, longest, longest, 0.0, True, random, nothing,
        scale=scale, **_window(window),
    )  # fmt: skip
    return gradients


def _window(window: int) -> dict[str, int]:
    """FlashAttention's arguments: places before and after a token, -1 for all."""
    return {"window_size_left": window - 1, "window_size_right": 0} if window else {}


def _row(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> Tensor:
    """(time, heads, head size) of one row."""
    time = len(query)
    seen = None
    if 0 < window < time:
        back = torch.arange(time)[:, None] - torch.arange(time)[None, :]
        seen = (back >= 0) & (back < window)
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)
