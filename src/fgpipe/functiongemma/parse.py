"""Function calls read back from the model's text, losing nothing and inventing nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.values import MAX_DEPTH, ToolCall

# Tokens that end whatever is being read, unless it is a string: only `<escape>` ends a string.
_MARKERS = (
    tokens.START_CALL,
    tokens.END_CALL,
    tokens.ESCAPE,
    tokens.START_RESPONSE,
    tokens.END_RESPONSE,
    tokens.START_DECLARATION,
    tokens.END_DECLARATION,
    tokens.START_OF_TURN,
    tokens.END_OF_TURN,
    tokens.BOS,
    tokens.EOS,
    tokens.PAD,
    tokens.UNK,
    tokens.MASK,
)
_ANY_MARKER = "|".join(map(re.escape, _MARKERS))
_CONTENT_END = re.compile("|".join(map(re.escape, (tokens.START_CALL, *tokens.STOP_TEXTS))))
_CONTENT_MARKERS = (tokens.START_CALL, *tokens.STOP_TEXTS)
_NAME_END = re.compile(rf"[{{}}\n]|{_ANY_MARKER}")
_KEY_END = re.compile(rf"[:,{{}}\[\]]|{_ANY_MARKER}")
_BARE_END = re.compile(rf"[,{{}}\[\]]|{_ANY_MARKER}")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LITERALS = {"true": True, "false": False, "null": None, "None": None}
_CALL_PREFIX = "call:"


@dataclass(frozen=True)
class ParsedOutput:
    """What one model output says: its `calls`, the text outside them (trimmed), and what was wrong with it.

    A call that breaks off or breaks the grammar is part of `content` and named in `problems`; it is never a call. An
    unquoted argument that is no JSON literal is kept as a string and named in `problems`.
    """

    calls: list[ToolCall]
    content: str
    problems: list[str]


def parse(text: str) -> list[ToolCall]:
    """The complete function calls in one model output; `parse(render_call(call)) == [call]`.

    Values between `<escape>` are strings, whatever they look like; bare ones are booleans, null, integers, floats,
    lists or objects. Never raises: see `parse_output` for what was left out.
    """
    return parse_output(text).calls


def parse_output(text: str) -> ParsedOutput:
    """Calls, other text and problems of one model output.

    The output ends at its first stop token outside a string. Text that starts with `<bos>` holds the prompt too: there
    the output is what follows the last turn header or tool response.
    """
    reader = OutputReader()
    reader.feed(text[_output_start(text) :])
    reader.close()
    return reader.output()


def _output_start(text: str) -> int:
    if not text.startswith(tokens.BOS):
        return 0
    openings = (f"{tokens.START_OF_TURN}model\n", tokens.END_RESPONSE)
    return max(text.rfind(opening) + len(opening) if opening in text else 0 for opening in openings)


class OutputReader:
    """Reads model output piece by piece; the pieces may be cut anywhere, even inside a control token.

    `feed` pieces as they come, `close` once, then take `output()`. Each step below reads on from `_at` and returns
    whether it could: it waits when the end of the buffer may still turn into something else. A grammar error gives the
    call up where it stands, so a call that starts later is still read; nothing is read twice.
    """

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._problems: list[str] = []
        self._content: list[str] = []
        self._buffer = ""  # from the start of the open call, or of the unread content
        self._at = 0
        self._stopped = False
        self._step: Callable[[], bool] = self._read_content
        self._forget_call()

    def feed(self, piece: str) -> None:
        """Read one more piece of the output."""
        self._buffer += piece
        while not self._stopped and self._at < len(self._buffer) and self._step():
            pass

    def close(self) -> None:
        """Say that no piece follows: a call still open becomes content."""
        if self._stopped:
            return
        self._stopped = True
        self._content.append(self._buffer)
        if self._step != self._read_content:
            self._problems.append(f"{self._call_label()}: cut off before {tokens.END_CALL}")

    def output(self) -> ParsedOutput:
        """What has been read so far."""
        return ParsedOutput(list(self._calls), "".join(self._content).strip(), list(self._problems))

    def _forget_call(self) -> None:
        self._name = ""
        self._notes: list[str] = []
        self._containers: list[dict[str, Any] | list[Any]] = []  # open ones, outermost first
        self._keys: list[str] = []  # of the values being read, outermost first

    def _call_label(self) -> str:
        return f"call to {self._name!r}" if self._name else "call without a readable name"

    def _read_on(self, position: int, step: Callable[[], bool]) -> bool:
        self._at, self._step = position, step
        return True

    def _drop_until(self, position: int) -> str:
        dropped, self._buffer, self._at = self._buffer[:position], self._buffer[position:], 0
        return dropped

    def _fail(self, problem: str) -> bool:
        self._content.append(self._drop_until(self._at))
        self._problems.append(f"{self._call_label()}: {problem}")
        self._forget_call()
        return self._read_on(0, self._read_content)

    def _found(self, text: str) -> bool | None:
        """Whether `text` comes next; None when it is too early to say."""
        if self._buffer.startswith(text, self._at):
            return True
        return None if text.startswith(self._buffer[self._at : self._at + len(text)]) else False

    def _read_content(self) -> bool:
        match = _CONTENT_END.search(self._buffer)
        if match is None:
            self._content.append(self._drop_until(len(self._buffer) - _open_marker_length(self._buffer)))
            return False
        self._content.append(self._drop_until(match.start()))
        if match.group() == tokens.START_CALL:
            return self._read_on(len(tokens.START_CALL), self._read_name)
        self._stopped = True
        return False

    def _read_name(self) -> bool:
        if not (found := self._found(_CALL_PREFIX)):
            return False if found is None else self._fail(f"no {_CALL_PREFIX!r} after {tokens.START_CALL}")
        match = _NAME_END.search(self._buffer, self._at)
        if match is None:
            return False
        name = self._buffer[self._at + len(_CALL_PREFIX) : match.start()]
        if match.group() != "{" or not name or name != name.strip():
            return self._fail("no function name followed by '{'")
        self._name = name
        self._at = match.start()
        return self._open({})

    def _open(self, container: dict[str, Any] | list[Any]) -> bool:
        # The arguments object itself is level 1 here and level 0 for the writer's limit.
        if len(self._containers) >= MAX_DEPTH:
            return self._fail(f"nested deeper than {MAX_DEPTH}")
        self._containers.append(container)
        return self._read_on(self._at + 1, self._read_first)

    def _closes(self) -> bool:
        return self._buffer[self._at] == ("}" if isinstance(self._containers[-1], dict) else "]")

    def _read_first(self) -> bool:
        if self._closes():
            return self._close()
        return self._read_on(self._at, self._read_key if isinstance(self._containers[-1], dict) else self._read_value)

    def _read_key(self) -> bool:
        match = _KEY_END.search(self._buffer, self._at)
        if match is None:
            return False
        key = self._buffer[self._at : match.start()]
        if match.group() != ":":
            return self._fail("no argument name followed by ':'")
        if key in self._containers[-1]:
            return self._fail(f"argument {key!r} twice")
        self._keys.append(key)
        return self._read_on(match.end(), self._read_value)

    def _read_value(self) -> bool:
        if self._buffer[self._at] in "{[":
            return self._open({} if self._buffer[self._at] == "{" else [])
        if self._buffer.startswith(tokens.ESCAPE, self._at):
            start = self._at + len(tokens.ESCAPE)
            end = self._buffer.find(tokens.ESCAPE, start)
            return end >= 0 and self._place(self._buffer[start:end], end + len(tokens.ESCAPE))
        match = _BARE_END.search(self._buffer, self._at)
        if match is None:
            return False
        text = self._buffer[self._at : match.start()]
        if match.group() not in (",", "}", "]") or not text:
            return self._fail("a value is missing, or neither quoted nor a literal")
        return self._place(self._bare(text), match.start())

    def _bare(self, text: str) -> object:
        if text in _LITERALS:
            return _LITERALS[text]
        try:
            if _INTEGER.fullmatch(text):
                return int(text)
            if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
                return number
        except ValueError:  # an integer of more digits than Python converts
            pass
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        self._notes.append(f"argument {self._keys[0]!r}: the unquoted text {shown!r} is no literal, kept as a string")
        return text

    def _place(self, value: object, position: int) -> bool:
        container = self._containers[-1]
        if isinstance(container, dict):
            container[self._keys.pop()] = value
        else:
            container.append(value)
        return self._read_on(position, self._read_separator)

    def _read_separator(self) -> bool:
        if self._closes():
            return self._close()
        if self._buffer[self._at] != ",":
            return self._fail("no ',' or closing bracket after a value")
        following = self._read_key if isinstance(self._containers[-1], dict) else self._read_value
        return self._read_on(self._at + 1, following)

    def _close(self) -> bool:
        if len(self._containers) > 1:
            return self._place(self._containers.pop(), self._at + 1)
        return self._read_on(self._at + 1, self._read_end)

    def _read_end(self) -> bool:
        if not (found := self._found(tokens.END_CALL)):
            return False if found is None else self._fail(f"no {tokens.END_CALL} after the arguments")
        arguments = self._containers[0]
        assert isinstance(arguments, dict)
        self._problems += [f"{self._call_label()}: {note}" for note in self._notes]
        self._calls.append(ToolCall(self._name, arguments))
        self._drop_until(self._at + len(tokens.END_CALL))
        self._forget_call()
        return self._read_on(0, self._read_content)


def _open_marker_length(text: str) -> int:
    """Length of the end of `text` that may be the start of a call or a stop."""
    start = text.rfind("<")
    tail = text[start:] if start >= 0 else ""
    return len(tail) if tail and any(marker.startswith(tail) for marker in _CONTENT_MARKERS) else 0
