"""Query languages invented anew for every row, and their explanation: the model learns to read the rules and compose."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fgpipe.models.tiny import corpus_schemas as schemas
from fgpipe.models.tiny import words

_ROLES = ("show", "of", "where", "group", "having", "sort", "limit", "link")
_TYPICAL = {
    "show": "show pick fetch give yield read columns fields out select project", "of": "of in from on over within source at base", "where": "where when keep if filter such only matching",
    "group": "per group by each split fold bucket", "having": "having least min where if keep", "sort": "sort order rank by arrange line", "limit": "limit top first max cap take",
    "link": "link join via with merge attach through",
}  # fmt: skip
_OPERATORS = (
    {"more": ">", "less": "<", "least": ">=", "most": "<=", "equal": "=", "unequal": "!=", "has": "~"},
    {"more": ">", "less": "<", "least": ">=", "most": "<=", "equal": "=", "unequal": "<>", "has": "like"},
    {"more": ">", "less": "<", "least": ">=", "most": "<=", "equal": "==", "unequal": "!=", "has": "in"},
    {"more": "gt", "less": "lt", "least": "gte", "most": "lte", "equal": "eq", "unequal": "ne", "has": "has"},
    {"more": "above", "less": "below", "least": "min", "most": "max", "equal": "is", "unequal": "not", "has": "contains"},
    {"more": "over", "less": "under", "least": "from", "most": "upto", "equal": "equals", "unequal": "isnt", "has": "includes"},
)
_AGGREGATES = (
    {"count": "count", "sum": "sum", "average": "avg", "least": "min", "most": "max"},
    {"count": "number", "sum": "total", "average": "mean", "least": "lowest", "most": "highest"},
    {"count": "n", "sum": "add", "average": "average", "least": "least", "most": "most"},
    {"count": "tally", "sum": "sum", "average": "mid", "least": "low", "most": "top"},
)
_MEANINGS = {"more": "more than", "less": "less than", "least": "at least", "most": "at most", "equal": "equal to", "unequal": "not equal to", "has": "contains"}
_AGGREGATE_MEANINGS = {"count": "how many", "sum": "total", "average": "average", "least": "lowest", "most": "highest"}


@dataclass(frozen=True)
class Language:
    """The choices that make one query language."""

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

    def _field(self, intent: schemas.Intent, of: schemas.Collection, f: schemas.Field) -> str:
        return f"{of.name}{self.dot}{f.name}" if intent.linked else f.name

    def _literal(self, value: str | int | float | bool) -> str:
        if isinstance(value, bool):
            return self.truth[0] if value else self.truth[1]
        return self.quote.format(value) if isinstance(value, str) else str(value)

    def _aggregate(self, intent: schemas.Intent) -> str:
        name = self.aggregates[intent.aggregate]
        if intent.aggregated is None:
            return name if "(" not in self.aggregate else f"{name}({'*' if self.everything == '*' else ''})"
        return self.aggregate.format(a=name, f=self._field(intent, intent.of, intent.aggregated))

    def conditions(self, intent: schemas.Intent) -> str:
        """The conditions alone, as a filter argument holds them."""
        parts = [
            self.condition.format(f=self._field(intent, x.of, x.field), o=self.operators[x.operator], v=self._literal(x.value)) for x in intent.conditions
        ]
        return (self.disjunction if intent.either else self.conjunction).join(parts)

    def ordering(self, intent: schemas.Intent) -> str:
        """The sort key alone, with its direction."""
        assert intent.sort is not None
        return self.direction[intent.descending].format(self._field(intent, intent.of, intent.sort))

    def parts(self, intent: schemas.Intent) -> dict[str, str]:
        """What stands in each clause the intent needs, by role."""
        found = {"of": intent.of.name}
        if intent.aggregate:
            made = self._aggregate(intent)
            if intent.grouped is not None:
                found["group"] = self._field(intent, *intent.grouped)
                made = found["group"] if intent.group_minimum is not None else f"{found['group']}{self.comma}{made}"
            found["show"] = made
        elif intent.columns:
            found["show"] = self.comma.join(self._field(intent, intent.of, f) for f in intent.columns)
        elif self.everything:
            found["show"] = self.everything
        if intent.conditions:
            found["where"] = self.conditions(intent)
        if intent.group_minimum is not None:
            counted = f"{self.aggregates['count']}({'*' if self.everything == '*' else ''})" if "(" in self.aggregate else self.aggregates["count"]
            found["having"] = self.condition.format(f=counted, o=self.operators["more"], v=intent.group_minimum)
        if intent.linked and intent.of.parent is not None:
            found["link"] = f"{intent.of.parent.name}{self.comma}{intent.of.name}{self.dot}{intent.of.key}"
        if intent.sort is not None:
            found["sort"] = self.ordering(intent)
        if intent.limit is not None:
            found["limit"] = str(intent.limit)
        return found

    def write(self, intent: schemas.Intent) -> str:
        """The whole query."""
        found = self.parts(intent)
        return self.joint.join(self.clause.format(k=self.keywords[role], x=found[role]) for role in self.order if role in found)

    def rules(self, rng: random.Random, used: set[str], operators: set[str], aggregates: set[str], *, either: bool) -> str:
        """The language explained: every rule that is used, and some that are not."""
        meanings = {
            "show": ("what to return", "the fields wanted", "output"), "of": ("the collection", "where to look", "the source"), "where": ("conditions", "restrict the records", "keep only some"),
            "group": ("one row per value", "put together by a field", "group"), "having": ("restrict the groups", "condition on groups"), "sort": ("sort", "order of the results"),
            "limit": ("at most that many", "how many to keep"), "link": ("another collection and the field that points to it", "reach into a parent through its key"),
        }  # fmt: skip
        shapes = {
            "show": f"a{self.comma}b", "of": "NAME", "where": self.condition.format(f="field", o="OP", v="value"), "group": "field", "having": "condition",
            "sort": self.direction[0].format("field") + " or " + self.direction[1].format("field") + rng.choice((" (largest first)", " for descending", " (down)")), "limit": "N",
            "link": f"PARENT{self.comma}CHILD{self.dot}KEY",
        }  # fmt: skip
        lines = [
            rng.choice(("{c} - {m}", "{c}: {m}", "`{c}` {m}", "{m} = {c}")).format(c=self.clause.format(k=self.keywords[role], x=shapes[role]), m=rng.choice(meanings[role]))
            for role in self.order
            if role in used or rng.random() < 0.25
        ]
        text = rng.choice(("Write: ", "Syntax: ", "Query language: ", "Clauses in this order: ", "")) + rng.choice(("; ", ", ", "\n")).join(lines)
        if shown := sorted(operators | {o for o in self.operators if rng.random() < 0.3}):
            rng.shuffle(shown)
            text += rng.choice((". Operators: ", "\nOP is ", "; ops ")) + ", ".join(rng.choice((f"{self.operators[o]} ({_MEANINGS[o]})", f"{self.operators[o]} {_MEANINGS[o]}")) for o in shown)
        if aggregates:
            text += rng.choice((". Numbers: ", "\nTotals: ", "; ")) + ", ".join(f"{_AGGREGATE_MEANINGS[a]} {self.aggregate.format(a=self.aggregates[a], f='field') if a != 'count' else self.aggregates[a]}" for a in sorted(aggregates))
        if self.joint != " ":
            text += ". One clause a line" if self.joint == "\n" else f". Clauses are separated by `{self.joint}`" if self.joint else ""
        if "show" in used:
            text += f". All fields: {self.everything}" if self.everything else ""
        if "link" in used:
            text += f". With two collections write NAME{self.dot}field"
        text += rng.choice((". Join conditions with ", "; both:", ". And is ")) + f"`{self.conjunction}`" + (f", or is `{self.disjunction}`" if either or rng.random() < 0.3 else "")
        return text + rng.choice((". Text as ", "; text ")) + self.quote.format("text") + "."


def language(rng: random.Random) -> Language:
    """A query language nobody has seen before."""
    while True:
        plain = rng.random() < 0.75
        keywords = {role: rng.choice(_TYPICAL[role].split() if plain and rng.random() < 0.85 else words.KEYWORDS) for role in _ROLES}
        if rng.random() < 0.2:
            keywords["group"] += " by" if keywords["group"] != "by" else ""
            keywords["sort"] += " by" if keywords["sort"] != "by" else ""
        if len(set(keywords.values())) == len(_ROLES) and not {"select", "from"} <= set(keywords.values()):
            break
    case = rng.choice((str.lower, str.lower, str.upper, str.upper, str.capitalize))
    clause, joint = rng.choice((("{k} {x}", " "), ("{k} {x}", " "), ("{k} {x}", " "), ("{k} {x}", "; "), ("{k} {x}", " | "), ("{k}({x})", "."), ("{k}({x})", " "), ("{k}={x}", "&"), ("{k}: {x}", "; "), ("{k}: {x}", ", "), ("({k} {x})", " "), ("@{k} {x}", " "), ("{k}:{x}", " "), ("[{k} {x}]", ""), ("{k} {x}", "\n"), (".{k} {x}", " ")))  # fmt: skip
    operators = rng.choice(_OPERATORS)
    if rng.random() < 0.12:
        operators = dict(zip(operators, rng.sample(words.OTHER_WORDS, len(operators)), strict=True))
    symbolic = not operators["more"].isalpha()
    condition = rng.choice(("{f} {o} {v}", "{f} {o} {v}", "{f} {o} {v}", "{f}{o}{v}" if symbolic else "{f}:{o}:{v}", "({o} {f} {v})", "{o}({f}, {v})", "[{f} {o} {v}]", "{f}.{o}={v}", "{f}:{o}{v}" if symbolic else "{f}__{o}={v}"))  # fmt: skip
    both, one = rng.choice((("and", "or"), ("and", "or"), ("AND", "OR"), ("&&", "||"), ("&", "|"), ("plus", "either"), (",", "/"), ("also", "else")))
    space = " " if both.isalpha() or rng.random() < 0.5 else ""
    descending = rng.choice((("{} asc", "{} desc"), ("{} ASC", "{} DESC"), ("{}", "{} desc"), ("{}", "-{}"), ("+{}", "-{}"), ("{} up", "{} down"), ("{}", "{} DESC"), ("{} rising", "{} falling"), ("{}:1", "{}:-1"), ("asc({})", "desc({})"), ("{}", "{} reverse")))  # fmt: skip
    order = list(rng.choice((("show", "of", "link", "where", "group", "having", "sort", "limit"), ("of", "link", "where", "group", "having", "show", "sort", "limit"), ("of", "show", "link", "where", "group", "having", "sort", "limit"))))  # fmt: skip
    if rng.random() < 0.2:
        rng.shuffle(order)
    return Language(
        {role: case(word) for role, word in keywords.items()}, clause, joint, condition, operators, rng.choice(_AGGREGATES),
        rng.choice(("{a}({f})", "{a}({f})", "{a} {f}", "{a}:{f}", "{f}.{a}", "{a}_{f}")), f"{space}{both}{space}", f"{space}{one}{space}",
        rng.choice(("'{}'", "'{}'", '"{}"', '"{}"', "{}", "`{}`", "<{}>")), rng.choice((("true", "false"), ("yes", "no"), ("1", "0"), ("TRUE", "FALSE"))), descending,
        rng.choice((", ", ", ", ",", "+")), rng.choice((".", ".", ".", "/", "->", ":")), rng.choice(("*", "*", "all", "", "")), tuple(order),
    )  # fmt: skip


def _needs(language: Language, intents: list[schemas.Intent]) -> dict[str, Any]:
    operators = {x.operator for i in intents for x in i.conditions} | ({"more"} if any(i.group_minimum for i in intents) else set())
    return {
        "used": {role for i in intents for role in language.parts(i)},
        "operators": operators,
        "aggregates": {i.aggregate for i in intents if i.aggregate},
        "either": any(i.either for i in intents),
    }


def _collections(rng: random.Random) -> list[schemas.Collection]:
    first = schemas.collection(rng)
    found = [first]
    if rng.random() < 0.65:
        found.append(schemas.collection(rng, parent=first, taken=frozenset((first.one, first.many))))
        if rng.random() < 0.25:
            found.append(schemas.collection(rng, parent=rng.choice(found), taken=frozenset(w for c in found for w in (c.one, c.many))))
    return found


_VERBS = "query browse look ask search report data explore find read list scan lookup".split()


def _tool(rng: random.Random, texts: dict[str, str], about: str, required: list[str]) -> dict[str, Any]:
    name = rng.choice((f"{rng.choice(_VERBS)}_{rng.choice(('records', 'data', 'items', 'store', 'collection', 'catalog', 'archive', rng.choice(words.SINGULAR)))}", f"{rng.choice(_VERBS)}", f"{rng.choice(words.SINGULAR)}_{rng.choice(_VERBS)}"))  # fmt: skip
    properties = {key: {"type": "integer" if key == "limit" else "string", "description": text} for key, text in texts.items()}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": {"type": "object", "properties": properties, "required": required}}}


def query_row(rng: random.Random) -> tuple[list[str], list[dict[str, Any]], str, dict[str, Any]]:
    """Developer notes, the tools, a question and the call it needs (name and arguments)."""
    made = language(rng)
    collections = _collections(rng)
    target = rng.choice(collections[-2:])
    intent = schemas.intent(rng, target)
    said = schemas.question(rng, intent)
    about = rng.choice(("Answers questions from the records.", "Looks up records.", "Runs a query over the data", "Query the collections.", "Search the records and return the matches", "Data access"))
    notes = [schemas.schema_text(rng, collections)]
    examples = []
    if rng.random() < 0.5:
        shared = rng.random() < 0.5
        for _ in range(rng.randint(1, 2)):
            other = schemas.intent(rng, rng.choice(collections) if shared else schemas.collection(rng))
            examples.append(other)
    rules = made.rules(rng, **_needs(made, [intent]))
    shown = [rng.choice(("{q} -> {a}", "{q} => {a}", "Example: {q}: {a}", '"{q}" becomes {a}')).format(q=schemas.question(rng, e), a=made.write(e)) for e in examples]
    if intent.aggregate or intent.linked or rng.random() < 0.75:
        key = rng.choice(("query", "request", "expression", "text", "q", "command", "search", "spec", "statement"))
        place = rng.random()
        description = rng.choice(("The query", "What to look up", "Query text", ""))
        if place < 0.55:
            notes += [rules, *shown]
        elif place < 0.8:
            about, notes = f"{about} {rules}", notes + shown
        else:
            description = "; ".join([rules, *shown])
        tool = _tool(rng, {key: description}, about, [key])
        return notes, [tool], said, {"name": tool["function"]["name"], "arguments": {key: made.write(intent)}}
    names = {"of": rng.choice(("collection", "source", "table", "records")), "where": rng.choice(("filter", "where", "conditions")), "sort": rng.choice(("sort", "order", "order_by")), "show": rng.choice(("fields", "columns", "return_fields")), "limit": "limit"}  # fmt: skip
    parts = made.parts(intent)
    arguments: dict[str, Any] = {names[role]: (intent.limit if role == "limit" else parts[role]) for role in names if role in parts and (role != "show" or intent.columns)}
    operators = ", ".join(f"{made.operators[o]} {_MEANINGS[o]}" for o in sorted({x.operator for x in intent.conditions} | {"more", "equal"}))
    texts = {
        names["of"]: "Which collection", names["where"]: f"Conditions like {made.condition.format(f='field', o='OP', v=made.quote.format('text'))} joined by `{made.conjunction}` or `{made.disjunction}`; OP: {operators}",
        names["sort"]: f"{made.direction[0].format('field')} ascending, {made.direction[1].format('field')} descending", names["show"]: f"Fields wanted, as a{made.comma}b", "limit": "How many at most",
    }  # fmt: skip
    tool = _tool(rng, texts, about, [names["of"]])
    return notes, [tool], said, {"name": tool["function"]["name"], "arguments": arguments}
