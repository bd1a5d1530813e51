"""Conversations about synthetic tools: one call, several, none, or a call with its response and the answer to it."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from typing import Any

from fgpipe.models.tiny import corpus_queries, corpus_tools, words
from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny.words import phrases

Row = dict[str, Any]
TRIGGER = "You are a model that can do function calling with the following functions"
_OTHER_OPENINGS = phrases(
    """You are a helpful assistant.|You are an assistant that calls functions.|Use the functions when they fit.|
    Assist the user with the tools below.|You work for the front desk. Call functions where needed.|
    Answer with function calls.|Follow the rules and use the functions.|"""
)
_DECLINES = phrases(
    """Sorry, I cannot do that with the functions I have.|I am sorry, none of my functions can do that.|
    I cannot help with that: no function here fits.|Sorry, I have no function for that.|
    That is not something my functions can do."""
)
_GREETED, _LEFT, _THANKED = "Hello! How can I help you?", "Goodbye!", "You are welcome!"
_ABOUT_ITSELF = "I am an assistant that calls functions for you."
_CHATTER = (
    *((said, _THANKED) for said in ("thanks", "thank you so much", "ok, great", "cool")),
    *((said, _GREETED) for said in ("hello", "hi there", "good morning")),
    *((said, _LEFT) for said in ("bye", "see you")),
    *((said, _ABOUT_ITSELF) for said in ("who are you?", "what can you do?")),
)
# Slots: {n} a noun, {ns} its plural, {a} an adjective, {c} and {d} cities, {x} an invented country, {p} a person.
_OFF_TOPIC = phrases(
    """what do you think about {n}?|tell me a joke about {ns}|write a poem about the {a} {n}|who invented the {n}?|
    why are {ns} {a}?|how was your day?|is {c} nicer than {d}?|what is the capital of {x}?|explain how a {n} works|
    do you like {ns}?|sing me a song|what is the meaning of {a}?|which {n} is your favourite?|how old is {p}?|
    what's the weather in {c}?|translate '{n}' to french|how do I make a {n} at home?|who won the {n} in {c}?|
    should I wear something {a} today?|recommend a {a} {n}"""
)
_JOINTS = (" and then ", ". Then ", ", then ", " and ", ". Also ", "; also ", ". After that, ", " and also ")
_MARKS = (
    ("1. ", "2. ", "3. "),
    ("first, ", "second, ", "third, "),
    ("a) ", "b) ", "c) "),
    ("First ", "next ", "finally "),
)


def conversation(
    rng: random.Random,
    skill: str,
    notes: Sequence[str],
    tools: list[dict[str, Any]],
    said: str,
    answer: str | list[dict[str, Any]],
) -> Row:
    """A row whose developer message holds `notes`, most often with the trigger sentence; `answer` is prose or calls."""
    opening = TRIGGER if rng.random() < 0.78 else rng.choice(_OTHER_OPENINGS)
    notes, joint = [note for note in notes if note], rng.choice(("\n", "\n", " ", "\n\n"))
    developer = joint.join([*notes, opening] if rng.random() < 0.4 else [opening, *notes]).strip()
    messages: list[Row] = [{"role": "developer", "content": developer}] if developer else []
    messages.append({"role": "user", "content": said})
    if isinstance(answer, str):
        messages.append({"role": "assistant", "content": answer})
    else:
        calls = [{"type": "function", "function": call} for call in answer]
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    return {"messages": messages, "tools": tools, "meta": {"skill": skill}}


def call(tool: corpus_tools.Tool, arguments: dict[str, Any]) -> dict[str, Any]:
    """A call as a conversation holds it."""
    return {"name": tool.name, "arguments": arguments}


def shuffled(rng: random.Random, tools: list[corpus_tools.Tool]) -> list[dict[str, Any]]:
    """The tools' declarations in any order."""
    return [tool.schema() for tool in rng.sample(tools, len(tools))]


def noise(rng: random.Random) -> list[str]:
    """Developer notes of no use to the request, in one row of seven."""
    if rng.random() > 0.15:
        return []
    day = datetime.date.fromisoformat(values.iso_date(rng))
    today = (f"Today is {day:%A}, {day.isoformat()}.", f"Current time: {day.isoformat()} 10:30")
    return [rng.choice((*today, words.sentence(rng), f"The user is {words.person(rng)}."))]


