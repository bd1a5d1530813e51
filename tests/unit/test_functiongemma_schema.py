"""Tool schemas mended or reported."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.errors import FormatError
from fgpipe.functiongemma import render_declaration
from fgpipe.functiongemma.schema import lint, normalise
from strategies import tools as declarable_tools

TYPE_NAMES = [
    *(
        "string",
        "STRING",
        "str",
        "int",
        "float",
        "bool",
        "dict",
        "list",
        "tuple",
        "any",
        "None",
        "null",
        "what",
        "",
        "str, optional",
    ),
    *(
        "List[int]",
        "Optional[int]",
        "Dict[str, List[int]]",
        "int | None",
        "Union[int, str]",
        "Tuple[int, ...]",
        "Literal['a', 'b']",
        "List[",
    ),
]
PATH = "tools[0].function.parameters"
AT = f"{PATH}.properties.a"
SELF = {"properties": {"n": {"$ref": "#/$defs/n"}}}


def tool(properties: Any, **fields: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": properties, **fields}},
    }


def normalised(schema: Any) -> Any:
    """The property `p` of a tool after normalising."""
    return normalise([tool({"p": schema})])[0][0]["function"]["parameters"]["properties"]["p"]


def messy_schemas() -> st.SearchStrategy[Any]:
    """Schemas as bad as they come."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([*TYPE_NAMES, "#/$defs/a", "#/properties/a", "#"])
    )
    words = "type properties required items enum const anyOf oneOf allOf $ref $defs default description nullable"
    names = st.sampled_from([*words.split(), "additionalProperties", "title", "minimum", "a", "b", "a:b"])
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=5)),
        max_leaves=25,
    )


