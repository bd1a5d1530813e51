"""`python -m fgpipe run`: from a dataset to an answer served by vLLM, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.server, pytest.mark.slow]

WORDS = ("task=sql", "model=tiny", "experiment=quick", "train.max_steps=4", "evaluate.limit=8", "seed=3")


def fgpipe(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m fgpipe` and expect success."""
    done = subprocess.run(
        [sys.executable, "-m", "fgpipe", *words], capture_output=True, text=True, cwd=cwd, timeout=800
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which the whole line ran once, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    return folder, fgpipe("run", *WORDS, cwd=folder)


def test_the_whole_line_ends_with_an_answer_from_vllm(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The one command of the README would not lead from a dataset to a served answer."""
    folder, done = ran
    assert "asked sql:" in done.stdout
    assert "published sql@v0001" in done.stderr
    for stage in ("load", "format", "train", "evaluate", "validate"):
        assert (folder / "runs/sql-tiny" / stage / "manifest.json").is_file()
    version = folder / "adapters/sql/v0001"
    assert {file.name for file in version.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "README.md",
    }
    manifest = json.loads((version / "manifest.json").read_text())
    assert "execution_accuracy" in json.dumps(manifest), "a version without its scores"


def test_nothing_is_done_twice(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Every repeat would train again, or publish the same adapter as a new version."""
    folder, _ = ran
    before = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("manifest.json")}
    done = fgpipe("publish", *WORDS, "--json", cwd=folder)
    assert json.loads(done.stdout)["version"] == "v0001"
    assert {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("manifest.json")} == before


def test_a_changed_setting_runs_its_stage_and_those_after_it(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """A new learning rate would be ignored, or the dataset read again for it."""
    folder, _ = ran
    done = fgpipe("publish", *WORDS, "train.learning_rate=1e-3", "--json", cwd=folder)
    assert json.loads(done.stdout)["version"] == "v0002"
    assert "train …" in done.stderr
    assert "evaluate …" in done.stderr
    assert "load …" not in done.stderr
    listed = json.loads(fgpipe("adapters", "--json", cwd=folder).stdout)
    assert [(entry["name"], entry["version"], entry["live"]) for entry in listed] == [
        ("sql", "v0002", True),
        ("sql", "v0001", False),
    ]
    assert all(entry["headline"] and entry["base_headline"] for entry in listed), "a version listed without its score"
    fgpipe("rollback", "sql", cwd=folder)
    channel = json.loads((folder / "adapters/sql/channel.json").read_text())
    assert (channel["current"], channel["previous"]) == ("v0001", "v0002")


def test_foreign_folder_is_judged(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """`validate PATH --json` would not tell a script whether a folder can be served."""
    folder, _ = ran
    done = fgpipe("validate", "adapters/sql/v0001", "model=tiny", "--json", cwd=folder)
    assert "fail" not in {finding["status"] for finding in json.loads(done.stdout)["findings"]}
    done = subprocess.run(
        [sys.executable, "-m", "fgpipe", "validate", "adapters/sql/v0001"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 2, "an adapter of the tiny model passed as one of FunctionGemma"
