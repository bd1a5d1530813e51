"""Publishing: a finished folder appears under a new number, then one small file makes it the live one.

Killed at any instant, the old version stays live and no part of a new one can be seen: everything is written in a
hidden folder beside the versions, made durable, renamed; only then is `channel.json` replaced, again by rename.

Writers of one name take turns by `flock` on `<name>/.lock`; the kernel frees it when a writer dies. On a Windows drive
seen through WSL2 the lock holds among the processes of that WSL machine (containers included), not against programs on
Windows itself; readers need no lock anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgpipe import adapters_folder, artifacts, store
from fgpipe.adapters_folder import ADAPTER_FILES, CARD_FILE, CHANNEL_FILE, MANIFEST_FILE, Channel
from fgpipe.errors import PublishError
from fgpipe.progress import say
from fgpipe.publishing.card import card
from fgpipe.publishing.listing import VersionEntry, entry_json, render_versions, versions

__all__ = [
    "PublishedVersion",
    "VersionEntry",
    "entry_json",
    "names",
    "prune",
    "publish",
    "removable",
    "render_versions",
    "resolve",
    "rollback",
    "set_alias",
    "versions",
]

resolve = adapters_folder.resolve

LOCK_FILE = ".lock"
STAGING = ".staging-"
CANDIDATE = ".candidate-"
TRASH = ".trash-"


@dataclass(frozen=True)
class PublishedVersion:
    """A version that is live now."""

    name: str
    version: str
    path: Path
    created: bool
    """False if this very adapter was published before and is only made live."""


def publish(
    adapter: Path,
    *,
    name: str,
    adapters: Path,
    check: Callable[[Path], object],
    manifest_extra: Mapping[str, Any],
    trial: Callable[[str], Mapping[str, Any]] | None = None,
) -> PublishedVersion:
    """Make the PEFT folder `adapter` the live version of `name` in the folder `adapters`.

    An adapter equal to one already published makes no new version: that version becomes the live one.

    Args:
        check: raises if the folder it is given must not be served; asked of `adapter` and of the copy to be published.
        manifest_extra: where it comes from; `base` (with `id`) is required; `task`, `instruction`, `config`, `data`,
            `training`, `scores`, `versions`, `git`, `parity` are shown on the card.
        trial: told the name by which a server can be asked for the adapter before it is a version; what it returns is
            recorded as `parity`. It raises if the adapter must not go live.

    Raises:
        PublishError: the name cannot be used or the files cannot be written; what was live stays live.
    """
    _require_usable(name, base_id=manifest_extra["base"]["id"])
    check(adapter)
    try:
        with _locked(_made(adapters, name)) as folder, _staging(folder) as staging:
            for file in ADAPTER_FILES:
                shutil.copyfile(adapter / file, staging / file)
            check(staging)
            channel = adapters_folder.read_channel(folder) or Channel()
            content = _content(staging)
            same = _published_before(folder, content)
            if same is not None:
                _point(folder, channel, same)
                return PublishedVersion(name, same, folder / same, created=False)
            if trial is not None:
                with _candidate(folder, staging, content) as served:
                    manifest_extra = {**manifest_extra, "parity": trial(served)}
            number = _next_number(folder, channel)
            version = adapters_folder.version_name(number)
            _describe(staging, name=name, version=version, content=content, extra=manifest_extra)
            # The number is spent before the version can be seen, so that it is never given twice.
            channel = replace(channel, last=number)
            _write_channel(folder, channel)
            os.rename(staging, folder / version)
            store.fsync_folder(folder)
            _point(folder, channel, version)
            return PublishedVersion(name, version, folder / version, created=True)
    except OSError as error:
        raise PublishError(
            f"publish {name}: {error}; what was live stays live",
            hint=f"is {adapters} writable, with room for a few MB? then publish again",
        ) from error


def rollback(name: str, *, adapters: Path, to: str | None = None) -> PublishedVersion:
    """Make `name` mean its previous version, or `to` (a version or an alias); the one it meant becomes the previous.

    With `to`, a damaged `channel.json` is written anew.

    Raises:
        PublishError: there is no such version, or its files are not those that were published.
    """
    with _writing(name, adapters) as folder:
        try:
            channel = adapters_folder.read_channel(folder) or Channel()
        except PublishError:
            if to is None:
                raise
            say(f"{folder / CHANNEL_FILE} was damaged and is written anew; aliases in it are lost")
            channel = Channel()
        version = channel.aliases.get(to, to) if to else channel.previous
        if version is None:
            raise PublishError(f"rollback {name}: got no previous version", hint=_known(folder))
        _require_version(folder, version)
        _point(folder, replace(channel, last=_next_number(folder, channel) - 1), version)
        return PublishedVersion(name, version, folder / version, created=False)


def set_alias(name: str, alias: str, version: str | None, *, adapters: Path) -> None:
    """Let `name@alias` mean `version`; None forgets the alias.

    Raises:
        PublishError: the alias reads like a version or is no name, or there is no such version.
    """
    like_version = (alias[:1] == "v" and alias[1:].isdigit()) or adapters_folder.is_candidate(alias)
    if not adapters_folder.is_name(alias) or like_version:
        raise PublishError(f"alias: got {alias!r}, expected a name in lower case that does not read like a version")
    with _writing(name, adapters) as folder:
        channel = adapters_folder.read_channel(folder) or Channel()
        aliases = {key: value for key, value in channel.aliases.items() if key != alias}
        if version is not None:
            _require_version(folder, version)
            aliases[alias] = version
        _write_channel(folder, replace(channel, aliases=aliases))


def names(adapters: Path) -> list[str]:
    """Every published name."""
    return adapters_folder.names_in(adapters)


def removable(name: str, *, adapters: Path, keep: int) -> list[str]:
    """Versions of `name` beyond the `keep` newest that are neither live, previous nor aliased, oldest first.

    None while the pointer is damaged: any of them may be the one it meant.
    """
    folder = adapters.resolve() / name
    try:
        channel = adapters_folder.read_channel(folder)
    except PublishError:
        return []
    if channel is None or channel.current is None:
        return []
    needed = {channel.current, channel.previous, *channel.aliases.values()}
    return [version for version in adapters_folder.versions_of(folder)[:-keep] if version not in needed]


def prune(name: str, *, adapters: Path, keep: int, loaded: Set[str]) -> list[str]:
    """Remove the `removable` versions of `name`; the versions that are gone.

    Args:
        loaded: versions, such as `sql@v0001`, that a server may still read; they stay.
    """
    with _writing(name, adapters) as folder:
        gone = [
            version
            for version in removable(name, adapters=adapters, keep=keep)
            if adapters_folder.full_name(folder / version) not in loaded
        ]
        for version in gone:
            # By one rename, so that no half version is ever seen.
            trash = folder / f"{TRASH}{version}-{secrets.token_hex(4)}"
            os.rename(folder / version, trash)
            shutil.rmtree(trash, ignore_errors=True)
        return gone


@contextmanager
def _writing(name: str, adapters: Path) -> Iterator[Path]:
    """The folder of the published `name`, locked; errors of the file system become PublishError."""
    folder = adapters.resolve() / name
    if not adapters_folder.is_name(name) or not folder.is_dir():
        known = ", ".join(adapters_folder.names_in(adapters)) or "nothing yet"
        raise PublishError(f"{name}: got a name that is not published, expected one of: {known}")
    try:
        with _locked(folder):
            yield folder
    except OSError as error:
        raise PublishError(f"{folder}: {error}; what was live stays live") from error


def _require_usable(name: str, *, base_id: str) -> None:
    """Raise PublishError unless a folder, a URL and vLLM can all carry `name`."""
    fault = adapters_folder.name_fault(name, base_id=base_id)
    if fault:
        raise PublishError(f"name: {fault}", hint="publish.name=… sets it")


def _made(adapters: Path, name: str) -> Path:
    """The folder of `name`, made if needed, durably."""
    folder = adapters.resolve() / name
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        store.fsync_folder(folder.parent)
        store.fsync_folder(folder.parent.parent)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Only this process writes below `folder` until the block ends; what earlier ones left unfinished is removed."""
    import fcntl

    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: waiting for another process that is publishing")
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in os.listdir(folder):
            if left.startswith((STAGING, CANDIDATE, TRASH)):
                shutil.rmtree(folder / left, ignore_errors=True)
            elif left.startswith(f".{CHANNEL_FILE}."):
                (folder / left).unlink(missing_ok=True)
        yield folder
    finally:
        os.close(handle)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the versions; gone at the end unless it was renamed to a version."""
    staging = folder / f"{STAGING}{os.getpid()}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _candidate(folder: Path, staging: Path, content: str) -> Iterator[str]:
    """The name a server finds the staged adapter by until the block ends; its path holds the digest of what it is."""
    candidate = folder / f"{CANDIDATE}{content[:12]}"
    candidate.mkdir()
    try:
        for file in ADAPTER_FILES:
            shutil.copyfile(staging / file, candidate / file)
        yield adapters_folder.full_name(candidate)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


def _describe(staging: Path, *, name: str, version: str, content: str, extra: Mapping[str, Any]) -> None:
    """Add manifest and card to `staging`, take away the right to write, make all of it durable."""
    adapter = json.loads((staging / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    defaults = {"versions": artifacts.versions(), "git": artifacts.git_revision(), "parity": "not run"}
    manifest = {
        "format": 1,
        "name": name,
        "version": version,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "content": content,
        "files": {file: _facts(staging / file) for file in ADAPTER_FILES},
        "adapter": {
            key: adapter.get(key) for key in ("r", "lora_alpha", "target_modules", "rank_pattern", "use_rslora")
        },
    }
    manifest = {**defaults, **extra, **manifest}
    store.write_json(staging / MANIFEST_FILE, manifest)
    store.write_text(staging / CARD_FILE, card(manifest))
    for file in (*ADAPTER_FILES, MANIFEST_FILE, CARD_FILE):
        # A reminder that versions never change; drives without Unix rights ignore or refuse it.
        with contextlib.suppress(OSError):
            os.chmod(staging / file, 0o444)
    store.fsync_tree(staging)


def _facts(file: Path) -> dict[str, Any]:
    with open(file, "rb") as handle:
        return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _content(folder: Path) -> str:
    """What makes two adapters the same: the weights, and the settings whatever the order of their lists and keys."""
    settings = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    # PEFT keeps module names in a set, so their order changes from one process to the next.
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    return store.digest({"settings": settings, "weights": _facts(folder / ADAPTER_FILES[1])["sha256"]})


def _published_before(folder: Path, content: str) -> str | None:
    """The newest version with this content, if its files are intact."""
    for version in reversed(adapters_folder.versions_of(folder)):
        with contextlib.suppress(OSError, ValueError):
            manifest = store.read_json(folder / version / MANIFEST_FILE)
            if manifest.get("content") == content and _content(folder / version) == content:
                return version
    return None


def _next_number(folder: Path, channel: Channel) -> int:
    there = [adapters_folder.version_number(entry) for entry in os.listdir(folder) if adapters_folder.is_version(entry)]
    return max([channel.last, *there]) + 1


def _point(folder: Path, channel: Channel, version: str) -> None:
    """Make `version` the live one; the one that was becomes the previous."""
    if channel.current != version:
        _write_channel(folder, replace(channel, current=version, previous=channel.current))


def _write_channel(folder: Path, channel: Channel) -> None:
    store.write_json(folder / CHANNEL_FILE, asdict(channel))


def _require_version(folder: Path, version: str) -> None:
    """Raise PublishError unless `version` is there with the bytes that were published."""
    if version not in adapters_folder.versions_of(folder):
        raise PublishError(f"{folder.name}: got {version!r}, which is not published", hint=_known(folder))
    try:
        files = store.read_json(folder / version / MANIFEST_FILE)["files"]
        damaged = [file for file in ADAPTER_FILES if _facts(folder / version / file) != files[file]]
    except (ValueError, KeyError, TypeError):
        damaged = [MANIFEST_FILE]
    if damaged:
        raise PublishError(
            f"{folder / version}: got {', '.join(damaged)} changed after it was published", hint=_known(folder)
        )


def _known(folder: Path) -> str:
    return f"versions of {folder.name}: {', '.join(adapters_folder.versions_of(folder)) or 'none'}"
