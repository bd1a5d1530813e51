"""Hidden folders in which an adapter is made ready, and the lock under which it becomes a version.

Writers of one name take turns by `flock` on `<name>/.lock`; the kernel frees it when a writer dies. On a Windows drive
seen through WSL2 the lock holds among the processes of that WSL machine (containers included), not against programs on
Windows itself; readers need no lock anywhere.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgpipe import store
from fgpipe.adapters_folder import ADAPTER_FILES, CHANNEL_FILE
from fgpipe.errors import PublishError
from fgpipe.progress import say

LOCK_FILE = ".lock"
STAGING = ".staging-"
CANDIDATE = ".candidate-"
TRASH = ".trash-"


def made(adapters: Path, name: str) -> Path:
    """The folder of `name`, made if needed, durably."""
    folder = adapters.resolve() / name
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        store.fsync_folder(folder.parent)
        store.fsync_folder(folder.parent.parent)
    return folder


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[Path]:
    """Only this process writes below `folder` until the block ends; what earlier ones left unfinished is removed.

    Raises:
        PublishError: without `wait`, if another process is writing.
    """
    import fcntl

    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise PublishError(f"{folder}: got another process that is publishing, expected none") from None
            say(f"{folder}: waiting for another process that is publishing")
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in os.listdir(folder):
            if left.startswith((STAGING, CANDIDATE, TRASH)):
                _remove_unless_held(folder / left)
            elif left.startswith(f".{CHANNEL_FILE}."):
                (folder / left).unlink(missing_ok=True)
        yield folder
    finally:
        os.close(handle)


@contextmanager
def copied(adapter: Path, folder: Path, prefix: str) -> Iterator[Path]:
    """A hidden folder in `folder` with the adapter's files; gone at the end unless it was renamed.

    It is held by a lock of its own, which the kernel frees when the process dies; only then may others remove it.
    """
    import fcntl

    copy = folder / f"{prefix}{secrets.token_hex(6)}"
    copy.mkdir()
    handle = os.open(copy, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for file in ADAPTER_FILES:
            shutil.copyfile(adapter / file, copy / file)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        os.close(handle)


def _remove_unless_held(left: Path) -> None:
    """Remove what a process that is gone left behind."""
    import fcntl

    try:
        handle = os.open(left, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)
