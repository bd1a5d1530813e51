"""Packed training batches, made by worker processes from rows of the corpus that are drawn afresh."""

from __future__ import annotations

import multiprocessing
import queue
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fgpipe.functiongemma import segments
from fgpipe.models.tiny import corpus
from fgpipe.models.tiny.corpus_rows import Row
from fgpipe.models.tiny.tokenizer import SPACED_PIECES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

LONGEST_ROW = 1536
"""Rows of more tokens are dropped (one in some thousands)."""
MOST_ROWS = 640
"""Room for row bounds in one batch; unused bounds repeat the end, so that shapes never change."""
KEPT_BATCHES = 1500
REPEATS = 2
"""Mean uses of a batch, the second drawn from the last `KEPT_BATCHES`: the GPU is faster than the corpus."""
PROMPT_WEIGHT = 0.05
"""Loss weight of a prompt token; a completion token weighs 1."""


@dataclass(frozen=True)
class Batch:
    """Rows laid end to end: token ids, positions in their row, bounds of the rows, next tokens and their weights."""

    ids: NDArray[np.uint16]
    position: NDArray[np.uint16]
    bounds: NDArray[np.int32]
    targets: NDArray[np.uint16]
    weights: NDArray[np.float16]


_PIECES = re.compile(rf"<(?:bos|escape|start_\w+|end_\w+)>|{SPACED_PIECES}")


class Encoder:
    """The tokenizer with a memory of pieces: words repeat, so looking them up is three times as fast."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        """The ids that the tokenizer gives for `text`."""
        ids: list[int] = []
        known = self._known
        for piece in _PIECES.findall(text):
            if piece not in known:
                if len(known) > 200_000:
                    known.clear()
                known[piece] = self._tokenizer.encode(piece, add_special_tokens=False).ids
            ids += known[piece]
        return ids

    def row(self, row: Row) -> tuple[list[int], list[float]]:
        """Token ids of a row, and the loss weight of each token as a target."""
        ids: list[int] = []
        weights: list[float] = []
        for segment in segments(row["messages"], row["tools"]):
            piece = self.text(segment.text)
            ids += piece
            weights += [1.0 if segment.trained else PROMPT_WEIGHT] * len(piece)
        return ids, weights


def pack(rows: Iterator[tuple[list[int], list[float]]], tokens: int) -> Batch:
    """The next `tokens` tokens of rows; what remains after the last row that fits is padding of no weight."""
    import numpy as np

    ids, targets = np.zeros(tokens, np.uint16), np.zeros(tokens, np.uint16)
    position, weights = np.zeros(tokens, np.uint16), np.zeros(tokens, np.float16)
    bounds, at = [0], 0
    while at < tokens - LONGEST_ROW and len(bounds) < MOST_ROWS - 1:
        row, weight = next(rows)
        end = at + len(row)
        ids[at:end] = row
        position[at:end] = np.arange(len(row))
        targets[at : end - 1], weights[at : end - 1] = ids[at + 1 : end], weight[1:]
        at = end
        bounds.append(at)
    if at < tokens:
        position[at:] = np.arange(tokens - at)
        bounds.append(tokens)
    full = np.full(MOST_ROWS + 1, tokens, np.int32)
    full[: len(bounds)] = bounds
    return Batch(ids, position, full, targets, weights)


def encoded_rows(tokenizer: Tokenizer, seed: str) -> Iterator[tuple[list[int], list[float]]]:
    """Encoded corpus rows without end."""
    rng, encoder = random.Random(seed), Encoder(tokenizer)
    while True:
        made = encoder.row(corpus.row(rng))
        if len(made[0]) <= LONGEST_ROW:
            yield made


def _work(tokenizer_file: str, seed: str, tokens: int, out: multiprocessing.Queue[Batch]) -> None:
    from tokenizers import Tokenizer

    rows = encoded_rows(Tokenizer.from_file(tokenizer_file), seed)
    while True:
        out.put(pack(rows, tokens))


def stream(tokenizer_file: Path, *, seed: int, tokens: int, workers: int) -> Iterator[Batch]:
    """Batches of `tokens` tokens from `workers` processes, each with its own seed; which comes first may vary."""
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[Batch] = context.Queue(maxsize=4 * workers)
    processes = [
        context.Process(target=_work, args=(str(tokenizer_file), f"pretrain-{seed}-{i}", tokens, ready), daemon=True)
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while True:
            try:
                yield ready.get(timeout=60)
            except queue.Empty:
                raise RuntimeError(
                    "corpus workers: got no batch in 60 s, expected one every few milliseconds"
                ) from None
    finally:
        for process in processes:
            process.terminate()
