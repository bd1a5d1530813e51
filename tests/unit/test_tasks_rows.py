"""The shipped tasks as rows: rebuilt byte for byte, valid against their own declarations, and split honestly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fgpipe.data.tasks import email_wordings, math_wordings, sql_wordings
from fgpipe.data.tasks.__main__ import TASKS, main
from fgpipe.data.tasks.rows import Row, Wordings, calls_of, decapitalise, request_of

DATA = Path(__file__).parents[2] / "data"
RESERVED = {"description", "type", "properties", "required", "nullable"}
PYTHON_TYPES = {"string": (str,), "number": (int, float), "integer": (int,), "boolean": (bool,), "array": (list,)}
LARGEST_FILE_BYTES = 3_500_000


@pytest.fixture(params=sorted(TASKS), scope="module")
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rows(task: str) -> list[Row]:
    lines = (DATA / task / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_command_rebuilds_the_shipped_folder_byte_for_byte(task: str, tmp_path: Path) -> None:
    """Otherwise nobody could tell where the shipped rows come from, or change them safely."""
    main([task, "--out", str(tmp_path)])
    for name in ("rows.jsonl", "README.md"):
        assert (tmp_path / task / name).read_bytes() == (DATA / task / name).read_bytes(), name


def test_command_names_an_unknown_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a typing mistake would end in a traceback."""
    with pytest.raises(SystemExit) as stopped:
        main(["mail"])
    assert stopped.value.code == 2
    assert "got mail, expected any of sql, email, math" in capsys.readouterr().err


def test_size_is_fit_for_a_repository_and_for_training(task: str, rows: list[Row]) -> None:
    """Otherwise a clone grows heavy, or four minutes of training see too few rows."""
    assert (DATA / task / "rows.jsonl").stat().st_size <= LARGEST_FILE_BYTES
    assert 2_000 <= len(rows) <= 3_000


def test_calls_fit_the_declared_tools(rows: list[Row]) -> None:
    """Otherwise training would teach calls that no server could validate."""
    for row in rows:
        tools = {entry["function"]["name"]: entry["function"]["parameters"] for entry in row["tools"]}
        for call in calls_of(row):
            assert_fits(call["arguments"], tools[call["name"]])


def assert_fits(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    assert not RESERVED & set(properties)
    assert set(schema["required"]) <= set(arguments) <= set(properties)
    for name, value in arguments.items():
        declared = properties[name]
        assert isinstance(value, PYTHON_TYPES[declared["type"]]), (name, value)
        assert isinstance(value, bool) == (declared["type"] == "boolean")
        assert value in declared.get("enum", [value])
        if declared["type"] == "array":
            kinds = PYTHON_TYPES[declared["items"]["type"]]
            assert value, name
            assert all(isinstance(item, kinds) for item in value), (name, value)


def test_rows_are_canonical(rows: list[Row]) -> None:
    """Otherwise loading the shipped data would need repairs."""
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles in (["user", "assistant"], ["developer", "user", "assistant"])
        answer = row["messages"][-1]
        assert bool(answer["content"]) != bool(answer.get("tool_calls"))
        text = "".join(str(message["content"]) for message in row["messages"])
        assert "{" not in text, "a slot was left unfilled"
        assert "  " not in text, "a slot was filled with nothing"


def test_no_request_occurs_twice(rows: list[Row]) -> None:
    """Otherwise a trained request could turn up in the evaluation."""
    requests = Counter(request_of(row).casefold() for row in rows)
    assert [text for text, times in requests.items() if times > 1] == []


def test_every_eighth_row_or_so_calls_nothing(rows: list[Row]) -> None:
    """Otherwise the adapter would learn to call a function at every greeting."""
    share = sum(not calls_of(row) for row in rows) / len(rows)
    assert 0.10 <= share <= 0.15


def test_some_rows_need_several_calls(rows: list[Row]) -> None:
    """Otherwise parallel calls would be neither learnt nor scored."""
    share = sum(len(calls_of(row)) > 1 for row in rows) / len(rows)
    assert 0.05 <= share <= 0.12


def test_a_share_of_every_family_keeps_its_wordings_for_evaluation(rows: list[Row]) -> None:
    """Otherwise the score on unseen wordings would speak for some families only."""
    families = Counter(row["meta"]["family"] for row in rows)
    held_out = Counter(row["meta"]["family"] for row in rows if row["meta"]["wording"] == "held_out")
    for family, quota in families.items():
        assert held_out[family] / quota == pytest.approx(0.05, abs=0.015), family


def test_held_out_frames_never_occur_in_common_rows(rows: list[Row]) -> None:
    """Otherwise "unseen wordings" would have been trained on."""
    frames: dict[str, set[str]] = {"common": set(), "held_out": set()}
    for row in rows:
        frames[row["meta"]["wording"]].add(row["meta"]["frame"])
    assert frames["held_out"]
    assert not frames["common"] & frames["held_out"]


def wording_tables() -> list[Wordings]:
    tables: list[Wordings] = []
    for module in (sql_wordings, email_wordings, math_wordings):
        for value in vars(module).values():
            tables += [value] if isinstance(value, Wordings) else []
            tables += [entry for entry in value.values() if isinstance(entry, Wordings)] if type(value) is dict else []
    return tables + [story.wordings for story in math_wordings.STORIES.values()]


def skeleton(frame: str) -> str:
    """The frame's words alone: no punctuation, case or politeness that would make two frames look different."""
    words = "".join(letter if letter.isalnum() or letter in "{} '" else " " for letter in frame.casefold()).split()
    return " ".join(word for word in words if word != "please")


def test_held_out_frames_differ_from_common_ones_in_more_than_punctuation() -> None:
    """Otherwise a held-out wording would be a trained one with another comma."""
    for table in wording_tables():
        common = {skeleton(frame) for frame in table.common}
        assert not common & {skeleton(frame) for frame in table.held_out}, table
        assert table.held_out


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Show the orders.", "show the orders."),
        ("A shop gets 3 crates.", "a shop gets 3 crates."),
        ("I need the price.", "I need the price."),
        ("I'd like to know.", "I'd like to know."),
        ("Maya Chen's mail, please.", "Maya Chen's mail, please."),
        ("What's the price?", "what's the price?"),
    ],
)
def test_only_words_that_may_lose_their_capital_lose_it(sentence: str, expected: str) -> None:
    """Otherwise requests would read "i need" or "OK, maya"."""
    assert decapitalise(sentence) == expected
