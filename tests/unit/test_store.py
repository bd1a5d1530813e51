"""Files on disk: old or new, never half; artefacts know what they were made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgpipe import artifacts, store
from fgpipe.artifacts import Dataset
from fgpipe.errors import DataError


def write(out: Path, text: str, config: object = 1, unhashed: bool = False) -> Dataset:
    """A small artefact."""
    with artifacts.writing(Dataset, out, config=config, inputs={"x": "y"}) as draft:
        (draft.path / "train.jsonl").write_text(text)
        (draft.path / "times").write_text(text if unhashed else "")
        draft.unhashed.add("times")
    return Dataset.open(out)


def write_half(out: Path) -> None:
    """Fail in the middle of an artefact."""
    with artifacts.writing(Dataset, out, config=1, inputs={}) as draft:
        (draft.path / "train.jsonl").write_text("half")
        raise RuntimeError


def test_failure_leaves_the_old_artefact(tmp_path: Path) -> None:
    """A crashed stage would destroy the last good result."""
    out = tmp_path / "load"
    write(out, "old")
    with pytest.raises(RuntimeError):
        write_half(out)
    assert (out / "train.jsonl").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["load"]


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    """Every killed run would leave a folder in the run folder for ever."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".load.{dead.pid}.tmp").mkdir()
    (tmp_path / f".load.{os.getppid()}.tmp").mkdir()
    write(tmp_path / "load", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"load", f".load.{os.getppid()}.tmp"}


def test_replaced_whole(tmp_path: Path) -> None:
    """Files of an older run would mix with new ones."""
    out = tmp_path / "load"
    with store.new_folder(out) as scratch:
        (scratch / "stale").write_text("")
    write(out, "new")
    assert not (out / "stale").exists()


def test_up_to_date_only_for_same_config_inputs_and_complete_files(tmp_path: Path) -> None:
    """A stage would be skipped although its configuration changed or its files were deleted."""
    out = tmp_path / "load"
    write(out, "a", config={"b": 1, "a": 2})
    assert artifacts.up_to_date(Dataset, out, config={"a": 2, "b": 1}, inputs={"x": "y"})
    assert not artifacts.up_to_date(Dataset, out, config={"a": 2, "b": 2}, inputs={"x": "y"})
    assert not artifacts.up_to_date(Dataset, out, config={"a": 2, "b": 1}, inputs={"x": "z"})
    (out / "train.jsonl").unlink()
    assert not artifacts.up_to_date(Dataset, out, config={"a": 2, "b": 1}, inputs={"x": "y"})


def test_fingerprint_is_content_not_time(tmp_path: Path) -> None:
    """Equal results would make every later stage run again."""
    first, second = write(tmp_path / "a", "same"), write(tmp_path / "b", "same", config=2)
    assert first.fingerprint == second.fingerprint
    assert write(tmp_path / "c", "same", unhashed=True).fingerprint == first.fingerprint
    assert write(tmp_path / "d", "other").fingerprint != first.fingerprint


def test_opening_nothing_or_another_stages_folder_is_an_error(tmp_path: Path) -> None:
    """A stage would read half a folder, or the wrong kind of one."""
    with pytest.raises(DataError, match="expected a finished folder"):
        Dataset.open(tmp_path)
    write(tmp_path / "load", "a")
    with pytest.raises(DataError, match="expected 'train'"):
        artifacts.Adapter.open(tmp_path / "load")


def test_json_lines_keep_unicode_line_separators(tmp_path: Path) -> None:
    """A text holding U+2028 would be cut in two rows."""
    rows = [{"text": "a\u2028b\u0085c\r\nd"}, {"text": "é"}]
    store.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert store.read_jsonl(tmp_path / "rows.jsonl") == rows
