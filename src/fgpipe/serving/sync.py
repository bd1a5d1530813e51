"""Keeps running servers in step with the adapters folder: the folder is the truth, a server that lags is repaired."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from fgpipe import adapters_folder
from fgpipe.errors import FgpipeError, PublishError, ServeError
from fgpipe.progress import say
from fgpipe.serving import live
from fgpipe.serving.live import ServerStatus

if TYPE_CHECKING:
    from rich.table import Table

WATCH_S = 2.0
"""Between two looks of `watch`."""


@dataclass(frozen=True)
class Repair:
    """A name that was answered by another version than the folder says."""

    name: str
    before: str
    now: str | None
    """None: the name is not published any more, and the server forgot it."""


@dataclass(frozen=True)
class Report:
    """How one server stood to the folder, and what was done about it."""

    url: str
    state: Literal["in step", "repaired", "not running", "failed"]
    repairs: tuple[Repair, ...] = ()
    problems: tuple[str, ...] = ()
    status: ServerStatus | None = field(default=None, compare=False)


def sync(urls: Iterable[str], adapters: Path, *, base: str) -> list[Report]:
    """Make every server answer by what the folder says; doing it again changes nothing.

    Args:
        base: name of the base model the servers must serve.
    """
    return [_sync_one(url, adapters, base) for url in urls]


def _sync_one(url: str, adapters: Path, base: str) -> Report:
    try:
        status = serving(url, base=base)
    except ServeError as error:
        return Report(url, "failed", problems=(error.message,))
    if status is None:
        return Report(url, "not running")
    repairs, problems = [], []
    for name, before in sorted(status.answers.items()):
        try:
            wanted = _wanted(adapters, name)
            if wanted != before:
                live.refresh(url, name, expect=wanted.rpartition("@")[2] if wanted else None)
                repairs.append(Repair(name, before, wanted))
        except FgpipeError as error:
            problems.append(error.message)
    state: Literal["failed", "repaired", "in step"] = "failed" if problems else "repaired" if repairs else "in step"
    return Report(url, state, tuple(repairs), tuple(problems), status)


def _wanted(adapters: Path, name: str) -> str | None:
    try:
        version = adapters_folder.resolve(adapters, name)
    except OSError as error:
        raise PublishError(f"{name}: {error}") from error
    return adapters_folder.full_name(version) if version else None


def serving(url: str, *, base: str) -> ServerStatus | None:
    """How the server at `url` is; None if none runs there.

    Raises:
        ServeError: it serves another base, or does not answer as a server of ours.
    """
    status = live.status(url)
    if status is not None and status.base != base:
        raise ServeError(
            f"{url}: got a server of {status.base}, expected one of {base}",
            hint="model=… names the base; publish.servers=[…] the servers that serve it",
        )
    return status


def take_up(urls: Iterable[str], name: str, *, version: str) -> None:
    """Make `version` answer `name` in every server of `urls`; returns when each has answered a request by it.

    Raises:
        ServeError: some did not; it names them. The folder is not touched: `sync` repairs them later.
    """
    failed = []
    for url in urls:
        try:
            live.refresh(url, name, expect=version)
        except ServeError as error:
            failed.append(error.message)
    if failed:
        raise ServeError(
            f"{name}@{version} is live in the folder, but got " + "; ".join(failed),
            hint="python -m fgpipe sync repairs a server that lags; one that restarts reads the folder",
        )


def watch(look: Callable[[], Sequence[Report]], *, every_s: float = WATCH_S) -> NoReturn:
    """Call `look` again and again, and say what it found whenever that is something new."""
    shown: list[Report] | None = None
    while True:
        reports = list(look())
        if reports != shown:
            for line in lines(reports):
                say(line)
            shown = reports
        time.sleep(every_s)


def lines(reports: Iterable[Report]) -> Iterator[str]:
    """What `reports` say, a line a server and a line a repair or problem."""
    for report in reports:
        yield f"{report.url}: {report.state}"
        for repair in report.repairs:
            yield f"  {repair.name}: {repair.before} -> {repair.now or 'forgotten, as it is not published'}"
        yield from (f"  {problem}" for problem in report.problems)


def metrics(reports: Iterable[Report], *, now_s: float) -> str:
    """`reports` in Prometheus' text format, for node-exporter's textfile collector."""
    found = list(reports)
    figures = (
        ("fgpipe_sync_running", "Whether the server runs.", lambda report: report.state != "not running"),
        ("fgpipe_sync_failed", "Whether the server could not be made to answer by what is published.", _failed),
        ("fgpipe_sync_repairs", "Names that the last look found answered by another version.", _repairs),
    )
    lines_ = []
    for name, meaning, value in figures:
        lines_ += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        lines_ += [f'{name}{{server="{report.url}"}} {int(value(report))}' for report in found]
    name = "fgpipe_sync_last_run_timestamp_seconds"
    lines_ += [
        f"# HELP {name} When servers and folder were last compared.",
        f"# TYPE {name} gauge",
        f"{name} {now_s:.0f}",
    ]
    return "\n".join(lines_) + "\n"


def _failed(report: Report) -> int:
    return report.state == "failed"


def _repairs(report: Report) -> int:
    return len(report.repairs)


def reports_json(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """`reports` as plain data."""
    return [asdict(report) for report in reports]


def render(reports: Sequence[Report]) -> Table:
    """A table with a line a name a server was asked for; slots, memory and evictions below."""
    from rich.table import Table

    table = Table(title_justify="left", caption_justify="left")
    for column in ("server", "state", "name", "answered by", "was"):
        table.add_column(column, overflow="fold")
    for report in reports:
        if report.status is None:
            table.add_row(report.url, report.state, "", "; ".join(report.problems), "")
            continue
        repaired = {repair.name: repair for repair in report.repairs}
        answers = dict(report.status.answers)
        for name in sorted(answers) or [""]:
            repair = repaired.get(name)
            now = repair.now or "nobody" if repair else answers.get(name, "no adapter was asked for yet")
            table.add_row(report.url, report.state, name, now, repair.before if repair else "")
        for problem in report.problems:
            table.add_row(report.url, report.state, "", problem, "")
    memory = [report.status.memory_line() for report in reports if report.status]
    table.caption = "\n".join(memory) or None
    return table
