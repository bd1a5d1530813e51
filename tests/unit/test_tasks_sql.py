"""The sql task: every gold query runs, and its data tells it from its near misses."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fgpipe.data.tasks.rows import Row, calls_of, request_of
from fgpipe.data.tasks.sql_domains import DOMAINS
from fgpipe.data.tasks.sql_query import Condition, Query, is_told_apart, near_misses
from fgpipe.data.tasks.sql_tables import fill

ROWS = Path(__file__).parents[2] / "data" / "sql" / "rows.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def execute(script: str, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(script)
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_every_gold_query_finds_something(rows: list[Row]) -> None:
    """Otherwise an empty result would count as right for many wrong queries."""
    for row in rows:
        for call in calls_of(row):
            result = execute(row["meta"]["sqlite"], call["arguments"]["query"])
            assert result, request_of(row)
            assert any(value is not None for found in result for value in found), request_of(row)


def test_dropping_the_conditions_changes_the_result(rows: list[Row]) -> None:
    """Otherwise execution accuracy could not tell whether the adapter read the condition."""
    checked = 0
    for row in rows:
        for call in calls_of(row):
            query = call["arguments"]["query"]
            head, found, tail = query.partition(" WHERE ")
            if not found:
                continue
            rest = min((tail.index(word) for word in (" GROUP BY", " ORDER BY") if word in tail), default=len(tail))
            script, ordered = row["meta"]["sqlite"], "ORDER BY" in query
            gold, wrong = execute(script, query), execute(script, head + tail[rest:])
            assert (gold if ordered else sorted(gold)) != (wrong if ordered else sorted(wrong)), query
            checked += 1
    assert checked > 500


def test_the_schema_shown_is_the_schema_filled(rows: list[Row]) -> None:
    """Otherwise a query right by the prompt could fail on the data."""
    for row in rows:
        shown = row["messages"][0]["content"].splitlines()
        filled = row["meta"].get("sqlite", "").splitlines()
        assert 1 <= len(shown) <= 2
        assert not filled or [line for line in filled if line.startswith("CREATE")] == shown


def test_schemas_vary_from_row_to_row(rows: list[Row]) -> None:
    """Otherwise the adapter could learn the schemas by heart instead of reading them."""
    assert len({row["messages"][0]["content"] for row in rows}) > 700


def test_queries_have_one_style(rows: list[Row]) -> None:
    """Otherwise the adapter would have to guess between spellings of the same query."""
    for row in rows:
        for call in calls_of(row):
            query = call["arguments"]["query"]
            assert query.startswith("SELECT ")
            assert not query.endswith(";")
            assert ("ORDER BY" in query) == query.split(" LIMIT ")[0].endswith((" ASC", " DESC"))
            assert " AS " not in query


MEMBERS = (
    "CREATE TABLE members (name TEXT, city TEXT, age INTEGER);"
    "INSERT INTO members VALUES ('A', 'Oslo', 30), ('B', 'Oslo', 40), ('C', 'York', 50), ('D', 'York', 60);"
)
COLUMNS = ("name", "city", "age")


def test_data_that_cannot_tell_a_near_miss_is_refused() -> None:
    """Otherwise rows would be shipped on which a wrong query scores as right."""
    blind = Query(("name",), "members", where=(Condition("age", ">", (20,)),))
    sharp = Query(("name",), "members", where=(Condition("age", ">", (45,)),))
    assert not is_told_apart(MEMBERS, blind, COLUMNS)
    assert is_told_apart(MEMBERS, sharp, COLUMNS)


def test_near_misses_cover_each_part_of_a_query() -> None:
    """Otherwise a part of the question could be ignored without any loss in score."""
    query = Query(
        ("name",), "members", where=(Condition("age", ">", (45,)),), order_by="age", direction="DESC", limit=1
    )
    wrong = {near.sql() for near in near_misses(query, COLUMNS)}
    assert query.sql() not in wrong
    assert "SELECT name FROM members ORDER BY age DESC LIMIT 1" in wrong
    assert "SELECT name FROM members WHERE age < 45 ORDER BY age DESC LIMIT 1" in wrong
    assert "SELECT city FROM members WHERE age > 45 ORDER BY age DESC LIMIT 1" in wrong
    assert "SELECT name FROM members WHERE age > 45 ORDER BY age ASC LIMIT 1" in wrong
    assert "SELECT name FROM members WHERE age > 45 ORDER BY age DESC" in wrong


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_every_table_can_be_created_and_filled(domain: str) -> None:
    """Otherwise a domain would be offered that no row can use; repeated numbers would make an order ambiguous."""
    for table in DOMAINS[domain]:
        filled = fill(random.Random(0), table, count=8)
        result = execute(f"{filled.ddl()}\n{filled.inserts()}", f"SELECT * FROM {table.name}")
        assert len(result) == 8
        for column in table.columns:
            values = [record[column.name] for record in filled.records]
            assert column.kind not in ("number", "date", "person", "title") or len(set(values)) == len(values)


def test_the_readme_counts_the_tables_there_are() -> None:
    """Otherwise the README would promise more variety than the generator has."""
    tables = sum(len(tables) for tables in DOMAINS.values())
    assert f"{tables} tables in {len(DOMAINS)} domains" in ROWS.with_name("README.md").read_text(encoding="utf-8")
