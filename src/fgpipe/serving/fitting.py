"""The memory plan of the configured server, alone or as one of several on a GPU."""

from __future__ import annotations

from pathlib import Path

from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.models import base
from fgpipe.serving import gpus, memory, planner, shapes
from fgpipe.serving.command import Build
from fgpipe.serving.planner import EnginePlan, Gpu, Model

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}


def server_model(
    model: ModelConfig,
    server: ServerConfig,
    gpu: Gpu | None,
    *,
    folder: Path | None,
    lora_modules: tuple[str, ...] | None = None,
) -> Model:
    """The engine that `server` starts, as the planner sees it.

    Args:
        gpu: where; None for vLLM's CPU build.
        folder: the base's config.json or the folder that holds it; None takes `model.shape`.
        lora_modules: as vLLM's --lora-target-modules; None: every linear layer.

    Raises:
        ConfigError: the base cannot be planned.
    """
    shape = shapes.read_shape(folder) if folder else shapes.functiongemma(model.shape)
    dtype = model.dtype if model.dtype != "auto" else ("bfloat16" if gpu else "float32")
    default = memory.batched_tokens(
        max_num_seqs=server.max_num_seqs,
        max_model_len_tokens=server.max_model_len_tokens,
        chunked_prefill=server.chunked_prefill,
        total_bytes=gpu.total_bytes if gpu else None,
        gpu_name=gpu.name if gpu else "",
    )
    settings = memory.EngineSettings(
        max_model_len_tokens=server.max_model_len_tokens,
        max_num_seqs=server.max_num_seqs,
        max_num_batched_tokens=server.max_num_batched_tokens or default,
        element_bytes=ELEMENT_BYTES[dtype],
        max_loras=server.max_loras,
        max_lora_rank=server.max_lora_rank,
        lora_modules=lora_modules,
        cpu=gpu is None,
        eager=server.enforce_eager,
    )
    return Model(model.name, str(folder or model.id), shape, settings, port=server.port)


def replica_plan(planned: Model, server: ServerConfig, gpu: Gpu | None, *, replicas: int) -> EnginePlan:
    """Each one of `replicas` equal engines that share what `server` gives all of them.

    Raises:
        ServeError: the share of one cannot hold one sequence of full length; with the arithmetic.
    """
    if gpu is None:
        return planner.plan_cpu(planned, kv_bytes=server.cpu_kv_cache_gib * memory.GIB, replicas=replicas)
    return planner.plan_gpu(planned, gpu, utilization=server.gpu_memory_utilization, replicas=replicas)


def plan_here(model: ModelConfig, server: ServerConfig, build: Build, *, replicas: int) -> EnginePlan | None:
    """`replica_plan` for this machine; None where nvidia-smi says nothing of a GPU, so that vLLM has the last word.

    Raises:
        ModelError: the base's files are not there.
        ServeError: it does not fit; with the arithmetic.
    """
    gpu = None
    if build == "gpu":
        found = gpus.found_gpus()
        if not found:
            return None
        gpu = Gpu(found[0].name, found[0].total_bytes)
    planned = server_model(model, server, gpu, folder=base.local_folder(model))
    return replica_plan(planned, server, gpu, replicas=replicas)
