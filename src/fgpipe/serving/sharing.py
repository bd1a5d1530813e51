"""One GPU for several processes at the same time: NVIDIA's multi-process service (MPS), for as long as replicas run.

Without it the driver gives the GPU to one process after the other; with it their kernels run side by side. On an H100
four engines made 1.4 times the tokens (docs/results.md). Its price: a process that breaks the GPU's rules ends all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgpipe.progress import say

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
TIMEOUT_S = 20.0


@contextmanager
def shared_gpu() -> Iterator[dict[str, str]]:
    """Variables for processes that are to share the GPU while the block lasts; empty where that is not possible.

    A service that the user has started is used as it is, and goes on afterwards.
    """
    control = shutil.which(CONTROL)
    if control is None or PIPES in os.environ:
        if control is None:
            say(f"gpu:      no {CONTROL} here; the replicas take turns on the GPU")
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="fgpipe-mps-") as folder:
        variables = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        if (fault := _control(control, ["-d"], variables)) is not None:
            say(f"gpu:      {CONTROL} -d: {fault}; the replicas take turns on the GPU")
            yield {}
            return
        say("gpu:      shared by NVIDIA's multi-process service (server.mps=false: by turns)")
        try:
            yield variables
        finally:
            _control(control, [], variables, order="quit\n")


def _control(control: str, words: list[str], variables: dict[str, str], *, order: str = "") -> str | None:
    """Run the control program; what it says if it fails."""
    # Files, as the daemon would keep a pipe open.
    log = Path(variables[PIPES]) / "fgpipe-control.log"
    try:
        with open(log, "wb") as out:
            done = subprocess.run(
                [control, *words],
                env={**os.environ, **variables},
                input=order.encode(),
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    return None if done.returncode == 0 else said or f"status {done.returncode}"
