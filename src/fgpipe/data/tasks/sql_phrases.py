"""Conditions on a table's records, and the noun phrases that state them ("pending orders placed in May 2024")."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fgpipe.data.tasks.rows import spoken_list
from fgpipe.data.tasks.sql_query import Condition, Value
from fgpipe.data.tasks.sql_schemas import QUALITIES, Column
from fgpipe.data.tasks.sql_tables import FilledTable

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_MORE = (("over", ">"), ("above", ">"), ("more than", ">"), ("at least", ">="))
_LESS = (("under", "<"), ("below", "<"), ("less than", "<"), ("at most", "<="))
_EQUALS = {"with": "with {p} {v}", "whose": "whose {p} is {v}", "where": "where the {p} is {v}"}
_MEASURES = {"with": "with {a} {p} {m}", "whose": "whose {p} is {m}", "where": "where the {p} is {m}"}
_COUNTED = {"over": "over", "above": "more than", "under": "fewer than", "below": "under", "less than": "fewer than"}


@dataclass(frozen=True)
class Stated:
    """A condition and where its words stand: before the noun, right after it, or further back."""

    condition: Condition
    words: str
    place: int
    """0 before the noun, 1 right after it, 2 after a place, 3 at the end."""


def draw_style(rng: random.Random) -> str:
    """The word that opens the plain conditions of one question, so that two of them read well together."""
    return rng.choice(("with", "whose", "where"))


def state(rng: random.Random, filled: FilledTable, column: Column, *, style: str) -> Stated:
    """A condition on `column` that some of the records meet, in words."""
    values = [record[column.name] for record in filled.records]
    if column.kind == "number":
        return _state_number(rng, column, values, style)
    if column.kind == "date":
        return _state_date(rng, column, [str(value) for value in values])
    value = rng.choice(values)
    condition = Condition(column.name, "=", (value,))
    if column.kind in ("person", "title"):
        return Stated(condition, f"{rng.choice(('named', 'called'))} {value}", 3)
    if column.kind == "place":
        return Stated(condition, f"{rng.choice(('in', 'from'))} {value}", 1)
    if column.adjective and rng.random() < 0.8:
        return Stated(condition, str(value), 0)
    return Stated(condition, _EQUALS[style].format(p=column.phrase, v=value), 3)


def _state_number(rng: random.Random, column: Column, values: list[Value], style: str) -> Stated:
    numbers = sorted(value for value in values if not isinstance(value, str))
    threshold = _round_between(column, numbers, rng.randrange(1, len(numbers)))
    quality = QUALITIES.get(column.name)
    if quality is not None and rng.random() < (1.0 if column.name == "year" else 0.5):
        words, operator = (quality.more, ">") if rng.random() < 0.5 else (quality.less, "<")
        return Stated(Condition(column.name, operator, (threshold,)), words.format(v=threshold), 2)
    if rng.random() < 0.15:
        low, high = _round_between(column, numbers, 1), _round_between(column, numbers, len(numbers) - 1)
        middle = f"between {low} and {high}"
        return Stated(Condition(column.name, "BETWEEN", (low, high)), _measured(column, middle, style), 3)
    compare, operator = rng.choice(_MORE if rng.random() < 0.5 else _LESS)
    if column.counted:
        compare = _COUNTED.get(compare, compare)
    return Stated(Condition(column.name, operator, (threshold,)), _measured(column, f"{compare} {threshold}", style), 3)


def _measured(column: Column, amount: str, style: str) -> str:
    if column.counted:
        return f"with {amount} {column.name.replace('_', ' ')}"
    if style == "with" and amount.split()[0] in ("more", "less", "at", "between"):
        amount = f"of {amount}"
    article = "an" if column.phrase[0] in "aeiou" else "a"
    return _MEASURES[style].format(a=article, p=column.phrase, m=amount)


def _round_between(column: Column, numbers: list[int | float], index: int) -> int | float:
    """The roundest number from `numbers[index - 1]` up to, not reaching, `numbers[index]`."""
    low, high = numbers[index - 1], numbers[index]
    for unit in (100000, 50000, 10000, 5000, 1000, 500, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.1):
        candidate = round((high // unit) * unit if unit >= 1 else round(low + unit, 2), 2)
        candidate = candidate - unit if candidate == high else candidate
        if low < candidate < high:
            whole = column.sql_type == "INTEGER" or candidate == int(candidate)
            return int(candidate) if whole else round(candidate, 2)
    return low


def _state_date(rng: random.Random, column: Column, dates: list[str]) -> Stated:
    chosen = rng.choice(dates)
    year, month = chosen[:4], int(chosen[5:7])
    draw = rng.random()
    if draw < 0.3:
        words, condition = f"in {MONTHS[month - 1]} {year}", Condition(column.name, "LIKE", (f"{chosen[:7]}%",))
    elif draw < 0.45:
        words, condition = f"in {year}", Condition(column.name, "LIKE", (f"{year}%",))
    elif draw < 0.6:
        low, high = sorted(rng.sample(dates, 2))
        words, condition = f"between {low} and {high}", Condition(column.name, "BETWEEN", (low, high))
    else:
        compare, operator = rng.choice((("after", ">"), ("since", ">="), ("before", "<"), ("on", "=")))
        words, condition = f"{compare} {chosen}", Condition(column.name, operator, (chosen,))
    return Stated(condition, f"{column.verb} {words}", 2)


def describe(noun: str, stated: list[Stated]) -> str:
    """The noun with its conditions around it, e.g. `pending orders placed after 2024-03-01`."""
    ordered = sorted(stated, key=lambda part: part.place)
    before = [part.words for part in ordered if part.place == 0]
    after: list[str] = []
    previous = ""
    for part in (part.words for part in ordered if part.place > 0):
        opening = part.split()[0]
        if after and opening == previous:
            part = "and " + (part if opening == "whose" else part.removeprefix(f"{opening} "))
        after.append(part)
        previous = opening
    return " ".join([*before, noun, *after])


def spoken_order(stated: list[Stated]) -> tuple[Condition, ...]:
    """The conditions in the order in which `describe` speaks of them."""
    return tuple(part.condition for part in sorted(stated, key=lambda part: part.place))


def column_list(columns: list[Column], *, plural: bool = False) -> str:
    """`name, city and number of points`, or `names, cities and number of points`."""
    return spoken_list([column.several if plural else column.phrase for column in columns])


def superlative(rng: random.Random, column: Column, *, several: bool) -> tuple[str, str]:
    """How to ask for the extreme by `column` ("highest fee", "most pages"), and the direction that puts it first."""
    if column.kind == "date":
        dates = column.several if several else column.phrase
        return rng.choice(((f"latest {dates}", "DESC"), (f"earliest {dates}", "ASC")))
    if column.counted:
        plain = column.name.replace("_", " ")
        return rng.choice(((f"most {plain}", "DESC"), (f"fewest {plain}", "ASC")))
    return rng.choice(((f"highest {column.phrase}", "DESC"), (f"lowest {column.phrase}", "ASC")))
