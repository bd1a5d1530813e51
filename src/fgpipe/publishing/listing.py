"""What is published: a line a version, with scores and which is live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import adapters_folder, store
from fgpipe.adapters_folder import Channel
from fgpipe.errors import PublishError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class VersionEntry:
    """One published version."""

    name: str
    version: str
    live: bool
    """Whether the bare name means this version."""
    aliases: tuple[str, ...]
    created: str = ""
    """UTC, ISO 8601."""
    base: str = ""
    """Id of the base model."""
    headline: Mapping[str, Any] | None = None
    """value, low, high (shares, 0 to 1) and n of the adapter on held-out rows; None if it was not scored."""
    base_headline: Mapping[str, Any] | None = None
    """The same of the bare base."""
    size_bytes: int = 0
    """Of the files a server loads."""
    problem: str = ""
    """What is wrong with it; empty if nothing is."""


def versions(adapters: Path) -> list[VersionEntry]:
    """Every version below `adapters`, by name, newest first; damaged ones say so and hide no other.

    Raises:
        PublishError: `adapters` is no folder.
    """
    root = adapters.resolve()
    if root.exists() and not root.is_dir():
        raise PublishError(f"paths.adapters: got {adapters}, expected a folder")
    return [entry for name in adapters_folder.names_in(root) for entry in _entries(root / name)]


def _entries(folder: Path) -> list[VersionEntry]:
    try:
        channel, problem = adapters_folder.read_channel(folder) or Channel(), ""
    except PublishError as error:
        channel, problem = Channel(), error.message
    found = adapters_folder.versions_of(folder)
    entries = [_entry(folder, version, channel, problem) for version in reversed(found)]
    if channel.current and channel.current not in found:
        gone = f"{folder / channel.current} is live and not there"
        entries.insert(
            0, VersionEntry(folder.name, channel.current, True, _aliases(channel, channel.current), problem=gone)
        )
    return entries


def _entry(folder: Path, version: str, channel: Channel, problem: str) -> VersionEntry:
    entry = VersionEntry(folder.name, version, channel.current == version, _aliases(channel, version), problem=problem)
    try:
        manifest = store.read_json(folder / version / adapters_folder.MANIFEST_FILE)
        scores = manifest.get("scores") or {}
        return replace(
            entry,
            created=manifest["created"],
            base=manifest["base"]["id"],
            headline=(scores.get("adapter") or {}).get("headline"),
            base_headline=(scores.get("base") or {}).get("headline"),
            size_bytes=sum(file["bytes"] for file in manifest["files"].values()),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return replace(entry, problem=f"{version}/{adapters_folder.MANIFEST_FILE}: {error!r}")


def _aliases(channel: Channel, version: str) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, meant in channel.aliases.items() if meant == version))


def entry_json(entry: VersionEntry) -> dict[str, Any]:
    """`entry` as plain data."""
    return asdict(entry)


def render_versions(entries: Sequence[VersionEntry]) -> Table:
    """A table with a line a version; the headline score with its interval, the base's beside it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=None if entries else "nothing is published yet: python -m fgpipe run task=sql model=tiny")
    for column in ("name", "version", "live", "score", "base's score", "base", "created", "MiB", "aliases"):
        table.add_column(column, justify="right" if column == "MiB" else "left")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.version,
            "live" if entry.live else "",
            Text(entry.problem, style="red") if entry.problem else _share(entry.headline),
            _share(entry.base_headline),
            Text(entry.base),
            entry.created,
            f"{entry.size_bytes / 2**20:.1f}",
            ", ".join(entry.aliases),
            style="" if entry.live else "dim",
        )
    return table


def _share(score: Mapping[str, Any] | None) -> str:
    if not score or score.get("value") is None:
        return "–"
    if score.get("low") is None or score.get("high") is None:
        return f"{score['value']:.1%}"
    return f"{score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})"
