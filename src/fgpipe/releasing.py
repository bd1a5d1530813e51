"""From a trained adapter to the version that answers: the folder of versions and the servers that read it, in step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fgpipe.config import Config
from fgpipe.errors import ServeError
from fgpipe.progress import say
from fgpipe.publishing import registry
from fgpipe.publishing.registry import PublishedVersion
from fgpipe.serving import api, live
from fgpipe.serving import sync as servers

Trial = Callable[[str, str], Mapping[str, Any]]
"""(address of a server, name to ask it for) -> what was found, for the manifest; raises if it must not go live."""


def server_urls(config: Config) -> tuple[str, ...]:
    """Addresses of the servers that answer with what is published here."""
    return config.publish.servers or (api.address(config.server),)


def release(
    config: Config, adapter: Path, *, check: Callable[[Path], object], manifest: Mapping[str, Any], trial: Trial | None
) -> PublishedVersion:
    """Publish `adapter` and make it answer in every running server of the configuration.

    Args:
        check: raises if the folder it is given must not be served.
        trial: asked of a running server that already serves the adapter under a name of its own; None: no trial.

    Raises:
        PublishError: it cannot be published; what was live stays live, in the folder and in every server.
        ServeError: it is live in the folder, but a server does not answer by it.
    """
    urls = _running(config)
    version = registry.publish(
        adapter,
        name=config.adapter_name,
        adapters=Path(config.paths.adapters),
        check=check,
        manifest_extra=manifest,
        trial=_trial(trial, urls),
    )
    servers.take_up(urls, version.name, version=version.version)
    prune(config, version.name)
    return version


def rollback(config: Config, request: str) -> PublishedVersion:
    """Make `name` answer by its previous version, or `name@vNNNN` by that one, in the folder and every running server.

    Raises:
        PublishError: there is no such version; what was live stays live.
        ServeError: it is live in the folder, but a server does not answer by it.
    """
    urls = _running(config)
    name, _, version = request.partition("@")
    now = registry.rollback(name, adapters=Path(config.paths.adapters), to=version or None)
    servers.take_up(urls, name, version=now.version)
    return now


def set_alias(config: Config, request: str, version: str | None) -> None:
    """Let `name@alias` mean `version`, in the folder and every running server; None forgets the alias.

    Raises:
        PublishError: `request` is no name@alias, or there is no such name or version.
        ServeError: it is so in the folder, but a server does not answer by it.
    """
    name, _, alias = request.partition("@")
    urls = _running(config)
    registry.set_alias(name, alias, version, adapters=Path(config.paths.adapters))
    if version is not None:
        servers.take_up(urls, request, version=version)
    else:
        for url in urls:
            live.refresh(url, request)


def sync(config: Config) -> list[servers.Report]:
    """Make every running server answer by what the folder says, and remove versions that nobody needs any more."""
    adapters = Path(config.paths.adapters)
    reports = servers.sync(server_urls(config), adapters, base=config.model.id)
    for name in registry.names(adapters):
        prune(config, name)
    return reports


def prune(config: Config, name: str) -> None:
    """Remove old versions of `name` beyond publish.keep_versions; none that a server has loaded.

    Nothing is removed if a server does not say what it has loaded.
    """
    adapters = Path(config.paths.adapters)
    if not registry.removable(name, adapters=adapters, keep=config.publish.keep_versions):
        return
    try:
        found = [live.status(url) for url in server_urls(config)]
    except ServeError as error:
        say(f"no old version of {name} is removed: {error.message}")
        return
    loaded = {version for status in found if status is not None for version in status.loaded()}
    removed = registry.prune(name, adapters=adapters, keep=config.publish.keep_versions, loaded=loaded)
    if removed:
        say(f"removed {name} {', '.join(removed)} (publish.keep_versions={config.publish.keep_versions})")


def _running(config: Config) -> list[str]:
    """The servers of the configuration that run now; asked before anything is published, so that none surprises."""
    running = []
    for url in server_urls(config):
        try:
            if servers.serving(url, base=config.model.id) is not None:
                running.append(url)
            elif config.publish.servers:
                say(f"{url}: no server runs there; it will read the folder when it starts")
        except ServeError:
            # Without publish.servers the address is a default, where any other program may listen.
            if config.publish.servers:
                raise
            say(f"{url}: another program listens there; nothing is asked of it")
    return running


def _trial(trial: Trial | None, urls: list[str]) -> Callable[[str], Mapping[str, Any]] | None:
    """The trial in the first running server; None if there is none, or none is wanted."""
    return (lambda served: trial(urls[0], served)) if trial is not None and urls else None
