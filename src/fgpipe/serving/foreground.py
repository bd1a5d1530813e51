"""`python -m fgpipe serve`: the server in the foreground, until Ctrl-C."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from fgpipe import keys
from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import ServeError
from fgpipe.progress import say
from fgpipe.serving.command import (
    installed_build,
    installed_version,
    plugin_installed,
    published,
    serve_command,
    server_environment,
    tuned_kernels,
)
from fgpipe.serving.process import VllmServer


def serve(model: ModelConfig, server: ServerConfig, *, adapters: Path, print_only: bool = False) -> None:
    """Run vLLM with every adapter in `adapters` until it is interrupted; the folder may be empty or missing.

    Args:
        print_only: write the environment and command to stdout, as one line for a shell, and start nothing.

    Raises:
        ServeError: vLLM is not installed, cannot start, or ended by itself.
        KeyboardInterrupt: Ctrl-C; the server is gone when it is raised.
    """
    if print_only:
        print(shell_line(model, server, adapters=adapters))
        return
    if (version := installed_version().partition("+")[0]) != server.vllm_version:
        say(f"warning: vLLM {version} is installed, but what it accepts was checked for {server.vllm_version}")
    if reason := keys.refusal_to_listen(server.host):
        raise ServeError(reason, hint="set them in the environment, or server.host=127.0.0.1")
    with VllmServer(model, server, adapters=adapters) as running:
        if running.kernels.line:
            say(running.kernels.line)
        names = ", ".join(published(adapters)) or f"none yet; what appears in {adapters}/ answers without a restart"
        print(f"ready:    {running.base_url}/v1", f"base:     {model.id}", f"adapters: {names}", sep="\n", flush=True)
        say(f"log:      {running.log} (Ctrl-C ends the server)")
        running.wait(look=_follow(running.log))


def shell_line(model: ModelConfig, server: ServerConfig, *, adapters: Path) -> str:
    """Environment and command of the server, quoted for a shell."""
    build, plugin = installed_build(), plugin_installed()
    kernels = tuned_kernels(model, server, build=build)
    if kernels.line:
        say(kernels.line)
    variables = server_environment(server, adapters=adapters, build=build, plugin=plugin, kernels=kernels.folder)
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*words, shlex.join(serve_command(model, server, adapters=adapters, build=build, plugin=plugin))])


def _follow(log: Path) -> Callable[[], None]:
    """A function copying to stderr what was added to `log` since it was last called."""
    place = log.stat().st_size

    def copy() -> None:
        nonlocal place
        with open(log, encoding="utf-8", errors="replace") as handle:
            handle.seek(place)
            sys.stderr.write(handle.read())
            place = handle.tell()
        sys.stderr.flush()

    return copy
