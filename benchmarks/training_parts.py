"""The parts of `training.py`: what is run for each, and which figures are taken from it."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import training_report
from training_base import Base, make_base, make_rows
from training_peers import WAYS
from training_run import (
    Done,
    FailedError,
    Runner,
    intervals,
    log_lines,
    rate,
    read_json,
    speeds,
    spread,
    stage_seconds,
    together,
)


@dataclass(frozen=True)
class Counts:
    """How much is done."""

    rows: int = 2400
    steps: dict[int, int] = field(default_factory=lambda: {6: 1200, 46: 240})
    """By rows a step: 6 are about 2,100 tokens, 46 about 15,700."""
    peer_tokens: int = 4_000_000
    """Trained by the packed engine beside its peers."""
    trl_steps: int = 60
    warm_s: float = 8
    window_s: float = 6
    windows: int = 3
    fleet: tuple[int, int, int] = (16, 600, 300)
    """Adapters, rows, steps of 6 rows"""
    fleet20: tuple[int, int, int] = (20, 1176, 3)
    """Adapters, rows (of which 15 % are held out), epochs"""
    agreement_tokens: int = 4096
    """of each of two adapters"""
    trajectory_steps: int = 50
    trials: tuple[int, int, int] = (46, 90, 30)
    """Rows a step, steps, steps from one checkpoint or evaluation to the next"""
    cpu: tuple[int, int] = (8, 4)
    """Steps, rounds"""


QUICK = Counts(
    rows=90,
    steps={6: 12, 46: 4},
    peer_tokens=40_000,
    trl_steps=4,
    warm_s=1,
    window_s=1,
    windows=2,
    fleet=(3, 40, 6),
    fleet20=(2, 40, 1),
    agreement_tokens=1024,
    trajectory_steps=6,
    trials=(6, 12, 4),
    cpu=(2, 2),
)
"""Enough to see that everything works."""

PEERS = ("fgpipe-fast-b16", "fgpipe-fast-b46", "fgpipe-trl-b16", *WAYS)
"""fgpipe's back ends by rows a step, and what others do."""


