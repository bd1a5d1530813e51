"""A plan as a table with its arithmetic, as JSON, and as lines for an `.env` file."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from fgpipe.serving.memory import CONTEXT_BYTES, GIB, graph_sizes
from fgpipe.serving.planner import SEEN_FRACTION, EnginePlan, Gpu, Model, least_bytes
from fgpipe.serving.shapes import LINEAR_BYTES

if TYPE_CHECKING:
    from rich.console import RenderableType

FIRST_PORT = 8001
"""Of several models, the first one's port unless it says its own."""


def plan_json(plans: Sequence[EnginePlan], gpu: Gpu) -> dict[str, Any]:
    """The plan as plain data, models in start order."""
    return {
        "gpu": {"name": gpu.name, "total_bytes": gpu.total_bytes, "reserved_bytes": gpu.reserved_bytes},
        "context_bytes": CONTEXT_BYTES,
        "models": [_model_json(plan) for plan in plans],
        # The CPU build has no shares to give.
        "free_shares_left": gpu.total_bytes and gpu.free_shares(_engines(plans)) - _given(plans),
    }


def _model_json(plan: EnginePlan) -> dict[str, Any]:
    memory, kv = plan.memory, plan.memory.kv
    return {
        "name": plan.model.name,
        "id": plan.model.id,
        "replicas": plan.replicas,
        "gpu_memory_utilization": plan.utilization,
        "bytes": {name: size for name, _, size in parts(plan)} | {"kv_cache": plan.kv_bytes},
        "kv_bytes_per_token": kv.bytes_per_token,
        "kv_bytes_per_sequence": kv.bytes_per_sequence,
        "kv_cache_tokens": plan.tokens,
        "full_length_sequences": round(plan.sequences, 2),
        "max_model_len_tokens": plan.model.settings.max_model_len_tokens,
        "max_num_seqs": plan.model.settings.max_num_seqs,
        "max_num_batched_tokens": plan.model.settings.max_num_batched_tokens,
        "least_bytes": least_bytes(memory),
    }


def parts(plan: EnginePlan) -> list[tuple[str, str, int]]:
    """(what, how it is reckoned, bytes) of everything but the KV cache."""
    shape, settings, memory = plan.model.shape, plan.model.settings, plan.memory
    each = LINEAR_BYTES.get(shape.quantization, settings.element_bytes)
    weights = f"{shape.linear_weights():,} x {each:g} B + {shape.other_weights():,} x {settings.element_bytes} B"
    found = [
        ("weights", weights, memory.weights),
        ("rotary_tables", f"{shape.rope_tables} x {shape.max_position_embeddings:,} positions", memory.rope),
    ]
    if memory.lora:
        slots = (
            f"{settings.max_loras} slots x rank {settings.max_lora_rank}: {memory.lora // settings.max_loras:,} B each"
        )
        found.append(("adapter_slots", slots, memory.lora))
    tokens = f"{settings.max_num_batched_tokens:,} tokens a step, {settings.max_num_seqs} rows of logits (estimate)"
    found.append(("activations", tokens, memory.activations))
    if memory.graphs:
        sizes = f"{graph_sizes(settings)} batch sizes, {shape.sizes.num_hidden_layers} layers (estimate)"
        found.append(("cuda_graphs", sizes, memory.graphs))
    if memory.other:
        found.append(("other", "libraries; measured on an H100 with vLLM 0.32.0", memory.other))
    return found


