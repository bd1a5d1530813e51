"""`python -m fgpipe fleet`: the adapters of a file, trained together over one frozen base, and published.

Each adapter is a configuration of its own, written as on the command line, and leaves the artefacts that the single
commands leave and skip: one that is already trained is not trained again, and a fleet that was killed goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import artifacts, pipeline, releasing
from fgpipe.artifacts import Adapter
from fgpipe.compose import compose, read_yaml
from fgpipe.config import Config, is_name
from fgpipe.errors import ConfigError, DataError, FgpipeError
from fgpipe.fleet_view import FleetView
from fgpipe.progress import say

if TYPE_CHECKING:
    from fgpipe.training.choose import Machine
    from fgpipe.training.fleet import Event
    from fgpipe.training.run import TrainingRun

EXAMPLE = "common: model=functiongemma-270m\nadapters:\n  sql: task=sql\n  short: task=sql lora.r=4 train.epochs=1"

FORMATTERS = 8
"""Most processes that turn rows into tokens; each takes seconds to start."""


@dataclass
class Entry:
    """An adapter of the file and what has become of it."""

    name: str
    config: Config
    state: str = "waiting"
    """waiting, unchanged, trained, published or failed"""
    version: str = ""
    message: str = ""
    """Why it failed."""
    numbers: dict[str, Any] = field(default_factory=dict)

    def fail(self, error: FgpipeError) -> None:
        """It will not be published; the others go on."""
        self.state, self.message = "failed", error.message
        say(f"{self.name}: {error}")


def fleet(file: Path, words: Sequence[str], *, evaluate: bool, parity: bool, force: bool, as_json: bool) -> int:
    """Train, validate and publish the adapters of `file`; 2 if any failed.

    Args:
        words: `key=value` for all of them, stronger than the file.
        evaluate: score each on its held-out rows before it is published.
        parity: publish only what a running server answers with as it was trained.
        force: train also what is up to date.
    """
    start = time.monotonic()
    entries = read_fleet(file, words)
    for entry in entries:
        _attempt(entry, lambda entry=entry: releasing.require_base(entry.config))  # type: ignore[misc]
    format_all([entry for entry in entries if entry.state != "failed"])
    train_all(entries, force=force)
    for entry in entries:
        if entry.state != "failed":
            _attempt(entry, lambda entry=entry: _publish(entry, evaluate=evaluate, parity=parity))  # type: ignore[misc]
    seconds = time.monotonic() - start
    if as_json:
        print(json.dumps([_facts(entry) for entry in entries], ensure_ascii=False, indent=2))
    else:
        _show(entries, seconds=seconds)
    return 2 if any(entry.state == "failed" for entry in entries) else 0


def read_fleet(file: Path, words: Sequence[str]) -> list[Entry]:
    """The adapters of a fleet's file, each with its whole configuration.

    Raises:
        ConfigError: every fault of the file and of the configurations.
    """
    common, adapters = _read(file)
    entries, faults = [], []
    for name, own in adapters.items():
        try:
            entries.append(Entry(name, _compose(name, [*common, *own, *words])))
        except ConfigError as error:
            faults += [f"{name}: {line}" for line in error.message.splitlines()]
    if faults:
        raise ConfigError("\n".join(faults), hint=f"in {file}; python -m fgpipe config prints every key")
    _require_one_base(entries, file)
    _require_own_folders(entries, file)
    return entries


def _read(file: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The words for all, and each adapter's own."""
    tree = read_yaml(file, expected="adapters under `adapters:`")
    if not isinstance(tree, dict) or not isinstance(tree.get("adapters"), dict) or not tree["adapters"]:
        raise _fault(f"fleet: got {file} without adapters, expected at least one")
    unknown = sorted(set(map(str, tree)) - {"common", "adapters"})
    if unknown:
        raise _fault(f"{file}: got {', '.join(unknown)}, expected adapters and, if you like, common")
    wrong = [name for name in tree["adapters"] if not isinstance(name, str) or not is_name(name)]
    if wrong:
        raise _fault(
            f"{file}: got {wrong[0]!r} as an adapter's name, expected lower-case letters, digits, '.', '_' and '-'"
        )
    return _words(file, "common", tree.get("common")), {
        name: _words(file, name, own) for name, own in tree["adapters"].items()
    }


def _words(file: Path, name: str, text: object) -> list[str]:
    if text is None:
        return []
    if not isinstance(text, str):
        raise _fault(f"{file}: {name}: got {text!r}, expected words as on the command line, such as task=sql lora.r=8")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _fault(f"{file}: {name}: got {text!r}, expected words as on the command line ({error})") from error


def _fault(message: str) -> ConfigError:
    return ConfigError(message, hint=f"a file such as\n{EXAMPLE}")


def _compose(name: str, words: list[str]) -> Config:
    """The configuration of adapter `name`: published and kept under its name unless the words say otherwise."""
    config = compose(words)
    own = [] if config.publish.name else [f"publish.name={name}"]
    if config.paths.run is None:
        own.append(f"paths.run={config.paths.runs}/{name}-{config.model.name}")
    return compose([*words, *own])


def _require_one_base(entries: Sequence[Entry], file: Path) -> None:
    first = entries[0]
    for entry in entries[1:]:
        if entry.config.model != first.config.model:
            raise ConfigError(
                f"{file}: {entry.name}: got model {entry.config.model.name}, expected the one of {first.name} "
                f"({first.config.model.name}): a fleet shares its base",
                hint="model=… under common:, or a file for each base",
            )
        if entry.config.adapter_name in {other.config.adapter_name for other in entries[: entries.index(entry)]}:
            raise ConfigError(
                f"{file}: {entry.name}: got publish.name={entry.config.adapter_name} a second time",
                hint="without it, an adapter is published under its name in the file",
            )


