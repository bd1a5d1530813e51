"""The command line: `python -m fgpipe <command> [flags] key=value …`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fgpipe.errors import ConfigError, FgpipeError

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
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, such as task=sql model=tiny")
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


def _config(parsed: argparse.Namespace) -> Config:
    from fgpipe.compose import compose
    from fgpipe.environment import overrides

    given = overrides(os.environ)
    try:
        return compose([*given.values(), *parsed.overrides])
    except ConfigError as error:
        wrong = [name for name, word in given.items() if word.partition("=")[0] in error.message]
        if not wrong:
            raise
        raise ConfigError(error.message, hint=f"from the environment: {', '.join(wrong)}") from error


def _sweep(words: list[str]) -> int:
    from fgpipe import sweep

    return sweep.run(words)


def _stage(name: str) -> Callable[[argparse.Namespace], int]:
    def run(parsed: argparse.Namespace) -> int:
        from fgpipe import pipeline

        force, parity = getattr(parsed, "force", False), not getattr(parsed, "no_parity", False)
        pipeline.run_stage(name, _config(parsed), force=force, as_json=parsed.json, parity=parity)
        return 0

    return run


def _run(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.run_all(_config(parsed), force=parsed.force)
    return 0


def _take_names(parsed: argparse.Namespace) -> list[str]:
    """The words that are no key=value; they leave `parsed.overrides`. A key has no slash: `sweeps/r=8` is a path."""
    names = [word for word in parsed.overrides if "=" not in word or "/" in word.partition("=")[0]]
    parsed.overrides = [word for word in parsed.overrides if word not in names]
    return names


def _validate(parsed: argparse.Namespace) -> int:
    from fgpipe import judging

    paths = _take_names(parsed)
    if not paths and parsed.live:
        return judging.validate_live(_config(parsed), as_json=parsed.json)
    if not paths:
        return _stage("validate")(parsed)
    if len(paths) > 1:
        raise FgpipeError(f"validate: got {len(paths)} folders, expected one at most")
    return judging.validate_folder(Path(paths[0]), _config(parsed), as_json=parsed.json, live=parsed.live)


def _shrink(parsed: argparse.Namespace) -> int:
    # Matrices of this size gain nothing from a second thread, and OpenBLAS's wait for each other by spinning: on a busy
    # machine of two cores that took 114 s instead of 4 for rank 64 on all 126 modules. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from fgpipe import pipeline

    paths, options = _take_names(parsed), _take_options(parsed, ("r", "out"))
    example = "python -m fgpipe shrink PATH r=16 [out=FOLDER]"
    if len(paths) != 1:
        raise FgpipeError(f"shrink: got {len(paths)} folders, expected one", hint=example)
    rank = options.get("r", "nothing")
    if not (rank.isascii() and rank.isdigit() and len(rank) < 10):
        raise FgpipeError(f"r: got {rank}, expected a rank such as 16", hint=example)
    if options.get("out") == "":
        raise FgpipeError("out: got nothing, expected a new folder", hint=example)
    out = Path(options["out"]) if "out" in options else None
    pipeline.shrink_folder(Path(paths[0]), _config(parsed), r=int(rank), out=out, as_json=parsed.json)
    return 0


def _take_options(parsed: argparse.Namespace, keys: tuple[str, ...]) -> dict[str, str]:
    """The values of `keys`, which are the command's own and no configuration; they leave `parsed.overrides`."""
    words = [word.partition("=") for word in parsed.overrides]
    parsed.overrides = [key + separator + value for key, separator, value in words if key not in keys]
    return {key: value for key, _, value in words if key in keys}


def _print_config(parsed: argparse.Namespace) -> int:
    if parsed.markdown:
        from fgpipe import config_reference

        print(config_reference.markdown(), end="")
        return 0
    if parsed.env:
        from fgpipe.compose import compose
        from fgpipe.environment_file import example

        print(example(compose(parsed.overrides)), end="")
        return 0
    tree = _config(parsed).model_dump(mode="json")
    if parsed.json:
        import json

        print(json.dumps(tree, indent=2, ensure_ascii=False))
    else:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(OmegaConf.create(tree)), end="")
    return 0


def _config_flags(parser: argparse.ArgumentParser) -> None:
    _json_flag(parser)
    parser.add_argument("--markdown", action="store_true", help="print docs/config.md: every setting and its meaning")
    parser.add_argument("--env", action="store_true", help="print serve/.env.example: every setting as a variable")


def _serve(parsed: argparse.Namespace) -> int:
    from fgpipe import serving

    config = _config(parsed)
    serving.serve(config.model, config.server, adapters=Path(config.paths.adapters), print_only=parsed.print)
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    from fgpipe import planning

    options = _take_options(parsed, planning.OPTIONS)
    planning.plan(_config(parsed), options, as_json=parsed.json, as_env=parsed.env)
    return 0


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    _json_flag(parser)
    parser.add_argument("--env", action="store_true", help="print the settings as lines for an .env file")
    parser.epilog = (
        "Words of its own: gpu=rtx4090 (or h100, …, cpu) or gpu.memory_gib=24; gpu.reserved_gib=1 (desktop, driver); "
        "config=FOLDER (another base's config.json); models=FILE (YAML, several models on one GPU: docs/config.md); "
        "lora_modules=q_proj,v_proj (as vLLM's --lora-target-modules)."
    )


