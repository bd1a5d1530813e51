"""The layers as a GPU computes them, in Triton's interpreter, against PyTorch's autograd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def errors() -> dict[str, Any]:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "fused_layers.py"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_gradients_are_those_of_autograd(errors: dict[str, Any]) -> None:
    """An adapter trained on a GPU would otherwise learn something else than its loss asks for."""
    assert errors["losses"] < 1e-5
    assert max(errors["gradients"]) < 1e-5
    assert max(errors["padding"]) < 1e-5


def test_nan_of_one_adapter_leaves_its_neighbours_alone(errors: dict[str, Any]) -> None:
    """One adapter that diverges would otherwise ruin all that share its steps."""
    assert errors["nan"]
    assert errors["beside_nan"] == [0.0, 0.0]
