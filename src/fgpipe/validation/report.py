"""Findings: what each rule says of an adapter, as a table, as JSON, or as an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fgpipe.errors import ValidationError

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["pass", "warn", "fail", "skip"]

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


@dataclass(frozen=True)
class Finding:
    """What one rule says. `skip`: it could not be checked because an earlier rule failed."""

    rule: str
    status: Status
    message: str
    hint: str = ""


def passed(rule: str, message: str) -> Finding:
    """The rule is kept."""
    return Finding(rule, "pass", message)


def warned(rule: str, message: str, hint: str) -> Finding:
    """The adapter is served as it is, but something looks like an accident."""
    return Finding(rule, "warn", message, hint)


def failed(rule: str, message: str, hint: str) -> Finding:
    """The server would refuse the adapter, or answer wrongly with it."""
    return Finding(rule, "fail", message, hint)


def judged(rule: str, wrong: Sequence[str], good: str, hint: str) -> Finding:
    """Failed with the first three of `wrong` and `hint`, or passed with `good` if nothing is."""
    if not wrong:
        return passed(rule, good)
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return failed(rule, "; ".join(text[:300] for text in wrong[:3]) + more, hint)


def quoted(value: object) -> str:
    """`value` as Python writes it, cut to a length that fits a line."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"


def printable(text: str) -> str:
    """`text` with what a terminal or UTF-8 cannot show as escapes: names in it come from a stranger's file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """The findings for which the server would refuse the adapter, or answer wrongly with it."""
    return [finding for finding in findings if finding.status == "fail"]


def require_pass(findings: Sequence[Finding], *, adapter: Path | None = None) -> None:
    """Return if no rule failed.

    Raises:
        ValidationError: it lists every rule that failed, with what to do.
    """
    failed = failures(findings)
    if not failed:
        return
    of = f" of {adapter}" if adapter else ""
    lines = [f"validate{of}: got {len(failed)} broken rule{'s' * (len(failed) > 1)}, expected none"]
    lines += [f"  {finding.rule}: {finding.message}" for finding in failed]
    raise ValidationError("\n".join(lines), hint="\n      ".join(dict.fromkeys(f.hint for f in failed if f.hint)))


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """`{"passed": bool, "findings": [...]}`, for scripts and for `verdict.json`."""
    return {"passed": not failures(findings), "findings": [asdict(finding) for finding in findings]}


def findings_from_json(value: dict[str, Any]) -> list[Finding]:
    """The inverse of `findings_json`."""
    return [Finding(**finding) for finding in value["findings"]]


def render_findings(findings: Sequence[Finding], *, title: str = "") -> Table:
    """A table with a line a rule, hints under what failed or warned."""
    from rich.table import Table
    from rich.text import Text

    count = {status: sum(finding.status == status for finding in findings) for status in _COLOURS}
    caption = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    table = Table(title=title or None, caption=caption, title_justify="left", caption_justify="left")
    for column in ("rule", "verdict", "what was found"):
        table.add_column(column, no_wrap=column != "what was found")
    for finding in findings:
        # Text, not markup: messages quote names from a file that anyone may have written.
        found = Text(finding.message)
        if finding.hint and finding.status in ("fail", "warn"):
            found.append(f"\n{finding.hint}", style="italic")
        table.add_row(finding.rule, Text(finding.status, style=_COLOURS[finding.status]), found)
    return table
