"""Judging single answers: which scores they count for, and whether they earn them."""

from __future__ import annotations

from typing import Any

import pytest

from fgpipe.errors import EvaluationError
from fgpipe.evaluation.scorers import METRICS, check, judge
from fgpipe.functiongemma import ToolCall, render_call, tokens

SQL = {
    "type": "function",
    "function": {
        "name": "run_sql",
        "description": "Run a query.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["query"],
        },
    },
}
SETUP = "CREATE TABLE item (name TEXT, price REAL); INSERT INTO item VALUES ('pen', 1.5), ('ink', 4), ('pad', 2.5);"
GOLD = "SELECT name FROM item WHERE price > 2"


def point(*calls: ToolCall, sqlite: str | None = SETUP) -> dict[str, Any]:
    """An evaluation point that expects `calls`."""
    return {
        "id": "row-7",
        "prompt": "<bos><start_of_turn>user\nWhich?<end_of_turn>\n<start_of_turn>model\n",
        "expected_calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
        "expected_text": "",
        "tools": [SQL],
        "meta": {} if sqlite is None else {"sqlite": sqlite},
    }


def sql(query: str, **more: Any) -> ToolCall:
    """A call of `run_sql`."""
    return ToolCall("run_sql", {"query": query, **more})


def written(*calls: ToolCall) -> str:
    """What a model writes to make `calls`."""
    return "".join(map(render_call, calls))


def executed(expected: ToolCall, got: str) -> bool:
    """Whether the answer `got` earns execution accuracy."""
    return judge(point(expected), got, scorer="sqlite").outcomes["execution_accuracy"]


def test_right_call_earns_every_score_it_counts_for() -> None:
    """A perfect adapter must get 100 % everywhere."""
    judgement = judge(point(sql(GOLD)), written(sql(GOLD)), scorer="sqlite")
    assert all(judgement.outcomes.values())
    assert set(judgement.outcomes) == set(METRICS) - {"no_call_precision", "no_call_recall"}
    assert (judgement.fault, judgement.severity) == ("", 0)


def test_declining_earns_every_score_it_counts_for() -> None:
    """Rows where no call is right are part of the headline; prose of any wording is right there."""
    judgement = judge(point(sqlite=None), "I cannot help with that.", scorer="sqlite")
    assert all(judgement.outcomes.values())
    assert set(judgement.outcomes) == {
        *("parse_rate", "exact_match", "lenient_match"),
        *("no_call_precision", "no_call_recall", "execution_accuracy"),
    }


@pytest.mark.parametrize("scorer", ["exact", "sqlite"])
@pytest.mark.parametrize("stop", ["", *tokens.STOP_TEXTS])
def test_stop_token_in_the_text_changes_nothing(scorer: str, stop: str) -> None:
    """Engines differ in whether they hand over the stop token."""
    assert not judge(point(sql(GOLD)), written(sql(GOLD)) + stop, scorer=scorer).fault
    assert not judge(point(), "Sorry." + stop, scorer=scorer).fault


def test_call_where_none_is_right_loses_recall() -> None:
    """Over-calling is the known failure of small tuned models; it must cost the headline."""
    judgement = judge(point(), written(sql("SELECT 1")), scorer="sqlite")
    assert judgement.outcomes["no_call_recall"] is False
    assert judgement.outcomes["execution_accuracy"] is False
    assert "no_call_precision" not in judgement.outcomes
    assert "run_sql" in judgement.fault


def test_prose_where_a_call_is_right_loses_precision() -> None:
    """Refusing what could be answered is the other half of the no-call scores."""
    judgement = judge(point(sql(GOLD)), "I cannot do that.", scorer="exact")
    assert judgement.outcomes["no_call_precision"] is False
    assert "no_call_recall" not in judgement.outcomes
    assert judgement.outcomes["parse_rate"] is True
    assert judgement.outcomes["exact_match"] is False


@pytest.mark.parametrize("keep", range(1, len(written(sql(GOLD))) - 1))
def test_call_cut_anywhere_is_neither_call_nor_refusal(keep: int) -> None:
    """A half call, cut by the token limit, must not pass for a refusal or for a call."""
    text = written(sql(GOLD))[:keep]
    if not text.startswith(tokens.START_CALL):
        return
    for expected in (point(sql(GOLD)), point()):
        judgement = judge(expected, text, scorer="sqlite")
        assert judgement.outcomes["parse_rate"] is False
        assert judgement.outcomes["execution_accuracy"] is False
        assert "no_call_precision" not in judgement.outcomes
        assert ("no call is right" in judgement.fault) is (expected["expected_calls"] == [])


@pytest.mark.parametrize(
    "text", [f"so {tokens.END_CALL}", f"{tokens.ESCAPE}SELECT 1{tokens.ESCAPE}", "<start_of_turn>user"]
)
def test_prose_with_pieces_of_the_format_is_not_well_formed(text: str) -> None:
    """A base that prints fragments of its schema must not get a parse rate of 100 %."""
    judgement = judge(point(), text, scorer="exact")
    assert judgement.outcomes["parse_rate"] is False
    assert judgement.outcomes["no_call_recall"] is True


