"""The commands around servers: what runs, what is published, what fits."""

from __future__ import annotations

import argparse
from pathlib import Path

from fgpipe.commands.words import Command, config, json_flag, take_names, take_options
from fgpipe.errors import FgpipeError

_SERVERS = ("paths", "publish", "server.host", "server.port")


def _serve(parsed: argparse.Namespace) -> int:
    settings = config(parsed)
    if settings.server.replicas != 1:
        from fgpipe import replicating

        replicating.serve(settings, print_only=parsed.print)
        return 0
    from fgpipe import serving

    serving.serve(settings.model, settings.server, adapters=Path(settings.paths.adapters), print_only=parsed.print)
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    from fgpipe import appliance, planning

    options, values = take_options(parsed, planning.OPTIONS), appliance.settings(parsed.env_file)
    parsed.overrides = [*planning.words(values), *parsed.overrides]
    found = config(parsed, planning.on_this_machine(values))
    planning.plan(found, options, values, as_json=parsed.json, as_env=parsed.env)
    return 0


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    json_flag(parser)
    parser.add_argument("--env", action="store_true", help="print the settings as lines for an .env file")
    _env_file_flag(parser)
    parser.epilog = (
        "Words of its own: gpu=rtx4090 (or h100, …, cpu) or gpu.memory_gib=24; gpu.reserved_gib=1 (desktop, driver); "
        "config=FOLDER (another base's config.json); models=FILE (YAML, several models on one GPU: docs/config.md); "
        "lora_modules=q_proj,v_proj (as vLLM's --lora-target-modules)."
    )


def _tune(parsed: argparse.Namespace) -> int:
    from fgpipe import tuning

    tuning.tune(config(parsed), limit_s=parsed.limit_s, as_json=parsed.json)
    return 0


def _tune_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit-s", type=float, default=900.0, metavar="SECONDS", help="end within this time (900)")
    json_flag(parser)


def _download(parsed: argparse.Namespace) -> int:
    from fgpipe import downloading

    requests, options = take_names(parsed), take_options(parsed, downloading.OPTIONS)
    if parsed.overrides:
        raise FgpipeError(f"download: got {parsed.overrides[0]}, expected {', '.join(downloading.OPTIONS)}")
    downloading.download(requests, options, as_json=parsed.json)
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from fgpipe import doctor

    return doctor.doctor(config(parsed), env_file=parsed.env_file, as_json=parsed.json)


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    json_flag(parser)
    _env_file_flag(parser)


def _env_file_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="the appliance's settings, serve/.env")


def _adapters(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    pipeline.list_adapters(config(parsed), as_json=parsed.json)
    return 0


def _rollback(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    names = take_names(parsed)
    if len(names) != 1:
        raise FgpipeError(
            f"rollback: got {len(names)} adapter names, expected one",
            hint="python -m fgpipe rollback sql, or rollback sql@v0002 for a given version",
        )
    pipeline.rollback(names[0], config(parsed))
    return 0


def _alias(parsed: argparse.Namespace) -> int:
    from fgpipe import releasing

    words = take_names(parsed)
    if len(words) != (1 if parsed.remove else 2) or "@" not in words[0]:
        raise FgpipeError(
            f"alias: got {' '.join(words) or 'nothing'}, expected an alias and the version it shall mean",
            hint="python -m fgpipe alias sql@best v0002, or alias sql@best --remove",
        )
    releasing.set_alias(config(parsed), words[0], None if parsed.remove else words[1])
    print(f"{words[0]}: forgotten" if parsed.remove else f"{words[0]}: {words[1]}")
    return 0


def _alias_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="forget the alias")


def _sync(parsed: argparse.Namespace) -> int:
    from fgpipe import pipeline

    if parsed.watch and parsed.json:
        raise FgpipeError("sync: got --watch and --json, expected one of them", hint="--json reports once")
    return pipeline.sync(config(parsed), watch=parsed.watch, as_json=parsed.json, metrics=parsed.metrics)


def _gateway(parsed: argparse.Namespace) -> int:
    from fgpipe import fronting

    fronting.run(config(parsed))
    return 0


def _sync_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="go on until interrupted, and say what changed")
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="also write how it went, in Prometheus' text format"
    )
    json_flag(parser)


def _print_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print", action="store_true", help="show vLLM's command and environment, and start nothing")


SERVING = (
    Command(
        "serve",
        "start vLLM with every published adapter [server.replicas=4: several, behind the gateway]",
        _serve,
        ("model", "server", "gateway", "paths"),
        _print_flag,
    ),
    Command(
        "plan",
        "what fits on a GPU [gpu.memory_gib=24]: slots, KV cache, several models",
        _plan,
        ("model", "server", "lora.r"),
        _plan_flags,
    ),
    Command(
        "tune",
        "measure LoRA kernel settings for this GPU, base, rank and slots",
        _tune,
        ("model", "server.max_loras", "server.max_lora_rank", "server.tuned_kernels"),
        _tune_flags,
    ),
    Command(
        "download",
        "fetch models from the hub: ID[@COMMIT] … to=FOLDER [link=true]",
        _download,
        flags=json_flag,
    ),
    Command(
        "doctor",
        "check machine, folders, ports, keys and adapters before serving",
        _doctor,
        ("model", "server", "paths.adapters"),
        _doctor_flags,
    ),
    Command("adapters", "list published adapters, versions and scores", _adapters, ("paths",), json_flag),
    Command("rollback", "make an adapter's previous [or a given] version live", _rollback, _SERVERS),
    Command("alias", "let name@alias mean a version: sql@best v0002", _alias, _SERVERS, _alias_flags),
    Command("sync", "bring running servers in step with the adapters folder", _sync, _SERVERS, _sync_flags),
    Command(
        "gateway",
        "start the gateway: one address in front of the servers",
        _gateway,
        ("gateway", "paths.adapters", "server.host", "server.port"),
    ),
)
