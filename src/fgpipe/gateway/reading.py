"""What requests and answers say, noted while their bytes pass by."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fgpipe.functiongemma import ToolCall
from fgpipe.functiongemma.fit import declared_parameters, fit_call
from fgpipe.functiongemma.tokens import START_CALL
from fgpipe.gateway.faults import RefusedError

KEPT_BYTES = 4 * 1024 * 1024
"""Of an answer, for counting its calls; what is longer is passed on and not counted."""

_MODEL = re.compile(rb'"model":\s?"([^"\\]{1,300})"')
_FINGERPRINT = re.compile(rb'"system_fingerprint":"[^"\\]*"')
_START_CALL = START_CALL.encode()
# Inside a JSON string a quote has a backslash before it, so these only match the structure of an event.
_NO_CHOICES = b'"choices":[]'
_FINISHED = b'"finish_reason":"'


@dataclass(frozen=True)
class Asked:
    """A request for an answer.

    Attributes:
        body: what the upstream is sent.
        hides_usage: the upstream is asked for usage that the client did not ask for, and must not see.
    """

    path: str
    body: bytes
    model: str = ""
    stream: bool = False
    tools: list[Any] = field(default_factory=list)
    hides_usage: bool = False


def json_object(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object.

    Raises:
        RefusedError: it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"body: got {str(error) or 'endless nesting'}, expected JSON") from None
    if not isinstance(value, dict):
        raise RefusedError(400, f"body: got {type(value).__name__}, expected a JSON object")
    return value


def read_asked(path: str, body: bytes, *, max_answers: int = 1) -> Asked:
    """What the client asks for in `body`.

    Raises:
        RefusedError: it is no JSON object, its model is no text, or it asks for more than `max_answers` at once.
    """
    value = json_object(body)
    model, tools = value.get("model"), value.get("tools")
    if model is not None and not isinstance(model, str):
        raise RefusedError(400, f"model: got {type(model).__name__}, expected the name of an adapter or base")
    if (answers := _answers(value)) > max_answers:
        expected = f"expected at most {max_answers} in one request (gateway.max_answers)"
        raise RefusedError(400, f"n, prompt: got {answers} answers, {expected}")
    stream = value.get("stream") is True
    hides = stream and answers == 1 and "stream_options" not in value and body.lstrip()[:1] == b"{"
    if hides:
        body = body.lstrip().replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    return Asked(path, body, model or "", stream, tools if isinstance(tools, list) else [], hides)


def _answers(value: Mapping[str, Any]) -> int:
    """How many answers a request asks for; a list of numbers is one prompt, its token ids."""
    prompt, wanted = value.get("prompt"), value.get("n")
    prompts = prompt if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt) else [prompt]
    return len(prompts) * (wanted if isinstance(wanted, int) and wanted > 1 else 1)


@dataclass
class Reading:
    """What an answer said: enough for every metric."""

    model: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments as JSON text)."""
    finish_reason: str = ""
    unread_call: bool = False
    """The text holds the start of a call."""


@dataclass(frozen=True)
class CallCounts:
    """How an answer's calls fit the tools that its request declared."""

    calls: int = 0
    unknown: int = 0
    violations: int = 0


def count_calls(calls: list[tuple[str, str]], tools: list[Any]) -> CallCounts:
    """Hold `calls` against `tools`."""
    if not calls:
        return CallCounts()
    declared = declared_parameters(tools)
    unknown = sum(name not in declared for name, _ in calls)
    violations = sum(name in declared and not _fits(name, text, declared) for name, text in calls)
    return CallCounts(len(calls), unknown, violations)


def _fits(name: str, text: str, declared: Mapping[str, Any]) -> bool:
    try:
        arguments = json.loads(text)
        if not isinstance(arguments, dict):
            return False
        fitted = fit_call(ToolCall(name, arguments), declared)
        return not fitted.violations and not fitted.repairs  # nobody mends what passes here
    except (ValueError, RecursionError, AttributeError, TypeError):
        return False


