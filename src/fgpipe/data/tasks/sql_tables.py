"""Draws a row's schema from a domain and fills its tables with a handful of records."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from fgpipe.data.tasks.sql_query import Value, literal
from fgpipe.data.tasks.sql_schemas import Column, Table
from fgpipe.data.tasks.vocabulary import person

_FIRST_DAY_OF_MONTH = 1
_LAST_DAY_OF_EVERY_MONTH = 28


@dataclass(frozen=True)
class FilledTable:
    """A table as one row's schema shows it, and its records."""

    table: Table
    header: tuple[tuple[str, str], ...]
    """Column names and SQL types, in order, keys included."""
    records: tuple[dict[str, Value], ...]

    def ddl(self) -> str:
        """The CREATE TABLE statement."""
        return f"CREATE TABLE {self.table.name} ({', '.join(f'{name} {kind}' for name, kind in self.header)});"

    def inserts(self) -> str:
        """One INSERT with every record."""
        rows = ", ".join(f"({', '.join(literal(record[name]) for name, _ in self.header)})" for record in self.records)
        return f"INSERT INTO {self.table.name} VALUES {rows};"


def narrow(rng: random.Random, table: Table, *, keep: int) -> Table:
    """The table with its label, if it is a column, and at most `keep` others in any order."""
    label = tuple(column for column in table.columns if column.name == table.label)
    others = [column for column in table.columns if column.name != table.label]
    return replace(table, columns=(*label, *rng.sample(others, min(keep, len(others)))))


def fill(rng: random.Random, table: Table, *, parent: FilledTable | None = None, count: int) -> FilledTable:
    """`count` records; numbers and dates never repeat within a column, so that every order is unambiguous."""
    first_id = rng.randint(1, 40)
    header = [("id", "INTEGER")]
    columns: dict[str, list[Value]] = {"id": [first_id + index for index in range(count)]}
    if parent is not None:
        key = f"{parent.table.singular}_id"
        header.append((key, "INTEGER"))
        parents = [record["id"] for record in parent.records]
        columns[key] = [rng.choice(parents) for _ in range(count)]
    for column in table.columns:
        header.append((column.name, column.sql_type))
        columns[column.name] = _values(rng, column, count)
    records = tuple({name: values[index] for name, values in columns.items()} for index in range(count))
    return FilledTable(table, tuple(header), records)


def _values(rng: random.Random, column: Column, count: int) -> list[Value]:
    if column.kind == "person":
        names: dict[str, None] = {}
        while len(names) < count:
            names[person(rng)] = None
        return list(names)
    if column.kind == "title":
        return list(rng.sample(column.values, count))
    if column.kind in ("place", "category"):
        few = rng.sample(column.values, min(len(column.values), rng.choice((2, 3))))
        return [rng.choice(few) for _ in range(count)]
    if column.kind == "date":
        return list(_dates(rng, count))
    steps = round((column.high - column.low) / column.step)
    drawn = [column.low + index * column.step for index in rng.sample(range(steps + 1), count)]
    return [int(value) if column.sql_type == "INTEGER" else round(value, 2) for value in drawn]


def _dates(rng: random.Random, count: int) -> list[str]:
    """Distinct ISO dates, crowded into a few months so that questions about one month find something."""
    months = [f"{rng.choice((2023, 2024, 2025))}-{rng.randint(1, 12):02d}" for _ in range(3)]
    dates: dict[str, None] = {}
    while len(dates) < count:
        dates[f"{rng.choice(months)}-{rng.randint(_FIRST_DAY_OF_MONTH, _LAST_DAY_OF_EVERY_MONTH):02d}"] = None
    return list(dates)
