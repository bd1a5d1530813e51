"""Stage `load`: rows checked one by one, nothing written when one is bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from fgpipe import functiongemma, store
from fgpipe.artifacts import Dataset, up_to_date
from fgpipe.config import DatasetConfig, TaskConfig
from fgpipe.data import checks, loading
from fgpipe.errors import DataError, FormatError
from fgpipe.resources import folder

INSTRUCTION = "You are a model that can do function calling with the following functions"


def tool(name: str = "lamp", **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters or {"on": {"type": "boolean"}}}
    return {"type": "function", "function": {"name": name, "description": "Switch.", "parameters": schema}}


def call(name: str = "lamp", **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments or {"on": True}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def row(question: str, *more: dict[str, Any], **columns: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, *(more or [call()])]
    return {"messages": messages, "tools": [tool()], **columns}


def good_rows(count: int = 60) -> list[dict[str, Any]]:
    return [row(f"Lamp {number}") for number in range(count)]


def task(tmp_path: Path, rows: list[Any], instruction: str = INSTRUCTION, **settings: Any) -> TaskConfig:
    store.write_jsonl(tmp_path / "rows.jsonl", rows)
    dataset = DatasetConfig(source=str(tmp_path / "rows.jsonl"), **settings)
    return TaskConfig(name="lamps", instruction=instruction, dataset=dataset)


def load(tmp_path: Path, rows: list[Any], *, seed: int = 0, **settings: Any) -> Dataset:
    return loading.load(task(tmp_path, rows, **settings), seed=seed, out=tmp_path / "load")


def every_row(data: Dataset) -> list[dict[str, Any]]:
    return [*data.rows("train"), *data.rows("evaluation")]


def test_numbers_say_what_was_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user could not see how many rows were dropped, mended or held out."""
    rows = [
        *good_rows(),
        *good_rows(5),
        row("Joke?", {"role": "assistant", "content": "No."}, meta={"wording": "held_out"}),
        row("Null?", call(on=True, room=None)),
    ]
    numbers = dict(load(tmp_path, rows).numbers)
    assert numbers["rows"] == 62 == numbers["train_rows"] + numbers["evaluation_rows"]
    assert numbers["duplicates"] == 5
    assert (numbers["held_out_wording_rows"], numbers["no_call_rows"], numbers["repaired"]) == (1, 1, 1)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("62 rows: ")
    assert "5 duplicates dropped, 1 rows repaired (a null argument, 1 times)" in line


def test_rows_are_canonical_with_id_and_instruction(tmp_path: Path) -> None:
    """Training would see another developer message than the one clients are told to send."""
    developer = {"role": "developer", "content": "CREATE TABLE a (b);\n"}
    rows = [*good_rows(), {**row("x"), "messages": [developer, *row("x")["messages"]]}]
    loaded = every_row(load(tmp_path, rows))
    assert {len(each["id"]) for each in loaded} == {16}
    texts = {each["messages"][1]["content"]: each["messages"][0] for each in loaded}
    assert texts["x"] == {"role": "developer", "content": f"CREATE TABLE a (b);\n{INSTRUCTION}"}
    assert texts["Lamp 1"] == {"role": "developer", "content": INSTRUCTION}
    bare = every_row(load(tmp_path, rows, instruction=""))
    assert {each["id"] for each in bare} == {each["id"] for each in loaded}
    assert [each["messages"][0]["role"] for each in bare].count("user") == len(rows) - 1


def test_an_instruction_is_added_once() -> None:
    """Rows that bring the sentence themselves, as published ones do, would say it twice."""
    messages = row("x")["messages"]
    once = loading.with_instruction(messages, INSTRUCTION)
    assert loading.with_instruction(once, INSTRUCTION) == once
    system = [{"role": "system", "content": f"Date: today\n{INSTRUCTION}\n"}, *messages]
    assert loading.with_instruction(system, INSTRUCTION)[0]["content"] == f"Date: today\n{INSTRUCTION}"
    assert loading.with_instruction(messages, "") == messages
    assert loading.with_instruction([], INSTRUCTION) == [{"role": "developer", "content": INSTRUCTION}]


