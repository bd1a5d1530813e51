"""The words of the command line and the functions behind them. Nothing heavy is imported before it is needed."""

from fgpipe.commands.making import MAKING
from fgpipe.commands.serving import SERVING
from fgpipe.commands.words import Command

__all__ = ["COMMANDS", "Command"]

_ORDER = (
    *("load", "format", "train", "evaluate", "validate", "shrink", "publish", "run", "fleet", "serve", "ask"),
    *("adapters", "rollback", "alias", "sync", "gateway", "plan", "tune", "download", "doctor", "config"),
)
"""As `--help` lists them."""

_FOUND = {command.name: command for command in (*MAKING, *SERVING)}

COMMANDS: dict[str, Command] = {name: _FOUND[name] for name in _ORDER}
