"""Checks of the settings themselves: what the configuration's own rules refuse, before a container does."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fgpipe import environment
from fgpipe.compose import validate
from fgpipe.config import Config
from fgpipe.doctor.checks import Check
from fgpipe.errors import ConfigError

ELSEWHERE = ("FGPIPE_PORT", "FGPIPE_GATEWAY_PORT", "FGPIPE_ADAPTERS", "FGPIPE_SERVERS")
"""Judged with the ports; set by the compose files."""


def settings(config: Config, values: Mapping[str, str], *, containers: bool) -> tuple[list[Check], Config]:
    """A check for each variable that no server or gateway would take, and the configuration with the others.

    Args:
        containers: the stack in serve/ is to run, which takes no `auto` for the number of replicas.
    """
    given = {name: value for name, value in values.items() if name not in ELSEWHERE}
    checks: list[Check] = []
    while True:
        try:
            found = validate(environment.tree(given, config))
            break
        except ConfigError as error:
            faults = [_check(line, config) for line in error.message.splitlines()]
            told = {check.change for check in checks}
            checks += [check for check, _ in faults if check.change not in told]
            wrong = {name for _, name in faults}
            if not wrong & set(given):  # against a default or a word of the command line: nothing is left to leave out
                found = config
                break
            given = {name: value for name, value in given.items() if name not in wrong}
    if containers:
        checks += _in_containers(found, given)
    return checks or [Check("settings", "ok", "every value is one that server and gateway take")], found


def _in_containers(config: Config, given: Mapping[str, str]) -> list[Check]:
    """What `python -m fgpipe serve` takes and serve/entrypoint.sh does not."""
    checks = []
    if given.get("FGPIPE_REPLICAS", config.server.replicas) == "auto":
        line = "FGPIPE_REPLICAS: got auto, expected a number in a container: gateway and Prometheus must know it too"
        checks.append(Check("settings", "fail", line, "FGPIPE_REPLICAS: a number, such as 1"))
    for variable in environment.variables(Config()):
        value = given.get(variable.name, "true")
        if variable.default in ("true", "false") and value not in ("true", "false"):
            line = f"{variable.name}: got {value!r}, expected true or false in a container"
            checks.append(Check("settings", "fail", line, f"{variable.name}: true or false"))
    return checks


def _check(line: str, config: Config) -> tuple[Check, str]:
    """The check of one fault, and the variable it is about."""
    matched = re.match(r"([a-z_.]+): (?:([a-z_]+): )?", line)
    key = ".".join(part for part in matched.groups() if part) if matched else ""
    names = {variable.key: variable.name for variable in environment.variables(config)}
    name = next((names[one] for one in (key, key.rpartition(".")[0]) if one in names), "")
    return Check("settings", "fail", line, f"{name}: another value" if name else line.partition(":")[0]), name
