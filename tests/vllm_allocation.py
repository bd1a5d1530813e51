"""What vLLM really allocates: engines built in this process, one after another, and measured. Run as a script.

    python tests/vllm_allocation.py '[{"model": "data/tiny", "max_model_len": 4096, …}]'

Prints a JSON list with, for each engine, bytes of its weights, rotary tables and adapter slots, and its KV cache.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

KV_BYTES = 128 * 2**20
"""Of the KV cache of every engine here: small, as it is filled with zeros."""


def main(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_PLUGINS="", VLLM_NO_USAGE_STATS="1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would go before KV_BYTES
    return [measured(case) for case in cases]


def measured(case: dict[str, Any]) -> dict[str, Any]:
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import base_loader
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    gc.freeze()  # vLLM collects garbage often; what was imported is none
    before_packing: list[int] = []
    original = base_loader.process_weights_after_loading

    def process(model: Any, *arguments: Any) -> None:
        # The CPU build then repacks its weights and leaves empty parameters behind.
        before_packing.append(sum(tensor.numel() * tensor.element_size() for tensor in unique(model.parameters())))
        original(model, *arguments)

    base_loader.process_weights_after_loading = process
    try:
        arguments = EngineArgs(
            **{
                "enforce_eager": True,
                "dtype": "float32",
                "load_format": "dummy",
                "skip_tokenizer_init": True,
                "kv_cache_memory_bytes": KV_BYTES,
            }
            | case
        )
        engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
        core: Any = engine.engine_core.engine_core
        result = {"weights": before_packing[0], **figures(core)}
        core.shutdown()
    finally:
        base_loader.process_weights_after_loading = original
    del engine, core
    gc.collect()
    cleanup_dist_env_and_memory()
    return result


def figures(core: Any) -> dict[str, Any]:
    from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity

    runner = core.model_executor.driver_worker.worker.model_runner
    cache = core.scheduler.kv_cache_config
    tokens, concurrency = get_kv_cache_capacity(core.vllm_config, cache)
    manager = getattr(runner, "lora_manager", None)
    slots = [] if manager is None else list(manager._adapter_manager.modules.values())
    stacked = [
        tensor
        for module in slots
        for stack in (module.lora_a_stacked, module.lora_b_stacked)
        for tensor in (stack if isinstance(stack, tuple) else (stack,))
    ]
    tables = [buffer for name, buffer in runner.model.named_buffers() if name.endswith("cos_sin_cache")]
    return {
        "rope": sum(table.numel() * table.element_size() for table in unique(tables)),
        "lora": sum(tensor.numel() * tensor.element_size() for tensor in unique(stacked)),
        "modules": [
            {"inner": module.lora_a_stacked[0].shape[-1], "outers": [part.shape[-2] for part in module.lora_b_stacked]}
            for module in slots
        ],
        "tokens": tokens,
        "concurrency": concurrency,
        "batched_tokens": core.vllm_config.scheduler_config.max_num_batched_tokens,
        "in_flight_tokens": core.vllm_config.max_in_flight_tokens,
    }


def unique(tensors: Any) -> list[Any]:
    return list({id(tensor): tensor for tensor in tensors}.values())


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
