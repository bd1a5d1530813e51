"""The many ways in which people ask for what an intent means."""

from __future__ import annotations

import random

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words
from fgpipe.models.tiny.corpus_schemas import Condition, Intent
from fgpipe.models.tiny.words import phrases

# Slots: {v} value, {f} the field's words, {own} the field with its owner, {m} the things, {t} their conditions,
# {g} the grouping as an ending, {s} what is grouped by, {w} the word for an aggregate, {n} a number.
_STATED = {
    "more": phrases(
        "is more than {v}|is above {v}|is greater than {v}|is over {v}|exceeds {v}|is higher than {v}|tops {v}"
        "|goes beyond {v}|is bigger than {v}"
    ),
    "less": phrases(
        "is less than {v}|is below {v}|is under {v}|is smaller than {v}|is lower than {v}|falls short of {v}"
        "|stays below {v}"
    ),
    "least": phrases(
        "is at least {v}|is {v} or more|is no less than {v}|is {v} or higher|reaches {v}|is not below {v}"
        "|is {v} and up|is from {v} up"
    ),
    "most": phrases(
        "is at most {v}|is {v} or less|is no more than {v}|is {v} or lower|is up to {v}|does not exceed {v}"
        "|is not above {v}"
    ),
    "equal": phrases("is {v}|equals {v}|is {v}"),
    "unequal": phrases("is not {v}|is other than {v}"),
    "has": phrases("contains {v}|includes {v}"),
}
_DATED = {
    "more": phrases("{own} is after {v}|{own} is later than {v}|{own} comes after {v}|{own} is past {v}"),
    "less": phrases("{own} is before {v}|{own} is earlier than {v}|{own} comes before {v}"),
    "equal": phrases("{own} is {v}|{own} is on {v}"),
}
_AMOUNTS = {
    "more": "over {v}",
    "less": "under {v}",
    "least": "at least {v}",
    "most": "at most {v}",
    "equal": "{v}",
    "unequal": "other than {v}",
    "has": "like {v}",
}
_COUNTS = {**_AMOUNTS, "more": "more than {v}", "less": "fewer than {v}", "equal": "exactly {v}", "unequal": "not {v}"}
_BELONGING = phrases("belong to the {v} {f}|are {v}|are in {f} {v}|are of {f} {v}|have {v} as their {f}|are {v} by {f}")
_ENOUGH = phrases(
    """which {s} values have more than {n} {m}{t}|list each {s} with over {n} {m}{t}|
    {s} groups of {m}{t} with more than {n} entries|where do we have more than {n} {m}{t} by {s}|
    what {s} values occur on more than {n} {m}{t}|find the {s} values shared by more than {n} {m}{t}"""
)
_PER = ("per", "for each", "by", "in each", "grouped by", "for every")
_PER_AFTER_COMMA = ("one line per", "split by", "broken down by")
_COUNT = phrases(
    """how many {m}{t} are there{g}|how many {m}{g}{t}|count the {m}{t}{g}|number of {m}{t}{g}|
    what is the number of {m}{t}{g}|how many {m}{t} do we have{g}|total count of {m}{t}{g}|I need a count of {m}{g}{t}|
    give me the number of {m}{g}{t}|what's the count of {m}{t}{g}|how large is the number of {m}{t}{g}|
    tell me how many {m}{t} exist{g}|do a head count of {m}{t}{g}|I'd like to know how many {m}{t} there are{g}"""
)
_COUNT_ALL = phrases("{m}{t}: how many|of all {m}, how many are there{t}|is there a figure for how many {m}{t}")
_COUNT_GROUPS = phrases(
    """for each {s}, how many {m}{t} are there|split the {m}{t} by {s} and count them|
    break down the number of {m}{t} by {s}|{s} by {s}, how many {m}{t}|show every {s} with its number of {m}{t}|
    how are the {m}{t} spread over {s}, in numbers"""
)
_AGGREGATE = phrases(
    """what is the {w} {f} of {m}{t}{g}|{w} {f} of all {m}{t}{g}|give me the {w} {f}{g} for {m}{t}|
    the {w} {f} of {m}{g}{t}|how high is the {w} {f} of {m}{t}{g}|I'd like the {w} {f} over {m}{t}{g}|
    across {m}{t}, what is the {w} {f}{g}|work out the {w} {f} of the {m}{t}{g}|find the {w} {f} among {m}{t}{g}|
    {w} {f}, {m}{t}{g}"""
)
_AGGREGATE_GROUPS = phrases(
    """for each {s}, what is the {w} {f} of {m}{t}|break the {w} {f} of {m}{t} down by {s}|
    show every {s} with the {w} {f} of its {m}{t}"""
)
_AGGREGATE_WORDS = {
    "sum": ("total", "sum of", "combined"),
    "average": ("average", "mean"),
    "least": ("lowest", "minimum", "smallest"),
    "most": ("highest", "maximum", "largest"),
}
_OF_ALL = phrases("{x} of {m}|{x} of the {m}|{x} of all {m}|{x} for {m}|{x} for all {m}")
_WHOLE = phrases("{m}|the {m}|all {m}|{m}|all details of {m}|everything about {m}|all fields of the {m}")
_WAYS = {
    ("number", True): phrases(
        """highest first|largest first|descending|from high to low|biggest first|in descending order|top down|
        starting with the highest|starting with the largest"""
    ),
    ("number", False): phrases(
        """lowest first|smallest first|ascending|from low to high|in ascending order|bottom up|
        starting with the lowest|starting with the smallest"""
    ),
    ("date", True): phrases("newest first|latest first|most recent first|starting with the newest|from new to old"),
    ("date", False): phrases("oldest first|earliest first|starting with the oldest|in order of time|from old to new"),
}
_ORDERS = (
    ", {w} by {f}",
    " sorted by {f}, {w}",
    " ordered by {f} {w}",
    ", by {f}, {w}",
    ", arranged by {f}, {w}",
    ", ranked by {f}, {w}",
    " in order of {f}, {w}",
)
_EXTREMES = {
    ("number", True): ("highest", "largest", "greatest", "biggest", "top", "most"),
    ("number", False): ("lowest", "smallest", "least", "fewest"),
    ("date", True): ("latest", "most recent"),
    ("date", False): ("earliest", "oldest"),
}
_ASKING = phrases(
    """list {x}|show {x}|show me {x}|give me {x}|find {x}|which are {x}|what are {x}|get {x}|return {x}|I need {x}|
    please list {x}|can you pull {x}|could you show {x}|tell me {x}|display {x}|what is {x}|see {x}|print {x}|{x}"""
)
_ASKING_OTHERWISE = phrases(
    """which {x} are there|{x}, please|who or what are {x}|I would like to see {x}|what do we know: {x}|pull up {x}|
    let me have {x}|hand me {x}|bring up {x}|I'm after {x}|what about {x}|could I get {x}|look up {x}|name {x}|
    run through {x}|go over {x}"""
)


