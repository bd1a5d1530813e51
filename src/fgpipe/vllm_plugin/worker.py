"""What only vLLM's worker knows: which adapters stand in a slot of the device or in memory, and its KV cache's size."""

from __future__ import annotations

from typing import Any


class AdapterSlots:
    """Mixed into vLLM's worker by `--worker-extension-cls`; its methods are called through `collective_rpc`."""

    model_runner: Any
    cache_config: Any

    def fgpipe_adapter_slots(self) -> dict[str, list[int]]:
        """Engine ids of the adapters in slots and in memory (those in slots are in memory too)."""
        manager = self.model_runner.lora_manager._adapter_manager
        slots = [int(id_) for id_ in manager.lora_index_to_id if id_ is not None]
        return {"slots": sorted(slots), "memory": sorted(int(id_) for id_ in manager.list_adapters())}

    def fgpipe_kv_cache_bytes(self) -> int | None:
        """What the KV cache was given: as the server was told, or as vLLM measured it when it started."""
        told: int | None = self.cache_config.kv_cache_memory_bytes
        return told or getattr(self, "available_kv_cache_memory_bytes", None)
