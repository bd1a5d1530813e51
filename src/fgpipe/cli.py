"""The command line: `python -m fgpipe <command> [flags] key=value …`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fgpipe.commands import COMMANDS, Command
from fgpipe.errors import FgpipeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    # GNU OpenMP's idle threads spin for milliseconds, which all but stops torch on a shared CPU; sleeping at once costs
    # a third of its speed on a free one. This many spins are tens of microseconds: enough to bridge two operations.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "-m" in words or "--multirun" in words:
        return _guarded(lambda: _sweep([word for word in words if word not in ("-m", "--multirun")]))
    parser, parsers = _parsers()
    if not words or words[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    if not words[0].startswith("-") and words[0] not in parsers:
        return _guarded(lambda: _unknown(words[0]))
    if words[0] in parsers and ("-h" in words or "--help" in words):
        return _guarded(lambda: _help(COMMANDS[words[0]], parsers[words[0]]))
    parsed, rest = parser.parse_known_args(words)
    for word in rest:  # argparse gives up on values after a flag; only an unknown flag is a mistake
        if word.startswith("-"):
            parser.error(f"{word}: got an unknown flag; see python -m fgpipe {parsed.command} --help")
        parsed.overrides.append(word)
    return _guarded(lambda: COMMANDS[parsed.command].run(parsed))


def _guarded(action: Callable[[], int]) -> int:
    try:
        return action()
    except FgpipeError as error:
        print(f"fgpipe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgpipe: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def _unknown(word: str) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    raise FgpipeError(
        f"command: got {word!r}, expected one of: {', '.join(COMMANDS)}",
        hint=f"did you mean {near[0]}?" if near else "python -m fgpipe --help says what each does",
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fgpipe: {message}\n")


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="python -m fgpipe",
        description="Train function-calling LoRA adapters on FunctionGemma and serve them all from one vLLM server.",
        epilog="key=value words set the configuration: task=sql model=tiny lora.r=8. "
        "`python -m fgpipe <command> --help` lists a command's keys; -m runs a command over value lists: lora.r=8,16.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    parsers: dict[str, _Parser] = {}
    for command in COMMANDS.values():
        sub = commands.add_parser(command.name, help=command.summary, description=command.summary, add_help=False)
        sub.add_argument("-h", "--help", action="store_true", help="show this help and the configuration keys")
        command.flags(sub)
        what = re.search(r"\[(\w+)\]", command.summary)  # a file or folder that it takes as well
        words = f"{what[1].upper()} key=value" if what else "key=value"
        sub.add_argument("overrides", nargs="*", metavar=words, help="configuration, such as task=sql model=tiny")
        parsers[command.name] = sub
    return parser, parsers


def _help(command: Command, parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    if command.sections:
        from fgpipe.config import Config, keys

        print("\nconfiguration (default):")
        for key, default, description in keys(Config, command.sections):
            print(f"  {key}={default}" + (f"\n      {description}" if description else ""))
    return 0


def _sweep(words: list[str]) -> int:
    from fgpipe import sweep

    return sweep.run(words)