def _of_subject(rng: random.Random, x: Condition) -> str:
    """A condition on the things asked about, as a clause that starts with a verb or "whose"."""
    f, v, pick = x.field, str(x.value), rng.random
    if f.holds == "flag":
        return f"are {'' if x.value else 'not '}{f.said}"
    if f.holds == "number" and x.operator in ("more", "less") and pick() < 0.65:
        return rng.choice(f.more if x.operator == "more" else f.less).format(v=v)
    if f.holds == "date":
        if x.operator != "equal" and pick() < 0.25:
            return f"have {f.said} {'after' if x.operator == 'more' else 'before'} {v}"
        return rng.choice(_DATED[x.operator]).format(own=f"whose {f.said}", v=v)
    if f.name in ("city", "country", "region") and x.operator == "equal" and pick() < 0.6:
        return f"are {rng.choice(('in', 'from', 'located in'))} {v}"
    if f.name in ("name", "title") and x.operator == "equal" and pick() < 0.6:
        return f"are {rng.choice(('called', 'named'))} {v}"
    if pick() < 0.15:
        return f"have a {f.said} of " + _AMOUNTS[x.operator].format(v=v)
    if f.holds == "number" and f.said.endswith("s") and pick() < 0.5:
        return f"have {_COUNTS[x.operator].format(v=v)} {f.said}"
    if f.holds == "text" and x.operator == "equal" and pick() < 0.3:
        return rng.choice(_BELONGING).format(v=v, f=f.said)
    stated = rng.choice(_STATED[x.operator]).format(v=v)
    return f"have {f.said} {stated.removeprefix('is ')}" if pick() < 0.25 else f"whose {f.said} {stated}"


