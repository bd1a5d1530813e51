"""SQL of a model is run without harm and compared by what it returns."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fgpipe.evaluation.queries import MAX_ROWS, Database, QueryError, Result, is_ordered, same_result

SETUP = """
CREATE TABLE city (name TEXT, people INTEGER, area REAL);
INSERT INTO city VALUES ('Ulm', 128, 118.7), ('Bonn', 331, 141.1), ('Kiel', 247, 118.7);
"""


def select(query: str, setup: str = SETUP) -> Result:
    """What `query` returns."""
    with Database(setup) as database:
        return database.select(query)


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE city",
        "DELETE FROM city",
        "INSERT INTO city VALUES ('x', 1, 1)",
        "UPDATE city SET people = 0",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "PRAGMA query_only = OFF",
        "PRAGMA table_info(city)",
        "ATTACH DATABASE 'stolen.db' AS stolen",
        "VACUUM INTO 'stolen.db'",
        "BEGIN",
        "REINDEX",
        "EXPLAIN SELECT 1",
        "/* hidden */ EXPLAIN SELECT 1",
        "SELECT load_extension('x')",
        "SELECT 1; DROP TABLE city",
        "SELECT name FROM city; SELECT 1",
        "SELECT nothing FROM city",
        "SELECT \x00 FROM city",
        "SELECT '\ud800'",
        "not SQL at all",
        "-- only a comment",
        "",
    ],
)
def test_anything_but_one_select_is_refused_and_changes_nothing(
    query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries come out of a language model: none may write, reach a file, or harm the queries after it."""
    monkeypatch.chdir(tmp_path)
    with Database(SETUP) as database:
        before = database.select("SELECT * FROM city")
        with pytest.raises(QueryError):
            database.select(query)
        assert database.select("SELECT * FROM city") == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM n) SELECT length(x) FROM n",
        f"SELECT count(*) FROM {', '.join(f'city AS c{number}' for number in range(20))}",
        "SELECT hex(zeroblob(1000000000))",
        "SELECT replace(printf('%.*c', 9000, 'x'), 'x', 'long')",
    ],
)
def test_queries_that_would_not_end_are_stopped(query: str) -> None:
    """A runaway query must cost its own row, not hang the evaluation or eat the memory."""
    with Database(SETUP) as database:
        with pytest.raises(QueryError):
            database.select(query)
        assert database.select("SELECT 1").rows == [(1,)]


@pytest.mark.parametrize(
    "script", ["ATTACH DATABASE 'x.db' AS x", "PRAGMA journal_mode = WAL", "CREATE TABLE", "\ud800"]
)
def test_setup_script_of_a_dataset_cannot_reach_files(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows from the hub bring their own script; running it must be as safe as reading it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError):
        Database(script)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "WITH big AS (SELECT * FROM city WHERE people > 200) SELECT count(*) FROM big;",
        "SELECT name, rank() OVER (ORDER BY people) FROM city",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 3) SELECT x FROM n",
        "SELECT upper(name) || '!' FROM city UNION SELECT 'x' EXCEPT SELECT 'y' ORDER BY 1 LIMIT 2",
        "SELECT a.name FROM city a LEFT JOIN city b ON a.area = b.area GROUP BY a.name HAVING count(*) > 1",
    ],
)
def test_ordinary_sql_is_let_through(query: str) -> None:
    """A limit too tight would score right answers as wrong."""
    assert select(query).rows


def test_longest_result_is_still_answered() -> None:
    """The limit of rows must not cut off results that may be right."""
    counted = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT {}) SELECT x FROM n"
    assert len(select(counted.format(MAX_ROWS)).rows) == MAX_ROWS
    with pytest.raises(QueryError, match="more than"):
        select(counted.format(MAX_ROWS + 1))


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT name FROM city ORDER BY people", True),
        ("select name from city order\n  by people limit 1", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
        ("SELECT name FROM city", False),
        ("SELECT name, rank() OVER (PARTITION BY area ORDER BY people) FROM city", False),
        ("SELECT * FROM (SELECT name FROM city ORDER BY (people + 1) LIMIT 2)", False),
        ("SELECT 'order by' FROM city", False),
        ('SELECT "order by" FROM city -- order by name', False),
        ("SELECT 'it''s (' FROM city ORDER BY name", True),
        ("SELECT border by FROM orders", False),
    ],
)
def test_order_counts_only_where_the_query_promises_it(query: str, ordered: bool) -> None:
    """Rows in another order are wrong if the question asked for an order, and right otherwise."""
    assert is_ordered(query) is ordered


def test_results_are_equal_whatever_the_wording() -> None:
    """Execution accuracy means this: other names, aliases and join order, same answer."""
    gold = select("SELECT name, people FROM city WHERE people > 200")
    assert same_result(
        gold, select("SELECT c.name AS n, people * 1.0 FROM city c WHERE NOT people <= 200"), ordered=False
    )
    assert not same_result(gold, select("SELECT people, name FROM city WHERE people > 200"), ordered=False)
    assert not same_result(gold, select("SELECT name FROM city WHERE people > 200"), ordered=False)
    assert not same_result(gold, select("SELECT name, people FROM city"), ordered=False)
    assert not same_result(select("SELECT 1 WHERE 0"), select("SELECT 1, 2 WHERE 0"), ordered=False)


def test_order_of_rows_is_compared_only_if_asked() -> None:
    """ORDER BY people DESC answered ascending is wrong; without ORDER BY it is right."""
    up, down = (select(f"SELECT name FROM city ORDER BY people {way}") for way in ("", "DESC"))
    assert same_result(up, down, ordered=False)
    assert not same_result(up, down, ordered=True)


def test_numbers_are_equal_within_rounding_and_nothing_else_is() -> None:
    """Sums in another order differ in the last digit; '1' is not 1, and NULL is not 0."""
    assert same_result(Result(1, [(0.1 + 0.2,), (5,)]), Result(1, [(5.0,), (0.3,)]), ordered=False)
    assert not same_result(Result(1, [(0.3,)]), Result(1, [(0.3001,)]), ordered=False)
    assert not same_result(Result(1, [("1",)]), Result(1, [(1,)]), ordered=False)
    assert not same_result(Result(1, [(None,)]), Result(1, [(0,)]), ordered=False)
    assert same_result(Result(1, [(None,), (b"x",)]), Result(1, [(b"x",), (None,)]), ordered=False)


def test_repeated_rows_count() -> None:
    """A join that doubles rows gives another answer."""
    one, two = ("a", 0.1 + 0.2), ("b", 0.3)
    assert not same_result(Result(2, [one, one, two]), Result(2, [one, two, two]), ordered=False)
    rows = [(index % 7, index / 3) for index in range(60)]
    shuffled = random.Random(0).sample([(a, b + 1e-13) for a, b in rows], len(rows))
    assert same_result(Result(2, rows), Result(2, shuffled), ordered=False)
