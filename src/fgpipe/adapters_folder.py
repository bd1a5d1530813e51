"""The adapters folder as the server reads it: which version a model name means. Standard library only.

    adapters/<name>/v0001/        adapter_config.json adapter_model.safetensors README.md manifest.json, never changed
    adapters/<name>/channel.json  {"current": "v0002", "previous": "v0001", "aliases": {"best": "v0001"}, "last": 2}
    adapters/<name>/.candidate-0123456789ab/    an adapter on trial, named by its digest, before it is a version

The pointer is a file replaced by rename, not a symlink, because the folder is often a Windows drive seen through WSL2.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgpipe.errors import PublishError

CHANNEL_FILE = "channel.json"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What a server loads; every version has both."""

RESERVED = frozenset({"aux", "con", "nul", "prn", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""Names no folder on a Windows drive can have."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_VERSION = re.compile(r"v(?:[0-9]{4}|[1-9][0-9]{4,8})", re.ASCII)
_CANDIDATE = re.compile(r"candidate-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True)
class Channel:
    """What `channel.json` says of one name."""

    current: str | None = None
    """The version the bare name means; None before the first publish is finished."""
    previous: str | None = None
    """The version that was live before; what a rollback goes to."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Alias -> version, for requests such as `sql@best`."""
    last: int = 0
    """The highest number ever given, so that none is given twice even if a version was deleted."""


def is_name(text: str) -> bool:
    """Whether `text` may name an adapter or an alias."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def name_fault(name: str, *, base_id: str) -> str:
    """Why a folder, a URL or vLLM cannot carry the adapter's `name`, as `got …, expected …`; empty if all can."""
    if not is_name(name):
        return f"got {name!r}, expected lower-case letters, digits, '.', '_' or '-', 64 at most"
    if name.endswith(".") or name.split(".")[0] in RESERVED:
        return f"got {name!r}, which no folder on a Windows drive can have"
    if name == base_id:
        return f"got {name!r}, which is the base model's own name in the server"
    return ""


def is_version(text: str) -> bool:
    """Whether `text` is a version: `v0001` to `v9999`, then `v10000` and on."""
    return _VERSION.fullmatch(text) is not None and text != "v0000"


def is_candidate(text: str) -> bool:
    """Whether `text` is what an adapter on trial is asked for by, after the `@`."""
    return _CANDIDATE.fullmatch(text) is not None


def full_name(folder: Path) -> str:
    """`sql@v0002` for the folder of that version, `sql@candidate-…` for one on trial."""
    return f"{folder.parent.name}@{folder.name.removeprefix('.')}"


def content_of(version: Path) -> str:
    """Digest of what was published in this folder, as its manifest says; "" if that says nothing."""
    try:
        with open(version / MANIFEST_FILE, encoding="utf-8") as handle:
            content = json.load(handle).get("content", "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return content if isinstance(content, str) else ""


def version_name(number: int) -> str:
    """The version of `number`, counted from 1."""
    return f"v{number:04d}"


def version_number(version: str) -> int:
    """The number in `version`."""
    return int(version[1:])


def read_channel(folder: Path) -> Channel | None:
    """The pointers of the name whose folder is `folder`; None if it has none yet.

    Raises:
        PublishError: `channel.json` is there and cannot be understood.
    """
    path = folder / CHANNEL_FILE
    try:
        if os.path.realpath(path) != os.path.join(os.path.realpath(folder), CHANNEL_FILE):
            raise ValueError("got a link, expected a file")
        with open(path, encoding="utf-8") as handle:
            return _channel(json.load(handle))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PublishError(
            f"{path}: {error}",
            hint=f"write it anew by naming the version to serve: python -m fgpipe rollback {folder.name}@v0001",
        ) from error


def _channel(value: object) -> Channel:
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}, expected a JSON object")
    aliases, last = value.get("aliases", {}), value.get("last", 0)
    for key in ("current", "previous"):
        _require_version(key, value.get(key))
    if not isinstance(aliases, dict) or not isinstance(last, int) or isinstance(last, bool) or last < 0:
        raise ValueError("got a damaged file, expected aliases as an object and last as a whole number")
    for alias, version in aliases.items():
        if version is None:
            raise ValueError(f"aliases.{alias}: got null, expected a version such as v0001")
        _require_version(f"aliases.{alias}", version)
    return Channel(value.get("current"), value.get("previous"), aliases, last)


def _require_version(key: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and is_version(value)):
        raise ValueError(f"{key}: got {value!r:.80}, expected a version such as v0001")


def resolve(adapters: Path, request: str) -> Path | None:
    """The folder of the version that `request` means: `name`, `name@v0002` or `name@alias`; None if there is none.

    `name@candidate-<digest>` means the adapter on trial with that digest.

    The answer is the version's own real path, which never holds other weights, and lies inside `adapters` whatever is
    asked.

    Raises:
        PublishError: `channel.json` is damaged, or points to a version that is not there.
    """
    name, _, wanted = request.partition("@")
    if not is_name(name) or ("@" in request and not is_name(wanted)):
        return None
    folder = Path(os.path.realpath(adapters)) / name
    if os.path.realpath(folder) != str(folder):
        return None
    if is_version(wanted):
        return _inside(folder, wanted)
    if is_candidate(wanted):
        return _inside(folder, f".{wanted}", files=ADAPTER_FILES)
    channel = read_channel(folder)
    if channel is None:
        return None
    version = channel.aliases.get(wanted) if wanted else channel.current
    if version is None:
        return None
    found = _inside(folder, version)
    if found is None:
        raise PublishError(
            f"{request}: got a pointer to {version}, which is not in {folder}",
            hint=f"python -m fgpipe rollback {name}@{_newest(folder)}" if _newest(folder) else "publish it again",
        )
    return found


def _inside(folder: Path, version: str, *, files: Sequence[str] = (*ADAPTER_FILES, MANIFEST_FILE)) -> Path | None:
    """`folder/version` if it is a version with real `files`; links that lead elsewhere count as absent."""
    path = folder / version
    paths = [path / name for name in files]
    real = all(os.path.isfile(file) and os.path.realpath(file) == str(file) for file in paths)
    return path if real else None


def versions_of(folder: Path) -> list[str]:
    """Complete versions in the folder of one name, oldest first; `folder` is a real path."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((v for v in names if is_version(v) and _inside(folder, v)), key=version_number)


def _newest(folder: Path) -> str | None:
    return next(reversed(versions_of(folder)), None)


def names_in(adapters: Path) -> list[str]:
    """Names below `adapters` that have a version or a pointer, sorted."""
    root = Path(os.path.realpath(adapters))
    try:
        names = sorted(name for name in os.listdir(root) if is_name(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in names if (root / name / CHANNEL_FILE).exists() or versions_of(root / name)]
