"""The SELECT statements of the sql task: one canonical spelling, and the near misses a question must tell apart."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

Value = str | int | float

_AGGREGATES = ("AVG", "SUM", "MIN", "MAX")
_OPPOSITE = {">": "<", "<": ">", ">=": "<=", "<=": ">="}


def literal(value: Value) -> str:
    """A value as SQL text."""
    return f"'{value}'" if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Condition:
    """`column operator value`; BETWEEN has two values."""

    column: str
    operator: str
    values: tuple[Value, ...]

    def sql(self) -> str:
        """The condition as SQL text."""
        return f"{self.column} {self.operator} {' AND '.join(literal(value) for value in self.values)}"


@dataclass(frozen=True)
class Query:
    """One SELECT; column names are `table.column` when `join` is set, bare otherwise."""

    select: tuple[str, ...]
    table: str
    join: str = ""
    where: tuple[Condition, ...] = ()
    group_by: str = ""
    having: str = ""
    order_by: str = ""
    direction: str = "ASC"
    limit: int = 0
    distinct: bool = False

    def sql(self) -> str:
        """Upper-case keywords, no aliases, no final semicolon, the direction of every ORDER BY written out."""
        parts = [f"SELECT {'DISTINCT ' if self.distinct else ''}{', '.join(self.select)} FROM {self.table}"]
        if self.join:
            parts.append(self.join)
        if self.where:
            parts.append("WHERE " + " AND ".join(condition.sql() for condition in self.where))
        if self.group_by:
            parts.append(f"GROUP BY {self.group_by}")
        if self.having:
            parts.append(f"HAVING {self.having}")
        if self.order_by:
            parts.append(f"ORDER BY {self.order_by} {self.direction}")
        if self.limit:
            parts.append(f"LIMIT {self.limit}")
        return " ".join(parts)


def near_misses(query: Query, columns: Sequence[str]) -> list[Query]:
    """Plausible wrong readings of the same question, each of which the data must expose.

    Args:
        columns: every column of the schema, spelled as in the query.
    """
    wrong: list[Query] = []
    for index, condition in enumerate(query.where):
        others = query.where[:index] + query.where[index + 1 :]
        wrong.append(replace(query, where=others))
        if condition.operator in _OPPOSITE:
            flipped = replace(condition, operator=_OPPOSITE[condition.operator])
            wrong.append(replace(query, where=(*others, flipped)))
    for index, item in enumerate(query.select):
        wrong += [
            replace(query, select=(*query.select[:index], other, *query.select[index + 1 :]))
            for other in _other_items(item, columns)
            if other not in query.select
        ]
    if query.having:
        wrong.append(replace(query, having=""))
    if query.group_by:
        wrong.append(replace(query, group_by="", having=""))
    if query.order_by:
        wrong.append(replace(query, direction="ASC" if query.direction == "DESC" else "DESC"))
        wrong += [replace(query, order_by=column) for column in columns if column != query.order_by and query.limit]
    if query.limit:
        wrong.append(replace(query, limit=0))
    if query.distinct:
        wrong.append(replace(query, distinct=False))
    return wrong


def _other_items(item: str, columns: Sequence[str]) -> list[str]:
    function, bracket, rest = item.partition("(")
    if bracket and function in _AGGREGATES:
        column = rest.removesuffix(")")
        others = [f"{name}({column})" for name in _AGGREGATES if name != function]
        return others + [f"{function}({name})" for name in columns if name != column]
    if item.startswith("COUNT(DISTINCT "):
        return ["COUNT(*)"]
    return [] if bracket or item == "*" else [name for name in columns if name != item]


def run(connection: sqlite3.Connection, query: Query) -> list[tuple[Value, ...]]:
    """The result, floats rounded to 6 decimals, sorted unless the query orders it."""
    rows = [
        tuple(round(value, 6) if isinstance(value, float) else value for value in row)
        for row in connection.execute(query.sql())
    ]
    return rows if query.order_by else sorted(rows, key=repr)


def is_told_apart(script: str, query: Query, columns: Sequence[str]) -> bool:
    """Whether the query finds something in the script's data, and no near miss finds the same."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(script)
        result = run(connection, query)
        if not result or all(value is None for row in result for value in row) or result == [(0,)]:
            return False
        return all(run(connection, wrong) != result for wrong in near_misses(query, columns))
    finally:
        connection.close()
