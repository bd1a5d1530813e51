"""What the gateway costs: the same streams asked of a real vLLM directly and through the gateway, in turns, in one run.

    python benchmarks/gateway.py --streams 64 --rounds 8

Each round asks both ways, in alternating order, and gives one ratio of output tokens/s; the table has the median and
the range over the rounds. On a machine that others use too, CPU time a token says more: it is what the gateway takes
from a server that needs every core. The added time to first token is asked one request after another, so that no queue
in the server hides it; under load it is given too. Server, gateway and clients share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fgpipe.compose import compose  # noqa: E402
from fgpipe.serving import VllmServer, api  # noqa: E402

WAYS = ("direct", "gateway")


@dataclass(frozen=True)
class Load:
    """What is asked: `requests` of `tokens` output tokens each, `streams` at a time."""

    streams: int
    requests: int
    tokens: int
    model: str


@dataclass(frozen=True)
class Outcome:
    """What one way made of a load."""

    tokens_per_s: float
    first_token_s: list[float]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, str, int]]:
    """A real vLLM on the tiny model: address, name of the model, process id."""
    config = compose(["model=tiny", f"server.port={free_port()}", "server.max_model_len_tokens=2048", *options])
    with VllmServer(config.model, config.server, adapters=folder / "adapters", log=folder / "vllm.log") as running:
        assert running.process is not None
        yield running.base_url, config.model.id, running.process.pid


@contextmanager
def gateway(upstream: str, folder: Path, *options: str, source: Path = ROOT / "src") -> Iterator[tuple[str, int]]:
    """The gateway in front of `upstream`, as the command starts it from `source`: address and process id."""
    port = free_port()
    words = [f"gateway.upstreams=[{upstream}]", f"gateway.port={port}", f"paths.adapters={folder / 'adapters'}"]
    paths = [str(source.resolve()), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "fgpipe", "gateway", *words, *options]
    with open(folder / "gateway.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not _ready(f"http://127.0.0.1:{port}/ready"):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the gateway did not start:\n{(folder / 'gateway.log').read_text()}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def cpu_s(session: int) -> float:
    """CPU seconds of all processes of a session so far; server and gateway have one each."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ready(url: str) -> bool:
    try:
        api.fetch(url, timeout_s=5)
    except (OSError, api.RefusedError):
        return False
    return True


async def stream(session: aiohttp.ClientSession, url: str, load: Load, number: int) -> float:
    """Ask for one streamed answer; seconds to its first event. What is not a whole answer ends the run."""
    body = {
        "model": load.model,
        "messages": [{"role": "user", "content": f"How many orders came in on day {number}?"}],
        "max_tokens": load.tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    began, first, last = time.perf_counter(), 0.0, b""
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        async for data in answer.content.iter_any():
            first = first or time.perf_counter()
            last = data
    if answer.status != 200 or not last.endswith(b"data: [DONE]\n\n"):
        raise SystemExit(f"{url}: got HTTP {answer.status} ending in {last[-200:]!r}, expected a whole stream")
    return first - began


async def ask_all(url: str, load: Load) -> Outcome:
    """Put the whole load to `url`."""
    numbers = iter(range(load.requests))
    connector = aiohttp.TCPConnector(limit=0)
    waits: list[float] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            waits.append(await stream(session, url, load, number))

    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(load.streams)))
        seconds = time.perf_counter() - began
    return Outcome(load.requests * load.tokens / seconds, waits)


def measure(load: Load, rounds: int) -> dict[str, Any]:
    """The outcomes of every round; a first one only warms up."""
    import uvloop

    single = Load(1, 40, 4, load.model)
    kinds = ("tokens_per_s", "cpu_us", "first_token_s", "single_first_token_s")
    found: dict[str, Any] = {way: {kind: [] for kind in kinds} for way in WAYS}
    with tempfile.TemporaryDirectory() as name, server(Path(name), f"server.max_num_seqs={load.streams}") as served:
        address, model, server_pid = served
        load, single = (Load(one.streams, one.requests, one.tokens, model) for one in (load, single))
        with gateway(address, Path(name)) as (front, gateway_pid):
            urls = dict(zip(WAYS, (address, front), strict=True))
            for number in range(rounds + 1):
                for way in WAYS if number % 2 else reversed(WAYS):
                    before = cpu_s(server_pid), cpu_s(gateway_pid)
                    outcome = uvloop.run(ask_all(urls[way], load))
                    spent = cpu_s(server_pid) - before[0], cpu_s(gateway_pid) - before[1]
                    alone = uvloop.run(ask_all(urls[way], single))
                    if number:
                        found[way]["tokens_per_s"].append(outcome.tokens_per_s)
                        found[way]["cpu_us"].append([1e6 * part / (load.requests * load.tokens) for part in spent])
                        found[way]["first_token_s"] += outcome.first_token_s
                        found[way]["single_first_token_s"] += alone.first_token_s
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, ratios and what the gateway adds."""
    pairs = zip(found["direct"]["tokens_per_s"], found["gateway"]["tokens_per_s"], strict=True)
    ratios = sorted(through / direct for direct, through in pairs)
    result: dict[str, Any] = {"throughput_ratio": statistics.median(ratios), "ratios": ratios}
    for way in WAYS:
        result[way] = {"tokens_per_s": statistics.median(found[way]["tokens_per_s"])}
        servers, gateways = zip(*found[way]["cpu_us"], strict=True)
        result[way]["cpu_us_a_token"] = {"server": statistics.median(servers), "gateway": statistics.median(gateways)}
        for key in ("first_token_s", "single_first_token_s"):
            cuts = statistics.quantiles(found[way][key], n=100)
            result[way][key] = {"p50": cuts[49], "p99": cuts[98]}
    return result


def show(result: dict[str, Any], load: Load) -> None:
    """Print the table."""
    print(f"{load.streams} streams at a time, {load.tokens} tokens each, {load.requests} a round")
    print(f"{'':10}{'tokens/s':>10}{'TTFT p50':>12}{'p99':>10}{'alone p50':>12}{'p99':>10}")
    for way in WAYS:
        row = result[way]
        times = [row[key][cut] * 1000 for key in ("first_token_s", "single_first_token_s") for cut in ("p50", "p99")]
        shown = [f"{times[0]:9.1f} ms", f"{times[1]:7.0f} ms", f"{times[2]:9.2f} ms", f"{times[3]:7.1f} ms"]
        print(f"{way:10}{row['tokens_per_s']:10.0f}{''.join(shown)}")
    ratios = result["ratios"]
    print(f"throughput through the gateway: {result['throughput_ratio']:.3f} x ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    cpu = result["gateway"]["cpu_us_a_token"]
    share = cpu["gateway"] / (cpu["gateway"] + cpu["server"])
    print(f"CPU a token: server {cpu['server']:.0f} us, gateway {cpu['gateway']:.0f} us, {share:.1%} of both")
    added = result["gateway"]["single_first_token_s"]["p50"] - result["direct"]["single_first_token_s"]["p50"]
    print(f"added time to first token, one request at a time: {added * 1000:.2f} ms")


def main() -> None:
    """Print the table, or one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--streams", type=int, default=64)
    arguments.add_argument("--requests", type=int, default=256, help="a round and way")
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    load = Load(chosen.streams, chosen.requests, chosen.tokens, "")
    result = summary(measure(load, chosen.rounds))
    print(json.dumps(result)) if chosen.json else show(result, load)


if __name__ == "__main__":
    main()
