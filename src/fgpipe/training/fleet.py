"""Many adapters in one process a GPU: shared out, trained together, each written as soon as it is done."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from fgpipe.artifacts import Adapter, writing
from fgpipe.errors import FgpipeError, TrainingError
from fgpipe.training.run import TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

    from fgpipe.training.fast.job import Job


@dataclass(frozen=True)
class Event:
    """What has happened to an adapter."""

    name: str
    kind: str
    """seated, stepped, logged, finished or failed"""
    step: int = 0
    line: dict[str, Any] | None = None
    """The last of its log, if logged."""
    message: str = ""
    """Why it failed."""
    hint: str = ""


Hear = Callable[[Event], None]


def train_fleet(runs: Sequence[TrainingRun], hear: Hear, *, devices: Sequence[str]) -> None:
    """Train all adapters; what becomes of each is heard, and one that fails leaves the others alone.

    Args:
        runs: they share a base.
        hear: called in this process, one event at a time.
        devices: a process each, if there are several: values of CUDA_VISIBLE_DEVICES.
    """
    if len(devices) <= 1:
        _train(runs, hear)
        return
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        for device, share in zip(devices, share_out(runs, len(devices)), strict=False):
            # A pipe each: in a queue for all, one that is killed while it writes would keep the others from writing.
            events, end = context.Pipe(duplex=False)
            process = context.Process(target=_train_on, args=(device, share, end), daemon=True)
            process.start()
            end.close()
            workers.append(_Worker(process, events, {run.name for run in share}))
        _listen(workers, hear)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


@dataclass
class _Worker:
    process: Any
    events: Connection
    open: set[str]
    """Adapters of whom no end was heard."""


def share_out(runs: Sequence[TrainingRun], count: int) -> list[list[TrainingRun]]:
    """`count` shares of about equal numbers of tokens: the largest adapter first, to the smallest share."""
    shares: list[list[TrainingRun]] = [[] for _ in range(count)]
    tokens = [0.0] * count
    for run in sorted(runs, key=_tokens, reverse=True):
        smallest = tokens.index(min(tokens))
        shares[smallest].append(run)
        tokens[smallest] += _tokens(run)
    return [share for share in shares if share]


def _tokens(run: TrainingRun) -> float:
    return run.todo.tokens * run.todo.epochs


def _listen(workers: Sequence[_Worker], hear: Hear) -> None:
    """Pass events on until every process has closed its pipe; whoever had no end by then has failed."""
    left = {worker.events: worker for worker in workers}
    while left:
        for events in wait(list(left)):
            worker = left[events]  # type: ignore[index]
            try:
                event: Event = worker.events.recv()
            except EOFError:
                del left[worker.events]
                worker.process.join()
                for name in sorted(worker.open):
                    message = (
                        f"{name}: got the end of its process (status {worker.process.exitcode}), expected an adapter"
                    )
                    hear(Event(name, "failed", message=message, hint="run the fleet again: it goes on from there"))
                continue
            if event.name not in worker.open:
                continue  # the process failed as a whole after this one was done
            if event.kind in ("finished", "failed"):
                worker.open.discard(event.name)
            hear(event)


def _train_on(device: str, runs: Sequence[TrainingRun], events: Connection) -> None:
    """In a process of its own."""
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    _train(runs, events.send)


def _train(runs: Sequence[TrainingRun], hear: Hear) -> None:
    from fgpipe.training import fast_backend

    recorder = _Recorder(hear)
    try:
        fast_backend.train_together(runs, recorder)
    except FgpipeError as error:  # of all that are not done: memory, the base
        for run in runs:
            if run.name not in recorder.ended:
                hear(Event(run.name, "failed", message=error.message, hint=error.hint))


class _Recorder:
    """Writes what is finished, and tells of everything."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self.ended: set[str] = set()

    def seated(self, job: Job) -> None:
        self._hear(Event(job.run.name, "seated", step=job.step))

    def stepped(self, job: Job) -> None:
        self._hear(Event(job.run.name, "stepped", step=job.step))

    def logged(self, job: Job) -> None:
        self._hear(Event(job.run.name, "logged", step=job.step, line=job.log[-1]))

    def finished(self, job: Job, weights: dict[str, Tensor]) -> None:
        from fgpipe.training import stage
        from fgpipe.training.fast_backend import save_adapter

        run = job.run
        with writing(Adapter, run.out, **run.identity) as draft:
            save_adapter(weights, run, draft.path)
            stage.describe(draft, run, job.log)
        run.checkpoints.remove()
        self.ended.add(run.name)
        self._hear(Event(job.run.name, "finished", step=job.step))

    def failed(self, job: Job, error: TrainingError) -> None:
        self.ended.add(job.run.name)
        self._hear(Event(job.run.name, "failed", step=job.step, message=error.message, hint=error.hint))
