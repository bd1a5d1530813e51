"""What went wrong with a server, read from its log: the root cause in a line, not vLLM's three stacked tracebacks."""

from __future__ import annotations

import re
from pathlib import Path

from fgpipe.errors import ServeError

TAIL_BYTES = 64 * 1024

_PREFIX = re.compile(r"^(\(\w+ pid=\d+\)\s*)?((INFO|WARNING|ERROR|DEBUG)\s+[\d-]+\s+[\d:.]+\s+(\[[^\]]*\]\s*)?)?")
"""What vLLM puts before a message: process, level, time, source line."""

_CAUSE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception)|OSError|Killed): \S")

_CONSEQUENCE = re.compile(r"Engine core initialization failed|EngineDeadError|DeprecationWarning|FutureWarning")
"""Errors that only say that another one came before."""

HINTS = (
    ("address already in use", "another program took the port: server.port=8001"),
    (
        "out of memory",
        "give vLLM less: server.gpu_memory_utilization, server.max_model_len_tokens, server.max_num_seqs",
    ),
    ("Available memory", "give vLLM less: server.cpu_kv_cache_gib (CPU), server.gpu_memory_utilization (GPU)"),
    ("max_model_len", "the model is made for shorter texts: lower server.max_model_len_tokens"),
    (
        "has not been registered",
        "vLLM does not see fgpipe's plugin: install fgpipe in vLLM's environment (pip install --no-deps)",
    ),
    ("gated repo", "accept the licence on the model's page and set HF_TOKEN, or model=tiny"),
)
"""(what the cause contains, what to do about it)"""


def died(log: Path, code: int | None) -> ServeError:
    """The error for a server that ended; names the root cause if its log has one."""
    lines = messages(log)
    cause = root_cause(lines)
    said = cause or (lines[-1] if lines else "it wrote nothing")
    hint = next((hint for mark, hint in HINTS if mark.lower() in said.lower()), "")
    if not cause and len(lines) > 1:
        said = " | ".join(lines[-3:])
    return ServeError(
        f"vLLM: ended with exit code {code}: {said}", hint=f"{hint}; whole log: {log}" if hint else f"whole log: {log}"
    )


def too_slow(log: Path, limit_s: float) -> ServeError:
    """The error for a server that does not become ready."""
    return ServeError(
        f"vLLM: got no answer in {limit_s:.0f} s, expected it to be ready; last log line: {last_line(log)}",
        hint=f"server.start_timeout_s={2 * limit_s:.0f} waits longer; whole log: {log}",
    )


def root_cause(lines: list[str]) -> str:
    """The first line that names an exception which is not merely the consequence of another; "" if there is none."""
    return next((line for line in lines if _CAUSE.match(line) and not _CONSEQUENCE.search(line)), "")


def last_line(log: Path) -> str:
    """The newest thing vLLM said it is doing, for progress lines; whatever came last if it said nothing yet."""
    lines = _tail(log)
    said = [line for line in lines if "INFO" in line] or lines
    return _PREFIX.sub("", said[-1])[:100] if said else "starting Python"


def messages(log: Path) -> list[str]:
    """The non-empty lines at the end of the log, without vLLM's prefixes."""
    found = (_PREFIX.sub("", line).strip() for line in _tail(log))
    return [line for line in found if line]


def _tail(log: Path) -> list[str]:
    try:
        with open(log, "rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL_BYTES))
            text = handle.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
