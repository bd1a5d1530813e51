#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["openai==3.52.0", "rich==15.0.0"]
# ///
"""Does the box answer, and does every adapter on it?

From any machine of the tailnet: uv run test_connection.py --url http://fgpipe:8080

Lists the models, asks each for one call of a tool with every type of argument, and checks that the call comes back
with its types intact. The key is read from FGPIPE_KEY. Exit status: 0 all answer, 1 some do not, 2 nobody can be asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

KEY_VARIABLE = "FGPIPE_KEY"

TYPES: dict[str, type | tuple[type, ...]] = {
    "room": str,
    "level": int,
    "share": (int, float),
    "mute": bool,
    "days": list,
    "options": dict,
}
"""Python's type of each argument, as the schema below declares them."""

PARAMETERS = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "description": "Which room", "enum": ["kitchen", "office"]},
        "level": {"type": "integer", "description": "Volume", "minimum": 0, "maximum": 9},
        "share": {"type": "number", "description": "Share of the bass", "enum": [0.25, 0.5]},
        "mute": {"type": "boolean", "description": "Silence it"},
        "days": {
            "type": "array",
            "description": "On which days",
            "items": {"type": "string", "enum": ["monday", "friday"]},
            "minItems": 1,
            "maxItems": 2,
        },
        "options": {
            "type": "object",
            "description": "More",
            "properties": {"fade": {"type": "boolean", "description": "Slowly"}},
            "required": ["fade"],
        },
    },
    "required": list(TYPES),
}

TOOL = {
    "type": "function",
    "function": {"name": "audio.set-volume", "description": "Sets the volume of a room", "parameters": PARAMETERS},
}

QUESTION = "Set the volume in the kitchen to 7 on Monday, bass at a quarter, not muted, fading."


@dataclass(frozen=True)
class Verdict:
    """What came of asking one model."""

    model: str
    answered_by: str
    seconds: float
    call: str
    fault: str
    """Empty if all is well."""


def main(words: Sequence[str] | None = None) -> int:
    """Ask everyone; the exit status."""
    options = read_words(words)
    client = openai.OpenAI(
        base_url=f"{options.url.rstrip('/')}/v1",
        api_key=os.environ.get(KEY_VARIABLE) or "none",
        timeout=options.timeout_s,
        max_retries=0,
    )
    try:
        models = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        return complain(options.url, error)
    wanted = options.models or models
    unknown = sorted({name.partition("@")[0] for name in wanted} - {name.partition("@")[0] for name in models})
    if unknown:
        print(f"{options.url}: got no model {', '.join(unknown)}, expected any of {', '.join(models)}", file=sys.stderr)
        return 2
    verdicts = [ask(client, name) for name in wanted]
    Console().print(render(options.url, verdicts))
    failed = [verdict for verdict in verdicts if verdict.fault]
    print(f"{len(verdicts) - len(failed)} of {len(verdicts)} answer as they should")
    return 1 if failed else 0


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Asks every adapter of an fgpipe box for one tool call.")
    parser.add_argument("models", nargs="*", help="which to ask; all without")
    parser.add_argument("--url", default="http://fgpipe:8080", help="address of the box (default: %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=60, help="longest wait for an answer (default: %(default)s)")
    return parser.parse_args(words)


def ask(client: openai.OpenAI, model: str) -> Verdict:
    """One question to `model`."""
    began = time.monotonic()
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 512,
    }
    try:
        answer = client.chat.completions.create(**request)
    except openai.OpenAIError as error:
        return Verdict(model, "", time.monotonic() - began, "", one_line(error))
    calls = answer.choices[0].message.tool_calls or []
    call = calls[0].function if calls else None
    shown = f"{call.name}({call.arguments})" if call else ""
    return Verdict(model, answer.model, time.monotonic() - began, shown, fault(calls))


def fault(calls: Sequence[Any]) -> str:
    """What is wrong with `calls`, as `got …, expected …`; empty if nothing is."""
    if len(calls) != 1:
        return f"got {len(calls)} calls, expected one"
    call = calls[0].function
    if call.name != TOOL["function"]["name"]:  # type: ignore[index]
        return f"got a call of {call.name}, expected audio.set-volume"
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return f"got {call.arguments!r}, expected arguments in JSON"
    if not isinstance(arguments, dict) or set(arguments) != set(TYPES):
        return f"got arguments {', '.join(map(str, arguments))}, expected {', '.join(TYPES)}"
    for name, expected in TYPES.items():
        value = arguments[name]
        if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
            return f"{name}: got {value!r}, expected the type its schema declares"
    return ""


def render(url: str, verdicts: Sequence[Verdict]) -> Table:
    """A line a model."""
    table = Table(title=url, title_justify="left")
    for column in ("model", "answered by", "seconds", "call", "verdict"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        said = f"[red]{verdict.fault.replace('[', '(')}[/red]" if verdict.fault else "[green]well[/green]"
        table.add_row(verdict.model, verdict.answered_by, f"{verdict.seconds:.2f}", verdict.call, said)
    return table


def complain(url: str, error: openai.OpenAIError) -> int:
    """Say why nobody can be asked."""
    if isinstance(error, openai.AuthenticationError):
        said, hint = "got HTTP 401, expected to be let in", f"{KEY_VARIABLE} holds one of the box's FGPIPE_GATEWAY_KEYS"
    elif isinstance(error, openai.APIConnectionError):
        said = "got no connection, expected the box to answer"
        hint = "`tailscale status` lists it if it is up; FGPIPE_GATEWAY_HOST=0.0.0.0 and a key open it to the tailnet"
    else:
        said, hint = f"got {one_line(error)}, expected a list of models", "is it the gateway's address?"
    print(f"{url}: {said}\n\nhint: {hint}", file=sys.stderr)
    return 2


def one_line(error: Exception) -> str:
    """`error` without its line breaks."""
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
