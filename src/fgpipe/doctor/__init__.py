"""Preflight: what would keep the server or the appliance from starting, and which line of `.env` to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fgpipe import appliance
from fgpipe.config import Config
from fgpipe.doctor import access, disks, judging, machine, models
from fgpipe.doctor.checks import Check
from fgpipe.serving import gpus

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Check", "doctor", "examine"]


def doctor(config: Config, *, env_file: Path | None, as_json: bool) -> int:
    """Print every check; 2 if one failed."""
    found = examine(config, appliance.settings(env_file), containers=env_file is not None)
    if as_json:
        print(json.dumps([asdict(check) for check in found], ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        Console().print(_table(found))
    return 2 if any(check.state == "fail" for check in found) else 0


def examine(config: Config, variables: Mapping[str, str], *, containers: bool) -> list[Check]:
    """Every check, for the settings of `config` and the variables, which go before them; an empty one is none.

    Args:
        containers: the stack in serve/ is to run, so that Docker is needed.
    """
    values = {name: value for name, value in variables.items() if value}
    found_gpus, several = gpus.found_gpus(), appliance.has_several_models(values)
    judged, effective = judging.settings(config, values, containers=containers)
    server = effective.server
    folder = appliance.here(Path(values.get("FGPIPE_ADAPTERS_DIR") or config.paths.adapters).expanduser())
    wanted = values.get("FGPIPE_MODEL", "")
    served = values.get("FGPIPE_MODEL_ID") or (wanted if wanted and not wanted.startswith("/") else config.model.id)
    return [
        *machine.gpu(None if several else server, found_gpus),
        *machine.vllm(server, has_gpu=bool(found_gpus)),
        *judged,
        *disks.folders(values, adapters=folder),
        *access.ports(values, host=server.host, port=config.server.port, replicas=server.replicas),
        *access.key_checks(values, host=server.host),
        *(models.checks(values, found_gpus) if several else access.licence(config.model, values)),
        *([] if several else access.adapters(folder, served=served)),
        *machine.docker(needed=containers),
        *machine.tunnel(values),
    ]


def _table(found: list[Check]) -> Table:
    from rich.table import Table
    from rich.text import Text

    counts = {state: sum(check.state == state for check in found) for state in ("ok", "warn", "fail")}
    table = Table(caption=", ".join(f"{count} {state}" for state, count in counts.items()))
    for column in ("", "check", "found", "line of .env to change"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in found:
        table.add_row(
            Text(check.state, style=styles[check.state]), Text(check.name), Text(check.found), Text(check.change)
        )
    return table