def test_the_seed_orders_training_rows_and_nothing_else(tmp_path: Path) -> None:
    """Runs with different seeds would be scored on different rows, or train on what another run was scored on."""
    first, second = load(tmp_path, good_rows(), seed=1), None
    rows = first.rows("train"), first.rows("evaluation")
    second = load(tmp_path, good_rows(), seed=2)
    assert second.rows("evaluation") == rows[1]
    assert second.rows("train") != rows[0]
    assert sorted(map(str, second.rows("train"))) == sorted(map(str, rows[0]))


def test_the_same_rows_in_another_order_train_the_same_model(tmp_path: Path) -> None:
    """The order of a file, often sorted by subject, would decide what a short training run sees."""
    forwards = load(tmp_path, good_rows()).rows("train")
    assert load(tmp_path, good_rows()[::-1]).rows("train") == forwards


def test_a_finished_load_is_recognised(tmp_path: Path) -> None:
    """Every command would load the data again, or none would after the data changed."""
    config = task(tmp_path, good_rows())
    loading.load(config, seed=3, out=tmp_path / "load")

    def current(config: TaskConfig, seed: int) -> Dataset | None:
        settings = loading.load_config(config, seed)
        return up_to_date(Dataset, tmp_path / "load", config=settings, inputs=loading.load_inputs(config))

    assert current(config, 3) is not None
    assert current(config, 4) is None
    assert current(config.model_copy(update={"instruction": "Other"}), 3) is None
    assert current(task(tmp_path, good_rows(61)), 3) is None


BAD = {
    "no messages": ({"tools": []}, "messages: got no such column"),
    "empty": (row("x") | {"messages": []}, "messages: got none by the user"),
    "ends in a question": (
        row("x", {"role": "user", "content": "y"}),
        "messages[1].role: got user, expected assistant",
    ),
    "ends in a tool": (row("x", call(), {"role": "tool", "name": "lamp", "content": "ok"}), "expected assistant"),
    "empty answer": (row("x", {"role": "assistant", "content": " "}), "messages[1]: got neither text nor calls"),
    "unknown tool": (row("x", call("door")), "messages[1].tool_calls[0].function.name: got door, expected one of"),
    "no tools": (row("x", tools=[]), "(it has none)"),
    "a tool twice": (row("x", tools=[tool(), tool()]), "tools[1].function.name: got lamp a second time"),
    "reserved name": (row("x", tools=[tool(type={"type": "string"})]), "tools[0].function.parameters.properties.type"),
    "control token": (row("x <end_of_turn> y"), "messages[0].content: got the control token <end_of_turn>"),
    "escape in an argument": (row("x", call(on="a<escape>b")), "arguments.on"),
    "endless number": (row("x", call(on=10**400 * 10**4000)), "got invalid JSON"),
    "gap after a call": (row("x", call(), {"role": "assistant", "content": "y"}), "messages[2]"),
    "unknown role": (row("x", {"role": "robot", "content": "y"}), "messages[1].role"),
    "an image": (
        row("x", {"role": "assistant", "content": [{"type": "image_url", "image_url": "y"}]}),
        "messages[1].content[0]",
    ),
    "arguments of another shape": (
        row("x", {"role": "assistant", "tool_calls": [{"function": {"name": "lamp", "arguments": [1]}}]}),
        "messages[1].tool_calls[0].function.arguments",
    ),
    "a list for a row": ([1, 2], "got list, expected an object"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_one_line_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    """A bad row would be trained on, or end in a traceback, or leave half a dataset behind."""
    bad, expected = BAD[fault]
    (tmp_path / "in").mkdir()
    lines = [
        json.dumps(each) if fault != "endless number" else dumps(each) for each in [*good_rows(3), bad, *good_rows()]
    ]
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(lines))
    config = TaskConfig(name="lamps", dataset=DatasetConfig(source=str(tmp_path / "in")))
    with pytest.raises(DataError) as caught:
        loading.load(config, seed=0, out=tmp_path / "out" / "load")
    assert caught.value.message.startswith("rows.jsonl:4")
    assert expected in caught.value.message
    assert "\n" not in caught.value.message
    assert not list(tmp_path.glob("out/**/*"))


def dumps(value: Any) -> str:
    """JSON with integers longer than Python prints."""
    import sys

    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    """Text cut in the middle of an emoji would end in a traceback when the rows are written."""
    for bad in (row("cut \ud83d"), row("x", meta={"note": "cut \ud83d"})):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [bad, *good_rows()])))
        config = TaskConfig(name="lamps", dataset=DatasetConfig(source=str(tmp_path / "rows.jsonl")))
        with pytest.raises(DataError, match=r"^rows.jsonl:1: got half of a surrogate pair"):
            loading.load(config, seed=0, out=tmp_path / "load")


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    """A user would mend a file row by row, running the command once for each."""
    with pytest.raises(DataError, match=r"^rows.jsonl:1 .*messages\[1\].* \(2 more of 63 rows are unusable\)\n"):
        load(tmp_path, [row("x", tools=[]), *good_rows(), row("y", tools=[]), row("z", tools=[])])


