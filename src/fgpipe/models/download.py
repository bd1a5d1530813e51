"""Models from the hub into a folder: pinned, checked, resumable; a folder has its name only when it is complete."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fgpipe import store
from fgpipe.errors import ModelError
from fgpipe.models import hub_files
from fgpipe.models.hub_files import Commit
from fgpipe.progress import bar, say

RECORD_FILE = "download.json"
"""In every folder: which model and commit it holds, and the hashes of its files."""

SPARE_BYTES = 2**28
"""Disk space that a download leaves free."""

REQUEST = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)

EXAMPLE = "python -m fgpipe download google/functiongemma-270m-it@39eccb091651513a5dfb56892d3714c1b5b8276c to=models"


@dataclass(frozen=True)
class Downloaded:
    """A model that is here now."""

    id: str
    commit: str
    path: Path
    size_bytes: int


def download(requests: Sequence[str], *, to: Path, link: bool = False) -> list[Downloaded]:
    """Bring every model of `requests`, `id` or `id@revision`, into a folder of its own below `to`.

    A branch or tag is resolved to the commit it names now, which is printed. Killed anywhere, no unfinished folder
    stands under a model's name, and the next run goes on where this one ended. What is here already is only checked.

    Args:
        link: keep the files in the hub's cache, and make the folder a link to them.

    Raises:
        ModelError: a request that cannot be understood, no access, too little space, or damaged files.
    """
    commits = [_commit(request) for request in requests]
    folders = [to / commit.id.rpartition("/")[2] for commit in commits]
    if len(set(folders)) < len(folders):
        raise ModelError("download: got two models of one name, expected each in a folder of its own")
    for commit, folder in zip(commits, folders, strict=True):
        _require_same(commit, folder)
    if link:
        return [_linked(commit, folder) for commit, folder in zip(commits, folders, strict=True)]
    missing = [(commit, folder) for commit, folder in zip(commits, folders, strict=True) if not folder.exists()]
    _require_space(missing, to)
    for commit, folder in missing:
        _fetch(commit, folder)
    return [
        Downloaded(commit.id, commit.commit, folder, commit.size_bytes)
        for commit, folder in zip(commits, folders, strict=True)
    ]


def _commit(request: str) -> Commit:
    matched = REQUEST.fullmatch(request)
    if matched is None or ".." in request:
        raise ModelError(f"download: got {request!r}, expected organisation/model or …@commit", hint=EXAMPLE)
    found = hub_files.find_commit(matched["id"], matched["revision"])
    if matched["revision"] != found.commit:
        wanted = matched["revision"] or "the default branch"
        say(f"{found.id}: {wanted} is commit {found.commit} now; to have the same again: {found.id}@{found.commit}")
    return found


def _require_same(commit: Commit, folder: Path) -> None:
    """Refuse a folder that holds something else; check one that holds this commit."""
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink():
        if folder.resolve().name != commit.commit:
            raise _other(folder, f"a link to {folder.resolve()}", commit)
        return
    try:
        record = store.read_json(folder / RECORD_FILE)
        held = record["commit"] if record["id"] == commit.id else f"{record['id']}@{record['commit']}"
    except (OSError, ValueError, KeyError, TypeError):
        raise _other(folder, "files of unknown origin", commit) from None
    if held != commit.commit:
        raise _other(folder, held, commit)
    for file in commit.files:
        path = folder / file.name
        if fault := hub_files.fault_in(path, file) if path.is_file() else "got no such file":
            raise ModelError(f"{path}: {fault}", hint=f"remove {folder} and run the command again")


def _other(folder: Path, held: str, commit: Commit) -> ModelError:
    return ModelError(
        f"{folder}: got {held}, expected nothing there or {commit.id}@{commit.commit}",
        hint="a folder is never overwritten: move it away, or choose another with to=",
    )


def _require_space(missing: Sequence[tuple[Commit, Path]], to: Path) -> None:
    """Refuse before the first byte what will not fit."""
    if not missing:
        return
    there = sum(_held_bytes(_unfinished(commit, folder)) for commit, folder in missing)
    needed = sum(commit.size_bytes for commit, _ in missing) - there + SPARE_BYTES
    nearest = next(folder for folder in (to, *to.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise ModelError(f"to: got {to}, expected a folder", hint=EXAMPLE)
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise ModelError(
            f"to: got {free / 2**30:.2f} GiB free in {to}, expected {needed / 2**30:.2f}",
            hint="free some space, or choose a folder on another disk with to=",
        )


def _held_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())


def _unfinished(commit: Commit, folder: Path) -> Path:
    """Where the files of an unfinished download of this commit are."""
    return folder.with_name(f"{folder.name}.{commit.commit[:12]}.part")


def _fetch(commit: Commit, folder: Path) -> None:
    unfinished = _unfinished(commit, folder)
    unfinished.mkdir(parents=True, exist_ok=True)
    say(f"{commit.id}@{commit.commit[:12]}: {len(commit.files)} files, {commit.size_bytes / 2**30:.2f} GiB …")
    with bar(folder.name, commit.size_bytes) as (progress, task):
        for file in commit.files:
            progress.update(task, note=file.name)
            hub_files.fetch(commit, file, unfinished, advance=lambda count: progress.advance(task, count))
    store.write_json(unfinished / RECORD_FILE, asdict(commit))
    store.fsync_tree(unfinished)
    os.rename(unfinished, folder)
    store.fsync_folder(folder.parent)


def _linked(commit: Commit, folder: Path) -> Downloaded:
    """The commit's files in the hub's cache, checked, and `folder` as a link to them."""
    from huggingface_hub import hf_hub_download

    with hub_files.one_line_errors(commit.id):
        paths = [Path(hf_hub_download(commit.id, file.name, revision=commit.commit)) for file in commit.files]
    held = paths[0].parent
    for file in commit.files:
        if fault := hub_files.fault_in(held / file.name, file):
            raise ModelError(f"{held / file.name}: {fault}", hint=f"remove {held.parents[1]} and run the command again")
    if not folder.is_symlink():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.symlink_to(held, target_is_directory=True)
        except OSError as error:
            raise ModelError(
                f"{folder}: got {error.strerror}, expected a disk that can hold links",
                hint="without link=true the files are copied into the folder",
            ) from None
    return Downloaded(commit.id, commit.commit, folder, commit.size_bytes)
