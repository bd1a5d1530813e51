"""The fast back end: one adapter, or many together, through the packed engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import progress
from fgpipe.errors import TrainingError
from fgpipe.models import base
from fgpipe.progress import say
from fgpipe.training.choose import this_machine
from fgpipe.training.held_out import stopped_early
from fgpipe.training.peft_files import peft_config, read_peft, write_config
from fgpipe.training.plan import fast_memory_bytes, fast_shapes
from fgpipe.training.run import TrainingRun, labels_of
from fgpipe.training.shapes import Ladder

if TYPE_CHECKING:
    from torch import Tensor

    from fgpipe.training.fast.job import Job
    from fgpipe.training.fast.runner import Listener


def fit(run: TrainingRun, folder: Path) -> list[dict[str, Any]]:
    """Train, write the adapter to `folder`, and return the lines of the log.

    Raises:
        TrainingError: loss or gradient is not finite.
    """
    alone = Alone(run, folder)
    with alone:
        train_together([run], alone)
    return alone.log


def train_together(runs: Sequence[TrainingRun], listener: Listener) -> None:
    """Train all `runs`, which share a base, in one process; the listener hears of each."""
    start = time.monotonic()
    keep_compiled()
    base.watch_memory()
    import torch

    from fgpipe.training.fast.bank import Bank, Layout
    from fgpipe.training.fast.engine import Engine, largest_that_fits
    from fgpipe.training.fast.gemma3 import take_base
    from fgpipe.training.fast.job import Job, Writer
    from fgpipe.training.fast.runner import Runner

    model = runs[0].model
    slots, shapes = fitting(runs, free_bytes=this_machine(model).free_bytes)
    if len(runs) > 1:
        gib = memory_of(runs, shapes) / 2**30
        passes = f"at most {shapes.largest.tokens:,} tokens a pass, about {gib:.3g} GiB"
        say(f"train: {len(runs)} adapters, {slots} at a time, {passes}")
    when = "before the first step"
    with base.fast_float32(), ExitStack() as stack:
        try:
            frozen = take_base(base.load_model(model, training=False), positions=shapes.longest_tokens)
            bank = Bank(Layout(model.shape, max(run.lora.r for run in runs)), slots, frozen.device)
            engine = Engine(frozen, bank, shapes)
            stack.callback(engine.release)
            loaded = time.monotonic()
            if engine.on_gpu:
                largest_that_fits(engine, lambda tokens: shapes_for(runs, slots=slots, tokens=tokens))
                say(f"train: base loaded in {loaded - start:.1f} s, compiled in {time.monotonic() - loaded:.1f} s")
            when = "in the middle of training"
            with Writer() as writer:
                writer.submit(read_peft)  # takes seconds, and is wanted when the first adapter is done
                Runner(engine, [Job(run, writer) for run in runs], listener).run()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"train: out of memory {when} ({str(error).splitlines()[0]})",
                hint="another program has taken what was free; run it again, it goes on from the last checkpoint",
            ) from error


SLOTS = 64
"""Most adapters that are trained at the same time; the others wait for a slot."""


def shapes_for(
    runs: Sequence[TrainingRun], *, slots: int, tokens: int | None = None, free_bytes: int | None = None
) -> Ladder:
    """The shapes of passes for these runs, keeping to `tokens` a pass and to `free_bytes` of memory, if given."""
    lengths = [length for run in runs for length in run.order.lengths]
    labels = [count for run in runs for count in run.loss_tokens]
    for run in runs:
        if run.held_out is not None:
            lengths += [len(ids) for ids in run.held_out["input_ids"]]
            labels += labels_of(run.held_out)
    wanted = sum(sorted((run.todo.largest_step_tokens for run in runs), reverse=True)[:slots])
    return fast_shapes(
        lengths,
        labels,
        runs[0].model.shape,
        ranks=sorted((run.lora.r for run in runs), reverse=True)[:slots],
        device=runs[0].todo.device,
        dtype=runs[0].todo.dtype,
        tokens=min(wanted, tokens or wanted),
        free_bytes=free_bytes,
    )


def fitting(runs: Sequence[TrainingRun], *, free_bytes: int | None) -> tuple[int, Ladder]:
    """How many adapters are trained at the same time, and the shapes of their passes; as much as fits."""
    slots = min(len(runs), SLOTS)
    while True:
        shapes = shapes_for(runs, slots=slots, free_bytes=free_bytes)
        if slots == 1 or free_bytes is None or memory_of(runs, shapes) <= free_bytes:
            return slots, shapes
        slots = max(1, slots * 7 // 8)


def memory_of(runs: Sequence[TrainingRun], shapes: Ladder) -> int:
    """What these runs take with passes of `shapes`, in bytes of tensors."""
    rank, first = max(run.lora.r for run in runs), runs[0]
    return fast_memory_bytes(first.model.shape, shapes, rank=rank, dtype=first.todo.dtype)


def keep_compiled() -> None:
    """Have PyTorch keep compiled kernels between runs and reboots, unless the user has said where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fgpipe" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))


def save_adapter(weights: dict[str, Tensor], run: TrainingRun, folder: Path) -> None:
    """Write a PEFT adapter, as the other back end does."""
    from safetensors.torch import save_file

    write_config(peft_config(run.lora), folder, base_id=run.model.id, revision=run.model.revision)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


class Alone:
    """Listens to a single run: a bar with loss and tokens/s, ten lines a run where there is no terminal."""

    def __init__(self, run: TrainingRun, folder: Path) -> None:
        self.log: list[dict[str, Any]] = []
        self._run = run
        self._folder = folder
        self._open = ExitStack()
        self._tenth = 0

    def __enter__(self) -> Alone:
        self._bar, self._task = self._open.enter_context(progress.bar("train", self._run.todo.steps))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def seated(self, job: Job) -> None:
        """Move the bar to where a resumed run stands."""
        self._bar.update(self._task, completed=job.step)

    def stepped(self, job: Job) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=job.step)

    def logged(self, job: Job) -> None:
        """Show the figures of the last line."""
        line = job.log[-1]
        if "loss" not in line:
            return
        note = f"loss {line['loss']:.4f}  {line['tokens_per_s']:,.0f} tokens/s"
        self._bar.update(self._task, note=note)
        tenth = 10 * job.step // job.steps
        if not sys.stderr.isatty() and tenth > self._tenth:
            say(f"train: step {job.step} of {job.steps}, {note}")
            self._tenth = tenth

    def finished(self, job: Job, weights: dict[str, Tensor]) -> None:
        """Write the adapter."""
        if job.stopped:
            say(stopped_early(job.step, job.steps, job.history))
        self.log = job.log
        save_adapter(weights, self._run, self._folder)

    def failed(self, job: Job, error: TrainingError) -> None:
        """End with the error."""
        raise error
