"""What the server demands of an adapter, as plain numbers and names; made from configuration, nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from fgpipe.config import VLLM_LORA_RANKS, ModelConfig, ServerConfig

PARENTS: Mapping[str, str] = MappingProxyType(
    {
        "q_proj": "self_attn",
        "k_proj": "self_attn",
        "v_proj": "self_attn",
        "o_proj": "self_attn",
        "gate_proj": "mlp",
        "up_proj": "mlp",
        "down_proj": "mlp",
    }
)
"""The block part each linear layer sits in; a tensor under another part names a module the base does not have."""


@dataclass(frozen=True)
class Contract:
    """The limits one server puts on an adapter of one base model."""

    base_id: str
    """What `base_model_name_or_path` must say; vLLM itself never compares it."""
    base_revision: str | None
    """Commit of the base, if the configuration names one."""
    vllm_version: str
    max_lora_rank: int
    max_loras: int
    layers: int
    """Number of blocks of the base."""
    shapes: Mapping[str, tuple[int, int]]
    """(in_features, out_features) of each linear module that may carry a LoRA."""

    def module_names(self) -> Iterator[str]:
        """Full names of the base's linear modules, block by block, such as `model.layers.0.self_attn.q_proj`."""
        for layer in range(self.layers):
            for module in self.shapes:
                yield f"model.layers.{layer}.{PARENTS[module]}.{module}"

    def largest_bytes(self, rank: int) -> int:
        """Size of the largest sensible weights file of `rank`: every module, eight bytes a number, 1 MiB of names."""
        numbers = self.layers * rank * sum(i + o for i, o in self.shapes.values())
        return 8 * numbers + (1 << 20)

    def as_json(self) -> dict[str, Any]:
        """The contract as plain data; what a verdict depends on besides the adapter."""
        return asdict(self)


def contract(model: ModelConfig, server: ServerConfig) -> Contract:
    """The demands of `server` when it serves `model`."""
    return Contract(
        base_id=model.id,
        base_revision=model.revision,
        vllm_version=server.vllm_version,
        max_lora_rank=server.max_lora_rank,
        max_loras=server.max_loras,
        layers=model.shape.num_hidden_layers,
        shapes=model.shape.linear_shapes(),
    )


def smallest_legal_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank vLLM accepts that holds `rank`; None if there is none."""
    return next((legal for legal in VLLM_LORA_RANKS if legal >= rank), None)
