"""Invented collections with fields, and questions about them: what the query languages of the corpus express."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words

# field name, words for it, phrases for: more than, less than, largest first, smallest first
_NUMBERS = (
    ("price", "price", "cost more than {v}|are priced above {v}|cost over {v}", "cost less than {v}|are cheaper than {v}|cost under {v}", "most expensive", "cheapest"),
    ("salary", "salary", "earn more than {v}|make over {v}", "earn less than {v}|make under {v}", "best paid", "worst paid"),
    ("age", "age", "are older than {v}|are over {v}", "are younger than {v}|are under {v}", "oldest", "youngest"),
    ("weight", "weight", "weigh more than {v}|are heavier than {v}", "weigh less than {v}|are lighter than {v}", "heaviest", "lightest"),
    ("size", "size", "are larger than {v}|are bigger than {v}", "are smaller than {v}", "largest|biggest", "smallest"),
    ("rating", "rating", "are rated above {v}|are rated higher than {v}", "are rated below {v}|are rated lower than {v}", "best rated|top rated", "worst rated|lowest rated"),
    ("stock", "stock", "have more than {v} in stock", "have less than {v} in stock|have fewer than {v} in stock", "best stocked", "least stocked"),
    ("duration", "duration", "last more than {v}|are longer than {v}", "last less than {v}|are shorter than {v}", "longest", "shortest"),
    ("distance", "distance", "are farther than {v}|are more than {v} away", "are nearer than {v}|are less than {v} away", "farthest", "nearest"),
    ("amount", "amount", "are above {v}|exceed {v}", "are below {v}|are under {v}", "largest|biggest", "smallest"),
    ("score", "score", "scored more than {v}|scored above {v}", "scored less than {v}|scored below {v}", "best|highest scoring", "worst|lowest scoring"),
    ("height", "height", "are taller than {v}|are higher than {v}", "are lower than {v}|are shorter than {v}", "tallest|highest", "lowest"),
    ("speed", "speed", "are faster than {v}", "are slower than {v}", "fastest", "slowest"),
)  # fmt: skip
_PLAIN_NUMBERS = "quantity seats capacity floor pages budget total points level visits views votes copies balance hours credits depth width length year goals population revenue fee cost".split()
_DATES = "date created created_at updated_at due_date started opened_on joined joined_on last_seen release_date shipped_on hired_on start_date published".split()
_TEXTS = ("city", "country", "status", "category", "kind", "colour", "team", "department", "brand", "region", "genre", "language", "group", "branch", "role", "title", "name", "owner", "level_name", "state")
_FLAGS = "active archived paid open public urgent verified broken free shared premium closed delivered returned signed enabled".split()
_STATUS = "open closed pending paid late new done shipped cancelled approved draft ready lost".split()


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
    """What a question asks for, free of any query language."""

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
    linked: bool = field(default=False)


def _number_field(rng: random.Random) -> Field:
    if rng.random() < 0.55:
        name, said, *phrases = rng.choice(_NUMBERS)
        more, less, largest, smallest = (tuple(p.split("|")) for p in phrases)
        return Field(name, said, "number", more, less, largest, smallest)
    name = rng.choice(_PLAIN_NUMBERS) if rng.random() < 0.7 else f"{rng.choice(words.SINGULAR)}_{rng.choice(_PLAIN_NUMBERS)}"
    said = name.replace("_", " ")
    return Field(name, said, "number", (f"have more than {{v}} {said}",), (f"have fewer than {{v}} {said}", f"have less than {{v}} {said}"))


def _field(rng: random.Random) -> Field:
    pick = rng.random()
    if pick < 0.4:
        return _number_field(rng)
    if pick < 0.55:
        name = rng.choice(_DATES)
        stem = name.replace("_", " ")
        return Field(name, stem, "date", (), (), ("newest", "latest", "most recent"), ("oldest", "earliest"))
    if pick < 0.9:
        name = rng.choice(_TEXTS) if rng.random() < 0.75 else rng.choice(words.SINGULAR)
        return Field(name, name.replace("_", " "), "text")
    flag = rng.choice(_FLAGS)
    return Field(rng.choice(("", "is_")) + flag, flag, "flag")


def collection(rng: random.Random, *, parent: Collection | None = None, taken: frozenset[str] = frozenset()) -> Collection:
    """A collection of two to six fields besides its id and its pointer to `parent`."""
    while True:
        one = rng.choice(words.SINGULAR)
        many = words.PLURAL[one]
        if many not in taken and one not in taken:
            break
    fields: dict[str, Field] = {"name": Field("name", "name", "text")} if rng.random() < 0.6 else {}
    size = rng.randint(2, 5)
    while len(fields) < size or not any(f.holds == "number" for f in fields.values()):
        new = _field(rng)
        if new.name != one:
            fields.setdefault(new.name, new)
    listed = list(fields.values())
    key = ""
    if parent:
        key = rng.choice((f"{parent.one}_id", f"{parent.one}_id", parent.one, f"{parent.one}_key", f"{parent.one}Id"))
        listed.insert(rng.randint(0, len(listed)), Field(key, f"{parent.one}", "key"))
    if parent is not None or rng.random() < 0.7:
        listed.insert(0, Field("id", "id", "key"))
    name = many if rng.random() < 0.85 else one
    return Collection(name, one, many, tuple(listed), parent, key)


def schema_text(rng: random.Random, collections: list[Collection]) -> str:
    """The collections as a developer message lists them, in one of many layouts."""
    typed = rng.random() < 0.3
    kinds = rng.choice(({"number": "number", "date": "date", "text": "text", "flag": "bool", "key": "id"}, {"number": "NUM", "date": "DAY", "text": "STR", "flag": "FLAG", "key": "KEY"},
                        {"number": "REAL", "date": "DATE", "text": "TEXT", "flag": "BOOLEAN", "key": "INTEGER"}))  # fmt: skip
    mark = rng.choice((": ", " ", ":"))
    layout = rng.choice(("{n}({f})", "{n}: {f}", "- {n} ({f})", "{n} [{f}]", "{n} {{{f}}}", "collection {n}({f})", "* {n} has {f}", "{n} = {f}", "{n}({f})", "{N}: {f}"))
    comma = rng.choice((", ", ", ", ",", " | ", "; "))
    lines = []
    for c in collections:
        shown = [f.name + (f"{mark}{kinds[f.holds]}" if typed else "") for f in c.fields]
        lines.append(layout.format(n=c.name, N=c.name.capitalize(), f=comma.join(shown)))
        if c.parent is not None and rng.random() < 0.4:
            lines[-1] += rng.choice((" {k} points to {p}", " ({k} -> {p})", " with {k} = {p}.id")).format(k=c.key, p=c.parent.name)
    heading = rng.choice(("Collections:", "Known records:", "Schema:", "You can look into:", "Data:", "Fields:", "Sources", "The tables are:", ""))
    joint = rng.choice(("\n", "\n", "; ", "\n", " "))
    return heading + (rng.choice(("\n", " ")) if heading else "") + joint.join(lines)


def _condition(rng: random.Random, c: Collection) -> Condition:
    f = rng.choice(c.holding("number", "date", "text", "flag"))
    if f.holds == "number":
        value = rng.choice((rng.randint(1, 20), rng.randint(1, 100), rng.randint(10, 5000), round(rng.uniform(1, 90), 1)))
        return Condition(c, f, rng.choices(("more", "less", "least", "most", "equal", "unequal"), (8, 8, 3, 3, 2, 1))[0], value)
    if f.holds == "date":
        return Condition(c, f, rng.choice(("more", "less", "more", "less", "equal")), values.iso_date(rng))
    if f.holds == "flag":
        return Condition(c, f, "equal", rng.random() < 0.6)
    if f.name == "status":
        text = rng.choice(_STATUS)
    elif f.name in ("city", "country", "region", "branch"):
        text = rng.choice(words.CITIES)
    elif f.name == "colour":
        text = rng.choice(words.COLOURS)
    elif f.name in ("name", "owner"):
        text = words.person(rng)
    else:
        text = rng.choice((words.any_word(rng), words.any_word(rng).capitalize(), values.title(rng)))
    return Condition(c, f, rng.choices(("equal", "unequal", "has"), (10, 1, 1))[0], text)


def intent(rng: random.Random, c: Collection) -> Intent:
    """A question's meaning about `c`, which may reach into its parent."""
    parent = c.parent if c.parent is not None and rng.random() < 0.75 else None
    conditions: list[Condition] = []
    for _ in range(rng.choices((0, 1, 2, 3), (3, 9, 5, 1))[0]):
        new = _condition(rng, parent if parent is not None and rng.random() < 0.6 else c)
        if all(new.field.name != old.field.name for old in conditions):
            conditions.append(new)
    either = len(conditions) == 2 and rng.random() < 0.2
    common = {"of": c, "conditions": tuple(conditions), "either": either}
    numbers, pick = c.holding("number"), rng.random()
    if pick < 0.2:
        made = Intent(aggregate="count", **common)  # type: ignore[arg-type]
    elif pick < 0.35:
        made = Intent(aggregate=rng.choice(("sum", "average", "least", "most")), aggregated=rng.choice(numbers), **common)  # type: ignore[arg-type]
    elif pick < 0.58:
        of = parent if parent is not None and rng.random() < 0.7 and parent.holding("text") else c
        if by := of.holding("text"):
            how = rng.choice(("count", "count", "sum", "average", "most"))
            minimum = rng.randint(2, 20) if how == "count" and rng.random() < 0.2 else None
            made = Intent(aggregate=how, aggregated=None if how == "count" else rng.choice(numbers), grouped=(of, rng.choice(by)), group_minimum=minimum, **common)  # type: ignore[arg-type]
        else:
            made = Intent(aggregate="count", **common)  # type: ignore[arg-type]
    else:
        shown = [f for f in c.fields if f.holds != "key"]
        columns = tuple(rng.sample(shown, rng.randint(1, min(3, len(shown))))) if rng.random() < 0.5 else ()
        sort = rng.choice(c.holding("number", "date")) if rng.random() < 0.55 else None
        limit = rng.choice((1, 1, 2, 3, 3, 5, 10, 20, rng.randint(4, 50))) if sort is not None and rng.random() < 0.6 else None
        made = Intent(columns=columns, sort=sort, descending=rng.random() < 0.6, limit=limit, **common)  # type: ignore[arg-type]
    reached = made.grouped is not None and made.grouped[0] is not c or any(x.of is not c for x in conditions)
    return Intent(**{**made.__dict__, "linked": reached})


