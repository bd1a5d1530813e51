"""What fits on one GPU: one engine at a given share, or several models side by side. Pure functions over `memory`.

vLLM reads `gpu_memory_utilization` as a share of the *whole* GPU (`request_memory`: ceil(total x share)), not of what
is free. An engine takes its share when it starts, and refuses to start if less than that is free at that moment. So
the shares of engines on one GPU must add up to less than 1: to what is left when the driver, the desktop and one CUDA
context for each engine, all of which stand outside the shares, have been taken off.

Engines of different models start one after another, because vLLM measures what it takes while it starts and gives up if
another process frees memory meanwhile (`Worker.determine_available_memory`); small ones first, so that something
answers soon. Replicas of one model need not: `replicas.Replicas.grow` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from fgpipe.errors import ServeError
from fgpipe.serving.memory import CONTEXT_BYTES, GIB, EngineMemory, EngineSettings, engine_memory
from fgpipe.serving.shapes import BaseShape

SHARES = 1000
"""A share is a whole number of thousandths."""

SEEN_FRACTION = 0.98
"""CUDA, and so vLLM, counts a little less than nvidia-smi's total; 2 % are taken off to be on the safe side: an
H100 with driver 580 lacked 0.6 %."""

ROUNDING_BYTES = 2**20
"""VLLM rounds every share up to a whole byte; shares that fill a GPU to the last one would not all be free."""

RESERVED_BYTES = GIB
"""Kept for the driver, a desktop and other programs, unless the user says otherwise. An assumption."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or the host's memory for the CPU build."""

    name: str
    total_bytes: int
    """As nvidia-smi reports it."""
    reserved_bytes: int = RESERVED_BYTES

    @property
    def seen_bytes(self) -> int:
        """What vLLM is counted on to see of it."""
        return floor(self.total_bytes * SEEN_FRACTION)

    def free_shares(self, engines: int) -> int:
        """Thousandths that `engines` may share out between them."""
        outside = self.reserved_bytes + engines * CONTEXT_BYTES + ROUNDING_BYTES
        return max(0, floor((self.total_bytes - outside) * SHARES / self.total_bytes))

    def shares_for(self, needed_bytes: int) -> int:
        """The fewest thousandths that are at least `needed_bytes`."""
        return ceil(needed_bytes * SHARES / self.seen_bytes)


@dataclass(frozen=True)
class Model:
    """A model that is to have an engine of its own."""

    name: str
    id: str
    """What vLLM loads: a hub id or a folder."""
    shape: BaseShape
    settings: EngineSettings
    priority: float = 1
    """Its weight when memory beyond the least is shared out."""
    port: int | None = None
    shares: int | None = None
    """Thousandths of the GPU that the user gives it; None: to be planned."""


@dataclass(frozen=True)
class EnginePlan:
    """One engine and the memory it gets."""

    model: Model
    memory: EngineMemory
    shares: int
    """Thousandths of the GPU; 0 on the CPU, where the KV cache has a size of its own."""
    kv_bytes: int
    replicas: int = 1
    """How many engines there are that get just this."""

    @property
    def utilization(self) -> float:
        """The engine's --gpu-memory-utilization."""
        return self.shares / SHARES

    @property
    def sequences(self) -> float:
        """How many sequences of full length its KV cache holds; vLLM logs it as "Maximum concurrency"."""
        return self.memory.kv.concurrency(self.kv_bytes)

    @property
    def tokens(self) -> int:
        """What vLLM logs as "KV cache size"."""
        return self.memory.kv.tokens(self.kv_bytes)


def least_bytes(memory: EngineMemory, sequences: int = 1) -> int:
    """The smallest share with which vLLM starts and `sequences` of full length fit."""
    return memory.fixed + memory.kv.least_bytes(sequences)


