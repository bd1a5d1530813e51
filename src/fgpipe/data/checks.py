"""What makes a canonical row fit to train on, checked against the very text it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fgpipe import functiongemma
from fgpipe.errors import FormatError
from fgpipe.functiongemma import SPECIAL_TOKEN_IDS, Segment


def check(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that a row renders, that its text reads back as what it says, and that it asks and answers.

    Raises:
        FormatError: it does not; the message names the path in the row.
    """
    check_messages(messages)
    segments = functiongemma.segments(messages, tools)
    check_calls(messages, tools)
    check_reads_back(messages, tools, segments)


def calls(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Name and arguments of every call in `messages`, in order."""
    return [call["function"] for message in messages for call in message.get("tool_calls", [])]


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a conversation without question or answer, and text that the tokenizer would take for control tokens."""
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise FormatError("messages: got none by the user, expected a question")
    if roles[-1] != "assistant":
        raise FormatError(
            f"messages[{len(roles) - 1}].role: got {roles[-1]}, expected assistant: the last message is what is learnt",
            hint="end every conversation in the assistant's answer",
        )
    for index, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant" and not content.strip() and not message.get("tool_calls"):
            raise FormatError(f"messages[{index}]: got neither text nor calls, expected an answer")
        if isinstance(content, str) and (token := control_token(content)):
            raise FormatError(f"messages[{index}].content: got the control token {token}, expected plain text")


def control_token(text: str) -> str | None:
    """The first of FunctionGemma's control tokens that `text` holds: the tokenizer would not take it for text."""
    return next((token for token in SPECIAL_TOKEN_IDS if token in text), None)


def check_calls(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tools declared twice, and calls of tools not declared: they would teach the model to invent names."""
    names = [tool["function"]["name"] for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise FormatError(f"tools[{index}].function.name: got {name} a second time, expected distinct names")
    for index, message in enumerate(messages):
        for at, call in enumerate(message.get("tool_calls", [])):
            if call["function"]["name"] not in names:
                raise FormatError(
                    f"messages[{index}].tool_calls[{at}].function.name: got {call['function']['name']}, "
                    f"expected one of the row's tools ({', '.join(names) or 'it has none'})",
                    hint="declare every tool that is called in the row's `tools`",
                )


def check_reads_back(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], segments: Sequence[Segment]
) -> None:
    """Refuse a row whose rendered text lacks a declared tool, or reads back as other calls or text."""
    text = "".join(segment.text for segment in segments)
    for index, tool in enumerate(tools):
        if f"declaration:{tool['function']['name']}{{" not in text:
            raise FormatError(f"tools[{index}]: got no declaration in the rendered text, expected one")
    answers = [segment.text for segment in segments if segment.trained]
    for (index, message), answer in zip(assistant_messages(messages), answers, strict=True):
        read = functiongemma.parse_output(answer)
        given = [(call["name"], call["arguments"]) for call in calls([message])]
        # As JSON, because Python holds True, 1 and 1.0 to be equal.
        if as_json([(call.name, call.arguments) for call in read.calls]) != as_json(given):
            raise FormatError(f"messages[{index}].tool_calls: got calls that read back otherwise: {answer}")
        if read.content != message["content"].strip():
            raise FormatError(f"messages[{index}].content: got text that reads back otherwise: {answer}")


def assistant_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The messages that the model is to produce, each with its place."""
    return ((index, message) for index, message in enumerate(messages) if message["role"] == "assistant")


def as_json(value: Any) -> str:
    """JSON text that is equal for equal values of equal types."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
