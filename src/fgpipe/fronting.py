"""The gateway with what it takes from elsewhere: servers' addresses, published versions, a container's environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe.config import Config, GatewayConfig

if TYPE_CHECKING:
    from fgpipe.gateway.access import Access

PREFIX = "FGPIPE_GATEWAY_"
"""`FGPIPE_GATEWAY_MAX_QUEUED=64` in the environment is gateway.max_queued=64."""

ADAPTERS_VARIABLE = "FGPIPE_ADAPTERS"


def run(config: Config) -> None:
    """Run the gateway until it is interrupted; see `gateway.serve`."""
    from fgpipe import gateway

    gateway.serve(config.gateway, **_parts(config))


def application() -> Access:
    """The application by the environment alone: `uvicorn --factory fgpipe.fronting:application`.

    Raises:
        ConfigError: a variable's value is not legal.
        ServeError: keys are missing for where it should listen.
    """
    from fgpipe.compose import compose
    from fgpipe.gateway import access
    from fgpipe.gateway import application as routes

    config = compose(environment_words())
    client_keys = access.client_keys()
    access.require_keys(config.gateway.host, client_keys)
    return routes.create(config.gateway, keys=client_keys, **_parts(config))


def environment_words() -> list[str]:
    """The `key=value` words that the environment's variables stand for."""
    words = []
    for name, field in GatewayConfig.model_fields.items():
        if value := os.environ.get(PREFIX + name.upper()):
            words.append(f"gateway.{name}=[{value}]" if isinstance(field.default, tuple) else f"gateway.{name}={value}")
    if folder := os.environ.get(ADAPTERS_VARIABLE):
        words.append(f"paths.adapters={folder}")
    return words


def _parts(config: Config) -> dict[str, Any]:
    from fgpipe.publishing import listing
    from fgpipe.serving import api

    folder = Path(config.paths.adapters)
    return {
        "upstreams": config.gateway.upstreams or (api.address(config.server),),
        "versions": lambda: [listing.entry_json(entry) for entry in listing.versions(folder)],
    }
