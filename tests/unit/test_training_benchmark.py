"""The arithmetic of benchmarks/training.py: a figure in a document is only as true as this."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def run() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("training_run")
    finally:
        sys.path.remove(str(BENCHMARKS))


def log(rates: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """Lines of a log from (tokens, seconds) between them."""
    lines, tokens = [], 0
    for count, seconds in rates:
        tokens += count
        lines.append({"tokens": tokens, "tokens_per_s": count / seconds})
    return lines


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.01, 100)), min_size=1, max_size=40), st.integers(1, 5))
def test_windows_of_a_log_are_tokens_over_seconds_of_its_later_half(
    run: Any, parts: list[tuple[int, float]], groups: int
) -> None:
    """A slow stretch, such as a checkpoint, must count by the time it takes, not as one of many lines."""
    found = run.speeds(log(parts), groups)
    later = parts[len(parts) // 2 :]
    assert len(found) == min(groups, len(later))
    whole = sum(tokens for tokens, _ in later) / sum(seconds for _, seconds in later)
    assert min(found) <= whole * (1 + 1e-9)
    assert max(found) >= whole * (1 - 1e-9)
    assert run.speeds(log(parts), 1) == [pytest.approx(whole)]


@given(st.lists(st.tuples(st.integers(10, 50), st.floats(10, 1000)), min_size=1, max_size=16), st.floats(5, 50))
def test_runs_side_by_side_add_up(run: Any, members: list[tuple[int, float]], seconds: float) -> None:
    """Steady members that end together are as fast as the sum of their speeds, however often each writes a line."""
    runs = [[(rate * seconds / lines, seconds / lines)] * lines for lines, rate in members]
    total = sum(rate for _, rate in members)
    assert run.together(runs) == pytest.approx(total, rel=0.25)


def test_a_fleets_seconds_add_up(run: Any) -> None:
    """A part of the time that is in no part, or in two, would hide what is slow."""
    sys.path.insert(0, str(BENCHMARKS))
    breakdown = importlib.import_module("training_parts").breakdown
    sys.path.remove(str(BENCHMARKS))
    lines = [
        (4.0, "format: 2.5 s, runs/a/format"),
        (5.0, "format: 3.1 s, runs/b/format"),
        (30.0, "train: base loaded in 6.0 s, compiled in 17.5 s"),
        (61.0, "validate: 0.1 s, runs/a/validate"),
    ]
    parts = breakdown(run.Done(70.0, lines), 60.0)
    assert sum(parts.values()) == pytest.approx(70.0)
    assert (parts["compile"], parts["load"], parts["train"]) == (17.5, 6.0, 30.0)
    assert sum(breakdown(run.Done(70.0, lines[:2]), 60.0).values()) == pytest.approx(70.0)


def test_what_does_not_end_is_killed_and_said(run: Any, tmp_path: Path) -> None:
    """One way that hangs must not take the time of the others, nor leave its children behind."""
    runner = run.Runner(tmp_path, until=run.time.monotonic() + run.KEPT_S + 6)
    with pytest.raises(run.FailedError, match="stopped after"):
        runner.run("hangs", [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"])
    with pytest.raises(run.FailedError, match="no time left"):
        runner.run("late", [sys.executable, "-c", ""])
    assert "begun" in (tmp_path / "hangs.log").read_text()


def test_a_command_that_fails_says_how_it_ended(run: Any, tmp_path: Path) -> None:
    """Its last line is what the table shows."""
    runner = run.Runner(tmp_path, until=run.time.monotonic() + 60)
    with pytest.raises(run.FailedError, match=r"status 3 after .*\nno such module"):
        runner.run("fails", [sys.executable, "-c", "import sys; print('no such module'); sys.exit(3)"])
