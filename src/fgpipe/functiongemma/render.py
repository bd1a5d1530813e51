"""A whole conversation as the text FunctionGemma reads, and which parts of it the model is to produce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.conversation import from_openai
from fgpipe.functiongemma.declaration import write_declaration
from fgpipe.functiongemma.values import kind, unfit, write_call, write_response

_MODEL_HEADER = f"{tokens.START_OF_TURN}model\n"
_INSTRUCTION_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Segment:
    """A run of rendered text; `trained` when the model must produce it."""

    text: str
    trained: bool


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The conversation exactly as FunctionGemma's own chat template writes it, `<bos>` included.

    Takes the template's shape of messages and OpenAI's (see `from_openai`). No developer text is ever added. Tokenise
    the result with `add_special_tokens=False`: it already starts with `<bos>`.

    Args:
        add_generation_prompt: end where the model is to answer. Nothing is added after a tool response, because the
            model's turn is still open there.

    Raises:
        FormatError: the template would fail, or lose or corrupt something without a word; the message names the path.
    """
    conversation = from_openai(messages)
    text = "".join(segment.text for segment in _write(conversation, tools))
    if not add_generation_prompt or conversation[-1]["role"] == "tool":
        return text
    if conversation[-1].get("tool_calls"):
        raise unfit(
            f"messages[{len(conversation) - 1}].tool_calls",
            "a generation prompt right after a call",
            "the tool's response first",
            "add the tool message, or drop add_generation_prompt",
        )
    return text + _MODEL_HEADER


def segments(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> list[Segment]:
    """The rendered conversation cut where training starts and stops; the texts join to `render(messages, tools)`.

    Trained is what the model must produce: the assistant's text and calls, the `<end_of_turn>` that ends its text and
    the `<start_function_response>` that ends its calls. Turn headers, other roles' turns and tool responses are not.

    Raises:
        FormatError: as `render`.
    """
    runs = groupby(_write(from_openai(messages), tools), key=lambda segment: segment.trained)
    return [Segment("".join(segment.text for segment in run), trained) for trained, run in runs]


def _write(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> Iterator[Segment]:
    if not messages:
        raise unfit("messages", "no messages", "at least one", "start with a user message")
    first = 1 if messages[0]["role"] in _INSTRUCTION_ROLES else 0
    yield Segment(tokens.BOS + _developer_turn(messages[:first], tools), False)
    for index in range(first, len(messages)):
        _check_order(messages, index)
        message, previous = messages[index], messages[index - 1] if index else {}
        if message["role"] == "tool":
            yield from _tool_turn(message, opens=bool(previous.get("tool_calls")), path=f"messages[{index}]")
        elif message["role"] == "assistant":
            if previous.get("role") != "tool":
                yield Segment(_MODEL_HEADER, False)
            yield from _assistant_turn(message, last=index == len(messages) - 1, path=f"messages[{index}]")
        else:
            yield Segment(_turn(message["role"], message["content"].strip()), False)


def _developer_turn(leading: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
    if tools is not None and (not isinstance(tools, Sequence) or isinstance(tools, str | bytes)):
        raise unfit("tools", kind(tools), "a list of tools", "give the tools as a list, or None")
    if not leading and not tools:
        return ""
    text = leading[0]["content"].strip() if leading else ""
    declarations = (write_declaration(tool, f"tools[{index}]") for index, tool in enumerate(tools or ()))
    return _turn("developer", text + "".join(declarations))


def _turn(role: str, body: str) -> str:
    return f"{tokens.START_OF_TURN}{role}\n{body}{tokens.END_OF_TURN}\n"


def _assistant_turn(message: Mapping[str, Any], *, last: bool, path: str) -> Iterator[Segment]:
    text = message["content"].strip()
    if not message.get("tool_calls"):
        yield Segment(text + tokens.END_OF_TURN, True)
        yield Segment("\n", False)
        return
    for index, call in enumerate(message["tool_calls"]):
        inner, function = f"{path}.tool_calls[{index}].function", call["function"]
        text += write_call(function["name"], function["arguments"], f"{inner}.name", f"{inner}.arguments")
    # A tool message writes the token itself: it opens the response and ends the model's calls at once.
    yield Segment(text + tokens.START_RESPONSE if last else text, True)


def _tool_turn(message: Mapping[str, Any], *, opens: bool, path: str) -> Iterator[Segment]:
    text = "".join(_responses(message, path))
    if opens:
        yield Segment(tokens.START_RESPONSE, True)
        text = text.removeprefix(tokens.START_RESPONSE)
    yield Segment(text, False)


def _responses(message: Mapping[str, Any], path: str) -> Iterator[str]:
    content, inner = message["content"], f"{path}.content"
    if not content:
        hint = 'say what the tool returned, as in {"value": ""}: the format writes no response at all for empty content'
        raise unfit(inner, repr(content), "a response", hint)
    if isinstance(content, str):
        content = {"value": content}
    entries = content if isinstance(content, list) else [content]
    for index, entry in enumerate(entries):
        entry_path = f"{inner}[{index}]" if isinstance(content, list) else inner
        if isinstance(entry, Mapping) and "name" in entry and "response" in entry:
            yield write_response(entry["name"], entry["response"], f"{entry_path}.name", f"{entry_path}.response")
        else:
            yield write_response(message.get("name"), entry, f"{path}.name", entry_path)


def _check_order(messages: list[dict[str, Any]], index: int) -> None:
    """Refuse the orders for which the format has no way to say whose turn it is."""
    role, path = messages[index]["role"], f"messages[{index}]"
    previous = messages[index - 1] if index else {"role": "nothing"}
    answers_call = bool(previous.get("tool_calls")) or previous["role"] == "tool"
    if role == "tool" and not answers_call:
        hint = "put it after the assistant message whose call it answers"
        raise unfit(path, f"a tool message after {previous['role']}", "an assistant call or tool message before", hint)
    if role != "tool" and previous.get("tool_calls"):
        hint = "add the tool message: the model's turn stays open until the call is answered"
        raise unfit(path, f"a message of role {role} right after a call", "the tool's response", hint)
    if role not in ("tool", "assistant") and previous["role"] == "tool":
        hint = "add the assistant message that closes the turn: the format would glue this one to the response"
        raise unfit(path, f"a message of role {role} right after a tool response", "the assistant's message", hint)