def _state(rng: random.Random, x: Condition, *, subject: Collection) -> str:
    """The condition as an English clause that follows "that" or "which"."""
    f, v = x.field, str(x.value)
    of = "" if x.of is subject else f"{rng.choice(('whose ' + x.of.one + ' ', 'with a ' + x.of.one + ' that '))}"
    if of.startswith("with"):
        stated = _state(rng, Condition(subject, f, x.operator, x.value), subject=subject)
        if stated.startswith("whose "):
            return of.removesuffix("that ") + stated
        return of + stated.replace("are ", "is ", 1).replace("have ", "has ", 1)
    own = f"{of}{f.said}" if of else f"whose {f.said}"
    if f.holds == "flag":
        return f"{of}{'is' if of else 'are'} {'' if x.value else 'not '}{f.said}"
    if f.holds == "number" and not of and x.operator in ("more", "less") and rng.random() < 0.65:
        phrases = f.more if x.operator == "more" else f.less
        return rng.choice(phrases).format(v=v)
    if f.holds == "date":
        return rng.choice({"more": (f"{own} is after {v}", f"have {f.said} after {v}" if not of else f"{own} is later than {v}", f"{own} comes after {v}", f"{own} is past {v}"), "less": (f"{own} is before {v}", f"{own} is earlier than {v}", f"{own} comes before {v}", f"have {f.said} before {v}" if not of else f"{own} is before {v}"), "equal": (f"{own} is {v}", f"{own} is on {v}")}[x.operator])
    stated = {
        "more": ("is more than {v}", "is above {v}", "is greater than {v}", "is over {v}", "exceeds {v}", "is higher than {v}", "tops {v}", "goes beyond {v}", "is bigger than {v}"), "less": ("is less than {v}", "is below {v}", "is under {v}", "is smaller than {v}", "is lower than {v}", "falls short of {v}", "stays below {v}"),
        "least": ("is at least {v}", "is {v} or more", "is no less than {v}", "is {v} or higher", "reaches {v}", "is not below {v}", "is {v} and up", "is from {v} up"), "most": ("is at most {v}", "is {v} or less", "is no more than {v}", "is {v} or lower", "is up to {v}", "does not exceed {v}", "is not above {v}"),
        "equal": ("is {v}", "equals {v}", "is exactly {v}" if f.holds == "number" else "is {v}"), "unequal": ("is not {v}", "is other than {v}"), "has": ("contains {v}", "includes {v}"),
    }  # fmt: skip
    if f.name in ("city", "country", "region") and x.operator == "equal" and rng.random() < 0.6:
        return f"{of}is in {v}" if of else rng.choice((f"are in {v}", f"are from {v}", f"are located in {v}"))
    if f.name in ("name", "title") and x.operator == "equal" and rng.random() < 0.6:
        return f"{of}is {rng.choice(('called', 'named'))} {v}" if of else rng.choice((f"are called {v}", f"are named {v}"))
    if not of and rng.random() < 0.15:
        amounts = {"more": "over {v}", "less": "under {v}", "least": "at least {v}", "most": "at most {v}", "equal": "{v}", "unequal": "other than {v}", "has": "like {v}"}
        return f"have a {f.said} of " + amounts[x.operator].format(v=v)
    if not of and f.holds == "number" and f.said.endswith("s") and rng.random() < 0.5:
        amounts = {"more": "more than {v}", "less": "fewer than {v}", "least": "at least {v}", "most": "at most {v}", "equal": "exactly {v}", "unequal": "not {v}", "has": "{v}"}
        return "have " + amounts[x.operator].format(v=v) + f" {f.said}"
    if not of and f.holds == "text" and x.operator == "equal" and rng.random() < 0.3:
        return rng.choice((f"belong to the {v} {f.said}", f"are {v}", f"are in {f.said} {v}", f"are of {f.said} {v}", f"have {v} as their {f.said}", f"are {v} by {f.said}"))
    if not of and rng.random() < 0.25:
        return f"have {f.said} " + rng.choice(stated[x.operator]).removeprefix("is ").format(v=v)
    return f"{own} " + rng.choice(stated[x.operator]).format(v=v)


