"""Which checkpoint a stopped run goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgpipe.training.checkpoints import Checkpoints


def _write(checkpoints: Checkpoints, step: int) -> Path:
    folder = checkpoints.folder / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """A run killed while saving would otherwise resume from a broken file, or not at all."""
    checkpoints = Checkpoints(tmp_path / "c", key="k", keep=2)
    whole = _write(checkpoints, 9)
    checkpoints.mark(9)
    _write(checkpoints, 10)
    assert checkpoints.latest() == whole
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint-9"]


def test_newest_are_kept_by_step_not_by_name(tmp_path: Path) -> None:
    """Sorted as text, checkpoint-9 would outlive checkpoint-100."""
    checkpoints = Checkpoints(tmp_path / "c", key="k", keep=2)
    for step in (8, 9, 100):
        _write(checkpoints, step)
        checkpoints.mark(step)
    assert {path.name for path in checkpoints.folder.iterdir()} == {"checkpoint-9", "checkpoint-100"}
    found = checkpoints.latest()
    assert found is not None
    assert found.name == "checkpoint-100"


def test_checkpoint_of_another_run_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of another configuration would silently become the start of this one."""
    before = Checkpoints(tmp_path / "c", key="before", keep=2)
    _write(before, 5)
    before.mark(5)
    assert Checkpoints(tmp_path / "c", key="now", keep=2).latest() is None
    assert "starting afresh" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
