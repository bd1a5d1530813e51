"""Query languages invented anew for every row: how each writes an intent, and how its rules are explained."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fgpipe.models.tiny import words
from fgpipe.models.tiny.corpus_schemas import Collection, Field, Intent
from fgpipe.models.tiny.words import phrases

_ROLES = ("show", "of", "where", "group", "having", "sort", "limit", "link")
_TYPICAL = {
    "show": "show pick fetch give yield read columns fields out select project",
    "of": "of in from on over within source at base",
    "where": "where when keep if filter such only matching",
    "group": "per group by each split fold bucket",
    "having": "having least min where if keep",
    "sort": "sort order rank by arrange line",
    "limit": "limit top first max cap take",
    "link": "link join via with merge attach through",
}
MEANINGS = {
    "more": "more than",
    "less": "less than",
    "least": "at least",
    "most": "at most",
    "equal": "equal to",
    "unequal": "not equal to",
    "has": "contains",
}
_OPERATORS = tuple(
    dict(zip(MEANINGS, line.split(), strict=True))
    for line in (
        "> < >= <= = != ~",
        "> < >= <= = <> like",
        "> < >= <= == != in",
        "gt lt gte lte eq ne has",
        "above below min max is not contains",
        "over under since upto equals isnt includes",
    )
)
_AGGREGATE_MEANINGS = {
    "count": "how many",
    "sum": "total",
    "average": "average",
    "least": "lowest",
    "most": "highest",
}
_AGGREGATES = tuple(
    dict(zip(_AGGREGATE_MEANINGS, line.split(), strict=True))
    for line in (
        "count sum avg min max",
        "number total mean lowest highest",
        "n add average least most",
        "tally sum mid low top",
    )
)
# What a clause does, in the words of a rule.
_CLAUSE_MEANINGS = {
    "show": ("what to return", "the fields wanted", "output"),
    "of": ("the collection", "where to look", "the source"),
    "where": ("conditions", "restrict the records", "keep only some"),
    "group": ("one row per value", "put together by a field", "group"),
    "having": ("restrict the groups", "condition on groups"),
    "sort": ("sort", "order of the results"),
    "limit": ("at most that many", "how many to keep"),
    "link": ("another collection and the field that points to it", "reach into a parent through its key"),
}
# How a clause with keyword {k} and content {x} is written, and what stands between clauses.
_CLAUSES = (
    *(("{k} {x}", joint) for joint in (" ", " ", " ", "; ", " | ", "\n")),
    ("{k}({x})", "."),
    ("{k}({x})", " "),
    ("{k}={x}", "&"),
    ("{k}: {x}", "; "),
    ("{k}: {x}", ", "),
    ("({k} {x})", " "),
    ("@{k} {x}", " "),
    ("{k}:{x}", " "),
    ("[{k} {x}]", ""),
    (".{k} {x}", " "),
)
_DIRECTIONS = tuple(
    (up, down)
    for up, down in zip(
        phrases("{} asc|{} ASC|{}|{}|+{}|{} up|{}|{} rising|{}:1|asc({})|{}"),
        phrases("{} desc|{} DESC|{} desc|-{}|-{}|{} down|{} DESC|{} falling|{}:-1|desc({})|{} reverse"),
        strict=True,
    )
)
_CONJUNCTIONS = tuple(
    pair.split() for pair in ("and or", "and or", "AND OR", "&& ||", "& |", "plus either", ", /", "also else")
)
_ORDERS = (
    ("show", "of", "link", "where", "group", "having", "sort", "limit"),
    ("of", "link", "where", "group", "having", "show", "sort", "limit"),
    ("of", "show", "link", "where", "group", "having", "sort", "limit"),
)


@dataclass(frozen=True)
class Language:
    """The choices that make one query language; the texts with braces are filled by `str.format`."""

    keywords: dict[str, str]
    clause: str
    joint: str
    condition: str
    operators: dict[str, str]
    aggregates: dict[str, str]
    aggregate: str
    conjunction: str
    disjunction: str
    quote: str
    truth: tuple[str, str]
    direction: tuple[str, str]
    comma: str
    dot: str
    everything: str
    order: tuple[str, ...]

    def _field(self, intent: Intent, of: Collection, f: Field) -> str:
        return f"{of.name}{self.dot}{f.name}" if intent.linked else f.name

    def _literal(self, value: str | int | float | bool) -> str:
        if isinstance(value, bool):
            return self.truth[0] if value else self.truth[1]
        return self.quote.format(value) if isinstance(value, str) else str(value)

    def _number_of_records(self) -> str:
        star = "*" if self.everything == "*" else ""
        return f"{self.aggregates['count']}({star})" if "(" in self.aggregate else self.aggregates["count"]

    def _aggregate(self, intent: Intent) -> str:
        if intent.aggregated is None:
            return self._number_of_records()
        field = self._field(intent, intent.of, intent.aggregated)
        return self.aggregate.format(a=self.aggregates[intent.aggregate], f=field)

    def conditions(self, intent: Intent) -> str:
        """The conditions alone, as a filter argument holds them."""
        parts = [
            self.condition.format(
                f=self._field(intent, x.of, x.field), o=self.operators[x.operator], v=self._literal(x.value)
            )
            for x in intent.conditions
        ]
        return (self.disjunction if intent.either else self.conjunction).join(parts)

    def _shown(self, intent: Intent) -> str:
        if not intent.aggregate:
            columns = (self._field(intent, intent.of, f) for f in intent.columns)
            return self.comma.join(columns) or self.everything
        if intent.grouped is None:
            return self._aggregate(intent)
        group = self._field(intent, *intent.grouped)
        return group if intent.group_minimum is not None else f"{group}{self.comma}{self._aggregate(intent)}"

    def parts(self, intent: Intent) -> dict[str, str]:
        """What stands in each clause the intent needs, by role."""
        found = {"of": intent.of.name, "show": self._shown(intent), "where": self.conditions(intent)}
        if intent.grouped is not None:
            found["group"] = self._field(intent, *intent.grouped)
        if intent.group_minimum is not None:
            found["having"] = self.condition.format(
                f=self._number_of_records(), o=self.operators["more"], v=intent.group_minimum
            )
        if intent.linked and intent.of.parent is not None:
            found["link"] = f"{intent.of.parent.name}{self.comma}{intent.of.name}{self.dot}{intent.of.key}"
        if intent.sort is not None:
            found["sort"] = self.direction[intent.descending].format(self._field(intent, intent.of, intent.sort))
        if intent.limit is not None:
            found["limit"] = str(intent.limit)
        return {role: text for role, text in found.items() if text}

    def write(self, intent: Intent) -> str:
        """The whole query."""
        found = self.parts(intent)
        clauses = (self.clause.format(k=self.keywords[role], x=found[role]) for role in self.order if role in found)
        return self.joint.join(clauses)

    def _clause_rules(self, rng: random.Random, used: set[str]) -> str:
        shapes = {
            "show": f"a{self.comma}b",
            "of": "NAME",
            "where": self.condition.format(f="field", o="OP", v="value"),
            "group": "field",
            "having": "condition",
            "sort": " or ".join(way.format("field") for way in self.direction)
            + rng.choice((" (largest first)", " for descending", " (down)")),
            "limit": "N",
            "link": f"PARENT{self.comma}CHILD{self.dot}KEY",
        }
        lines = []
        for role in self.order:
            if role in used or rng.random() < 0.25:
                clause = self.clause.format(k=self.keywords[role], x=shapes[role])
                layout = rng.choice(("{c} - {m}", "{c}: {m}", "`{c}` {m}", "{m} = {c}"))
                lines.append(layout.format(c=clause, m=rng.choice(_CLAUSE_MEANINGS[role])))
        opening = rng.choice(("Write: ", "Syntax: ", "Query language: ", "Clauses in this order: ", ""))
        return opening + rng.choice(("; ", ", ", "\n")).join(lines)

    def _notes(self, rng: random.Random, used: set[str]) -> str:
        text = ""
        if self.joint == "\n":
            text += ". One clause a line"
        elif self.joint.strip():
            text += f". Clauses are separated by `{self.joint}`"
        if "show" in used and self.everything:
            text += f". All fields: {self.everything}"
        if "link" in used:
            text += f". With two collections write NAME{self.dot}field"
        return text

    def rules(self, rng: random.Random, intent: Intent) -> str:
        """The language explained: every rule that `intent` needs, and some that it does not."""
        used = set(self.parts(intent))
        text = self._clause_rules(rng, used)
        needed = {x.operator for x in intent.conditions} | ({"more"} if intent.group_minimum else set())
        if shown := [o for o in self.operators if o in needed or rng.random() < 0.3]:
            rng.shuffle(shown)
            told = ", ".join(
                rng.choice(("{o} ({m})", "{o} {m}")).format(o=self.operators[o], m=MEANINGS[o]) for o in shown
            )
            text += rng.choice((". Operators: ", "\nOP is ", "; ops ")) + told
        if intent.aggregate == "count":
            text += f". Numbers: how many {self.aggregates['count']}"
        elif intent.aggregate:
            written = self.aggregate.format(a=self.aggregates[intent.aggregate], f="field")
            text += rng.choice((". Numbers: ", "\nTotals: ", "; "))
            text += f"{_AGGREGATE_MEANINGS[intent.aggregate]} {written}"
        text += self._notes(rng, used)
        text += rng.choice((". Join conditions with ", "; both:", ". And is ")) + f"`{self.conjunction}`"
        if intent.either or rng.random() < 0.3:
            text += f", or is `{self.disjunction}`"
        return text + rng.choice((". Text as ", "; text ")) + self.quote.format("text") + "."


def _keywords(rng: random.Random) -> dict[str, str]:
    """A word for each clause; never `select` and `from` together, which would make the language a known one."""
    while True:
        plain = rng.random() < 0.75
        chosen = {
            role: rng.choice(_TYPICAL[role].split() if plain and rng.random() < 0.85 else words.KEYWORDS)
            for role in _ROLES
        }
        if rng.random() < 0.2:
            for role in ("group", "sort"):
                chosen[role] += " by" if chosen[role] != "by" else ""
        if len(set(chosen.values())) == len(_ROLES) and not {"select", "from"} <= set(chosen.values()):
            case: Callable[[str], str] = rng.choice((str.lower, str.lower, str.upper, str.upper, str.capitalize))
            return {role: case(word) for role, word in chosen.items()}


def _condition(rng: random.Random, operators: dict[str, str]) -> str:
    symbolic = not operators["more"].isalpha()
    forms: Sequence[str] = (
        "{f} {o} {v}",
        "{f} {o} {v}",
        "{f} {o} {v}",
        "{f}{o}{v}" if symbolic else "{f}:{o}:{v}",
        "({o} {f} {v})",
        "{o}({f}, {v})",
        "[{f} {o} {v}]",
        "{f}.{o}={v}",
        "{f}:{o}{v}" if symbolic else "{f}__{o}={v}",
    )
    return rng.choice(forms)


def _mixed(rng: random.Random, order: Iterable[str]) -> tuple[str, ...]:
    roles = list(order)
    if rng.random() < 0.2:
        rng.shuffle(roles)
    return tuple(roles)


def language(rng: random.Random) -> Language:
    """A query language nobody has seen before."""
    clause, joint = rng.choice(_CLAUSES)
    operators = rng.choice(_OPERATORS)
    if rng.random() < 0.12:
        operators = dict(zip(operators, rng.sample(words.OTHER_WORDS, len(operators)), strict=True))
    both, one = rng.choice(_CONJUNCTIONS)
    space = " " if both.isalpha() or rng.random() < 0.5 else ""
    return Language(
        keywords=_keywords(rng),
        clause=clause,
        joint=joint,
        condition=_condition(rng, operators),
        operators=operators,
        aggregates=rng.choice(_AGGREGATES),
        aggregate=rng.choice(("{a}({f})", "{a}({f})", "{a} {f}", "{a}:{f}", "{f}.{a}", "{a}_{f}")),
        conjunction=f"{space}{both}{space}",
        disjunction=f"{space}{one}{space}",
        quote=rng.choice(("'{}'", "'{}'", '"{}"', '"{}"', "{}", "`{}`", "<{}>")),
        truth=rng.choice((("true", "false"), ("yes", "no"), ("1", "0"), ("TRUE", "FALSE"))),
        direction=rng.choice(_DIRECTIONS),
        comma=rng.choice((", ", ", ", ",", "+")),
        dot=rng.choice((".", ".", ".", "/", "->", ":")),
        everything=rng.choice(("*", "*", "all", "", "")),
        order=_mixed(rng, rng.choice(_ORDERS)),
    )
