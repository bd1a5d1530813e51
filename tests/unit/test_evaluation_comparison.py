"""When two calls are the same."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgpipe.evaluation import comparison
from fgpipe.functiongemma import ToolCall


def tool(name: str, required: tuple[str, ...] = (), /, **types: Any) -> dict[str, Any]:
    """A tool whose arguments have the given JSON types."""
    properties = {key: {"type": value} if isinstance(value, str) else value for key, value in types.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {"type": "object", "properties": properties, "required": list(required)},
        },
    }


TOOLS = [tool("set", ("level",), level="number", count="integer", on="boolean", name="string", tags="array")]


def same(expected: dict[str, Any], got: dict[str, Any]) -> bool:
    """Typed equality of two calls of `set`."""
    return comparison.same_call(ToolCall("set", expected), ToolCall("set", got), TOOLS)


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        ({"level": 2}, {"level": 2.0}, True),
        ({"level": 2.0}, {"level": 2}, True),
        ({"count": 2}, {"count": 2.0}, False),
        ({"level": 2}, {"level": "2"}, False),
        ({"level": 1}, {"level": True}, False),
        ({"count": 1}, {"count": True}, False),
        ({"on": True}, {"on": 1}, False),
        ({"on": True}, {"on": "true"}, False),
        ({"name": "Ann"}, {"name": "ann"}, False),
        ({"name": "Ann"}, {"name": "Ann "}, False),
        ({"name": "2"}, {"name": 2}, False),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, False),
        ({"tags": ["a"]}, {"tags": "a"}, False),
        ({"level": 1}, {"level": 1, "name": None}, True),
        ({"level": 1}, {"level": 1, "name": ""}, False),
        ({"level": 1, "name": "x"}, {"level": 1}, False),
        ({"level": 1}, {"level": 1, "extra": 0}, False),
        ({"undeclared": 2}, {"undeclared": 2.0}, False),
    ],
)
def test_arguments_are_compared_with_their_types(expected: dict[str, Any], got: dict[str, Any], equal: bool) -> None:
    """The headline score of most tasks rests on exactly these decisions."""
    assert same(expected, got) is equal
    assert same(got, expected) is equal


def test_schema_is_followed_into_objects_and_lists() -> None:
    """2 and 2.0 deep inside an argument are the same only where the schema, there, says number."""
    point = {"type": "OBJECT", "properties": {"x": {"type": "NUMBER"}, "n": {"type": "INTEGER"}}}
    tools = [tool("draw", points={"type": "array", "items": point}, origin=point)]

    def drawn(x: Any, n: Any) -> ToolCall:
        return ToolCall("draw", {"points": [{"x": 0.5, "n": 0}, {"x": x, "n": n}], "origin": {"x": x}})

    assert comparison.same_call(drawn(2, 3), drawn(2.0, 3), tools)
    assert not comparison.same_call(drawn(2, 3), drawn(2, 3.0), tools)


def test_nullable_number_written_as_type_list_is_a_number() -> None:
    """`type: [number, null]` is common in schemas made from Python types."""
    tools = [tool("set", level={"type": ["number", "null"]})]
    assert comparison.same_call(ToolCall("set", {"level": 2}), ToolCall("set", {"level": 2.0}), tools)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 0.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
NUMERIC = {"type": "number", "items": {"type": "number"}, "properties": {"x": {"type": "number"}}}


@given(JSON, JSON, JSON, st.sampled_from([{}, NUMERIC]))
def test_sameness_is_an_equivalence(one: Any, two: Any, three: Any, schema: dict[str, Any]) -> None:
    """Pairing takes the first partner; were sameness not transitive, right parallel calls could be scored as wrong."""
    assert comparison.same_value(one, one, schema)
    assert comparison.same_value(one, two, schema) == comparison.same_value(two, one, schema)
    if comparison.same_value(one, two, schema) and comparison.same_value(two, three, schema):
        assert comparison.same_value(one, three, schema)


CALLS = st.lists(
    st.builds(
        ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2)
    ),
    min_size=1,
    max_size=5,
)


@given(CALLS, st.randoms(use_true_random=False))
def test_order_of_parallel_calls_does_not_matter(calls: list[ToolCall], shuffler: random.Random) -> None:
    """A model that asks for the same things in another order is right; one call too few, too many or twice is not."""
    shuffled = shuffler.sample(calls, len(calls))

    def equal(expected: list[ToolCall], got: list[ToolCall]) -> bool:
        return comparison.unpaired(expected, got, lambda a, b: comparison.same_call(a, b, [])) == ([], [])

    assert equal(calls, shuffled)
    assert not equal(calls, shuffled[1:])
    assert not equal(calls, [*shuffled, shuffled[0]])
    assert not equal(calls, [ToolCall("h", {}), *shuffled[1:]])


@given(CALLS, CALLS)
def test_fault_is_named_exactly_when_calls_differ(expected: list[ToolCall], got: list[ToolCall]) -> None:
    """A wrong answer without a reason, or a reason for a right one, would mislead who reads the report."""
    for one, other in zip(expected, got, strict=False):
        if one.name == other.name:
            assert bool(comparison.difference(one, other, {})) is not comparison.same_call(one, other, [])


def test_lenient_match_forgives_the_writing_of_strings_only() -> None:
    """It shows how much of a low exact score is spelling; wrong values must stay wrong."""

    def alike(expected: Any, got: Any) -> bool:
        return comparison.same_call_leniently(ToolCall("f", {"a": expected}), ToolCall("f", {"a": got}))

    assert alike("San Francisco, CA", "san francisco CA")
    assert alike("it's", 'IT"S')
    assert alike(2.0, 2)
    assert not alike(2, 2.0)
    assert not alike("Paris", "Pisa")
    assert not alike(1, True)
    assert not alike(["a", "b"], ["b", "a"])
    assert not comparison.same_call_leniently(ToolCall("f", {}), ToolCall("f", {"b": 1}))


def test_mobile_actions_rule_is_googles() -> None:
    """Ours must be comparable with the 58 and 85 % Google prints: in order, strings only."""
    one, two = ToolCall("f", {"a": "x", "n": 1}), ToolCall("g", {"a": "y"})
    assert comparison.same_calls_as_strings([one, two], [one, two])
    assert comparison.same_calls_as_strings([one], [ToolCall("f", {"a": "x", "n": 2})])
    assert not comparison.same_calls_as_strings([one, two], [two, one])
    assert not comparison.same_calls_as_strings([one], [ToolCall("f", {"a": "X", "n": 1})])


def test_missing_arguments_are_those_the_declaration_requires() -> None:
    """An optional argument left out must not count, a required one given as null must."""
    schema = comparison.parameters_of(TOOLS, "set")
    assert comparison.missing_arguments(ToolCall("set", {"level": 0}), schema) == []
    assert comparison.missing_arguments(ToolCall("set", {"level": None, "name": "x"}), schema) == ["level"]
    assert comparison.missing_arguments(ToolCall("unknown", {}), comparison.parameters_of(TOOLS, "unknown")) == []
