"""Many adapters through one engine: they take slots, share passes, and leave when they are done or have failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor  # noqa: TID253

from fgpipe.errors import TrainingError
from fgpipe.training.fast.bank import weights_of
from fgpipe.training.fast.engine import Engine, Report, Update
from fgpipe.training.fast.job import Job
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
        prepared: Tick | None = None
        while self._seated or prepared:
            tick = prepared or self._prepare()
            prepared = None
            self._engine.run(tick.packed, tick.updates)
            heard = []
            for slot in tick.updates:
                if slot in self._seated:
                    job = self._seated[slot]
                    job.finish_step()
                    self._listener.stepped(job)
                    if self._wants_report(job):
                        heard.append(slot)
            if heard:
                if not any(self._changes_what_follows(self._seated[slot]) for slot in heard):
                    prepared = self._prepare()  # while the device works; waiting for its report comes after
                self._hear(heard)
            if prepared is None:
                self._fill_slots()

    def _fill_slots(self) -> None:
        for slot in range(self._engine.bank.slots):
            while slot not in self._seated and self._waiting:
                job = self._waiting.popleft()
                state = job.begin()
                self._engine.bank.seat(slot, state, job.run.lora)
                self._engine.reset(slot)
                self._seated[slot] = job
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

    def _hear(self, slots: list[int]) -> None:
        """Take the reports of all, and do what is due for the jobs in `slots`."""
        reports = self._engine.take_reports()
        for slot, job in list(self._seated.items()):
            job.add_loss(reports[slot].loss_sum)
            if reports[slot].bad_step:
                self._fail(slot, reports[slot])
        for slot in slots:
            if slot in self._seated:
                self._attend(slot, reports[slot])

    def _attend(self, slot: int, report: Report) -> None:
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
            job.save(bank, slot)

    def _held_out_loss(self, slot: int, job: Job) -> float:
        rows = job.held_out
        assert rows is not None
        order = sorted(range(len(rows.lengths)), key=rows.lengths.__getitem__)
        labels = sum(rows.labels)
        batches = cut(order, rows.lengths, rows.labels, self._engine.shapes)
        return sum(self._engine.held_out_loss([Part(slot, rows, batch, labels)]) for batch in batches)

    def _finish(self, slot: int) -> None:
        job = self._seated.pop(slot)
        job.wait()
        weights = weights_of(self._engine.bank.state(slot, job.run.lora))
        self._listener.finished(job, job.result(weights))

    def _fail(self, slot: int, report: Report) -> None:
        job = self._seated.pop(slot)
        job.wait()
        self._engine.clear(slot)
        error = not_finite(report.bad_step, job.steps, loss=report.bad_loss, norm=report.bad_norm)
        self._listener.failed(job, error)