class StreamReader:
    """Server-sent events as they pass by. Only half an event is held back, and the last one until its usage is there.

    Args:
        hides_usage: leave the usage event out, and give its fingerprint to the last event, as without usage.
        keeps_events: there may be calls to count.
    """

    def __init__(self, *, hides_usage: bool, keeps_events: bool) -> None:
        self.hides_usage = hides_usage
        self.keeps_events = keeps_events
        self.first_s = 0.0
        self.last_s = 0.0
        self._model = b""
        self._usage_event = b""
        self._held = b""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._unread_call = False

    def feed(self, data: bytes) -> bytes:
        """Take in what came; what of it the client gets now."""
        self.last_s = time.perf_counter()
        self.first_s = self.first_s or self.last_s
        if self._held:
            data, self._held = self._held + data, b""
        if data[-2:] != b"\n\n":
            whole = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
            data, self._held = data[:whole], data[whole:]
        if _NO_CHOICES in data:
            data = self._take_usage(data)
        elif self.hides_usage and _FINISHED in data:
            start = max(data.rfind(b"data: ", 0, data.find(_FINISHED)), 0)
            data, self._held = data[:start], data[start:] + self._held
        if data:
            self._note(data)
        return data

    def _take_usage(self, data: bytes) -> bytes:
        place = data.find(_NO_CHOICES)
        start, end = max(data.rfind(b"data: ", 0, place), 0), data.find(b"\n\n", place) + 2
        self._usage_event = data[start:end]
        if not self.hides_usage:
            return data
        self.hides_usage = False
        before = data[:start]
        fingerprint = _FINGERPRINT.search(self._usage_event)
        if fingerprint and _FINISHED in before and before.endswith(b"}\n\n"):
            before = before[:-3] + b"," + fingerprint[0] + b"}\n\n"
        return before + data[end:]

    def _note(self, data: bytes) -> None:
        if not self._model and (found := _MODEL.search(data)):
            self._model = found[1]
        if _START_CALL in data:
            self._unread_call = True
        if self.keeps_events and self._kept_bytes < KEPT_BYTES:
            self._kept.append(data)
            self._kept_bytes += len(data)

    def flush(self) -> bytes:
        """What was held back when the upstream ended."""
        data, self._held = self._held, b""
        if data:
            self._note(data)
        return data

    def reading(self) -> Reading:
        """All of what the stream said."""
        reading = Reading(model=self._model.decode(errors="replace"), unread_call=self._unread_call)
        for event in events(self._usage_event):
            reading.usage = event.get("usage") or {}
        if self.keeps_events:
            gather(b"".join(self._kept), into=reading)
            reading.unread_call = reading.unread_call or START_CALL in reading.content
        return reading


def events(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects in `data`, which is whole server-sent events."""
    found = []
    for part in data.split(b"\n\n"):
        if part.startswith(b"data: {"):
            try:
                found.append(json.loads(part[6:]))
            except ValueError:
                continue
    return found


def gather(data: bytes, *, into: Reading) -> None:
    """Put the pieces of a streamed chat answer together."""
    calls: dict[tuple[int, int], list[str]] = {}
    for event in events(data):
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            into.content += delta.get("content") or choice.get("text") or ""
            into.finish_reason = choice.get("finish_reason") or into.finish_reason
            for call in delta.get("tool_calls") or []:
                entry = calls.setdefault((choice.get("index", 0), call.get("index", 0)), ["", ""])
                function = call.get("function") or {}
                entry[0] += function.get("name") or ""
                entry[1] += function.get("arguments") or ""
    into.calls = [(name, arguments) for name, arguments in calls.values()]


def read_whole(body: bytes) -> Reading:
    """What an unstreamed answer says; an empty reading if it is no answer of a model."""
    reading = Reading()
    try:
        value = json.loads(body)
        reading.model = str(value.get("model") or "")
        reading.usage = value.get("usage") or {}
        for choice in value.get("choices") or []:
            message = choice.get("message") or {}
            reading.content += message.get("content") or choice.get("text") or ""
            reading.finish_reason = choice.get("finish_reason") or ""
            functions = [call["function"] for call in message.get("tool_calls") or []]
            reading.calls += [(function["name"], function["arguments"]) for function in functions]
    except (ValueError, KeyError, TypeError, AttributeError):
        return reading
    reading.unread_call = START_CALL in reading.content
    return reading
