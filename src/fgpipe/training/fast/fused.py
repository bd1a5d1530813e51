"""Gemma 3's layers on a GPU, forward and backward by hand: frozen matrix products, attention, and `kernels` between.

Computes what `gemma3.layer` and autograd compute, with fewer passes over memory; a test holds them together. Heavy:
imports torch and triton; import it only to train on a GPU.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253
import triton
from torch import Tensor  # noqa: TID253

from fgpipe.config import INPUT_GROUPS
from fgpipe.training.fast import kernels
from fgpipe.training.fast.attention import packed_attention, packed_attention_backward
from fgpipe.training.fast.bank import Bank

if TYPE_CHECKING:
    from fgpipe.training.fast.gemma3 import Base, Batch, Sizes

QKV, OUTPUT, GATE_UP, DOWN = range(4)
"""Groups of linear layers, as in `config.INPUT_GROUPS`."""

FEW_TOKENS = 6144
"""Up to here programs take fewer rows and columns, so that there are some for every multiprocessor; above it larger
ones, which read an adapter's weights less often."""

TILES = {
    "shrink": ((16, 4, 3, 128), (64, 8, 2, 128)),
    "expand": ((16, 8, 2, 128), (64, 8, 2, 128)),
    "join": ((16, 8, 1, 128), (16, 4, 1, 128)),
    "join_backward": ((16, 8, 1, 128), (16, 4, 1, 128)),
    "heads": ((16, 4, 1, 128), (16, 4, 1, 128)),
    "heads_backward": ((16, 4, 1, 128), (16, 4, 1, 128)),
    "gelu": ((16, 4, 3, 128), (64, 4, 2, 64)),
    "gelu_backward": ((16, 4, 3, 128), (64, 4, 2, 64)),
}
"""By kernel: a program's rows, warps, loads under way and most columns at once, for few tokens and for many."""

SPANS = (256, 512)
"""Columns of a program where several share a row, likewise."""

SUMS = {"steps": 64, "columns": 128, "programs": 512, "warps": 4}
"""Of `weight_gradient`: tokens at once, columns, programs below which one takes a block alone, warps."""


@dataclass
class Kept:
    """What a layer's backward pass reads, (tokens, ...) each; `thin` by group."""

    thin: list[Tensor]
    normed: Tensor
    qkv: Tensor
    rotated: Tensor
    attended: Tensor
    denominator: Tensor
    out: Tensor
    middle: Tensor
    normed_middle: Tensor
    gate_up: Tensor
    inner: Tensor
    down: Tensor
    end: Tensor


