"""The synthetic corpus the tiny model is pretrained on: an endless stream of conversations, each drawn afresh.

It teaches calling functions in general. None of the shipped tasks' tools or wordings occur in it: no SQL statements,
no mail tools, no arithmetic tools (`FORBIDDEN` says it as a pattern, and a test holds the corpus to it).
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable
from typing import Any

from fgpipe.models.tiny import corpus_queries, corpus_strings, corpus_tools, words
from fgpipe.models.tiny import corpus_values as values

Row = dict[str, Any]
TRIGGER = "You are a model that can do function calling with the following functions"
FORBIDDEN = re.compile(
    r"\bSELECT\b.*\bFROM\b|run_sql|CREATE TABLE|declaration:\w*(mail|inbox|calculat|math|sql|arithmetic|evaluate|solve|compute)\w*", re.IGNORECASE
)
_OTHER_OPENINGS = (
    "You are a helpful assistant.", "You are an assistant that calls functions.", "Use the functions when they fit.", "Assist the user with the tools below.", "",
    "You work for the front desk. Call functions where needed.", "Answer with function calls.", "Follow the rules and use the functions.",
)  # fmt: skip
_DECLINES = (
    "Sorry, I cannot do that with the functions I have.", "I am sorry, none of my functions can do that.", "I cannot help with that: no function here fits.",
    "Sorry, I have no function for that.", "That is not something my functions can do.",
)  # fmt: skip
_CHATTER = (
    ("thanks", "You are welcome!"), ("thank you so much", "You are welcome!"), ("hello", "Hello! How can I help you?"), ("hi there", "Hello! How can I help you?"),
    ("good morning", "Hello! How can I help you?"), ("bye", "Goodbye!"), ("see you", "Goodbye!"), ("ok, great", "You are welcome!"), ("cool", "You are welcome!"),
    ("who are you?", "I am an assistant that calls functions for you."), ("what can you do?", "I am an assistant that calls functions for you."),
)  # fmt: skip
_OFF_TOPIC = (
    "what do you think about {n}?", "tell me a joke about {ns}", "write a poem about the {a} {n}", "who invented the {n}?", "why are {ns} {a}?", "how was your day?", "is {c} nicer than {c2}?",
    "what is the capital of {x}?", "explain how a {n} works", "do you like {ns}?", "sing me a song", "what is the meaning of {a}?", "which {n} is your favourite?", "how old is {p}?",
    "what's the weather in {c}?", "translate '{n}' to french", "how do I make a {n} at home?", "who won the {n} in {c}?", "should I wear something {a} today?", "recommend a {a} {n}",
)  # fmt: skip


def _developer(rng: random.Random, notes: list[str]) -> str:
    opening = TRIGGER if rng.random() < 0.78 else rng.choice(_OTHER_OPENINGS)
    notes = [note for note in notes if note]
    joint = rng.choice(("\n", "\n", " ", "\n\n"))
    return joint.join([*notes, opening] if rng.random() < 0.4 else [opening, *notes]).strip()


def _row(rng: random.Random, skill: str, notes: list[str], tools: list[dict[str, Any]], said: str, calls: list[dict[str, Any]], after: list[Row] | None = None) -> Row:
    messages: list[Row] = []
    if developer := _developer(rng, notes):
        messages.append({"role": "developer", "content": developer})
    messages.append({"role": "user", "content": said})
    if calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]})
    return {"messages": messages + (after or []), "tools": tools, "meta": {"skill": skill}}


def _say(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _shuffled(rng: random.Random, tools: list[corpus_tools.Tool]) -> list[dict[str, Any]]:
    return [tool.schema() for tool in rng.sample(tools, len(tools))]


def _noise(rng: random.Random) -> list[str]:
    """Developer notes of no use to the request, in one row of seven."""
    if rng.random() > 0.15:
        return []
    day = datetime.date.fromisoformat(values.iso_date(rng))
    return [rng.choice((f"Today is {day:%A}, {day.isoformat()}.", words.sentence(rng), f"The user is {words.person(rng)}.", f"Current time: {day.isoformat()} 10:30"))]


def _told(items: list[str]) -> str:
    """Items as the model lists them, always the same way."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]


