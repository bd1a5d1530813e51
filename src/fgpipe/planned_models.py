"""Several full models on one GPU: as a file or `serve/.env` names them, planned, and as lines for that `.env`."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fgpipe import appliance
from fgpipe.compose import read_yaml
from fgpipe.config import Name, Section
from fgpipe.environment_file import MODEL_LENGTH_TOKENS, MODEL_PORTS, MODEL_SEQUENCES
from fgpipe.errors import ConfigError
from fgpipe.models.hub_config import read_config
from fgpipe.serving import fitting, memory, plan_report, planner, shapes
from fgpipe.serving.planner import EnginePlan, Gpu, Model
from fgpipe.serving.shapes import BaseShape

ADDRESS = "http://127.0.0.1:{}"


class PlannedModel(Section):
    """One model that is to share a GPU with others; `python -m fgpipe plan models=FILE --env` writes the settings."""

    name: Name = Field(description="short name, in tables")
    config: str | None = Field(
        default=None, description="the model's config.json, or the folder that holds it; null: that of `id` on the hub"
    )
    id: str | None = Field(
        default=None,
        description="what vLLM loads: a hub id, or the folder as its container sees it; null: /models/ and the name of "
        "the folder of `config`",
    )
    revision: str | None = Field(default=None, description="commit of a hub model")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="of weights and KV cache; auto: vLLM's choice, of two bytes"
    )
    quantization: Literal["none", "fp8", "int8", "int4"] | None = Field(
        default=None,
        description="of the linear layers' weights, where config.json names a scheme that plan does not know",
    )
    max_model_len_tokens: int = Field(default=4096, ge=64, description="longest prompt plus answer")
    max_num_seqs: int = Field(default=64, ge=1, description="sequences decoded together")
    max_num_batched_tokens: int | None = Field(default=None, ge=64, description="tokens a step; null: vLLM's choice")
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of the whole GPU; null: planned"
    )
    enforce_eager: bool = Field(default=False, description="no CUDA graphs")
    tool_parser: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="vLLM's --tool-call-parser, such as hermes; null: no tools",
    )
    priority: float = Field(default=1, gt=0, description="weight when memory beyond the least is shared out")
    port: int | None = Field(default=None, ge=1, le=65535, description="null: 8001 and on, in start order")

    @model_validator(mode="after")
    def _says_what(self) -> PlannedModel:
        if self.config is None and self.id is None:
            raise ValueError("got neither config nor id, expected one of them")
        return self

    @property
    def loaded(self) -> str:
        """What vLLM loads, as its container sees it."""
        if self.id is not None or self.config is None:
            return str(self.id)
        place = Path(self.config).expanduser().resolve()
        return f"/models/{place.parent.name if place.suffix == '.json' else place.name}"


VARIABLES = (
    *("id", "revision", "port", "gpu_memory_utilization", "max_model_len_tokens", "max_num_seqs"),
    *("max_num_batched_tokens", "dtype", "enforce_eager", "tool_parser"),
)
"""What of a model is a variable, `MODEL_A_…`, that reaches vLLM through serve/model.sh."""


@dataclass(frozen=True)
class Planned:
    """One model, and what it gets."""

    entry: PlannedModel
    plan: EnginePlan


def of_file(path: Path) -> list[PlannedModel]:
    """The entries of a models file, `models: [{name, config, …}]`; folders are relative to the file's.

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
            model = PlannedModel.model_validate(entry)
            models.append(model.model_copy(update={"config": _beside(path, model.config)}))
        except ValidationError as error:
            faults += [_fault(".".join(["models", str(place), *map(str, one["loc"])]), one) for one in error.errors()]
    faults += [f"name: got {name} twice, expected each once" for name in _twice([model.name for model in models])]
    faults += _same_ports(models)
    if faults:
        known = ", ".join(PlannedModel.model_fields)
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults), hint=f"a model has {known}")
    return models


def of_env(values: Mapping[str, str]) -> list[PlannedModel]:
    """The models that the variables `MODEL_A_…`, `MODEL_B_…` and, if it has an id, `MODEL_C_…` name.

    Raises:
        ConfigError: every variable that is wrong, a line each.
    """
    models, faults = [], []
    for letter, port in MODEL_PORTS.items():
        found = {field: values.get(f"MODEL_{letter}_{field.upper()}", "").strip() for field in VARIABLES}
        if not found["id"]:
            if letter != "C":
                faults.append(f"MODEL_{letter}_ID: got nothing, expected a hub id or a folder such as /models/NAME")
            continue
        sizes = {"max_model_len_tokens": MODEL_LENGTH_TOKENS, "max_num_seqs": MODEL_SEQUENCES, "port": port}
        given = sizes | {field: value for field, value in found.items() if value}
        folder = appliance.base_folder(found["id"], values) or _cached(found["id"], found["revision"], values)
        try:
            name = f"model-{letter.lower()}"
            models.append(PlannedModel.model_validate({**given, "name": name, "config": folder and str(folder)}))
        except ValidationError as error:
            faults += [
                _fault(f"MODEL_{letter}_{'_'.join(map(str, one['loc'])).upper()}", one) for one in error.errors()
            ]
    faults += _same_ports(models)
    if faults:
        raise ConfigError("\n".join(faults), hint="the part 'Several full models' of serve/.env")
    return models


