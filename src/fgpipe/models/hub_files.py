"""The files of one commit on the hub: which there are, fetched with resume, and checked against the hub's own hashes.

huggingface_hub (1.33) fetches into a file of the running process and removes it when that ends, so a killed download
starts again from nothing; hence the streaming here. Addresses, tokens, sessions and errors are its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from fgpipe.errors import ModelError
from fgpipe.models import base

WANTED = (*base.DOWNLOADED_FILES, "merges.txt", "vocab.txt", "LICENSE*")
"""Configuration, tokenizer and safetensors; never pickles, code, or other folders' copies."""

ATTEMPTS = 5
"""Broken connections in a row, none of which brought a byte, before a download gives up."""

PAUSE_S = 1.0
"""Before the connection is made anew."""


@dataclass(frozen=True)
class HubFile:
    """One file of a commit."""

    name: str
    size_bytes: int
    sha256: str | None
    """Of large files (Git LFS)."""
    git_sha1: str | None
    """Git's blob id of small files: SHA-1 over "blob <size>" and the content."""


@dataclass(frozen=True)
class Commit:
    """A model at one commit, and those of its files that are wanted."""

    id: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files)


def find_commit(model_id: str, revision: str | None) -> Commit:
    """The commit that `revision` (None: the default branch) of the model `model_id` names now, and its wanted files.

    Raises:
        ModelError: the hub gives no access, or the model has no safetensors.
    """
    base.quiet_hub()
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        raise no_access(model_id, "HF_HUB_OFFLINE is set")
    with one_line_errors(model_id):
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=base.HUB_TIMEOUT_S)
    files = tuple(_file(entry) for entry in info.siblings or () if _wanted(entry.rfilename))
    names = {file.name for file in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{model_id}: got no config.json with safetensors, expected both",
            hint="pickled weights (.bin, .pt) are not fetched: they can run code; ask for a converted copy",
        )
    if info.sha is None:
        raise no_access(model_id, "the hub named no commit")
    return Commit(model_id, info.sha, files)


def _wanted(name: str) -> bool:
    plain = name == Path(name).name and not name.startswith(".")
    return plain and any(fnmatch(name, pattern) for pattern in WANTED) and not name.startswith("consolidated")


def _file(entry: Any) -> HubFile:
    return HubFile(
        entry.rfilename,
        int(entry.size or 0),
        entry.lfs.sha256 if entry.lfs else None,
        None if entry.lfs else entry.blob_id,
    )


def fetch(commit: Commit, file: HubFile, folder: Path, *, advance: Callable[[int], None]) -> None:
    """Bring `file` into `folder`: nothing if it is there, the rest if a part of it is; checked before it has its name.

    Args:
        advance: told of every byte that is there, also of those that were there before.

    Raises:
        ModelError: the connection keeps breaking, the hub refuses, or what came is not what the hub says.
    """
    done, part = folder / file.name, folder / f"{file.name}.part"
    if done.exists():
        advance(file.size_bytes)
        return
    with open(part, "ab", buffering=0) as handle:
        advance(handle.tell())
        if handle.tell() < file.size_bytes:
            _stream(commit, file, handle, advance)
    if fault := fault_in(part, file):
        part.unlink()
        raise ModelError(f"{commit.id}: {file.name}: {fault}", hint="run the command again: this file is fetched anew")
    part.rename(done)


def _stream(commit: Commit, file: HubFile, handle: IO[bytes], advance: Callable[[int], None]) -> None:
    """Append the rest of `file` to `handle`, over as many connections as it takes."""
    from httpx import TransportError

    failures = 0
    while True:
        before = handle.tell()
        try:
            with one_line_errors(commit.id, also_transport=False):
                _receive(commit, file, handle, advance)
            return
        except TransportError as error:
            failures = 1 if handle.tell() > before else failures + 1
            if failures == ATTEMPTS:
                raise no_access(commit.id, f"{file.name}: the connection broke {ATTEMPTS} times") from error
            time.sleep(PAUSE_S)


def _receive(commit: Commit, file: HubFile, handle: IO[bytes], advance: Callable[[int], None]) -> None:
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if handle.tell():
        headers["Range"] = f"bytes={handle.tell()}-"
    url = hf_hub_url(commit.id, file.name, revision=commit.commit)
    # httpx leaves the token out when it is sent on to another host.
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        hf_raise_for_status(response)
        if handle.tell() and response.status_code != 206:  # the server sends it all, whatever it was asked for
            advance(-handle.tell())
            handle.truncate(0)
        for chunk in response.iter_bytes():  # as they come: a chunk of fixed size would be lost when it breaks
            handle.write(chunk)
            advance(len(chunk))


def fault_in(path: Path, file: HubFile) -> str:
    """What is wrong with the copy of `file` at `path`; empty if nothing is."""
    if (size := path.stat().st_size) != file.size_bytes:
        return f"got {size:,} bytes, expected {file.size_bytes:,}"
    if file.sha256 is not None and _sha256(path) != file.sha256:
        return "got another SHA-256 than the hub has, expected its own content"
    if file.git_sha1 is not None and _git_sha1(path) != file.git_sha1:
        return "got another git hash than the hub has, expected its own content"
    return safetensors_fault(path) if file.name.endswith(".safetensors") else ""


def safetensors_fault(path: Path) -> str:
    """Why `path` is no whole safetensors file; empty if it is one. Reads its header only."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise ValueError
            header = json.loads(handle.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "got a damaged header, expected safetensors"
    data = size - 8 - length
    return "" if max(ends, default=0) == data else f"got {data:,} bytes of weights, expected {max(ends, default=0):,}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def one_line_errors(model_id: str, *, also_transport: bool = True) -> Iterator[None]:
    """What the hub refuses inside the block becomes a ModelError that says what to do about it."""
    from httpx import HTTPError, TransportError

    try:
        yield
    except (OSError, HTTPError, ValueError) as error:
        if isinstance(error, TransportError) and not also_transport:
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise ModelError(
                f"{model_id}: {error.strerror}", hint="mended, the download goes on where it ended"
            ) from error
        raise no_access(model_id, base.refusal_reason(error)) from error


def no_access(model_id: str, reason: str) -> ModelError:
    """The error for a model that the hub does not give, with two ways out, in one line."""
    return ModelError(
        f"{model_id}: got no access ({reason}); accept the licence at https://huggingface.co/{model_id} and set "
        "HF_TOKEN, or copy the folder from a machine that has it and set model.path"
    )