def render(plans: Sequence[EnginePlan], gpu: Gpu) -> RenderableType:
    """A table for each model, then what is left of the GPU."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(_table(plan, gpu) for plan in plans), Text(_closing(plans, gpu)))


def _table(plan: EnginePlan, gpu: Gpu) -> RenderableType:
    from rich.table import Table

    kv, settings = plan.memory.kv, plan.model.settings
    each = f", each of {plan.replicas} replicas" if plan.replicas > 1 else ""
    table = Table(title=f"{plan.model.name} ({plan.model.id}){each}", title_justify="left")
    for column in ("what", "how", "GiB"):
        table.add_column(column, justify="right" if column == "GiB" else "left")
    if not settings.cpu:
        share = f"{plan.utilization:.3f} of {gpu.total_bytes / GIB:.2f} GiB, of which CUDA sees {SEEN_FRACTION:.0%}"
        whose = "share of the whole GPU" if plan.replicas == 1 else "share of one"
        table.add_row(whose, share, _gib(gpu.seen_bytes * plan.utilization))
    for name, how, size in parts(plan):
        table.add_row(f"- {name.replace('_', ' ')}", how, _gib(size))
    cpu = "server.cpu_kv_cache_gib" if plan.replicas == 1 else "its part of server.cpu_kv_cache_gib"
    table.add_row("= KV cache", cpu if settings.cpu else "the rest", _gib(plan.kv_bytes))
    table.add_section()
    table.add_row("KV of a token", _token_line(plan), f"{kv.bytes_per_token / 1024:g} KiB")
    blocks = f"{kv.blocks_per_sequence} blocks of {kv.block_bytes:,} B for {kv.max_model_len_tokens:,} tokens"
    table.add_row("KV of a full sequence", blocks, _gib(kv.bytes_per_sequence))
    fits = f"{plan.sequences:.2f} at once, as vLLM counts; max_num_seqs {settings.max_num_seqs}"
    table.add_row("full-length sequences", f"{fits}; its KV cache size: {plan.tokens:,} tokens", "")
    return table


def _token_line(plan: EnginePlan) -> str:
    kv = plan.memory.kv
    kinds = [f"{kv.full_layers} layers of full attention"] if kv.full_layers else []
    if kv.sliding_layers:
        kinds.append(f"{kv.sliding_layers} with a window of {kv.window_tokens:,}")
    return f"{' + '.join(kinds)}, {kv.layer_bytes_per_token:,} B a layer"


def _closing(plans: Sequence[EnginePlan], gpu: Gpu) -> str:
    if plans[0].model.settings.cpu:
        return "CPU build: the KV cache has a size of its own; the rest comes from the host's memory."
    used, engines = _given(plans), _engines(plans)
    free = gpu.free_shares(engines)
    outside = f"{_gib(gpu.reserved_bytes)} GiB reserved and {engines} x {_gib(CONTEXT_BYTES)} GiB of CUDA contexts"
    lines = [f"{gpu.name}: {used / 1000:.3f} of at most {free / 1000:.3f} given; outside it {outside}."]
    if len(plans) > 1:
        lines.append(f"Start one after another, each when the one before answers: {', '.join(_names(plans))}.")
        return "\n".join(lines)
    (plan,) = plans
    wanted = gpu.shares_for(least_bytes(plan.memory, plan.model.settings.max_num_seqs)) * plan.replicas
    enough = "" if wanted <= free else ", more than there is"
    each = " in each" if plan.replicas > 1 else ""
    lines.append(
        f"{plan.model.settings.max_num_seqs} sequences of full length{each} would take {wanted / 1000:.3f}{enough}; "
        f"one{each} takes {gpu.shares_for(least_bytes(plan.memory)) * plan.replicas / 1000:.3f}."
    )
    return "\n".join(lines)


def _engines(plans: Sequence[EnginePlan]) -> int:
    return sum(plan.replicas for plan in plans)


def _given(plans: Sequence[EnginePlan]) -> int:
    """Thousandths of the GPU that all engines get together."""
    return sum(plan.shares * plan.replicas for plan in plans)


def _names(plans: Sequence[EnginePlan]) -> list[str]:
    return [plan.model.name for plan in plans]


def single_env(plan: EnginePlan) -> list[str]:
    """Lines for the multi-LoRA server's `.env`."""
    settings = plan.model.settings
    values: dict[str, object] = {
        "MAX_MODEL_LEN_TOKENS": settings.max_model_len_tokens,
        "MAX_NUM_SEQS": settings.max_num_seqs,
        "MAX_NUM_BATCHED_TOKENS": settings.max_num_batched_tokens,
        "MAX_LORAS": settings.max_loras,
        "MAX_LORA_RANK": settings.max_lora_rank,
    }
    if settings.cpu:
        values["CPU_KV_CACHE_GIB"] = ceil(plan.kv_bytes * plan.replicas / GIB)
    else:
        values["GPU_MEMORY_UTILIZATION"] = f"{plan.utilization * plan.replicas:.3f}"
    if plan.replicas > 1:
        values["REPLICAS"] = plan.replicas
    return [f"FGPIPE_{name}={value}" for name, value in values.items()]


def with_ports(models: Sequence[Model]) -> dict[str, int]:
    """A port for each model, by name: its own, or the next that none has."""
    taken = {model.port for model in models if model.port is not None}
    free = (port for port in range(FIRST_PORT, 65536) if port not in taken)
    return {model.name: model.port if model.port is not None else next(free) for model in models}


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.3f}"
