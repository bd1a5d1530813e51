"""`serve/push.sh` with a stand-in for ssh that runs the box's commands here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fgpipe import adapters_folder

PUSH = Path(__file__).parents[2] / "serve" / "push.sh"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text('#!/bin/sh\necho "$1" >>"$LOG"\nshift\nexec sh -c "$*"\n')
    (folder / "ssh").chmod(0o755)
    (tmp_path / "box").mkdir()
    return folder


def publish(adapters: Path, version: str, *, weights: str = "w", last: int | None = None) -> None:
    """A version in the published layout, live."""
    folder = adapters / "sql" / version
    folder.mkdir(parents=True)
    for file in (*adapters_folder.ADAPTER_FILES, adapters_folder.MANIFEST_FILE):
        (folder / file).write_text(json.dumps({"weights": weights}))
        (folder / file).chmod(0o444)
    number = adapters_folder.version_number(version)
    pointer = {"current": version, "previous": None, "aliases": {}, "last": last or number}
    (adapters / "sql" / "channel.json").write_text(json.dumps(pointer))


def push(tmp_path: Path, *words: str, path: str | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [str(PUSH), *words],
        env={
            "PATH": path or f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "FGPIPE_ADAPTERS": str(tmp_path / "here"),
            "FGPIPE_BOX_ADAPTERS": str(tmp_path / "box"),
        },
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def test_a_pushed_version_is_the_one_that_was_published(bin_folder: Path, tmp_path: Path) -> None:
    """The box would answer by other weights than the laptop's, or by none."""
    publish(tmp_path / "here", "v0001")
    assert push(tmp_path, "sql", "otherbox")[0] == 0
    assert set((tmp_path / "log").read_text().split()) == {"root@otherbox"}
    assert adapters_folder.resolve(tmp_path / "box", "sql") == (tmp_path / "box" / "sql" / "v0001").resolve()
    publish(tmp_path / "here", "v0002", weights="x")
    assert push(tmp_path, "sql")[0] == 0
    status, said = push(tmp_path, "sql")
    assert (status, "->" in said) == (0, False), "what is there is not sent again"
    live = adapters_folder.resolve(tmp_path / "box", "sql")
    assert live is not None
    assert live.name == "v0002"
    assert (live / "manifest.json").read_text() == '{"weights": "x"}'
    assert {path.name for path in (tmp_path / "box" / "sql").iterdir()} == {"v0001", "v0002", "channel.json"}


def test_what_came_from_elsewhere_is_never_overwritten(bin_folder: Path, tmp_path: Path) -> None:
    """Two laptops would undo each other's publishes, under a version number that means two things."""
    publish(tmp_path / "here", "v0001")
    publish(tmp_path / "box", "v0001", weights="other")
    status, said = push(tmp_path, "sql")
    assert (status, "another sql v0001" in said) == (2, True)
    publish(tmp_path / "box", "v0002")
    status, said = push(tmp_path, "sql")
    assert (status, "up to number 2" in said) == (2, True)
    assert json.loads((tmp_path / "box" / "sql" / "channel.json").read_text())["current"] == "v0002"


def test_a_broken_connection_leaves_the_old_version_live(bin_folder: Path, tmp_path: Path) -> None:
    """Half an adapter would go live when the train enters a tunnel."""
    publish(tmp_path / "here", "v0001")
    assert push(tmp_path, "sql")[0] == 0
    publish(tmp_path / "here", "v0002", weights="x")
    tar = bin_folder / "tar"
    for size in (0, 512, 700, 1536, 2560):
        cut = f'/bin/tar "$@" | head -c {size}'
        tar.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) {cut} ;; *) exec /bin/tar "$@" ;; esac\n')
        tar.chmod(0o755)
        assert push(tmp_path, "sql")[0] != 0, size
        assert not (tmp_path / "box" / "sql" / "v0002").exists(), size
        live = adapters_folder.resolve(tmp_path / "box", "sql")
        assert live is not None
        assert live.name == "v0001"
    tar.unlink()
    assert push(tmp_path, "sql")[0] == 0
    assert adapters_folder.resolve(tmp_path / "box", "sql") == (tmp_path / "box" / "sql" / "v0002").resolve()


@pytest.mark.parametrize("name", ["", "../sql", "SQL", "sql;true", "nothing"])
def test_names_that_are_none_are_refused(bin_folder: Path, tmp_path: Path, name: str) -> None:
    """A slip of the hand would run as a command on the box."""
    status, said = push(tmp_path, name)
    assert (status, "expected" in said) == (2, True)
    assert not (tmp_path / "log").exists()
