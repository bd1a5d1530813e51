"""Reading rows: every kind of file gives the same rows, and every bad one a single line that says where."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fgpipe.config import DatasetConfig
from fgpipe.data import sources
from fgpipe.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": 'Lights on, please\u2028now, "all" of them — {2}\n'},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "lamp", "arguments": {"on": True, "room": "hall"}}}],
            },
        ],
        "tools": [
            {"function": {"name": "lamp", "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}}}}
        ],
    },
    {
        "messages": [
            {"role": "user", "content": "Meet at ten"},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "meet", "arguments": {"at": "2026-01-20T10:00"}}}],
            },
        ],
        "tools": [
            {"function": {"name": "meet", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}
        ],
        "meta": {"family": "meeting"},
    },
    {
        "messages": [{"role": "user", "content": "Wait"}, {"role": "assistant", "tool_calls": [], "content": "Yes."}],
        "tools": [],
    },
]


def read(source: Path | str, **settings: Any) -> list[dict[str, Any]]:
    return [row.value for row in sources.read(DatasetConfig(source=str(source), **settings))]


def write_jsonl(path: Path, rows: list[Any] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    import csv

    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["messages", "tools", "meta"])
        writer.writeheader()
        writer.writerows({key: json.dumps(value) for key, value in row.items()} for row in rows)
    return path


def decoded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: json.loads(value) for key, value in row.items()} for row in rows]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_struct_array(pyarrow.array(rows)), path)
    return path


def message_of(source: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **settings)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_jsonl_json_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    """A dataset saved in another kind of file would train another model."""
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    as_text = [{key: json.dumps(value) for key, value in row.items()} for row in ROWS]
    assert read(write_jsonl(tmp_path / "rows.jsonl")) == ROWS
    assert read(write_jsonl(tmp_path / "lines.json")) == ROWS
    assert read(tmp_path / "rows.json") == ROWS
    assert decoded(read(write_csv(tmp_path / "rows.csv"))) == ROWS
    assert decoded(read(write_parquet(tmp_path / "rows.parquet", as_text))) == ROWS


def test_arrows_filled_in_nones_are_taken_out_again(tmp_path: Path) -> None:
    """Rows of different tools in one Parquet file would declare and call each other's parameters, as None."""
    full = ROWS[:2]
    padded = write_parquet(tmp_path / "rows.parquet", full)
    import pyarrow.parquet

    raw = pyarrow.parquet.read_table(padded).to_pylist()
    assert raw[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]["at"] is None
    assert read(padded) == full


def test_an_empty_object_survives_parquet(tmp_path: Path) -> None:
    """A call without arguments, in a file where other calls have some, would lose its `arguments` and be refused."""
    calls = [{"arguments": {"on": True}}, {"arguments": {}}]
    assert read(write_parquet(tmp_path / "rows.parquet", [{"calls": calls}])) == [{"calls": calls}]


def test_a_none_inside_a_list_is_no_padding(tmp_path: Path) -> None:
    """A list argument would silently become shorter."""
    rows = [{"values": ["a", None, "b"]}]
    assert read(write_parquet(tmp_path / "rows.parquet", rows)) == rows


def test_a_timestamp_in_parquet_is_refused_by_its_path(tmp_path: Path) -> None:
    """The model would learn to write dates the way Python prints them, and no longer as the dataset's author did."""
    row = {"messages": [{"role": "user", "arguments": {"at": datetime(2026, 1, 20)}}]}
    message = message_of(write_parquet(tmp_path / "rows.parquet", [{"messages": []}, row]))
    assert message.startswith("rows.parquet row 2: messages[0].arguments.at: got a datetime")


