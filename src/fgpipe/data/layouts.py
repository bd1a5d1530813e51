"""Shapes a dataset's rows can have, each turned into the one shape everything else reads.

A layout is a function from a source row to a `Conversation`, registered under its name; so another shape is another
function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fgpipe import functiongemma
from fgpipe.data.readers import SourceRow, decode_json
from fgpipe.errors import DataError, FormatError
from fgpipe.functiongemma import schema
from fgpipe.functiongemma.schema import SchemaIssue


@dataclass(frozen=True)
class Conversation:
    """A row in canonical shape, and what was mended to get it there or cannot be shown to the model as written."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    meta: dict[str, Any] = field(default_factory=dict)
    issues: tuple[SchemaIssue, ...] = ()


@dataclass(frozen=True)
class Mending:
    """What mending calls needs: the issues found so far, and the parameter schema of every tool."""

    issues: list[SchemaIssue]
    parameters: Mapping[str, Any]


Layout = Callable[[SourceRow], Conversation]

LAYOUTS: dict[str, Layout] = {}
"""Every layout by the name `task.dataset.layout` gives it."""


def layout(name: str) -> Callable[[Layout], Layout]:
    """Register the decorated function as the layout `name`."""

    def register(function: Layout) -> Layout:
        LAYOUTS[name] = function
        return function

    return register


@layout("messages")
def from_messages(row: SourceRow) -> Conversation:
    """`messages` and `tools` as OpenAI and TRL write them, either possibly as JSON text; `functions` is the older name.

    Raises:
        DataError: a column is missing or has another shape; the message names the row and the path in it.
        FormatError: a message or tool does not fit the format; the caller adds the row.
    """
    messages = functiongemma.from_openai(column(row, "messages", list))
    tools = column(row, "tools" if row.value.get("tools") is not None else "functions", list, default=[])
    tools, issues = schema.normalise([with_decoded_parameters(tool, row.place) for tool in tools])
    mending = Mending(issues, {str(tool["function"].get("name")): tool["function"].get("parameters") for tool in tools})
    return Conversation(
        messages=[canonical(message, f"messages[{index}]", mending) for index, message in enumerate(messages)],
        tools=tools,
        meta=column(row, "meta", dict, default={}),
        issues=tuple(issues),
    )


def column(row: SourceRow, name: str, kind: type[Any], *, default: Any = None) -> Any:
    """The value of a column, decoded if it, or an element of it, is JSON text.

    Raises:
        DataError: it is missing without a default, or is no `kind`.
    """
    value = row.value.get(name)
    place = f"{row.place}: {name}"
    if isinstance(value, str):
        value = decode_json(value, place)
    if value is None:
        if default is None:
            there = ", ".join(row.value) or "nothing"
            raise DataError(f"{place}: got no such column (there is {there}), expected a list of messages")
        return default
    if not isinstance(value, kind):
        expected = "a list" if kind is list else "an object"
        raise DataError(f"{place}: got {type(value).__name__}, expected {expected}")
    if isinstance(value, list):
        return [decode_json(each, f"{place}[{at}]") if isinstance(each, str) else each for at, each in enumerate(value)]
    return value


def with_decoded_parameters(tool: Any, place: str) -> Any:
    """`tool` with a parameter schema given as JSON text decoded; Arrow datasets store it so to keep its keys."""
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return {**tool, "function": with_decoded_parameters(tool["function"], place)}
    if isinstance(tool.get("parameters"), str):
        return {**tool, "parameters": decode_json(tool["parameters"], f"{place}: tools: parameters")}
    return tool


def canonical(message: dict[str, Any], path: str, mending: Mending) -> dict[str, Any]:
    """`message` with the keys that are rendered and no others, so that equal conversations have equal ids.

    Raises:
        FormatError: OpenAI's `weight: 0` asks to leave one answer out of the loss, which is not possible here.
    """
    if message.get("weight") == 0:
        hint = "end the conversation before that message"
        raise FormatError(f"{path}.weight: got 0, expected 1 or no weight", hint=hint)
    role = "developer" if message["role"] == "system" else message["role"]
    if role == "tool":
        named = {"name": message["name"]} if message.get("name") is not None else {}
        return {"role": role, **named, "content": message["content"]}
    result: dict[str, Any] = {"role": role, "content": message["content"]}
    if message.get("tool_calls"):
        numbered = enumerate(message["tool_calls"])
        result["tool_calls"] = [canonical_call(call, f"{path}.tool_calls[{at}]", mending) for at, call in numbered]
    return result


def canonical_call(call: dict[str, Any], path: str, mending: Mending) -> dict[str, Any]:
    """`call` without its id and null arguments, which FunctionGemma leaves out; with declared integers as such."""
    name, given = call["function"]["name"], call["function"]["arguments"]
    for key in (key for key, value in given.items() if value is None):
        problem = SchemaIssue(f"{path}.function.arguments.{key}", "a null argument", True, "leave the argument out")
        mending.issues.append(problem)
    stated = {key: value for key, value in given.items() if value is not None}
    arguments = with_declared_integers(stated, mending.parameters.get(name))
    if repr(arguments) != repr(stated):
        where = f"{path}.function.arguments"
        mending.issues.append(SchemaIssue(where, "an integer written as a fraction", True, "write 2, not 2.0"))
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def with_declared_integers(value: Any, declared: Any) -> Any:
    """`value` with 2.0 as 2 wherever the schema `declared` says integer.

    Arrow and pandas write every integer of a column so that also holds fractions or gaps, and the model would learn it.
    What is declared as a number stays: there 2.0 may be what the author wrote.
    """
    if not isinstance(declared, dict):
        return value
    if isinstance(value, dict) and isinstance(properties := declared.get("properties"), dict):
        return {key: with_declared_integers(each, properties.get(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [with_declared_integers(each, declared.get("items")) for each in value]
    integer = str(declared.get("type")).lower() == "integer"
    return int(value) if integer and isinstance(value, float) and value.is_integer() else value
