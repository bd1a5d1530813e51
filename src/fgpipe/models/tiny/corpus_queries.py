"""Rows about collections: a schema, a question, the rules of a query language, and the query that they make."""

from __future__ import annotations

import random
from typing import Any

from fgpipe.models.tiny import words
from fgpipe.models.tiny.corpus_languages import MEANINGS, Language, language
from fgpipe.models.tiny.corpus_questions import question
from fgpipe.models.tiny.corpus_schemas import Collection, Intent, collection, intent, schema_text
from fgpipe.models.tiny.words import names, phrases

Composed = tuple[list[str], list[dict[str, Any]], str, dict[str, Any]]
"""Developer notes, tools, request, and the call it needs (name and arguments)."""

_VERBS = names("query browse look ask search report data explore find read list scan lookup")
_THINGS = ("records", "data", "items", "store", "collection", "catalog", "archive")
_ABOUT = phrases(
    """Answers questions from the records.|Looks up records.|Runs a query over the data|Query the collections.|
    Search the records and return the matches|Data access"""
)
_KEYS = names("query request expression text q command search spec statement")
_EXAMPLES = ("{q} -> {a}", "{q} => {a}", "Example: {q}: {a}", '"{q}" becomes {a}')


def _collections(rng: random.Random) -> list[Collection]:
    found = [collection(rng)]
    for share in (0.65, 0.25):
        if rng.random() > share:
            break
        taken = frozenset(word for c in found for word in (c.one, c.many))
        found.append(collection(rng, parent=rng.choice(found), taken=taken))
    return found


def _tool(rng: random.Random, texts: dict[str, str], about: str, required: list[str]) -> dict[str, Any]:
    verb, noun = rng.choice(_VERBS), rng.choice(words.SINGULAR)
    name = rng.choice((f"{verb}_{rng.choice((*_THINGS, noun))}", verb, f"{noun}_{verb}"))
    properties = {
        key: {"type": "integer" if key == "limit" else "string", "description": text} for key, text in texts.items()
    }
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def _examples(rng: random.Random, made: Language, collections: list[Collection]) -> list[str]:
    if rng.random() < 0.5:
        return []
    shared, lines = rng.random() < 0.5, []
    for _ in range(rng.randint(1, 2)):
        other = intent(rng, rng.choice(collections) if shared else collection(rng))
        lines.append(rng.choice(_EXAMPLES).format(q=question(rng, other), a=made.write(other)))
    return lines


def _by_parts(rng: random.Random, made: Language, target: Intent, about: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tool with an argument for each clause, and the call it needs."""
    names = {
        "of": rng.choice(("collection", "source", "table", "records")),
        "where": rng.choice(("filter", "where", "conditions")),
        "sort": rng.choice(("sort", "order", "order_by")),
        "show": rng.choice(("fields", "columns", "return_fields")),
        "limit": "limit",
    }
    parts = made.parts(target)
    arguments: dict[str, Any] = {names[role]: parts[role] for role in names if role in parts}
    if not target.columns:
        arguments.pop(names["show"], None)
    if target.limit is not None:
        arguments["limit"] = target.limit
    shown = sorted({x.operator for x in target.conditions} | {"more", "equal"})
    told = ", ".join(f"{made.operators[o]} {MEANINGS[o]}" for o in shown)
    form = made.condition.format(f="field", o="OP", v=made.quote.format("text"))
    up, down = (way.format("field") for way in made.direction)
    texts = {
        names["of"]: "Which collection",
        names["where"]: f"Conditions like {form} joined by `{made.conjunction}` or `{made.disjunction}`; OP: {told}",
        names["sort"]: f"{up} ascending, {down} descending",
        names["show"]: f"Fields wanted, as a{made.comma}b",
        "limit": "How many at most",
    }
    tool = _tool(rng, texts, about, [names["of"]])
    return tool, {"name": tool["function"]["name"], "arguments": arguments}


def query_row(rng: random.Random) -> Composed:
    """A question about invented collections, to be written in an invented language."""
    made, collections = language(rng), _collections(rng)
    target = intent(rng, rng.choice(collections[-2:]))
    said, about, notes = question(rng, target), rng.choice(_ABOUT), [schema_text(rng, collections)]
    if not (target.aggregate or target.linked or rng.random() < 0.75):
        tool, call = _by_parts(rng, made, target, about)
        return notes, [tool], said, call
    rules, shown = made.rules(rng, target), _examples(rng, made, collections)
    description, place = rng.choice(("The query", "What to look up", "Query text", "")), rng.random()
    if place < 0.55:
        notes += [rules, *shown]
    elif place < 0.8:
        about, notes = f"{about} {rules}", notes + shown
    else:
        description = "; ".join([rules, *shown])
    key = rng.choice(_KEYS)
    tool = _tool(rng, {key: description}, about, [key])
    return notes, [tool], said, {"name": tool["function"]["name"], "arguments": {key: made.write(target)}}
