"""Calls of the tiny model to tools it never saw, with the grammar and without.

    python benchmarks/grammar.py [--tools 200] [--rounds 3]

One real server. Each round asks every question three ways: with tools that are not strict (no grammar), with the
grammar where the model may also answer in prose, and with the grammar and a call required. Counted are answers with a
call, calls that fit their function's schema, answers cut off by max_tokens, and what the parser had to mend; tokens/s
of the three ways are compared within a round. The tools are made up here; no shipped task has them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fgpipe.compose import compose  # noqa: E402
from fgpipe.engines.http import client  # noqa: E402
from fgpipe.functiongemma import ToolCall  # noqa: E402
from fgpipe.functiongemma.fit import declared_parameters, fit_call  # noqa: E402
from fgpipe.functiongemma.tokens import TRIGGER_SENTENCE  # noqa: E402
from fgpipe.serving import VllmServer  # noqa: E402

AT_ONCE = 16
MAX_TOKENS = 384
WAYS = {"no grammar": ("auto", False), "grammar, auto": ("auto", None), "grammar, required": ("required", None)}
VERBS = ("charter", "repaint", "audit", "irrigate", "calibrate", "catalogue", "insure", "dispatch", "polish", "survey")
THINGS = (
    "ferry",
    "orchard",
    "telescope",
    "greenhouse",
    "carousel",
    "lighthouse",
    "vineyard",
    "glacier",
    "piano",
    "beehive",
)
PARAMETERS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "deck": ({"type": "string", "enum": ["upper", "lower", "aft"]}, ("upper", "aft")),
    "crew": ({"type": "integer"}, (3, 12, 40)),
    "depth_m": ({"type": "number"}, (1.5, 7, 0.25)),
    "insured": ({"type": "boolean"}, (True, False)),
    "owner": ({"type": "string"}, ("Ines Okafor", "the harbour office", "Bo")),
    "codes": ({"type": "array", "items": {"type": "string"}}, (["K4", "M9"], ["Z1"])),
    "seats": ({"type": "array", "items": {"type": "integer"}}, ([4, 7], [12])),
    "grade": ({"type": "integer", "minimum": 1, "maximum": 9}, (2, 9)),
    "site": (
        {
            "type": "object",
            "properties": {"row": {"type": "integer"}, "zone": {"type": "string"}},
            "required": ["zone"],
        },
        ({"row": 4, "zone": "B"}, {"zone": "north"}),
    ),
}


@dataclass(frozen=True)
class Question:
    """A tool and what a user says who wants it called."""

    tool: dict[str, Any]
    text: str


def question(source: random.Random, verb: str, thing: str, version: int) -> Question:
    """A tool of one to five parameters, some of them required, and a request that names values for them."""
    names = source.sample(sorted(PARAMETERS), source.randint(1, 5))
    required = names[: source.randint(1, len(names))]
    properties = {
        name: {**PARAMETERS[name][0], "description": f"The {name.replace('_', ' ')} of the {thing}"} for name in names
    }
    said = [f"{name.replace('_', ' ')} {json.dumps(source.choice(PARAMETERS[name][1]))}" for name in names]
    separator = source.choice("_.-")
    function = {
        "name": f"{verb}{separator}{thing}{version or ''}",
        "description": f"{verb.capitalize()}s a {thing}",
        "parameters": {"type": "object", "properties": properties, "required": required},
    }
    return Question({"type": "function", "function": function}, f"Please {verb} the {thing}: {', '.join(said)}.")


def questions(count: int) -> list[Question]:
    """As many questions, each about a tool of its own."""
    source = random.Random(20261126)
    pairs = [(verb, thing) for verb in VERBS for thing in THINGS]
    return [question(source, *pairs[number % len(pairs)], number // len(pairs)) for number in range(count)]


def ask(chat: Any, model: str, asked: Question, way: str) -> Counter[str]:
    """What came of one question, counted."""
    choice, strict = WAYS[way]
    function = asked.tool["function"] if strict is None else {**asked.tool["function"], "strict": strict}
    answer = chat.create(
        model=model,
        messages=[{"role": "developer", "content": TRIGGER_SENTENCE}, {"role": "user", "content": asked.text}],
        tools=[{"type": "function", "function": function}],
        tool_choice=choice,
        max_tokens=MAX_TOKENS,
    )
    made = answer.choices[0].message.tool_calls or []
    declared = declared_parameters([asked.tool])
    fitted = [fit_call(ToolCall(call.function.name, json.loads(call.function.arguments)), declared) for call in made]
    valid = sum(not call.violations for call in fitted)
    cut = answer.choices[0].finish_reason == "length"
    return Counter(
        answers=1,
        with_call=bool(made),
        calls=len(made),
        valid=valid,
        cut_off=cut,
        broken="<start_function_call>" in (answer.choices[0].message.content or "") and not cut,
        tokens=answer.usage.completion_tokens,
    )


@contextmanager
def tiny_server() -> Iterator[tuple[VllmServer, str]]:
    """A server on the tiny model without adapters, and the model's name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes = ["server.max_model_len_tokens=2048", f"server.max_num_seqs={AT_ONCE}"]
    config = compose(["model=tiny", f"server.port={port}", *sizes])
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vllm.log"
        with VllmServer(config.model, config.server, adapters=Path(folder) / "adapters", log=log) as server:
            yield server, config.model.id


def repairs(url: str) -> int:
    """Arguments the parser has mended since the server started."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = re.findall(r"^fgpipe:tool_call_repairs_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(sum(map(float, found)))


def measure(count: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Counts and tokens/s of each way; the first round only warms the server up."""
    results: dict[str, dict[str, Any]] = {way: {"rates": []} for way in WAYS}
    asked = questions(count)
    with tiny_server() as (server, model), ThreadPoolExecutor(AT_ONCE) as pool:
        chat = client(server.base_url).chat.completions
        for number in range(rounds + 1):
            for way in WAYS:
                before, began = repairs(server.base_url), time.perf_counter()
                counts = sum(pool.map(lambda one, way=way: ask(chat, model, one, way), asked), Counter())
                seconds = time.perf_counter() - began
                if number:
                    results[way]["rates"].append(counts["tokens"] / seconds)
                results[way] |= {**counts, "mended": repairs(server.base_url) - before}
    return results


def main() -> None:
    """Print the table, or one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tools", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    results = measure(chosen.tools, chosen.rounds)
    bare = results["no grammar"]["rates"]
    for row in results.values():
        row["ratios"] = [rate / base for rate, base in zip(row["rates"], bare, strict=True)]
    if chosen.json:
        print(json.dumps(results))
        return
    for way, row in results.items():
        count = {name: row.get(name, 0) for name in ("answers", "with_call", "calls", "valid", "broken", "cut_off")}
        print(f"{way:18} {'  '.join(f'{name} {number}' for name, number in count.items())}  mended {row['mended']}")
        rate, ratios = statistics.median(row["rates"]), row["ratios"]
        span = f"{statistics.median(ratios):.2f} x no grammar ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{'':18} {rate:6.0f} tokens/s  {span}")


if __name__ == "__main__":
    main()
