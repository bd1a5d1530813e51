"""Conversations whose call copies something to the letter: from the developer's notes, or a long text."""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable
from typing import Any

from fgpipe.models.tiny import corpus_tools, words
from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny.corpus_parameters import Parameter
from fgpipe.models.tiny.corpus_rows import Row, call, conversation, noise, shuffled
from fgpipe.models.tiny.words import names, phrases

_LOOKED_UP = names("code city address person path title number integer time")
_ENTRIES = phrases(
    """{k}: {v}|- {k}: {v}|{k} = {v}|{k} has {w} {v}|The {w} of {k} is {v}.|{k} ({v})|{k} -> {v}|{k}'s {w}: {v}|
    {k} <{v}>"""
)
_TODAY = phrases("Today is {A}, {d}.|Current date: {d} ({A})|Today: {d}, {A}")
_YEAR = phrases("Year: {y}|The year is {y}.|It is {y}.")
_LOGINS = names("first.last first_last first-last last.first last_first firstlast First.Last first last")
_LOGIN_NOTES = phrases("Every {k} is {p}.|{K}s look like {p}|{K} format: {p}|{K}: {p}")
_COPIED = names("text code name items line address note lines key")


def _tool_with(rng: random.Random, *kinds: str) -> tuple[corpus_tools.Tool, Parameter]:
    """A tool with a parameter of one of `kinds`, and that parameter."""
    while True:
        tool = corpus_tools.tool(rng)
        if fitting := [p for p in tool.parameters if p.kind in kinds]:
            return tool, rng.choice(fitting)


def lookup_row(rng: random.Random) -> Row:
    """A value stands in the developer's notes under the key that the user names."""
    tool, target = _tool_with(rng, *_LOOKED_UP)
    makers: tuple[Callable[[random.Random], str], ...] = (
        words.person,
        words.person,
        lambda r: r.choice(words.SINGULAR),
        values.title,
        lambda r: r.choice(words.CITIES),
    )
    key = rng.choice(makers)
    table = {key(rng): target.make(rng)[1] for _ in range(rng.randint(2, 6))}
    chosen, entry = rng.choice(tuple(table)), rng.choice(_ENTRIES)
    heads = (f"Known {target.said} values:", f"{target.said.capitalize()} list:", f"{target.said.capitalize()}:")
    heading = rng.choice((*heads, "Directory:", ""))
    note = heading + rng.choice(("\n", " ")) if heading else ""
    note += rng.choice(("\n", "; ", ", ", "\n")).join(entry.format(k=k, v=v, w=target.said) for k, v in table.items())
    phrase = rng.choice((chosen, f"the {target.said} of {chosen}", f"{chosen}'s", f"that of {chosen}", chosen))
    said, arguments = corpus_tools.request(rng, tool, {target.name: (phrase, table[chosen])})
    others = [t for t in corpus_tools.tools(rng, rng.choice((1, 1, 2)))[1:] if t.name != tool.name]
    request = corpus_tools.dressed(rng, said)
    tools = shuffled(rng, [tool, *others])
    return conversation(rng, "lookup", [note, *noise(rng)], tools, request, [call(tool, arguments)])


def _ordinal(number: int) -> str:
    return f"{number}" + ("th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th"))


def _said_of_year(rng: random.Random, day: datetime.date) -> str:
    month, nth = f"{day:%B}", _ordinal(day.day)
    return rng.choice((f"{day.day} {month}", f"{month} {day.day}", f"the {nth} of {month}", f"{month} {nth}"))


def _said_from_today(rng: random.Random, day: datetime.date, ahead: int) -> str:
    if 2 <= ahead <= 7 and rng.random() < 0.6:
        return rng.choice(("next ", "this coming ", "")) + f"{day:%A}"
    return {0: "today", 1: "tomorrow", -1: "yesterday"}.get(ahead, f"in {ahead} days")


def today_row(rng: random.Random) -> Row:
    """A day said in relation to the current one, or without its year, which the developer's notes give."""
    tool, target = _tool_with(rng, "date")
    today = datetime.date.fromisoformat(values.iso_date(rng))
    if rng.random() < 0.5:
        day, said_day = today, _said_of_year(rng, today)
        note = rng.choice(_YEAR).format(y=today.year)
    else:
        ahead = rng.choice((0, 1, 1, 2, rng.randint(2, 9), -1))
        day = today + datetime.timedelta(days=ahead)
        said_day = _said_from_today(rng, day, ahead)
        note = rng.choice(_TODAY).format(A=f"{today:%A}", d=today.isoformat())
    said, arguments = corpus_tools.request(rng, tool, {target.name: (said_day, day.isoformat())})
    request = corpus_tools.dressed(rng, said)
    return conversation(rng, "today", [note], [tool.schema()], request, [call(tool, arguments)])


