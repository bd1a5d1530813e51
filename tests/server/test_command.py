"""`python -m fgpipe serve` as a user runs it, on the shipped tiny model, with no adapter published."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fgpipe import functiongemma
from fgpipe.compose import compose
from fgpipe.engines.hf import HfEngine
from fgpipe.engines.http import Answer, ask
from tiny_server import free_port, gone

pytestmark = pytest.mark.server

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "set_volume",
            "description": "Sets the volume of a speaker",
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "description": "Room of the speaker"},
                    "level": {"type": "integer", "description": "Volume, 0 to 10"},
                },
                "required": ["room", "level"],
            },
        },
    }
]

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [
        {"role": "developer", "content": functiongemma.tokens.TRIGGER_SENTENCE},
        {"role": "user", "content": question},
    ]
    for question in ("Set volume: room kitchen, level 4", "set_volume room 'office' level 9", "Hello there")
]


def test_serve_answers_as_transformers_does_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """The first thing a new user tries would fail without an adapter, or leave engines behind that hold the memory."""
    port = free_port()
    words = ["serve", "model=tiny", f"server.port={port}", f"paths.adapters={tmp_path / 'missing'}"]
    with (
        open(tmp_path / "stderr", "w+") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "fgpipe", *words], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["ready:", f"http://127.0.0.1:{port}/v1"]
            processes = descendants(process.pid)
            answers = [
                ask(f"http://127.0.0.1:{port}", model="fgpipe/tiny", messages=messages, tools=TOOLS)
                for messages in CONVERSATIONS
            ]
            process.send_signal(signal.SIGINT)
            output = process.stdout.read()
            process.wait(timeout=60)
        finally:
            process.kill()
        stderr.seek(0)
        log = stderr.read()
    assert process.returncode == 130, log
    assert "adapters: none yet" in output
    assert "Traceback" not in log
    assert processes
    assert all(gone(pid) for pid in processes)
    assert answers == expected_answers()
    assert any(answer.calls for answer in answers)


def expected_answers() -> list[Answer]:
    """What the tiny model says through transformers."""
    tiny = compose(["model=tiny"]).model
    prompts = [functiongemma.render(messages, TOOLS, add_generation_prompt=True) for messages in CONVERSATIONS]
    with HfEngine(tiny) as engine:
        outputs = [functiongemma.parse_output(made.text) for made in engine.generate(prompts, max_new_tokens=256)]
    return [
        Answer(
            content=output.content,
            calls=[{"name": call.name, "arguments": call.arguments} for call in output.calls],
            finish_reason="tool_calls" if output.calls else "stop",
        )
        for output in outputs
    ]


def descendants(pid: int) -> list[int]:
    """Ids of the processes that `pid` started, and that these started."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found