def _beside(file: Path, config: str | None) -> str | None:
    return None if config is None else str(file.parent / Path(config).expanduser())


def _cached(hub_id: str, revision: str, values: Mapping[str, str]) -> Path | None:
    """The commit of the hub's cache that has the model's config.json; None if none has."""
    folders = [folder for folder in appliance.cached_snapshots(hub_id, values) if (folder / "config.json").is_file()]
    return next((folder for folder in folders if folder.name == revision or not revision), None)


def _fault(where: str, fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if message.startswith("got ") else f"got {fault['input']!r:.60}, "
    return f"{where}: {got}{message[:1].lower()}{message[1:]}"


def _same_ports(models: Sequence[PlannedModel]) -> list[str]:
    ports = _twice([model.port for model in models if model.port])
    return [f"port: got {port} twice, expected each once" for port in ports]


def _twice(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if values.count(value) > 1})


def side_by_side(entries: Sequence[PlannedModel], gpu: Gpu, *, token: str | None = None) -> list[Planned]:
    """A share of `gpu` for each of `entries`, in start order.

    Args:
        token: for the hub, which is asked for a config.json that is not here.

    Raises:
        ConfigError: a base that cannot be planned.
        ModelError: the hub does not give its config.json.
        ServeError: they do not fit; with the arithmetic.
    """
    models = [_model(entry, _shape(entry, token), gpu) for entry in entries]
    plans = planner.share_gpu(models, gpu)
    ports = plan_report.with_ports([plan.model for plan in plans])
    by_name = {entry.name: entry for entry in entries}
    return [
        Planned(by_name[plan.model.name], replace(plan, model=replace(plan.model, port=ports[plan.model.name])))
        for plan in plans
    ]


def _shape(entry: PlannedModel, token: str | None) -> BaseShape:
    if entry.config is not None:
        content, where = shapes.read_file(Path(entry.config))
    else:
        content, where = read_config(str(entry.id), entry.revision, token=token), f"config.json of {entry.id}"
    stated, says_so = entry.quantization, content.get("quantization_config")
    if stated is not None and (stated == "none") != (not says_so):
        raise ConfigError(
            f"{entry.name}: quantization: got {stated}, expected what {where} says, as vLLM loads by that",
            hint="config: the folder of a quantised copy" if stated != "none" else "leave it out",
        )
    return shapes.shape_of(content, where=where, quantization=stated)


def _model(entry: PlannedModel, shape: BaseShape, gpu: Gpu) -> Model:
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
        element_bytes=fitting.ELEMENT_BYTES.get(entry.dtype, 2),
        eager=entry.enforce_eager,
    )
    share = entry.gpu_memory_utilization
    shares = None if share is None else max(1, ceil(share * planner.SHARES - 1e-6))
    return Model(entry.name, entry.loaded, shape, settings, entry.priority, entry.port, shares)


def env_lines(planned: Sequence[Planned], values: Mapping[str, str]) -> list[str]:
    """Lines for `.env` that start and route all of `planned`; MODEL_A starts first.

    Args:
        values: what `.env` says now; monitoring stays as it is.

    Raises:
        ConfigError: compose.multimodel.yaml has no place for so many.
    """
    if not 2 <= len(planned) <= len(MODEL_PORTS):
        raise ConfigError(
            f"models: got {len(planned)}, expected 2 or {len(MODEL_PORTS)} for {appliance.SEVERAL_MODELS}",
            hint="without --env, plan tells what any number of models takes",
        )
    with_third = len(planned) == len(MODEL_PORTS)
    others = [file for file in appliance.compose_files(values) if file == "compose.monitoring.yaml"]
    profiles = [word for word in values.get("COMPOSE_PROFILES", "").split(",") if word not in ("", "three")]
    lines = [
        "",  # ends the last line of an .env that lacks its end, when these are appended
        f"COMPOSE_FILE={(values.get('COMPOSE_PATH_SEPARATOR') or ':').join([appliance.SEVERAL_MODELS, *others])}",
        f"COMPOSE_PROFILES={','.join([*profiles, *['three'] * with_third])}",
        f"MODEL_C_UPSTREAM={third_upstream(planned[-1].plan.model.port) if with_third else ''}",
    ]
    for letter, one in zip(MODEL_PORTS, planned, strict=False):
        lines += [f"# {one.plan.model.id}", *(f"MODEL_{letter}_{name}={value}" for name, value in _variables(one))]
    return lines


def third_upstream(port: int | None) -> str:
    """What MODEL_C_UPSTREAM must be for the gateway to ask the third model."""
    return f",{ADDRESS.format(port)}"


def _variables(one: Planned) -> list[tuple[str, str]]:
    found: dict[str, Any] = {field: getattr(one.entry, field) for field in VARIABLES}
    settings = one.plan.model.settings
    found |= {"id": one.plan.model.id, "port": one.plan.model.port}
    found |= {"gpu_memory_utilization": f"{one.plan.utilization:.3f}"}
    found |= {"max_num_batched_tokens": settings.max_num_batched_tokens}
    found |= {"enforce_eager": str(one.entry.enforce_eager).lower()}
    return [(field.upper(), "" if found[field] is None else str(found[field])) for field in VARIABLES]