def test_wrong_function_is_told_apart_from_wrong_arguments() -> None:
    """The three scores in a row tell where an adapter fails; required arguments count only under the right name."""
    wrong_name = judge(point(sql(GOLD)), written(ToolCall("query_sql", {"query": GOLD})), scorer="exact").outcomes
    assert wrong_name["function_name"] is False
    assert "required_arguments" not in wrong_name
    incomplete = judge(point(sql(GOLD)), written(ToolCall("run_sql", {"limit": 1})), scorer="exact")
    assert incomplete.outcomes["function_name"] is True
    assert incomplete.outcomes["required_arguments"] is False
    assert "query" in incomplete.fault
    wrong_value = judge(point(sql(GOLD)), written(sql("SELECT 1")), scorer="exact")
    assert wrong_value.outcomes["required_arguments"] is True
    assert wrong_value.outcomes["exact_match"] is False
    assert "SELECT 1" in wrong_value.fault


def test_parallel_calls_count_in_any_order_but_completely() -> None:
    """Two right calls the other way round are right; one of them, or one twice, is not."""
    one, two = sql(GOLD), sql("SELECT max(price) FROM item")
    for scorer in ("exact", "sqlite"):
        assert not judge(point(one, two), written(two, one), scorer=scorer).fault
        for wrong in ([one], [one, one], [one, two, two]):
            assert judge(point(one, two), written(*wrong), scorer=scorer).fault


def test_query_is_right_by_its_result() -> None:
    """Execution accuracy must accept another wording and reject another answer."""
    assert executed(sql(GOLD), written(sql("SELECT i.name FROM item AS i WHERE NOT i.price <= 2 ORDER BY 1")))
    assert not executed(sql(GOLD), written(sql("SELECT name FROM item WHERE price > 3")))
    assert not executed(sql(GOLD), written(sql("SELECT nothing FROM item")))
    assert not executed(sql(GOLD), written(sql("DELETE FROM item")))
    assert not executed(sql(GOLD), written(ToolCall("run_sql", {"query": 5})))
    assert not executed(sql(GOLD), written(ToolCall("run_sql", {})))


def test_order_matters_if_the_expected_query_orders() -> None:
    """A question for a ranking is answered by a ranking."""
    ranked = sql("SELECT name FROM item ORDER BY price DESC")
    assert executed(ranked, written(sql("SELECT name FROM item ORDER BY -price")))
    assert not executed(ranked, written(sql("SELECT name FROM item ORDER BY price")))


def test_arguments_beside_the_query_still_count() -> None:
    """Equal results do not excuse a wrong second argument."""
    assert executed(sql(GOLD, limit=5), written(sql(f"{GOLD} ", limit=5)))
    assert not executed(sql(GOLD, limit=5), written(sql(GOLD, limit=6)))
    assert not executed(sql(GOLD), written(sql(GOLD, limit=6)))


def test_exact_match_of_queries_is_to_the_letter() -> None:
    """Beside execution accuracy the report shows how often the text itself was met."""
    outcomes = judge(point(sql(GOLD)), written(sql(GOLD.lower())), scorer="sqlite").outcomes
    assert (outcomes["exact_match"], outcomes["execution_accuracy"], outcomes["lenient_match"]) == (False, True, True)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (point(sql("SELECT nothing FROM item")), "expected query"),
        (point(sql(GOLD), sqlite="CREATE TABL item"), "meta.sqlite"),
        (point(sql(GOLD), sqlite=None), "meta.sqlite"),
    ],
)
def test_broken_rows_stop_the_evaluation(broken: dict[str, Any], named: str) -> None:
    """A fault in the data must not lower anyone's score: it is reported, with the row, before a model is asked."""
    for attempt in (
        lambda: check([broken], scorer="sqlite"),
        lambda: judge(broken, written(sql("SELECT 1")), scorer="sqlite"),
    ):
        with pytest.raises(EvaluationError, match=named) as caught:
            attempt()
        assert "row-7" in str(caught.value)


def test_sound_rows_pass_the_check() -> None:
    """Rows without a call need no tables; task.scorer=exact executes nothing."""
    check([point(sql(GOLD)), point(sqlite=None)], scorer="sqlite")
    check([point(sql("not even SQL"), sqlite=None)], scorer="exact")


def test_severity_puts_the_worst_first() -> None:
    """The examples shown are few: dangerous answers must come before near misses."""
    called, unreadable = written(sql("SELECT 1")), tokens.START_CALL + "call:run_sql{"
    order = [
        judge(point(), called, scorer="exact"),
        judge(point(sql(GOLD)), unreadable, scorer="exact"),
        judge(point(sql(GOLD)), "no", scorer="exact"),
        judge(point(sql(GOLD)), written(ToolCall("other", {})), scorer="exact"),
        judge(point(sql(GOLD)), called, scorer="exact"),
        judge(point(sql(GOLD)), written(sql(GOLD)), scorer="exact"),
    ]
    assert [one.severity for one in order] == [5, 4, 3, 2, 1, 0]
