"""What every task generator shares: tool schemas, canonical rows, wording tables and the registers people write in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fgpipe.data.tasks.vocabulary import FIRST_NAMES

Row = dict[str, Any]
Wording = Literal["common", "held_out"]

HELD_OUT_FRACTION = 0.05
"""Share of the rows of every family that use wordings kept for evaluation."""

_OPENERS: dict[Wording, tuple[str, ...]] = {
    "common": (
        "Hi.",
        "Hello!",
        "Hi there.",
        "Quick question:",
        "Good morning.",
        "One more thing:",
        "Next one:",
        "OK,",
        "Right, moving on:",
        "Sorry, one more:",
    ),
    "held_out": ("Hey team,", "Sorry to bother you again.", "Right, next up:"),
}
_CLOSERS: dict[Wording, tuple[str, ...]] = {
    "common": ("Thanks!", "Thank you.", "Cheers.", "Thanks a lot.", "I appreciate it.", "That helps, thanks."),
    "held_out": ("Much appreciated.", "That would help a lot."),
}


@dataclass(frozen=True)
class Wordings:
    """The sentence frames of one family: `held_out` frames occur in no common row."""

    common: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, rng: random.Random, wording: Wording) -> tuple[str, str]:
        """A frame's id, unique within its family, and its text."""
        frames = self.common if wording == "common" else self.held_out
        index = rng.randrange(len(frames))
        return f"{wording[0]}{index}", frames[index]


def parameter(kind: str, text: str, *, enum: Sequence[str] = (), items: str = "") -> dict[str, Any]:
    """The JSON schema of one parameter."""
    schema: dict[str, Any] = {"type": kind, "description": text}
    if enum:
        schema["enum"] = list(enum)
    if items:
        schema["items"] = {"type": items}
    return schema


def tool(name: str, text: str, properties: dict[str, dict[str, Any]], *, required: Sequence[str]) -> dict[str, Any]:
    """An OpenAI-shaped function tool."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": schema}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """One tool call as it stands in an assistant message."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def declare(rng: random.Random, tools: Mapping[str, dict[str, Any]], needed: Sequence[str]) -> list[dict[str, Any]]:
    """The needed tools, sometimes with one more beside them, in any order."""
    names = list(dict.fromkeys(needed))
    others = [name for name in tools if name not in names]
    names += rng.sample(others, max(0, rng.choice((1, 1, 1, 2, 2)) - len(names)))
    rng.shuffle(names)
    return [tools[name] for name in names]


def make_row(
    context: str,
    request: str,
    answer: str | list[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    **meta: Any,
) -> Row:
    """A canonical row; `answer` is either prose or the calls of one assistant turn, `context` may be empty."""
    messages: list[dict[str, Any]] = [{"role": "developer", "content": context}] if context else []
    messages.append({"role": "user", "content": request})
    if isinstance(answer, str):
        messages.append({"role": "assistant", "content": answer})
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": answer})
    return {"messages": messages, "tools": list(tools), "meta": meta}


def request_of(row: Row) -> str:
    """The text of the row's user message."""
    return str(next(message["content"] for message in row["messages"] if message["role"] == "user"))


def calls_of(row: Row) -> list[dict[str, Any]]:
    """The row's gold calls, each `{"name", "arguments"}`; empty when prose is the right answer."""
    return [entry["function"] for entry in row["messages"][-1].get("tool_calls", [])]


def capitalise(text: str) -> str:
    """`text` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def spoken_list(parts: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def dress(rng: random.Random, sentence: str, wording: Wording) -> str:
    """The sentence as somebody would type it: sometimes greeted, thanked for, or in hasty lower case."""
    mood = rng.random()
    sentence = capitalise(sentence)
    if mood < 0.12:
        opener = rng.choice(_OPENERS[wording])
        return f"{opener} {decapitalise(sentence) if opener.endswith(',') else sentence}"
    if mood < 0.24:
        return f"{sentence} {rng.choice(_CLOSERS[wording])}"
    if mood < 0.40:
        return decapitalise(sentence).rstrip(".?")
    return sentence


def decapitalise(sentence: str) -> str:
    """The sentence as it goes on after a comma; names and "I" keep their capital."""
    first = sentence.split()[0].rstrip(",").removesuffix("'s")
    proper = first == "I" or first.startswith("I'") or first in FIRST_NAMES or not first[1:].replace("'", "").islower()
    return sentence if proper and first != "A" else sentence[0].lower() + sentence[1:]


def generate(
    rng: random.Random,
    quotas: Sequence[tuple[str, int]],
    build: Callable[[random.Random, str, Wording], Row | None],
) -> list[Row]:
    """Rows of every family in its quota, no request twice, shuffled.

    Args:
        quotas: number of rows of each family; `HELD_OUT_FRACTION` of them use held-out wordings.
        build: makes one row of a family, or None when the draw was unusable and another should be tried.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for family, quota in quotas:
        held_out = round(quota * HELD_OUT_FRACTION)
        for index in range(quota):
            wording: Wording = "held_out" if index < held_out else "common"
            for _ in range(2000):
                row = build(rng, family, wording)
                if row is not None and request_of(row).casefold() not in seen:
                    break
            else:
                raise AssertionError(f"family {family} ({wording}) has fewer than {quota} different requests")
            seen.add(request_of(row).casefold())
            row["meta"] = {"family": family, "wording": wording, **row["meta"]}
            rows.append(row)
    rng.shuffle(rows)
    return rows


def to_jsonl(rows: Sequence[Row]) -> str:
    """One compact JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
