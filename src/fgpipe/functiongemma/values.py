"""Calls, tool responses and the values inside them, written as FunctionGemma reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fgpipe.errors import FormatError
from fgpipe.functiongemma import tokens

MAX_DEPTH = 64
"""Deepest nesting of objects and lists in one call or response; keeps readers and Jinja far from their stack limits."""

KeyStyle = Literal["call", "response", "schema"]
"""How an object's keys are written: bare and readable back, bare, or wrapped in `<escape>`."""

KEY_STRUCTURE = ":,{}[]"
_CONTROL_TOKENS = tuple(token for token in tokens.SPECIAL_TOKEN_IDS if token != tokens.MULTIMODAL)


@dataclass(frozen=True)
class ToolCall:
    """One function call: the function's `name` and its `arguments`, a JSON object."""

    name: str
    arguments: dict[str, Any]


def unfit(path: str, got: str, expected: str, hint: str) -> FormatError:
    """Error for the input at `path`, in the project's wording."""
    return FormatError(f"{path}: got {got}, expected {expected}", hint=hint)


def kind(value: object) -> str:
    """JSON's word for the type of `value`, for error messages."""
    names = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"a Python {type(value).__name__}")


def sorted_items(mapping: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """Items by key regardless of case, equal keys in given order, as Jinja's `dictsort` does."""
    for key in mapping:
        if not isinstance(key, str):
            raise unfit(path, f"the key {key!r}", "string keys", "JSON objects have string keys")
    return sorted(mapping.items(), key=lambda item: item[0].lower())


def unescaped(text: str, path: str) -> str:
    """`text` itself, checked to hold no `<escape>`, which the format cannot quote."""
    if tokens.ESCAPE in text:
        raise unfit(path, f"text containing {tokens.ESCAPE}", f"text without {tokens.ESCAPE}", "remove or reword it")
    return text


def quoted(text: str, path: str) -> str:
    """`text` between two `<escape>` tokens, otherwise untouched."""
    return tokens.ESCAPE + unescaped(text, path) + tokens.ESCAPE


def write_value(value: object, path: str, keys: KeyStyle, depth: int = 0) -> str:
    """One JSON value as text.

    Raises:
        FormatError: `value` is not JSON, or would not read back as itself; the message names its path.
    """
    if isinstance(value, str):
        return quoted(value, path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "None"
    if isinstance(value, int | float):
        return _write_number(value, path)
    if depth >= MAX_DEPTH and isinstance(value, Mapping | list):
        raise unfit(path, f"nesting deeper than {MAX_DEPTH}", f"at most {MAX_DEPTH} levels", "flatten the value")
    if isinstance(value, Mapping):
        return "{" + _write_members(value, path, keys, depth + 1) + "}"
    if isinstance(value, list):
        entries = (write_value(entry, f"{path}[{index}]", keys, depth + 1) for index, entry in enumerate(value))
        return "[" + ",".join(entries) + "]"
    raise unfit(path, kind(value), "a JSON value", "convert it to a string, number, boolean, null, list or object")


def render_call(call: ToolCall) -> str:
    """`call` as the model writes it, from `<start_function_call>` to `<end_function_call>`.

    Raises:
        FormatError: the call would not read back as itself; paths start at `call`.
    """
    return write_call(call.name, call.arguments, "call.name", "call.arguments")


def write_call(name: object, arguments: object, name_path: str, arguments_path: str) -> str:
    """A call at known places of a conversation; see `render_call`."""
    checked = function_name(name, name_path)
    if not isinstance(arguments, Mapping):
        raise unfit(arguments_path, kind(arguments), "an object", "give the arguments as a mapping of names to values")
    return f"{tokens.START_CALL}call:{checked}{write_value(arguments, arguments_path, 'call')}{tokens.END_CALL}"


def render_response(name: str, response: Mapping[str, Any]) -> str:
    """A tool's `response` as the model reads it, from `<start_function_response>` to `<end_function_response>`.

    Raises:
        FormatError: `response` is not a JSON object; paths start at `response`.
    """
    return write_response(name, response, "name", "response")


def write_response(name: object, response: object, name_path: str, response_path: str) -> str:
    """A response at known places of a conversation; see `render_response`."""
    checked = function_name(name, name_path)
    if not isinstance(response, Mapping):
        raise unfit(response_path, kind(response), "an object", 'wrap the result, as in {"value": ...}')
    body = write_value(response, response_path, "response")
    return f"{tokens.START_RESPONSE}response:{checked}{body}{tokens.END_RESPONSE}"


def function_name(name: object, path: str) -> str:
    """`name` itself, checked to read back from `call:NAME{`."""
    if not isinstance(name, str) or not name:
        raise unfit(path, kind(name) if name != "" else "an empty string", "a function name", "name the function")
    # str.strip, because the format trims names in responses but not in calls.
    if name != name.strip() or _holds_any(name, "{}\n") or _holds_any(name, _CONTROL_TOKENS):
        raise unfit(
            path,
            repr(name),
            "a name without braces, line breaks, control tokens or spaces around it",
            "rename the function, e.g. with letters, digits, '_', '.' and '-'",
        )
    return name


def _write_members(mapping: Mapping[str, Any], path: str, keys: KeyStyle, depth: int) -> str:
    members = []
    for key, value in sorted_items(mapping, path):
        inner = f"{path}.{key}"
        members.append(f"{_write_key(key, inner, keys)}:{write_value(value, inner, keys, depth)}")
    return ",".join(members)


def _write_key(key: str, path: str, keys: KeyStyle) -> str:
    if keys == "schema":
        return quoted(key, path)
    if keys == "call" and (_holds_any(key, KEY_STRUCTURE) or _holds_any(key, _CONTROL_TOKENS)):
        raise unfit(
            path,
            f"the key {key!r}",
            f"a key without {' '.join(KEY_STRUCTURE)} or control tokens",
            "keys are written bare, so this one could not be read back: rename it",
        )
    return unescaped(key, path)


def _write_number(value: float, path: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise unfit(path, str(value), "a finite number", "drop the value or give it as a string")
    try:
        # The plain types' own repr, so that an enum or numpy subclass cannot bring its own text.
        return int.__repr__(value) if isinstance(value, int) else float.__repr__(value)
    except ValueError as error:
        raise unfit(path, "an integer of thousands of digits", "a shorter one", "give it as a string") from error


def _holds_any(text: str, parts: Iterable[str]) -> bool:
    return any(part in text for part in parts)
