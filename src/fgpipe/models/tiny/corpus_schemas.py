"""Invented collections with fields, and what may be asked of them: the meanings that the query languages express."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words
from fgpipe.models.tiny.words import names, phrases

# name of a number field: more than {v} | less than {v} / largest / smallest, each with alternatives after ";"
_NUMBERS = {
    "price": "cost more than {v};are priced above {v};cost over {v}|"
    "cost less than {v};are cheaper than {v};cost under {v}|most expensive|cheapest",
    "salary": "earn more than {v};make over {v}|earn less than {v};make under {v}|best paid|worst paid",
    "age": "are older than {v};are over {v}|are younger than {v};are under {v}|oldest|youngest",
    "weight": "weigh more than {v};are heavier than {v}|weigh less than {v};are lighter than {v}|heaviest|lightest",
    "size": "are larger than {v};are bigger than {v}|are smaller than {v}|largest;biggest|smallest",
    "rating": "are rated above {v};are rated higher than {v}|"
    "are rated below {v};are rated lower than {v}|best rated;top rated|worst rated;lowest rated",
    "stock": "have more than {v} in stock|"
    "have less than {v} in stock;have fewer than {v} in stock|best stocked|least stocked",
    "duration": "last more than {v};are longer than {v}|last less than {v};are shorter than {v}|longest|shortest",
    "distance": "are farther than {v};are more than {v} away|"
    "are nearer than {v};are less than {v} away|farthest|nearest",
    "amount": "are above {v};exceed {v}|are below {v};are under {v}|largest;biggest|smallest",
    "score": "scored more than {v};scored above {v}|"
    "scored less than {v};scored below {v}|best;highest scoring|worst;lowest scoring",
    "height": "are taller than {v};are higher than {v}|are lower than {v};are shorter than {v}|tallest;highest|lowest",
    "speed": "are faster than {v}|are slower than {v}|fastest|slowest",
}
_PLAIN_NUMBERS = names(
    """quantity seats capacity floor pages budget total points level visits views votes copies balance hours credits
    depth width length year goals population revenue fee cost"""
)
_DATES = names(
    """date created created_at updated_at due_date started opened_on joined joined_on last_seen release_date
    shipped_on hired_on start_date published"""
)
_TEXTS = names(
    """city country status category kind colour team department brand region genre language group branch role title
    name owner level_name state"""
)
_FLAGS = names(
    """active archived paid open public urgent verified broken free shared premium closed delivered returned signed
    enabled"""
)
_STATUS = names("open closed pending paid late new done shipped cancelled approved draft ready lost")
_PLACES = ("city", "country", "region", "branch")
_LAYOUTS = phrases(
    "{n}({f})|{n}: {f}|- {n} ({f})|{n} [{f}]|{n} {{{f}}}|collection {n}({f})|* {n} has {f}|{n} = {f}|{n}({f})|{N}: {f}"
)
_HEADINGS = phrases("Collections:|Known records:|Schema:|You can look into:|Data:|Fields:|Sources|The tables are:|")
_TYPE_NAMES = (
    {"number": "number", "date": "date", "text": "text", "flag": "bool", "key": "id"},
    {"number": "NUM", "date": "DAY", "text": "STR", "flag": "FLAG", "key": "KEY"},
    {"number": "REAL", "date": "DATE", "text": "TEXT", "flag": "BOOLEAN", "key": "INTEGER"},
)


@dataclass(frozen=True)
class Field:
    """One field: its name, the words a question uses for it, and what it holds (number, date, text, flag or key)."""

    name: str
    said: str
    holds: str
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    largest: tuple[str, ...] = ()
    smallest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """A named set of records; `parent` is the collection that the field `key` points to."""

    name: str
    one: str
    many: str
    fields: tuple[Field, ...]
    parent: Collection | None = None
    key: str = ""

    def holding(self, *kinds: str) -> list[Field]:
        """The fields that hold one of `kinds`."""
        return [f for f in self.fields if f.holds in kinds]


@dataclass(frozen=True)
class Condition:
    """`field operator value`; `of` is the collection the field belongs to."""

    of: Collection
    field: Field
    operator: str
    value: str | int | float | bool


@dataclass(frozen=True)
class Intent:
    """What a question asks for, free of any query language; `linked` when it reaches into the parent."""

    of: Collection
    columns: tuple[Field, ...] = ()
    aggregate: str = ""
    aggregated: Field | None = None
    conditions: tuple[Condition, ...] = ()
    either: bool = False
    grouped: tuple[Collection, Field] | None = None
    group_minimum: int | None = None
    sort: Field | None = None
    descending: bool = False
    limit: int | None = None
    linked: bool = False


def _number_field(rng: random.Random) -> Field:
    if rng.random() < 0.55:
        name = rng.choice(tuple(_NUMBERS))
        more, less, largest, smallest = (tuple(part.split(";")) for part in _NUMBERS[name].split("|"))
        return Field(name, name, "number", more, less, largest, smallest)
    name = rng.choice(_PLAIN_NUMBERS)
    if rng.random() < 0.3:
        name = f"{rng.choice(words.SINGULAR)}_{name}"
    said = name.replace("_", " ")
    less = (f"have fewer than {{v}} {said}", f"have less than {{v}} {said}")
    return Field(name, said, "number", (f"have more than {{v}} {said}",), less)


def _field(rng: random.Random) -> Field:
    pick = rng.random()
    if pick < 0.4:
        return _number_field(rng)
    if pick < 0.55:
        name = rng.choice(_DATES)
        newest, oldest = ("newest", "latest", "most recent"), ("oldest", "earliest")
        return Field(name, name.replace("_", " "), "date", largest=newest, smallest=oldest)
    if pick < 0.9:
        name = rng.choice(_TEXTS) if rng.random() < 0.75 else rng.choice(words.SINGULAR)
        return Field(name, name.replace("_", " "), "text")
    flag = rng.choice(_FLAGS)
    return Field(rng.choice(("", "is_")) + flag, flag, "flag")


def collection(
    rng: random.Random, *, parent: Collection | None = None, taken: frozenset[str] = frozenset()
) -> Collection:
    """A collection of two to six fields besides its id and its pointer to `parent`."""
    one = rng.choice(words.SINGULAR)
    while one in taken or words.PLURAL[one] in taken:
        one = rng.choice(words.SINGULAR)
    fields: dict[str, Field] = {"name": Field("name", "name", "text")} if rng.random() < 0.6 else {}
    size = rng.randint(2, 5)
    while len(fields) < size or not any(f.holds == "number" for f in fields.values()):
        new = _field(rng)
        if new.name != one:
            fields.setdefault(new.name, new)
    listed, key = list(fields.values()), ""
    if parent:
        key = rng.choice((f"{parent.one}_id", f"{parent.one}_id", parent.one, f"{parent.one}_key", f"{parent.one}Id"))
        listed.insert(rng.randint(0, len(listed)), Field(key, parent.one, "key"))
    if parent is not None or rng.random() < 0.7:
        listed.insert(0, Field("id", "id", "key"))
    many = words.PLURAL[one]
    return Collection(many if rng.random() < 0.85 else one, one, many, tuple(listed), parent, key)


def schema_text(rng: random.Random, collections: list[Collection]) -> str:
    """The collections as a developer message lists them, in one of many layouts."""
    typed, kinds = rng.random() < 0.3, rng.choice(_TYPE_NAMES)
    mark, layout = rng.choice((": ", " ", ":")), rng.choice(_LAYOUTS)
    comma = rng.choice((", ", ", ", ",", " | ", "; "))
    lines = []
    for c in collections:
        shown = comma.join(f.name + (f"{mark}{kinds[f.holds]}" if typed else "") for f in c.fields)
        lines.append(layout.format(n=c.name, N=c.name.capitalize(), f=shown))
        if c.parent is not None and rng.random() < 0.4:
            link = rng.choice((" {k} points to {p}", " ({k} -> {p})", " with {k} = {p}.id"))
            lines[-1] += link.format(k=c.key, p=c.parent.name)
    heading = rng.choice(_HEADINGS)
    joint = rng.choice(("\n", "\n", "; ", "\n", " "))
    return heading + (rng.choice(("\n", " ")) if heading else "") + joint.join(lines)


def _text_value(rng: random.Random, name: str) -> str:
    if name == "status":
        return rng.choice(_STATUS)
    if name in _PLACES:
        return rng.choice(words.CITIES)
    if name == "colour":
        return rng.choice(words.COLOURS)
    if name in ("name", "owner"):
        return words.person(rng)
    return rng.choice((words.any_word(rng), words.any_word(rng).capitalize(), values.title(rng)))


def _condition(rng: random.Random, c: Collection) -> Condition:
    f = rng.choice(c.holding("number", "date", "text", "flag"))
    if f.holds == "number":
        small, large = (rng.randint(1, 20), rng.randint(1, 100)), rng.randint(10, 5000)
        operator = rng.choices(("more", "less", "least", "most", "equal", "unequal"), (8, 8, 3, 3, 2, 1))[0]
        return Condition(c, f, operator, rng.choice((*small, large, round(rng.uniform(1, 90), 1))))
    if f.holds == "date":
        return Condition(c, f, rng.choice(("more", "less", "more", "less", "equal")), values.iso_date(rng))
    if f.holds == "flag":
        return Condition(c, f, "equal", rng.random() < 0.6)
    operator = rng.choices(("equal", "unequal", "has"), (10, 1, 1))[0]
    return Condition(c, f, operator, _text_value(rng, f.name))


def intent(rng: random.Random, c: Collection) -> Intent:
    """A question's meaning about `c`, which may reach into its parent."""
    parent = c.parent if c.parent is not None and rng.random() < 0.75 else None
    conditions: list[Condition] = []
    for _ in range(rng.choices((0, 1, 2, 3), (3, 9, 5, 1))[0]):
        new = _condition(rng, parent if parent is not None and rng.random() < 0.6 else c)
        if all(new.field.name != old.field.name for old in conditions):
            conditions.append(new)
    plain = Intent(c, conditions=tuple(conditions), either=len(conditions) == 2 and rng.random() < 0.2)
    pick = rng.random()
    if pick < 0.2:
        made = replace(plain, aggregate="count")
    elif pick < 0.35:
        how = rng.choice(("sum", "average", "least", "most"))
        made = replace(plain, aggregate=how, aggregated=rng.choice(c.holding("number")))
    else:
        made = _grouped(rng, plain, parent) if pick < 0.58 else _listing(rng, plain)
    reached = made.grouped is not None and made.grouped[0] is not c
    return replace(made, linked=reached or any(x.of is not c for x in conditions))


def _grouped(rng: random.Random, plain: Intent, parent: Collection | None) -> Intent:
    of = parent if parent is not None and rng.random() < 0.7 and parent.holding("text") else plain.of
    by = of.holding("text")
    if not by:
        return replace(plain, aggregate="count")
    how = rng.choice(("count", "count", "sum", "average", "most"))
    return replace(
        plain,
        aggregate=how,
        aggregated=None if how == "count" else rng.choice(plain.of.holding("number")),
        grouped=(of, rng.choice(by)),
        group_minimum=rng.randint(2, 20) if how == "count" and rng.random() < 0.2 else None,
    )


def _listing(rng: random.Random, plain: Intent) -> Intent:
    shown = [f for f in plain.of.fields if f.holds != "key"]
    columns = tuple(rng.sample(shown, rng.randint(1, min(3, len(shown))))) if rng.random() < 0.5 else ()
    sort = rng.choice(plain.of.holding("number", "date")) if rng.random() < 0.55 else None
    limit = None
    if sort is not None and rng.random() < 0.6:
        limit = rng.choice((1, 1, 2, 3, 3, 5, 10, 20, rng.randint(4, 50)))
    return replace(plain, columns=columns, sort=sort, descending=rng.random() < 0.6, limit=limit)
