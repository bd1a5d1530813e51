"""Parameters of the synthetic tools: names, schemas, and how a user states a value of each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words
from fgpipe.models.tiny.words import names, phrases

Make = Callable[[random.Random], values.Said]


@dataclass(frozen=True)
class Kind:
    """A sort of value: JSON type, how to make one, share of parameters, names, and how it is said when alone in a tool.

    In `phrases`, {v} is the value and {w} the parameter's words.
    """

    json_type: str
    make: Make
    weight: int
    names: tuple[str, ...]
    phrases: tuple[str, ...]


KINDS = {
    "person": Kind(
        "string",
        values.said_person,
        10,
        names(
            """recipient owner guest driver author assignee contact patient tenant host teacher customer user
            member person buyer passenger"""
        ),
        phrases("for {v}|of {v}"),
    ),
    "city": Kind(
        "string",
        values.said_city,
        7,
        names("city destination location venue site region warehouse place town origin"),
        phrases("in {v}|near {v}"),
    ),
    "code": Kind(
        "string",
        values.said_code,
        8,
        names("""code reference tracking_id serial ticket_id badge voucher order_id device_id id key plate"""),
        phrases("{v}|with {w} {v}|number {v}"),
    ),
    "title": Kind(
        "string",
        values.said_title,
        8,
        names("""title name label topic playlist album project item product dish brand keyword heading song subject"""),
        phrases("called {v}|named {v}"),
    ),
    "quoted": Kind(
        "string",
        values.said_quoted_title,
        4,
        names("title name label caption query phrase heading subject"),
        phrases("called {v}|named {v}|titled {v}"),
    ),
    "text": Kind(
        "string",
        values.said_sentence,
        7,
        names("message note comment reason caption body summary instructions text content remark"),
        phrases("saying {v}|with the words {v}|that says {v}|and write {v}"),
    ),
    "date": Kind(
        "string",
        values.said_date,
        7,
        names("date start_date due_date day deadline arrival_date check_in expiry"),
        phrases("on {v}|for {v}"),
    ),
    "time": Kind(
        "string",
        values.said_time,
        5,
        names("time start_time alarm_time pickup_time at_time"),
        phrases("at {v}|for {v}"),
    ),
    "colour": Kind(
        "string",
        values.said_colour,
        2,
        names("colour color shade paint"),
        phrases("in {v}"),
    ),
    "weekday": Kind(
        "string",
        values.said_weekday,
        2,
        names("weekday day_of_week"),
        phrases("on {v}"),
    ),
    "address": Kind(
        "string",
        values.said_address,
        3,
        names("contact login account username handle address"),
        phrases("for {v}|under {v}"),
    ),
    "path": Kind(
        "string",
        values.said_path,
        3,
        names("path file target source folder route"),
        phrases("at {v}|in {v}"),
    ),
    "foreign": Kind(
        "string",
        values.said_foreign,
        2,
        names("name label word text"),
        phrases("called {v}"),
    ),
    "integer": Kind(
        "integer",
        values.said_integer,
        14,
        names(
            """count quantity guests seats copies floor minutes level year page volume people nights pages limit
            age size rooms"""
        ),
        phrases("{v} {w}|for {v} {w}"),
    ),
    "number": Kind(
        "number",
        values.said_number,
        9,
        names("""amount price weight_kg distance_km temperature rate budget score height width speed length_m value"""),
        phrases("{w} {v}"),
    ),
}
_WEIGHTS = tuple(kind.weight for kind in KINDS.values())
_FLAGS = names("""urgent gift_wrap recurring express private insured window_seat public pinned visible silent refundable
    overnight fragile heated automatic shared hidden signed""")
_FLAG_ON = phrases("make it {w}|{w}: yes|it should be {w}|with {w} on|{w} please|{w}")
_FLAG_OFF = phrases("not {w}|{w}: no|it should not be {w}|with {w} off|without {w}")
_ENUMS = tuple(
    line.split(": ")
    for line in phrases(
        """size: small medium large|priority: low normal high|unit: metric imperial|unit: celsius fahrenheit|
        format: pdf csv xlsx|mode: eco normal turbo|status: open closed pending|cabin: economy business first|
        speed: slow medium fast|language: english german french spanish|sort: newest oldest|currency: EUR USD GBP|
        quality: draft standard best|access: read write admin|level: beginner intermediate expert|
        direction: left right up down|meal: breakfast lunch dinner|view: day week month|tier: bronze silver gold|
        frequency: daily weekly monthly"""
    )
)
_ENUM_NAMES = names("kind variant category group style state plan zone class")
_OBJECT_NAMES = names("options details address settings range contact position extra")
_DESCRIPTIONS = phrases("The {w}|{W}|{W} to use|Which {w}|The {w} of it|{w}|Value of the {w}")
_RESERVED = frozenset({"description", "type", "properties", "required", "nullable"})
"""FunctionGemma's template loses parameters of these names."""
_PLAIN = ("{w} {v}",)