class Bench:
    """What the parts share."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.counts = QUICK if chosen.shape == "tiny" else Counts()
        self.shape: str = chosen.shape
        self.words: list[str] = [*(["train.log_every_steps=1"] if self.counts is QUICK else []), *chosen.words]
        self.ways: list[str] = chosen.ways.split(",") if chosen.ways else list(PEERS)
        self.unsloth_site: Path | None = chosen.unsloth_site and chosen.unsloth_site.resolve()
        self.data: Path = chosen.data.resolve()
        self.work = self.data / f"run-{uuid.uuid4().hex[:8]}"
        """Of this run alone: nothing of an earlier one is taken for up to date."""
        self.runner = Runner(self.work / "logs", until=chosen.began + chosen.limit_s)

    @cached_property
    def base(self) -> Base:
        """What is trained on, made when it is first needed."""
        return make_base(self.data, self.shape)

    def rows(self, name: str, count: int, seed: int = 0) -> Path:
        """A file of rows."""
        return make_rows(self.data / "rows" / f"{name}-{count}-{seed}.jsonl", self.base, count=count, seed=seed)

    def words_for(self, rows: Path, run: Path, *more: str) -> list[str]:
        """Words of a command on these rows that leaves its artefacts in `run`."""
        return [*self.base.words, f"task.dataset.source={rows}", f"paths.run={run}", *more, *self.words]

    def train(self, name: str, rows: Path, run: Path, *more: str, cache: Path) -> Done:
        """`python -m fgpipe train …`, whatever is there already, with compiled kernels kept in `cache`."""
        words = self.words_for(rows, run, *more)
        return self.runner.fgpipe(name, ["train", "--force", *words], {"XDG_CACHE_HOME": str(cache)})


Found = dict[str, Any]
Save = Callable[[], None]


def engine(bench: Bench, found: Found, save: Save) -> None:
    """One adapter by the packed engine, small and large steps, with a cold and with a warm compile cache."""
    rows = bench.rows("engine", bench.counts.rows)
    for batch, steps in bench.counts.steps.items():
        cache = bench.work / f"cache-{batch}"
        for state in ("cold", "warm"):
            run = bench.work / f"engine-{batch}-{state}"
            more = ("train.backend=fast", f"train.batch_size={batch}", f"train.max_steps={steps}")
            done = bench.train(f"engine-{batch}-{state}", rows, run, *more, cache=cache)
            row = {"rows_a_step": batch, "cache": state, **one_run(done, run)}
            found.setdefault("rows", []).append(row)
            save()


def one_run(done: Done, run: Path) -> Found:
    """Figures of a train command."""
    plan, lines = read_json(run / "train" / "plan.json"), log_lines(run / "train")
    each = [tokens / seconds for tokens, seconds in intervals(lines)[len(lines) // 2 :]]
    return {
        "command_s": done.seconds,
        "stages_s": stage_seconds(done),
        "steps": plan["steps"],
        "tokens_a_step": lines[-1]["tokens"] / lines[-1]["step"],
        "line_tokens_per_s": spread(each),
        "tokens_per_s": rate(intervals(lines)[len(lines) // 2 :]),
        "first_loss": lines[0]["loss"],
        "loss": lines[-1]["loss"],
        "planned_bytes": plan["memory_bytes"],
        "peak_bytes": plan["peak_bytes"],
        "gpu_bytes": done.gpu_bytes,
    }


def peers(bench: Bench, found: Found, save: Save) -> None:
    """The same rows by other ways to train, each in a process of its own, one after another."""
    rows, run = bench.rows("engine", bench.counts.rows), bench.work / "peers"
    bench.runner.fgpipe("peers-format", ["format", *bench.words_for(rows, run)])
    formatted = run / "format" / "train.parquet"
    mean = read_json(run / "format" / "manifest.json")["numbers"]
    mean_tokens = mean["tokens"] / mean["train_rows"]
    for way in bench.ways:
        row: Found = {"way": way}
        try:
            if way.startswith("fgpipe-"):
                row |= _our_way(bench, way, rows, run, mean_tokens)
            else:
                row |= _other_way(bench, way, formatted)
        except FailedError as failure:
            row["failed"] = str(failure)
        found.setdefault("rows", []).append(row)
        training_report.show_peer(row)
        save()


def _our_way(bench: Bench, way: str, rows: Path, run: Path, mean_tokens: float) -> Found:
    _, backend, batch = way.split("-")
    size = int(batch.removeprefix("b"))
    counts = bench.counts
    steps = counts.trl_steps if backend == "trl" else -(-counts.peer_tokens // int(size * mean_tokens))
    more = (
        f"train.backend={backend}",
        f"train.batch_size={size}",
        f"train.max_steps={steps}",
        f"train.log_every_steps={max(1, steps // 60)}",
    )
    done = bench.train(f"peers-{way}", rows, run, *more, cache=bench.data / "cache-peers")
    lines = log_lines(run / "train")
    windows = speeds(lines, counts.windows)
    plan = read_json(run / "train" / "plan.json")
    tokens, padded = plan["tokens"], plan["padded_tokens"]
    return {
        "what": f"python -m fgpipe train train.backend={backend}, {size} rows a step",
        "tokens_per_s": spread(windows),
        "windows": windows,
        "peak_bytes": plan["peak_bytes"],
        "real_share": tokens / padded,
        "command_s": done.seconds,
    }


def _other_way(bench: Bench, way: str, formatted: Path) -> Found:
    counts = bench.counts
    settings = {"way": way, "base": str(bench.base.path), "rows": str(formatted)}
    settings |= {"warm_s": counts.warm_s, "window_s": counts.window_s, "windows": counts.windows}
    variables = {"XDG_CACHE_HOME": str(bench.data / "cache-peers")}
    if way.startswith("unsloth") and bench.unsloth_site is not None:
        variables["PYTHONPATH"] = str(bench.unsloth_site)
    done = bench.runner.script(f"peers-{way}", "training_peers.py", settings, variables)
    found = done.figures()
    # Unsloth may bring a TRL of its own.
    other = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    what = WAYS[way][0] + (f" ({other})" if way.startswith("unsloth") else "")
    return {"what": what, **found, "command_s": done.seconds}


def fleet(bench: Bench, found: Found, save: Save) -> None:
    """Adapters with small steps together, against two of them alone, from which the sequence of all is reckoned."""
    count, rows, steps = bench.counts.fleet
    cache = bench.work / "cache-fleet"
    more = ("train.batch_size=6", f"train.max_steps={steps}")
    alone = [bench.rows("fleet", rows, seed) for seed in range(2)]
    # The first fills the compile cache and is not counted.
    for number, source in enumerate((alone[0], *alone)):
        run = bench.work / f"fleet-alone-{number}"
        done = bench.train(f"fleet-alone-{number}", source, run, *more, "train.backend=fast", cache=cache)
        if number:
            found.setdefault("alone", []).append(one_run(done, run))
            save()
    for state in ("cold", "warm"):
        found[state] = _fleet(bench, f"fleet-{state}", "fleet", count, rows, more, cache)
        save()
    one_s = [entry["command_s"] for entry in found["alone"]]
    one = [entry["tokens_per_s"] for entry in found["alone"]]
    found["sequence"] = {
        "reckoned_from": len(one_s),
        "command_s": count * sum(one_s) / len(one_s),
        "tokens_per_s": len(one) / sum(1 / speed for speed in one),
    }
    warm, sequence = found["warm"], found["sequence"]
    found["ratio"] = {
        "tokens_per_s": warm["tokens_per_s"] / sequence["tokens_per_s"],
        "command": sequence["command_s"] / warm["command_s"],
    }
    save()


def fleet20(bench: Bench, found: Found, save: Save) -> None:
    """From the command to all adapters published, with a cold and with a warm compile cache."""
    count, rows, epochs = bench.counts.fleet20
    cache = bench.work / "cache-fleet20"
    for state in ("cold", "warm"):
        found[state] = _fleet(bench, f"fleet20-{state}", "fleet20", count, rows, (f"train.epochs={epochs}",), cache)
        save()


def _fleet(bench: Bench, name: str, rows_name: str, count: int, rows: int, more: Sequence[str], cache: Path) -> Found:
    """Run a fleet and take its time apart."""
    folder = bench.work / name
    folder.mkdir(parents=True)
    common = [*bench.base.words, f"paths.runs={folder}/runs", f"paths.adapters={folder}/adapters", *more, *bench.words]
    adapters = {
        f"a{number:02d}": f"seed={number} task.dataset.source={bench.rows(rows_name, rows, number)}"
        for number in range(count)
    }
    file = folder / "adapters.yaml"
    file.write_text(json.dumps({"common": " ".join(common), "adapters": adapters}, indent=1))  # JSON is YAML
    began = time.time()
    # No server is asked, whatever runs on this machine: nothing listens on the discard port.
    words = ["fleet", str(file), "--no-parity", "server.port=9"]
    done = bench.runner.fgpipe(name, words, {"XDG_CACHE_HOME": str(cache)})
    trains = [next(folder.glob(f"runs/{adapter}-*/train")) for adapter in adapters]
    lines = [log_lines(train) for train in trains]
    published = sum((folder / "adapters" / adapter / "channel.json").exists() for adapter in adapters)
    if published != count:
        raise FailedError(f"{published} of {count} published")
    trained = max((train / "manifest.json").stat().st_mtime for train in trains) - began
    plans = [read_json(train / "plan.json") for train in trains]
    return {
        "adapters": count,
        "published": published,
        "training_rows": sum(plan["rows"] for plan in plans),
        "tokens": sum(round(plan["tokens"] * plan["epochs"]) for plan in plans),
        "tokens_per_s": together([intervals(own) for own in lines]),
        "command_s": done.seconds,
        "breakdown_s": breakdown(done, trained),
        "peak_bytes": plans[-1]["peak_bytes"],
        "gpu_bytes": done.gpu_bytes,
        "loss": [own[-1]["loss"] for own in lines],
    }


def breakdown(done: Done, trained_s: float) -> dict[str, float]:
    """Where the seconds of a fleet went; they add up to the whole.

    Args:
        done: the command.
        trained_s: from its start to the last adapter written.
    """
    formatted = max((at for at, line in done.lines if line.startswith("format: ")), default=0.0)
    parts = {"start and rows": formatted}
    ready = stage_seconds(done, end=True).get("compiled")
    if ready is not None:
        seconds = stage_seconds(done)
        parts |= {"plan": ready - formatted - seconds["loaded"] - seconds["compiled"]}
        parts |= {"load": seconds["loaded"], "compile": seconds["compiled"]}
    parts["train"] = trained_s - (ready if ready is not None else formatted)
    parts["validate and publish"] = done.seconds - trained_s
    return parts


def agreement(bench: Bench, found: Found, save: Save) -> None:
    """Gradients against float32, and the losses of both back ends on the same rows in the same order."""
    rows, run = bench.rows("engine", bench.counts.rows), bench.work / "agreement"
    bench.runner.fgpipe("agreement-format", ["format", *bench.words_for(rows, run)])
    settings = {"rows": str(run / "format" / "train.parquet"), "shape": bench.shape}
    settings |= {"tokens": bench.counts.agreement_tokens}
    found["gradients"] = bench.runner.script("agreement", "training_agreement.py", settings).figures()
    save()
    for backend in ("fast", "trl"):
        steps = f"train.max_steps={bench.counts.trajectory_steps}"
        more = (steps, f"train.backend={backend}", "train.log_every_steps=1", "train.learning_rate=1e-3")
        bench.train(f"agreement-{backend}", rows, run, *more, cache=bench.data / "cache-peers")
        found.setdefault("losses", {})[backend] = [line["loss"] for line in log_lines(run / "train")]
        save()
    pairs = list(zip(found["losses"]["fast"], found["losses"]["trl"], strict=True))
    found["largest_relative_difference"] = max(abs(fast - trl) / trl for fast, trl in pairs)
    save()


def trials(bench: Bench, found: Found, save: Save) -> None:
    """What may happen to a run: evaluation meanwhile, SIGKILL, too little memory; each beside one left alone."""
    rows, cache = bench.rows("engine", bench.counts.rows), bench.data / "cache-peers"
    size, steps, every = bench.counts.trials
    more = ("train.backend=fast", f"train.batch_size={size}", f"train.max_steps={steps}")
    more += (f"train.checkpoint_every_steps={every}", f"train.log_every_steps={max(1, every // 3)}")

    def note(name: str, done: Done, **facts: Any) -> Found:
        run = bench.work / f"trials-{name}"
        plan, lines = read_json(run / "train" / "plan.json"), log_lines(run / "train")
        memory = {"planned_bytes": plan["memory_bytes"], "peak_bytes": plan["peak_bytes"], "gpu_bytes": done.gpu_bytes}
        found[name] = {"loss": lines[-1]["loss"], "command_s": done.seconds, **memory, **facts}
        save()
        return dict(found[name])

    alone = note("alone", bench.train("trials-alone", rows, bench.work / "trials-alone", *more, cache=cache))
    run = bench.work / "trials-evaluated"
    done = bench.train("trials-evaluated", rows, run, *more, f"train.evaluate_every_steps={every}", cache=cache)
    log = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    note("evaluated", done, held_out_losses=[line["held_out_loss"] for line in log if "held_out_loss" in line])
    run = bench.work / "trials-killed"
    words, variables = ["train", *bench.words_for(rows, run, *more)], {"XDG_CACHE_HOME": str(cache)}
    checkpoints = run / "train.checkpoints"
    bench.runner.kill(
        "trials-killed", words, variables, when=lambda: any(checkpoints.glob("checkpoint-*/complete.json"))
    )
    done = bench.runner.fgpipe("trials-resumed", words, variables)
    note("killed", done, said=[line for _, line in done.lines if "resuming" in line])
    settings = {"bytes": int(0.6 * alone["planned_bytes"])}
    settings |= {"words": ["train", *bench.words_for(rows, bench.work / "trials-tight", *more)]}
    done = bench.runner.script("trials-tight", "training_tight.py", settings, variables)
    note("tight", done, bytes=settings["bytes"], said=[line for _, line in done.lines if "out of memory" in line])


def cpu(bench: Bench, found: Found, save: Save) -> None:
    """Both back ends against a plain TRL script on the CPU, on the shipped tiny model, in turns."""
    steps, rounds = bench.counts.cpu
    settings = {"steps": steps, "rounds": rounds}
    found |= bench.runner.script("cpu", "training_cpu.py", settings, {"CUDA_VISIBLE_DEVICES": ""}).figures()
    save()


PARTS: dict[str, Callable[[Bench, Found, Save], None]] = {
    "engine": engine,
    "peers": peers,
    "fleet": fleet,
    "fleet20": fleet20,
    "agreement": agreement,
    "trials": trials,
    "cpu": cpu,
}
