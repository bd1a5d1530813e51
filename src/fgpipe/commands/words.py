"""What every command of the command line is made of."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fgpipe.errors import ConfigError

if TYPE_CHECKING:
    from fgpipe.config import Config


@dataclass(frozen=True)
class Command:
    """A word of the command line, what it does, and the function behind it."""

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int]
    sections: tuple[str, ...] = ()
    """Parts of the configuration it reads; `--help` lists their keys."""
    flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def config(parsed: argparse.Namespace, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration: defaults, files, environment (None: the process's own), then the words of the command line."""
    from fgpipe.compose import compose
    from fgpipe.environment import overrides

    given = overrides(os.environ if environment is None else environment)
    try:
        return compose([*given.values(), *parsed.overrides])
    except ConfigError as error:
        wrong = [name for name, word in given.items() if word.partition("=")[0] in error.message]
        if not wrong:
            raise
        raise ConfigError(error.message, hint=f"from the environment: {', '.join(wrong)}") from error


def take_names(parsed: argparse.Namespace) -> list[str]:
    """The words that are no key=value; they leave `parsed.overrides`. A key has no slash: `sweeps/r=8` is a path."""
    names = [word for word in parsed.overrides if "=" not in word or "/" in word.partition("=")[0]]
    parsed.overrides = [word for word in parsed.overrides if word not in names]
    return names


def take_options(parsed: argparse.Namespace, keys: tuple[str, ...]) -> dict[str, str]:
    """The values of `keys`, which are the command's own and no configuration; they leave `parsed.overrides`."""
    words = [word.partition("=") for word in parsed.overrides]
    parsed.overrides = [key + separator + value for key, separator, value in words if key not in keys]
    return {key: value for key, _, value in words if key in keys}


def json_flag(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON")
