"""One adapter to be trained, as both back ends take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training.checkpoints import Checkpoints
from fgpipe.training.order import RowOrder
from fgpipe.training.plan import TrainingPlan

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class TrainingRun:
    """Rows, settings, plan and checkpoints of one adapter."""

    name: str
    """What to call it in messages."""
    columns: Columns
    """`id`, `input_ids` and `loss_mask` of the training rows."""
    held_out: Columns | None
    """The same of the held-out rows, if the loss on them is wanted."""
    loss_tokens: tuple[int, ...]
    """Labels of each training row."""
    order: RowOrder
    todo: TrainingPlan
    model: ModelConfig
    lora: LoraConfig
    config: TrainConfig
    seed: int
    out: Path
    """Where the artefact goes."""
    identity: Mapping[str, Any]
    """Configuration and inputs of the artefact."""
    checkpoints: Checkpoints


def labels_of(columns: Columns) -> tuple[int, ...]:
    """Labels of each row; the first token has nothing before it to be predicted from."""
    return tuple(sum(mask[1:]) for mask in columns["loss_mask"])


SMALLER_STEPS = "a smaller train.learning_rate; the last checkpoint is kept and nothing was written"
"""What to do about numbers that are not finite."""


def not_finite(step: int, steps: int, *, loss: float, norm: float) -> TrainingError:
    """What to say of a step whose loss or gradient is infinite or NaN."""
    return TrainingError(
        f"step {step} of {steps}: got loss {loss:.4g} and gradient norm {norm:.4g}, expected finite numbers",
        hint=SMALLER_STEPS,
    )
