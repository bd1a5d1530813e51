"""Judging one answer: which scores it counts for, whether it earns them, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgpipe.errors import EvaluationError
from fgpipe.evaluation import comparison, queries
from fgpipe.functiongemma import ParsedOutput, ToolCall, parse_output, tokens


@dataclass(frozen=True)
class Metric:
    """A score: the rows or answers it is a share of, and what it says of them."""

    of: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "parse_rate": Metric("rows", "every call is readable, and text is free of the format's own tokens"),
    "function_name": Metric("call rows", "the right functions are called, each as often as expected"),
    "required_arguments": Metric("right names", "no required argument is missing; of answers with the right functions"),
    "exact_match": Metric("rows", "all calls equal, with types, in any order; no call where none is right"),
    "lenient_match": Metric("rows", "the same, without case, spaces and punctuation of strings"),
    "mobile_actions_match": Metric("call rows", "Google's Mobile Actions rule: same order, only strings compared"),
    "no_call_precision": Metric("refusals", "no call was right; of answers without a call"),
    "no_call_recall": Metric("no-call rows", "no call is made; of rows where none is right"),
    "execution_accuracy": Metric("rows", "every query gives the expected result; no call where none is right"),
}
"""Every score, in the order they are shown."""

QUERY_ARGUMENT = "query"
"""The argument that scorer `sqlite` executes."""

Point = Mapping[str, Any]
"""An evaluation point: id, prompt, expected_calls, expected_text, tools, meta."""

Fault = Callable[[Point, Sequence[ToolCall], Sequence[ToolCall]], str]
"""What is wrong with the calls got (third) where calls were expected (second); "" if nothing is."""


@dataclass(frozen=True)
class Judgement:
    """One answer judged.

    Attributes:
        outcomes: whether the answer earns each score it counts for; the others are absent.
        fault: why the headline score is missed, for people; "" if it is earned.
        severity: 0 if right; otherwise the larger, the worse.
    """

    outcomes: Mapping[str, bool]
    fault: str
    severity: int


@dataclass(frozen=True)
class Scorer:
    """A way to score: the name of its headline in METRICS and the function that finds fault."""

    headline: str
    fault: Fault


def judge(point: Point, text: str, *, scorer: str) -> Judgement:
    """Judge the answer `text` to `point`.

    Raises:
        EvaluationError: the row itself cannot be scored (see `check`).
    """
    chosen = SCORERS[scorer]
    answer, expected = parse_output(text), expected_calls(point)
    fault, severity = _headline_fault(chosen, point, expected, answer)
    exact = not _headline_fault(SCORERS["exact"], point, expected, answer)[0]
    outcomes = {"parse_rate": _is_well_formed(answer), "exact_match": exact, **_call_outcomes(point, expected, answer)}
    outcomes[chosen.headline] = not fault
    return Judgement({name: outcomes[name] for name in METRICS if name in outcomes}, fault, severity)


def check(points: Sequence[Point], *, scorer: str) -> None:
    """Make sure that the rows themselves can be scored, before a model is asked anything.

    Raises:
        EvaluationError: naming the row whose setup script or expected query sqlite refuses.
    """
    for point in points:
        expected = expected_calls(point)
        fault = SCORERS[scorer].fault(point, expected, expected) if expected else ""
        if fault:
            raise EvaluationError(f"row {point['id']}: got an expected answer that is scored as wrong ({fault})")


def expected_calls(point: Point) -> list[ToolCall]:
    """The calls that `point` expects; empty if no call is right."""
    return [ToolCall(call["name"], call["arguments"]) for call in point["expected_calls"]]


def _is_well_formed(answer: ParsedOutput) -> bool:
    """Whether every call is readable and the text beside them is prose, free of the format's own tokens."""
    return not answer.problems and not any(token in answer.content for token in tokens.SPECIAL_TOKEN_IDS)


def _call_outcomes(point: Point, expected: Sequence[ToolCall], answer: ParsedOutput) -> dict[str, bool]:
    """Outcomes of the scores that look at calls alone; which of them apply depends on what was expected and made."""
    declined = not answer.calls and not answer.problems
    left = comparison.unpaired(expected, answer.calls, comparison.same_call_leniently)
    outcomes = {"lenient_match": left == ([], []) and not answer.problems}
    if declined:
        outcomes["no_call_precision"] = not expected
    if not expected:
        outcomes["no_call_recall"] = declined
        return outcomes
    outcomes["function_name"] = _names(answer.calls) == _names(expected)
    outcomes["mobile_actions_match"] = comparison.same_calls_as_strings(expected, answer.calls)
    if outcomes["function_name"]:
        outcomes["required_arguments"] = not any(
            comparison.missing_arguments(call, comparison.parameters_of(point["tools"], call.name))
            for call in answer.calls
        )
    return outcomes


