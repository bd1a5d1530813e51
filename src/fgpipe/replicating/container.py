"""`python3 -m fgpipe.replicating.container`: the replicas alone, by variables alone; serve/entrypoint.sh starts it.

The server's container has vLLM's packages but no Hydra, and the gateway is in a container of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fgpipe import environment
from fgpipe.compose import validate
from fgpipe.config import Config
from fgpipe.errors import ConfigError, FgpipeError
from fgpipe.progress import say
from fgpipe.serving import foreground, keeping
from fgpipe.serving.replicas import Replicas, shell_lines


def main() -> int:
    """Run the replicas until told to end; the exit status as of the command line."""
    try:
        config = validate(environment.tree(_variables()))
        if os.environ.get("FGPIPE_PRINT") == "1":
            print("\n".join(shell_lines(config.model, config.server, of=_count(config), adapters=_adapters(config))))
            return 0
        _run(config)
    except FgpipeError as error:
        print(f"fgpipe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _variables() -> dict[str, str]:
    """Ours, with a name for the base as the entrypoint gives it: what is loaded, unless another one is said."""
    name = environment.SINGLE["model.id"]
    given = dict(os.environ)
    given[name] = given.get(name) or given.get(environment.MODEL_VARIABLE, "")
    return given


def _run(config: Config) -> None:
    server = config.server
    foreground.require_right_to_listen(server)
    count = _count(config)
    with Replicas(config.model, server, of=count, adapters=_adapters(config)) as replicas:
        copies = []
        for place in range(count):
            copies.append(foreground.follow(replicas.log(place), prefix=f"{server.port + place} | "))
        replicas.grow(count, look=lambda: [copy() for copy in copies])
        say(f"ready: {', '.join(replicas.urls)}")
        keeping.keep(replicas.keepers(), look=lambda: [copy() for copy in copies])


def _adapters(config: Config) -> Path:
    return Path(config.paths.adapters)


def _count(config: Config) -> int:
    if config.server.replicas == "auto":
        raise ConfigError(
            "FGPIPE_REPLICAS: got auto, expected a number in a container, as the gateway's must know it too",
            hint="python -m fgpipe serve server.replicas=auto finds one",
        )
    return config.server.replicas


if __name__ == "__main__":
    sys.exit(main())
