"""Checks of the folders in `.env`: there, readable, writable, with room, on a disk that is fast enough."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fgpipe.appliance import DESKTOP_DRIVES, here
from fgpipe.doctor.checks import Check

MIB, GIB = 2**20, 2**30

PROBE_BYTES = 64 * MIB
"""Written and fsynced once, for the speed of large files."""

SMALL_FILES, SMALL_BYTES = 64, 4096
"""Written and fsynced one by one, for the time a small file takes."""

SLOW_MIB_PER_S, SLOW_SMALL_MS = 50, 30
"""Below and above these a folder is called slow: a base of 0.5 GiB then takes 10 s to read, a publish 0.3 s longer."""

FULL_BYTES = 256 * MIB
"""With less, nothing can be measured, and soon nothing written."""


@dataclass(frozen=True)
class Folder:
    """A folder of the appliance."""

    variable: str
    purpose: str
    wanted_bytes: int
    """Free space below which it is worth a warning; 0: next to nothing is written there, and its speed is no matter."""
    is_written: bool = True
    """Whether a container that is not root writes there."""


FOLDERS = (
    Folder("FGPIPE_MODELS_DIR", "base models", 2 * GIB, is_written=False),
    Folder("FGPIPE_ADAPTERS_DIR", "adapters", GIB),
    Folder("HF_CACHE_DIR", "hub cache", 4 * GIB),
    Folder("VLLM_CACHE_DIR", "vLLM cache", 4 * GIB),
    Folder("FGPIPE_SECRETS_DIR", "secrets", 0, is_written=False),
    Folder("FGPIPE_CHECKOUT_DIR", "checkout", 0, is_written=False),
)


@dataclass(frozen=True)
class Speed:
    """What a disk did when it was tried."""

    mib_per_s: float
    small_file_ms: float


def folders(values: Mapping[str, str], *, adapters: Path) -> list[Check]:
    """A check for each configured folder; `adapters` stands in for an unset FGPIPE_ADAPTERS_DIR."""
    measured: dict[int, Speed] = {}
    checks = []
    for folder in FOLDERS:
        path = values.get(folder.variable, "")
        if not path and folder.variable == "FGPIPE_ADAPTERS_DIR" and adapters.is_dir():
            path = str(adapters)
        if path:
            checks.append(_folder(folder, path, measured, user=values.get("FGPIPE_USER", "")))
    return checks


def _folder(folder: Folder, text: str, measured: dict[int, Speed], *, user: str) -> Check:
    name, change = f"folder for {folder.purpose}", f"{folder.variable}: another folder"
    if re.match(r"[A-Za-z]:[\\/]", text) and os.name != "nt":
        drive = f"{DESKTOP_DRIVES}/{text[0].lower()}/" + text[3:].replace("\\", "/")
        return Check(
            name, "fail", f"got the Windows path {text}, expected it as Docker sees it", f"{folder.variable}={drive}"
        )
    path = here(Path(text).expanduser())
    if not path.is_dir():
        found = f"{path} is a file" if path.exists() else f"no {path}: Docker would make it, owned by root"
        return Check(name, "fail", found, f"{folder.variable}: mkdir -p {path}, or another folder")
    whose = f"{user} (FGPIPE_USER)" if user else "this user"
    change = f"{change}, or FGPIPE_USER: who owns it" if user else change
    if not _may(path, user, os.R_OK | os.X_OK):
        return Check(name, "fail", f"{path} cannot be read by {whose}", change)
    if folder.is_written and not _may(path, user, os.W_OK):
        return Check(name, "fail", f"{path} cannot be written by {whose}", change)
    if folder.variable == "FGPIPE_CHECKOUT_DIR" and not ((path / ".git").exists() and (path / "serve").is_dir()):
        return Check(name, "fail", f"{path} is no clone of this repository: update.sh could not run", change)
    if not folder.wanted_bytes:
        return Check(name, "ok", f"{path}: here")
    free = shutil.disk_usage(path).free
    if free < FULL_BYTES:
        return Check(name, "fail", f"{path}: {free / GIB:.2f} GiB free, expected {folder.wanted_bytes / GIB:g}", change)
    if not os.access(path, os.W_OK):  # nor can its speed be tried
        return Check(name, "ok", f"{path}: {free / GIB:.1f} GiB free")
    try:
        disk = path.stat().st_dev
        speed = measured.get(disk) or measured.setdefault(disk, measure(path))
    except OSError as error:
        return Check(name, "fail", f"{path}: {error.strerror}", change)
    slow = speed.mib_per_s < SLOW_MIB_PER_S or speed.small_file_ms > SLOW_SMALL_MS
    found = f"{path}: {free / GIB:.1f} GiB free, {speed.mib_per_s:.0f} MiB/s, {speed.small_file_ms:.1f} ms a small file"
    if free < folder.wanted_bytes:
        return Check(name, "warn", f"{found}; expected {folder.wanted_bytes / GIB:g} GiB free", change)
    if slow:
        where = "a folder inside WSL2 is faster than /mnt/…" if text.startswith("/mnt/") else "an SSD is faster"
        return Check(name, "warn", f"{found}; slow", f"{folder.variable}: {where}")
    return Check(name, "ok", found)


def _may(path: Path, user: str, wanted: int) -> bool:
    """Whether the containers' user, uid:gid, may do to a folder what `wanted` (os.R_OK …) says; empty: this process."""
    matched = re.fullmatch(r"(\d+):(\d+)", user)
    if matched is None:
        return os.access(path, wanted)
    owner, group = map(int, matched.groups())
    found = path.stat()
    shift = 6 if owner == found.st_uid else 3 if group == found.st_gid else 0
    return owner == 0 or (found.st_mode >> shift) & wanted == wanted


def measure(folder: Path) -> Speed:
    """Write and fsync in a scratch folder inside `folder`, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".fgpipe-doctor-", dir=folder) as scratch:
        block, start = os.urandom(MIB), time.monotonic()
        with open(Path(scratch) / "large", "wb") as handle:
            for _ in range(PROBE_BYTES // MIB):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        large_s = time.monotonic() - start
        start = time.monotonic()
        for number in range(SMALL_FILES):
            with open(Path(scratch) / str(number), "wb") as handle:
                handle.write(block[:SMALL_BYTES])
                handle.flush()
                os.fsync(handle.fileno())
        small_s = time.monotonic() - start
    return Speed(PROBE_BYTES / MIB / max(large_s, 1e-9), 1000 * small_s / SMALL_FILES)
