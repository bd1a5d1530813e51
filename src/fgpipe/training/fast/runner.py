"""Many adapters through one engine: they take slots, share passes, and leave when they are done or have failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from safetensors import SafetensorError  # noqa: TID253
from torch import Tensor  # noqa: TID253

from fgpipe.errors import TrainingError
from fgpipe.training.fast.bank import Copy, weights_of
from fgpipe.training.fast.engine import Engine, Report, Reports, Update
from fgpipe.training.fast.job import MOST_COPIES, Job
from fgpipe.training.packing import Packed, Part
from fgpipe.training.run import not_finite
from fgpipe.training.shapes import cut, fill


class Listener(Protocol):
    """Hears how jobs fare."""

    def seated(self, job: Job) -> None:
        """It begins, or goes on from a checkpoint."""

    def stepped(self, job: Job) -> None:
        """It has finished a step."""

    def logged(self, job: Job) -> None:
        """It has a new line in its log."""

    def finished(self, job: Job, weights: dict[str, Tensor]) -> None:
        """It is done; `weights` by PEFT's names."""

    def failed(self, job: Job, error: TrainingError) -> None:
        """It will not go on."""


@dataclass(frozen=True)
class Tick:
    """A pass, and the updates after it by slot."""

    packed: Packed
    updates: dict[int, Update]


@dataclass(frozen=True)
class Asked:
    """What the device was asked for after a pass."""

    slots: list[int]
    """Whose jobs have something due."""
    reports: Reports
    copies: dict[int, Copy]
    """For checkpoints, by slot."""
    first: bool
    """Whether it must be heard before the next pass: it may change what goes in there, or is too much to keep."""


class Runner:
    """Trains `jobs` on `engine` until all are done or have failed."""

    def __init__(self, engine: Engine, jobs: Iterable[Job], listener: Listener) -> None:
        self._engine = engine
        self._waiting = deque(jobs)
        self._listener = listener
        self._seated: dict[int, Job] = {}

    def run(self) -> None:
        """Train. What a listener raises ends all."""
        self._fill_slots()
        asked: Asked | None = None
        while self._seated:
            tick = self._prepare()
            self._engine.run(tick.packed, tick.updates)
            if asked is not None:  # only now: the device has the next pass to work on meanwhile
                self._hear(asked)
            asked = self._finish_steps(tick)
            if asked is not None and asked.first:
                self._hear(asked)
                asked = None
            self._fill_slots()

    def _finish_steps(self, tick: Tick) -> Asked | None:
        """Count the steps that `tick` ends, and ask the device for what is due then, if anything is."""
        ended = [slot for slot in tick.updates if slot in self._seated]
        for slot in ended:
            self._seated[slot].finish_step()
            self._listener.stepped(self._seated[slot])
        due = [slot for slot in ended if self._wants_report(self._seated[slot])]
        if not due:
            return None
        saving = [slot for slot in due if self._seated[slot].saves_now()]
        first = len(saving) > MOST_COPIES or any(self._changes_what_follows(self._seated[slot]) for slot in due)
        copies = {} if first else {slot: self._engine.bank.copy(slot) for slot in saving}
        return Asked(due, self._engine.take_reports(), copies, first)

    def _fill_slots(self) -> None:
        for slot in range(self._engine.bank.slots):
            while slot not in self._seated and self._waiting:
                job = self._waiting.popleft()
                self._seated[slot] = job
                with self._alone(slot, job):
                    self._engine.bank.seat(slot, job.begin(), job.run.lora)
                    self._engine.reset(slot)
                    self._listener.seated(job)
                    if job.done:
                        self._finish(slot)

    def _prepare(self) -> Tick:
        """The next pass: the jobs with most work left first, so that all end together and the last are not alone."""
        slots = sorted(self._seated, key=lambda slot: -self._seated[slot].remaining_tokens)
        batches = [self._seated[slot].next_batch(self._engine.shapes) for slot in slots]
        parts: list[Part] = []
        updates: dict[int, Update] = {}
        for slot in (slots[place] for place in fill(batches, self._engine.shapes)):
            part, update = self._seated[slot].take(slot)
            parts.append(part)
            if update is not None:
                updates[slot] = update
        return Tick(self._engine.pack(parts), updates)

    @staticmethod
    def _wants_report(job: Job) -> bool:
        return job.logs_now() or job.evaluates_now() or job.saves_now() or job.done

    @staticmethod
    def _changes_what_follows(job: Job) -> bool:
        return job.evaluates_now() or job.done

    def _hear(self, asked: Asked) -> None:
        """Take the reports of all, and do what is due for the jobs that asked."""
        reports = asked.reports.read()
        for slot, job in list(self._seated.items()):
            report = reports[slot]
            job.add_loss(report.loss_sum)
            if report.bad_step:
                error = not_finite(report.bad_step, job.steps, loss=report.bad_loss, norm=report.bad_norm)
                self._fail(slot, job, error)
        for slot in asked.slots:
            if slot in self._seated:
                with self._alone(slot, self._seated[slot]):
                    self._attend(slot, reports[slot], asked.copies.get(slot))

    def _attend(self, slot: int, report: Report, copy: Copy | None) -> None:
        job, bank = self._seated[slot], self._engine.bank
        if job.evaluates_now():
            loss = self._held_out_loss(slot, job)
            job.observe(loss, weights_of(bank.state(slot, job.run.lora)))
            self._listener.logged(job)
        if job.logs_now():
            job.line(report.grad_norm)
            self._listener.logged(job)
        if job.done:
            self._finish(slot)
        elif job.saves_now():
            job.save(copy or bank.copy(slot))

    def _held_out_loss(self, slot: int, job: Job) -> float:
        rows = job.held_out
        assert rows is not None
        order = sorted(range(len(rows.lengths)), key=rows.lengths.__getitem__)
        labels = sum(rows.labels)
        batches = cut(order, rows.lengths, rows.labels, self._engine.shapes)
        return sum(self._engine.held_out_loss([Part(slot, rows, batch, labels)]) for batch in batches)

    def _finish(self, slot: int) -> None:
        job = self._seated.pop(slot)
        job.settle(keep=False)
        weights = weights_of(self._engine.bank.state(slot, job.run.lora))
        self._listener.finished(job, job.result(weights))

    @contextmanager
    def _alone(self, slot: int, job: Job) -> Iterator[None]:
        """What goes wrong inside ends that job, and no other."""
        try:
            yield
        except TrainingError as error:
            self._fail(slot, job, error)
        except (OSError, SafetensorError) as error:
            what = TrainingError(f"step {job.step} of {job.steps}: got {error}, expected to read and write its files")
            self._fail(slot, job, what)

    def _fail(self, slot: int, job: Job, error: TrainingError) -> None:
        self._seated.pop(slot, None)
        job.settle(keep=True)
        self._engine.clear(slot)
        self._listener.failed(job, error)
