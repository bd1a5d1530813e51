"""What a user sees while waiting. Everything here goes to stderr; stdout is for data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def console() -> Console:
    """A rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One line about what is being done."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def bar(description: str, total: float) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar with count, share, elapsed and remaining time; yields rich's Progress and the task's id.

    `progress.update(task, advance=1, note="loss 0.31")` moves it. Without a terminal it prints nothing.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    where = console()
    with Progress(*columns, console=where, disable=not where.is_terminal) as progress:
        yield progress, progress.add_task(description, total=total, note="")
