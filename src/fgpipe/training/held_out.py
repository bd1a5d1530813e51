"""The loss on held-out rows while training, and when to stop because it no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fgpipe.config import TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training.run import SMALLER_STEPS


class HeldOut:
    """The held-out losses of a run so far; all of it follows from the lines of the log, so a resumed run goes on."""

    def __init__(self, config: TrainConfig, log: Iterable[Mapping[str, Any]] = ()) -> None:
        self._patience = config.early_stop_evaluations
        self.best_loss = math.inf
        self.best_step = 0
        self._without_gain = 0
        for line in log:
            if "held_out_loss" in line:
                self.observe(line["step"], line["held_out_loss"])

    def observe(self, step: int, loss: float) -> bool:
        """Take note of a loss; whether it is the lowest so far.

        Raises:
            TrainingError: it is infinite or NaN.
        """
        if not math.isfinite(loss):
            message = f"step {step}: got held-out loss {loss:.4g}, expected a finite number"
            raise TrainingError(message, hint=SMALLER_STEPS)
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._without_gain = loss, step, 0
            return True
        self._without_gain += 1
        return False

    @property
    def stop(self) -> bool:
        """Whether the last `train.early_stop_evaluations` losses brought no gain."""
        return self._patience is not None and self._without_gain >= self._patience

    @property
    def keeps_best(self) -> bool:
        """Whether the adapter of the lowest loss is the result, rather than the last."""
        return self._patience is not None


def is_due(config: TrainConfig, step: int, steps: int) -> bool:
    """Whether the held-out loss is wanted after `step` of `steps`."""
    every = config.evaluate_every_steps
    return every is not None and (step % every == 0 or step == steps)


def stopped_early(step: int, steps: int, history: HeldOut) -> str:
    """What to say of a run that ends before its plan."""
    return (
        f"train: stopped at step {step} of {steps}: held-out loss no longer falls; "
        f"keeping step {history.best_step} ({history.best_loss:.4f})"
    )
