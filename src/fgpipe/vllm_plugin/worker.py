"""What only vLLM's worker knows of its adapters: which stand in a slot of the device, which in memory."""

from __future__ import annotations

from typing import Any


class AdapterSlots:
    """Mixed into vLLM's worker by `--worker-extension-cls`; its method is called through `collective_rpc`."""

    model_runner: Any

    def fgpipe_adapter_slots(self) -> dict[str, list[int]]:
        """Engine ids of the adapters in slots and in memory (those in slots are in memory too)."""
        manager = self.model_runner.lora_manager._adapter_manager
        slots = [int(id_) for id_ in manager.lora_index_to_id if id_ is not None]
        return {"slots": sorted(slots), "memory": sorted(int(id_) for id_ in manager.list_adapters())}
