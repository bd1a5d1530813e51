"""Calls as a client gets them, read by vLLM's stock parser and by ours: python benchmarks/tool_calls.py [--calls 2000].

Two real servers on the tiny model, one after the other. A grammar leaves the model no choice but to say each generated
call, exactly as training writes it; counted is how many come back through the OpenAI API as they were said: one call,
the same name, the same arguments with the same types. Plain calls have simple names and text arguments only.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fgpipe.compose import compose  # noqa: E402
from fgpipe.engines.http import client  # noqa: E402
from fgpipe.functiongemma import ToolCall, render_call  # noqa: E402
from fgpipe.serving import VllmServer  # noqa: E402
from fgpipe.serving.command import installed_build, serve_command, server_environment  # noqa: E402

AT_ONCE = 32
WORDS = (
    "river",
    "Oslo",
    "12",
    "3.5",
    "true",
    "say “hi”",
    "a, b",
    "{x: 1}",
    "2026-11-26",
    "O'Hara",
    "café",
    "x < y",
    "[]",
)
Case = tuple[str, dict[str, Any], ToolCall]


def value(source: random.Random, depth: int = 0) -> tuple[dict[str, Any], Any]:
    """A schema and a value of it."""
    kind = source.choice(("string", "integer", "number", "boolean", *(("array", "object") if depth < 2 else ())))
    match kind:
        case "string":
            return {"type": kind}, " ".join(source.sample(WORDS, source.randint(1, 2)))
        case "integer":
            return {"type": kind}, source.randint(-999, 99_999)
        case "number":
            return {"type": kind}, source.choice((source.randint(0, 99), round(source.uniform(-9, 9), 3), 1e-07))
        case "boolean":
            return {"type": kind}, source.random() < 0.5
        case "array":
            schema, _ = value(source, 2)
            items = [entry for made, entry in (value(source, 2) for _ in range(12)) if made == schema][:3]
            return {"type": kind, "items": schema}, items
    members = {name: value(source, depth + 1) for name in source.sample(("from", "to", "note", "count"), 2)}
    schemas = {name: schema for name, (schema, _) in members.items()}
    return {"type": "object", "properties": schemas}, {name: entry for name, (_, entry) in members.items()}


def case(source: random.Random, number: int) -> Case:
    """A group, a tool and a call to it."""
    plain = number % 4 == 0
    parts = [source.choice(("book", "find", "set", "plan")), source.choice(("ferry", "garden", "lamp", "parcel"))]
    separator = "_" if plain else source.choice((".", "-", "_"))
    members = {}
    for name in source.sample(("city", "level", "label", "size", "options", "when"), source.randint(0, 4) or plain):
        text = ({"type": "string"}, source.choice(("river", "Oslo", "Tuesday morning", "O'Hara", "café")))
        members[name] = text if plain else value(source)
    properties = {name: {**schema, "description": ""} for name, (schema, _) in members.items()}
    name = separator.join(parts)
    function = {"name": name, "description": "", "parameters": {"type": "object", "properties": properties}}
    # Not strict, so that the forced text is the only constraint.
    tool = {"type": "function", "function": {**function, "strict": False}}
    return "plain" if plain else "typed", tool, ToolCall(name, {name: entry for name, (_, entry) in members.items()})


def returned(chat: Any, model: str, made: Case, *, stream: bool) -> bool:
    """Whether a client gets the call as the model said it."""
    _, tool, call = made
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "go"}],
        "tools": [tool],
        "max_tokens": 600,
        "extra_body": {"structured_outputs": {"choice": [render_call(call)]}},
    }
    found: dict[int, list[str]] = {}
    content = ""
    if stream:
        for chunk in chat.create(**request, stream=True):
            content += chunk.choices[0].delta.content or ""
            for piece in chunk.choices[0].delta.tool_calls or []:
                entry = found.setdefault(piece.index, ["", ""])
                entry[0] += piece.function.name or ""
                entry[1] += piece.function.arguments or ""
    else:
        message = chat.create(**request).choices[0].message
        content = message.content or ""
        found = {
            index: [piece.function.name, piece.function.arguments]
            for index, piece in enumerate(message.tool_calls or [])
        }
    if len(found) != 1 or content.strip():
        return False
    ((name, arguments),) = found.values()
    try:
        read = json.loads(arguments)
    except ValueError:
        return False
    same_types = json.dumps(read, sort_keys=True) == json.dumps(call.arguments, sort_keys=True)
    return bool(name == call.name and same_types)


def measure(parser: str, cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """A row for each group and way of asking."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = compose(
        ["model=tiny", f"server.port={port}", "server.max_model_len_tokens=1024", "server.max_num_seqs=64"]
    )
    server = VllmServer(config.model, config.server, adapters=folder / "adapters", log=folder / f"{parser}.log")
    plugin = parser == "fgpipe"
    options: Any = {"adapters": folder / "adapters", "build": installed_build(), "plugin": plugin}
    server.command = serve_command(config.model, config.server, **options)
    server.variables = server_environment(config.server, **options)
    rows = []
    with server, ThreadPoolExecutor(AT_ONCE) as pool:
        chat = client(server.base_url).chat.completions
        for stream in (False, True):
            jobs = [pool.submit(returned, chat, config.model.id, made, stream=stream) for made in cases]
            exact = [job.result() for job in jobs]
            for group in ("plain", "typed"):
                hits = [hit for hit, made in zip(exact, cases, strict=True) if made[0] == group]
                rows.append(
                    {"parser": parser, "stream": stream, "calls": group, "count": len(hits), "exact": sum(hits)}
                )
    return rows


def main() -> None:
    """Print the table, or one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=2000)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    source = random.Random(20261126)
    cases = [case(source, number) for number in range(chosen.calls)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for parser in ("functiongemma", "fgpipe") for row in measure(parser, cases, Path(folder))]
    if chosen.json:
        print(json.dumps({"seed": 20261126, "rows": rows}))
        return
    for row in rows:
        way = "streamed" if row["stream"] else "at once"
        share = 100 * row["exact"] / row["count"]
        print(f"{row['parser']:14} {way:9} {row['calls']:6} {row['exact']:5} of {row['count']:5} exact  {share:5.1f} %")


if __name__ == "__main__":
    main()
