"""Which of the two back ends trains: TRL, which takes everything, or the packed engine, which is fast."""

from __future__ import annotations

from dataclasses import dataclass

from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training.plan import Backend

MOST_RANK = 128
"""The largest that the GPU's kernels were compiled and run with."""


@dataclass(frozen=True)
class Machine:
    """Where training runs, as far as the choice depends on it."""

    device: str
    """"cuda" or "cpu"."""
    dtype: str
    """Of the frozen weights: "bfloat16" or "float32"."""
    flash_attention: bool
    """Whether PyTorch's FlashAttention runs on the GPU (compute capability 8.0 and later)."""
    triton: bool
    """Whether kernels can be compiled for the GPU."""
    free_bytes: int | None
    """Memory of the GPU that may be taken; None on a CPU."""


def obstacles(lora: LoraConfig, model: ModelConfig, config: TrainConfig, machine: Machine) -> list[str]:
    """Why the fast back end cannot do what is asked; empty if it can."""
    found = []
    if model.quantization != "none":
        found.append(f"model.quantization={model.quantization}: it reads the base unquantised")
    if lora.lora_dropout:
        found.append(f"lora.lora_dropout={lora.lora_dropout}: it has no dropout")
    if config.gradient_checkpointing:
        found.append("train.gradient_checkpointing=true: it fits its step to the memory instead")
    if machine.device == "cuda" and machine.dtype != "bfloat16":
        found.append(f"{machine.dtype} on the GPU: its attention needs bfloat16")
    if machine.device == "cuda" and lora.r > MOST_RANK:
        found.append(f"lora.r={lora.r}: its kernels take ranks to {MOST_RANK}")
    if machine.device == "cuda" and not machine.flash_attention:
        found.append("this GPU is older than compute capability 8.0")
    if machine.device == "cuda" and not machine.triton:
        found.append("triton is not installed, or no compiler for it")
    return found


def choose_backend(lora: LoraConfig, model: ModelConfig, config: TrainConfig, machine: Machine) -> tuple[Backend, str]:
    """The back end for `train.backend`, and why, in a few words.

    Raises:
        TrainingError: fast is asked for and cannot do it.
    """
    against = obstacles(lora, model, config, machine)
    if config.backend == "fast":
        require_fast(lora, model, config, machine)
        return "fast", "as asked"
    if config.backend == "trl":
        return "trl", "as asked"
    if machine.device != "cuda":
        return "trl", "no GPU"
    return ("trl", against[0]) if against else ("fast", "Gemma 3 on a GPU")


def require_fast(lora: LoraConfig, model: ModelConfig, config: TrainConfig, machine: Machine) -> None:
    """Refuse what the fast back end cannot do.

    Raises:
        TrainingError: naming it.
    """
    against = obstacles(lora, model, config, machine)
    if config.backend == "trl":
        against.insert(0, "train.backend=trl")
    if against:
        raise TrainingError(
            f"train.backend: got fast with {'; '.join(against)}",
            hint="python -m fgpipe train with train.backend=trl takes all of it, one adapter at a time",
        )


def this_machine(model: ModelConfig) -> Machine:
    """The machine we are on. Heavy: imports torch."""
    import importlib.util

    import torch

    from fgpipe.models import base

    device = base.device()
    return Machine(
        device=device,
        dtype=base.dtype_name(model),
        flash_attention=device == "cuda" and torch.cuda.get_device_capability() >= (8, 0),
        triton=importlib.util.find_spec("triton") is not None,
        free_bytes=int(0.92 * torch.cuda.mem_get_info()[0]) if device == "cuda" else None,
    )