def plan_gpu(model: Model, gpu: Gpu, *, utilization: float, replicas: int = 1) -> EnginePlan:
    """One engine on `gpu` at a given share, or each one of `replicas` equal engines that share it.

    Raises:
        ServeError: the share of one is too small for one sequence, or all are more than can be free; with the
            arithmetic.
    """
    memory, shares = engine_memory(model.shape, model.settings), replica_shares(utilization, replicas)
    least, most = gpu.shares_for(least_bytes(memory)), gpu.free_shares(replicas)
    if replicas == 1 and least > most:
        raise _does_not_fit([(model, memory)], gpu)
    if least * replicas > most:
        fitting = next((count for count in range(replicas, 0, -1) if least * count <= gpu.free_shares(count)), 0)
        raise ServeError(
            f"server.replicas: got {replicas}, which need {least * replicas / SHARES:.3f} of {gpu.name}, expected at "
            f"most {most / SHARES:.3f}\n{_sum_line(model, memory, gpu)} for each\n{_free_line(gpu, replicas)}",
            hint=f"server.replicas={fitting}" if fitting else "a smaller server.max_model_len_tokens or max_num_seqs",
        )
    if shares < least or round(utilization * SHARES) > most:
        given = f"{utilization:g}" if replicas == 1 else f"{utilization:g} for {replicas} replicas"
        fewer = f", or server.replicas={round(utilization * SHARES) // least}" if shares < least <= most // 2 else ""
        right = min(max(round(utilization * SHARES), least * replicas), most)
        raise ServeError(
            f"server.gpu_memory_utilization: got {given} of {gpu.name} ({_gib(gpu.total_bytes)} GiB), expected "
            f"{least * replicas / SHARES:.3f} to {most / SHARES:.3f}\n{_sum_line(model, memory)}"
            f"{f' for each of {replicas}' * (replicas > 1)}\n{_free_line(gpu, replicas)}",
            hint=f"server.gpu_memory_utilization={right / SHARES:.3f}{fewer * (replicas > 1)}",
        )
    return EnginePlan(model, memory, shares, floor(gpu.seen_bytes * shares / SHARES) - memory.fixed, replicas)


def replica_shares(utilization: float, replicas: int) -> int:
    """Thousandths that each of `replicas` gets of the share of all, which they never exceed together."""
    return round(utilization * SHARES) if replicas == 1 else floor(utilization * SHARES + 1e-6) // replicas


def plan_cpu(model: Model, *, kv_bytes: int, replicas: int = 1) -> EnginePlan:
    """One engine of vLLM's CPU build, whose KV cache has a size of its own, or each one of `replicas` that share it.

    Raises:
        ServeError: not one sequence of full length fits into that of one.
    """
    memory, each = engine_memory(model.shape, model.settings), kv_bytes // replicas
    if (needed := memory.kv.least_bytes()) > each:
        given = _gib(kv_bytes) + (f" for {replicas} replicas" if replicas > 1 else "")
        raise ServeError(
            f"server.cpu_kv_cache_gib: got {given}, expected at least {_gib(needed * replicas)} for one sequence of "
            f"{memory.kv.max_model_len_tokens:,} tokens{' in each' * (replicas > 1)}",
            hint=f"server.cpu_kv_cache_gib={ceil(needed * replicas / GIB)}, or a smaller server.max_model_len_tokens",
        )
    return EnginePlan(model, memory, 0, each, replicas)


def share_gpu(models: Sequence[Model], gpu: Gpu) -> list[EnginePlan]:
    """An engine for each of `models` side by side on `gpu`, in the order in which to start them: small before large.

    Each gets the share that the user gives it, else what it needs to start and to hold one sequence of full length.
    What is left goes to the KV caches of those without a share of the user's by priority, up to max_num_seqs sequences
    of full length each; beyond that the GPU stays free.

    Raises:
        ServeError: they do not fit, or a share of the user's is too small for its model; with the arithmetic.
    """
    memories = [engine_memory(model.shape, model.settings) for model in models]
    wanted = list(zip(models, memories, strict=True))
    _require_room(wanted, gpu)
    least = [_least_shares(model, memory, gpu) for model, memory in wanted]
    most = [
        model.shares or gpu.shares_for(least_bytes(memory, model.settings.max_num_seqs)) for model, memory in wanted
    ]
    free = gpu.free_shares(len(models))
    if sum(least) > free:
        raise _does_not_fit(wanted, gpu)
    shares = share_out(free, least=least, most=most, weights=[model.priority for model in models])
    plans = [
        EnginePlan(model, memory, share, floor(gpu.seen_bytes * share / SHARES) - memory.fixed)
        for model, memory, share in zip(models, memories, shares, strict=True)
    ]
    return sorted(plans, key=lambda plan: (plan.shares, plan.model.name))


