"""Checkpoints of a run that has not finished: which are whole, which belong to this run, how many are kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fgpipe import store
from fgpipe.progress import say

MARK = "complete.json"
"""Written last into a checkpoint; one without it was cut off while being written."""


@dataclass(frozen=True)
class Checkpoints:
    """The folder of checkpoints beside an artefact being trained."""

    folder: Path
    key: str
    """Identity of the run: configuration and inputs. Checkpoints of another key are of no use to it."""
    keep: int

    def latest(self) -> Path | None:
        """The newest whole checkpoint of this run, or None; whatever else lies in the folder is deleted."""
        whole = self._whole()
        ours = [path for path in whole if store.read_json(path / MARK).get("key") == self.key]
        if not ours:
            if whole:
                say("train: checkpoints of another configuration or other data found; starting afresh")
            self.remove()
            return None
        for path in self.folder.glob("checkpoint-*"):
            if path not in ours:
                shutil.rmtree(path)
        return ours[-1]

    def mark(self, step: int) -> None:
        """Declare the checkpoint of `step` whole, and delete all but the newest `keep`."""
        path = self.folder / f"checkpoint-{step}"
        store.fsync_tree(path)
        store.write_json(path / MARK, {"key": self.key, "step": step})
        for old in self._whole()[: -self.keep]:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whole(self) -> list[Path]:
        """Checkpoints with a mark, oldest first."""
        return sorted((mark.parent for mark in self.folder.glob(f"checkpoint-*/{MARK}")), key=_step)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])
