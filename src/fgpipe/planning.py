"""The command `plan`: from words, configuration and files to models and a GPU, then to the planner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fgpipe import appliance, planned_models, resources
from fgpipe.config import LINEAR_MODULES, Config
from fgpipe.environment import MODEL_VARIABLE
from fgpipe.errors import ConfigError
from fgpipe.planned_models import Planned
from fgpipe.progress import say
from fgpipe.serving import fitting, gpus, memory, plan_report, planner
from fgpipe.serving.command import installed_build
from fgpipe.serving.planner import EnginePlan, Gpu

OPTIONS = ("gpu", "gpu.memory_gib", "gpu.reserved_gib", "config", "models", "lora_modules")
"""The command's own words, which are no configuration."""

EXAMPLE = "python -m fgpipe plan gpu=rtx4090, or gpu.memory_gib=24; gpu=cpu for vLLM's CPU build"


def plan(config: Config, options: Mapping[str, str], values: Mapping[str, str], *, as_json: bool, as_env: bool) -> None:
    """Print what fits, as a table, as JSON, or as lines for an `.env` file.

    Args:
        values: the variables of `serve/.env`, or of the environment. If they choose the stack of several models, it is
            that which is planned.

    Raises:
        ConfigError: an option or file that cannot be understood.
        ServeError: it does not fit; with the arithmetic.
    """
    gpu = choose_gpu(options)
    several = "models" in options or appliance.has_several_models(values)
    if several:
        planned = _side_by_side(options, values, gpu)
        plans = [one.plan for one in planned]
    else:
        plans = [_single(config, options, gpu)]
    if as_json:
        print(json.dumps(plan_report.plan_json(plans, gpu or HOST), indent=2))
    elif as_env:
        print("\n".join(planned_models.env_lines(planned, values) if several else plan_report.single_env(plans[0])))
    else:
        from rich.console import Console

        Console().print(plan_report.render(plans, gpu or HOST))
    if not several and (hint := rank_hint(config)):
        say(hint)


def words(values: Mapping[str, str]) -> list[str]:
    """Settings of training that follow what `values` serve: a smaller server is no mistake of whoever plans it."""
    found, defaults = [], Config()
    for name, key, default in (
        ("FGPIPE_MAX_LORA_RANK", "lora.r", defaults.lora.r),
        ("FGPIPE_MAX_MODEL_LEN_TOKENS", "train.max_length_tokens", defaults.train.max_length_tokens),
    ):
        value = values.get(name, "").strip()
        if value.isascii() and value.isdigit() and int(value) < default:
            found.append(f"{key}={value}")
    return found


def on_this_machine(values: Mapping[str, str]) -> dict[str, str]:
    """`values` with the base's folder as this machine has it, not as the container sees it."""
    folder = appliance.base_folder(values.get(MODEL_VARIABLE, ""), values)
    return {**values, **({MODEL_VARIABLE: str(folder)} if folder else {})}


def _side_by_side(options: Mapping[str, str], values: Mapping[str, str], gpu: Gpu | None) -> list[Planned]:
    if gpu is None:
        raise ConfigError("models: got no GPU, expected one to share between them", hint=EXAMPLE)
    file = options.get("models")
    entries = planned_models.of_file(Path(file)) if file else planned_models.of_env(values)
    return planned_models.side_by_side(entries, gpu, token=values.get("HF_TOKEN"))


HOST = Gpu("the CPU build", 0, 0)


def choose_gpu(options: Mapping[str, str]) -> Gpu | None:
    """The GPU that `options` name, else the first one of this machine; None for vLLM's CPU build."""
    reserved = _gib(options, "gpu.reserved_gib", planner.RESERVED_BYTES)
    name = options.get("gpu")
    if name == "cpu":
        return None
    if "gpu.memory_gib" in options:
        return Gpu(name or "GPU", _gib(options, "gpu.memory_gib", 0), reserved)
    if name is not None:
        if name not in gpus.KNOWN_MIB:
            raise ConfigError(f"gpu: got {name}, expected cpu, {', '.join(gpus.KNOWN_MIB)}", hint=EXAMPLE)
        return Gpu(name, gpus.KNOWN_MIB[name] * gpus.MIB, reserved)
    if found := gpus.found_gpus():
        return Gpu(found[0].name, found[0].total_bytes, reserved)
    if installed_build() == "gpu":
        raise ConfigError("gpu: got none on this machine, expected one to plan for", hint=EXAMPLE)
    say(f"no GPU here: planned for vLLM's CPU build ({EXAMPLE})")
    return None


def _gib(options: Mapping[str, str], key: str, default: int) -> int:
    """The option `key`, given in GiB, in bytes."""
    if key not in options:
        return default
    try:
        value = float(options[key])
        if not 0 <= value < 100_000 or (key == "gpu.memory_gib" and value == 0):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{key}: got {options[key]!r}, expected a number of GiB such as 24", hint=EXAMPLE) from None
    return round(value * memory.GIB)


def _single(config: Config, options: Mapping[str, str], gpu: Gpu | None) -> EnginePlan:
    """The multi-LoRA server of the configuration, or each of its replicas."""
    server, model = config.server, config.model
    if server.replicas == "auto":
        raise ConfigError(
            "server.replicas: got auto, expected a number to plan for", hint="python -m fgpipe plan server.replicas=4"
        )
    folder = options.get("config") or model.path
    place = resources.resolve(folder) if folder else None
    planned = fitting.server_model(model, server, gpu, folder=place, lora_modules=_modules(options))
    planned = replace(planned, id=folder or model.id)
    return fitting.replica_plan(planned, server, gpu, replicas=server.replicas)


def _modules(options: Mapping[str, str]) -> tuple[str, ...] | None:
    """The layers that --lora-target-modules is to name; None if it is not given."""
    if "lora_modules" not in options:
        return None
    modules = tuple(word for word in options["lora_modules"].strip("[]").split(",") if word)
    unknown = [module for module in modules if module not in LINEAR_MODULES]
    if unknown or not modules:
        raise ConfigError(f"lora_modules: got {unknown or 'nothing'}, expected any of {', '.join(LINEAR_MODULES)}")
    return modules


def rank_hint(config: Config) -> str:
    """What a smaller --max-lora-rank would do, if adapters of lora.r need none so large; else empty."""
    smallest = memory.smallest_rank(config.lora.r)
    if smallest is None or smallest >= config.server.max_lora_rank:
        return ""
    share = smallest / config.server.max_lora_rank
    return (
        f"server.max_lora_rank={smallest} holds adapters of lora.r={config.lora.r}: slots of {share:.0%} the size, and "
        "less time for every adapter"
    )