def _headline_fault(
    scorer: Scorer, point: Point, expected: Sequence[ToolCall], answer: ParsedOutput
) -> tuple[str, int]:
    """What is wrong with an answer and how bad it is, the worst first; ("", 0) if it is right."""
    called = ", ".join(call.name for call in answer.calls)
    if not expected and (answer.calls or answer.problems):
        return f"called {called or 'something unreadable'} where no call is right", 5
    if answer.problems:
        return f"unreadable: {answer.problems[0]}", 4
    if not expected:
        return "", 0
    if not answer.calls:
        return f"made no call, expected {', '.join(call.name for call in expected)}", 3
    if _names(answer.calls) != _names(expected):
        return f"called {called}, expected {', '.join(call.name for call in expected)}", 2
    fault = scorer.fault(point, expected, answer.calls)
    return fault, int(bool(fault))


def _exact_fault(point: Point, expected: Sequence[ToolCall], got: Sequence[ToolCall]) -> str:
    """Fault of calls with the right names: the first argument that is not the same."""
    tools = point["tools"]
    missing, extra = comparison.unpaired(expected, got, lambda one, other: comparison.same_call(one, other, tools))
    if not missing:
        return ""
    # The names agree, so what is left over has the same names too.
    rival = next(other for other in extra if other.name == missing[0].name)
    return comparison.difference(missing[0], rival, comparison.parameters_of(tools, rival.name))


def _execution_fault(point: Point, expected: Sequence[ToolCall], got: Sequence[ToolCall]) -> str:
    """Fault of calls with the right names: the first query whose result no expected query gives.

    Calls without a query are compared as by `exact`.

    Raises:
        EvaluationError: the row has no setup script, or sqlite refuses it or an expected query.
    """
    if not any(isinstance(call.arguments.get(QUERY_ARGUMENT), str) for call in expected):
        return _exact_fault(point, expected, got)
    with _database(point) as database:
        wanted = [_run_expected(database, call, point) for call in expected]
        made = [_run(database, call) for call in got]
    missing, extra = comparison.unpaired(wanted, made, lambda one, other: _same_run(one, other, point["tools"]))
    return _query_fault(extra[0], missing) if missing else ""


@dataclass(frozen=True)
class _Run:
    """A call with its query executed: `result` is None if there is no query or sqlite refused it, as `error` tells."""

    call: ToolCall
    result: queries.Result | None
    error: str = ""


def _run(database: queries.Database, call: ToolCall) -> _Run:
    query = call.arguments.get(QUERY_ARGUMENT)
    if not isinstance(query, str):
        return _Run(call, None)
    try:
        return _Run(call, database.select(query))
    except queries.QueryError as error:
        return _Run(call, None, str(error))


def _run_expected(database: queries.Database, call: ToolCall, point: Point) -> _Run:
    run = _run(database, call)
    if run.error:
        raise EvaluationError(
            f"row {point['id']}: got an expected query that cannot be run: {run.error}",
            hint="correct the query, or the tables in meta.sqlite",
        )
    return run


def _same_run(expected: _Run, got: _Run, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two calls differ in nothing but the wording of their queries."""
    if expected.result is None:
        return comparison.same_call(expected.call, got.call, tools)
    if got.result is None or not comparison.same_call(_without_query(expected.call), _without_query(got.call), tools):
        return False
    ordered = queries.is_ordered(str(expected.call.arguments[QUERY_ARGUMENT]))
    return queries.same_result(expected.result, got.result, ordered=ordered)


def _query_fault(got: _Run, missing: Sequence[_Run]) -> str:
    """Why `got` is none of the calls that are still missing."""
    if got.error:
        return f"SQL refused: {got.error}"
    if got.result is None:
        return f"{got.call.name}: got no {QUERY_ARGUMENT} of type string"
    expected = " or ".join(_sample(run.result) for run in missing if run.result is not None)
    return f"result: got {_sample(got.result)}, expected {expected or 'another call'}"


def _sample(result: queries.Result) -> str:
    """The number of rows and the first two."""
    shown = ", ".join(map(str, result.rows[:2])) + (", …" if len(result.rows) > 2 else "")
    return f"{len(result.rows)} row{'' if len(result.rows) == 1 else 's'}" + (f" [{shown}]" if shown else "")


def _database(point: Point) -> queries.Database:
    script = (point.get("meta") or {}).get("sqlite")
    if not isinstance(script, str):
        raise EvaluationError(
            f"row {point['id']}: got no meta.sqlite, expected the script that makes its tables",
            hint="task.scorer=exact scores calls without executing them",
        )
    try:
        return queries.Database(script)
    except queries.QueryError as error:
        raise EvaluationError(f"row {point['id']}: got a meta.sqlite that cannot be run: {error}") from error


def _without_query(call: ToolCall) -> ToolCall:
    return ToolCall(call.name, {key: value for key, value in call.arguments.items() if key != QUERY_ARGUMENT})


def _names(calls: Sequence[ToolCall]) -> Counter[str]:
    return Counter(call.name for call in calls)


SCORERS: Mapping[str, Scorer] = {
    "exact": Scorer("exact_match", _exact_fault),
    "sqlite": Scorer("execution_accuracy", _execution_fault),
}
"""What `task.scorer` may name."""