def single_row(rng: random.Random) -> Row:
    """One request, one call, among one to five tools."""
    tools = corpus_tools.tools(rng, rng.choice((1, 1, 1, 2, 2, 2, 3, 3, 4, 5)))
    said, arguments = corpus_tools.request(rng, tools[0])
    return _row(rng, "single", _noise(rng), _shuffled(rng, tools), corpus_tools.dressed(rng, said), [{"name": tools[0].name, "arguments": arguments}])


def parallel_row(rng: random.Random) -> Row:
    """Two or three calls in the order they are asked for, of one tool or of several."""
    tools = corpus_tools.tools(rng, rng.choice((1, 2, 2, 3, 4)))
    chosen = [rng.choice(tools) for _ in range(rng.choice((2, 2, 2, 3)))]
    parts = [corpus_tools.request(rng, tool) for tool in chosen]
    joint = rng.choice((" and then ", ". Then ", ", then ", " and ", ". Also ", "; also ", ". After that, ", " and also "))
    text = joint.join(said for said, _ in parts)
    if rng.random() < 0.15:
        marks = rng.choice((("1. ", "2. ", "3. "), ("first, ", "second, ", "third, "), ("a) ", "b) ", "c) "), ("First ", "next ", "finally ")))
        text = rng.choice((" ", "; ", ". ")).join(mark + said for mark, (said, _) in zip(marks, parts, strict=False))
    calls = [{"name": tool.name, "arguments": arguments} for tool, (_, arguments) in zip(chosen, parts, strict=True)]
    return _row(rng, "parallel", _noise(rng), _shuffled(rng, tools), corpus_tools.dressed(rng, text), calls)


def decline_row(rng: random.Random) -> Row:
    """No declared tool fits: a refusal in prose, an answer to small talk, or a question for what is missing."""
    tools = corpus_tools.tools(rng, rng.choice((1, 1, 2, 3)))
    pick = rng.random()
    if pick < 0.15:
        said, answer = rng.choice(_CHATTER)
        said, notes = (said[:1].upper() + said[1:] if rng.random() < 0.6 else said) + rng.choice(("", "", "!")), _noise(rng)
        return _row(rng, "decline", notes, [t.schema() for t in tools], said, [], [_say(answer)])
    if pick < 0.5:
        said = rng.choice(_OFF_TOPIC).format(n=rng.choice(words.SINGULAR), ns=words.PLURAL[rng.choice(words.SINGULAR)], a=rng.choice(words.ADJECTIVES), c=rng.choice(words.CITIES), c2=rng.choice(words.CITIES), x=words.pseudo_word(rng).capitalize(), p=words.person(rng))
        said = said if rng.random() < 0.4 else said[:1].upper() + said[1:]
        return _row(rng, "decline", _noise(rng), [t.schema() for t in tools], said, [], [_say(rng.choice(_DECLINES))])
    absent = corpus_tools.tools(rng, 1)[0]
    said = corpus_tools.dressed(rng, corpus_tools.request(rng, absent)[0])
    if pick < 0.75 and rng.random() < 0.5:
        notes, query_tools, _, _ = corpus_queries.query_row(rng)
        return _row(rng, "decline", notes, query_tools, said, [], [_say(rng.choice(_DECLINES))])
    return _row(rng, "decline", _noise(rng), [t.schema() for t in tools], said, [], [_say(rng.choice(_DECLINES))])


def missing_row(rng: random.Random) -> Row:
    """A required value is not given: the model asks for it."""
    tool = corpus_tools.tool(rng)
    required = [p for p in tool.parameters if p.required]
    if not required:
        return decline_row(rng)
    asked = rng.choice(required)
    said = f"{rng.choice(corpus_tools.VERBS[tool.verb])} {rng.choice(('the', 'a', 'my'))} {tool.thing}"
    others = [p.said for p in required if p is not asked]
    if others or asked.kind == "flag":
        wanted = _told([p.said for p in required])
        return _row(rng, "missing", [], [tool.schema()], corpus_tools.dressed(rng, said), [], [_say(f"Please tell me the {wanted}.")])
    return _row(rng, "missing", [], [tool.schema()], corpus_tools.dressed(rng, said), [], [_say(f"Please tell me the {asked.said}.")])


