"""One base a name: what was trained on another base never comes to answer under it unnoticed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fgpipe import adapters_folder, store
from fgpipe.adapters_folder import MANIFEST_FILE
from fgpipe.errors import PublishError


def of_version(version: Path) -> str | None:
    """Name of the base that the version in this folder says it was trained on; None if it says none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(store.read_json(version / MANIFEST_FILE)["base"]["id"])
    return None


def base_of(name: str, *, adapters: Path) -> str | None:
    """Name of the base that what is live as `name` was trained on, or else its newest version; None if none says so."""
    if not adapters_folder.is_name(name):
        return None
    folder = adapters.resolve() / name
    for version in (_live(folder), *reversed(adapters_folder.versions_of(folder))):
        base = of_version(folder / version) if version else None
        if base:
            return base
    return None


def require_base(name: str, base_id: str, *, adapters: Path) -> None:
    """Raise PublishError if what is live as `name` was trained on another base than `base_id`.

    A server runs one base; a name that changed it would be answered by nobody, and a rollback would change it back.
    """
    folder = adapters.resolve() / name
    live = _live(folder)
    base = of_version(folder / live) if live else None
    if base not in (None, base_id):
        raise PublishError(
            f"{name}: got an adapter of {base_id}, expected one of {base} like {name}@{live}, which is live",
            hint="publish.name=… gives it a name of its own; publish.change_base=true lets this name change its base",
        )


def require_same(folder: Path, version: str, *, live: str | None) -> None:
    """Raise PublishError if `version` of the name in `folder` was trained on another base than its version `live`."""
    base, wanted = (of_version(folder / name) if name else None for name in (version, live))
    if base and wanted and base != wanted:
        fitting = [name for name in adapters_folder.versions_of(folder) if of_version(folder / name) == wanted]
        raise PublishError(
            f"{folder.name}: got {version}, an adapter of {base}, expected one of {wanted} like {live}, which is live",
            hint=f"versions of that base: {', '.join(fitting)}; publish.change_base=true, to publish, changes the base",
        )


def _live(folder: Path) -> str | None:
    with contextlib.suppress(PublishError):
        channel = adapters_folder.read_channel(folder)
        return channel.current if channel else None
    return None
