"""Steps of training: forward, backward and AdamW for a bank of adapters, on a GPU as one captured CUDA graph.

Every adapter has its own learning rate, step count, clipping and end of a step, given as numbers on the device, so that
one captured step serves any mixture. Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np  # noqa: TID253
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from fgpipe.errors import TrainingError
from fgpipe.progress import say
from fgpipe.training.fast.bank import Bank, Fetched, fetch, recorded_event
from fgpipe.training.fast.gemma3 import Base, Batch, PackedGemma3
from fgpipe.training.packing import Packed, Part, pack
from fgpipe.training.shapes import Ladder, Shape, Thrift, smallest

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""AdamW's, as TRL has them."""


@dataclass(frozen=True)
class Update:
    """The end of an optimizer step of one adapter."""

    number: int
    """Of the step, from 1."""
    learning_rate: float
    weight_decay: float
    max_grad_norm: float


CONTROLS = ("ends", "learning_rate", "correction1", "correction2", "weight_decay", "max_grad_norm", "number")


@dataclass(frozen=True)
class Report:
    """What has happened to one adapter since its report was last taken."""

    loss_sum: float
    """Of its finished steps."""
    grad_norm: float
    """Of the last finished step, before clipping."""
    bad_step: int
    """First step whose loss or gradient was not finite, and which so changed nothing; 0: none."""
    bad_loss: float
    bad_norm: float


@dataclass(frozen=True)
class Reports:
    """The reports of all slots at one moment."""

    values: Fetched
    """(1, fields of Report, slots)"""

    def read(self) -> list[Report]:
        """One report a slot; waits until they are there."""
        return [Report(row[0], row[1], int(row[2]), row[3], row[4]) for row in self.values.read()[0].t().tolist()]


