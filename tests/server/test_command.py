"""`python -m fgpipe serve` as a user runs it, on the shipped tiny model, with no adapter published."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fgpipe.engines.http import ask
from tiny_server import chat_tools, free_port

pytestmark = pytest.mark.server

QUESTION = [
    {"role": "developer", "content": "You are a model that can do function calling with the following functions"},
    {"role": "user", "content": "Set the volume to 7"},
]


def test_serve_answers_with_calls_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
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
            engines = _descendants(process.pid)
            answer = ask(f"http://127.0.0.1:{port}", model="fgpipe/tiny", messages=QUESTION, tools=chat_tools()[:1])
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
    assert engines
    assert not [pid for pid in engines if _alive(pid)]
    assert [call["name"] for call in answer.calls] == ["audio.set-volume"]
    assert answer.calls[0]["arguments"]["level"] == 7


def _descendants(pid: int) -> list[int]:
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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
