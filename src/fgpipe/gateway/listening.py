"""The gateway as a process: its socket, its server, and its end."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from fgpipe import optional
from fgpipe.config import GatewayConfig
from fgpipe.errors import ServeError
from fgpipe.progress import say

if TYPE_CHECKING:
    from fgpipe.gateway.published import Versions

GRACE_S = 30
"""For answers in flight to end after the signal to stop."""

KEEP_ALIVE_S = 15
BACKLOG = 4096


def serve(config: GatewayConfig, *, upstreams: tuple[str, ...], versions: Versions) -> None:
    """Run the gateway until it is interrupted.

    Args:
        upstreams: addresses of the servers behind it.
        versions: what is published.

    Raises:
        ServeError: a package or the keys for where it should listen are missing, or the address is taken.
        KeyboardInterrupt: Ctrl-C, once answers in flight have ended.
    """
    for module in ("aiohttp", "fastapi", "prometheus_client", "uvicorn", "uvloop"):
        optional.require(module, purpose="gateway", error=ServeError)
    import uvicorn

    from fgpipe.gateway import access, application

    client_keys = access.client_keys()
    access.require_keys(config.host, client_keys)
    app = application.create(config, upstreams=upstreams, versions=versions, keys=client_keys)
    listener = _listen(config.host, config.port)
    print(f"ready:     {_address(config)}", f"upstreams: {', '.join(upstreams)}", sep="\n", flush=True)
    say("keys:      " + ("clients need one" if client_keys else "none, this machine's loopback only"))
    settings = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
    )
    with listener:
        uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServeError(
            f"gateway.host, gateway.port: {host}:{port}: got {error.strerror or error}, expected a free address",
            hint=f"stop the program that listens there, or choose another port: gateway.port={port % 65535 + 1}",
        ) from None


def _address(config: GatewayConfig) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
