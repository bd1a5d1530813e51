"""Running commands for `training.py` inside a time limit, and reading what a training run says of its speed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parent.parent / "src"

RESULT = "RESULT "
"""What a script of ours begins the line with that holds its figures as JSON."""

KEPT_S = 10.0
"""Of the limit, for stopping and for the report."""


class FailedError(Exception):
    """A command that did not end well, with the end of what it said."""


@dataclass
class Done:
    """A command that has ended well."""

    seconds: float
    lines: list[tuple[float, str]] = field(default_factory=list)
    """(seconds since the start, line), of both its outputs"""
    gpu_bytes: int | None = None
    """Most memory of the GPU in use meanwhile, less what was in use before; None without nvidia-smi."""

    def figures(self) -> dict[str, Any]:
        """What a script of ours has found."""
        found = [line for _, line in self.lines if line.startswith(RESULT)]
        return dict(json.loads(found[-1][len(RESULT) :]))


class Runner:
    """Starts commands one after another, each in a process group of its own, and kills what takes too long.

    Args:
        folder: for their logs, and where they run.
        until: on the monotonic clock, when everything must be over.
    """

    def __init__(self, folder: Path, *, until: float) -> None:
        self.folder = folder
        self.until = until
        folder.mkdir(parents=True, exist_ok=True)

    def left_s(self) -> float:
        """Time a command may take from now."""
        return self.until - KEPT_S - time.monotonic()

    def fgpipe(self, name: str, words: Sequence[str], variables: Mapping[str, str] | None = None) -> Done:
        """`python -m fgpipe …`."""
        return self.run(name, [sys.executable, "-m", "fgpipe", *words], variables)

    def script(
        self, name: str, file: str, settings: Mapping[str, Any], variables: Mapping[str, str] | None = None
    ) -> Done:
        """One of our scripts, given its settings as JSON."""
        path = Path(__file__).with_name(file)
        return self.run(name, [sys.executable, str(path), json.dumps(settings)], variables)

    def kill(self, name: str, words: Sequence[str], variables: Mapping[str, str], *, when: Callable[[], bool]) -> None:
        """`python -m fgpipe …`, killed as soon as `when` is true.

        Raises:
            FailedError: it ended before, or there was no time.
        """
        until = time.monotonic() + self.left_s()
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fgpipe", *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(variables),
                start_new_session=True,
            )
            try:
                while not when():
                    if process.poll() is not None or time.monotonic() > until:
                        raise FailedError(f"{name}: got status {process.poll()} before it could be killed")
                    time.sleep(0.01)
            finally:
                _kill(process)
                process.wait()

    def run(self, name: str, command: Sequence[str], variables: Mapping[str, str] | None = None) -> Done:
        """Run to the end.

        Args:
            name: of its log.
            command: the words.
            variables: of its environment; a PYTHONPATH comes before the others.

        Raises:
            FailedError: it ended badly, or there was no time.
        """
        limit_s = self.left_s()
        if limit_s < 5:
            raise FailedError("no time left")
        done, start = Done(0.0), time.monotonic()
        with open(self.folder / f"{name}.log", "w", encoding="utf-8") as log, GpuMemory() as memory:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=self.folder,
                env=_environment(variables or {}),
                start_new_session=True,
            )
            timer = threading.Timer(limit_s, _kill, (process,))
            timer.start()
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    at = time.monotonic() - start
                    done.lines.append((at, line.rstrip("\n")))
                    log.write(f"{at:8.2f} {line}")
                status = process.wait()
            finally:
                timer.cancel()
                _kill(process)
                process.wait()
                process.stdout.close()
        done.seconds, done.gpu_bytes = time.monotonic() - start, memory.most()
        if status != 0:
            end = "\n".join(line[:300] for _, line in done.lines[-8:])
            late = done.seconds >= limit_s
            raise FailedError(
                f"{'stopped after' if late else f'status {status} after'} {done.seconds:.0f} s\n{end}".strip()
            )
        return done


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Ours with `variables`; a PYTHONPATH among them comes before fgpipe's, and that before the one there is."""
    paths = (variables.get("PYTHONPATH", ""), str(SRC), os.environ.get("PYTHONPATH", ""))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **quiet, **variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _kill(process: subprocess.Popen[str]) -> None:
    """The process and all it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class GpuMemory:
    """Looks at the memory of the first GPU we may use, twice a second."""

    def __init__(self) -> None:
        self._found: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> GpuMemory:
        self._before = used_bytes()
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()

    def most(self) -> int | None:
        """Most in use so far, less what was in use at the start."""
        return max(self._found) - self._before if self._found and self._before is not None else None

    def _look(self) -> None:
        while not self._end.wait(0.5):
            used = used_bytes()
            if used is not None:
                self._found.append(used)


def nvidia_smi(what: str) -> str | None:
    """One figure of the first GPU we may use, without its unit; None if there is none."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if not first:
        return None
    command = ["nvidia-smi", "-i", first, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def used_bytes() -> int | None:
    """Memory of the GPU in use by whomever."""
    text = nvidia_smi("memory.used")
    return int(text) * 2**20 if text and text.isdigit() else None


STAGE_LINES = (
    (re.compile(r"^(load|format|train): ([\d.]+) s, "), None),
    (re.compile(r"^train: base loaded in ([\d.]+) s, compiled in ([\d.]+) s"), ("loaded", "compiled")),
)
"""What fgpipe says when a stage is done, and once the packed engine is ready."""


def stage_seconds(done: Done, *, end: bool = False) -> dict[str, float]:
    """Seconds that each stage took by its own words, and loading and compiling within training.

    Args:
        done: the command.
        end: when it was over, in seconds from the start of the command, instead of how long it took.
    """
    found = {}
    for at, line in done.lines:
        for pattern, names in STAGE_LINES:
            match = pattern.match(line)
            if match:
                pairs = zip(names, match.groups(), strict=True) if names else [match.groups()]
                found |= {name: at if end else float(seconds) for name, seconds in pairs}
    return found


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def log_lines(train: Path) -> list[dict[str, Any]]:
    """The lines of a train stage's log that have a speed."""
    lines = [json.loads(line) for line in (train / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "tokens_per_s" in line]


def intervals(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(tokens, seconds) of each line."""
    before, found = 0, []
    for line in lines:
        found.append((line["tokens"] - before, (line["tokens"] - before) / line["tokens_per_s"]))
        before = line["tokens"]
    return found


def rate(parts: Sequence[tuple[int, float]]) -> float:
    """Tokens a second over all parts."""
    return sum(tokens for tokens, _ in parts) / sum(seconds for _, seconds in parts)


def speeds(lines: Sequence[Mapping[str, Any]], groups: int) -> list[float]:
    """Tokens/s of the later half of a run, cut into `groups` stretches of about equal numbers of lines.

    Everything between two lines counts, checkpoints too. The earlier half has the compiling in it.
    """
    later = intervals(lines)[len(lines) // 2 :]
    groups = max(1, min(groups, len(later)))
    return [rate(later[len(later) * place // groups : len(later) * (place + 1) // groups]) for place in range(groups)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def together(runs: Sequence[Sequence[tuple[int, float]]], first: float = 0.4, last: float = 0.9) -> float:
    """Tokens/s of runs that began at the same moment, while `first` to `last` of all their tokens were trained."""
    events = []
    for parts in runs:
        at = 0.0
        for tokens, seconds in parts:
            at += seconds
            events.append((at, tokens))
    events.sort()
    total, done = sum(tokens for _, tokens in events), 0
    begun: tuple[float, int] | None = None
    for at, tokens in events:
        done += tokens
        if begun is None and done >= first * total:
            begun = (at, done)
        elif begun is not None and done >= last * total and at > begun[0]:
            return (done - begun[1]) / (at - begun[0])
    return total / events[-1][0]
