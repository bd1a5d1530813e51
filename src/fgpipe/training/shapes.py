"""Shapes of packed steps: rows of several adapters laid end to end on one axis of tokens, cut into blocks.

A block of BLOCK tokens belongs to one adapter, so that adapters of any number and size share a step. Shapes come from a
short ladder: those that are wanted often are captured once as a CUDA graph each, and replayed with other contents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

BLOCK = 256
"""Tokens that share an adapter. An adapter's last block of a step is half empty on average."""

LADDER_RATIO = 1.1
"""From one number of blocks to the next: 5 % of a step are empty on average, and with 1.25 it was 10 %."""

LABEL_BLOCK = 128
"""The smallest number of label rows provided for."""

LABEL_RATIO = 1.25
"""From one to the next."""

CAPTURE_COST = 2**16
"""What capturing one more shape costs, in places that stay empty (`Shape.cost`): on an H100 either takes 0.2 s or more,
and a first small shape 15 s if its kernels are not compiled yet."""


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

    @property
    def cost(self) -> int:
        """Places for tokens and labels: on an H100 a label takes about as long as a token."""
        return self.tokens + self.labels

    def holds(self, batches: Sequence[MicroBatch]) -> bool:
        """Whether `batches` go into it together."""
        return (
            sum(batch.blocks for batch in batches) <= self.blocks
            and sum(batch.labels for batch in batches) <= self.labels
            and sum(len(batch.rows) for batch in batches) <= self.rows
        )


@dataclass(frozen=True)
class Ladder:
    """The shapes a run may use."""

    slots: int
    """Adapters that may share a step."""
    longest_tokens: int
    """Longest row, at least a block: no segment is longer."""
    largest_blocks: int
    largest_labels: int
    rows_a_block: float
    """Rows provided for; with more, a larger shape is taken."""
    exact: bool = False
    """Every shape just as large as needed: where nothing is captured."""

    @cached_property
    def blocks(self) -> list[int]:
        """Numbers of blocks, rising."""
        return _rising(1, self.largest_blocks, LADDER_RATIO)

    @cached_property
    def labels(self) -> list[int]:
        """Numbers of label rows, rising."""
        return _rising(LABEL_BLOCK, self.largest_labels, LABEL_RATIO)

    @property
    def largest(self) -> Shape:
        """The shape that decides the memory."""
        return self._shape(self.largest_blocks, self.labels[-1])

    def _shape(self, blocks: int, labels: int) -> Shape:
        rows = int(blocks * self.rows_a_block + 1)
        holes = min(blocks, self.slots) + 1 + -(-blocks * BLOCK // self.longest_tokens)
        return Shape(blocks, labels, rows, rows + holes)

    def fits(self, batches: Sequence[MicroBatch]) -> bool:
        """Whether `batches` go together into the largest shape."""
        return self.largest.holds(batches)

    def choose(self, batches: Sequence[MicroBatch]) -> Shape:
        """The smallest shape that holds `batches`, which fit."""
        needed = sum(batch.labels for batch in batches)
        if self.exact:
            shape = self._shape(sum(batch.blocks for batch in batches), needed)
            return replace(shape, segments=shape.segments + sum(len(batch.rows) for batch in batches))
        labels = next(count for count in self.labels if count >= needed)
        shapes = (self._shape(blocks, labels) for blocks in self.blocks)
        return next(shape for shape in shapes if shape.holds(batches))


class Thrift:
    """Which shape a pass takes: a captured one, until what stayed empty for want of another would have paid for it."""

    def __init__(self) -> None:
        self._empty: Counter[Shape] = Counter()
        self._stopped = False

    def stop(self) -> None:
        """From now on a shape is captured only where no other holds the pass."""
        self._stopped = True

    def choose(self, shapes: Ladder, batches: Sequence[MicroBatch], captured: Iterable[Shape]) -> Shape:
        """The shape for `batches`: of `captured`, or one of the ladder that is worth capturing now."""
        best, held = shapes.choose(batches), smallest(captured, batches)
        if held is None or held.cost <= best.cost or self._stopped:
            return held or best
        self._empty[best] += held.cost - best.cost
        return best if self._empty[best] > CAPTURE_COST else held


def smallest(captured: Iterable[Shape], batches: Sequence[MicroBatch]) -> Shape | None:
    """The one of `captured` that holds `batches` at the least cost; None: none does."""
    return min((shape for shape in captured if shape.holds(batches)), key=lambda shape: shape.cost, default=None)


def _rising(first: int, last: int, ratio: float) -> list[int]:
    """From `first` to `last` or a little more, each about `ratio` times the one before."""
    found = [first]
    while found[-1] < last:
        found.append(min(max(last, first), max(found[-1] + 1, round(found[-1] * ratio))))
    return found


def fill(batches: Sequence[MicroBatch], shapes: Ladder) -> list[int]:
    """Which of `batches` go through the model together.

    First come, first served; but the later half is chosen so that little of the pass stays empty.

    Returns:
        Their places, rising; none of them is left out that would still fit.
    """
    served: list[int] = []
    for place, batch in enumerate(batches):
        if shapes.fits([*(batches[other] for other in served), batch]):
            served.append(place)
    kept = served[: (len(served) + 1) // 2]
    room = shapes.largest_blocks - _blocks(batches, kept)
    sums: dict[int, list[int]] = {0: []}
    for place in range(len(batches)):
        if place not in kept:
            for blocks, places in list(sums.items()):
                if blocks + batches[place].blocks <= room:
                    sums.setdefault(blocks + batches[place].blocks, [*places, place])
    fuller = sorted([*kept, *sums[max(sums)]])
    if _blocks(batches, fuller) > _blocks(batches, served) and shapes.fits([batches[place] for place in fuller]):
        return fuller
    return served


def _blocks(batches: Sequence[MicroBatch], places: Sequence[int]) -> int:
    return sum(batches[place].blocks for place in places)


def ladder(
    lengths: Sequence[int], labels: Sequence[int], *, slots: int, largest_tokens: int, exact: bool = False
) -> Ladder:
    """Shapes for rows of these lengths and labels, up to `largest_tokens` or the longest row.

    The largest provides for twice the average share of labels, and for rows as short as the shortest tenth.
    """
    longest, tokens = max(lengths), sum(lengths)
    blocks = max(-(-longest // BLOCK), -(-largest_tokens // BLOCK))
    short = sorted(lengths)[len(lengths) // 10]
    share = 2 * sum(labels) / tokens
    return Ladder(
        slots=slots,
        longest_tokens=max(longest, BLOCK),
        largest_blocks=blocks,
        largest_labels=max(*labels, int(share * blocks * BLOCK) + 1),
        rows_a_block=BLOCK / short,
        exact=exact,
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
