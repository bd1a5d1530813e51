"""Checks of the stack of several full models: whether they are named, can be had, are routed, and fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fgpipe import planned_models
from fgpipe.doctor import access
from fgpipe.doctor.checks import Check
from fgpipe.errors import ConfigError, FgpipeError
from fgpipe.models.hub_config import HubRefusalError
from fgpipe.planned_models import PlannedModel
from fgpipe.serving.gpus import FoundGpu
from fgpipe.serving.planner import Gpu

WRITE = "python -m fgpipe plan --env-file serve/.env --env writes it"


def checks(values: Mapping[str, str], found: Sequence[FoundGpu]) -> list[Check]:
    """Every check of the models that `MODEL_A_…` and those after it name."""
    try:
        entries = planned_models.of_env(values)
    except ConfigError as error:
        return [_fault(line) for line in error.message.splitlines()]
    checks = []
    for entry in entries:
        prefix = _prefix(entry)
        checks.append(access.port_check(entry.name, f"{prefix}PORT", "127.0.0.1", str(entry.port)))
        name = f"{entry.name} base"
        checks.append(access.base_model(entry.loaded, entry.revision, values, variables=prefix.rstrip("_"), name=name))
        if entry.gpu_memory_utilization is None:
            checks.append(Check(entry.name, "fail", "no share of the GPU", f"{prefix}GPU_MEMORY_UTILIZATION: {WRITE}"))
    return [*checks, *_third(entries, values), *_fit(entries, values, found)]


def _prefix(entry: PlannedModel) -> str:
    return f"{entry.name.upper().replace('-', '_')}_"


def _fault(line: str) -> Check:
    name, _, fault = line.partition(": ")
    return Check("models", "fail", f"{name}: {fault}", f"{name}: another value")


def _third(entries: Sequence[PlannedModel], values: Mapping[str, str]) -> list[Check]:
    """Whether the third model is started and asked if there is one, and neither if there is none."""
    third = entries[2] if len(entries) > 2 else None
    starts = "three" in values.get("COMPOSE_PROFILES", "").split(",")
    wanted = planned_models.third_upstream(third.port) if third else ""
    found = []
    if third and not starts:
        found.append(Check("model-c", "fail", "MODEL_C_ID is set, but nothing starts it", "COMPOSE_PROFILES=three"))
    if starts and not third:
        found.append(
            Check("model-c", "fail", "COMPOSE_PROFILES starts it, but MODEL_C_ID is empty", "MODEL_C_ID: a model")
        )
    if values.get("MODEL_C_UPSTREAM", "") != wanted:
        found.append(
            Check("model-c", "fail", "the gateway would not ask what runs", f"MODEL_C_UPSTREAM={wanted}; {WRITE}")
        )
    return found


def _fit(entries: Sequence[PlannedModel], values: Mapping[str, str], found: Sequence[FoundGpu]) -> list[Check]:
    if not found:
        return []
    gpu = Gpu(found[0].name, found[0].total_bytes)
    try:
        planned = planned_models.side_by_side(entries, gpu, token=values.get("HF_TOKEN"))
    except HubRefusalError:  # its own check says so
        return []
    except FgpipeError as error:
        change = f"MODEL_…_GPU_MEMORY_UTILIZATION: {error.hint or WRITE}"
        return [Check("models' memory", "fail", error.message, change)]
    given = ", ".join(f"{one.entry.name} {one.plan.utilization:.3f}" for one in planned)
    return [Check("models' memory", "ok", f"{given} of {gpu.name}")]
