"""Hypothesis strategies shared by the tests of everything that reads or writes FunctionGemma's format."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fgpipe.functiongemma import ToolCall, tokens
from fgpipe.functiongemma.declaration import RESERVED_PROPERTY_NAMES
from fgpipe.functiongemma.values import KEY_STRUCTURE

FRAGMENTS = ("{", "}", "[", "]", ",", ":", '"', "'", "\n", " ", "<", "<escap", "call:f{", "2", "true", "None", "a")
CONTROL_TOKENS = [token for token in tokens.SPECIAL_TOKEN_IDS if token != tokens.ESCAPE]


def texts() -> st.SearchStrategy[str]:
    """Any text a value may hold: everything but `<escape>`."""
    pieces = st.lists(st.sampled_from([*FRAGMENTS, *CONTROL_TOKENS]), max_size=8).map("".join)
    return st.one_of(st.text(max_size=30), pieces).filter(lambda text: tokens.ESCAPE not in text)


def keys() -> st.SearchStrategy[str]:
    """Any argument name that can be read back."""
    free = st.text(max_size=12).filter(lambda text: not any(character in text for character in f"{KEY_STRUCTURE}<"))
    return st.one_of(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,10}", fullmatch=True), free)


def function_names() -> st.SearchStrategy[str]:
    """Function names, dotted, dashed and in any script."""
    letters = st.text(st.characters(categories=("L", "Nd"), include_characters="_.-"), min_size=1, max_size=20)
    return st.one_of(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True), letters)


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value, numbers of all sizes, nested."""
    numbers = st.one_of(st.integers(), st.integers(-(10**60), 10**60), st.floats(allow_nan=False, allow_infinity=False))
    scalars = st.one_of(texts(), numbers, st.booleans(), st.none())
    return st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), arguments(inner)), max_leaves=5)


def arguments(values: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a call."""
    return st.dictionaries(keys(), json_values() if values is None else values, max_size=3)


def calls() -> st.SearchStrategy[ToolCall]:
    """Any legal call."""
    return st.builds(ToolCall, function_names(), arguments())


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Property schemas of every type, nested, with keys the format drops."""
    described = {"description": st.one_of(texts(), st.none()), "default": st.just(3), "nullable": st.booleans()}
    plain = st.fixed_dictionaries({"type": st.sampled_from(["integer", "Number", "any"])}, optional=described)
    choice = st.fixed_dictionaries(
        {"type": st.just("string")}, optional={**described, "enum": st.lists(texts(), max_size=3)}
    )
    return st.recursive(st.one_of(plain, choice), _nested_schemas, max_leaves=4)


def _nested_schemas(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    array = st.fixed_dictionaries({"type": st.just("array")}, optional={"items": inner, "minItems": st.just(1)})
    return st.one_of(object_schemas(inner), array)


def object_schemas(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Object schemas over `inner`, such as a function's parameters."""
    names = keys().filter(lambda name: name not in RESERVED_PROPERTY_NAMES)
    properties = st.dictionaries(names, inner, max_size=4)
    return properties.flatmap(
        lambda declared: st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.just(declared)},
            optional={"required": st.lists(st.sampled_from([*declared]), unique=True) if declared else st.just([])},
        )
    )


@st.composite
def tools(draw: st.DrawFn) -> dict[str, Any]:
    """A tool the format can declare."""
    function = {
        "name": draw(function_names()),
        "description": draw(texts()),
        "parameters": draw(object_schemas(schemas())),
    }
    return {"type": "function", "function": function}


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A legal conversation over arbitrary text; it may end after any message."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": draw(st.sampled_from(["developer", "system"])), "content": draw(texts())})
    for _ in range(draw(st.integers(1, 2))):
        messages.append({"role": "user", "content": draw(texts())})
        for made in draw(st.lists(st.lists(calls(), min_size=1, max_size=2), max_size=2)):
            written = [{"function": {"name": call.name, "arguments": call.arguments}} for call in made]
            messages.append({"role": "assistant", "content": draw(texts()), "tool_calls": written})
            messages += [{"role": "tool", "name": call.name, "content": draw(_results())} for call in made]
        messages.append({"role": "assistant", "content": draw(texts())})
    return messages[: draw(st.integers(1, len(messages)))]


def _results() -> st.SearchStrategy[Any]:
    return st.one_of(texts().filter(bool), arguments().filter(bool))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]:
    """Messages, tools, and whether a generation prompt follows, where one may."""
    messages = draw(conversations())
    return (
        messages,
        draw(st.none() | st.lists(tools(), max_size=1)),
        not messages[-1].get("tool_calls") and draw(st.booleans()),
    )


def outputs() -> st.SearchStrategy[str]:
    """Text a model might produce: pieces of the grammar in no particular order, and plain text."""
    pieces = st.sampled_from(
        [*FRAGMENTS, *tokens.SPECIAL_TOKEN_IDS, "<start_function_call>call:f{", "}<end_function_call>"]
    )
    return st.one_of(st.text(), st.lists(st.one_of(pieces, pieces, st.text(max_size=5)), max_size=25).map("".join))
