"""Ten times more clients than a real vLLM and the gateway's queue can take, for some minutes: what becomes of them all.

    python benchmarks/overload.py --minutes 10

Clients ask without pause, half of them streaming; one that is refused waits as long as Retry-After says. Nothing may
crash or hang, every refusal must say when to come back, every request that was taken must be answered whole, the queue
must keep its bound, and the gateway's memory must not grow. The exit status is 1 if any of that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gateway import gateway, server

IN_FLIGHT = 16
QUEUED = 16
CLIENTS = 10 * (IN_FLIGHT + QUEUED)
SAMPLE_S = 1.0
GROWTH = 1.1
"""Most that memory may have grown from the second tenth of the time to the last."""


@dataclass
class Tally:
    """What came of the requests, and samples of the gateway's state."""

    counts: Counter[str] = field(default_factory=Counter)
    resident_mib: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    in_flight: list[float] = field(default_factory=list)
    retry_after_s: Counter[int] = field(default_factory=Counter)
    answer_s: list[float] = field(default_factory=list)


async def client(session: aiohttp.ClientSession, url: str, model: str, number: int, until: float, tally: Tally) -> None:
    """Ask until the time is over."""
    stream = bool(number % 2)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Is order {number} here?"}],
        "max_tokens": 24,
        "ignore_eos": True,
        "temperature": 0,
        "stream": stream,
    }
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.counts[f"broken: {type(error).__name__}"] += 1
            continue
        if answer.status == 200:
            whole = text.endswith(b"data: [DONE]\n\n") if stream else b'"finish_reason":"length"' in text
            tally.counts["answered" if whole else "cut off"] += 1
            tally.answer_s.append(time.monotonic() - began)
        elif answer.status == 429 and answer.headers.get("Retry-After", "").isdigit():
            wait_s = int(answer.headers["Retry-After"])
            tally.counts["refused"] += 1
            tally.retry_after_s[wait_s] += 1
            await asyncio.sleep(min(wait_s, max(0.0, until - time.monotonic())))
        else:
            tally.counts[f"HTTP {answer.status}"] += 1


async def watch(session: aiohttp.ClientSession, url: str, pid: int, until: float, tally: Tally) -> None:
    """Sample memory, queue and requests in flight."""
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        tally.resident_mib.append(int(found[1]) / 1024 if found else 0.0)
        async with session.get(f"{url}/metrics") as answer:
            text = await answer.text()
        for name, samples in (("queued", tally.queued), ("in_flight", tally.in_flight)):
            values = re.findall(rf"^fgpipe_gateway_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
            samples.append(sum(map(float, values)))
        await asyncio.sleep(SAMPLE_S)


async def overload(url: str, model: str, pid: int, minutes: float) -> Tally:
    """Let all clients ask for `minutes`; returns when the last of them has its answer."""
    tally, until = Tally(), time.monotonic() + 60 * minutes
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        asking = (client(session, url, model, number, until, tally) for number in range(CLIENTS))
        await asyncio.gather(watch(session, url, pid, until, tally), *asking)
    return tally


def summary(tally: Tally, answered_by_server: float) -> dict[str, Any]:
    """Figures, and whether each promise was kept."""
    tenth = max(1, len(tally.resident_mib) // 10)
    early, late = tally.resident_mib[tenth : 2 * tenth], tally.resident_mib[-tenth:]
    memory = {
        "early_mib": sum(early) / len(early),
        "late_mib": sum(late) / len(late),
        "most_mib": max(tally.resident_mib),
    }
    times = sorted(tally.answer_s)
    odd = {name: count for name, count in tally.counts.items() if name not in ("answered", "refused")}
    return {
        "clients": CLIENTS,
        "counts": dict(tally.counts),
        "memory": memory,
        "most_queued": max(tally.queued),
        "most_in_flight": max(tally.in_flight),
        "retry_after_s": dict(sorted(tally.retry_after_s.items())),
        "answer_s": {"p50": times[len(times) // 2], "p99": times[int(len(times) * 0.99)]},
        "kept": {
            "nothing but answers and refusals with Retry-After": not odd,
            "every request that was taken was answered whole": tally.counts["answered"] == answered_by_server,
            "queue within its bound": max(tally.queued) <= QUEUED,
            "in flight within its bound": max(tally.in_flight) <= IN_FLIGHT,
            "memory flat": memory["late_mib"] <= GROWTH * memory["early_mib"],
        },
    }


async def counted(url: str) -> float:
    """Requests the gateway says it has answered with 200."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    values = re.findall(r'^fgpipe_gateway_requests_total\{.*status="200".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, values))


def measure(minutes: float) -> dict[str, Any]:
    """Start server and gateway, overload them, and sum up."""
    limits = (
        f"gateway.max_in_flight={IN_FLIGHT}",
        f"gateway.spill_in_flight={IN_FLIGHT}",
        f"gateway.max_queued={QUEUED}",
    )
    with (
        tempfile.TemporaryDirectory() as name,
        server(Path(name), f"server.max_num_seqs={IN_FLIGHT}") as (address, model, _),
        gateway(address, Path(name), *limits) as (url, pid),
    ):
        tally = asyncio.run(overload(url, model, pid, minutes))
        return summary(tally, asyncio.run(counted(url)))


def main() -> None:
    """Print the figures; exit 1 if a promise was broken."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    result = measure(chosen.minutes)
    if chosen.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            lines = value.items() if isinstance(value, dict) else [("", value)]
            print(f"{key}: " + ", ".join(f"{name} {figure}".strip() for name, figure in lines))
    sys.exit(not all(result["kept"].values()))


if __name__ == "__main__":
    main()