class FusedLayers:
    """All layers of a base with a bank's adapters, over packed rows no longer than `longest`."""

    def __init__(self, base: Base, bank: Bank, sizes: Sizes, longest: int) -> None:
        self.base = base
        self.bank = bank
        self.sizes = sizes
        self.longest = longest
        self.rank = bank.layout.rank
        self.ranks = [len(group) * self.rank for group in INPUT_GROUPS]
        starts = list(itertools.accumulate(sizes.splits, initial=0))
        first = list(itertools.accumulate((1 + len(group) for group in INPUT_GROUPS), initial=0))
        self.offsets = [(starts[place], starts[place + 1]) for place in first[:-1]]
        """Of A and B in a layer's weights, by group."""

    def forward(self, x: Tensor, batch: Batch, *, keep: bool) -> tuple[Tensor, Tensor, list[Kept]]:
        """Hidden states (tokens, hidden size) after the last layer, and what `backward` wants if it is to `keep` it."""
        base, sizes = self.base, self.sizes
        values = self.bank.values.to(x.dtype)
        run = _Pass(self, values, batch)
        thin_downs = run.sums(DOWN)
        kept: list[Kept] = []
        _, normed, thin = run.join(x, None, 0, before=0)
        for number, weights in enumerate(base.layers):
            w_qkv, w_o, w_gate_up, w_down, _, n_attended, n_before, n_after, n_query, n_key = weights
            last = number + 1 == len(base.layers)
            qkv = normed @ w_qkv.t()
            rotated = run.heads(qkv, thin, n_query, n_key, number)
            query, key, value = self._split(rotated)
            attended, denominator = packed_attention(
                query, key, value, batch.bounds, base.windows[number], self.longest, sizes.score_scale
            )
            attended = attended.flatten(1)
            thin_o = run.shrink(attended, number, OUTPUT)
            out = attended @ w_o.t()
            middle, normed_middle, thin_gate_up = run.join(
                x, (out, thin_o, n_attended, OUTPUT), number, before=number, norm=n_before, group=GATE_UP
            )
            gate_up = normed_middle @ w_gate_up.t()
            thin_down = thin_downs[number]
            inner = run.gelu(gate_up, thin_gate_up, thin_down, number)
            down = inner @ w_down.t()
            end, following, thin_next = run.join(
                middle, (down, thin_down, n_after, DOWN), number, before=None if last else number + 1
            )
            if keep:
                kept.append(
                    Kept(
                        [thin, thin_o, thin_gate_up, thin_down], normed, qkv, rotated, attended, denominator, out,
                        middle, normed_middle, gate_up, inner, down, end,
                    )
                )  # fmt: skip
            x, normed, thin = end, following, thin_next
        return x, values, kept

    def backward(self, of_x: Tensor, values: Tensor, kept: list[Kept], batch: Batch) -> None:
        """Add to the bank's gradients, given the gradient of what `forward` returned."""
        base, sizes = self.base, self.sizes
        run = _Pass(self, values, batch)
        of_gate_ups, of_qkvs = run.sums(GATE_UP), run.sums(QKV)
        of_normed = of_thin_next = None
        for number in reversed(range(len(base.layers))):
            w_qkv, w_o, w_gate_up, w_down, _, n_attended, n_before, n_after, n_query, n_key = base.layers[number]
            layer = kept.pop()
            following = None if of_normed is None else (of_normed, of_thin_next, layer.end, QKV, number + 1)
            before: Tensor | None = base.layers[number + 1][4] if following else None
            of_x, of_part, of_thin = run.join_backward(
                of_x, following, before, layer.down, layer.thin[DOWN], n_after, number, DOWN
            )
            run.gradients(number, DOWN, layer.inner, layer.thin[DOWN], of_part, of_thin)
            of_down, of_thin_down, of_thin = of_part @ w_down, of_thin, of_gate_ups[number]
            of_part = run.gelu_backward(of_down, of_thin_down, layer.gate_up, layer.thin[GATE_UP], of_thin, number)
            run.gradients(number, GATE_UP, layer.normed_middle, layer.thin[GATE_UP], of_part, of_thin)
            following = (of_part @ w_gate_up, of_thin, layer.middle, GATE_UP, number)
            of_x, of_part, of_thin = run.join_backward(
                of_x, following, n_before, layer.out, layer.thin[OUTPUT], n_attended, number, OUTPUT
            )
            run.gradients(number, OUTPUT, layer.attended, layer.thin[OUTPUT], of_part, of_thin)
            of_attended = of_part @ w_o
            run.expand(of_attended, of_thin, number, OUTPUT)
            query, *shared = self._split(layer.rotated)
            # Keys and values as if every head had its own: else FlashAttention sums their gradients in two more passes.
            readers = sizes.heads // sizes.key_heads
            key, value = (part.unsqueeze(2).expand(-1, -1, readers, -1).flatten(1, 2) for part in shared)
            of_heads = packed_attention_backward(
                of_attended.view(query.shape), query, key, value, layer.attended.view(query.shape), layer.denominator,
                batch.bounds, base.windows[number], self.longest, sizes.score_scale,
            )  # fmt: skip
            of_thin = of_qkvs[number]
            of_part = run.heads_backward(of_heads, layer.qkv, layer.thin[QKV], of_thin, n_query, n_key, number)
            run.gradients(number, QKV, layer.normed, layer.thin[QKV], of_part, of_thin)
            if number:
                of_normed, of_thin_next = of_part @ w_qkv, of_thin

    def _split(self, rotated: Tensor) -> tuple[Tensor, ...]:
        sizes = self.sizes
        found = rotated.view(len(rotated), -1, sizes.head_size)
        parts: tuple[Tensor, ...] = found.split((sizes.heads, sizes.key_heads, sizes.key_heads), 1)
        return parts


