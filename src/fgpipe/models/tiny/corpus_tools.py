"""Tools of the synthetic corpus: names, parameters and descriptions put together at random, and requests for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words

# Each verb with the ways a user may say it. Nothing here sends mail, runs queries or does arithmetic.
VERBS: dict[str, tuple[str, ...]] = {
    "create": ("create", "make", "add", "set up", "register"), "delete": ("delete", "remove", "get rid of", "erase"), "book": ("book", "reserve", "get me"),
    "cancel": ("cancel", "call off", "drop"), "update": ("update", "change", "edit", "modify"), "get": ("get", "show me", "look up", "give me", "fetch"),
    "find": ("find", "look for", "locate", "search for"), "open": ("open", "open up", "unlock"), "close": ("close", "shut", "lock"), "start": ("start", "begin", "launch", "kick off"),
    "stop": ("stop", "halt", "end", "turn off"), "play": ("play", "put on"), "pause": ("pause", "hold"), "order": ("order", "buy", "get"), "ship": ("ship", "dispatch", "deliver"),
    "track": ("track", "follow", "check on"), "rent": ("rent", "hire", "lease"), "assign": ("assign", "hand over", "give"), "move": ("move", "transfer", "shift"),
    "rename": ("rename", "call"), "print": ("print", "print out"), "archive": ("archive", "file away", "store"), "rate": ("rate", "score", "review"), "share": ("share", "pass on"),
    "schedule": ("schedule", "plan", "arrange"), "approve": ("approve", "accept", "sign off"), "reject": ("reject", "turn down", "refuse"), "translate": ("translate",),
    "upload": ("upload", "put up"), "download": ("download", "save"), "record": ("record", "note down", "log"), "inspect": ("inspect", "check", "examine"),
    "repair": ("repair", "fix", "mend"), "clean": ("clean", "tidy up"), "paint": ("paint",), "plant": ("plant",), "water": ("water",), "charge": ("charge", "charge up"),
    "list": ("list", "show", "what are", "enumerate"), "pin": ("pin", "stick"), "tag": ("tag", "label", "mark"), "enable": ("enable", "turn on", "switch on"),
    "disable": ("disable", "turn off", "switch off"), "invite": ("invite", "ask in"), "notify": ("notify", "tell", "alert"), "set": ("set", "adjust", "put"),
    "reset": ("reset", "restore"), "publish": ("publish", "post", "release"), "scan": ("scan",), "lend": ("lend", "loan out"), "return": ("return", "give back", "bring back"),
}  # fmt: skip
OPENINGS = ("", "", "", "Please ", "Could you ", "Can you ", "I need you to ", "I want to ", "I'd like to ", "Hey, ", "Hi, please ", "Would you ", "We need to ", "Help me ", "Now ", "Go ahead and ", "Can I ", "Let's ", "pls ", "Hello! Could you please ", "Quick one: ", "It would be great if you could ", "Time to ")  # fmt: skip
CLOSINGS = ("", "", "", "", ".", ".", ".", "!", " please.", ", please.", ", thanks!", " Thanks.", "?")
Make = Callable[[random.Random], values.Said]

# kind -> (JSON type, parameter nouns, how to make a value, phrases used when the kind occurs once in a tool)
_KINDS: dict[str, tuple[str, str, Make, tuple[str, ...]]] = {
    "person": ("string", "recipient owner guest driver author assignee contact patient tenant host teacher customer user member person buyer passenger", values.said_person, ("for {v}", "of {v}")),
    "city": ("string", "city destination location venue site region warehouse place town origin", values.said_city, ("in {v}", "near {v}")),
    "code": ("string", "code reference tracking_id serial ticket_id badge voucher order_id device_id id key plate", values.said_code, ("{v}", "with {w} {v}", "number {v}")),
    "title": ("string", "title name label topic playlist album project item product dish brand keyword heading song subject", values.said_title, ("called {v}", "named {v}")),
    "quoted": ("string", "title name label caption query phrase heading subject", values.said_quoted_title, ("called {v}", "named {v}", "titled {v}")),
    "text": ("string", "message note comment reason caption body summary instructions text content remark", values.said_sentence, ("saying {v}", "with the words {v}", "that says {v}", "and write {v}")),
    "date": ("string", "date start_date due_date day deadline arrival_date check_in expiry", values.said_date, ("on {v}", "for {v}")),
    "time": ("string", "time start_time alarm_time pickup_time at_time", values.said_time, ("at {v}", "for {v}")),
    "colour": ("string", "colour color shade paint", values.said_colour, ("in {v}",)),
    "weekday": ("string", "weekday day_of_week", values.said_weekday, ("on {v}",)),
    "address": ("string", "contact login account username handle address", values.said_address, ("for {v}", "under {v}")),
    "path": ("string", "path file target source folder route", values.said_path, ("at {v}", "in {v}")),
    "foreign": ("string", "name label word text", values.said_foreign, ("called {v}",)),
    "integer": ("integer", "count quantity guests seats copies floor minutes level year page volume people nights pages limit age size rooms", values.said_integer, ("{v} {w}", "for {v} {w}")),
    "number": ("number", "amount price weight_kg distance_km temperature rate budget score height width speed length_m value", values.said_number, ("{w} {v}",)),
}  # fmt: skip
_KIND_NAMES = tuple(_KINDS)
_KIND_WEIGHTS = (10, 7, 8, 8, 4, 7, 7, 5, 2, 2, 3, 3, 2, 14, 9)
_FLAGS = "urgent gift_wrap recurring express private insured window_seat public pinned visible silent refundable overnight fragile heated automatic shared hidden signed".split()
_ENUMS = (
    ("size", "small medium large"), ("priority", "low normal high"), ("unit", "metric imperial"), ("unit", "celsius fahrenheit"), ("format", "pdf csv xlsx"), ("mode", "eco normal turbo"),
    ("status", "open closed pending"), ("cabin", "economy business first"), ("speed", "slow medium fast"), ("language", "english german french spanish"), ("sort", "newest oldest"),
    ("currency", "EUR USD GBP"), ("quality", "draft standard best"), ("access", "read write admin"), ("level", "beginner intermediate expert"), ("direction", "left right up down"),
    ("meal", "breakfast lunch dinner"), ("view", "day week month"), ("tier", "bronze silver gold"), ("frequency", "daily weekly monthly"),
)  # fmt: skip
_RESERVED = frozenset({"description", "type", "properties", "required", "nullable"})


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
class Tool:
    """One declared tool with the words a user asks for it in."""

    name: str
    verb: str
    thing: str
    description: str
    parameters: tuple[Parameter, ...]

    def schema(self) -> dict[str, Any]:
        """The tool as a conversation declares it."""
        parameters: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema for p in self.parameters}}
        if required := [p.name for p in self.parameters if p.required]:
            parameters["required"] = required
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": parameters}}


def _describe(rng: random.Random, said: str, kind: str) -> str:
    if rng.random() < 0.15:
        return ""
    hint = {"date": " (YYYY-MM-DD)", "time": " (HH:MM)"}.get(kind, "")
    texts = (f"The {said}", f"{said.capitalize()}", f"{said.capitalize()} to use", f"Which {said}", f"The {said} of it", f"{said}", f"Value of the {said}")
    return rng.choice(texts) + hint + rng.choice(("", "", "."))


def _flag(rng: random.Random, name: str, said: str) -> tuple[dict[str, Any], Make]:
    def make(rng: random.Random) -> values.Said:
        value = rng.random() < 0.6
        if value:
            return rng.choice((f"make it {said}", f"{said}: yes", f"it should be {said}", f"with {said} on", f"{said} please", said)), True
        return rng.choice((f"not {said}", f"{said}: no", f"it should not be {said}", f"with {said} off", f"without {said}")), False

    return {"type": "boolean"}, make


def _choice(rng: random.Random) -> tuple[str, dict[str, Any], Make]:
    if rng.random() < 0.6:
        name, text = rng.choice(_ENUMS)
        options = text.split()
    else:
        name = rng.choice(("kind", "variant", "category", "group", "style", "state", "plan", "zone", "class", rng.choice(words.SINGULAR)))
        options = list({words.any_word(rng) for _ in range(rng.randint(2, 5))})
    rng.shuffle(options)

    def make(rng: random.Random) -> values.Said:
        value = rng.choice(options)
        return (value if rng.random() < 0.85 else rng.choice((value.lower(), value.capitalize()))), value

    return name, {"type": "string", "enum": options}, make


def _array(rng: random.Random, inner: Make, kind: str) -> tuple[dict[str, Any], Make]:
    def make(rng: random.Random) -> values.Said:
        items = [inner(rng) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))]
        return values.listed(rng, [said for said, _ in items]), [value for _, value in items]

    return {"type": "array", "items": {"type": kind}}, make


def _object(rng: random.Random, inner: list[Parameter]) -> tuple[dict[str, Any], Make]:
    def make(rng: random.Random) -> values.Said:
        said, value = [], {}
        for parameter in inner:
            if parameter.required or rng.random() < 0.5:
                words_said, value[parameter.name] = parameter.make(rng)
                said.append(f"{parameter.said} {words_said}")
        return values.listed(rng, said), value

    schema: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema for p in inner}}
    if required := [p.name for p in inner if p.required]:
        schema["required"] = required
    return schema, make


def parameter(rng: random.Random, taken: set[str], *, nested: bool = False) -> Parameter:
    """A parameter whose name is not in `taken`, which it joins; `nested` ones hold plain values only."""
    pick = rng.random()
    kind, phrases = "other", ("{w} {v}",)
    if pick < 0.1:
        name = rng.choice(_FLAGS) if rng.random() < 0.7 else rng.choice(words.ADJECTIVES)
        schema, make = _flag(rng, name, name.replace("_", " "))
        kind, phrases, name = "flag", ("{v}",), rng.choice(("", "", "is_", "make_")) + name
    elif pick < 0.24:
        name, schema, make = _choice(rng)
        phrases = ("{v} {w}", "{w} {v}", "{w}: {v}")
    elif pick < 0.34 and not nested:
        kind = rng.choices(_KIND_NAMES, _KIND_WEIGHTS)[0]
        json_type, names, inner, _ = _KINDS[kind]
        name = rng.choice(names.split())
        name = name if name.endswith("s") else name + "s"
        (schema, make), kind = _array(rng, inner, json_type), "array"
    elif pick < 0.39 and not nested:
        inner_taken: set[str] = set()
        schema, make = _object(rng, [parameter(rng, inner_taken, nested=True) for _ in range(rng.randint(2, 3))])
        name, kind = rng.choice(("options", "details", "address", "settings", "range", "contact", "position", "extra")), "object"
    else:
        kind = rng.choices(_KIND_NAMES, _KIND_WEIGHTS)[0]
        json_type, names, make, phrases = _KINDS[kind]
        name, schema = rng.choice(names.split()), {"type": json_type}
    if rng.random() < 0.25 and kind != "flag":
        name, phrases = f"{rng.choice(words.SINGULAR)}_{name}", ("{w} {v}",)
    while name in taken or name in _RESERVED:
        name, phrases = f"{rng.choice(words.SINGULAR)}_{name}", (phrases if kind == "flag" else ("{w} {v}",))
    taken.add(name)
    said = name.replace("_", " ")
    schema = {**schema, "description": _describe(rng, said, kind)}
    if rng.random() < 0.1 and "_" in name:
        head, *tail = name.split("_")
        name = head + "".join(part.capitalize() for part in tail)
    return Parameter(name, said, schema, make, phrases, kind, rng.random() < 0.7)


def _name(rng: random.Random, verb: str, thing: str) -> str:
    noun = thing.replace(" ", "_")
    pick = rng.random()
    if pick < 0.66:
        return f"{verb}_{noun}"
    if pick < 0.8:
        return verb + "".join(part.capitalize() for part in noun.split("_"))
    if pick < 0.88:
        return f"{noun}_{verb}"
    if pick < 0.94:
        return f"{rng.choice(words.SINGULAR)}_{verb}_{noun}"
    return f"{rng.choice(('fn', 'tool', 'action', 'op', 'f', 'api'))}_{rng.randint(1, 99)}" if pick < 0.98 else verb


def tool(rng: random.Random, *, thing: str = "", verb: str = "") -> Tool:
    """A tool of none to five parameters, about `thing` and doing `verb` when these are given."""
    verb = verb or rng.choice(tuple(VERBS))
    if not thing:
        thing = rng.choice(words.SINGULAR)
        if rng.random() < 0.3:
            thing = f"{rng.choice(words.SINGULAR if rng.random() < 0.6 else words.ADJECTIVES)} {thing}"
    taken: set[str] = set()
    parameters = tuple(parameter(rng, taken) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5))))
    article = rng.choice(("a", "the"))
    synonym = rng.choice(VERBS[verb])
    descriptions = (f"{verb.capitalize()} {article} {thing}.", f"{synonym.capitalize()} {article} {thing}", f"{verb.capitalize()}s {article} {thing} for the user.", f"Use this to {synonym} {article} {thing}.", f"{verb} {thing}")
    return Tool(_name(rng, verb, thing), verb, thing, rng.choice(descriptions), parameters)


def tools(rng: random.Random, count: int) -> list[Tool]:
    """Distinct tools; some differ from the first in the verb alone, or in the thing alone."""
    chosen = [tool(rng)]
    while len(chosen) < count:
        pick = rng.random()
        near = chosen[0]
        other = tool(rng, thing=near.thing) if pick < 0.25 else tool(rng, verb=near.verb) if pick < 0.4 else tool(rng)
        if all(other.name != t.name and (other.verb, other.thing) != (t.verb, t.thing) for t in chosen):
            chosen.append(other)
    return chosen


def _phrase(rng: random.Random, p: Parameter, said: str, *, alone: bool) -> str:
    if p.kind == "flag":
        return said
    if alone and rng.random() < 0.6:
        return rng.choice(p.phrases).format(v=said, w=p.said)
    general = ("with {w} {v}", "{w} {v}", "{w}: {v}", "the {w} is {v}", "{v} as the {w}", "with {v} as {w}", "use {v} for the {w}", "{w} = {v}", "{w} should be {v}", "having {w} {v}")
    return rng.choice(general).format(v=said, w=p.said)


def request(rng: random.Random, tool: Tool, overrides: dict[str, values.Said] | None = None) -> tuple[str, dict[str, Any]]:
    """What a user says to have `tool` called, without opening words or a full stop, and the call's arguments.

    `overrides` gives what is said and meant for a parameter, instead of values made here.
    """
    arguments: dict[str, Any] = {}
    said: list[str] = []
    for p in tool.parameters:
        if overrides and p.name in overrides:
            words_said, arguments[p.name] = overrides[p.name]
        elif p.required or rng.random() < 0.45:
            words_said, arguments[p.name] = p.make(rng)
        else:
            continue
        said.append(_phrase(rng, p, words_said, alone=sum(q.kind == p.kind for q in tool.parameters) == 1))
    rng.shuffle(said)
    text = f"{rng.choice(VERBS[tool.verb])} {rng.choice(('the', 'a', 'my', 'the', ''))} {tool.thing}".replace("  ", " ")
    if said and rng.random() < 0.12:
        return rng.choice((", ", "; ")).join(said) + rng.choice((": ", ", ", " - ")) + text, arguments
    if said:
        joint = rng.choice((", ", ", ", " ", " and ", "; ", ". "))
        text += rng.choice((" ", " ", ", ", ": ", " - ")) + joint.join(said)
    return text, arguments


def dressed(rng: random.Random, text: str) -> str:
    """A request as a user types it: opening, closing, capitals, and a typo once in fifty."""
    opening = rng.choice(OPENINGS)
    text = opening + text
    if rng.random() < 0.85:
        text = text[:1].upper() + text[1:]
    closing = rng.choice(CLOSINGS)
    if text[-1:] not in ".!?":
        text += closing
    if rng.random() < 0.02:
        at = rng.randrange(len(opening) + 1)
        text = text[:at] + text[at + 1 :]
    return text


def asked(rng: random.Random, text: str) -> str:
    """A question as a user types it: mostly bare, with a capital and a mark."""
    if rng.random() < 0.25:
        return dressed(rng, text)
    text = text[:1].upper() + text[1:] if rng.random() < 0.85 else text
    text += rng.choice(("?", "?", ".", "", "")) if text[-1:] not in ".!?" else ""
    if rng.random() < 0.2:
        text = rng.choice(("Hi. ", "Quick question: ", "For the report: ", "Hello! ", "Tell me: ", "I wonder, ", "Next: ")) + text
    return text + (rng.choice((" Thanks!", " Please be quick.", " Thank you.", " It's for the meeting.")) if rng.random() < 0.1 else "")