def _shortened(rng: random.Random, clause: str) -> str:
    """`are from Oslo` may follow the noun at once; other clauses need a "that"."""
    for head, short in (("are ", ""), ("have ", "with ")):
        if clause.startswith(head) and rng.random() < 0.7:
            return short + clause.removeprefix(head)
    if clause.startswith(("whose ", "with ")):
        return clause
    return rng.choice(("that ", "which ")) + clause


def question(rng: random.Random, i: Intent) -> str:
    """The intent as a user asks for it, without opening words or the final mark."""
    c, choice = i.of, rng.choice
    joint = " or " if i.either else choice((" and ", " and ", ", "))
    clauses = [_state(rng, x, subject=c) for x in i.conditions]
    tail = "" if not clauses else " " + joint.join(_shortened(rng, clause) for clause in clauses)
    if i.aggregate:
        grouped, said = "", ""
        if i.grouped is not None:
            of, by = i.grouped
            said = by.said if of is c else f"{of.one} {by.said}"
            if i.group_minimum is not None:
                return choice((f"which {said} values have more than {i.group_minimum} {c.many}{tail}", f"list each {said} with over {i.group_minimum} {c.many}{tail}", f"{said} groups of {c.many}{tail} with more than {i.group_minimum} entries", f"where do we have more than {i.group_minimum} {c.many}{tail} by {said}", f"what {said} values occur on more than {i.group_minimum} {c.many}{tail}", f"find the {said} values shared by more than {i.group_minimum} {c.many}{tail}"))
            grouped = choice((f" per {said}", f" for each {said}", f" by {said}", f" in each {said}", f" grouped by {said}", f" for every {said}", f", one line per {said}", f", split by {said}", f", broken down by {said}"))
        if i.aggregate == "count":
            return choice((f"how many {c.many}{tail} are there{grouped}", f"how many {c.many}{grouped}{tail}", f"count the {c.many}{tail}{grouped}", f"number of {c.many}{tail}{grouped}", f"what is the number of {c.many}{tail}{grouped}", f"how many {c.many}{tail} do we have{grouped}", f"total count of {c.many}{tail}{grouped}", f"I need a count of {c.many}{grouped}{tail}", f"give me the number of {c.many}{grouped}{tail}", f"what's the count of {c.many}{tail}{grouped}", f"how large is the number of {c.many}{tail}{grouped}", f"tell me how many {c.many}{tail} exist{grouped}", f"do a head count of {c.many}{tail}{grouped}", f"I'd like to know how many {c.many}{tail} there are{grouped}", *((f"for each {said}, how many {c.many}{tail} are there", f"split the {c.many}{tail} by {said} and count them", f"break down the number of {c.many}{tail} by {said}", f"{said} by {said}, how many {c.many}{tail}", f"show every {said} with its number of {c.many}{tail}", f"how are the {c.many}{tail} spread over {said}, in numbers") if grouped else (f"{c.many}{tail}: how many", f"of all {c.many}, how many are there{tail}", f"is there a figure for how many {c.many}{tail}"))))
        assert i.aggregated is not None
        word = choice({"sum": ("total", "sum of", "combined"), "average": ("average", "mean"), "least": ("lowest", "minimum", "smallest"), "most": ("highest", "maximum", "largest")}[i.aggregate])
        return choice((f"what is the {word} {i.aggregated.said} of {c.many}{tail}{grouped}", f"{word} {i.aggregated.said} of all {c.many}{tail}{grouped}", f"give me the {word} {i.aggregated.said}{grouped} for {c.many}{tail}", f"the {word} {i.aggregated.said} of {c.many}{grouped}{tail}", f"how high is the {word} {i.aggregated.said} of {c.many}{tail}{grouped}", f"I'd like the {word} {i.aggregated.said} over {c.many}{tail}{grouped}", f"across {c.many}{tail}, what is the {word} {i.aggregated.said}{grouped}", f"work out the {word} {i.aggregated.said} of the {c.many}{tail}{grouped}", f"find the {word} {i.aggregated.said} among {c.many}{tail}{grouped}", f"{word} {i.aggregated.said}, {c.many}{tail}{grouped}", *((f"for each {said}, what is the {word} {i.aggregated.said} of {c.many}{tail}", f"break the {word} {i.aggregated.said} of {c.many}{tail} down by {said}", f"show every {said} with the {word} {i.aggregated.said} of its {c.many}{tail}") if grouped else ())))
    shown = values.listed(rng, [f.said for f in i.columns])
    noun = choice((f"the {shown} of {c.many}", f"the {shown} of the {c.many}", f"the {shown} of all {c.many}", f"{shown} for {c.many}", f"{shown} of every {c.one}" if not tail else f"{shown} for all {c.many}")) if shown else choice((f"{c.many}", f"the {c.many}", f"all {c.many}", f"every {c.one}" if not tail else c.many, f"all details of {c.many}", f"everything about {c.many}", f"all fields of the {c.many}"))
    order = ""
    if i.sort is not None:
        adjectives = i.sort.largest if i.descending else i.sort.smallest
        if i.limit is not None:
            with_word = f"with the {choice(('highest', 'largest', 'greatest', 'biggest', 'top', 'most') if i.descending else ('lowest', 'smallest', 'least', 'fewest'))} {i.sort.said}" if i.sort.holds == "number" else f"with the {choice(('latest', 'most recent') if i.descending else ('earliest', 'oldest'))} {i.sort.said}"
            number = "" if i.limit == 1 else f"{i.limit} "
            thing = c.one if i.limit == 1 else c.many
            number = words.spelled(rng, i.limit) + " " if i.limit > 1 and rng.random() < 0.3 else number
            first = f"{choice(('', 'top '))}{number}" if i.limit > 1 and i.descending else number
            rank = f"the {number}{choice(adjectives)} {thing}" if adjectives and rng.random() < 0.6 else f"the {first}{thing} {with_word}"
            noun = f"the {shown} of {rank}" if shown else rank
        else:
            ways = ("highest first", "largest first", "descending", "from high to low", "biggest first", "in descending order", "top down", "starting with the highest", "starting with the largest") if i.descending else ("lowest first", "smallest first", "ascending", "from low to high", "in ascending order", "bottom up", "starting with the lowest", "starting with the smallest")
            if i.sort.holds == "date":
                ways = ("newest first", "latest first", "most recent first", "starting with the newest", "from new to old") if i.descending else ("oldest first", "earliest first", "starting with the oldest", "in order of time", "from old to new")
            order = choice((f", {choice(ways)} by {i.sort.said}", f" sorted by {i.sort.said}, {choice(ways)}", f" ordered by {i.sort.said} {choice(ways)}", f", by {i.sort.said}, {choice(ways)}", f", arranged by {i.sort.said}, {choice(ways)}", f", ranked by {i.sort.said}, {choice(ways)}", f" in order of {i.sort.said}, {choice(ways)}"))
            if adjectives and rng.random() < 0.4:
                order = f", {choice(adjectives)} first"
    if rng.random() < 0.2:
        ask = choice(("which {x} are there", "{x}, please", "who or what are {x}", "I would like to see {x}", "what do we know: {x}", "pull up {x}", "let me have {x}", "hand me {x}", "bring up {x}", "I'm after {x}", "what about {x}", "could I get {x}", "look up {x}", "name {x}", "run through {x}", "go over {x}"))
        return ask.format(x=noun + tail) + order
    return choice(("list ", "show ", "show me ", "give me ", "find ", "which are ", "what are ", "get ", "return ", "I need ", "please list ", "can you pull ", "could you show ", "tell me ", "display ", "what is ", "see ", "print ", "")) + noun + tail + order
