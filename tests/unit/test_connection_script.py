"""`serve/test_connection.py` where it must say no: closed ports, wrong calls, wrong keys."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tiny_server import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "serve" / "test_connection.py"

RIGHT = {"room": "kitchen", "level": 7, "share": 0.25, "mute": False, "days": ["monday"], "options": {"fade": True}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("connection_script", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(arguments: Any, name: str = "audio.set-volume") -> SimpleNamespace:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return SimpleNamespace(function=SimpleNamespace(name=name, arguments=text))


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ([call(RIGHT)], ""),
        ([call(RIGHT | {"share": 1})], ""),
        ([], "got 0 calls"),
        ([call(RIGHT), call(RIGHT)], "got 2 calls"),
        ([call(RIGHT, name="set-volume")], "expected audio.set-volume"),
        ([call("{'room': 1}")], "expected arguments in JSON"),
        ([call("[1]")], "expected room"),
        ([call({})], "expected room"),
        ([call(RIGHT | {"level": "7"})], "level: got '7'"),
        ([call(RIGHT | {"level": True})], "level: got True"),
        ([call(RIGHT | {"mute": "false"})], "mute: got 'false'"),
        ([call(RIGHT | {"days": "monday"})], "days: got 'monday'"),
        ([call(RIGHT | {"options": "{}"})], "options: got '{}'"),
    ],
)
def test_a_call_that_lost_its_types_is_no_success(script: ModuleType, calls: list[Any], told: str) -> None:
    """The check would be green while every number arrives as text, which is what stock parsers do."""
    found = script.fault(calls)
    assert found.count("\n") == 0
    assert (told in found) if told else (found == "")


def test_a_box_that_does_not_answer_is_said_in_two_lines() -> None:
    """A new user would read a traceback instead of what to look at."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--url", f"http://127.0.0.1:{free_port()}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "got no connection" in done.stderr
    assert "hint: `tailscale status`" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_pinned_packages_are_those_it_was_tested_with() -> None:
    """`uv run` would bring versions that nobody ran it with."""
    pins = dict(re.findall(r'"(\w+)==([\d.]+)"', SCRIPT.read_text().partition("# ///\n")[2].partition("# ///")[0]))
    pins = pins or dict(re.findall(r'"(\w+)==([\d.]+)"', SCRIPT.read_text()))
    tested = dict(re.findall(r"(?m)^([\w-]+)==([\d.]+)", (ROOT / "requirements" / "constraints.txt").read_text()))
    assert set(pins) == {"openai", "rich"}
    assert {name: tested[name] for name in pins} == pins
