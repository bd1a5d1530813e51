"""Keeps running servers in step with the adapters folder: the folder is the truth, a server that lags is repaired."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from fgpipe import adapters_folder
from fgpipe.config import Config
from fgpipe.errors import FgpipeError, PublishError, ServeError
from fgpipe.progress import say
from fgpipe.serving import live, replicas
from fgpipe.serving.api import StrangerError, UnreachableError
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
    """What the server says of itself after the repairs."""


def server_urls(config: Config) -> tuple[str, ...]:
    """Addresses of the servers that answer with what is published here.

    They are those of the configuration, and the replicas that one of these says were started together with it: nobody
    need know how many there are to reach all of them.
    """
    named = config.publish.servers or replicas.addresses(config.server)
    return tuple(dict.fromkeys([*named, *(url for one in named for url in _fellows(one))]))


def _fellows(url: str) -> list[str]:
    try:
        found = live.status(url)
    except ServeError:  # whoever is asked next says so in full
        return []
    return found.replicas() if found else []


def running(config: Config, *, base: str | None = None) -> tuple[list[ServerStatus], list[str]]:
    """The servers of the configuration that run, and what kept others from being asked.

    A server that is down is no fault: it reads the folder when it starts. Without publish.servers the address is a
    default, where any program may listen: one that is not ours, or serves another base, is left alone.

    Args:
        base: name of the base that must be served; None takes model.id.

    Raises:
        ServeError: a server refuses us, or one named in publish.servers is not one of ours.
    """
    found, unreachable = [], []
    named = bool(config.publish.servers)
    for url in server_urls(config):
        try:
            status = live.status(url)
            if status is None:
                if named:
                    say(f"{url}: no server runs there; it will read the folder when it starts")
                continue
            _require_base(status, base or config.model.id)
        except UnreachableError as error:
            unreachable.append(error.message)
            continue
        except StrangerError as error:
            if named:
                raise
            say(f"{error.message}; it is left alone")
            continue
        found.append(status)
    return found, unreachable


def _require_base(status: ServerStatus, base: str) -> None:
    if status.base != base:
        raise StrangerError(
            f"{status.url}: got a server of {status.base}, expected one of {base}",
            hint="model=… names the base; publish.servers=[…] the servers that serve it",
        )


def sync(urls: Iterable[str], adapters: Path) -> list[Report]:
    """Make every server answer by what the folder says; doing it again changes nothing."""
    return [_sync_one(url, adapters) for url in urls]


def _sync_one(url: str, adapters: Path) -> Report:
    try:
        status = live.status(url)
        if status is None:
            return Report(url, "not running")
        repairs, problems = [], []
        for name, before in sorted(status.answers.items()):
            try:
                wanted = _wanted(adapters, name)
                if not _same(wanted, before, status):
                    now = bring_up(url, name, adapters)
                    repairs.append(Repair(name, before, f"{name.partition('@')[0]}@{now}" if now else None))
            except FgpipeError as error:
                problems.append(error.message)
        state: Literal["failed", "repaired", "in step"] = "failed" if problems else "repaired" if repairs else "in step"
        return Report(url, state, tuple(repairs), tuple(problems), live.status(url) if repairs else status)
    except ServeError as error:
        return Report(url, "failed", problems=(error.message,))


def _wanted(adapters: Path, name: str) -> Path | None:
    try:
        return adapters_folder.resolve(adapters, name)
    except OSError as error:
        raise PublishError(f"{name}: {error}") from error


def _same(wanted: Path | None, before: str, status: ServerStatus) -> bool:
    """Whether the server answers by just these files."""
    if wanted is None or before.partition("+")[0] != adapters_folder.full_name(wanted):
        return False
    return status.contents.get(before, "") in ("", adapters_folder.content_of(wanted))


def bring_up(url: str, name: str, adapters: Path) -> str | None:
    """Make the server at `url` answer `name` by what the folder says, also if that changes meanwhile; that version.

    Raises:
        ServeError: it does not.
        PublishError: the pointer is damaged.
    """
    while True:
        wanted = _wanted(adapters, name)
        try:
            content = adapters_folder.content_of(wanted) if wanted else ""
            return live.refresh(url, name, expect=wanted.name if wanted else None, content=content)
        except live.OtherVersionError:
            if _wanted(adapters, name) == wanted:
                raise


def take_up(urls: Iterable[str], name: str, adapters: Path) -> list[str]:
    """Make every server of `urls` answer `name` by what the folder says; what kept those that do not."""
    failed = []
    for url in urls:
        try:
            bring_up(url, name, adapters)
        except FgpipeError as error:
            failed.append(error.message)
    return failed


def watch(look: Callable[[], Sequence[Report]], *, every_s: float = WATCH_S) -> NoReturn:
    """Call `look` again and again, and say what it found whenever that is something new; a fault does not end it."""
    shown: list[str] | None = None
    while True:
        try:
            found = list(lines(look()))
        except (FgpipeError, OSError) as error:
            found = [str(getattr(error, "message", error))]
        if found != shown:
            for line in found:
                say(line)
            shown = found
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
        answers = dict(report.status.answers) if report.status else {}
        repaired = {repair.name: repair for repair in report.repairs}
        rows = [(name, answers.get(name, "nobody"), "") for name in sorted({*answers} - {*repaired})]
        rows += [(name, repair.now or "nobody", repair.before) for name, repair in repaired.items()]
        rows += [("", problem, "") for problem in report.problems]
        if not rows and report.status:
            rows = [("", "no adapter was asked for yet", "")]
        for name, now, before in rows or [("", "", "")]:
            table.add_row(report.url, report.state, name, now, before)
    memory = [report.status.memory_line() for report in reports if report.status]
    table.caption = "\n".join(memory) or None
    return table
