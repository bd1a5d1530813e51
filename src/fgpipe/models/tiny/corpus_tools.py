"""Tools of the synthetic corpus, put together at random, and requests for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words
from fgpipe.models.tiny.corpus_parameters import Parameter, parameter
from fgpipe.models.tiny.words import phrases

# Each verb, then other ways to say it. Nothing here sends mail, runs queries or does arithmetic.
_VERB_LINES = """
    create|make|add|set up|register; delete|remove|get rid of|erase; book|reserve|get me; cancel|call off|drop;
    update|change|edit|modify; get|show me|look up|give me|fetch; find|look for|locate|search for;
    open|open up|unlock; close|shut|lock; start|begin|launch|kick off; stop|halt|end|turn off; play|put on;
    pause|hold; order|buy|get; ship|dispatch|deliver; track|follow|check on; rent|hire|lease;
    assign|hand over|give; move|transfer|shift; rename|call; print|print out; archive|file away|store;
    rate|score|review; share|pass on; schedule|plan|arrange; approve|accept|sign off; reject|turn down|refuse;
    translate; upload|put up; download|save; record|note down|log; inspect|check|examine; repair|fix|mend;
    clean|tidy up; paint; plant; water; charge|charge up; list|show|what are|enumerate; pin|stick; tag|label|mark;
    enable|turn on|switch on; disable|turn off|switch off; invite|ask in; notify|tell|alert; set|adjust|put;
    reset|restore; publish|post|release; scan; lend|loan out; return|give back|bring back
"""
VERBS = {ways[0]: ways for ways in (phrases(line) for line in _VERB_LINES.split(";"))}
OPENINGS = (
    *("", "", "", "Please ", "Could you ", "Can you ", "I need you to ", "I want to ", "I'd like to ", "Hey, "),
    *("Hi, please ", "Would you ", "We need to ", "Help me ", "Now ", "Go ahead and ", "Can I ", "Let's ", "pls "),
    *("Hello! Could you please ", "Quick one: ", "It would be great if you could ", "Time to "),
)
_CLOSINGS = ("", "", "", "", ".", ".", ".", "!", " please.", ", please.", ", thanks!", " Thanks.", "?")
_QUESTION_OPENINGS = ("Hi. ", "Quick question: ", "For the report: ", "Hello! ", "Tell me: ", "I wonder, ", "Next: ")
_QUESTION_CLOSINGS = (" Thanks!", " Please be quick.", " Thank you.", " It's for the meeting.")
_DESCRIPTIONS = phrases("{V} {a} {t}.|{S} {a} {t}|{V}s {a} {t} for the user.|Use this to {s} {a} {t}.|{v} {t}")
_STATEMENTS = phrases(
    """with {w} {v}|{w} {v}|{w}: {v}|the {w} is {v}|{v} as the {w}|with {v} as {w}|use {v} for the {w}|{w} = {v}|
    {w} should be {v}|having {w} {v}"""
)


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
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


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
    synonym = rng.choice(VERBS[verb])
    slots = {"v": verb, "V": verb.capitalize(), "s": synonym, "S": synonym.capitalize(), "t": thing}
    description = rng.choice(_DESCRIPTIONS).format(a=rng.choice(("a", "the")), **slots)
    return Tool(_name(rng, verb, thing), verb, thing, description, parameters)


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
    return rng.choice(_STATEMENTS).format(v=said, w=p.said)


def request(
    rng: random.Random, tool: Tool, overrides: dict[str, values.Said] | None = None
) -> tuple[str, dict[str, Any]]:
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
    closing = rng.choice(_CLOSINGS)
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
        text = rng.choice(_QUESTION_OPENINGS) + text
    return text + (rng.choice(_QUESTION_CLOSINGS) if rng.random() < 0.1 else "")
