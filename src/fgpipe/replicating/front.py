"""The gateway as a process of its own in front of the replicas, with just the settings that `serve` was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fgpipe import environment, optional
from fgpipe.config import Config
from fgpipe.errors import ConfigError, ServeError
from fgpipe.gateway import access
from fgpipe.gateway.listening import GRACE_S, PACKAGES
from fgpipe.serving import api, faults
from fgpipe.serving.process import end, require_free_port

MARGIN_S = 5.0
"""Over the gateway's own grace, before it is killed."""


def require_front(config: Config, *, ports: range) -> None:
    """Check what the gateway needs, before anyone waits for servers behind it.

    Args:
        ports: of the servers.

    Raises:
        ConfigError: it would listen on a server's port.
        ServeError: a package or a key is missing, or its address is taken.
    """
    gateway = config.gateway
    require_apart(config, ports=ports)
    for module in PACKAGES:
        optional.require(module, purpose="server.replicas", error=ServeError)
    access.require_keys(gateway.host, access.client_keys())
    require_free_port(gateway.host, gateway.port, setting="gateway.port")


def require_apart(config: Config, *, ports: range) -> None:
    """Raise ConfigError if the gateway would listen on one of the servers' `ports`."""
    if config.gateway.port in ports:
        raise ConfigError(
            f"gateway.port: got {config.gateway.port}, expected none of the replicas' {ports[0]} to {ports[-1]}",
            hint=f"gateway.port={ports[-1] + 1}, or another server.port",
        )


class GatewayProcess:
    """`python -m fgpipe gateway` in front of `upstreams`; a keeping.Service.

    Args:
        closed: for us alone: without client keys, so on the loopback.
    """

    def __init__(self, config: Config, upstreams: tuple[str, ...], *, log: Path, closed: bool = False) -> None:
        gateway = config.gateway.model_copy(update={"upstreams": upstreams})
        self.url = api.address(gateway)
        self.log = log
        self.closed = closed
        wanted = config.model_copy(update={"gateway": gateway})
        self.variables = {
            variable.name: variable.default
            for variable in environment.variables(wanted)
            if variable.key.startswith("gateway.")
        }
        self.variables[environment.SINGLE["paths.adapters"]] = str(Path(config.paths.adapters).absolute())
        if closed:
            self.variables |= {access.KEYS_VARIABLE: "", access.KEYS_FILE_VARIABLE: ""}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fgpipe", "gateway"],
                env={**os.environ, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self) -> bool:
        """Whether a server behind it is well."""
        try:
            api.fetch(f"{self.url}/ready", timeout_s=5, key=None)
        except (OSError, ServeError):
            return False
        return True

    def require_alive(self) -> None:
        """Check that the process lives.

        Raises:
            ServeError: it ended; with its last words.
        """
        code = self.process.poll() if self.process is not None else None
        if self.process is None or code is not None:
            said = " | ".join(faults.messages(self.log)[-2:]) or "it wrote nothing"
            raise ServeError(f"gateway: ended with exit code {code}: {said}", hint=f"whole log: {self.log}")

    def stop(self) -> None:
        """End the process once its answers in flight have ended."""
        if self.process is not None:
            end(self.process, grace_s=GRACE_S + MARGIN_S)
            self.process = None
