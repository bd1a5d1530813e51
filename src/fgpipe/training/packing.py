"""Rows of several adapters laid end to end on one axis of tokens: one shape for many contents, and little padding."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np  # noqa: TID253

from fgpipe.training.shapes import BLOCK, Ladder, MicroBatch, Shape


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