def _of_parent(rng: random.Random, x: Condition) -> str:
    """A condition on the parent of the things asked about: "whose owner city is Oslo", "with an owner that is ..."."""
    f, v = x.field, str(x.value)
    if rng.random() < 0.5:
        stated = _of_subject(rng, x)
        if stated.startswith("whose "):
            return f"with a {x.of.one} {stated}"
        return f"with a {x.of.one} that " + stated.replace("are ", "is ", 1).replace("have ", "has ", 1)
    own = f"whose {x.of.one}"
    if f.holds == "flag":
        return f"{own} is {'' if x.value else 'not '}{f.said}"
    if f.holds == "date":
        return rng.choice(_DATED[x.operator]).format(own=f"{own} {f.said}", v=v)
    if f.name in ("city", "country", "region") and x.operator == "equal" and rng.random() < 0.6:
        return f"{own} is in {v}"
    if f.name in ("name", "title") and x.operator == "equal" and rng.random() < 0.6:
        return f"{own} is {rng.choice(('called', 'named'))} {v}"
    return f"{own} {f.said} " + rng.choice(_STATED[x.operator]).format(v=v)


def _shortened(rng: random.Random, clause: str) -> str:
    """`are from Oslo` may follow the noun at once; other clauses need a "that"."""
    for head, short in (("are ", ""), ("have ", "with ")):
        if clause.startswith(head) and rng.random() < 0.7:
            return short + clause.removeprefix(head)
    if clause.startswith(("whose ", "with ")):
        return clause
    return rng.choice(("that ", "which ")) + clause


def question(rng: random.Random, intent: Intent) -> str:
    """The intent as a user asks for it, without opening words or the final mark."""
    joint = " or " if intent.either else rng.choice((" and ", " and ", ", "))
    clauses = [_of_subject(rng, x) if x.of is intent.of else _of_parent(rng, x) for x in intent.conditions]
    tail = joint.join(_shortened(rng, clause) for clause in clauses)
    tail = f" {tail}" if tail else ""
    return _number_asked(rng, intent, tail) if intent.aggregate else _records_asked(rng, intent, tail)


def _number_asked(rng: random.Random, i: Intent, tail: str) -> str:
    slots: dict[str, object] = {"m": i.of.many, "t": tail, "g": "", "s": "", "n": i.group_minimum}
    if i.grouped is not None:
        of, by = i.grouped
        slots["s"] = said = by.said if of is i.of else f"{of.one} {by.said}"
        ways = [f" {word} {said}" for word in _PER] + [f", {word} {said}" for word in _PER_AFTER_COMMA]
        slots["g"] = rng.choice(ways)
    if i.group_minimum is not None:
        return rng.choice(_ENOUGH).format(**slots)
    if i.aggregated is None:
        return rng.choice(_COUNT + (_COUNT_GROUPS if i.grouped else _COUNT_ALL)).format(**slots)
    slots |= {"w": rng.choice(_AGGREGATE_WORDS[i.aggregate]), "f": i.aggregated.said}
    return rng.choice(_AGGREGATE + (_AGGREGATE_GROUPS if i.grouped else ())).format(**slots)


def _ranked(rng: random.Random, i: Intent) -> str:
    """`the three cheapest boats`, or `the top three boats with the highest price`."""
    assert i.sort is not None
    assert i.limit is not None
    adjectives = i.sort.largest if i.descending else i.sort.smallest
    number = "" if i.limit == 1 else f"{i.limit} "
    if i.limit > 1 and rng.random() < 0.3:
        number = f"{words.spelled(rng, i.limit)} "
    thing = i.of.one if i.limit == 1 else i.of.many
    if adjectives and rng.random() < 0.6:
        return f"the {number}{rng.choice(adjectives)} {thing}"
    top = rng.choice(("", "top ")) if i.limit > 1 and i.descending else ""
    return f"the {top}{number}{thing} with the {rng.choice(_EXTREMES[i.sort.holds, i.descending])} {i.sort.said}"


def _records_asked(rng: random.Random, i: Intent, tail: str) -> str:
    shown, order = values.listed(rng, [f.said for f in i.columns]), ""
    if shown and rng.random() < 0.6:
        shown = f"the {shown}"
    if i.sort is not None and i.limit is not None:
        rank = _ranked(rng, i)
        noun = f"{shown} of {rank}" if shown else rank
    else:
        noun = rng.choice(_OF_ALL if shown else _WHOLE).format(x=shown, m=i.of.many)
    if i.sort is not None and i.limit is None:
        adjectives = i.sort.largest if i.descending else i.sort.smallest
        order = rng.choice(_ORDERS).format(w=rng.choice(_WAYS[i.sort.holds, i.descending]), f=i.sort.said)
        if adjectives and rng.random() < 0.4:
            order = f", {rng.choice(adjectives)} first"
    return rng.choice(_ASKING_OTHERWISE if rng.random() < 0.2 else _ASKING).format(x=noun + tail) + order
