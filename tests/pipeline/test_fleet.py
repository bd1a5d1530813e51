"""Adapters trained together: each as it would be alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from safetensors.torch import load_file

import tiny_random
from fgpipe import store
from fgpipe.artifacts import Adapter, FormattedDataset
from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training import fast_backend, stage
from fgpipe.training.fast.engine import Engine, arrays, control_rows
from fgpipe.training.fast.job import Job
from fgpipe.training.fleet import Event, share_out, train_fleet
from fgpipe.training.packing import Packed, pack
from fgpipe.training.run import TrainingRun
from fgpipe.training.shapes import Shape, ladder
from machines import CPU

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    # name: rows, LoRA, training
    "narrow": (9, {"r": 2, "lora_alpha": 4}, {"learning_rate": 1e-2}),
    "wide": (21, {"r": 8, "lora_alpha": 8}, {"learning_rate": 3e-3, "scheduler": "linear"}),
    "rs": (13, {"r": 4, "use_rslora": True}, {"learning_rate": 5e-3, "weight_decay": 0.1}),
    "queries": (17, {"r": 4, "target_modules": ("q_proj", "v_proj")}, {"learning_rate": 2e-2}),
    "long": (40, {"r": 3}, {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 13}),
    "short": (8, {"r": 4}, {"learning_rate": 1e-2, "max_steps": 2}),
    "clipped": (12, {"r": 4}, {"learning_rate": 1e-2, "max_grad_norm": 0.05, "scheduler": "constant"}),
    "big-batch": (30, {"r": 4}, {"learning_rate": 1e-2, "batch_size": 16}),
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, FormattedDataset]:
    folder = tmp_path_factory.mktemp("data")
    counts = {rows for rows, _, _ in SETTINGS.values()}
    return {rows: tiny_random.formatted(folder / str(rows), tiny_random.toy_rows(rows)) for rows in counts}


class Made(Protocol):
    """Prepares the adapter of SETTINGS by that name, its artefact in `folder`, some settings of training changed."""

    def __call__(self, name: str, folder: Path, **more: Any) -> TrainingRun: ...


@pytest.fixture(scope="module")
def made(datasets: dict[int, FormattedDataset], base_model: ModelConfig) -> Made:
    def prepare(name: str, folder: Path, **more: Any) -> TrainingRun:
        rows, lora, settings = SETTINGS[name]
        defaults = {"batch_size": 8, "max_steps": 6, "log_every_steps": 1, "checkpoint_every_steps": 2}
        return stage.prepare(
            datasets[rows], base_model, LoraConfig(**lora), TrainConfig(**(defaults | settings | more)),
            seed=len(name), name=name, out=folder / name / "train", machine=CPU, backend="fast",
        )  # fmt: skip

    return prepare


def train(members: list[TrainingRun], devices: tuple[str, ...] = ()) -> dict[str, Event]:
    """Train together; each member's last event."""
    last: dict[str, Event] = {}

    def hear(event: Event) -> None:
        last[event.name] = event

    train_fleet(members, hear, devices=devices)
    return last


def weights(one: TrainingRun) -> dict[str, torch.Tensor]:
    return load_file(one.out / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def alone(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Each adapter trained by itself."""
    torch.set_num_threads(1)
    folder, found = tmp_path_factory.mktemp("alone"), {}
    for name in SETTINGS:
        one = made(name, folder)
        train([one])
        found[name] = weights(one)
    return found


def assert_as_alone(members: list[TrainingRun], alone: dict[str, dict[str, torch.Tensor]]) -> None:
    for one in members:
        found, expected = weights(one), alone[one.name]
        assert found.keys() == expected.keys()
        for name, matrix in expected.items():
            assert torch.allclose(found[name], matrix, rtol=0, atol=2e-5), (one.name, name)


def test_each_is_what_it_would_be_alone(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Ranks, scales, modules, rates, schedules, clipping, batch sizes and lengths are each adapter's own."""
    members = [made(name, tmp_path) for name in SETTINGS]
    last = train(members)
    assert {event.kind for event in last.values()} == {"finished"}
    assert_as_alone(members, alone)
    for one in members:
        artefact = Adapter.open(one.out)
        lines = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, one.todo.steps + 1))
        assert artefact.numbers["loss"] == lines[-1]["loss"]
        assert not one.checkpoints.folder.exists()


