"""One line of the doctor's report, and the settings it is about."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgpipe.errors import ConfigError

State = Literal["ok", "warn", "fail"]

LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and which variable to change if it is not well."""

    name: str
    state: State
    found: str
    """Never holds the value of a key or token."""
    change: str = ""
    """The variable whose line in `.env` to change, and how; empty if nothing needs to be."""


def settings(env_file: Path | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables as docker compose sees them: those of the file, and over them those of the environment.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no NAME=value; the line is not shown, only its number.
    """
    given = {name: value for name, value in (environment or os.environ).items() if value}
    return {**(read_env(env_file) if env_file is not None else {}), **given}


def read_env(path: Path) -> dict[str, str]:
    """The variables in an `.env` file: comments and quotes are taken off.

    Raises:
        ConfigError: as `settings`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "got no UTF-8 text"
        raise ConfigError(f"{path}: {reason}", hint="copy serve/.env.example to serve/.env") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        matched = LINE.fullmatch(text)
        if matched is None:
            raise ConfigError(f"{path}:{number}: got a line that is no NAME=value", hint="begin comments with #")
        found[matched[1]] = _plain(matched[2])
    return found


def _plain(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"') and len(value) > 1 and value[-1] == value[0]:
        return value[1:-1]
    return re.split(r"\s+#", value)[0].strip()