class _Pass:
    """Launches the kernels with what one pass over a batch has in common."""

    def __init__(self, layers: FusedLayers, values: Tensor, batch: Batch) -> None:
        self.layers = layers
        self.bank = layers.bank
        self.sizes = layers.sizes
        self.values = values
        self.batch = batch
        self.tokens = len(batch.ids)
        self.block = self.tokens // len(batch.block_slots)
        self.rank = layers.rank
        self.adapters = (values, values.stride(0), self.bank.scales, batch.block_slots)

    def shrink(self, x: Tensor, number: int, group: int) -> Tensor:
        thin = self._thin(x, group)
        a, _ = self._offsets(number, group)
        self._launch(
            kernels.shrink, (), x, *self.adapters, a, thin,
            WIDTH=x.shape[1], RANK=thin.shape[1], RANKS=_padded(thin.shape[1]),
            COLUMNS=_columns(x.shape[1], thin.shape[1]),
        )  # fmt: skip
        return thin

    def expand(self, of_x: Tensor, of_thin: Tensor, number: int, group: int) -> None:
        a, _ = self._offsets(number, group)
        columns = min(_columns(of_x.shape[1], of_thin.shape[1]), self._tile(kernels.expand)[3])
        self._launch(
            kernels.expand, (of_x.shape[1] // columns,), of_x, of_thin, *self.adapters, a,
            WIDTH=of_x.shape[1], RANK=of_thin.shape[1], RANKS=_padded(of_thin.shape[1]), COLUMNS=columns,
        )  # fmt: skip

    def join(
        self,
        x: Tensor,
        ended: tuple[Tensor, Tensor, Tensor, int] | None,
        number: int,
        *,
        before: int | None,
        norm: Tensor | None = None,
        group: int = QKV,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`ended` is a sublayer's product, thin product, norm and group; `before` the layer of the one that begins."""
        part, thin, after, group_ended = ended or (x, x, x, OUTPUT)
        out = torch.empty_like(x) if ended else x
        normed, thin_next, norm_next, a = x, x, x, 0
        if before is not None:
            norm_next = self.layers.base.layers[before][4] if norm is None else norm
            normed, thin_next = torch.empty_like(x), self._thin(x, group)
            a, _ = self._offsets(before, group)
        _, b = self._offsets(number, group_ended)
        ranks = self.layers.ranks[group]
        self._launch(
            kernels.join, (), x, part, thin, after, norm_next, *self.adapters, b, a, out, normed, thin_next,
            EPSILON=self.sizes.epsilon, WIDTH=x.shape[1], RANK=self.rank, RANKS=_padded(self.rank),
            NEXT=ranks, NEXTS=_padded(ranks), AFTER=ended is not None, BEFORE=before is not None,
            COLUMNS=_columns(x.shape[1], ranks // 2),
        )  # fmt: skip
        return out, normed, thin_next

    def join_backward(
        self,
        of_out: Tensor,
        following: tuple[Tensor, Tensor, Tensor, int, int] | None,
        before: Tensor | None,
        part: Tensor,
        thin: Tensor,
        after: Tensor,
        number: int,
        group_ended: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_normed, of_thin_next, out, group, layer = following or (of_out, of_out, of_out, QKV, number)
        of_x, of_part, of_thin = torch.empty_like(of_out), torch.empty_like(part), torch.empty_like(thin)
        (a, _), (_, b) = self._offsets(layer, group), self._offsets(number, group_ended)
        ranks = self.layers.ranks[group]
        self._launch(
            kernels.join_backward, (), of_out, of_normed, of_thin_next, out, part, thin, after,
            after if before is None else before, *self.adapters, b, a, of_x, of_part, of_thin,
            EPSILON=self.sizes.epsilon, WIDTH=part.shape[1], RANK=self.rank, RANKS=_padded(self.rank),
            NEXT=ranks, NEXTS=_padded(ranks), BEFORE=following is not None, COLUMNS=_columns(part.shape[1], ranks // 2),
        )  # fmt: skip
        return of_x, of_part, of_thin

    def heads(self, part: Tensor, thin: Tensor, n_query: Tensor, n_key: Tensor, number: int) -> Tensor:
        out = torch.empty_like(part)
        _, b = self._offsets(number, QKV)
        heads = self.sizes.heads + 2 * self.sizes.key_heads
        self._launch(
            kernels.heads, (heads,), part, thin, n_query, n_key, *self._rotations(number), *self.adapters, b, out,
            **self._head_sizes(),
        )  # fmt: skip
        return out

    def heads_backward(
        self,
        of_heads: tuple[Tensor, ...],
        part: Tensor,
        thin: Tensor,
        of_thin: Tensor,
        n_query: Tensor,
        n_key: Tensor,
        number: int,
    ) -> Tensor:
        of_part = torch.empty_like(part)
        _, b = self._offsets(number, QKV)
        heads = self.sizes.heads + 2 * self.sizes.key_heads
        self._launch(
            kernels.heads_backward, (heads,), *of_heads, part, thin, n_query, n_key, *self._rotations(number),
            *self.adapters, b, of_part, of_thin, **self._head_sizes(),
        )  # fmt: skip
        return of_part

    def gelu(self, part: Tensor, thin: Tensor, thin_next: Tensor, number: int) -> Tensor:
        out = part.new_empty(self.tokens, part.shape[1] // 2)
        self._launch_gelu(kernels.gelu, part, thin, *self.adapters, *self._between(number), out, thin_next)
        return out

    def gelu_backward(
        self, of_out: Tensor, of_thin_next: Tensor, part: Tensor, thin: Tensor, of_thin: Tensor, number: int
    ) -> Tensor:
        of_part = torch.empty_like(part)
        self._launch_gelu(
            kernels.gelu_backward, of_out, of_thin_next, part, thin, *self.adapters, *self._between(number),
            of_part, of_thin,
        )  # fmt: skip
        return of_part

    def _launch_gelu(self, kernel: Any, *arguments: Any) -> None:
        width = self.layers.base.layers[0][3].shape[1]
        span = min(width & -width, SPANS[self.tokens > FEW_TOKENS])
        self._launch(
            kernel, (width // span,), *arguments,
            WIDTH=width, RANK=self.rank, RANKS=_padded(self.rank), COLUMNS=_columns(span, 4 * self.rank), SPAN=span,
        )  # fmt: skip

    def gradients(self, number: int, group: int, x: Tensor, thin: Tensor, of_part: Tensor, of_thin: Tensor) -> None:
        """Add the gradients of a group's A's and B's."""
        sizes = self.sizes
        a, b = self._offsets(number, group)
        cuts = [of_part.shape[1]] * 2
        if group == QKV:
            cuts = [sizes.heads * sizes.head_size, (sizes.heads + sizes.key_heads) * sizes.head_size]
        elif group == GATE_UP:
            cuts[0] //= 2
        for wide, narrow, offset, rank in ((x, of_thin, a, thin.shape[1]), (of_part, thin, b, self.rank)):
            ranks = min(64, _padded(rank, least=16))
            columns = _columns(math.gcd(wide.shape[1], *cuts) if wide is of_part else wide.shape[1], ranks)
            columns = min(columns, SUMS["columns"])
            blocks, tiles = len(self.batch.block_slots), (wide.shape[1] // columns, triton.cdiv(rank, ranks))
            together = min(4, max(1, blocks * math.prod(tiles) // SUMS["programs"]))
            kernels.weight_gradient[tiles[0], triton.cdiv(blocks, together), tiles[1]](
                wide, narrow, self.bank.gradients, self.bank.gradients.stride(0), self.bank.scales,
                self.batch.block_slots, offset, blocks, together, *cuts,
                WIDTH=wide.shape[1], THIN=narrow.shape[1], RANK=rank, RANKS=ranks, OF_B=wide is of_part,
                BLOCK=self.block, STEP=min(SUMS["steps"], self.block), COLUMNS=columns,
                num_warps=SUMS["warps"],
            )  # fmt: skip

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        rows, warps, stages, columns = self._tile(kernel)
        if "COLUMNS" in constants:
            constants["COLUMNS"] = min(constants["COLUMNS"], columns)
        rows = min(rows, self.block)
        kernel[self.tokens // rows, *grid](
            *arguments, **constants, BLOCK=self.block, ROWS=rows, num_warps=warps, num_stages=stages
        )

    def _tile(self, kernel: Any) -> tuple[int, int, int, int]:
        return TILES[kernel.__name__][self.tokens > FEW_TOKENS]

    def sums(self, group: int) -> Tensor:
        """(layers, tokens, ranks) zeros in float32, for thin products that several programs add to."""
        shape = len(self.layers.base.layers), self.tokens, self.layers.ranks[group]
        return torch.zeros(shape, device=self.values.device)

    def _thin(self, like: Tensor, group: int) -> Tensor:
        return like.new_empty(self.tokens, self.layers.ranks[group])

    def _offsets(self, number: int, group: int) -> tuple[int, int]:
        start = number * self.bank.layout.layer_size()
        a, b = self.layers.offsets[group]
        return start + a, start + b

    def _between(self, number: int) -> tuple[int, int]:
        """Of B before and A after the MLP's activation."""
        return self._offsets(number, GATE_UP)[1], self._offsets(number, DOWN)[0]

    def _rotations(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        base = self.layers.base
        return *base.rotations[base.kinds[number]], self.batch.positions

    def _head_sizes(self) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "EPSILON": sizes.epsilon, "HEADS": sizes.heads, "KEYS": sizes.key_heads, "HALF": sizes.head_size // 2,
            "RANK": self.rank, "RANKS": _padded(self.rank),
        }  # fmt: skip


def _padded(rank: int, *, least: int = 32) -> int:
    """Ranks in a tile: a power of two for the matrix units, and by default more than the smallest tile has rows, 16.

    Triton has the warps of a program that chains products share out the longer side of the first product it looks at.
    Of a square that is the rows, and then 16 rows have all warps compute the same.
    """
    return max(least, 1 << (rank - 1).bit_length())


def _columns(width: int, ranks: int) -> int:
    """Columns of a tile: a power of two that divides `width`, and fewer beside many ranks."""
    return min(width & -width, 128, 16384 // _padded(ranks))
