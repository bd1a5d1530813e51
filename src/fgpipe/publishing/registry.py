"""Publishing: a finished folder appears under a new number, then one small file makes it the live one.

Killed at any instant, the old version stays live and no part of a new one can be seen: everything is written in a
hidden folder beside the versions, made durable, renamed; only then is `channel.json` replaced, again by rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgpipe import adapters_folder, artifacts, store
from fgpipe.adapters_folder import ADAPTER_FILES, CARD_FILE, CHANNEL_FILE, MANIFEST_FILE, Channel
from fgpipe.errors import PublishError
from fgpipe.progress import say
from fgpipe.publishing import bases
from fgpipe.publishing.bases import base_of
from fgpipe.publishing.card import card
from fgpipe.publishing.listing import VersionEntry, entry_json, render_versions, versions
from fgpipe.publishing.workspace import CANDIDATE, STAGING, copied, locked, made

__all__ = [
    "PublishedVersion",
    "VersionEntry",
    "base_of",
    "entry_json",
    "on_trial",
    "publish",
    "render_versions",
    "resolve",
    "rollback",
    "set_alias",
    "versions",
]

resolve = adapters_folder.resolve


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
    tried: str | None = None,
    change_base: bool = False,
) -> PublishedVersion:
    """Make the PEFT folder `adapter` the live version of `name` in the folder `adapters`.

    An adapter equal to one already published makes no new version: that version becomes the live one.

    Args:
        check: raises if the folder it is given must not be served; asked of `adapter` and of the copy to be published.
        manifest_extra: where it comes from; `base` (with `id`) is required; `task`, `instruction`, `config`, `data`,
            `training`, `scores`, `versions`, `git`, `parity` are shown on the card.
        tried: digest of the adapter that was `on_trial`; another one is refused.
        change_base: let the name mean an adapter of another base than the live one's.

    Raises:
        PublishError: the name cannot be used, belongs to another base, or the files cannot be written; what was live
            stays live.
    """
    _require_usable(name, base_id=manifest_extra["base"]["id"])
    check(adapter)
    try:
        with locked(made(adapters, name)) as folder, copied(adapter, folder, STAGING) as staging:
            check(staging)
            channel = adapters_folder.read_channel(folder) or Channel()
            if not change_base:
                bases.require_base(name, manifest_extra["base"]["id"], adapters=adapters)
            content = _content(staging)
            if tried not in (None, content):
                raise PublishError(f"{adapter}: got other files than those on trial, expected them unchanged")
            same = _published_before(folder, content)
            if same is not None:
                _point(folder, channel, same)
                return PublishedVersion(name, same, folder / same, created=False)
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


@contextmanager
def on_trial(adapter: Path, *, name: str, base_id: str, adapters: Path) -> Iterator[tuple[str, str]]:
    """What a server can be asked for to try a copy of `adapter` until the block ends, and the copy's digest.

    Nobody waits meanwhile: publishing and rolling back `name` go on.

    Raises:
        PublishError: the name cannot be used or the files cannot be written.
    """
    _require_usable(name, base_id=base_id)
    try:
        with copied(adapter, made(adapters, name), CANDIDATE) as candidate:
            yield adapters_folder.full_name(candidate), _content(candidate)
    except OSError as error:
        raise PublishError(
            f"{name} on trial: {error}; what was live stays live", hint=f"is {adapters} writable, with room?"
        ) from error


def rollback(name: str, *, adapters: Path, to: str | None = None) -> PublishedVersion:
    """Make `name` mean its previous version, or `to` (a version or an alias); the one it meant becomes the previous.

    With `to`, a damaged `channel.json` is written anew.

    Raises:
        PublishError: there is no such version, its files are not those that were published, or it is of another base
            than the live one.
    """
    with writing(name, adapters) as folder:
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
        bases.require_same(folder, version, live=channel.current)
        _point(folder, replace(channel, last=_next_number(folder, channel) - 1), version)
        return PublishedVersion(name, version, folder / version, created=False)


def set_alias(name: str, alias: str, version: str | None, *, adapters: Path) -> None:
    """Let `name@alias` mean `version`; None forgets the alias.

    Raises:
        PublishError: the alias reads like a version or is no name, there is no such version, or it is of another base
            than the live one.
    """
    like_version = (alias[:1] == "v" and alias[1:].isdigit()) or adapters_folder.is_candidate(alias)
    if not adapters_folder.is_name(alias) or like_version:
        raise PublishError(f"alias: got {alias!r}, expected a name in lower case that does not read like a version")
    with writing(name, adapters) as folder:
        channel = adapters_folder.read_channel(folder) or Channel()
        aliases = {key: value for key, value in channel.aliases.items() if key != alias}
        if version is None and alias not in channel.aliases:
            known = ", ".join(channel.aliases) or "none"
            raise PublishError(f"alias: got {alias!r}, which {name} does not have, expected one of: {known}")
        if version is not None:
            _require_version(folder, version)
            bases.require_same(folder, version, live=channel.current)
            aliases[alias] = version
        _write_channel(folder, replace(channel, aliases=aliases))


@contextmanager
def writing(name: str, adapters: Path, *, wait: bool = True) -> Iterator[Path]:
    """The folder of the published `name`, locked; errors of the file system become PublishError.

    Raises:
        PublishError: nothing is published as `name`, or, without `wait`, another process is writing.
    """
    folder = adapters.resolve() / name
    if not adapters_folder.is_name(name) or not folder.is_dir():
        known = ", ".join(adapters_folder.names_in(adapters)) or "nothing yet"
        raise PublishError(
            f"{name}: got a name that is not published, expected one of: {known}",
            hint="python -m fgpipe adapters lists them; paths.adapters=… names another folder",
        )
    try:
        with locked(folder, wait=wait):
            yield folder
    except OSError as error:
        raise PublishError(f"{folder}: {error}; what was live stays live") from error


def _require_usable(name: str, *, base_id: str) -> None:
    """Raise PublishError unless a folder, a URL and vLLM can all carry `name`."""
    fault = adapters_folder.name_fault(name, base_id=base_id)
    if fault:
        raise PublishError(f"name: {fault}", hint="publish.name=… sets it")


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
