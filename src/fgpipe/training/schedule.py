"""The learning rate of a step, as a share of its peak."""

from __future__ import annotations

import math
from typing import Literal

Scheduler = Literal["cosine", "linear", "constant"]


def learning_rate_factor(scheduler: Scheduler, step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the peak at `step`, counted from 0, of a run of `steps`: transformers' schedules of these names."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if scheduler == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if scheduler == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
