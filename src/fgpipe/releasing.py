"""From a trained adapter to the version that answers: the folder of versions and the servers that read it, in step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fgpipe import adapters_folder
from fgpipe.config import Config
from fgpipe.errors import PublishError, ServeError
from fgpipe.progress import say
from fgpipe.publishing import bases, registry, retention
from fgpipe.publishing.registry import PublishedVersion
from fgpipe.serving import live
from fgpipe.serving import sync as servers
from fgpipe.serving.live import ServerStatus

Trial = Callable[[Sequence[ServerStatus], str], Mapping[str, Any]]
"""(servers, name to ask them for) -> what was found, for the manifest; raises if the adapter must not go live."""


def release(
    config: Config, adapter: Path, *, check: Callable[[Path], object], manifest: Mapping[str, Any], trial: Trial | None
) -> PublishedVersion:
    """Publish `adapter` and make it answer in every running server of the configuration.

    Args:
        check: raises if the folder it is given must not be served.
        trial: asked of the running servers, which already serve the adapter under a name of its own; None: no trial.

    Raises:
        PublishError: it cannot be published; what was live stays live, in the folder and in every server.
        ServeError: a server refuses us, and nothing was published; or the version is live in the folder, but a server
            does not answer by it.
    """
    adapters = Path(config.paths.adapters)
    require_base(config)
    found, _ = servers.running(config)
    tried = None
    if trial is not None and found:
        with registry.on_trial(adapter, name=config.adapter_name, base_id=config.model.id, adapters=adapters) as (
            served,
            tried,
        ):
            check(adapter)
            manifest = {**manifest, "parity": trial(found, served)}
        for status in found:
            with suppress(ServeError):  # it forgets the name itself as soon as it is asked for it
                live.forget(status.url, served)
    version = registry.publish(
        adapter,
        name=config.adapter_name,
        adapters=adapters,
        check=check,
        manifest_extra=manifest,
        tried=tried,
        change_base=config.publish.change_base,
    )
    _take_up(config, version.name, version.version, base=config.model.id)
    prune(config, version.name)
    return version


def require_base(config: Config) -> None:
    """Raise PublishError if the adapter's name belongs to another base, which publishing would refuse in the end."""
    if not config.publish.change_base:
        bases.require_base(config.adapter_name, config.model.id, adapters=Path(config.paths.adapters))


def rollback(config: Config, request: str) -> PublishedVersion:
    """Make `name` answer by its previous version, or `name@vNNNN` by that one, in the folder and every running server.

    Raises:
        PublishError: there is no such version, or it is of another base; what was live stays live.
        ServeError: a server refuses us, and nothing was changed; or the version is live in the folder, but a server
            does not answer by it.
    """
    name, at, version = request.partition("@")
    if at and not version:
        raise PublishError(
            f"rollback: got {request!r}, expected a version after the @", hint=f"rollback {name}@v0001, or {name}"
        )
    base = _base_of(config, name)
    servers.running(config, base=base)
    now = registry.rollback(name, adapters=Path(config.paths.adapters), to=version or None)
    _take_up(config, name, now.version, base=base)
    return now


def set_alias(config: Config, request: str, version: str | None) -> None:
    """Let `name@alias` mean `version`, in the folder and every running server; None forgets the alias.

    Raises:
        PublishError: `request` is no name@alias, or there is no such name or version.
        ServeError: a server refuses us, and nothing was changed; or it is so in the folder, but a server does not
            answer by it.
    """
    name, _, alias = request.partition("@")
    base = _base_of(config, name)
    servers.running(config, base=base)
    registry.set_alias(name, alias, version, adapters=Path(config.paths.adapters))
    _take_up(config, request, version or "nothing", base=base)


def sync(config: Config) -> list[servers.Report]:
    """Make every running server answer by what the folder says, and remove versions that nobody needs any more."""
    adapters = Path(config.paths.adapters)
    reports = servers.sync(servers.server_urls(config), adapters)
    for name in adapters_folder.names_in(adapters):
        prune(config, name)
    return reports


def prune(config: Config, name: str) -> None:
    """Remove old versions of `name` beyond publish.keep_versions; none that a server has loaded.

    Nothing is removed if a server does not say what it has loaded, or while another process publishes.
    """
    adapters = Path(config.paths.adapters)
    if not retention.removable(name, adapters=adapters, keep=config.publish.keep_versions):
        return
    try:
        found = [live.status(url) for url in servers.server_urls(config)]
        loaded = {version.partition("+")[0] for status in found if status is not None for version in status.loaded()}
        removed = retention.prune(name, adapters=adapters, keep=config.publish.keep_versions, loaded=loaded)
    except (ServeError, PublishError) as error:
        say(f"no old version of {name} is removed: {error.message}")
        return
    if removed:
        say(f"removed {name} {', '.join(removed)} (publish.keep_versions={config.publish.keep_versions})")


def _base_of(config: Config, name: str) -> str:
    """The base that what is published as `name` was trained on."""
    return registry.base_of(name, adapters=Path(config.paths.adapters)) or config.model.id


def _take_up(config: Config, name: str, version: str, *, base: str) -> None:
    """Bring every server that runs now in step for `name`; those that came up meanwhile too."""
    found, failed = servers.running(config, base=base)
    failed = failed + servers.take_up([status.url for status in found], name, Path(config.paths.adapters))
    if failed:
        raise ServeError(
            f"{name}: {version} is live in the folder, but not in every server: " + "; ".join(failed),
            hint="python -m fgpipe sync repairs a server that lags; one that restarts reads the folder",
        )
