"""Running SQL written by a model, safely and in a way that two queries can be compared by their results."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fgpipe.evaluation.comparison import unpaired

MAX_ROWS = 1000
"""A longer result is refused: shipped tables are small, so it can only be a runaway query."""

MAX_STEPS = 5_000_000
"""Steps of sqlite's virtual machine a query may take, a fraction of a second. Steps and not seconds: the same query
gets the same score on a slow machine."""

MAX_VALUE_BYTES = 10_000
"""Longest string or blob a query may build; with MAX_STEPS it bounds what a runaway query can fill."""

TOLERANCE = 1e-9
"""Relative and absolute difference up to which two numbers are equal: the order of a sum must not decide."""

Row = tuple[Any, ...]

_REFUSALS = (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError)
"""What Python's sqlite3 raises for a bad script: ValueError for text that is no UTF-8 or holds a null character."""

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_LEAVING = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA})
_REFUSED_FUNCTIONS = frozenset({"load_extension", "zeroblob", "randomblob", "random"})
_STEPS_A_CHECK = 1000
_LITERALS_AND_COMMENTS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|$)", re.DOTALL
)


class QueryError(Exception):
    """sqlite refused a script or query, or it ran out of its limits; the message is fit to be shown."""


@dataclass(frozen=True)
class Result:
    """What a query returned: the number of columns and the rows, in the order they came."""

    columns: int
    rows: list[Row]


class Database:
    """An in-memory sqlite database made by a script; afterwards it can only be read.

    A query is one SELECT: an authorizer denies everything else (writing, ATTACH, PRAGMA, transactions, extensions), and
    steps, rows and lengths are limited. Use as a context manager.
    """

    def __init__(self, script: str) -> None:
        """Run `script`, CREATE and INSERT statements.

        Raises:
            QueryError: sqlite refused it.
        """
        self._steps = 0
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.set_progress_handler(self._too_many_steps, _STEPS_A_CHECK)
        self._connection.set_authorizer(_may_set_up)
        try:
            self._connection.executescript(script)
        except _REFUSALS as error:
            self._connection.close()
            raise QueryError(_explain(error)) from error
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self._connection.set_authorizer(_may_query)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def select(self, query: str) -> Result:
        """The result of `query`.

        Raises:
            QueryError: it is not one SELECT, sqlite refused it, or it ran out of its limits.
        """
        self._steps = 0
        try:
            cursor = self._connection.execute(query)
            rows = cursor.fetchmany(MAX_ROWS + 1)
        except _REFUSALS as error:
            raise QueryError(_explain(error)) from error
        if cursor.description is None or re.match(r"\s*explain\b", _bare(query), re.IGNORECASE):
            raise QueryError("got no SELECT statement")
        cursor.close()
        if len(rows) > MAX_ROWS:
            raise QueryError(f"got more than {MAX_ROWS} rows")
        return Result(len(cursor.description), rows)

    def _too_many_steps(self) -> bool:
        """Called by sqlite every _STEPS_A_CHECK steps; True stops the query."""
        self._steps += _STEPS_A_CHECK
        return self._steps > MAX_STEPS


def is_ordered(query: str) -> bool:
    """Whether the order of rows is part of the answer: an ORDER BY outside all parentheses, literals and comments."""
    text = _bare(query)
    while (shorter := re.sub(r"\([^()]*\)", " ", text)) != text:
        text = shorter
    return re.search(r"\border\s+by\b", text, re.IGNORECASE) is not None


def same_result(expected: Result, got: Result, *, ordered: bool) -> bool:
    """Whether two results hold the same rows: as lists if `ordered`, else as multisets. Column names do not matter."""
    if expected.columns != got.columns or len(expected.rows) != len(got.rows):
        return False
    if all(map(same_row, expected.rows, got.rows)):
        return True
    if ordered:
        return False
    return Counter(expected.rows) == Counter(got.rows) or unpaired(expected.rows, got.rows, same_row) == ([], [])


def same_row(expected: Row, got: Row) -> bool:
    """Equal cells, numbers within TOLERANCE; 2 equals 2.0 as in SQL, and '2' equals neither."""
    return len(expected) == len(got) and all(map(_same_cell, expected, got))


def _same_cell(expected: Any, got: Any) -> bool:
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return expected == got or math.isclose(expected, got, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(expected) is type(got) and bool(expected == got)


def _may_set_up(action: int, first: str | None, second: str | None, schema: str | None, trigger: str | None) -> int:
    """A script that comes with a dataset may build tables, not reach files or change settings."""
    refused = action in _LEAVING or (action == sqlite3.SQLITE_FUNCTION and second in _REFUSED_FUNCTIONS)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def _may_query(action: int, first: str | None, second: str | None, schema: str | None, trigger: str | None) -> int:
    refused = action not in _READING or (action == sqlite3.SQLITE_FUNCTION and second in _REFUSED_FUNCTIONS)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def _bare(query: str) -> str:
    """`query` with literals, quoted names and comments blanked."""
    return _LITERALS_AND_COMMENTS.sub(" ", query)


def _explain(error: Exception) -> str:
    if str(error) == "interrupted":
        return f"stopped after {MAX_STEPS} steps"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
