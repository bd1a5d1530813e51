"""Which rows each optimizer step sees: a pure function of lengths, seed and epoch, so a resumed run sees the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

WINDOW_STEPS = 16
"""Steps whose rows are sorted by length together. With 16 rows a step the shipped tasks have 2 to 5 % padding this way
and 30 to 65 % in random batches; a wider window gains little more and mixes the rows less."""


@dataclass(frozen=True)
class RowOrder:
    """Rows of every step of every epoch, rows of similar length together to save padding."""

    lengths: tuple[int, ...]
    """Tokens of each row."""
    rows_per_step: int
    """Rows an optimizer step sees, whatever the number of forward passes they are spread over."""
    seed: int

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; the last may see fewer rows."""
        return -(-len(self.lengths) // self.rows_per_step)

    def epoch(self, number: int) -> list[list[int]]:
        """Row numbers of each step of epoch `number`, every row once; an incomplete step comes last."""
        shuffled = list(range(len(self.lengths)))
        source = random.Random(f"{self.seed}/{number}")
        source.shuffle(shuffled)
        window = self.rows_per_step * WINDOW_STEPS
        steps: list[list[int]] = []
        for start in range(0, len(shuffled), window):
            rows = sorted(shuffled[start : start + window], key=self.lengths.__getitem__, reverse=True)
            steps += [rows[at : at + self.rows_per_step] for at in range(0, len(rows), self.rows_per_step)]
        incomplete = [steps.pop()] if len(steps[-1]) < self.rows_per_step else []
        source.shuffle(steps)
        return steps + incomplete

    def tokens_until(self, steps: int) -> int:
        """Tokens, without padding, of the first `steps` steps of the whole run."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        partial = self.epoch(epochs)[:rest] if rest else []
        return epochs * sum(self.lengths) + sum(self.lengths[row] for rows in partial for row in rows)

    def padded_tokens(self, *, batch_size: int) -> int:
        """Tokens of the first epoch, padding included, when each forward pass takes `batch_size` rows."""
        batches = (rows[at : at + batch_size] for rows in self.epoch(0) for at in range(0, len(rows), batch_size))
        return sum(len(batch) * max(self.lengths[row] for row in batch) for batch in batches)