def _spelled(pattern: str, person: str) -> str:
    """The login of a person by a pattern such as `first.last@host`."""
    first, last = person.split(" ", 1)
    found = {"first": first.lower(), "last": last.lower(), "First": first, "Last": last}
    name, at, host = pattern.partition("@") if "@" in pattern else pattern.partition("/")
    return re.sub("first|last|First|Last", lambda match: found[match.group()], name) + at + host


def login_row(rng: random.Random) -> Row:
    """People are named, and their logins must be spelled by a pattern from the developer's notes."""
    host = values.address(rng).split("@")[1]
    pattern = rng.choice(_LOGINS) + rng.choice((f"@{host}", f"@{host}", f"@{host}", f"/{host}", ""))
    people = [person for person in (words.person(rng) for _ in range(12)) if " " in person and "." not in person]
    people = people[: rng.choice((1, 1, 2, 3))] or ["Ada Berg"]
    logins = [_spelled(pattern, person) for person in people]
    kind, noun = rng.choice(("login", "handle", "account", "user", "contact")), rng.choice(words.SINGULAR)
    verb = rng.choice(("invite", "notify", "assign", "share", "book", "track"))
    listed, synonym = values.listed(rng, people), rng.choice(corpus_tools.VERBS[verb])
    asked = f"{synonym} the {noun} for {listed}", f"{noun} {verb}: {listed}", f"{listed} need the {noun}, {verb} it"
    said, key = rng.choice(asked), kind
    schema: Row = {"type": "string", "description": f"The {kind}."}
    arguments: Row = {kind: logins[0]}
    if len(logins) > 1 or rng.random() < 0.3:
        key, arguments = f"{kind}s", {f"{kind}s": logins}
        schema = {"type": "array", "items": {"type": "string"}, "description": f"The {kind}s."}
    properties = {key: schema, "title": {"type": "string", "description": f"The {noun}."}}
    if rng.random() < 0.6:
        arguments["title"] = values.title(rng)
        said += rng.choice((" called ", ", titled ", ", title ")) + arguments["title"]
    note = rng.choice(_LOGIN_NOTES).format(k=kind, K=kind.capitalize(), p=pattern)
    tool = _declared(f"{verb}_{noun}", f"{verb.capitalize()} a {noun}.", properties, [key])
    made = {"name": f"{verb}_{noun}", "arguments": arguments}
    return conversation(rng, "login", [note, *noise(rng)], [tool], corpus_tools.dressed(rng, said), [made])


def _declared(name: str, about: str, properties: Row, required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def _long_text(rng: random.Random) -> str:
    pick = rng.random()
    if pick < 0.3:
        return " ".join(words.any_word(rng) for _ in range(rng.randint(2, 14)))
    if pick < 0.65:
        sentences = [words.sentence(rng) + rng.choice((".", "", "!", "?")) for _ in range(rng.randint(1, 3))]
        return rng.choice((" ", "\n", " ")).join(sentences)
    if pick < 0.8:
        return " ".join(values.foreign(rng) for _ in range(rng.randint(1, 3)))
    parts = [rng.choice((values.code, words.pseudo_word, words.any_word))(rng) for _ in range(rng.randint(1, 4))]
    return rng.choice(("-", " ", "_", "/", ".", ":")).join(parts)


def copy_row(rng: random.Random) -> Row:
    """Long texts, rare words, codes and signs that must arrive in the call unchanged."""
    properties: Row = {}
    arguments: Row = {}
    said: list[str] = []
    for key in rng.sample(_COPIED, rng.randint(1, 3)):
        if key in ("items", "lines"):
            makers = (values.title, words.any_word, values.code, words.person, values.address)
            items = [rng.choice(makers)(rng) for _ in range(rng.randint(2, 5))]
            properties[key] = {"type": "array", "items": {"type": "string"}, "description": ""}
            arguments[key] = items
            said.append(f"{key} {values.listed(rng, items)}")
            continue
        text = values.address(rng) if key == "address" else _long_text(rng).strip()
        properties[key], arguments[key] = {"type": "string", "description": f"The {key}"}, text
        said.append(rng.choice((f'{key} "{text}"', f"{key}: {text}", f"the {key} is '{text}'", f"{key}:\n{text}")))
    verb, noun = rng.choice(("save", "store", "keep", "write", "log", "add")), rng.choice(words.SINGULAR)
    request = f"{rng.choice(corpus_tools.OPENINGS)}{verb} a {noun} with " + rng.choice(
        (", ", "; ", " and ", "\n")
    ).join(said)
    tool = _declared(f"{verb}_{noun}", f"{verb.capitalize()} a {noun}.", properties, list(properties))
    made = {"name": f"{verb}_{noun}", "arguments": arguments}
    return conversation(rng, "copy", noise(rng), [tool], request, [made])