class Engine:
    """A base with a bank, ready to run steps of the shapes of a ladder."""

    def __init__(self, base: Base, bank: Bank, shapes: Ladder) -> None:
        self.base = base
        self.bank = bank
        self.shapes = shapes
        self.on_gpu = base.device.type == "cuda"
        self.model = PackedGemma3(base, bank, longest=shapes.longest_tokens, on_gpu=self.on_gpu)
        self.losses = torch.zeros(bank.slots + 1, device=base.device)
        """Of the unfinished step of each slot; the last entry takes free places."""
        self.reports = torch.zeros(len(fields(Report)), bank.slots, device=base.device)
        self._optimise: Callable[..., None] = torch.compile(optimise) if self.on_gpu else optimise
        self._graphs: dict[Shape, Captured] = {}
        self._thrift = Thrift()
        self._stream = torch.cuda.Stream() if self.on_gpu else None
        self._memory: torch.cuda.MemPool | None = None
        """Of all graphs and of the passes that warm them up: two never run at the same time."""
        self._pending: list[torch.cuda.Event] = []

    def pack(self, parts: Sequence[Part]) -> Packed:
        """`parts` as a shape that holds them with little to spare."""
        batches = [part.batch for part in parts]
        return pack(parts, self._thrift.choose(self.shapes, batches, self._graphs), self.shapes)

    def run(self, packed: Packed, updates: dict[int, Update]) -> None:
        """One pass over a step's content, then the updates of the slots in `updates`.

        On a GPU it returns before the work is done.
        """
        controls = control_rows(updates, self.bank.slots)
        if not self.on_gpu:
            self._step(*self._tensors(packed, controls))
            return
        if packed.shape not in self._graphs:
            self._capture_or_make_room(packed.shape)
        captured = self._graphs[packed.shape]
        captured.fill(packed, controls)
        captured.graph.replay()
        self._throttle()

    def _capture_or_make_room(self, shape: Shape) -> None:
        if not self.captures(shape):
            say("train: out of memory for another graph; passes share those that are needed")
            self._thrift.stop()
            self.release()
            self.capture(shape)

    def captures(self, shape: Shape) -> bool:
        """Whether `capture` finds memory; nothing that a failed attempt held outlives it."""
        try:
            self.capture(shape)
        except torch.OutOfMemoryError:
            return False
        return True

    def capture(self, shape: Shape) -> None:
        """Compile for `shape` if need be and record the step as a graph; changes no weight.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        assert self._stream is not None
        empty = pack([], shape, self.shapes)
        captured = Captured(*self._tensors(empty, control_rows({}, self.bank.slots)))
        torch.cuda.empty_cache()  # the pool takes no memory from what others have left
        self._memory = self._memory or torch.cuda.MemPool()
        with self._in_the_graphs_memory():
            self._step(captured.batch, captured.controls)
        # Thread by thread: the one that writes checkpoints may wait for the device meanwhile.
        with torch.cuda.graph(
            captured.graph, pool=self._memory.id, stream=self._stream, capture_error_mode="thread_local"
        ):
            self._step(captured.batch, captured.controls)
        self._graphs[shape] = captured

    @contextmanager
    def _in_the_graphs_memory(self) -> Iterator[None]:
        """Inside, work takes the graphs' stream and memory; what it leaves there, the next step overwrites."""
        if self._stream is None or self._memory is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), torch.cuda.use_mem_pool(self._memory):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def release(self) -> None:
        """Forget all graphs and what they hold."""
        if not self.on_gpu:
            return
        torch.cuda.synchronize()
        self._graphs.clear()
        self._memory = None
        torch.cuda.empty_cache()

    def take_reports(self) -> Reports:
        """What has happened until now, and a new beginning of all sums; it does not wait for the device."""
        found = Reports(fetch([self.reports]))
        self.reports[0].zero_()
        return found

    def reset(self, slot: int) -> None:
        """Forget loss and report of a slot that is about to get another adapter."""
        self.losses[slot] = 0.0
        self.reports[:, slot] = 0.0

    def clear(self, slot: int) -> None:
        """Empty a slot whose adapter has failed: what is not finite must not stay."""
        self.bank.clear(slot)
        self.reset(slot)

    def held_out_loss(self, parts: Sequence[Part]) -> float:
        """Sum of the weighted losses of `parts`, which fit one step; no graph, no update."""
        batches = [part.batch for part in parts]
        shape = smallest(self._graphs, batches) or self.shapes.choose(batches)  # whose kernels are compiled
        batch, _ = self._tensors(pack(parts, shape, self.shapes), control_rows({}, self.bank.slots))
        with self._in_the_graphs_memory():
            return float(self.model.losses(batch).sum())

    def _step(self, batch: Batch, controls: Tensor) -> None:
        self.losses.index_add_(0, batch.label_slots, self.model.accumulate(batch))
        bank = self.bank
        self._optimise(
            bank.values, bank.gradients, bank.exp_avg, bank.exp_avg_sq, self.losses[:-1], self.reports, controls
        )

    def _tensors(self, packed: Packed, controls: np.ndarray) -> tuple[Batch, Tensor]:
        device = self.base.device
        found = {name: torch.from_numpy(value).to(device) for name, value in arrays(packed).items()}
        return Batch(**found), torch.from_numpy(controls).to(device)

    def _throttle(self) -> None:
        """Keep at most a few steps ahead of the device."""
        self._pending.append(recorded_event())
        if len(self._pending) > 3:
            self._pending.pop(0).synchronize()


class Captured:
    """A captured step with the tensors it reads."""

    def __init__(self, batch: Batch, controls: Tensor) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.batch = batch
        self.controls = controls

    def fill(self, packed: Packed, controls: np.ndarray) -> None:
        """Put a step's content where the graph reads it."""
        for name, value in arrays(packed).items():
            getattr(self.batch, name).copy_(torch.from_numpy(value).pin_memory(), non_blocking=True)
        self.controls.copy_(torch.from_numpy(controls).pin_memory(), non_blocking=True)