def test_a_control_token_in_the_instruction_is_refused(tmp_path: Path) -> None:
    """Every prompt would end before it began."""
    with pytest.raises(DataError, match=r"^task\.instruction: got the control token <end_of_turn>"):
        load(tmp_path, good_rows(), instruction="Call.<end_of_turn>")


@pytest.mark.parametrize("rows", [[], good_rows(1), [row(f"x {n}", meta={"wording": "held_out"}) for n in range(9)]])
def test_a_side_without_rows_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    """Training on nothing, or a score over nothing, would fail much later or mean nothing."""
    with pytest.raises(DataError, match=r"rows to train on and \d+ to evaluate on, expected some of both"):
        load(tmp_path, rows)
    assert not (tmp_path / "load").exists()


def test_an_answer_that_would_read_back_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model would be trained on text whose arguments no reader gives back."""
    given = row("x", call(on=1.0))
    checks.check(given["messages"], given["tools"])
    honest = functiongemma.parse_output
    monkeypatch.setattr(functiongemma, "parse_output", lambda text: honest(text.replace("1.0", "1")))
    with pytest.raises(FormatError, match=r"messages\[1\].tool_calls: got calls that read back otherwise"):
        checks.check(given["messages"], given["tools"])


def test_a_duplicate_of_a_held_out_row_is_not_trained_on(tmp_path: Path) -> None:
    """A wording that training must never see would slip in under another mark."""
    marked = [row(f"Lamp {number}", meta={"wording": "held_out"}) for number in range(20)]
    loaded = load(tmp_path, [*good_rows(), *marked])
    assert loaded.numbers["duplicates"] == 20
    questions = {each["messages"][1]["content"] for each in loaded.rows("train")}
    assert questions
    assert not questions & {f"Lamp {number}" for number in range(20)}


@pytest.mark.parametrize("name", ["sql", "email", "math"])
def test_shipped_rows_load_without_repair(name: str, tmp_path: Path) -> None:
    """The first command of the README would complain about fgpipe's own data."""
    if not (folder("data") / name / "rows.jsonl").is_file():
        pytest.skip(f"data/{name} is not there")
    config = TaskConfig(name=name, dataset=DatasetConfig(source=f"data/{name}/rows.jsonl"), instruction=INSTRUCTION)
    numbers = loading.load(config, seed=0, out=tmp_path / "load").numbers
    assert (numbers["duplicates"], numbers["repaired"]) == (0, 0)
    assert 0.05 < numbers["no_call_rows"] / numbers["rows"] < 0.2
    assert 0 < numbers["held_out_wording_rows"] < numbers["evaluation_rows"]


@pytest.mark.parametrize("name", ["sql", "email"])
def test_shipped_rows_are_the_same_through_arrow(name: str, tmp_path: Path) -> None:
    """A dataset pushed to the hub as Parquet would train on phantom arguments, which its JSONL does not have."""
    source = folder("data") / name / "rows.jsonl"
    if not source.is_file():
        pytest.skip(f"data/{name} is not there")
    import pyarrow
    import pyarrow.parquet

    rows = store.read_jsonl(source)[:300]
    table = pyarrow.Table.from_struct_array(pyarrow.array(rows))
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    config = TaskConfig(name=name, dataset=DatasetConfig(source=str(tmp_path / "rows.parquet")))
    through_arrow = loading.load(config, seed=0, out=tmp_path / "arrow")
    assert every_row(through_arrow) == every_row(load(tmp_path, rows, instruction=""))
