"""When two function calls are the same: by name, by typed arguments, by arguments read with good will."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fgpipe.functiongemma import ToolCall

T = TypeVar("T")

Schema = Mapping[str, Any]

_NUMBER_TYPES = frozenset({"number", "float", "double"})
"""Declared types under which 2 and 2.0 are the same value; "integer" is not one of them."""

_LENIENT_DROPPED = str.maketrans("", "", " ,./-_*^")
"""What the Berkeley leaderboard removes from strings before it compares them."""


def unpaired(expected: Sequence[T], got: Sequence[T], same: Callable[[T, T], bool]) -> tuple[list[T], list[T]]:
    """What is left of both when equals have been struck off in pairs; two empty lists mean: equal whatever the order.

    Taking the first partner is enough because `same` puts values into classes: partners are interchangeable.
    """
    missing, extra = [], list(got)
    for one in expected:
        place = next((place for place, other in enumerate(extra) if same(one, other)), None)
        if place is None:
            missing.append(one)
        else:
            del extra[place]
    return missing, extra


def parameters_of(tools: Sequence[Mapping[str, Any]], name: str) -> Schema:
    """The JSON schema of the arguments of the tool called `name`; empty if there is none."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            return function.get("parameters") or {}
    return {}


def same_call(expected: ToolCall, got: ToolCall, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether name and arguments are the same, types included; see `same_value`."""
    return expected.name == got.name and same_value(
        expected.arguments, got.arguments, parameters_of(tools, expected.name)
    )


def same_value(expected: Any, got: Any, schema: Schema) -> bool:
    """Whether two JSON values are the same under the schema they were declared with.

    Strings are compared to the letter, lists in order. A boolean is no number, and 2 equals 2.0 only where the schema
    says `number`. A key with the value null is the same as no key: an optional argument was left out.
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        left, right = _without_null(expected), _without_null(got)
        properties = schema.get("properties") or {}
        return left.keys() == right.keys() and all(
            same_value(left[key], right[key], _mapping(properties.get(key))) for key in left
        )
    if isinstance(expected, list) and isinstance(got, list):
        items = _mapping(schema.get("items"))
        return len(expected) == len(got) and all(same_value(*pair, items) for pair in zip(expected, got, strict=True))
    if type(expected) is type(got):
        return bool(expected == got)
    return {type(expected), type(got)} == {int, float} and _is_number(schema) and bool(expected == got)


def same_call_leniently(expected: ToolCall, got: ToolCall) -> bool:
    """Whether name and arguments are the same in the manner of the Berkeley leaderboard (BFCL, AST match).

    Strings are compared without case, spaces and the signs `,./-_*^`; an integer passes for the float of its value.
    """
    return expected.name == got.name and _alike(expected.arguments, got.arguments)


def same_calls_as_strings(expected: Sequence[ToolCall], got: Sequence[ToolCall]) -> bool:
    """Google's rule for Mobile Actions: the same names and the same arguments in the same order.

    As in Google's notebook only string arguments are seen; numbers, booleans and containers are not compared.
    """
    return len(expected) == len(got) and all(
        one.name == other.name and _strings(one.arguments) == _strings(other.arguments)
        for one, other in zip(expected, got, strict=True)
    )


def missing_arguments(call: ToolCall, schema: Schema) -> list[str]:
    """Required parameters that `call` does not give, or gives as null."""
    return [name for name in schema.get("required") or () if call.arguments.get(name) is None]


def difference(expected: ToolCall, got: ToolCall, schema: Schema) -> str:
    """The first argument that is not the same, in words; "" if all are."""
    left, right = _without_null(expected.arguments), _without_null(got.arguments)
    for key in [*left, *(key for key in right if key not in left)]:
        if key not in right:
            return f"{got.name}: no argument {key}, expected {left[key]!r}"
        if key not in left:
            return f"{got.name}: argument {key} was not asked for, got {right[key]!r}"
        if not same_value(left[key], right[key], _mapping((schema.get("properties") or {}).get(key))):
            return f"{got.name}: {key}: got {right[key]!r}, expected {left[key]!r}"
    return ""


def _alike(expected: Any, got: Any) -> bool:
    if isinstance(expected, dict) and isinstance(got, dict):
        left, right = _without_null(expected), _without_null(got)
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(_alike(*pair) for pair in zip(expected, got, strict=True))
    if isinstance(expected, str) and isinstance(got, str):
        return _letters(expected) == _letters(got)
    if isinstance(expected, float) and type(got) is int:
        return expected == got
    return type(expected) is type(got) and bool(expected == got)


def _letters(text: str) -> str:
    return text.translate(_LENIENT_DROPPED).lower().replace("'", '"')


def _is_number(schema: Schema) -> bool:
    declared = schema.get("type", "")
    return any(str(name).lower() in _NUMBER_TYPES for name in (declared if isinstance(declared, list) else [declared]))


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in values.items() if isinstance(value, str)}


def _mapping(value: Any) -> Schema:
    """A schema, or the empty one in place of anything else (`items: true` is legal JSON schema)."""
    return value if isinstance(value, Mapping) else {}