@dataclass(frozen=True)
class Parameter:
    """One parameter: its schema, and how a user states a value of it."""

    name: str
    said: str
    schema: dict[str, Any]
    make: Make
    phrases: tuple[str, ...]
    kind: str
    required: bool


@dataclass(frozen=True)
class _Draft:
    """A parameter before it has its final name and description."""

    kind: str
    name: str
    schema: dict[str, Any]
    make: Make
    phrases: tuple[str, ...]


def _flag(rng: random.Random) -> _Draft:
    name = rng.choice(_FLAGS) if rng.random() < 0.7 else rng.choice(words.ADJECTIVES)
    said = name.replace("_", " ")

    def make(rng: random.Random) -> values.Said:
        value = rng.random() < 0.6
        return rng.choice(_FLAG_ON if value else _FLAG_OFF).format(w=said), value

    return _Draft("flag", rng.choice(("", "", "is_", "make_")) + name, {"type": "boolean"}, make, ("{v}",))


def _choice(rng: random.Random) -> _Draft:
    if rng.random() < 0.6:
        name, text = rng.choice(_ENUMS)
        options = text.split()
    else:
        name = rng.choice((*_ENUM_NAMES, rng.choice(words.SINGULAR)))
        options = list(dict.fromkeys(words.any_word(rng) for _ in range(rng.randint(2, 5))))
    rng.shuffle(options)

    def make(rng: random.Random) -> values.Said:
        value = rng.choice(options)
        return (value if rng.random() < 0.85 else rng.choice((value.lower(), value.capitalize()))), value

    return _Draft("choice", name, {"type": "string", "enum": options}, make, ("{v} {w}", "{w} {v}", "{w}: {v}"))


def _array(rng: random.Random) -> _Draft:
    kind = KINDS[rng.choices(tuple(KINDS), _WEIGHTS)[0]]
    name = rng.choice(kind.names)

    def make(rng: random.Random) -> values.Said:
        items = [kind.make(rng) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))]
        return values.listed(rng, [said for said, _ in items]), [value for _, value in items]

    schema = {"type": "array", "items": {"type": kind.json_type}}
    return _Draft("array", name if name.endswith("s") else f"{name}s", schema, make, _PLAIN)


def _object(rng: random.Random) -> _Draft:
    taken: set[str] = set()
    inner = [parameter(rng, taken, nested=True) for _ in range(rng.randint(2, 3))]

    def make(rng: random.Random) -> values.Said:
        said, value = [], {}
        for p in inner:
            if p.required or rng.random() < 0.5:
                words_said, value[p.name] = p.make(rng)
                said.append(f"{p.said} {words_said}")
        return values.listed(rng, said), value

    schema: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema for p in inner}}
    if required := [p.name for p in inner if p.required]:
        schema["required"] = required
    return _Draft("object", rng.choice(_OBJECT_NAMES), schema, make, _PLAIN)


def _plain(rng: random.Random) -> _Draft:
    name = rng.choices(tuple(KINDS), _WEIGHTS)[0]
    kind = KINDS[name]
    return _Draft(name, rng.choice(kind.names), {"type": kind.json_type}, kind.make, kind.phrases)


def _draft(rng: random.Random, *, nested: bool) -> _Draft:
    pick = rng.random()
    if pick < 0.1:
        return _flag(rng)
    if pick < 0.24:
        return _choice(rng)
    if pick < 0.34 and not nested:
        return _array(rng)
    return _object(rng) if pick < 0.39 and not nested else _plain(rng)


def _described(rng: random.Random, said: str, kind: str) -> str:
    if rng.random() < 0.15:
        return ""
    hint = {"date": " (YYYY-MM-DD)", "time": " (HH:MM)"}.get(kind, "")
    return rng.choice(_DESCRIPTIONS).format(w=said, W=said.capitalize()) + hint + rng.choice(("", "", "."))


def parameter(rng: random.Random, taken: set[str], *, nested: bool = False) -> Parameter:
    """A parameter whose name is not in `taken`, which it joins; `nested` ones hold plain values only."""
    draft = _draft(rng, nested=nested)
    name, said_as = draft.name, draft.phrases
    flag = draft.kind == "flag"
    if rng.random() < 0.25 and not flag:
        name, said_as = f"{rng.choice(words.SINGULAR)}_{name}", _PLAIN
    while name in taken or name in _RESERVED:
        name, said_as = f"{rng.choice(words.SINGULAR)}_{name}", (said_as if flag else _PLAIN)
    taken.add(name)
    said = name.replace("_", " ")
    schema = {**draft.schema, "description": _described(rng, said, draft.kind)}
    if rng.random() < 0.1 and "_" in name:
        head, *tail = name.split("_")
        name = head + "".join(part.capitalize() for part in tail)
    return Parameter(name, said, schema, draft.make, said_as, draft.kind, rng.random() < 0.7)
