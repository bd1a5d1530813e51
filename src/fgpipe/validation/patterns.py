"""Regular expressions on module names whose cost is counted: a stranger's pattern can keep `re` busy for ever.

The search goes through the same alternatives in the same order as `re` and vLLM's `regex` do, so a pattern that takes
too many steps here would keep PEFT and the server busy too.
"""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LONGEST_PATTERN = 2000
MOST_STEPS = 500_000
"""Steps for all names together, under a second; what people write takes some ten thousand."""
MOST_PATTERNS = 2000

_PLAIN = re.compile(r"(?:\\\.|[\w.^$-])*", re.ASCII)
"""Patterns without a choice, which `re` matches in one go."""
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


class PatternError(ValueError):
    """A setting that names modules cannot be understood; the text says got and expected."""


class Steps:
    """What is left of the steps that one or more patterns may take."""

    def __init__(self, left: int = MOST_STEPS) -> None:
        self.left = left

    def take(self, pattern: str) -> None:
        """Count one step of `pattern`.

        Raises:
            PatternError: it was one too many.
        """
        self.left -= 1
        if self.left < 0:
            raise PatternError(f"got the pattern {pattern!r:.80}, expected one that can be matched in a second")


class Pattern:
    """A regular expression that certainly ends."""

    def __init__(self, text: object, *, steps: Steps | None = None) -> None:
        """Take `text` apart.

        Raises:
            PatternError: not a string, or no regular expression.
        """
        if not isinstance(text, str):
            raise PatternError(f"got {text!r:.80}, expected a module name or a regular expression")
        if len(text) > LONGEST_PATTERN:
            raise PatternError(f"got a pattern of {len(text)} characters, expected at most {LONGEST_PATTERN}")
        self.text = text
        self._steps = steps or Steps()
        self._plain = re.compile(text) if _PLAIN.fullmatch(text) else None
        self._tree: Any = None if self._plain else _parsed(text)
        self._ignore_case = self._tree is not None and bool(self._tree.state.flags & re.IGNORECASE)

    def fullmatch(self, name: str) -> bool:
        """Whether the whole of `name` matches; raises PatternError if that takes too long to say."""
        return self._reaches_end(name, 0)

    def matches_end(self, name: str) -> bool:
        """Whether `name` matches from its beginning or after a dot, as PEFT matches keys of `rank_pattern`."""
        return any(self._reaches_end(name, start) for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))))

    def _reaches_end(self, name: str, start: int) -> bool:
        if self._plain:
            return self._plain.fullmatch(name, start) is not None
        try:
            return any(end == len(name) for end in self._ends(self._tree, 0, name, start))
        except RecursionError as error:
            raise PatternError(f"got the pattern {self.text!r:.80}, expected a less nested one") from error

    def _ends(self, nodes: Sequence[Any], index: int, name: str, position: int) -> Iterator[int]:
        """Where `nodes[index:]` may end in `name` if they begin at `position`, in the order a matcher tries."""
        if index == len(nodes):
            yield position
            return
        for middle in self._node_ends(nodes[index], name, position):
            yield from self._ends(nodes, index + 1, name, middle)

    def _node_ends(self, node: Any, name: str, position: int) -> Iterator[int]:
        self._steps.take(self.text)
        kind, value = node[0].name, node[1]
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            if position < len(name) and self._takes(node, name[position]):
                yield position + 1
        elif kind == "BRANCH":
            for branch in value[1]:
                yield from self._ends(branch, 0, name, position)
        elif kind == "SUBPATTERN" and not (value[1] | value[2]) & re.IGNORECASE:
            yield from self._ends(value[3], 0, name, position)
        elif kind in ("MAX_REPEAT", "MIN_REPEAT"):
            yield from self._repeat_ends(kind == "MAX_REPEAT", value, name, position, 0)
        elif kind == "AT":
            if _stands_at(value.name, name, position):
                yield position
        elif kind in ("ASSERT", "ASSERT_NOT"):
            if self._looks(value, name, position) == (kind == "ASSERT"):
                yield position
        elif kind == "ATOMIC_GROUP":
            yield from itertools.islice(self._ends(value, 0, name, position), 1)
        elif kind == "POSSESSIVE_REPEAT":
            yield from itertools.islice(self._repeat_ends(True, value, name, position, 0), 1)
        else:
            raise PatternError(f"got the pattern {self.text!r:.80}, expected one without {kind.lower()}")

    def _repeat_ends(self, greedy: bool, repeat: Any, name: str, position: int, count: int) -> Iterator[int]:
        low, high, body = repeat
        if not greedy and count >= low:
            yield position
        if count < high:
            for middle in self._ends(body, 0, name, position):
                if middle != position or count < low:
                    yield from self._repeat_ends(greedy, repeat, name, middle, count + 1)
        if greedy and count >= low:
            yield position

    def _looks(self, assertion: Any, name: str, position: int) -> bool:
        direction, body = assertion
        if direction > 0:
            return next(self._ends(body, 0, name, position), None) is not None
        start = position - body.getwidth()[0]  # `re` has refused a look behind of varying width
        return start >= 0 and position in self._ends(body, 0, name, start)

    def _takes(self, node: Any, character: str) -> bool:
        kind, value = node[0].name, node[1]
        seen = {character, character.swapcase()} if self._ignore_case else {character}
        if kind == "IN":
            negated: bool = value[0][0].name == "NEGATE"
            return negated != any(_member(member, one) for member in value[negated:] for one in seen)
        return kind == "ANY" or (chr(value) in seen) is (kind == "LITERAL")


def _parsed(text: str) -> Any:
    """The tree `re` makes of `text`. Its parser has no public name since Python 3.11."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
            return importlib.import_module("re._parser").parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"got {text!r:.80}, expected a regular expression ({error})") from error


def _member(member: Any, character: str) -> bool:
    kind, value = member[0].name, member[1]
    if kind == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    if kind == "CATEGORY":
        negated, category = re.fullmatch(r"CATEGORY_(NOT_)?(\w+)", value.name).groups()  # type: ignore[union-attr]
        return (re.match(_CATEGORIES[category], character) is not None) != bool(negated)
    return bool(kind == "LITERAL" and chr(value) == character)


def _stands_at(kind: str, name: str, position: int) -> bool:
    if kind in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return position == 0
    if kind in ("AT_END", "AT_END_STRING"):
        return position == len(name)  # names hold no line break
    around = [0 <= at < len(name) and re.match(r"\w", name[at]) is not None for at in (position - 1, position)]
    return (around[0] != around[1]) == (kind == "AT_BOUNDARY")


class PatternValues:
    """`rank_pattern` or `alpha_pattern`: a value for the modules whose end a key matches, the first such key's."""

    def __init__(self, values: Mapping[str, Any] | None) -> None:
        """Take the keys apart.

        Raises:
            PatternError: one is no regular expression, or there are very many.
        """
        if len(values or ()) > MOST_PATTERNS:
            raise PatternError(f"got {len(values or ())} patterns, expected at most {MOST_PATTERNS}")
        steps = Steps()
        self._values = [(Pattern(key, steps=steps), value) for key, value in (values or {}).items()]

    def get(self, name: str, default: Any) -> Any:
        """The value for module `name`; raises PatternError if the keys take too long to match."""
        return next((value for pattern, value in self._values if pattern.matches_end(name)), default)