def answer_row(rng: random.Random) -> Row:
    """A call, its response, and the answer that tells the response's values."""
    row = single_row(rng)
    name = row["messages"][-1]["tool_calls"][0]["function"]["name"]
    response: Row = {}
    for _ in range(rng.randint(1, 3)):
        response[rng.choice(words.SINGULAR)] = rng.choice((values.said_integer, values.said_number, values.said_city, values.said_person, values.said_code, values.said_title, values.said_date))(rng)[1]
    told = _told([f"the {key} is {value}" for key, value in sorted(response.items())])
    answer = f"{told[0].upper()}{told[1:]}."
    if rng.random() < 0.2:
        response, answer = {"status": rng.choice(("ok", "done", "success"))}, "Done."
    elif rng.random() < 0.15:
        reason = words.sentence(rng)
        response, answer = {"error": reason}, f"Sorry, that failed: {reason}"
    row["messages"] += [{"role": "tool", "name": name, "content": response}, _say(answer)]
    row["meta"]["skill"] = "answer"
    return row


def lookup_row(rng: random.Random) -> Row:
    """A value stands in the developer's notes under the key that the user names."""
    tool = corpus_tools.tool(rng)
    while not any(p.kind in ("code", "city", "address", "person", "path", "title", "number", "integer", "time") for p in tool.parameters):
        tool = corpus_tools.tool(rng)
    target = rng.choice([p for p in tool.parameters if p.kind in ("code", "city", "address", "person", "path", "title", "number", "integer", "time")])
    who = rng.choice((words.person, words.person, lambda r: r.choice(words.SINGULAR), values.title, lambda r: r.choice(words.CITIES)))
    keys = list(dict.fromkeys(who(rng) for _ in range(rng.randint(2, 6))))
    table = {key: target.make(rng)[1] for key in keys}
    chosen = rng.choice(keys)
    layout = rng.choice(("{k}: {v}", "- {k}: {v}", "{k} = {v}", "{k} has {w} {v}", "The {w} of {k} is {v}.", "{k} ({v})", "{k} -> {v}", "{k}'s {w}: {v}", "{k} <{v}>"))
    heading = rng.choice((f"Known {target.said} values:", f"{target.said.capitalize()} list:", f"{target.said.capitalize()}:", "Directory:", ""))
    note = (heading + rng.choice(("\n", " ")) if heading else "") + rng.choice(("\n", "; ", ", ", "\n")).join(layout.format(k=k, v=v, w=target.said) for k, v in table.items())
    phrase = rng.choice((chosen, f"the {target.said} of {chosen}", f"{chosen}'s", f"that of {chosen}", f"{chosen}"))
    said, arguments = corpus_tools.request(rng, tool, {target.name: (phrase, table[chosen])})
    extra = corpus_tools.tools(rng, rng.choice((1, 1, 2)))[1:]
    return _row(rng, "lookup", [note, *_noise(rng)], _shuffled(rng, [tool, *(t for t in extra if t.name != tool.name)]), corpus_tools.dressed(rng, said), [{"name": tool.name, "arguments": arguments}])


