"""What is published, as a folder and the servers say: names for labels, bases for routing, and a list for people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fgpipe import adapters_folder
from fgpipe.errors import FgpipeError
from fgpipe.gateway.metrics import BASE_VERSION, NO_VERSION, UNKNOWN
from fgpipe.gateway.upstreams import Pool
from fgpipe.progress import say

Versions = Callable[[], Sequence[Mapping[str, Any]]]
"""Every published version: name, version, live, aliases, base, headline, base_headline, created, problem."""


def named(model: str, base: str) -> tuple[str, str]:
    """(adapter, version) that the name of an answering `model` says, at an upstream that serves `base`."""
    name, _, version = model.partition("@")
    return (model, BASE_VERSION) if model == base else (name, _version_label(version))


def _version_label(version: str) -> str:
    if adapters_folder.is_version(version):
        return version
    return "candidate" if adapters_folder.is_candidate(version) else NO_VERSION


class Published:
    """The published adapters, as they were at the last look."""

    def __init__(self, versions: Versions, pool: Pool) -> None:
        self._versions = versions
        self._pool = pool
        self.entries: Sequence[Mapping[str, Any]] = ()
        self._bases: dict[str, str] = {}
        self._names: frozenset[str] = frozenset()
        self._problem = ""

    async def look(self) -> None:
        """Read the folder anew; what cannot be read leaves the last look."""
        try:
            self.entries = await asyncio.to_thread(self._versions)
        except (OSError, FgpipeError) as error:
            if str(error) != self._problem:
                say(f"adapters: {error}")
            self._problem = str(error)
            return
        self._problem = ""
        self._bases = {entry["name"]: entry["base"] for entry in self.entries if entry["live"]}
        self._names = frozenset(entry["name"] for entry in self.entries)

    def base_of(self, model: str) -> str:
        """The base that `model` was published for; "" if nobody knows."""
        return self._bases.get(model.partition("@")[0], "")

    def live(self) -> set[tuple[str, str]]:
        """(name, version) that bare names mean, by the folder; where it is silent, by the servers."""
        folder = {entry["name"]: entry["version"] for entry in self.entries if entry["live"]}
        servers = {
            name: version
            for upstream in self._pool.healthy()
            for name, version in upstream.models.items()
            if version and "@" not in name
        }
        return set({**servers, **folder}.items())

    def labels(self, asked: str, answered: str) -> tuple[str, str]:
        """(adapter, version) for the metrics.

        Args:
            asked: the model that the client named.
            answered: the model that the answer names; "" if there was none.
        """
        model = answered or asked
        if model in self._pool.bases():
            return model, BASE_VERSION if answered else NO_VERSION
        name, _, version = model.partition("@")
        known = name in self._names or any(name in upstream.models for upstream in self._pool.all)
        if not known and not (answered and adapters_folder.is_name(name)):
            return UNKNOWN, NO_VERSION
        return name, _version_label(version) if answered else NO_VERSION

    def listing(self) -> list[dict[str, Any]]:
        """For people: every published version, with the servers that answer its name by it."""
        return [{**entry, "servers": self._served_by(entry["name"], entry["version"])} for entry in self.entries]

    def _served_by(self, name: str, version: str) -> list[str]:
        return [upstream.url for upstream in self._pool.healthy() if upstream.models.get(name) == version]

    def models(self) -> list[dict[str, Any]]:
        """What `/v1/models` lists: bases, then names that some upstream serves, each once."""
        found: dict[str, dict[str, Any]] = {}
        for upstream in self._pool.healthy():
            for name in sorted(upstream.models, key=lambda name: (name != upstream.base, name)):
                parent = None if name == upstream.base else upstream.base
                entry = {"id": name, "object": "model", "created": 0, "owned_by": "fgpipe", "parent": parent}
                found.setdefault(name, entry)
        return list(found.values())

    def model(self, asked: str) -> dict[str, Any] | None:
        """The entry of `asked` in `models`; also of a listed name's versions and aliases, which answer unlisted."""
        listed = {entry["id"]: entry for entry in self.models()}
        name, _, which = asked.partition("@")
        known = {it for entry in self.entries if entry["name"] == name for it in (entry["version"], *entry["aliases"])}
        if asked not in listed and name in listed and which in known:
            return {**listed[name], "id": asked}
        return listed.get(asked)
