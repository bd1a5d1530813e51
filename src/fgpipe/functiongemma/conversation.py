"""Conversations in OpenAI's shape, turned into the shape FunctionGemma's template reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fgpipe.functiongemma.values import kind, unfit

ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_ALIASES = {"model": "assistant", "function": "tool"}


def from_openai(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`messages` with text as strings, call arguments as objects and a name on every tool response.

    What already has that shape comes back equal, so both shapes may be mixed and converting twice changes nothing:
    text parts are trimmed and joined with nothing (a tool's with line breaks), missing content becomes "", arguments
    written as JSON are read. A tool message without `name` gets it from its `tool_call_id`; a string in it becomes the
    response if it holds a JSON object, else `{"value": string}`. `messages` itself is not changed.

    Raises:
        FormatError: a message that cannot be converted; the path names it, as in `messages[2].tool_calls[0].function`.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise unfit("messages", kind(messages), "a list of messages", "give one conversation as a list")
    converted = []
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = _role(message, path)
        result = {**message, "role": role}
        if role == "tool":
            result |= _tool_result(message, called, path)
        else:
            result["content"] = _text(message.get("content"), f"{path}.content")
        calls = _tool_calls(message, role, path)
        result.pop("function_call", None)
        if calls:
            result["tool_calls"] = calls
            called |= {call["id"]: call["function"]["name"] for call in calls if isinstance(call.get("id"), str)}
        else:
            result.pop("tool_calls", None)
        converted.append(result)
    return converted


def _role(message: object, path: str) -> str:
    if not isinstance(message, Mapping):
        raise unfit(path, kind(message), "a message object", 'as in {"role": "user", "content": "..."}')
    role = message.get("role")
    role = _ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise unfit(f"{path}.role", repr(role), f"one of {', '.join(ROLES)}", "rename the role")
    return str(role)


def _text(content: object, path: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text.strip() for text in _part_texts(content, path))
    raise unfit(path, kind(content), "a string or a list of text parts", "give the message's text")


def _part_texts(parts: Sequence[object], path: str) -> list[str]:
    texts = []
    for index, part in enumerate(parts):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            got = f"a part of type {part.get('type')!r}" if isinstance(part, Mapping) else kind(part)
            hint = 'FunctionGemma reads text only: {"type": "text", "text": "..."}'
            raise unfit(f"{path}[{index}]", got, "a text part", hint)
        texts.append(text)
    return texts


def _tool_calls(message: Mapping[str, Any], role: str, path: str) -> list[dict[str, Any]]:
    calls, path = message.get("tool_calls"), f"{path}.tool_calls"
    if not calls and message.get("function_call"):  # OpenAI's older shape, one call a message
        calls = [{"type": "function", "function": message["function_call"]}]
    if not calls:
        return []
    if role != "assistant":
        raise unfit(path, f"calls in a message of role {role}", "calls in assistant messages only", "fix the role")
    if not isinstance(calls, list):
        raise unfit(path, kind(calls), "a list of calls", 'as in [{"function": {"name": ..., "arguments": {...}}}]')
    return [_tool_call(call, f"{path}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        got = "a call without a function object" if isinstance(call, Mapping) else kind(call)
        raise unfit(f"{path}.function", got, "an object", 'as in {"function": {"name": ..., "arguments": {...}}}')
    if not isinstance(function.get("name"), str):
        raise unfit(f"{path}.function.name", kind(function.get("name")), "a function name", "name the function")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str):
        arguments = _read_object(arguments)
    if not isinstance(arguments, Mapping):
        got = repr(function["arguments"])
        got = got if len(got) <= 60 else f"{got[:60]}..."
        hint = 'give an object, or its JSON text; no arguments are "{}"'
        raise unfit(f"{path}.function.arguments", got, "a JSON object", hint)
    return {**call, "function": {**function, "arguments": dict(arguments)}}


def _tool_result(message: Mapping[str, Any], called: Mapping[str, str], path: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "\n".join(_part_texts(content, f"{path}.content"))
    if message.get("name") is not None or _is_named(content):
        return {"content": "" if content is None else content}
    name = _called_name(message, called, path)
    if content is None or isinstance(content, str):
        response = _read_object(content or "")
        content = {"name": name, "response": {"value": content or ""} if response is None else response}
    return {"name": name, "content": content}


def _called_name(message: Mapping[str, Any], called: Mapping[str, str], path: str) -> str:
    call_id = message.get("tool_call_id")
    if isinstance(call_id, str) and call_id in called:
        return called[call_id]
    if call_id is None:
        raise unfit(f"{path}.name", "nothing", "the name of the function that answers", "add name or tool_call_id")
    hint = "add name, or give the call this id"
    raise unfit(f"{path}.tool_call_id", repr(call_id), "the id of an earlier call", hint)


def _is_text_part(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _is_named(content: object) -> bool:
    """Whether tool content names its function itself: `{"name", "response"}`, or a list of those."""
    entries = content if isinstance(content, list) and content else [content]
    return all(isinstance(entry, Mapping) and "name" in entry and "response" in entry for entry in entries)


def _read_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, or None; JSON's own rules, so NaN is no number."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