def arrays(packed: Packed) -> dict[str, np.ndarray]:
    """The arrays of a packed step by the names of `Batch`, indices in int64."""
    found = {field.name: getattr(packed, field.name) for field in fields(Batch)}
    kept = ("bounds", "weights")
    return {name: value if name in kept else value.astype(np.int64) for name, value in found.items()}


def control_rows(updates: dict[int, Update], slots: int) -> np.ndarray:
    """(slots, len(CONTROLS)) in float32: what `optimise` reads."""
    rows = np.zeros((slots, len(CONTROLS)), np.float32)
    rows[:, 2:4] = 1.0
    for slot, update in updates.items():
        first, second = (1.0 - beta**update.number for beta in BETAS)
        rows[slot] = (
            1.0, update.learning_rate, first, math.sqrt(second), update.weight_decay, update.max_grad_norm,
            update.number,
        )  # fmt: skip
    return rows


def optimise(
    values: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    losses: Tensor,
    reports: Tensor,
    controls: Tensor,
) -> None:
    """Clip and apply AdamW to the adapters whose step ends here, each by its own numbers; all in place.

    An adapter whose loss or gradient is not finite keeps its weights, and its report says since when. No operation
    mixes rows, so the others do not notice.

    Args:
        values: (slots, size), and so the next three.
        gradients: summed over the step; zero afterwards where it ended.
        exp_avg: first moments.
        exp_avg_sq: second moments.
        losses: (slots,), summed likewise.
        reports: (fields of Report, slots).
        controls: (slots, CONTROLS).
    """
    ends, rate, correction1, correction2, decay, max_norm, number = controls.unbind(1)
    norm = gradients.square().sum(1).sqrt()
    ended = ends > 0
    sound = torch.isfinite(norm) & torch.isfinite(losses)
    goes = (ended & sound)[:, None]
    clip = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    gradient = torch.where(goes, gradients * clip[:, None], 0.0)
    first = torch.where(goes, exp_avg + (gradient - exp_avg) * (1.0 - BETAS[0]), exp_avg)
    second = torch.where(goes, exp_avg_sq * BETAS[1] + gradient * gradient * (1.0 - BETAS[1]), exp_avg_sq)
    step = first / (second.sqrt() / correction2[:, None] + EPSILON) * (rate / correction1)[:, None]
    changed = torch.where(goes, values * (1.0 - rate * decay)[:, None] - step, values)
    exp_avg.copy_(first)
    exp_avg_sq.copy_(second)
    values.copy_(changed)
    gradients.copy_(torch.where(ended[:, None], 0.0, gradients))
    first_bad = ended & ~sound & (reports[2] == 0)
    reports.copy_(
        torch.stack(
            (
                reports[0] + torch.where(ended, losses, 0.0),
                torch.where(ended, norm, reports[1]),
                torch.where(first_bad, number, reports[2]),
                torch.where(first_bad, losses, reports[3]),
                torch.where(first_bad, norm, reports[4]),
            )
        )
    )
    losses.copy_(torch.where(ended, 0.0, losses))


def largest_that_fits(engine: Engine, make: Callable[[int], Ladder]) -> None:
    """Capture the largest shape; if memory does not hold it, halve the ladder until it does, and say so.

    Args:
        engine: on a GPU.
        make: a ladder whose passes have at most that many tokens, or as few as the rows allow.
    """
    while not engine.captures(engine.shapes.largest):
        engine.release()
        before = engine.shapes.largest.tokens
        smaller = make(before // 2)
        if smaller.largest.tokens >= before:
            raise TrainingError(
                f"train: out of memory at {before:,} tokens a pass, which the longest row needs",
                hint="train.backend=trl train.gradient_checkpointing=true, or free what other programs hold",
            )
        engine.shapes = smaller
        say(f"train: out of memory at {before:,} tokens a pass; going on with {smaller.largest.tokens:,}")
