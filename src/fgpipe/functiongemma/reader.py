"""Model output read piece by piece, as a server streams it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.parsed import ParsedOutput, Path, TrimmedText
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
_STRING_END = re.compile(re.escape(tokens.ESCAPE))
_LONGEST_MARKER = max(map(len, _MARKERS))
_NAME_END = re.compile(rf"[{{}}\n]|{_ANY_MARKER}")
_KEY_END = re.compile(rf"[:,{{}}\[\]]|{_ANY_MARKER}")
_BARE_END = re.compile(rf"[,{{}}\[\]]|{_ANY_MARKER}")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LITERALS = {"true": True, "false": False, "null": None, "None": None}
_CALL_PREFIX = "call:"


class OutputReader:
    """Reads model output piece by piece; the pieces may be cut anywhere, even inside a control token.

    `feed` pieces as they come, `close` once. `output()` is all that was read, `take()` what is new. Each step below
    reads on from `_at` and returns whether it could: it waits when the end of the buffer may still turn into something
    else. A grammar error gives the call up where it stands, so a call that starts later is still read. Nothing is read
    twice and nothing read is copied again, so the time is linear in the length of the output, however it is cut.
    """

    def __init__(self) -> None:
        self._output = ParsedOutput([], "", [])
        self._content = TrimmedText()
        self._broken = 0
        self._taken = (0, 0, 0)  # calls, problems, broken calls
        self._buffer = ""
        self._at = 0  # what comes before it has been read
        self._mark = 0  # what comes before it has been told apart: content, or a call that is complete
        self._held: list[str] = []  # the open call's text from before the buffer
        self._stopped = False
        self._step: Callable[[], bool] = self._read_content
        self._forget_call()

    def feed(self, piece: str) -> None:
        """Read one more piece of the output."""
        if self._stopped:
            return
        self._buffer += piece
        while not self._stopped and self._at < len(self._buffer) and self._step():
            pass
        self._held.append(self._buffer[self._mark : self._at])
        self._buffer = self._buffer[self._at :]
        self._at = self._mark = 0

    def close(self) -> None:
        """Say that no piece follows: a call still open becomes content."""
        if self._stopped:
            return
        self._stopped = True
        self._content.add("".join(self._held) + self._buffer)
        if self._step != self._read_content:
            self._give_up(f"cut off before {tokens.END_CALL}")

    def output(self) -> ParsedOutput:
        """All that has been read so far."""
        read = self._output
        return ParsedOutput(
            [*read.calls], self._content.whole(), [*read.problems], [*read.literals], broken_calls=self._broken
        )

    def take(self) -> ParsedOutput:
        """What has been read since the last `take`; the contents taken join to `output().content` after `close`."""
        calls, problems, broken = self._taken
        read = self._output
        self._taken = (len(read.calls), len(read.problems), self._broken)
        return ParsedOutput(
            read.calls[calls:],
            self._content.take(),
            read.problems[problems:],
            read.literals[calls:],
            broken_calls=self._broken - broken,
        )

    def _forget_call(self) -> None:
        self._name = ""
        self._notes: list[str] = []
        self._literals: dict[Path, str] = {}
        self._containers: list[dict[str, Any] | list[Any]] = []  # open ones, outermost first
        self._keys: list[str] = []  # of the values being read, outermost first
        self._lexeme: list[str] = []  # the beginning of the name, key, string or literal being read

    def _call_label(self) -> str:
        return f"call to {_shown(self._name)}" if self._name else "call without a readable name"

    def _give_up(self, problem: str) -> None:
        self._broken += 1
        self._output.problems.append(f"{self._call_label()}: {problem}")

    def _read_on(self, position: int, step: Callable[[], bool]) -> bool:
        self._at, self._step = position, step
        return True

    def _told_apart(self, position: int) -> str:
        """The text up to `position` that nothing has claimed yet; from here on it is claimed."""
        text = "".join(self._held) + self._buffer[self._mark : position]
        self._held.clear()
        self._at = self._mark = position
        return text

    def _fail(self, problem: str) -> bool:
        self._content.add(self._told_apart(self._at))
        self._give_up(problem)
        self._forget_call()
        return self._read_on(self._at, self._read_content)

    def _found(self, text: str) -> bool | None:
        """Whether `text` comes next; None when it is too early to say."""
        if self._buffer.startswith(text, self._at):
            return True
        return None if text.startswith(self._buffer[self._at : self._at + len(text)]) else False

    def _read_until(self, end: re.Pattern[str], markers: tuple[str, ...]) -> tuple[str, str] | None:
        """The text up to the first `end`, and what ended it; `_at` is then at that end. None: read on later."""
        match = end.search(self._buffer, self._at)
        stop = match.start() if match else max(self._at, len(self._buffer) - _open_marker_length(self._buffer, markers))
        self._lexeme.append(self._buffer[self._at : stop])
        self._at = stop
        if match is None:
            return None
        text = "".join(self._lexeme)
        self._lexeme.clear()
        return text, match.group()

    def _read_content(self) -> bool:
        match = _CONTENT_END.search(self._buffer, self._at)
        if match is None:
            open_length = _open_marker_length(self._buffer, _CONTENT_MARKERS)
            self._content.add(self._told_apart(max(self._at, len(self._buffer) - open_length)))
            return False
        self._content.add(self._told_apart(match.start()))
        if match.group() == tokens.START_CALL:
            return self._read_on(match.end(), self._read_prefix)
        self._stopped = True
        return False

    def _read_prefix(self) -> bool:
        if not (found := self._found(_CALL_PREFIX)):
            return False if found is None else self._fail(f"no {_CALL_PREFIX!r} after {tokens.START_CALL}")
        return self._read_on(self._at + len(_CALL_PREFIX), self._read_name)

    def _read_name(self) -> bool:
        if (read := self._read_until(_NAME_END, _MARKERS)) is None:
            return False
        name, end = read
        if end != "{" or not name or name != name.strip():
            return self._fail("no function name followed by '{'")
        self._name = name
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
        if (read := self._read_until(_KEY_END, _MARKERS)) is None:
            return False
        key, end = read
        if end != ":":
            return self._fail("no argument name followed by ':'")
        if key in self._containers[-1]:
            return self._fail(f"argument {_shown(key)} twice")
        self._keys.append(key)
        return self._read_on(self._at + 1, self._read_value)

    def _read_value(self) -> bool:
        if self._buffer[self._at] in "{[":
            return self._open({} if self._buffer[self._at] == "{" else [])
        if not (quoted := self._found(tokens.ESCAPE)):
            return False if quoted is None else self._read_on(self._at, self._read_bare)
        return self._read_on(self._at + len(tokens.ESCAPE), self._read_string)

    def _read_string(self) -> bool:
        if (read := self._read_until(_STRING_END, (tokens.ESCAPE,))) is None:
            return False
        return self._place(read[0], self._at + len(tokens.ESCAPE))

    def _read_bare(self) -> bool:
        if (read := self._read_until(_BARE_END, _MARKERS)) is None:
            return False
        text, end = read
        if end not in (",", "}", "]") or not text:
            return self._fail("a value is missing, or neither quoted nor a literal")
        return self._place(self._bare(text), self._at)

    def _bare(self, text: str) -> object:
        if text in _LITERALS:
            return _LITERALS[text]
        try:
            if _INTEGER.fullmatch(text):
                return self._noting(text, int(text))
            if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
                return self._noting(text, number)
        except ValueError:  # an integer of more digits than Python converts
            pass
        argument = _shown(self._keys[0])
        self._notes.append(f"argument {argument}: the unquoted text {_shown(text)} is no literal, kept as a string")
        return text

    def _noting(self, text: str, number: float) -> float:
        if repr(number) != text:
            self._literals[self._path()] = text
        return number

    def _path(self) -> Path:
        """Where the value being read stands."""
        keys = iter(self._keys)
        return tuple(next(keys) if isinstance(container, dict) else len(container) for container in self._containers)

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
        self._output.problems.extend(f"{self._call_label()}: {note}" for note in self._notes)
        self._output.calls.append(ToolCall(self._name, arguments))
        self._output.literals.append(self._literals)
        self._told_apart(self._at + len(tokens.END_CALL))
        self._forget_call()
        return self._read_on(self._at, self._read_content)


def _shown(text: str) -> str:
    """`text` for a message; it is the model's own, so it may be long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _open_marker_length(text: str, markers: tuple[str, ...]) -> int:
    """Length of the end of `text` that may be the start of one of `markers`."""
    tail = text[-_LONGEST_MARKER:]
    start = tail.rfind("<")
    tail = tail[start:] if start >= 0 else ""
    return len(tail) if tail and any(marker.startswith(tail) for marker in markers) else 0
