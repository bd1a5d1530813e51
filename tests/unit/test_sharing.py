"""Replicas that share a GPU: NVIDIA's service is started for them, and gone with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fgpipe.serving import sharing

CONTROL = """#!/bin/sh
order=$(cat)
echo "$1 $order $CUDA_MPS_PIPE_DIRECTORY" >> "$CALLS"
[ "$1" != -d ] || [ -z "$REFUSES" ] || { echo "no GPU that can"; exit 1; }
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in of the control program writes what it was asked."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / sharing.CONTROL
    program.write_text(CONTROL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv(sharing.PIPES, raising=False)
    return tmp_path / "calls"


def test_it_lives_as_long_as_the_replicas(calls: Path) -> None:
    """A service left behind would keep the GPU for itself."""
    folders = []

    def interrupted() -> None:
        with sharing.shared_gpu() as variables:
            folders.append(variables[sharing.PIPES])
            assert Path(folders[0]).is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (folder,) = folders
    assert [line.split() for line in calls.read_text().splitlines()] == [["-d", folder], ["quit", folder]]
    assert not Path(folder).exists()


def test_one_that_the_user_has_started_is_left_alone(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs may be using it."""
    monkeypatch.setenv(sharing.PIPES, "/run/mps")
    with sharing.shared_gpu() as variables:
        assert variables == {}
    assert not calls.exists()


def test_without_it_the_replicas_take_turns(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slower, but they answer; and the user reads why."""
    monkeypatch.setenv("REFUSES", "1")
    with sharing.shared_gpu() as variables:
        assert variables == {}
    assert "no GPU that can; the replicas take turns" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    with sharing.shared_gpu() as variables:
        assert variables == {}
    assert "no nvidia-cuda-mps-control here" in capsys.readouterr().err