def test_a_pandas_missing_number_is_refused(tmp_path: Path) -> None:
    """NaN would reach the manifest and break every JSON reader after it."""
    assert "meta.score: got a float (nan)" in message_of(
        write_parquet(tmp_path / "rows.parquet", [{"meta": {"score": float("nan")}}])
    )


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    """Shards would be left out, or change the order of rows from machine to machine."""
    (tmp_path / "deep").mkdir()
    (tmp_path / ".cache").mkdir()
    write_jsonl(tmp_path / "b.jsonl", ROWS[1:2])
    write_jsonl(tmp_path / "a.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "deep" / "c.jsonl", ROWS[2:])
    write_jsonl(tmp_path / ".cache" / "old.jsonl", ROWS)
    (tmp_path / "README.md").write_text("not rows")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert read(tmp_path) == ROWS


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    """The same rows saved as JSONL and as CSV would be trained on twice."""
    write_jsonl(tmp_path / "rows.jsonl")
    write_csv(tmp_path / "rows.csv")
    assert "(.csv, .jsonl)" in message_of(tmp_path)


def test_limit_stops_reading(tmp_path: Path) -> None:
    """A quick trial would read, and judge, the whole of a large dataset."""
    path = write_jsonl(tmp_path / "rows.jsonl")
    path.write_text(path.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    assert read(path, limit=2) == ROWS[:2]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.jsonl", '{"messages": []}\n\n{"messages": [}\n', "rows.jsonl:3: got invalid JSON"),
        ("rows.jsonl", '{"a": 1}\n[1, 2]\n', "rows.jsonl:2: got list, expected an object"),
        ("rows.jsonl", '{"a": NaN}\n', "rows.jsonl:1: got invalid JSON (NaN is not a JSON number)"),
        ("rows.jsonl", '{"a": 1e999}\n', "rows.jsonl:1: got invalid JSON (1e999 is not a JSON number)"),
        ("rows.jsonl", "[" * 200_000 + "\n", "rows.jsonl:1: got JSON nested too deeply"),
        ("rows.jsonl", '{"a": ' + "9" * 5000 + "}\n", "rows.jsonl:1: got invalid JSON"),
        ("rows.json", '{"messages": []', "rows.json: got invalid JSON"),
        ("rows.json", '"text"', "rows.json: got str, expected a list of rows"),
        ("rows.json", '[{"a": 1}, 2]', "rows.json row 2: got int, expected an object"),
        ("rows.csv", "", "rows.csv:1: got nothing, expected a header"),
        ("rows.csv", "a,a\n1,2\n", "rows.csv:1: got ['a', 'a'], expected a header of distinct"),
        ("rows.csv", 'a,b\n1,2\n"x\ny",2,3\n', "rows.csv:4: got 3 cells, expected 2"),
        ("rows.csv", 'a,b\n1,"2\n', "rows.csv:2: got malformed CSV"),
        ("rows.parquet", "PAR1 no", "rows.parquet: cannot be read as Parquet"),
        ("rows.txt", "hello", "rows.txt: got a .txt file, expected .jsonl"),
        ("rows", "hello", "rows: got a suffixless file"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(tmp_path: Path, name: str, content: str, expected: str) -> None:
    """A user would search a large file for a fault, or read a traceback."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert message_of(tmp_path / name).startswith(expected)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """A file in another encoding would end in a traceback."""
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    assert message_of(tmp_path / "rows.jsonl").startswith("rows.jsonl: got bytes that are not UTF-8")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Files saved by spreadsheet programs would fail in their first line."""
    for path in (write_jsonl(tmp_path / "rows.jsonl"), write_csv(tmp_path / "rows.csv")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(tmp_path / "rows.jsonl") == ROWS
    assert decoded(read(tmp_path / "rows.csv")) == ROWS


def test_a_csv_cell_may_be_longer_than_pythons_default(tmp_path: Path) -> None:
    """Long conversations in CSV would be refused."""
    import csv

    before = csv.field_size_limit()
    rows = [{"messages": [{"role": "user", "content": "x" * 200_000}], "tools": []}]
    assert decoded(read(write_csv(tmp_path / "rows.csv", rows))) == rows
    assert csv.field_size_limit() == before


def test_a_missing_source_is_one_line(tmp_path: Path) -> None:
    """A mistyped path would be looked up on the hub, or end in a traceback."""
    assert message_of(tmp_path / "none.jsonl").endswith("none.jsonl, which does not exist")
    assert message_of("data/none").endswith("data/none, which does not exist")
    assert message_of("").startswith("task.dataset.source: got nothing")
    (tmp_path / "empty").mkdir()
    assert "got no data file" in message_of(tmp_path / "empty")


def test_the_fingerprint_is_the_content(tmp_path: Path) -> None:
    """Stages would be skipped after the data changed, or run again after it was only moved."""
    (tmp_path / "other").mkdir()
    first = sources.fingerprint(DatasetConfig(source=str(write_jsonl(tmp_path / "rows.jsonl"))))
    moved = sources.fingerprint(DatasetConfig(source=str(write_jsonl(tmp_path / "other" / "rows.jsonl"))))
    changed = sources.fingerprint(DatasetConfig(source=str(write_jsonl(tmp_path / "rows.jsonl", ROWS[1:]))))
    assert first == moved != changed


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "0123abc"])
def test_a_hub_dataset_needs_a_commit(revision: str | None) -> None:
    """Training again next month would silently use other rows."""
    message = message_of("org/name", revision=revision)
    assert message.startswith(f"task.dataset.revision: got {revision or 'none'}, expected a commit")


def test_a_folder_named_like_a_hub_id_is_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local dataset in `org/name` would be asked from the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    write_jsonl(tmp_path / "org" / "name" / "rows.jsonl")
    assert read("org/name") == ROWS


class Hub:
    """Stands for the hub: files by name, and what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, names: list[str]) -> None:
        self.asked: list[tuple[str, str]] = []
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(folder / name) if name.endswith("l") else write_parquet(folder / name, [{"from": name}])

        def fetch(dataset: str, name: str, *, repo_type: str, revision: str) -> str:
            assert (dataset, repo_type) == ("org/name", "dataset")
            self.asked.append((name, revision))
            return str(folder / name)

        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: [".gitattributes", *names])
        monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)


def test_a_hub_dataset_is_read_from_raw_files_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows would pass through Arrow's null-filling, or come from a commit other than the pinned one."""
    hub = Hub(monkeypatch, tmp_path, ["dataset.jsonl"])
    assert read("org/name", revision=COMMIT) == ROWS
    assert hub.asked == [("dataset.jsonl", COMMIT)]
    assert sources.fingerprint(DatasetConfig(source="org/name", revision=COMMIT)) == f"org/name@{COMMIT}"


def test_a_hub_split_is_chosen_by_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test rows of a published dataset would be trained on."""
    Hub(monkeypatch, tmp_path, ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"])
    assert read("org/name", revision=COMMIT) == [{"from": "data/train-00000-of-00001.parquet"}]
    assert read("org/name", revision=COMMIT, split="test") == [{"from": "data/test-00000-of-00001.parquet"}]
    assert "task.dataset.split: got dev" in message_of("org/name", revision=COMMIT, split="dev")


def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated or missing dataset, or no network, would end in a traceback."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))
    for error, expected in [
        (GatedRepoError("no\nno", response=response), "access to it is gated"),
        (RevisionNotFoundError("no\nno", response=response), f"got {COMMIT}, which org/name does not have"),
        (RepositoryNotFoundError("no\nno", response=response), "neither a path here nor a dataset on the hub"),
        (httpx.ConnectError("no route\nto host"), "cannot be downloaded (no route)"),
        (ConnectionError(), "cannot be downloaded (ConnectionError)"),
    ]:

        def refuse(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", refuse)
        assert expected in message_of("org/name", revision=COMMIT)
