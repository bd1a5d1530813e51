"""`python -m fgpipe serve`: the server in the foreground, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fgpipe import keys
from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import ServeError
from fgpipe.progress import say
from fgpipe.serving.command import (
    Share,
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
    require_right_to_listen(server)
    with VllmServer(model, server, adapters=adapters) as running:
        if running.kernels.line:
            say(running.kernels.line)
        names = ", ".join(published(adapters)) or f"none yet; what appears in {adapters}/ answers without a restart"
        print(f"ready:    {running.base_url}/v1", f"base:     {model.id}", f"adapters: {names}", sep="\n", flush=True)
        say(f"log:      {running.log} (Ctrl-C ends the server)")
        running.wait(look=follow(running.log))


def require_right_to_listen(server: ServerConfig) -> None:
    """Warn of another vLLM than was tested; refuse to listen where others reach it without keys.

    Raises:
        ServeError: vLLM is not installed, or the keys for server.host are missing.
    """
    if (version := installed_version().partition("+")[0]) != server.vllm_version:
        say(f"warning: vLLM {version} is installed, but what it accepts was checked for {server.vllm_version}")
    if reason := keys.refusal_to_listen(server.host):
        raise ServeError(reason, hint="set them in the environment, or server.host=127.0.0.1")


def shell_line(model: ModelConfig, server: ServerConfig, *, adapters: Path, share: Share | None = None) -> str:
    """Environment and command of the server, quoted for a shell."""
    build, plugin = installed_build(), plugin_installed()
    kernels = tuned_kernels(model, server, build=build)
    if kernels.line:
        say(kernels.line)
    variables = server_environment(
        server, adapters=adapters, build=build, plugin=plugin, share=share, kernels=kernels.folder
    )
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    command = serve_command(model, server, adapters=adapters, build=build, plugin=plugin, share=share)
    return " ".join([*words, shlex.join(command)])


def follow(log: Path, *, prefix: str = "") -> Callable[[], None]:
    """A function copying to stderr what was added to `log` since it was last called, after `prefix` in each line.

    A log that is not there yet counts as empty.
    """
    place = log.stat().st_size if log.exists() else 0

    def copy() -> None:
        nonlocal place
        with suppress(FileNotFoundError), open(log, "rb") as handle:
            if place > os.fstat(handle.fileno()).st_size:  # begun anew, by a server that was started again
                place = 0
            handle.seek(place)
            text = handle.read()
            if prefix:  # whole lines only: several servers write
                text = text[: text.rfind(b"\n") + 1]
            place += len(text)
            lines = text.decode(errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(prefix + line for line in lines))
        sys.stderr.flush()

    return copy
