"""The command line as a user meets it: a real process, its output and exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fgpipe(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m fgpipe`."""
    return subprocess.run(
        [sys.executable, "-m", "fgpipe", *words], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    """`--help` would take seconds, or a command would be missing from it."""
    done = fgpipe("--help")
    assert done.returncode == 0
    for command in (
        "load",
        "format",
        "train",
        "evaluate",
        "validate",
        "shrink",
        "publish",
        "run",
        "serve",
        "gateway",
        "adapters",
        "rollback",
        "plan",
        "download",
        "doctor",
    ):
        assert command in done.stdout
    code = (
        "import sys, fgpipe.cli\n"
        "fgpipe.cli.main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'hydra', 'pydantic', 'numpy', 'rich', 'vllm'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["train", "serve", "rollback"])
def test_command_help_shows_keys_with_defaults(command: str) -> None:
    """The user would have to read the source to find a setting."""
    done = fgpipe(command, "--help")
    assert done.returncode == 0
    if command == "train":
        assert "train.learning_rate=0.0002" in done.stdout
        assert "lora.r=16" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("config", "train.learning_rte=1"),
        ("config", "task=sqll"),
        ("bogus",),
        ("train", "--bogus"),
        ("train", "word"),
        ("rollback",),
        ("rollback", "nothing-published"),
        ("validate", "no-such-folder"),
        ("validate", "sweeps/lora.r=8/train", "--json"),
        ("validate", "/dev/null"),
        ("shrink", "no-such-folder", "r=16"),
        ("shrink", "no-such-folder", "r=none"),
        ("shrink", "r=16"),
        ("load", "task.dataset.source=no-such-file.jsonl"),
        ("load", "task.dataset.source=some/dataset"),
        ("config", "-m", "lora.r=1,2"),
        ("load", "-m", "task=sql,emial"),
    ],
)
def test_mistakes_exit_2_in_a_few_lines_and_write_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    """A typo would end in a traceback, or leave half a run behind."""
    done = fgpipe(*words, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_config_as_json_is_the_whole_configuration(tmp_path: Path) -> None:
    """Scripts could not read the settings of a run."""
    done = fgpipe("config", "task=sql", "--json", "model=tiny", cwd=tmp_path)
    tree = json.loads(done.stdout)
    assert (tree["task"]["name"], tree["model"]["name"]) == ("sql", "tiny")


def test_gated_base_without_access_is_one_line_with_both_ways_out(tmp_path: Path) -> None:
    """A newcomer's first command would end in a page of hub errors."""
    done = fgpipe("train", "task=sql", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "model=tiny" in done.stderr


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Jobs of a sweep would overwrite each other's artefacts."""
    done = fgpipe("load", "-m", "task=sql,email", "model=tiny", "task.dataset.limit=60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifests = sorted((tmp_path / "runs/sweeps").glob("*/*/load/manifest.json"))
    sources = [json.loads(file.read_text())["inputs"] for file in manifests]
    assert len(sources) == 2
    assert sources[0] != sources[1]


def test_a_fault_in_a_sweeps_job_exits_2_without_a_traceback(tmp_path: Path) -> None:
    """One bad value among many would end in a page of Hydra's and our own code."""
    done = fgpipe("load", "-m", "task=sql", "task.dataset.limit=60", "lora.r=8,64", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "server.max_lora_rank" in done.stderr
