"""Files written so that a reader sees the old content or the new, never a part: write aside, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def fsync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Make every file and name below `folder` durable."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as handle:
                os.fsync(handle.fileno())
        fsync_folder(Path(parent))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON in one step."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Replace `path` by one JSON value a line in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Any]:
    """The JSON values in `path`, one a line. Only a newline ends a line: JSON text may hold U+2028."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        return [json.loads(line) for line in handle if line.strip()]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A scratch folder that becomes `out`, complete, when the block ends without an error; an old `out` is replaced.

    On an error nothing of it stays and an old `out` is untouched.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    scratch = out.parent / f".{out.name}.{os.getpid()}.tmp"
    scratch.mkdir()
    try:
        yield scratch
        fsync_tree(scratch)
        old = out.parent / f".{out.name}.{os.getpid()}.old"
        if out.exists():
            os.replace(out, old)
        os.replace(scratch, out)
        shutil.rmtree(old, ignore_errors=True)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what killed processes left beside `out`."""
    for left in out.parent.glob(f".{out.name}.*"):
        pid = left.suffixes[-2].removeprefix(".") if len(left.suffixes) >= 2 else ""
        if left.suffix in (".tmp", ".old") and pid.isdigit() and not (_is_alive(int(pid)) and int(pid) != os.getpid()):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of key order."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and contents of files in `folder`."""
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(name.encode() + b"\0")
        with open(folder / name, "rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()