def _require_own_folders(entries: Sequence[Entry], file: Path) -> None:
    owner: dict[Path, str] = {}
    for entry in entries:
        folder = entry.config.run_folder.resolve()
        if folder in owner:
            raise ConfigError(
                f"{file}: {entry.name}: got paths.run={entry.config.run_folder}, where {owner[folder]} is made, "
                "expected a folder of its own",
                hint="paths.runs=… under common: has one for each",
            )
        owner[folder] = entry.name


def format_all(entries: Sequence[Entry]) -> None:
    """Bring everyone's rows up to date, several at a time; whose rows are bad has failed."""
    workers = min(len(entries), os.cpu_count() or 1, FORMATTERS)
    if workers < 2:
        for entry in entries:
            _attempt(entry, lambda entry=entry: pipeline.format_dataset(entry.config))  # type: ignore[misc]
        return
    # Forked from a process that has read the libraries and nothing else: threads of this one may be running.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.auto.tokenization_auto"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [(entry, pool.submit(_format, entry.config)) for entry in entries]
        if any(not (entry.config.run_folder / "train").exists() for entry in entries):
            _read_training_libraries()
        for entry, future in futures:
            _attempt(entry, lambda future=future: _rows_made(future))  # type: ignore[misc]


def _rows_made(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "format: got the end of the process that made the rows, expected rows",
            hint="killed for want of memory? Run the fleet again: what is done stays done",
        ) from error


def _read_training_libraries() -> None:
    """Import what training needs: it takes seconds, and others are at work."""
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401


def _format(config: Config) -> None:
    pipeline.format_dataset(config)


def train_all(entries: Sequence[Entry], *, force: bool) -> None:
    """Train together what is not up to date; whoever fails leaves the others alone."""
    for entry in entries:
        if entry.state == "waiting" and not force:
            _attempt(entry, lambda entry=entry: _recognise(entry))  # type: ignore[misc]
    outdated = [entry for entry in entries if entry.state == "waiting"]
    if not outdated:
        return
    from fgpipe.training.choose import this_machine
    from fgpipe.training.fleet import train_fleet

    machine = this_machine(outdated[0].config.model)
    runs: list[TrainingRun] = []
    for entry in outdated:
        _attempt(entry, lambda entry=entry: runs.append(_prepare(entry, machine)))  # type: ignore[misc]
    if not runs:
        return
    by_name = {entry.name: entry for entry in entries}
    with FleetView([(run.name, run.todo) for run in runs]) as view:

        def hear(event: Event) -> None:
            view.hear(event)
            if event.kind == "failed":
                by_name[event.name].fail(FgpipeError(event.message, hint=event.hint))
            elif event.kind == "finished":
                by_name[event.name].state = "trained"

        train_fleet(runs, hear, devices=_devices())


def _recognise(entry: Entry) -> None:
    """Note an adapter that is trained already."""
    from fgpipe.training import stage

    config = entry.config
    data = pipeline.format_dataset(config)
    made_from = stage.identity(data, config.model, config.lora, config.train, seed=config.seed)
    if artifacts.up_to_date(Adapter, config.run_folder / "train", **made_from) is not None:
        entry.state = "unchanged"


def _prepare(entry: Entry, machine: Machine) -> TrainingRun:
    from fgpipe.training import stage
    from fgpipe.training.choose import require_fast

    config = entry.config
    require_fast(config.lora, config.model, config.train, machine)
    return stage.prepare(
        pipeline.format_dataset(config), config.model, config.lora, config.train, seed=config.seed, name=entry.name,
        out=config.run_folder / "train", machine=machine, backend="fast",
    )  # fmt: skip


def _devices() -> list[str]:
    """The GPUs we may use, as CUDA_VISIBLE_DEVICES names them; none without a GPU."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def _publish(entry: Entry, *, evaluate: bool, parity: bool) -> None:
    version = pipeline.publish(entry.config, parity=parity, scored=evaluate)
    entry.numbers = dict(Adapter.open(entry.config.run_folder / "train").numbers)
    entry.state, entry.version = "published", version.version


def _attempt(entry: Entry, action: Callable[[], object]) -> None:
    try:
        action()
    except FgpipeError as error:
        entry.fail(error)


def _facts(entry: Entry) -> dict[str, Any]:
    facts = {"name": entry.config.adapter_name, "state": entry.state, "version": entry.version or None}
    return facts | ({"message": entry.message} if entry.message else {}) | entry.numbers


def _show(entries: Sequence[Entry], *, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("adapter", "state", "version", "rows", "steps", "first loss", "loss"):
        table.add_column(title, justify="left" if title in ("adapter", "state", "version") else "right")
    for entry in entries:
        numbers = entry.numbers
        losses = [f"{numbers[name]:.4f}" if name in numbers else "" for name in ("first_loss", "loss")]
        counts = [f"{numbers[name]:,}" if name in numbers else "" for name in ("rows", "steps")]
        table.add_row(entry.config.adapter_name, entry.state, entry.version, *counts, *losses)
    console = Console()
    console.print(table)
    published = sum(entry.state == "published" for entry in entries)
    console.print(f"{published} of {len(entries)} published in {seconds:.0f} s", highlight=False)
    for entry in entries:
        if entry.message:
            console.print(f"{entry.name} failed: {entry.message}", highlight=False, markup=False, soft_wrap=True)
