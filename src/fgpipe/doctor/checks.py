"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and which variable to change if it is not well."""

    name: str
    state: State
    found: str
    """Never holds the value of a key or token."""
    change: str = ""
    """The variable whose line in `.env` to change, and how; empty if nothing needs to be."""
