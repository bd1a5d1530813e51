"""Answers of a model with something wrong with them, the same each time."""

from __future__ import annotations

from random import Random

from fgpipe.functiongemma import ToolCall, render_call, tokens

FRAGMENTS = [
    *tokens.SPECIAL_TOKEN_IDS,
    *("{", "}", "[", "]", ",", ":", "<", ">", " ", "\n", "call:", "call:f{", "a:", "5", "1.50", "true", "None", "é"),
]
CALLS = [
    ToolCall("ping", {}),
    ToolCall("audio.set-volume", {"label": 'say "12" {ok}', "level": 5, "options": {"steps": [1, 2.5, None]}}),
    ToolCall("run_sql", {"query": "SELECT a FROM b WHERE c < 5 AND d = '<end_function_call>'"}),
    ToolCall("nest", {"a": [[{"b": [{"c": True}]}], {}]}),
]


def mutated(random: Random) -> str:
    """An answer with one to four things wrong with it."""
    text = f"Well. {''.join(render_call(random.choice(CALLS)) for _ in range(random.randint(1, 2)))}<end_of_turn>"
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 0, 1, 3, 12)))
        cut = random.randrange(len(text) + 1)
        text = random.choice(
            (
                text[:start] + random.choice(FRAGMENTS) + text[end:],
                text[:start] + text[end:],
                text[:cut],
                text[:start] + text[cut:] + text[start:cut],
            )
        )
    return text
