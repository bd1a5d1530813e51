"""What a user sees of a fleet in training: one table of all adapters; without a terminal, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fgpipe.progress import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from fgpipe.training.fleet import Event
    from fgpipe.training.plan import TrainingPlan

SHARE_A_LINE = 0.1
"""Without a terminal: share of all tokens between two lines."""


@dataclass
class _Row:
    steps: int
    tokens_a_step: float
    state: str = "waiting"
    step: int = 0
    loss: float | None = None
    held_out_loss: float | None = None


class FleetView:
    """Shows the progress of adapters as events tell it."""

    def __init__(self, members: Sequence[tuple[str, TrainingPlan]]) -> None:
        self._rows = {name: _Row(todo.steps, todo.tokens * todo.epochs / todo.steps) for name, todo in members}
        self._tokens = sum(row.steps * row.tokens_a_step for row in self._rows.values())
        self._open = ExitStack()
        self._terminal = sys.stderr.isatty()
        self._first: tuple[float, float] | None = None
        self._said = 0.0

    def __enter__(self) -> Self:
        say(f"fleet: {len(self._rows)} adapters, {self._tokens / 1e6:,.1f} M tokens")
        if self._terminal:
            from rich.live import Live

            live = Live(get_renderable=self.table, console=console(), refresh_per_second=2)
            self._open.enter_context(live)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def hear(self, event: Event) -> None:
        """Take note of an event, and show it."""
        row = self._rows[event.name]
        row.step = event.step or row.step
        if event.kind == "seated":
            row.state = "training"
        elif event.kind == "logged" and event.line is not None:
            row.loss = event.line.get("loss", row.loss)
            row.held_out_loss = event.line.get("held_out_loss", row.held_out_loss)
        elif event.kind in ("finished", "failed"):
            row.state = event.kind
        if self._first is None:
            self._first = (time.monotonic(), self.done_tokens)
        if not self._terminal:
            self._say(event)

    @property
    def done_tokens(self) -> float:
        """Tokens of all finished steps."""
        return sum(row.step * row.tokens_a_step for row in self._rows.values())

    def _say(self, event: Event) -> None:
        row = self._rows[event.name]
        if event.kind == "finished":
            loss = f", loss {row.loss:.4f}" if row.loss is not None else ""
            say(f"{event.name}: trained, {row.step} steps{loss}")
        if self.done_tokens >= self._said + SHARE_A_LINE * self._tokens:
            self._said = self.done_tokens
            say(f"fleet: {self._summary()}")

    def _summary(self) -> str:
        since, before = self._first or (time.monotonic(), 0.0)
        speed = (self.done_tokens - before) / max(time.monotonic() - since, 1e-9)
        states = [row.state for row in self._rows.values()]
        counts = ", ".join(
            f"{states.count(state)} {state}"
            for state in ("waiting", "training", "finished", "failed")
            if state in states
        )
        return f"{self.done_tokens / self._tokens:.0%} of the tokens, {speed:,.0f} tokens/s; {counts}"

    def table(self) -> Table:
        """All adapters as they stand."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, title=self._summary(), title_justify="left")
        for title in ("adapter", "state", "step", "loss", "held out"):
            table.add_column(title, justify="left" if title in ("adapter", "state") else "right")
        for name, row in self._rows.items():
            losses = [f"{loss:.4f}" if loss is not None else "" for loss in (row.loss, row.held_out_loss)]
            table.add_row(name, row.state, f"{row.step:,}/{row.steps:,}", *losses)
        return table
