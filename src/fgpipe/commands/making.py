"""The commands from rows to a published version, and those that look at one adapter."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from fgpipe.commands.words import Command, config, json_flag, take_names, take_options
from fgpipe.errors import FgpipeError

_DATA = ("task", "model", "train.max_length_tokens", "paths", "seed")
_ALL = ("task", "model", "lora", "train", "evaluate", "server", "publish", "gateway", "paths", "seed")


def _stage(name: str) -> Callable[[argparse.Namespace], int]:
    def run(parsed: argparse.Namespace) -> int:
        from fgpipe import pipeline

        force, parity = getattr(parsed, "force", False), not getattr(parsed, "no_parity", False)
        pipeline.run_stage(name, config(parsed), force=force, as_json=parsed.json, parity=parity)
        return 0

    return run


def _run(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.run_all(config(parsed), force=parsed.force)
    return 0


def _fleet(parsed: argparse.Namespace) -> int:
    from fgpipe import fleet

    files = take_names(parsed)
    if len(files) != 1:
        raise FgpipeError(
            f"fleet: got {len(files)} files, expected one", hint="python -m fgpipe fleet adapters.yaml [key=value …]"
        )
    return fleet.fleet(
        Path(files[0]),
        parsed.overrides,
        evaluate=parsed.evaluate,
        parity=not parsed.no_parity,
        force=parsed.force,
        as_json=parsed.json,
    )


def _validate(parsed: argparse.Namespace) -> int:
    from fgpipe import judging

    paths = take_names(parsed)
    if not paths and parsed.live:
        return judging.validate_live(config(parsed), as_json=parsed.json)
    if not paths:
        return _stage("validate")(parsed)
    if len(paths) > 1:
        raise FgpipeError(f"validate: got {len(paths)} folders, expected one at most")
    return judging.validate_folder(Path(paths[0]), config(parsed), as_json=parsed.json, live=parsed.live)


def _shrink(parsed: argparse.Namespace) -> int:
    # Matrices of this size gain nothing from a second thread, and OpenBLAS's wait for each other by spinning: on a busy
    # machine of two cores that took 114 s instead of 4 for rank 64 on all 126 modules. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from fgpipe import pipeline

    paths, options = take_names(parsed), take_options(parsed, ("r", "out"))
    example = "python -m fgpipe shrink PATH r=16 [out=FOLDER]"
    if len(paths) != 1:
        raise FgpipeError(f"shrink: got {len(paths)} folders, expected one", hint=example)
    rank = options.get("r", "nothing")
    if not (rank.isascii() and rank.isdigit() and len(rank) < 10):
        raise FgpipeError(f"r: got {rank}, expected a rank such as 16", hint=example)
    if options.get("out") == "":
        raise FgpipeError("out: got nothing, expected a new folder", hint=example)
    out = Path(options["out"]) if "out" in options else None
    pipeline.shrink_folder(Path(paths[0]), config(parsed), r=int(rank), out=out, as_json=parsed.json)
    return 0


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
    tree = config(parsed).model_dump(mode="json")
    if parsed.json:
        import json

        print(json.dumps(tree, indent=2, ensure_ascii=False))
    else:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(OmegaConf.create(tree)), end="")
    return 0


def _config_flags(parser: argparse.ArgumentParser) -> None:
    json_flag(parser)
    parser.add_argument("--markdown", action="store_true", help="print docs/config.md: every setting and its meaning")
    parser.add_argument("--env", action="store_true", help="print serve/.env.example: every setting as a variable")


def _ask(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.ask(config(parsed), question=parsed.question)
    return 0


def _stage_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="run the stage even if nothing it depends on has changed")
    parser.add_argument("--json", action="store_true", help="print the artefact's figures as JSON")


def _validate_flags(parser: argparse.ArgumentParser) -> None:
    _stage_flags(parser)
    parser.add_argument("--live", action="store_true", help="also let a vLLM of its own answer with it, and compare")


def _publish_flags(parser: argparse.ArgumentParser) -> None:
    json_flag(parser)
    parser.add_argument("--no-parity", action="store_true", help="do not compare it with a running server's answers")


def _force_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="run every stage even if nothing changed")


def _fleet_flags(parser: argparse.ArgumentParser) -> None:
    _publish_flags(parser)
    parser.add_argument("--evaluate", action="store_true", help="score each adapter on its held-out rows as well")
    parser.add_argument("--force", action="store_true", help="train also what is up to date")


def _question_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", help="what to ask; without it, a held-out question of the task")


MAKING = (
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
    Command("validate", "check an adapter [folder] for the server", _validate, ("server", "publish"), _validate_flags),
    Command(
        "shrink",
        "copy an adapter [folder] at a lower rank: r=16 [out=FOLDER]",
        _shrink,
        ("model", "server.max_lora_rank"),
        json_flag,
    ),
    Command("publish", "put the adapter where the server reads it", _stage("publish"), ("publish",), _publish_flags),
    Command("fleet", "train and publish the adapters of a [file] together", _fleet, _ALL, _fleet_flags),
    Command("run", "all stages, then a question answered by vLLM", _run, _ALL, _force_flag),
    Command("ask", "ask the published adapter a question through vLLM", _ask, ("task", "server"), _question_flag),
    Command("config", "print the resolved configuration", _print_config, _ALL, _config_flags),
)
