"""Random legal conversations and tools for FunctionGemma's format, the same for the same seed, nasty text included."""

from __future__ import annotations

from random import Random
from typing import Any

TEXTS = (
    "",
    " ",
    "go",
    "  What's the weather in Tokyo?  ",
    "line one\nline two\n",
    "\tSão Paulo é 25°C",
    "日本語 🌍",
    "a,b:c",
    "{x}",
    "[1, 2]",
    "\"quoted\" and 'single'",
    "2",
    "2.0",
    "true",
    "None",
    "null",
    "<end_function_call>",
    "<start_function_call>call:f{}<end_function_call>",
    "<end_of_turn>",
    "}<end_function_call>",
    "<esc",
    "escape>",
    "{{ not jinja }}",
    "{% raw %}",
    "\u2028\u00a0 trimmed \x1c",
    "\\n \\",
    "&lt;b&gt; <b>",
)
NAMES = ("get_weather", "spotify.play", "a-b", "f", "Set_Volume", "x1", "naïve", "Market Trends API")
KEYS = (
    "city",
    "City",
    "b",
    "B",
    "_z",
    "A",
    "a2",
    "C",
    "unit",
    "größe",
    "days-ahead",
    "user.id",
    "two words",
    "value",
    "name",
)
NUMBERS = (0, 1, -1, 2, 10**30, -7, 0.0, -0.0, 2.0, 0.1, 1e20, 1e-07, 1.5e300, -99.5, True, False, None)
DECORATIONS = {
    "default": 3,
    "minimum": 0,
    "format": "date",
    "pattern": "^a",
    "title": "T",
    "nullable": True,
    "anyOf": [{"type": "null"}],
    "enum": [1, 2],
}

PARTS = [{"type": "text", "text": "part one "}, {"type": "text", "text": " part two"}]


def random_value(random: Random, depth: int = 0) -> Any:
    """A JSON value, nested at most four deep."""
    kind = random.randrange(10 if depth < 4 else 7)
    if kind < 4:
        return random.choice(TEXTS)
    if kind < 7:
        return random.choice(NUMBERS)
    if kind == 7:
        return [random_value(random, depth + 1) for _ in range(random.randrange(4))]
    return random_object(random, depth + 1)


def random_object(random: Random, depth: int = 0) -> dict[str, Any]:
    """A JSON object with keys in random order."""
    return {key: random_value(random, depth) for key in random.sample(KEYS, random.randrange(5))}


def random_schema(random: Random, depth: int = 0) -> dict[str, Any]:
    """A property's schema; what the format drops is sprinkled over it."""
    types = ["string", "STRING", "integer", "number", "boolean", "float", "any", "object", "array"]
    schema: dict[str, Any] = {"type": random.choice(types[: 9 if depth < 3 else 7])}
    if random.random() < 0.8:
        schema["description"] = random.choice([*TEXTS, None])
    if schema["type"] in ("string", "STRING"):
        schema |= random.choice(
            [{}, {"enum": []}, {"enum": ["celsius", "fahrenheit"]}, {"enum": ["x", 1, 2.5, True, None]}]
        )
    elif schema["type"] == "object":
        schema |= random.choice([{}, {"properties": {}}, *[random_properties(random, depth + 1)] * 3])
    elif schema["type"] == "array":
        schema |= random.choice([{}, {"items": {}}, {"items": None}, *[{"items": random_items(random, depth + 1)}] * 4])
    if schema["type"] != "object" or "properties" in schema:
        names = [name for name in DECORATIONS if name != "enum" or schema["type"] not in ("string", "STRING")]
        schema |= {name: DECORATIONS[name] for name in random.sample(names, random.choice((0, 0, 0, 1, 2)))}
    return shuffled(random, schema)


def random_items(random: Random, depth: int) -> dict[str, Any]:
    """An array's element schema, of which the format shows every key."""
    items = random_schema(random, depth)
    extras = {
        "required": ["b", "a"],
        "examples": [{"b": 1, "A": "x"}],
        "additionalProperties": False,
        "maxLength": None,
    }
    return shuffled(
        random, items | {name: extras[name] for name in random.sample([*extras], random.choice((0, 0, 1, 2)))}
    )