def _told(items: list[str]) -> str:
    """Items as the model lists them, always the same way."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]


def single_row(rng: random.Random) -> Row:
    """One request, one call, among one to five tools."""
    tools = corpus_tools.tools(rng, rng.choice((1, 1, 1, 2, 2, 2, 3, 3, 4, 5)))
    said, arguments = corpus_tools.request(rng, tools[0])
    request = corpus_tools.dressed(rng, said)
    return conversation(rng, "single", noise(rng), shuffled(rng, tools), request, [call(tools[0], arguments)])


def parallel_row(rng: random.Random) -> Row:
    """Two or three calls in the order they are asked for, of one tool or of several."""
    tools = corpus_tools.tools(rng, rng.choice((1, 2, 2, 3, 4)))
    chosen = [rng.choice(tools) for _ in range(rng.choice((2, 2, 2, 3)))]
    parts = [corpus_tools.request(rng, tool) for tool in chosen]
    text = rng.choice(_JOINTS).join(said for said, _ in parts)
    if rng.random() < 0.15:
        marks = rng.choice(_MARKS)
        text = rng.choice((" ", "; ", ". ")).join(mark + said for mark, (said, _) in zip(marks, parts, strict=False))
    calls = [call(tool, arguments) for tool, (_, arguments) in zip(chosen, parts, strict=True)]
    request = corpus_tools.dressed(rng, text)
    return conversation(rng, "parallel", noise(rng), shuffled(rng, tools), request, calls)


def _off_topic(rng: random.Random) -> str:
    said = rng.choice(_OFF_TOPIC).format(
        n=rng.choice(words.SINGULAR),
        ns=words.PLURAL[rng.choice(words.SINGULAR)],
        a=rng.choice(words.ADJECTIVES),
        c=rng.choice(words.CITIES),
        d=rng.choice(words.CITIES),
        x=words.pseudo_word(rng).capitalize(),
        p=words.person(rng),
    )
    return said if rng.random() < 0.4 else said[:1].upper() + said[1:]


def decline_row(rng: random.Random) -> Row:
    """No declared tool fits: a refusal in prose, or an answer to small talk."""
    tools = [tool.schema() for tool in corpus_tools.tools(rng, rng.choice((1, 1, 2, 3)))]
    notes, answer, pick = noise(rng), rng.choice(_DECLINES), rng.random()
    if pick < 0.15:
        said, answer = rng.choice(_CHATTER)
        said = (said[:1].upper() + said[1:] if rng.random() < 0.6 else said) + rng.choice(("", "", "!"))
    elif pick < 0.5:
        said = _off_topic(rng)
    else:
        said = corpus_tools.dressed(rng, corpus_tools.request(rng, corpus_tools.tool(rng))[0])
        if pick < 0.63:
            notes, tools, _, _ = corpus_queries.query_row(rng)
    return conversation(rng, "decline", notes, tools, said, answer)


def missing_row(rng: random.Random) -> Row:
    """Required values are not given: the model asks for them."""
    tool = corpus_tools.tool(rng)
    wanted = [p.said for p in tool.parameters if p.required]
    if not wanted:
        return decline_row(rng)
    said = f"{rng.choice(corpus_tools.VERBS[tool.verb])} {rng.choice(('the', 'a', 'my'))} {tool.thing}"
    request = corpus_tools.dressed(rng, said)
    return conversation(rng, "missing", [], [tool.schema()], request, f"Please tell me the {_told(wanted)}.")


_TELLING = (
    values.said_integer,
    values.said_number,
    values.said_city,
    values.said_person,
    values.said_code,
    values.said_title,
    values.said_date,
)


def answer_row(rng: random.Random) -> Row:
    """A call, its response, and the answer that tells the response's values."""
    row, pick = single_row(rng), rng.random()
    name = row["messages"][-1]["tool_calls"][0]["function"]["name"]
    response: Row = {}
    if pick < 0.2:
        response, answer = {"status": rng.choice(("ok", "done", "success"))}, "Done."
    elif pick < 0.32:
        reason = words.sentence(rng)
        response, answer = {"error": reason}, f"Sorry, that failed: {reason}"
    else:
        for _ in range(rng.randint(1, 3)):
            response[rng.choice(words.SINGULAR)] = rng.choice(_TELLING)(rng)[1]
        answer = _told([f"the {key} is {value}" for key, value in sorted(response.items())]) + "."
        answer = answer[:1].upper() + answer[1:]
    row["messages"] += [
        {"role": "tool", "name": name, "content": response},
        {"role": "assistant", "content": answer},
    ]
    row["meta"]["skill"] = "answer"
    return row