def test_waiting_adapters_enter_as_others_leave(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slot must keep nothing of the adapter that had it before: no weight, moment, step count or loss."""
    monkeypatch.setattr(fast_backend, "SLOTS", 3)
    members = [made(name, tmp_path) for name in SETTINGS]
    train(members)
    assert_as_alone(members, alone)


class Recorded:
    """In the place of a CUDA graph and the tensors it reads: the step is done again with what they hold now."""

    def __init__(self, engine: Engine, shape: Shape) -> None:
        self.batch, self.controls = engine._tensors(pack([], shape, engine.shapes), control_rows({}, engine.bank.slots))
        self.graph = self
        self.step = engine._step

    def fill(self, packed: Packed, controls: Any) -> None:
        for name, value in arrays(packed).items():
            getattr(self.batch, name).copy_(torch.from_numpy(value))
        self.controls.copy_(torch.from_numpy(controls))

    def replay(self) -> None:
        self.step(self.batch, self.controls)


@pytest.mark.parametrize("cost", [0, 2000, 10**9])
def test_by_graphs_each_is_what_it_would_be_alone(
    cost: int,
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The way a GPU goes, but for the GPU: few shapes, of which some are captured, some passes in larger ones."""
    captured: list[Shape] = []

    class ByGraphs(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.on_gpu = True

        def capture(self, shape: Shape) -> None:
            captured.append(shape)
            self._graphs[shape] = Recorded(self, shape)  # type: ignore[assignment]

        def _throttle(self) -> None: ...

        def release(self) -> None:
            self._graphs.clear()

    monkeypatch.setattr("fgpipe.training.fast.engine.Engine", ByGraphs)
    monkeypatch.setattr("fgpipe.training.shapes.CAPTURE_COST", cost)
    monkeypatch.setattr(
        "fgpipe.training.plan.ladder", lambda *args, **named: ladder(*args, **{**named, "exact": False})
    )
    members = [made(name, tmp_path, evaluate_every_steps=3) for name in SETTINGS]
    last = train(members)
    assert {event.kind for event in last.values()} == {"finished"}
    assert_as_alone(members, alone)
    assert len(captured) == len(set(captured))
    assert len(captured) == 1 if cost == 10**9 else len(captured) > 1


def test_passes_too_small_for_all(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Little memory means several passes a step, at other times for each adapter; nothing else."""
    monkeypatch.setattr("fgpipe.training.plan.PASS_TOKENS", 768)
    members = [made(name, tmp_path) for name in SETTINGS]
    train(members)
    assert_as_alone(members, alone)


@pytest.mark.parametrize("slots", [8, 2])
def test_one_that_is_not_finite_stops_alone(
    slots: int,
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its NaN passes through the same tensors as everyone's tokens, and its slot goes to another."""
    monkeypatch.setattr(fast_backend, "SLOTS", slots)
    poisoned = made("long", tmp_path, learning_rate=1e30, warmup_fraction=0.0)
    others = [made(name, tmp_path) for name in SETTINGS if name != "long"]
    last = train([*others[:3], poisoned, *others[3:]])
    assert last["long"].kind == "failed"
    assert "expected finite numbers" in last["long"].message
    assert not poisoned.out.exists()
    assert_as_alone(others, alone)


def test_one_whose_held_out_loss_is_not_finite_stops_alone(
    made: Made, alone: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """The last step may ruin the weights, and no step after it would say so."""
    looks = {"learning_rate": 1e30, "warmup_fraction": 0.0, "max_steps": 1, "evaluate_every_steps": 1}
    ruined, other = made("long", tmp_path, **looks), made("narrow", tmp_path)
    last = train([ruined, other])
    assert last["long"].kind == "failed"
    assert "held-out loss nan, expected a finite number" in last["long"].message
    assert not ruined.out.exists()
    assert_as_alone([other], alone)


@pytest.mark.parametrize("backend", ["fast", "trl"])
@pytest.mark.parametrize("patience", [None, 1])
def test_a_held_out_loss_that_is_not_finite_is_one_line(
    backend: str,
    patience: int | None,
    datasets: dict[int, FormattedDataset],
    base_model: ModelConfig,
    tmp_path: Path,
) -> None:
    ruin = TrainConfig(
        backend=backend, batch_size=8, max_steps=2, learning_rate=1e30, warmup_fraction=0.0, max_grad_norm=1e30,
        evaluate_every_steps=1, early_stop_evaluations=patience, scheduler="constant",
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"expected a? ?finite number"):
        stage.train(datasets[21], base_model, LoraConfig(r=4), ruin, seed=0, out=tmp_path / "train")
    assert not (tmp_path / "train").exists()


def test_one_whose_files_cannot_be_written_stops_alone(
    made: Made, alone: dict[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that fills up, or is not ours: the others have theirs elsewhere."""
    save = Job._save

    def full(self: Job, *args: Any) -> None:
        if self.run.name == "long":
            raise OSError(28, "No space left on device")
        save(self, *args)

    monkeypatch.setattr(Job, "_save", full)
    members = [made(name, tmp_path) for name in ("long", "narrow", "wide")]
    last = train(members)
    assert last["long"].kind == "failed"
    assert "No space left on device" in last["long"].message
    assert_as_alone(members[1:], alone)


def test_one_whose_checkpoint_is_damaged_is_named_and_stops_alone(
    made: Made, alone: dict[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its folder it begins anew; a fleet that never starts again helps nobody."""
    members = [made(name, tmp_path) for name in ("narrow", "wide")]
    run = Engine.run

    def stop_when_both_have_one(self: Any, packed: Any, updates: Any) -> None:
        if all(any(one.checkpoints.folder.glob("checkpoint-*/complete.json")) for one in members):
            raise KeyboardInterrupt
        run(self, packed, updates)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", stop_when_both_have_one)
        with pytest.raises(KeyboardInterrupt):
            train(members)
    damaged = members[1].checkpoints.latest()
    assert damaged is not None
    (damaged / "state.safetensors").write_bytes(b"torn")
    last = train(members)
    assert (last["narrow"].kind, last["wide"].kind) == ("finished", "failed")
    assert str(damaged) in last["wide"].message
    shutil.rmtree(damaged)
    train(members[1:])
    assert_as_alone(members, alone)


def test_those_that_are_done_stay_done_when_memory_runs_out(
    made: Made, alone: dict[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of other adapters must not be lost with it."""
    members = [made("short", tmp_path), made("narrow", tmp_path)]
    run = Engine.run

    def out_of_memory(self: Any, packed: Any, updates: Any) -> None:
        if members[0].out.exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        run(self, packed, updates)

    monkeypatch.setattr(Engine, "run", out_of_memory)
    last = train(members)
    assert (last["short"].kind, last["narrow"].kind) == ("finished", "failed")
    assert "out of memory in the middle of training" in last["narrow"].message
    assert_as_alone(members[:1], alone)
    monkeypatch.undo()
    train(members[1:])
    assert_as_alone(members, alone)


def test_memory_that_is_short_from_the_start_is_one_line(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("fgpipe.training.fast.bank.Bank", refuse)
    last = train([made("narrow", tmp_path)])
    assert "out of memory before the first step" in last["narrow"].message


def test_fewer_at_a_time_where_the_bank_would_not_fit(made: Made, tmp_path: Path) -> None:
    """Weights, gradients and moments of 64 adapters of rank 128 take more than a small GPU has."""
    members = [made(name, tmp_path) for name in SETTINGS]
    slots, shapes = fast_backend.fitting(members, free_bytes=None)
    assert slots == len(members)
    needed = fast_backend.memory_of(members, shapes)
    for share in (1.0, 0.9, 0.6, 0.4):
        fewer, smaller = fast_backend.fitting(members, free_bytes=int(share * needed))
        assert 1 <= fewer <= slots
        assert fewer == 1 or fast_backend.memory_of(members, smaller) <= share * needed


def test_a_stopped_fleet_goes_on_to_the_same_end(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever was done stays done; the others go on from their own checkpoints."""
    members = [made(name, tmp_path) for name in SETTINGS]
    run, passes = Engine.run, []

    def stop_after_five(self: Any, packed: Any, updates: Any) -> None:
        passes.append(1)
        if len(passes) > 5:
            raise KeyboardInterrupt
        run(self, packed, updates)

    monkeypatch.setattr(Engine, "run", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        train(members)
    monkeypatch.undo()
    done = [one for one in members if one.out.exists()]
    assert [one.name for one in done] == ["short"]
    train([one for one in members if one not in done])
    assert "wide: resuming from step 4 of 6" in capsys.readouterr().err
    assert_as_alone(members, alone)
    for one in members:  # no line lost or written twice, though steps went on while they were written
        assert [line["step"] for line in store.read_jsonl(one.out / "metrics.jsonl")] == list(
            range(1, one.todo.steps + 1)
        )


def test_an_adapter_begun_together_is_finished_alone(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint holds the adapter at its own rank, not the fleet's."""
    members = [made(name, tmp_path) for name in ("narrow", "wide")]
    run = Engine.run

    def stop_in_step_five(self: Any, packed: Any, updates: Any) -> None:
        if any(update.number == 5 for update in updates.values()):
            raise KeyboardInterrupt
        run(self, packed, updates)

    monkeypatch.setattr(Engine, "run", stop_in_step_five)
    with pytest.raises(KeyboardInterrupt):
        train(members)
    monkeypatch.undo()
    train(members[:1])
    assert_as_alone(members[:1], alone)


def test_several_processes(
    made: Made,
    alone: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """On a host with several GPUs each trains a share; here two processes on the CPU."""
    members = [made(name, tmp_path) for name in ("narrow", "wide", "rs", "short")]
    last = train(members, devices=("", ""))
    assert {event.kind for event in last.values()} == {"finished"}
    assert_as_alone(members, alone)


def test_a_process_that_dies_fails_its_adapters_alone(made: Made, tmp_path: Path) -> None:
    """A GPU may fall off the bus; what the other one trains must arrive."""
    first = made("long", tmp_path, max_steps=4000)
    second = made("narrow", tmp_path)
    last: dict[str, Event] = {}

    def hear(event: Event) -> None:
        last[event.name] = event
        if event.name == "long" and event.kind == "stepped" and event.step == 2:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
            workers = sorted(int(pid) for pid, line in lines.items() if b"spawn_main" in line)
            os.kill(workers[0], signal.SIGKILL)

    train_fleet([first, second], hear, devices=("", ""))
    assert (last["long"].kind, last["narrow"].kind) == ("failed", "finished")
    assert "status -9" in last["long"].message


def test_shares_are_about_equal(made: Made, tmp_path: Path) -> None:
    """The slowest GPU decides when a fleet is done."""
    members = [made(name, tmp_path) for name in SETTINGS]
    shares = share_out(members, 3)
    assert sorted(one.name for share in shares for one in share) == sorted(SETTINGS)
    tokens = [sum(one.todo.tokens * one.todo.epochs for one in share) for share in shares]
    largest = max(one.todo.tokens * one.todo.epochs for one in members)
    assert max(tokens) - min(tokens) <= largest


def test_held_out_losses_are_heard(made: Made, tmp_path: Path) -> None:
    """The table of a fleet has a column for them."""
    heard = []
    looks = {"evaluate_every_steps": 2, "log_every_steps": 3}
    train_fleet([made("narrow", tmp_path, **looks)], heard.append, devices=())
    lines = [event.line for event in heard if event.kind == "logged" and event.line is not None]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "loss" in line] == [3, 6]


def test_early_stop_keeps_the_best_of_each(
    datasets: dict[int, FormattedDataset], base_model: ModelConfig, tmp_path: Path
) -> None:
    """A rate that soon overshoots: the run ends early, and what is kept is the adapter of the lowest loss."""
    settings = {"learning_rate": 0.3, "max_steps": 40, "warmup_fraction": 0.0, "scheduler": "constant"}
    looks = {"evaluate_every_steps": 2, "early_stop_evaluations": 3, "log_every_steps": 2}
    both = {}
    for backend in ("fast", "trl"):
        rows = datasets[21]
        config = TrainConfig(backend=backend, batch_size=8, **settings, **looks)
        adapter = stage.train(rows, base_model, LoraConfig(r=4), config, seed=0, out=tmp_path / backend / "train")
        lines = [json.loads(line) for line in (adapter.path / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
        best = min(losses, key=losses.__getitem__)
        assert max(losses) == best + 6 < 40
        assert adapter.numbers["held_out_loss"] == losses[best]
        until_best = TrainConfig(backend=backend, batch_size=8, **(settings | {"max_steps": best}))
        expected = stage.train(rows, base_model, LoraConfig(r=4), until_best, seed=0, out=tmp_path / backend / "best")
        both[backend] = losses
        found, wanted = (load_file(one.path / "adapter_model.safetensors") for one in (adapter, expected))
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert both["fast"][2] == pytest.approx(both["trl"][2], rel=1e-4)  # later this rate makes chaos of rounding
