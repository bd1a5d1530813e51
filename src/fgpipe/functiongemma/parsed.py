"""What was read of a model's output, and the text in it that stands outside the calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from fgpipe.functiongemma.values import ToolCall

Path = tuple[str | int, ...]
"""Where a value stands in a call's arguments: keys and list positions, outermost first."""


@dataclass(frozen=True)
class ParsedOutput:
    """What one model output says: its `calls`, the text outside them (trimmed), and what was wrong with it.

    A call that breaks off or breaks the grammar is part of `content` and named in `problems`; it is never a call. An
    unquoted argument that is no JSON literal is kept as a string and named in `problems`.
    """

    calls: list[ToolCall]
    content: str
    problems: list[str]
    literals: list[dict[Path, str]] = field(default_factory=list, compare=False)
    """For each call, how numbers were written that Python would write otherwise, such as `1.50` or `1E3`."""
    broken_calls: int = field(default=0, compare=False)
    """How many of the problems are calls given up; the others are arguments kept as strings."""


class TrimmedText:
    """Text that grows, without the space around it; the space at its end is held back until text follows."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._space: list[str] = []
        self._taken = 0

    def add(self, text: str) -> None:
        """Append `text`."""
        if not text or text.isspace():
            self._space.append(text)
            return
        text = "".join(self._space) + text
        text = text if self._parts else text.lstrip()
        ended = text.rstrip()
        self._parts.append(ended)
        self._space = [text[len(ended) :]]

    def take(self) -> str:
        """What has come since the last `take`."""
        taken, self._taken = self._taken, len(self._parts)
        return "".join(self._parts[taken:])

    def whole(self) -> str:
        """All of it."""
        return "".join(self._parts)