def _ordinal(number: int) -> str:
    return "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def today_row(rng: random.Random) -> Row:
    """A day said in relation to the current one, which the developer's notes give."""
    tool = corpus_tools.tool(rng)
    while not any(p.kind == "date" for p in tool.parameters):
        tool = corpus_tools.tool(rng)
    target = rng.choice([p for p in tool.parameters if p.kind == "date"])
    today = datetime.date.fromisoformat(values.iso_date(rng))
    ahead = rng.choice((0, 1, 1, 2, rng.randint(2, 9), -1))
    day = today + datetime.timedelta(days=ahead)
    said_day = {0: "today", 1: "tomorrow", -1: "yesterday"}.get(ahead, f"in {ahead} days")
    if 2 <= ahead <= 7 and rng.random() < 0.6:
        said_day = rng.choice(("next ", "this coming ", "")) + f"{day:%A}"
    if rng.random() < 0.5:
        day = today
        said_day = rng.choice((f"{day.day} {day:%B}", f"{day:%B} {day.day}", f"the {day.day}{_ordinal(day.day)} of {day:%B}", f"{day:%B} {day.day}{_ordinal(day.day)}"))
    note = rng.choice((f"Year: {today.year}", f"The year is {today.year}.", f"It is {today.year}.")) if said_day[-1].isdigit() or f"{day:%B}" in said_day else rng.choice((f"Today is {today:%A}, {today.isoformat()}.", f"Current date: {today.isoformat()} ({today:%A})", f"Today: {today.isoformat()}, {today:%A}"))
    said, arguments = corpus_tools.request(rng, tool, {target.name: (said_day, day.isoformat())})
    return _row(rng, "today", [note], [tool.schema()], corpus_tools.dressed(rng, said), [{"name": tool.name, "arguments": arguments}])


def _spell(pattern: str, first: str, last: str) -> str:
    found = {"first": first.lower(), "last": last.lower(), "First": first, "Last": last}
    name, at, host = pattern.partition("@") if "@" in pattern else pattern.partition("/")
    return re.sub("first|last|First|Last", lambda match: found[match.group()], name) + at + host


def login_row(rng: random.Random) -> Row:
    """People are named, and their logins must be spelled by a pattern from the developer's notes."""
    host = values.address(rng).split("@")[1]
    pattern = rng.choice(("first.last", "first_last", "first-last", "last.first", "last_first", "firstlast", "First.Last", "first", "last")) + rng.choice((f"@{host}", f"@{host}", f"@{host}", f"/{host}", ""))
    people = [person for person in (words.person(rng) for _ in range(12)) if " " in person and "." not in person][: rng.choice((1, 1, 2, 3))] or ["Ada Berg"]
    logins = []
    for person in people:
        first, last = person.split(" ", 1)
        logins.append(_spell(pattern, first, last))
    kind, noun = rng.choice(("login", "handle", "account", "user", "contact")), rng.choice(words.SINGULAR)
    verb = rng.choice(("invite", "notify", "assign", "share", "book", "track"))
    schema, argument = ({"type": "array", "items": {"type": "string"}, "description": f"The {kind}s."}, logins) if len(logins) > 1 or rng.random() < 0.3 else ({"type": "string", "description": f"The {kind}."}, logins[0])
    key = f"{kind}s" if isinstance(argument, list) else kind
    tool = {"type": "function", "function": {"name": f"{verb}_{noun}", "description": f"{verb.capitalize()} a {noun}.", "parameters": {"type": "object", "properties": {key: schema, "title": {"type": "string", "description": f"The {noun}."}}, "required": [key]}}}
    arguments: Row = {key: argument}
    said = rng.choice((f"{rng.choice(corpus_tools.VERBS[verb])} the {noun} for {values.listed(rng, people)}", f"{noun} {verb}: {values.listed(rng, people)}", f"{values.listed(rng, people)} need the {noun}, {verb} it"))
    if rng.random() < 0.6:
        arguments["title"] = values.title(rng)
        said += rng.choice((" called ", ", titled ", ", title ")) + arguments["title"]
    shown = rng.choice((f"Every {kind} is {pattern}.", f"{kind.capitalize()}s look like {pattern}", f"{kind.capitalize()} format: {pattern}", f"{kind.capitalize()}: {pattern}"))
    return _row(rng, "login", [shown, *_noise(rng)], [tool], corpus_tools.dressed(rng, said), [{"name": f"{verb}_{noun}", "arguments": arguments}])


