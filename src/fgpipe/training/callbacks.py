"""What happens around the steps of a training run: progress, metrics, checkpoints.

Heavy: imports transformers; import it only to train.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: TID253

from fgpipe import progress, store
from fgpipe.training.checkpoints import Checkpoints
from fgpipe.training.held_out import HeldOut, is_due, stopped_early
from fgpipe.training.order import RowOrder
from fgpipe.training.run import TrainingRun

if TYPE_CHECKING:
    from fgpipe.training.trainer import AdapterTrainer

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
        self.append(line)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the file."""
        with open(self.file, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


class HeldOutLoss(TrainerCallback):  # type: ignore[misc]
    """Looks at the loss on held-out rows and logs it; stops the run when it no longer falls, and keeps the best."""

    def __init__(self, run: TrainingRun, trainer: AdapterTrainer, metrics: Metrics) -> None:
        self._run = run
        self._trainer = trainer
        self._metrics = metrics
        self._best = run.checkpoints.folder / "best"
        self._history = HeldOut(run.config)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what was seen before a resume."""
        self._history = HeldOut(self._run.config, state.log_history)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look, if it is time."""
        from fgpipe.training.trainer import save_adapter

        run = self._run
        if run.held_out is None or not is_due(run.config, state.global_step, state.max_steps):
            return
        loss = self._trainer.held_out_loss(run.held_out, self._trainer.data_collator, batch_size=run.config.batch_size)
        lowest = self._history.observe(state.global_step, loss)
        line = {"step": state.global_step, "epoch": state.epoch, "held_out_loss": loss}
        state.log_history.append(line)
        self._metrics.append(line)
        if lowest and self._history.keeps_best:
            with store.new_folder(self._best) as folder:
                save_adapter(self._trainer.model, folder, base_id=run.model.id, revision=run.model.revision)
        if self._history.stop:
            progress.say(stopped_early(state.global_step, state.max_steps, self._history))
            control.should_training_stop = True

    def restore(self, folder: Path) -> None:
        """Make the adapter in `folder` the best one, if that is the one to keep."""
        if self._history.keeps_best:
            name = "adapter_model.safetensors"
            shutil.copyfile(self._best / name, folder / name)


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
        line = next((line for line in reversed(state.log_history) if "loss" in line), None)
        if line is None:
            return
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