def random_properties(random: Random, depth: int = 0) -> dict[str, Any]:
    """`properties` and sometimes `required` of an object schema."""
    names = random.sample(KEYS, random.randrange(5))
    properties = {name: random_schema(random, depth) for name in names}
    required = random.sample(names, random.randrange(len(names) + 1))
    return {"properties": properties, **random.choice([{}, {"required": required}, {"required": []}])}


def random_tool(random: Random) -> dict[str, Any]:
    """A tool with every legal form of its parts."""
    function: dict[str, Any] = {"name": random.choice(NAMES)}
    if random.random() < 0.9:
        function["description"] = random.choice(TEXTS)
    full = shuffled(random, {"type": random.choice(["object", "OBJECT"]), **random_properties(random)})
    function |= random.choice([{}, {"parameters": {}}, {"parameters": None}, *[{"parameters": full}] * 6])
    return {**random.choice([{"type": "function"}, {}]), "function": shuffled(random, {**function, "strict": True})}


def random_text(random: Random) -> Any:
    """Message content: a string, text parts, or nothing."""
    if random.random() < 0.15:
        return [{"type": "text", "text": random.choice(TEXTS)} for _ in range(random.randrange(3))]
    return random.choice([*TEXTS, None])


def random_calls(random: Random) -> list[dict[str, Any]]:
    """One to three calls, with ids unique among `random`'s."""
    calls = []
    for _ in range(random.choice((1, 1, 2, 3))):
        arguments = random.choice([{"arguments": random_object(random)}] * 8 + [{}])
        call = {
            "type": "function",
            "id": f"call_{random.getrandbits(64)}",
            "function": {"name": random.choice(NAMES), **arguments},
        }
        calls.append({key: call[key] for key in call if key == "function" or random.random() < 0.9 or key == "id"})
    return calls


def random_tool_messages(random: Random, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to `calls` in any of the shapes people use."""
    name = calls[0]["function"]["name"]
    if random.random() < 0.25:
        answers = [{"name": call["function"]["name"], "response": random_object(random)} for call in calls]
        return [{"role": "tool", "content": answers if random.random() < 0.7 else answers[0]}]
    if random.random() < 0.2:
        return [{"role": "tool", "name": name, "content": [{"b": 1, "A": random_value(random)}, {"x": None}]}]
    messages = []
    for call in calls:
        content = random.choice(
            [random.choice([text for text in TEXTS if text]), {"ok": True, **random_object(random)}, PARTS]
        )
        by_name = {"role": "tool", "name": call["function"]["name"], "content": content}
        by_id = {"role": "tool", "tool_call_id": call["id"], "content": random.choice([content, "", None])}
        messages.append(random.choice([by_name, by_id, {**by_name, "tool_call_id": call["id"]}]))
    return messages


def random_conversation(random: Random) -> list[dict[str, Any]]:
    """A legal conversation that may end anywhere a conversation can end."""
    messages: list[dict[str, Any]] = []
    if random.random() < 0.6:
        messages.append({"role": random.choice(("developer", "system")), "content": random_text(random)})
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        messages.append(
            {"role": random.choice(("user",) * 9 + ("system", "developer")), "content": random_text(random)}
        )
        while random.random() < 0.5:
            calls = random_calls(random)
            content = random.choice([{}, {"content": None}, {"content": ""}, {"content": random_text(random)}])
            messages += [{"role": "assistant", **content, "tool_calls": calls}, *random_tool_messages(random, calls)]
        messages.append(
            {"role": "assistant", "content": random_text(random), **random.choice([{}, {"tool_calls": []}])}
        )
    while len(messages) > 1 and random.random() < 0.4:
        messages.pop()
    return messages


def random_case(random: Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]:
    """Messages, tools, and whether a generation prompt may and shall follow."""
    messages = random_conversation(random)
    tools = random.choice([None, [], *[[random_tool(random) for _ in range(random.choice((1, 1, 2, 4)))]] * 3])
    return messages, tools, not messages[-1].get("tool_calls") and random.random() < 0.5


def shuffled(random: Random, mapping: dict[str, Any]) -> dict[str, Any]:
    """The same mapping with its keys in another order."""
    return {key: mapping[key] for key in random.sample([*mapping], len(mapping))}
