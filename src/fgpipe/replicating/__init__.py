"""`python -m fgpipe serve server.replicas=N`: several vLLM servers on one machine, and the gateway in front of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgpipe.config import Config
from fgpipe.errors import ServeError
from fgpipe.progress import say
from fgpipe.replicating import finding
from fgpipe.replicating.front import GatewayProcess, require_apart, require_front
from fgpipe.serving import api, foreground, keeping
from fgpipe.serving.command import installed_build, published
from fgpipe.serving.keeping import Keeper
from fgpipe.serving.process import POLL_S
from fgpipe.serving.replicas import Replicas, shell_lines

GATEWAY_PATIENCE_S = 60.0

__all__ = ["serve"]


def serve(config: Config, *, print_only: bool = False) -> None:
    """Run `server.replicas` servers and the gateway until interrupted; one that dies is started again alone.

    Args:
        print_only: write each server's environment and command to stdout, a line each, and start nothing.

    Raises:
        ConfigError: gateway.port is a server's.
        ServeError: vLLM or a package is not installed, a server cannot start, or all ended again and again.
        KeyboardInterrupt: Ctrl-C; everything is gone when it is raised.
    """
    server, adapters = config.server, Path(config.paths.adapters)
    if print_only:
        _print(config)
        return
    foreground.require_right_to_listen(server)
    count = server.replicas if server.replicas != "auto" else finding.remembered(config)
    most = count or finding.most(config)
    require_front(config, ports=range(server.port, server.port + most))
    if count is None:
        count = finding.find(config, most=most)
    with Replicas(config.model, server, of=count, adapters=adapters) as replicas:
        replicas.grow(count)
        upstreams = tuple(dict.fromkeys([*replicas.urls, *config.gateway.upstreams]))
        with fronted(GatewayProcess(config, upstreams, log=replicas.logs / "gateway.log")) as front:
            names = ", ".join(published(adapters)) or f"none yet; what appears in {adapters}/ answers without a restart"
            print(f"ready:    {front.url}/v1", f"replicas: {', '.join(replicas.urls)}", sep="\n")
            print(f"base:     {config.model.id}", f"adapters: {names}", sep="\n", flush=True)
            say(f"logs:     {replicas.logs} (Ctrl-C ends all)")
            if line := replicas.running[0].kernels.line:
                say(line)
            copies = [foreground.follow(one.log, prefix=f"{one.server.port} | ") for one in replicas.running]
            copies.append(foreground.follow(front.log, prefix="gateway | "))
            gateway = Keeper("gateway", front, patience_s=GATEWAY_PATIENCE_S)
            keeping.keep(replicas.keepers(), gateway, look=lambda: [copy() for copy in copies])


@contextmanager
def fronted(gateway: GatewayProcess) -> Iterator[GatewayProcess]:
    """`gateway`, which answers when the block begins and is gone when it has ended.

    Raises:
        ServeError: it ended, or does not answer.
    """
    try:
        gateway.start()
        until = time.monotonic() + GATEWAY_PATIENCE_S
        while not gateway.answers():
            gateway.require_alive()
            if time.monotonic() > until:
                raise ServeError(
                    f"gateway: got no answer in {GATEWAY_PATIENCE_S:.0f} s, expected it to be ready",
                    hint=f"whole log: {gateway.log}",
                )
            time.sleep(POLL_S)
        yield gateway
    finally:
        gateway.stop()


def _print(config: Config) -> None:
    server = config.server
    count = server.replicas if server.replicas != "auto" else finding.remembered(config)
    if count is None:
        raise ServeError(
            "server.replicas: got auto, with nothing measured for these settings, expected a number to print for",
            hint="python -m fgpipe serve server.replicas=auto measures; or server.replicas=4",
        )
    require_apart(config, ports=range(server.port, server.port + count))
    print("\n".join(shell_lines(config.model, server, of=count, adapters=Path(config.paths.adapters))))
    if installed_build() == "gpu":
        say("the first starts alone; the others then together, with --kv-cache-memory-bytes as it found")
    say(f"gateway at {api.address(config.gateway)}/v1")
