"""What `python -m fgpipe plan` says of a server against what vLLM says it took: part `plan` of `serving.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from serving_ways import Bench

from fgpipe.serving import VllmServer, api, gpus, installed_build
from fgpipe.serving.memory import GIB

NUMBER = r"([\d.,]+)"

LINES = {
    "loaded": rf"Model loading took {NUMBER} GiB",
    "kv_gib": rf"Available KV cache memory: {NUMBER} GiB",
    "tokens": rf"KV cache size: {NUMBER} tokens",
    "concurrency": rf"Maximum concurrency for [\d,]+ tokens per request: {NUMBER}x",
    "seen": rf"Free memory on device \([\d.]+/{NUMBER} GiB\)",
    "share": rf"Desired GPU memory utilization is \([\d.]+, {NUMBER} GiB\)",
    "consumed": rf"Actual usage is {NUMBER} GiB for consumed memory",
    "peak": rf"{NUMBER} GiB for peak activation",
    "graphs": rf"{NUMBER} GiB for CUDAGraph memory",
    "graphs_estimated": rf"GiB \(actual\), {NUMBER} GiB \(estimated\)",
    "graphs_reserved": rf"Estimated CUDA graph memory: {NUMBER} GiB total",
}
"""vLLM's log, version 0.32."""


def compare(bench: Bench, *, timeout_s: float) -> dict[str, Any]:
    """Start one fgpipe server alone on the machine, at its own settings, and compare.

    Raises:
        ServeError: it does not start.
    """
    config = bench.config(f"server.start_timeout_s={max(1, timeout_s):.0f}")
    plan = planned(bench, config.server.model_dump())
    before = used_bytes()
    server = VllmServer(bench.model, config.server, adapters=bench.adapters, log=bench.logs / "plan.log")
    with server:
        taken = used_bytes() - before
        metrics = api.fetch(f"{server.base_url}/metrics")
    log = server.log.read_text(errors="replace")
    said = {name: float(found[-1].replace(",", "")) for name, line in LINES.items() if (found := re.findall(line, log))}
    blocks = re.search(r'vllm:cache_config_info\{[^}]*num_gpu_blocks="(\d+)"', metrics)
    if blocks:
        said["blocks"] = float(blocks[1])
    said["taken"] = taken / GIB
    return {"plan": plan, "vllm": said, "rows": rows(plan, said)}


def planned(bench: Bench, server: dict[str, Any]) -> dict[str, Any]:
    """What the command `plan` prints for that server."""
    keys = ("max_lora_rank", "max_loras", "max_cpu_loras", "max_num_seqs", "max_model_len_tokens")
    keys += ("max_num_batched_tokens", "gpu_memory_utilization", "cpu_kv_cache_gib", "enforce_eager")
    words = [f"server.{key}={'null' if server[key] is None else server[key]}" for key in keys]
    words += [f"model.path={bench.model.path}", *([] if installed_build() == "gpu" else ["gpu=cpu"])]
    command = [sys.executable, "-m", "fgpipe", "plan", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"plan: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def used_bytes() -> int:
    """Of the first GPU, by all processes; 0 without one."""
    found = gpus.found_gpus()
    return found[0].used_bytes if found else 0


def rows(plan: dict[str, Any], said: dict[str, float]) -> list[dict[str, Any]]:
    """A row a quantity: planned, vLLM's, difference in per cent of vLLM's; sizes in GiB."""
    model = plan["models"][0]
    size = {name: value / GIB for name, value in model["bytes"].items()}
    fixed = sum(value for name, value in size.items() if name != "kv_cache")
    loaded = size["weights"] + size["rotary_tables"] + size.get("adapter_slots", 0)
    graphs = size.get("cuda_graphs", 0)
    total = plan["gpu"]["total_bytes"] / GIB
    estimated = said.get("graphs_reserved", said.get("graphs_estimated", 0.0))
    pairs: list[tuple[str, float, float | None]] = [
        ("KV cache, tokens", model["kv_cache_tokens"], said.get("tokens")),
        ("sequences of full length", model["full_length_sequences"], said.get("concurrency")),
    ]
    if total:
        context = plan["context_bytes"] / GIB
        share = model["gpu_memory_utilization"] * 0.98 * total
        pairs = [
            ("what CUDA sees of the GPU", 0.98 * total, said.get("seen")),
            ("its share", share, said.get("share")),
            ("weights, tables, slots", loaded, said.get("loaded")),
            ("activations", size["activations"], _less(said.get("peak"), estimated)),
            ("CUDA graphs, taken", graphs, said.get("graphs")),
            ("CUDA graphs, reserved before", graphs, estimated or None),
            ("other", size.get("other", 0), _less(said.get("consumed"), said.get("loaded"))),
            ("all but the KV cache", fixed, _less(said.get("share"), said.get("kv_gib"))),
            ("KV cache", size["kv_cache"], said.get("kv_gib")),
            *pairs,
            ("nvidia-smi, share and context", share + context, said.get("taken") or None),
        ]
    return [
        {"what": what, "planned": ours, "vllm": theirs, "difference_percent": _percent(ours, theirs)}
        for what, ours, theirs in pairs
    ]


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part


def _percent(ours: float, theirs: float | None) -> float | None:
    return None if not theirs else 100 * (ours / theirs - 1)


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    lines = [f"{'GiB, unless it says otherwise':34}{'planned':>14}{'vLLM':>14}{'difference':>12}"]
    for row in found:
        theirs = "not said" if row["vllm"] is None else f"{row['vllm']:,.2f}"
        gap = "" if row["difference_percent"] is None else f"{row['difference_percent']:+.1f} %"
        lines.append(f"{row['what']:34}{row['planned']:14,.2f}{theirs:>14}{gap:>12}")
    return lines
