"""The command `plan`: from words, configuration and files to models and a GPU, then to the planner."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fgpipe import resources
from fgpipe.compose import read_yaml
from fgpipe.config import LINEAR_MODULES, Config, Name, Section
from fgpipe.errors import ConfigError
from fgpipe.progress import say
from fgpipe.serving import fitting, gpus, memory, plan_report, planner, shapes
from fgpipe.serving.command import installed_build
from fgpipe.serving.planner import EnginePlan, Gpu, Model

OPTIONS = ("gpu", "gpu.memory_gib", "gpu.reserved_gib", "config", "models", "lora_modules")
"""The command's own words, which are no configuration."""

EXAMPLE = "python -m fgpipe plan gpu=rtx4090, or gpu.memory_gib=24; gpu=cpu for vLLM's CPU build"


class PlannedModel(Section):
    """One model that is to share a GPU with others; `python -m fgpipe plan models=FILE --env` writes the settings."""

    name: Name = Field(description="short name, in tables")
    config: str = Field(description="the model's config.json, or the folder that holds it")
    id: str | None = Field(
        default=None,
        description="what vLLM loads: a hub id, or the folder as its container sees it; null: that of `config`",
    )
    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="of weights and KV cache")
    quantization: Literal["none", "fp8", "int8", "int4"] | None = Field(
        default=None, description="of the linear layers' weights; null: what config.json says"
    )
    max_model_len_tokens: int = Field(default=4096, ge=64, description="longest prompt plus answer")
    max_num_seqs: int = Field(default=64, ge=1, description="sequences decoded together")
    max_num_batched_tokens: int | None = Field(default=None, ge=64, description="tokens a step; null: vLLM's choice")
    max_loras: int = Field(default=0, ge=0, description="adapter slots; 0: LoRA is off")
    max_lora_rank: int = Field(default=16, ge=1, description="largest rank served")
    enforce_eager: bool = Field(default=False, description="no CUDA graphs")
    priority: float = Field(default=1, gt=0, description="weight when memory beyond the least is shared out")
    port: int | None = Field(default=None, ge=1, le=65535, description="null: 8001 and on, in start order")


def plan(config: Config, options: Mapping[str, str], *, as_json: bool, as_env: bool) -> None:
    """Print what fits, as a table, as JSON, or as lines for an `.env` file.

    Raises:
        ConfigError: an option or file that cannot be understood.
        ServeError: it does not fit; with the arithmetic.
    """
    gpu = choose_gpu(options)
    if "models" in options:
        plans = _side_by_side(Path(options["models"]), gpu)
        env = plan_report.shared_env(plans)
        if len(plans) > 3:
            say(f"serve/compose.multimodel.yaml has three models; {len(plans)} need further services in it")
    else:
        plans = [_single(config, options, gpu)]
        env = plan_report.single_env(plans[0])
    if as_json:
        print(json.dumps(plan_report.plan_json(plans, gpu or HOST), indent=2))
    elif as_env:
        print("\n".join(env))
    else:
        from rich.console import Console

        Console().print(plan_report.render(plans, gpu or HOST))
    if "models" not in options and (hint := rank_hint(config)):
        say(hint)


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


def _side_by_side(path: Path, gpu: Gpu | None) -> list[EnginePlan]:
    if gpu is None:
        raise ConfigError("models: got no GPU, expected one to share between them", hint=EXAMPLE)
    models = [_model(entry, gpu, file=path) for entry in read_models(path)]
    plans = planner.share_gpu(models, gpu)
    ports = plan_report.with_ports([plan.model for plan in plans])
    return [replace(plan, model=replace(plan.model, port=ports[plan.model.name])) for plan in plans]


def _model(entry: PlannedModel, gpu: Gpu, *, file: Path) -> Model:
    where = Path(entry.config).expanduser()
    where = where if where.is_absolute() else file.parent / where
    shape = shapes.read_shape(where, quantization=entry.quantization)
    default = memory.batched_tokens(
        max_num_seqs=entry.max_num_seqs,
        max_model_len_tokens=entry.max_model_len_tokens,
        chunked_prefill=True,
        total_bytes=gpu.total_bytes,
        gpu_name=gpu.name,
    )
    settings = memory.EngineSettings(
        max_model_len_tokens=entry.max_model_len_tokens,
        max_num_seqs=entry.max_num_seqs,
        max_num_batched_tokens=entry.max_num_batched_tokens or default,
        element_bytes=fitting.ELEMENT_BYTES[entry.dtype],
        max_loras=entry.max_loras,
        max_lora_rank=entry.max_lora_rank,
        eager=entry.enforce_eager,
    )
    folder = where if where.is_dir() else where.parent
    return Model(entry.name, entry.id or str(folder), shape, settings, entry.priority, entry.port)


def read_models(path: Path) -> list[PlannedModel]:
    """The entries of a models file, `models: [{name, config, …}]`.

    Raises:
        ConfigError: it cannot be read; every fault in it, a line each.
    """
    tree = read_yaml(path, expected="a list under `models:`")
    entries = tree.get("models") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= len(string.ascii_uppercase):
        raise ConfigError(
            f"{path}: got no list of models, expected 1 to 26 under `models:`",
            hint="models: [{name: chat, config: /models/chat, max_model_len_tokens: 8192, max_num_seqs: 16}]",
        )
    models, faults = [], []
    for place, entry in enumerate(entries):
        try:
            models.append(PlannedModel.model_validate(entry))
        except ValidationError as error:
            faults += [_fault(place, fault) for fault in error.errors()]
    names, ports = [model.name for model in models], [model.port for model in models if model.port]
    faults += [f"name: got {name} twice, expected each once" for name in sorted(_twice(names))]
    faults += [f"port: got {port} twice, expected each once" for port in sorted(_twice(ports))]
    if faults:
        known = ", ".join(PlannedModel.model_fields)
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults), hint=f"a model has {known}")
    return models


def _fault(place: int, fault: Any) -> str:
    path = ".".join(["models", str(place), *map(str, fault["loc"])])
    return f"{path}: got {fault['input']!r:.60}, {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _twice(values: Sequence[Any]) -> set[Any]:
    return {value for value in values if values.count(value) > 1}


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
