"""Old versions go, unless somebody may still need them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Set
from pathlib import Path

from fgpipe import adapters_folder
from fgpipe.errors import PublishError
from fgpipe.publishing.registry import writing
from fgpipe.publishing.workspace import TRASH


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

    Raises:
        PublishError: another process is publishing; nothing is removed.
    """
    with writing(name, adapters, wait=False) as folder:
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