def share_out(free: int, *, least: Sequence[int], most: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Whole numbers from `least` to `most`, at most `free` in all; what is beyond the least goes by weight."""
    shares = list(least)
    for _ in range(free - sum(least)):
        hungry = [index for index, share in enumerate(shares) if share < most[index]]
        if not hungry:
            break
        next_ = min(hungry, key=lambda index: (shares[index] - least[index] + 1) / weights[index])
        shares[next_] += 1
    return shares


def _least_shares(model: Model, memory: EngineMemory, gpu: Gpu) -> int:
    return model.shares or gpu.shares_for(least_bytes(memory))


def _require_room(wanted: Sequence[tuple[Model, EngineMemory]], gpu: Gpu) -> None:
    """Refuse shares of the user's with which vLLM would not start."""
    lines = []
    for model, memory in wanted:
        least = gpu.shares_for(least_bytes(memory))
        if model.shares is not None and model.shares < least:
            lines.append(
                f"{model.name}: gpu_memory_utilization: got {model.shares / SHARES:.3f} of {gpu.name} "
                f"({_gib(gpu.total_bytes)} GiB), expected at least {least / SHARES:.3f}\n{_sum_line(model, memory)}"
            )
    if lines:
        raise ServeError("\n".join(lines), hint="without a share of yours, plan chooses one")


def _does_not_fit(wanted: Sequence[tuple[Model, EngineMemory]], gpu: Gpu) -> ServeError:
    needed = sum(_least_shares(model, memory, gpu) for model, memory in wanted)
    free = gpu.free_shares(len(wanted))
    lines = [_sum_line(model, memory, gpu) for model, memory in wanted]
    return ServeError(
        f"{gpu.name}: got {len(wanted)} model{'s' * (len(wanted) > 1)} that need {needed / SHARES:.3f} of it, expected "
        f"at most {free / SHARES:.3f}\n" + "\n".join([*lines, _free_line(gpu, len(wanted))]),
        hint=("smaller shares, or " if any(model.shares for model, _ in wanted) else "")
        + "lower max_model_len_tokens, max_num_seqs or max_num_batched_tokens, quantise the largest model, or leave "
        "one out",
    )


def _sum_line(model: Model, memory: EngineMemory, gpu: Gpu | None = None) -> str:
    """What the model needs at least, as a sum."""
    parts = {
        "weights": memory.weights + memory.rope,
        "adapter slots": memory.lora,
        "activations": memory.activations,
        "graphs": memory.graphs,
        "other": memory.other,
        f"KV of one sequence of {memory.kv.max_model_len_tokens:,} tokens": memory.kv.least_bytes(),
    }
    terms = " + ".join(f"{name} {_gib(part)}" for name, part in parts.items() if part)
    share = f" = {gpu.shares_for(least_bytes(memory)) / SHARES:.3f} of the GPU" if gpu else ""
    share += f", given {model.shares / SHARES:.3f}" if model.shares else ""
    return f"  {model.name}: {terms} = {_gib(least_bytes(memory))} GiB{share}"


def _free_line(gpu: Gpu, engines: int) -> str:
    contexts = f"{engines} CUDA context{'s' * (engines > 1)} {_gib(engines * CONTEXT_BYTES)}"
    left = gpu.total_bytes - gpu.reserved_bytes - engines * CONTEXT_BYTES
    return (
        f"  {gpu.name}: {_gib(gpu.total_bytes)} - reserved {_gib(gpu.reserved_bytes)} - {contexts} = {_gib(left)} GiB "
        f"= {gpu.free_shares(engines) / SHARES:.3f} of the GPU"
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"
