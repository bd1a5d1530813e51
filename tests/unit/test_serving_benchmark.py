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

import html_report
import serving_capacity
import serving_load
import serving_report
from serving_load import Load, Seen

ROW = st.tuples(st.floats(0, 50), st.floats(0, 5), st.floats(0, 20), st.integers(1, 256), st.integers(0, 2)).map(
    lambda row: (row[0], row[0] + row[1], row[0] + row[1] + row[2], row[3], row[4])
)


@given(st.lists(ROW, max_size=20), st.integers(1, 12))
def test_windows_next_to_each_other_hold_every_token_once(rows: list[Any], windows: int) -> None:
    """Long answers would be counted twice or not at all, and tokens/s be too high or too low."""
    width = 80 / windows
    parts = [Seen(rows, begin=number * width, end=(number + 1) * width) for number in range(windows)]
    counted = sum(serving_load.figures(part)["tokens_per_s"] * width for part in parts)
    assert counted == pytest.approx(sum(row[3] for row in rows), rel=1e-6, abs=1e-6)


@given(st.lists(ROW, max_size=30))
def test_what_adapters_got_adds_up_to_the_whole(rows: list[Any]) -> None:
    """An adapter that starves behind the others would not be seen."""
    whole_ = serving_load.figures(Seen(rows, begin=10, end=40), ["a", "b", "c"])
    for figure in ("tokens_per_s", "requests_per_s", "requests"):
        assert sum(own[figure] for own in whole_["by_model"].values()) == pytest.approx(whole_[figure], abs=1e-6)
    slowest = [own["answer_s"]["p99"] for own in whole_["by_model"].values() if own["answer_s"]]
    if slowest:
        assert max(slowest) >= whole_["answer_s"]["p99"]


def test_the_page_holds_every_adapter_and_quotes_what_failed(tmp_path: Path) -> None:
    """A report with the servers' words in it would run them in the reader's browser, or load things from elsewhere."""
    rows = [(float(at), at + 0.1, at + 0.5, 8, at % 2) for at in range(40)]
    found = serving_load.figures(Seen(rows, begin=5, end=35), ["tickets", "rooms"])
    place = {
        "way": "plain",
        "adapters": 2,
        "clients": 4,
        "load": "",
        "repeat": 0,
        "cores": {"gateway": 0, "servers": 1},
    }
    result = {"base": "tiny", "machine": {"gpu": "none", "vllm": "0"}, "date": "2026-01-02", "command": "--parts plain"}
    result |= {"rows": [{**place, **found}], "left_out": ["engine: <script>alert(1)</script>"]}
    (tmp_path / "plot.png").write_bytes(b"\x89PNG")
    text = serving_report.markdown(result, lambda rows: [])
    page = html_report.page("Serving", text, [tmp_path / "plot.png", tmp_path / "none.png"])
    assert page.count("tickets") == page.count("rooms") == 1
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("<img") == 1
    assert "http" not in page


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
        (first, *rest), (second, *more) = one.draw(), other.draw()
        assert (first.replace(b"a:1", b"b:1"), rest) == (second, more)
