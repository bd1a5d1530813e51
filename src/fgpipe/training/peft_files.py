"""PEFT's description of an adapter, the same from both back ends. Heavy: imports peft."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from fgpipe import store
from fgpipe.config import LoraConfig


def read_peft() -> None:
    """Import PEFT."""
    import peft  # noqa: F401


def peft_config(lora: LoraConfig) -> Any:
    """PEFT's `LoraConfig` for our settings."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        target_modules=sorted(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def write_config(config: Any, folder: Path, *, base_id: str, revision: str | None) -> None:
    """Write `adapter_config.json` for a PEFT configuration, in an order that does not change."""
    described = copy.copy(config)
    described.base_model_name_or_path, described.revision, described.inference_mode = base_id, revision, True
    described.save_pretrained(folder)
    written = store.read_json(folder / "adapter_config.json")
    written["target_modules"] = sorted(written["target_modules"])
    store.write_json(folder / "adapter_config.json", dict(sorted(written.items())))