def _download(parsed: argparse.Namespace) -> int:
    from fgpipe import downloading

    requests, options = _take_names(parsed), _take_options(parsed, downloading.OPTIONS)
    if parsed.overrides:
        raise FgpipeError(f"download: got {parsed.overrides[0]}, expected {', '.join(downloading.OPTIONS)}")
    downloading.download(requests, options, as_json=parsed.json)
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from fgpipe import doctor

    return doctor.doctor(_config(parsed), env_file=parsed.env_file, as_json=parsed.json)


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    _json_flag(parser)
    parser.add_argument("--env-file", type=Path, help="the appliance's settings, serve/.env")


def _ask(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.ask(_config(parsed), question=parsed.question)
    return 0


def _adapters(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.list_adapters(_config(parsed), as_json=parsed.json)
    return 0


def _rollback(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    names = _take_names(parsed)
    if len(names) != 1:
        raise FgpipeError(
            f"rollback: got {len(names)} adapter names, expected one",
            hint="python -m fgpipe rollback sql, or rollback sql@v0002 for a given version",
        )
    pipeline.rollback(names[0], _config(parsed))
    return 0


def _alias(parsed: argparse.Namespace) -> int:
    from fgpipe import releasing

    words = _take_names(parsed)
    if len(words) != (1 if parsed.remove else 2) or "@" not in words[0]:
        raise FgpipeError(
            f"alias: got {' '.join(words) or 'nothing'}, expected an alias and the version it shall mean",
            hint="python -m fgpipe alias sql@best v0002, or alias sql@best --remove",
        )
    releasing.set_alias(_config(parsed), words[0], None if parsed.remove else words[1])
    print(f"{words[0]}: forgotten" if parsed.remove else f"{words[0]}: {words[1]}")
    return 0


def _alias_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="forget the alias")


def _sync(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    if parsed.watch and parsed.json:
        raise FgpipeError("sync: got --watch and --json, expected one of them", hint="--json reports once")
    return pipeline.sync(_config(parsed), watch=parsed.watch, as_json=parsed.json, metrics=parsed.metrics)


def _gateway(parsed: argparse.Namespace) -> int:
    from fgpipe import fronting

    fronting.run(_config(parsed))
    return 0


def _sync_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="go on until interrupted, and say what changed")
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="also write how it went, in Prometheus' text format"
    )
    _json_flag(parser)


def _stage_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="run the stage even if nothing it depends on has changed")
    parser.add_argument("--json", action="store_true", help="print the artefact's figures as JSON")


def _validate_flags(parser: argparse.ArgumentParser) -> None:
    _stage_flags(parser)
    parser.add_argument("--live", action="store_true", help="also let a vLLM of its own answer with it, and compare")


def _publish_flags(parser: argparse.ArgumentParser) -> None:
    _json_flag(parser)
    parser.add_argument("--no-parity", action="store_true", help="do not compare it with a running server's answers")


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _force_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="run every stage even if nothing changed")


def _print_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print", action="store_true", help="show vLLM's command and environment, and start nothing")


def _question_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", help="what to ask; without it, a held-out question of the task")


_DATA = ("task", "model", "train.max_length_tokens", "paths", "seed")
_SERVERS = ("paths", "publish", "server.host", "server.port")
_ALL = ("task", "model", "lora", "train", "evaluate", "server", "publish", "gateway", "paths", "seed")

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "load", "read a dataset, check every row, split it", _stage("load"), ("task", "paths", "seed"), _stage_flags
        ),
        Command("format", "render rows for FunctionGemma, with loss mask", _stage("format"), _DATA, _stage_flags),
        Command(
            "train",
            "fit the LoRA adapter",
            _stage("train"),
            (*_DATA[:2], "lora", "train", "paths", "seed"),
            _stage_flags,
        ),
        Command("evaluate", "score base and adapter on held-out rows", _stage("evaluate"), ("evaluate",), _stage_flags),
        Command(
            "validate", "check an adapter [folder] for the server", _validate, ("server", "publish"), _validate_flags
        ),
        Command(
            "shrink",
            "copy an adapter [folder] at a lower rank: r=16 [out=FOLDER]",
            _shrink,
            ("model", "server.max_lora_rank"),
            _json_flag,
        ),
        Command(
            "publish", "put the adapter where the server reads it", _stage("publish"), ("publish",), _publish_flags
        ),
        Command("run", "all stages, then a question answered by vLLM", _run, _ALL, _force_flag),
        Command("serve", "start vLLM with every published adapter", _serve, ("model", "server", "paths"), _print_flag),
        Command(
            "plan",
            "what fits on a GPU [gpu.memory_gib=24]: slots, KV cache, several models",
            _plan,
            ("model", "server", "lora.r"),
            _plan_flags,
        ),
        Command(
            "download",
            "fetch models from the hub: ID[@COMMIT] … to=FOLDER [link=true]",
            _download,
            flags=_json_flag,
        ),
        Command(
            "doctor",
            "check machine, folders, ports, keys and adapters before serving",
            _doctor,
            ("model", "server", "paths.adapters"),
            _doctor_flags,
        ),
        Command("ask", "ask the published adapter a question through vLLM", _ask, ("task", "server"), _question_flag),
        Command("adapters", "list published adapters, versions and scores", _adapters, ("paths",), _json_flag),
        Command("rollback", "make an adapter's previous [or a given] version live", _rollback, _SERVERS),
        Command("alias", "let name@alias mean a version: sql@best v0002", _alias, _SERVERS, _alias_flags),
        Command("sync", "bring running servers in step with the adapters folder", _sync, _SERVERS, _sync_flags),
        Command(
            "gateway",
            "start the gateway: one address in front of the servers",
            _gateway,
            ("gateway", "paths.adapters", "server.host", "server.port"),
        ),
        Command("config", "print the resolved configuration", _print_config, _ALL, _config_flags),
    )
}
