"""The serving benchmark's own arithmetic and clients: what it prints must be what happened."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import serving_capacity
import serving_load
import serving_report
from serving_load import Load, Seen

ROW = st.tuples(st.floats(0, 50), st.floats(0, 5), st.floats(0, 20), st.integers(1, 256)).map(
    lambda row: (row[0], row[0] + row[1], row[0] + row[1] + row[2], row[3])
)


@given(st.lists(ROW, max_size=20), st.integers(1, 12))
def test_windows_next_to_each_other_hold_every_token_once(rows: list[Any], windows: int) -> None:
    """Long answers would be counted twice or not at all, and tokens/s be too high or too low."""
    width = 80 / windows
    parts = [Seen(rows, begin=number * width, end=(number + 1) * width) for number in range(windows)]
    counted = sum(serving_load.figures(part)["tokens_per_s"] * width for part in parts)
    assert counted == pytest.approx(sum(row[3] for row in rows), rel=1e-6, abs=1e-6)


def test_a_ratio_is_taken_inside_a_repeat() -> None:
    """A machine that became slower between two repeats would look like a difference between servers."""
    rows = []
    for repeat, speed in enumerate((100.0, 10.0)):
        for way, factor in (("plain", 1), ("replicas4", 3)):
            place = {"way": way, "adapters": 20, "clients": 64, "load": "", "repeat": repeat}
            rows.append({**place, "tokens_per_s": factor * speed, "first_token_s": {"p50": 0.1, "p99": factor / speed}})
    (found,) = (entry for entry in serving_report.comparisons(rows) if "plain" in entry["what"])
    assert found["tokens_per_s"] == [3, 3]
    assert found["first_token_p99"] == pytest.approx([3, 3])


async def asked_twice(answer: Callable[[Any], None]) -> Seen:
    """What a client sees that asks a server, and again if it may; `answer` is given the connection to write to."""

    class Connection(serving_capacity.Sender):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.left:
                answer(self)

    seen = Seen()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        prompts = serving_load.Prompts(Load(url, ("a00",), seed=1), "1")
        stream = await serving_load.one(prompts, None, seen)
        if stream is not None:
            await serving_load.one(prompts, stream, seen)
            stream.close()
        await asyncio.sleep(0.05)  # both ends close
    return seen


def whole(connection: Any) -> None:
    for _ in range(connection.tokens):
        connection.step(serving_capacity.chunk(serving_capacity.EVENT))


def too_short(connection: Any) -> None:
    connection.tokens, connection.left = connection.tokens - 1, connection.tokens - 1
    whole(connection)


def cut_off(connection: Any) -> None:
    connection.step(serving_capacity.chunk(serving_capacity.EVENT))
    connection.transport.close()


def refused(connection: Any) -> None:
    connection.transport.close()


@pytest.mark.parametrize(("answer", "sound"), [(whole, True), (too_short, False), (cut_off, False), (refused, False)])
def test_only_whole_answers_count(answer: Callable[[Any], None], sound: bool) -> None:
    """A server that loses or shortens answers would look fast."""
    seen = asyncio.run(asked_twice(answer))
    if sound:
        assert len(seen.rows) == 2
        assert seen.faults == []
    else:
        assert seen.rows == []
        assert len(seen.faults) == 1


def test_all_servers_are_asked_the_same() -> None:
    """One server would get shorter prompts than the other by chance, and win by that."""
    one, other = (serving_load.Prompts(Load(url, ("a", "b"), seed=3), "3 7") for url in ("http://a:1", "http://b:1"))
    for _ in range(50):
        (first, tokens), (second, more) = one.draw(), other.draw()
        assert (first.replace(b"a:1", b"b:1"), tokens) == (second, more)
