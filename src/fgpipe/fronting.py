"""The gateway with what it takes from elsewhere: servers' addresses, published versions, a container's environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import environment
from fgpipe.config import Config
from fgpipe.errors import ServeError

if TYPE_CHECKING:
    from fgpipe.gateway.access import Access


def run(config: Config) -> None:
    """Run the gateway until it is interrupted; see `gateway.serve`."""
    from fgpipe import gateway

    gateway.serve(config.gateway, **_parts(config))


def application() -> Access:
    """The application by the environment alone: `uvicorn --factory fgpipe.fronting:application`; one process.

    Raises:
        ConfigError: a variable's value is not legal.
        ServeError: keys are missing for where it should listen.
    """
    from fgpipe.compose import compose
    from fgpipe.gateway import access
    from fgpipe.gateway import application as routes

    config = compose(list(environment.overrides(os.environ).values()))
    if config.gateway.workers > 1:
        raise ServeError(
            f"gateway.workers: got {config.gateway.workers}, expected 1 for an application that something else runs",
            hint="python -m fgpipe gateway runs several processes behind one address",
        )
    client_keys = access.client_keys()
    access.require_keys(config.gateway.host, client_keys)
    parts = _parts(config)
    gateway = config.gateway.model_copy(update={"upstreams": parts["upstreams"]})
    return routes.create(gateway, versions=parts["versions"], keys=client_keys)


def _parts(config: Config) -> dict[str, Any]:
    from fgpipe.publishing import listing
    from fgpipe.serving import replicas

    folder = Path(config.paths.adapters)
    return {
        "upstreams": config.gateway.upstreams or replicas.addresses(config.server),
        "versions": lambda: [listing.entry_json(entry) for entry in listing.versions(folder)],
    }
