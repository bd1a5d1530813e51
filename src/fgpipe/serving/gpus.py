"""Which GPUs this machine has, as nvidia-smi says; no torch, no CUDA."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20

KNOWN_MIB: Mapping[str, int] = {
    "rtx3060": 12288,
    "rtx3090": 24576,
    "rtx4060ti-16": 16380,
    "rtx4070": 12282,
    "rtx4080": 16376,
    "rtx4090": 24564,
    "rtx5090": 32607,
    "t4": 15360,
    "l4": 23034,
    "a10g": 23028,
    "l40s": 46068,
    "a100-40": 40960,
    "a100-80": 81920,
    "h100": 81559,
    "h200": 143771,
}
"""Total memory by a short name, MiB as nvidia-smi prints it; only the h200's was read on the machine itself."""

QUERY_TIMEOUT_S = 20.0
"""A driver that hangs must not hang us."""


@dataclass(frozen=True)
class FoundGpu:
    """A GPU of this machine."""

    name: str
    total_bytes: int
    used_bytes: int
    """By the driver, a desktop and every program now running."""
    driver: str


def found_gpus() -> list[FoundGpu]:
    """The machine's GPUs; none without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "--query-gpu=name,memory.total,memory.used,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", fields, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=QUERY_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> FoundGpu | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != 4 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return FoundGpu(words[0], int(words[1]) * MIB, int(words[2]) * MIB, words[3])
