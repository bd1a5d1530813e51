"""One adapter on its way through the packed engine: which rows come next, where it stands, what is written of it."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError  # noqa: TID253
from safetensors.torch import load_file, save_file  # noqa: TID253
from torch import Tensor  # noqa: TID253

from fgpipe import store
from fgpipe.errors import TrainingError
from fgpipe.progress import say
from fgpipe.training.fast.bank import Copy, initial_state
from fgpipe.training.fast.engine import Update
from fgpipe.training.held_out import HeldOut, is_due
from fgpipe.training.packing import Part, TokenRows
from fgpipe.training.run import TrainingRun
from fgpipe.training.schedule import learning_rate_factor
from fgpipe.training.shapes import Ladder, MicroBatch, cut

STATE = "state.safetensors"
PROGRESS = "progress.json"


MOST_COPIES = 16
"""Checkpoints that wait to be written. Each is in pinned memory, 43 MiB at rank 16 on FunctionGemma, which the system
cannot use for anything else."""


class Writer:
    """Writes checkpoints in a thread of its own, in the order they come."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._open: deque[Future[None]] = deque()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def make_room(self) -> None:
        """Return when fewer than MOST_COPIES wait."""
        while len(self._open) >= MOST_COPIES:
            futures.wait([self._open.popleft()])

    def submit(self, write: Callable[..., None], *args: Any) -> Future[None]:
        """Have `write(*args)` done."""
        self._open = deque(future for future in self._open if not future.done())
        self._open.append(self._thread.submit(write, *args))
        return self._open[-1]


