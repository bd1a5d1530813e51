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
    """What is mended in calls: the issues found so far, and which arguments of each tool are declared as integers."""

    issues: list[SchemaIssue]
    integers: Mapping[str, frozenset[str]]


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
    mending = Mending(
        issues, {name: integers(tool) for tool in tools if isinstance(name := tool["function"].get("name"), str)}
    )
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


def integers(tool: Mapping[str, Any]) -> frozenset[str]:
    """Names of the parameters that `tool` declares as integers."""
    parameters = tool["function"].get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict):
        return frozenset()
    return frozenset(name for name, one in properties.items() if isinstance(one, dict) and one.get("type") == "integer")


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
    """`call` without its id and null arguments, which FunctionGemma leaves out; with declared integers as such.

    Arrow and pandas write the integers of a column that also holds fractions or gaps as 2.0, which would be learnt.
    """
    name, arguments = call["function"]["name"], {}
    for key, value in call["function"]["arguments"].items():
        where = f"{path}.function.arguments.{key}"
        if value is None:
            mending.issues.append(SchemaIssue(where, "a null argument", True, "leave the argument out"))
        elif isinstance(value, float) and value.is_integer() and key in mending.integers.get(name, ()):
            mending.issues.append(SchemaIssue(where, "an integer with a fraction", True, "write it without"))
            arguments[key] = int(value)
        else:
            arguments[key] = value
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