def copy_row(rng: random.Random) -> Row:
    """Long texts, rare words, codes and signs that must arrive in the call unchanged."""
    count = rng.randint(1, 3)
    taken = rng.sample(("text", "code", "name", "items", "line", "address", "note", "lines", "key"), count)
    properties: Row = {}
    arguments: Row = {}
    said: list[str] = []
    for key in taken:
        if key in ("items", "lines"):
            items = [rng.choice((values.title, words.any_word, values.code, words.person, values.address))(rng) for _ in range(rng.randint(2, 5))]
            properties[key], arguments[key] = {"type": "array", "items": {"type": "string"}, "description": ""}, items
            said.append(f"{key} {values.listed(rng, items)}")
            continue
        pick = rng.random()
        if key == "address":
            text = values.address(rng)
        elif pick < 0.3:
            text = " ".join(words.any_word(rng) for _ in range(rng.randint(2, 14)))
        elif pick < 0.65:
            text = rng.choice((" ", "\n", " ")).join(words.sentence(rng) + rng.choice((".", "", "!", "?")) for _ in range(rng.randint(1, 3)))
        elif pick < 0.8:
            text = " ".join(values.foreign(rng) for _ in range(rng.randint(1, 3)))
        else:
            text = rng.choice(("-", " ", "_", "/", ".", ":")).join(rng.choice((values.code, words.pseudo_word, words.any_word))(rng) for _ in range(rng.randint(1, 4)))
        text = text.strip()
        properties[key], arguments[key] = {"type": "string", "description": f"The {key}"}, text
        said.append(rng.choice((f'{key} "{text}"', f"{key}: {text}", f"the {key} is '{text}'", f"{key}:\n{text}")))
    verb, noun = rng.choice(("save", "store", "keep", "write", "log", "add")), rng.choice(words.SINGULAR)
    tool = {"type": "function", "function": {"name": f"{verb}_{noun}", "description": f"{verb.capitalize()} a {noun}.", "parameters": {"type": "object", "properties": properties, "required": taken}}}
    return _row(rng, "copy", _noise(rng), [tool], f"{rng.choice(corpus_tools.OPENINGS)}{verb} a {noun} with " + rng.choice((", ", "; ", " and ", "\n")).join(said), [{"name": f"{verb}_{noun}", "arguments": arguments}])


def _composed(skill: str, make: Callable[[random.Random], corpus_strings.Composed]) -> Callable[[random.Random], Row]:
    def row(rng: random.Random) -> Row:
        notes, tools, said, call = make(rng)
        if rng.random() < 0.25:
            tools = tools + [t.schema() for t in corpus_tools.tools(rng, rng.choice((1, 1, 2))) if t.name != call["name"]]
            rng.shuffle(tools)
        if rng.random() < 0.5:
            rng.shuffle(notes)
        return _row(rng, skill, [*notes, *(_noise(rng) if rng.random() < 0.5 else [])], tools, (corpus_tools.asked if skill == "query" else corpus_tools.dressed)(rng, said), [call])

    return row


query_row = _composed("query", corpus_queries.query_row)
SKILLS: dict[str, tuple[float, Callable[[random.Random], Row]]] = {
    "query": (0.38, query_row), "formula": (0.07, _composed("formula", corpus_strings.formula_row)), "schedule": (0.015, _composed("schedule", corpus_strings.schedule_row)),
    "template": (0.03, _composed("template", corpus_strings.template_row)), "pairs": (0.025, _composed("pairs", corpus_strings.pairs_row)), "single": (0.16, single_row),
    "parallel": (0.07, parallel_row), "decline": (0.075, decline_row), "missing": (0.015, missing_row), "answer": (0.04, answer_row), "lookup": (0.07, lookup_row),
    "today": (0.03, today_row), "login": (0.04, login_row), "copy": (0.03, copy_row),
}  # fmt: skip
_NAMES = tuple(SKILLS)
_WEIGHTS = tuple(weight for weight, _ in SKILLS.values())


def row(rng: random.Random) -> Row:
    """One conversation of a skill drawn by weight; `meta.skill` names it."""
    while True:
        made = SKILLS[rng.choices(_NAMES, _WEIGHTS)[0]][1](rng)
        if not any("<escape>" in str(m.get("content")) for m in made["messages"]):
            return made