class Job:
    """The progress of one `TrainingRun`; `step` counts finished optimizer steps.

    Args:
        run: what is trained.
        writer: writes checkpoints meanwhile.
    """

    def __init__(self, run: TrainingRun, writer: Writer) -> None:
        self.run = run
        self._writer = writer
        self._writing: Future[None] | None = None
        self.rows = TokenRows(run.columns)
        self.held_out = TokenRows(run.held_out) if run.held_out is not None else None
        self.steps = run.todo.steps
        self.step = 0
        self._planned = 0
        self.log: list[dict[str, Any]] = []
        self.stopped = False
        """Whether it ends before its plan, as its held-out loss no longer falls."""
        self.history = HeldOut(run.config)
        self._order: tuple[int, list[list[int]]] = (-1, [])
        self._queue: deque[MicroBatch] = deque()
        self._labels = 0
        self._loss_sum = 0.0
        self._tokens = 0
        self._planned_tokens: deque[int] = deque()
        self._since = (0, 0.0, 0)
        self.remaining_tokens = 0

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.stopped or self.step >= self.steps

    def begin(self) -> dict[str, Tensor]:
        """Where to start from: the last checkpoint, or an untrained adapter.

        Raises:
            TrainingError: the checkpoint cannot be read.
        """
        run, found = self.run, self.run.checkpoints.latest()
        if found is None:
            state = initial_state(run.model.shape, run.lora, seed=run.seed)
        else:
            try:
                progress = store.read_json(found / PROGRESS)
                self.step = self._planned = progress["step"]
                self.log = progress["log"]
                state = load_file(found / STATE)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                raise TrainingError(
                    f"{found}: got {error!r}, expected a whole checkpoint",
                    hint="remove that folder; it goes on without",
                ) from error
            say(f"{run.name}: resuming from step {self.step} of {self.steps}")
        self.history = HeldOut(run.config, self.log)
        self._tokens = run.order.tokens_until(self.step)
        self._since = (self.step, time.monotonic(), self._tokens)
        self.remaining_tokens = run.order.tokens_until(self.steps) - self._tokens
        run.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        store.write_jsonl(self._metrics, self.log)
        return state

    def next_batch(self, shapes: Ladder) -> MicroBatch:
        """What goes through the model next; stays next until `take`."""
        if not self._queue:
            epoch, place = divmod(self._planned, self.run.order.steps_per_epoch)
            rows = self._epoch(epoch)[place]
            self._queue.extend(cut(rows, self.rows.lengths, self.rows.labels, shapes))
            self._labels = sum(self.rows.labels[row] for row in rows)
            self._planned_tokens.append(sum(self.rows.lengths[row] for row in rows))
        return self._queue[0]

    def take(self, slot: int) -> tuple[Part, Update | None]:
        """The next micro-batch as a part, and the update if it is the last of its step."""
        part = Part(slot, self.rows, self._queue.popleft(), self._labels)
        self.remaining_tokens -= part.batch.tokens
        if self._queue:
            return part, None
        self._planned += 1
        return part, Update(
            number=self._planned,
            learning_rate=self.learning_rate(self._planned - 1),
            weight_decay=self.run.config.weight_decay,
            max_grad_norm=self.run.config.max_grad_norm,
        )

    def finish_step(self) -> None:
        """Take note that the step whose update `take` gave last has run."""
        self.step += 1
        self._tokens += self._planned_tokens.popleft()

    def learning_rate(self, step: int) -> float:
        """At `step`, counted from 0."""
        config, todo = self.run.config, self.run.todo
        factor = learning_rate_factor(config.scheduler, step, steps=todo.steps, warmup_steps=todo.warmup_steps)
        return config.learning_rate * factor

    def add_loss(self, loss_sum: float) -> None:
        """Of steps finished since the last time."""
        self._loss_sum += loss_sum

    def logs_now(self) -> bool:
        """Whether a line is due after the last finished step."""
        return self.step % self.run.config.log_every_steps == 0

    def line(self, grad_norm: float) -> dict[str, Any]:
        """The line of the log for the steps since the last one."""
        step, now, tokens = self.step, time.monotonic(), self._tokens
        before, since, tokens_before = self._since
        line = {
            "step": step,
            "epoch": step / self.run.order.steps_per_epoch,
            "loss": self._loss_sum / (step - before),
            "learning_rate": self.learning_rate(step - 1),
            "grad_norm": grad_norm,
            "tokens": tokens,
            "tokens_per_s": round((tokens - tokens_before) / (now - since), 1),
        }
        self._since, self._loss_sum = (step, now, tokens), 0.0
        self._append(line)
        return line

    def evaluates_now(self) -> bool:
        """Whether the held-out loss is wanted after the last finished step."""
        return is_due(self.run.config, self.step, self.steps)

    def observe(self, loss: float, weights: dict[str, Tensor]) -> None:
        """Log a held-out loss, keep the best adapter, and stop if it no longer falls."""
        lowest = self.history.observe(self.step, loss)
        self._append({"step": self.step, "epoch": self.step / self.run.order.steps_per_epoch, "held_out_loss": loss})
        if lowest and self.history.keeps_best:
            with store.new_folder(self._best) as folder:
                save_file(weights, folder / STATE)
        self.stopped = self.history.stop

    def saves_now(self) -> bool:
        """Whether a checkpoint is due after the last finished step."""
        return not self.done and self.step % self.run.config.checkpoint_every_steps == 0

    def save(self, copy: Copy) -> None:
        """Have a checkpoint of the last finished step written, while the steps go on.

        Args:
            copy: of the slot, made after that step and before the next.
        """
        if self._writing is not None:
            self._writing.result()  # what kept the one before from being written
        self._writer.make_room()
        self._writing = self._writer.submit(self._save, copy, self.step, list(self.log))

    def settle(self, *, keep: bool) -> None:
        """Return when no checkpoint is being written, nor will be.

        Args:
            keep: whether one that waits is written first, rather than dropped.
        """
        if self._writing is not None and (keep or not self._writing.cancel()):
            futures.wait([self._writing])
        self._writing = None

    def _save(self, copy: Copy, step: int, log: list[dict[str, Any]]) -> None:
        folder = self.run.checkpoints.folder / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(copy.state(self.run.lora), folder / STATE)
        store.write_json(folder / PROGRESS, {"step": step, "log": log})
        self.run.checkpoints.mark(step)

    def result(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The adapter to keep, of its last weights and the best."""
        return load_file(self._best / STATE) if self.history.keeps_best else weights

    def _append(self, line: dict[str, Any]) -> None:
        self.log.append(line)
        with open(self._metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def _epoch(self, number: int) -> list[list[int]]:
        """Rows of each step of an epoch, remembered while it lasts."""
        if self._order[0] != number:
            self._order = (number, self.run.order.epoch(number))
        return self._order[1]

    @property
    def _metrics(self) -> Path:
        return self.run.checkpoints.folder / "metrics.jsonl"

    @property
    def _best(self) -> Path:
        return self.run.checkpoints.folder / "best"
