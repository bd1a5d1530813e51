"""`serve/test_connection.py` as a user runs it, against a real server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_server import Served

SCRIPT = Path(__file__).parents[2] / "serve" / "test_connection.py"

pytestmark = pytest.mark.server


def run(served: Served, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--url", served.server.base_url, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"} | variables,
    )


def test_every_adapter_answers_and_the_exit_status_says_so(served: Served) -> None:
    """A user would not know whether the box works, or a script would go on with one that does not."""
    done = run(served)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("red", "blue", served.model.id):
        assert name in done.stdout
    assert "red@v0001" in done.stdout
    assert done.stdout.count("well") >= 3
    one = run(served, "red@v0001")
    assert (one.returncode, "1 of 1 answer" in one.stdout, "blue" in one.stdout) == (0, True, False)


def test_an_adapter_that_cannot_answer_fails_the_check(served: Served) -> None:
    """The one broken adapter among twenty would go unnoticed."""
    served.publish("unsound", 5)
    (served.adapters / "unsound" / "v0001" / "adapter_model.safetensors").write_bytes(b"no weights")
    try:
        done = run(served)
    finally:
        shutil.rmtree(served.adapters / "unsound")
    assert done.returncode == 1
    assert "unsound" in done.stdout
    missing = run(served, "nobody")
    assert (missing.returncode, "got no model nobody" in missing.stderr) == (2, True)
