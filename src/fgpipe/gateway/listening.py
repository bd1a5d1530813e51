"""The gateway as a process: its socket, its server, and its end."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fgpipe import optional
from fgpipe.config import GatewayConfig
from fgpipe.errors import ServeError
from fgpipe.progress import say

if TYPE_CHECKING:
    import uvicorn

    from fgpipe.gateway.access import Access
    from fgpipe.gateway.published import Versions

GRACE_S = 30
"""For answers in flight to end after the signal to stop."""

PACKAGES = ("aiohttp", "fastapi", "httptools", "prometheus_client", "uvicorn", "uvloop")
"""What only the gateway needs."""

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
    for module in PACKAGES:
        optional.require(module, purpose="gateway", error=ServeError)
    from fgpipe.gateway import access

    client_keys = access.client_keys()
    access.require_keys(config.host, client_keys)
    config = config.model_copy(update={"upstreams": upstreams})

    def ready() -> None:
        print(f"ready:     {_address(config)}", f"upstreams: {', '.join(upstreams)}", sep="\n", flush=True)
        say("keys:      " + ("clients need one" if client_keys else "none, this machine's loopback only"))

    with ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in _listen(config)]
        if config.workers > 1:
            from fgpipe.gateway import workers

            workers.run(config, versions=versions, listeners=listeners, on_ready=ready)
        else:
            import uvicorn

            from fgpipe.gateway import application

            ready()
            app = application.create(config, versions=versions, keys=client_keys)
            uvicorn.Server(settings(app)).run(sockets=listeners)


def settings(app: Access, **more: Any) -> uvicorn.Config:
    """How uvicorn runs `app`, in a process that does nothing else."""
    import uvicorn

    gc.freeze()  # what is loaded by now stays: looking through it again and again cost a tenth of a request
    return uvicorn.Config(
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
        **more,
    )


def _listen(config: GatewayConfig) -> list[socket.socket]:
    """A listener a worker; the kernel shares connections out among them."""
    listener = _listener(config, shared=False)
    if config.workers == 1:
        return [listener]
    listener.close()  # it was free; two gateways that share an address would be a mistake
    return [_listener(config, shared=True) for _ in range(config.workers)]


def _listener(config: GatewayConfig, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        address = f"{config.host}:{config.port}"
        raise ServeError(
            f"gateway.host, gateway.port: {address}: got {reason}, expected a free address",
            hint=f"stop the program that listens there, or choose another port: gateway.port={config.port % 65535 + 1}",
        ) from None


def _address(config: GatewayConfig) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
