"""What happens around the steps of a training run: progress, metrics, checkpoints.

Heavy: imports transformers; import it only to train.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.progress import TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: TID253

from fgpipe import progress
from fgpipe.training.checkpoints import Checkpoints
from fgpipe.training.order import RowOrder

METRICS = ("loss", "learning_rate", "grad_norm")


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Completes what the trainer logs by tokens and tokens/s, and appends it to `file`: a JSON line a logging step."""

    def __init__(self, order: RowOrder, file: Path) -> None:
        self.order = order
        self.file = file
        self._since = (0.0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write again what was logged before a resume: lines after the checkpoint are of steps to be repeated."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in state.log_history)
        self._since = (time.monotonic(), self.order.tokens_until(state.global_step))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Complete the line just logged; the summary at the end of the run is dropped from the log."""
        if "loss" not in logs:
            state.log_history.pop()
            return
        tokens, now = self.order.tokens_until(state.global_step), time.monotonic()
        speed = (tokens - self._since[1]) / (now - self._since[0])
        self._since = (now, tokens)
        line = {"step": state.global_step, "epoch": state.epoch, **{name: logs[name] for name in METRICS}}
        line |= {"tokens": tokens, "tokens_per_s": round(speed, 1)}
        state.log_history[-1] = line
        with open(self.file, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


class Progress(TrainerCallback):  # type: ignore[misc]
    """A bar with loss and tokens/s on a terminal; ten lines a run where there is none."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._tenth = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        self._bar, task = self._open.enter_context(progress.bar("train", state.max_steps))
        self._task = TaskID(task)
        self._bar.update(self._task, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the figures of the line `Metrics` has just completed."""
        if not state.log_history:
            return
        line = state.log_history[-1]
        note = f"loss {line['loss']:.4f}  {line['tokens_per_s']:,.0f} tokens/s"
        self._bar.update(self._task, note=note)
        tenth = 10 * state.global_step // state.max_steps
        if not sys.stderr.isatty() and tenth > self._tenth:
            progress.say(f"train: step {state.global_step} of {state.max_steps}, {note}")
            self._tenth = tenth

    def close(self) -> None:
        """Close the bar, however training ended."""
        self._open.close()


class MarkCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint as whole once the trainer has written all of it."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint of this step."""
        self.checkpoints.mark(state.global_step)