@settings(max_examples=300, deadline=None)
@given(messy_schemas())
def test_normalising_twice_changes_nothing_more(parameters: Any) -> None:
    """Otherwise training and serving, which both normalise, show the model different declarations."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    before = copy.deepcopy(tools)
    once, issues = normalise(tools)
    assert tools == before
    assert lint(tools) == issues
    twice, rest = normalise(once)
    assert twice == once
    assert [issue for issue in rest if issue.repaired] == []


@settings(max_examples=100, deadline=None)
@given(declarable_tools())
def test_what_is_left_can_be_declared(tool: dict[str, Any]) -> None:
    """Otherwise normalising breaks tools that were sound."""
    assert render_declaration(normalise([tool])[0][0])


@settings(max_examples=300, deadline=None)
@given(messy_schemas())
def test_what_cannot_be_declared_was_reported(parameters: Any) -> None:
    """Otherwise the data doctor calls a tool sound that later stops the training."""
    tools, issues = normalise([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    if all(issue.repaired for issue in issues):
        render_declaration(tools[0])


@pytest.mark.parametrize(
    ("given_schema", "expected"),
    [
        ({"type": "str"}, {"type": "string"}),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "float"}, {"type": "number"}),
        ({"type": "dict"}, {"type": "object"}),
        ({"type": "str, optional"}, {"type": "string"}),
        ({"type": "List[int]"}, {"type": "array", "items": {"type": "integer"}}),
        ({"type": "List[List[str]]"}, {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        ({"type": "tuple", "items": {"type": "float"}}, {"type": "array", "items": {"type": "number"}}),
        ({"type": "Optional[int]"}, {"type": "integer", "nullable": True}),
        ({"type": "typing.Optional[bool]"}, {"type": "boolean", "nullable": True}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["integer", "number"]}, {"type": "number"}),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "d"},
            {"type": "integer", "nullable": True, "description": "d"},
        ),
        ({"allOf": [{"type": "string"}]}, {"type": "string"}),
        ({"properties": {"a": {"type": "int"}}}, {"type": "object", "properties": {"a": {"type": "integer"}}}),
        ({"items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}),
        ({"enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "enum": ["a", 1, 2.5, True]}, {"type": "string", "enum": ["a", "1", "2.5", "true"]}),
        ({"type": "string", "enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "integer", "enum": [1, 2], "description": "One of: 1, 2."}),
        (
            {"type": "int", "enum": ["1", "2"], "description": "N."},
            {"type": "integer", "enum": [1, 2], "description": "N. One of: 1, 2."},
        ),
        ({"type": "boolean", "enum": [True, False]}, {"type": "boolean", "enum": [True, False]}),
        (
            {"type": "object", "additionalProperties": {}},
            {"type": "object", "additionalProperties": {}, "properties": {}},
        ),
        ({"type": "string", "description": None, "enum": None, "default": None}, {"type": "string", "default": None}),
        ("int", {"type": "integer"}),
    ],
)
def test_what_is_mended(given_schema: Any, expected: dict[str, Any]) -> None:
    """Otherwise the model is shown `STR`, `['STRING', 'NULL']` or no type at all instead of what was meant."""
    assert normalised(given_schema) == expected
    if given_schema not in ({"type": "boolean", "enum": [True, False]},):
        assert any(issue.repaired for issue in lint([tool({"p": given_schema})]))


@pytest.mark.parametrize(
    ("given_tool", "path", "word"),
    [
        *(
            (tool({name: {"type": "string"}}), f"{PATH}.properties.{name}", name)
            for name in ("type", "description", "properties", "nullable")
        ),
        (
            tool({"a": {"type": "object", "properties": {"required": {"type": "string"}}}}),
            f"{AT}.properties.required",
            "required",
        ),
        (tool({"a:b": {"type": "string"}}), f"{PATH}.properties.a:b", "read back"),
        (tool({"a": {"type": ["string", "integer"]}}), f"{AT}.type", "string"),
        (tool({"a": {"type": "whatever"}}), f"{AT}.type", "whatever"),
        (tool({"a": {"description": "d"}}), f"{AT}.type", "no type"),
        (tool({"a": {"type": "array"}}), f"{AT}.items", "elements"),
        (
            tool({"a": {"anyOf": [{"type": "string", "format": "date"}, {"type": "integer"}]}}),
            f"{AT}.anyOf",
            "alternatives",
        ),
        (tool({"a": {"$ref": "#/$defs/gone"}}), f"{AT}.$ref", "gone"),
        (tool({"a": {"$ref": "#/$defs/n"}}, **{"$defs": {"n": SELF}}), f"{AT}.$ref", "itself"),
        (tool({"a": {"type": "string", "minLength": 1, "format": "date"}}), AT, "minLength, format"),
        (tool({"a": {"type": "string", "nullable": True}}), AT, "nullable"),
        (tool({"a": {"type": "integer", "enum": ["x"]}}), f"{AT}.enum", "integer"),
        (tool({"a": {"type": "string"}}, required=["b"]), f"{PATH}.required", "b"),
        (tool({"a": 5}), AT, "integer"),
        ({"function": {"name": ""}}, "tools[0].function.name", "empty"),
    ],
)
def test_what_is_reported(given_tool: dict[str, Any], path: str, word: str) -> None:
    """Otherwise something the format drops or garbles goes unsaid, or is said without its place."""
    reported = [issue for issue in lint([given_tool]) if issue.path == path and not issue.repaired]
    assert any(word in issue.problem for issue in reported)
    assert all(issue.hint for issue in reported)


def test_flat_parameter_maps_become_schemas() -> None:
    """Otherwise every xLAM row declares functions without parameters, most of all those with one called `type`."""
    flat = {
        "name": "live_giveaways_by_type",
        "description": "Retrieve giveaways.",
        "parameters": {
            "type": {"description": "The type.", "type": "str", "default": "game"},
            "ids": {"description": "Ids.", "type": "List[int]"},
            "page": {"description": "Page.", "type": "int, optional"},
        },
    }
    tools, issues = normalise([flat])
    assert tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "type": {"description": "The type.", "type": "string", "default": "game"},
            "ids": {"description": "Ids.", "type": "array", "items": {"type": "integer"}},
            "page": {"description": "Page.", "type": "integer"},
        },
        "required": ["ids"],
    }
    assert [issue.path for issue in issues if "keeps for itself" in issue.problem] == [f"{PATH}.properties.type"]


@pytest.mark.parametrize("name", ["properties", "type", "required", "description"])
def test_a_flat_map_of_one_reserved_name_is_still_flat(name: str) -> None:
    """Otherwise such a parameter is taken for a piece of the schema."""
    parameters = normalise([{"name": "f", "parameters": {name: {"type": "str", "description": "d"}}}])[0][0][
        "function"
    ]["parameters"]
    assert parameters == {
        "type": "object",
        "properties": {name: {"type": "string", "description": "d"}},
        "required": [name],
    }


def test_required_flags_move_to_the_object() -> None:
    """Otherwise `required: true` on a property, as older schemas have it, makes no property required."""
    parameters = normalise(
        [tool({"a": {"type": "string", "required": True}, "b": {"type": "string", "required": False}})]
    )[0][0]
    assert parameters["function"]["parameters"]["required"] == ["a"]


def test_local_references_are_written_out() -> None:
    """Otherwise schemas made by pydantic show the model parameters without a type."""
    place = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools, _ = normalise(
        [tool({"to": {"$ref": "#/$defs/Place", "description": "Where"}}, **{"$defs": {"Place": place}})]
    )
    assert tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {"to": {**place, "description": "Where"}},
    }


def test_arrow_fillers_are_no_properties() -> None:
    """Otherwise a table's null columns become parameters of every function."""
    tools, issues = normalise([tool({"a": {"type": "string", "items": None}, "other": None})])
    assert tools[0]["function"]["parameters"]["properties"] == {"a": {"type": "string"}}
    assert all(issue.repaired for issue in issues)


def test_what_is_no_tool_at_all_is_an_error() -> None:
    """Otherwise a list of names passes for a list of tools."""
    with pytest.raises(FormatError, match=r"tools\[1\]: got a string"):
        normalise([tool({}), "f"])
    assert normalise(None) == ([], [])
