"""Rows of several adapters laid end to end on one axis of tokens: no padding between them, one shape for many contents.

The axis is cut into blocks of BLOCK tokens, and a block belongs to one adapter, so that adapters of any number and size
share a step. Shapes come from a short ladder: each is captured once as a CUDA graph and replayed with other contents.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np  # noqa: TID253

BLOCK = 256
"""Tokens that share an adapter. An adapter's last block of a step is half empty on average."""

LADDER_RATIO = 1.25
"""From one shape to the next: on average a tenth of a step is empty, and ten shapes span a factor of nine."""

LABEL_BLOCK = 128
"""Label rows are counted in these."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together, of one step of one adapter."""

    rows: tuple[int, ...]
    tokens: int
    labels: int

    @property
    def blocks(self) -> int:
        """Blocks it takes."""
        return -(-self.tokens // BLOCK)


@dataclass(frozen=True)
class Shape:
    """Sizes of a step's tensors."""

    blocks: int
    labels: int
    rows: int
    segments: int
    """Rows, and free places cut to the length of a row."""

    @property
    def tokens(self) -> int:
        """Places for tokens."""
        return self.blocks * BLOCK


@dataclass(frozen=True)
class Ladder:
    """The shapes a run may use. A block provides for a number of labels and rows that its rows keep to on the whole."""

    slots: int
    """Adapters that may share a step."""
    longest_tokens: int
    """Longest row, at least a block: no segment is longer."""
    largest_blocks: int
    labels_a_block: float
    rows_a_block: float

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """From the smallest, one block, to the largest."""
        blocks = [1]
        while blocks[-1] < self.largest_blocks:
            blocks.append(min(self.largest_blocks, max(blocks[-1] + 1, round(blocks[-1] * LADDER_RATIO))))
        return tuple(self._shape(count) for count in blocks)

    def _shape(self, blocks: int) -> Shape:
        labels = -(-int(blocks * self.labels_a_block + 1) // LABEL_BLOCK) * LABEL_BLOCK
        rows = int(blocks * self.rows_a_block + 1)
        holes = min(blocks, self.slots) + 1 + -(-blocks * BLOCK // self.longest_tokens)
        return Shape(blocks, labels, rows, rows + holes)

    @property
    def largest(self) -> Shape:
        """The shape that decides the memory."""
        return self.shapes[-1]

    def fits(self, batches: Sequence[MicroBatch], shape: Shape | None = None) -> bool:
        """Whether `batches` go together into `shape`, or the largest."""
        shape = shape or self.largest
        return (
            sum(batch.blocks for batch in batches) <= shape.blocks
            and sum(batch.labels for batch in batches) <= shape.labels
            and sum(len(batch.rows) for batch in batches) <= shape.rows
        )

    def choose(self, batches: Sequence[MicroBatch]) -> Shape:
        """The smallest shape that holds `batches`."""
        return next(shape for shape in self.shapes if self.fits(batches, shape))


def ladder(lengths: Sequence[int], labels: Sequence[int], *, slots: int, largest_tokens: int) -> Ladder:
    """Shapes for rows of these lengths and labels, up to `largest_tokens` or the longest row.

    Labels and rows a block are those of an average step and a third more, but any single row fits the largest shape.
    """
    longest, tokens = max(lengths), sum(lengths)
    blocks = max(-(-longest // BLOCK), largest_tokens // BLOCK)
    return Ladder(
        slots=slots,
        longest_tokens=max(longest, BLOCK),
        largest_blocks=blocks,
        labels_a_block=max(4 / 3 * sum(labels) / tokens * BLOCK, max(labels) / blocks),
        rows_a_block=4 / 3 * len(lengths) / tokens * BLOCK,
    )


def cut(rows: Sequence[int], lengths: Sequence[int], labels: Sequence[int], shapes: Ladder) -> list[MicroBatch]:
    """The rows of a step as few micro-batches as fit the largest shape, in their order."""
    batches: list[MicroBatch] = []
    current = MicroBatch((), 0, 0)
    for row in rows:
        larger = MicroBatch((*current.rows, row), current.tokens + lengths[row], current.labels + labels[row])
        if current.rows and not shapes.fits([larger]):
            batches.append(current)
            larger = MicroBatch((row,), lengths[row], labels[row])
        current = larger
    return [*batches, current]


class TokenRows:
    """Training rows as arrays.

    A label at place p of a row is the token at p + 1, where that one is in the loss.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.tokens = [np.asarray(ids, dtype=np.int32) for ids in columns["input_ids"]]
        masks = [np.asarray(mask, dtype=bool) for mask in columns["loss_mask"]]
        self.places = [np.flatnonzero(mask[1:]).astype(np.int32) for mask in masks]
        self.lengths = tuple(len(ids) for ids in self.tokens)
        self.labels = tuple(len(places) for places in self.places)


@dataclass(frozen=True)
class Part:
    """What one adapter contributes to a step."""

    slot: int
    rows: TokenRows
    batch: MicroBatch
    labels_of_step: int
    """Labels of the whole optimizer step the micro-batch belongs to; each weighs one over this."""


@dataclass(frozen=True)
class Packed:
    """A step's content: int32 arrays, but `weights` in float32."""

    shape: Shape
    ids: np.ndarray
    """(tokens,)"""
    positions: np.ndarray
    """(tokens,), each from 0 in its row"""
    bounds: np.ndarray
    """(segments + 1,), where rows begin and end; the rest repeats the end"""
    block_slots: np.ndarray
    """(blocks,), whose weights a block uses"""
    label_places: np.ndarray
    """(labels,), places on the token axis whose next token is in the loss"""
    targets: np.ndarray
    """(labels,), those next tokens"""
    label_slots: np.ndarray
    """(labels,), whose loss it is; the number of slots for a free place"""
    weights: np.ndarray
    """(labels,), share in the mean; 0 for a free place"""


def pack(parts: Sequence[Part], shape: Shape, shapes: Ladder) -> Packed:
    """Lay the parts end to end, each from the start of a block; free places hold token 0 and no label.

    Args:
        parts: what goes in; it must fit.
        shape: of the result.
        shapes: the ladder that `shape` is of.
    """
    ids = np.zeros(shape.tokens, np.int32)
    positions = np.zeros(shape.tokens, np.int32)
    block_slots = np.zeros(shape.blocks, np.int32)
    label_places = np.zeros(shape.labels, np.int32)
    targets = np.zeros(shape.labels, np.int32)
    label_slots = np.full(shape.labels, shapes.slots, np.int32)
    weights = np.zeros(shape.labels, np.float32)
    bounds: list[int] = [0]
    filled = 0

    def skip(end: int) -> None:
        while bounds[-1] < end:
            start = bounds[-1]
            bounds.append(min(end, start + shapes.longest_tokens))
            positions[start : bounds[-1]] = np.arange(bounds[-1] - start)

    for part in parts:
        start = bounds[-1]
        block_slots[start // BLOCK : start // BLOCK + part.batch.blocks] = part.slot
        for row in part.batch.rows:
            begin, length, count = bounds[-1], part.rows.lengths[row], part.rows.labels[row]
            tokens, places = part.rows.tokens[row], part.rows.places[row]
            ids[begin : begin + length] = tokens
            positions[begin : begin + length] = np.arange(length)
            label_places[filled : filled + count] = begin + places
            targets[filled : filled + count] = tokens[places + 1]
            label_slots[filled : filled + count] = part.slot
            weights[filled : filled + count] = 1.0 / part.labels_of_step
            filled += count
            bounds.append(begin + length)
        skip(start + part.batch.blocks * BLOCK)
    skip(shape.tokens)
    bounds += itertools.repeat(shape.tokens, shape.segments + 1 - len(bounds))
    return Packed(
        shape, ids, positions, np.asarray(bounds, np.int32), block_slots, label_places, targets, label_slots, weights
    )
