"""Calls held against the schemas of their functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from fgpipe.functiongemma import ToolCall, parse_output
from fgpipe.functiongemma.fit import FittedCall, declared_parameters, fit_call
from strategies import calls


def declared(schema: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """A function f with one argument a of `schema`."""
    parameters = {"type": "object", "properties": {"a": schema}, **rest}
    return declared_parameters([{"function": {"name": "f", "description": "", "parameters": parameters}}])


def fitted(written: str, schema: dict[str, Any], **rest: Any) -> FittedCall:
    """What becomes of `f{a:written}`."""
    output = parse_output(f"<start_function_call>call:f{{a:{written}}}<end_function_call>")
    return fit_call(output.calls[0], declared(schema, **rest), output.literals[0])


@pytest.mark.parametrize(
    ("written", "type_", "expected"),
    [
        ("5", "string", "5"),
        ("1.50", "string", "1.50"),
        ("1E3", "string", "1E3"),
        ("-0", "string", "-0"),
        ("true", "str", "true"),
        ("<escape>5<escape>", "integer", 5),
        ("<escape>-12<escape>", "INTEGER", -12),
        ("5.0", "integer", 5),
        ("<escape>5<escape>", "number", 5),
        ("<escape>2.50<escape>", "number", 2.5),
        ("<escape>true<escape>", "boolean", True),
        ("False", "boolean", False),
    ],
)
def test_one_meaning_is_mended(written: str, type_: str, expected: object) -> None:
    """The tool would be handed text where it computes, or a number where it expects a name or a code."""
    made = fitted(written, {"type": type_})
    assert repr(made.call.arguments) == repr({"a": expected})
    assert len(made.repairs) == 1
    assert made.violations == []


@pytest.mark.parametrize(
    ("written", "schema"),
    [
        ("5", {"type": "integer"}),
        ("5", {"type": "number"}),
        ("<escape>5<escape>", {"type": "string"}),
        ("<escape>5<escape>", {"type": ["string", "integer"]}),
        ("<escape>5<escape>", {}),
        ("None", {"type": "string", "nullable": True}),
        ("None", {"type": ["string", "null"]}),
        ("{b:5}", {"type": "object"}),
        ("[1,<escape>1<escape>]", {"type": "array"}),
    ],
)
def test_what_fits_is_left_as_it_is(written: str, schema: dict[str, Any]) -> None:
    """A right argument would be changed on its way to the tool."""
    output = parse_output(f"<start_function_call>call:f{{a:{written}}}<end_function_call>")
    assert fitted(written, schema) == FittedCall(output.calls[0])
    assert repr(fitted(written, schema).call) == repr(output.calls[0])


@pytest.mark.parametrize(
    ("written", "schema"),
    [
        ("<escape>five<escape>", {"type": "integer"}),
        ("<escape>05<escape>", {"type": "integer"}),
        ("<escape>5.0<escape>", {"type": "integer"}),
        ("<escape>1e999<escape>", {"type": "number"}),
        ("2.5", {"type": "integer"}),
        ("1e300", {"type": "integer"}),
        ("1", {"type": "boolean"}),
        ("<escape>yes<escape>", {"type": "boolean"}),
        ("None", {"type": "string"}),
        ("<escape>[1]<escape>", {"type": "array"}),
        ("5", {"type": "array"}),
        ("<escape>A<escape>", {"type": "string", "enum": ["a"]}),
        ("{}", {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}),
        ("{c:1}", {"type": "object", "properties": {"b": {"type": "string"}}}),
        ("{c:1}", {"type": "object", "additionalProperties": False}),
    ],
)
def test_what_could_mean_several_things_is_named_and_left(written: str, schema: dict[str, Any]) -> None:
    """The tool would act on a guess, and the guess would be taken for what the model said."""
    output = parse_output(f"<start_function_call>call:f{{a:{written}}}<end_function_call>")
    made = fitted(written, schema)
    assert (repr(made.call), made.repairs, len(made.violations)) == (repr(output.calls[0]), [], 1)


def test_missing_and_undeclared_arguments_and_functions_are_named() -> None:
    """An argument would be made up or dropped, or a call to nothing counted as sound."""
    schema = declared({"type": "string"}, required=["a"])
    assert fit_call(ToolCall("f", {"b": 1}), schema) == FittedCall(
        ToolCall("f", {"b": 1}), [], ["f.b: not declared", "f.a: required, but missing"]
    )
    assert fit_call(ToolCall("g", {}), schema).violations == ["g: no function of that name is declared"]


def test_nested_arguments_are_mended_where_they_stand() -> None:
    """Only the outermost arguments would have the right type."""
    schema = {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    made = fitted("[{n:<escape>1<escape>},{n:2}]", schema)
    assert made.call.arguments == {"a": [{"n": 1}, {"n": 2}]}
    assert made.repairs == ["f.a[0].n: a string taken for integer"]


@given(calls(), calls())
def test_any_call_can_be_held_against_any_schema(call: ToolCall, other: ToolCall) -> None:
    """One odd answer or tool list would end a request with an internal error."""
    tool = {"function": {"name": call.name, "parameters": other.arguments}}
    before = repr(call)
    for tools in ([tool], [other.arguments], None, []):
        fit_call(call, declared_parameters(tools))
    assert repr(call) == before
