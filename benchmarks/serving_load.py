"""Load for a server of streams: client processes that cost little, and what they saw of every request.

A worker is `python benchmarks/serving_load.py`: it reads a job as a line of JSON from its stdin and answers with a line
of JSON. It speaks HTTP/1.1 by itself and looks at an event only as far as it must, because the clients have to take in
tens of thousands of events a second on the cores that the server leaves them. `Clients` starts the workers and shares a
load out among them.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

PREFIX_TOKENS = 256
"""At the beginning of all prompts for one adapter: its tools and instruction, which the server's cache keeps."""

OWN_TOKENS = (120, 0.7, 16, 1024)
ANSWER_TOKENS = (48, 0.6, 8, 256)
"""Log-normal lengths: median, sigma, least, most. An answer is as long as was asked for (`ignore_eos`)."""

FIRST_ID = 1000
"""Prompts are random token ids from here on: beyond control tokens."""


@dataclass(frozen=True)
class Load:
    """What one measurement asks for.

    Attributes:
        models: names that requests are mixed over evenly; each prompt begins with one of `prefixes` prefixes, the one
            of its adapter, or for the base a random one, so that prompts are alike whoever answers.
        clients: streams at a time, each client asking again at once; 0: arrivals at `rate_rps` instead.
        rate_rps: Poisson arrivals a second, whatever is still being answered.
        warm_s: until the measured window begins.
        window_s: the measured window; nothing is asked after it, what is in flight is waited for.
        patience_s: longest wait for that.
        least_id, most_id: range of token ids in prompts.
    """

    url: str
    models: tuple[str, ...]
    seed: int
    clients: int = 0
    rate_rps: float = 0.0
    warm_s: float = 4.0
    window_s: float = 12.0
    patience_s: float = 60.0
    prefixes: int = 20
    least_id: int = FIRST_ID
    most_id: int = 262_143


@dataclass
class Seen:
    """What the clients saw, in seconds of one clock."""

    rows: list[tuple[float, float, float, int, int]] = field(default_factory=list)
    """A request each: asked, first event, end, output tokens, place of its model among the load's."""
    faults: list[str] = field(default_factory=list)
    begin: float = 0.0
    """Of the window."""
    end: float = 0.0
    busy: float = 0.0
    """Largest share of one core that a worker used."""


class FaultError(Exception):
    """A request was not answered whole."""


class Stream(asyncio.Protocol):
    """One connection to the server, asked one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[None] | None = None
        self._restart()

    def _restart(self) -> None:
        self.head: bytes | None = b""
        self.tail = b""
        self.status = 0
        self.length: int | None = None
        self.first = 0.0

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """End an answer that is not whole."""
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(FaultError(f"connection lost: {error or 'closed by the server'}"))

    def data_received(self, data: bytes) -> None:
        """Note the first event and the end of an answer."""
        if self.head is not None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            headers, data = self.head[:end], self.head[end + 4 :]
            self.head = None
            self.status = int(headers[9:12])
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", headers)
            self.length = int(length[1]) if length else None
        if not self.first and b"data: {" in data:
            self.first = time.monotonic()
        # The usage and the end stand in the last few hundred bytes.
        self.tail = self.tail[-2048:] + data
        whole = self.tail.endswith(b"\r\n0\r\n\r\n") if self.length is None else len(self.tail) >= self.length
        if whole and self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    async def ask(self, request: bytes, tokens: int) -> tuple[float, float]:
        """Times of the first event and of the end of one streamed answer of `tokens` tokens.

        Raises:
            FaultError: it was refused, or is not whole.
        """
        if self.transport is None:
            raise FaultError("connection closed by the server between requests")
        self._restart()
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self.answer
        end = time.monotonic()
        used = re.findall(rb'"completion_tokens":(\d+)', self.tail)
        if self.status != 200 or b"data: [DONE]" not in self.tail or not used or int(used[-1]) != tokens:
            raise FaultError(f"HTTP {self.status}, {used[-1:]} of {tokens} tokens: {self.tail[-200:]!r}")
        return self.first, end

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.close()


class Prompts:
    """Requests by a seed: the same seed gives the same ones, whichever server they are sent to."""

    def __init__(self, load: Load, seed: str) -> None:
        self.load = load
        self.random = random.Random(seed)
        host = urlsplit(load.url)
        self.head = f"POST /v1/completions HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Type: application/json\r\n"
        ids = range(load.least_id, load.most_id)
        self.ids = ids
        self.prefixes = [
            ",".join(map(str, random.Random(f"prefix {number}").choices(ids, k=PREFIX_TOKENS)))
            for number in range(load.prefixes)
        ]

    def draw(self) -> tuple[bytes, int, int]:
        """A whole HTTP request, the number of tokens it asks for, and the place of its model among the load's."""
        place = self.random.randrange(len(self.load.models))
        prefix = place if len(self.load.models) > 1 else self.random.randrange(len(self.prefixes))
        own = ",".join(map(str, self.random.choices(self.ids, k=self._length(OWN_TOKENS))))
        tokens = self._length(ANSWER_TOKENS)
        body = (
            f'{{"model":"{self.load.models[place]}","prompt":[{self.prefixes[prefix % len(self.prefixes)]},{own}],'
            f'"max_tokens":{tokens},"ignore_eos":true,"temperature":0,"stream":true,'
            '"stream_options":{"include_usage":true}}'
        )
        return f"{self.head}Content-Length: {len(body)}\r\n\r\n{body}".encode(), tokens, place

    def _length(self, spread: tuple[int, float, int, int]) -> int:
        median, sigma, least, most = spread
        return min(most, max(least, round(self.random.lognormvariate(math.log(median), sigma))))


async def connect(url: str) -> Stream:
    """A new connection.

    Raises:
        OSError: nobody listens.
    """
    where = urlsplit(url)
    _, stream = await asyncio.get_running_loop().create_connection(Stream, where.hostname, where.port)
    return stream


async def one(prompts: Prompts, stream: Stream | None, seen: Seen, asked: float | None = None) -> Stream | None:
    """Ask once and note what came of it; the connection if it can be used again."""
    request, tokens, model = prompts.draw()
    began = time.monotonic() if asked is None else asked
    try:
        stream = stream or await connect(prompts.load.url)
        first, end = await stream.ask(request, tokens)
    except (OSError, FaultError) as error:
        seen.faults.append(f"{type(error).__name__}: {error}"[:300])
        if stream is not None:
            stream.close()
        await asyncio.sleep(0.1)  # a server that refuses at once must not keep the clients busy
        return None
    seen.rows.append((began, first, end, tokens, model))
    return stream


async def closed_loop(load: Load, start: float, place: int, workers: int, seen: Seen) -> None:
    """Clients `place`, `place + workers`, … ask one request after another until the window ends."""
    stop = start + load.warm_s + load.window_s

    async def client(number: int) -> None:
        prompts, stream = Prompts(load, f"{load.seed} {number}"), None
        # Not all in one instant: the first wave would stay a wave.
        await asyncio.sleep(max(0.0, start + load.warm_s / 2 * number / load.clients - time.monotonic()))
        while time.monotonic() < stop:
            stream = await one(prompts, stream, seen)
        if stream is not None:
            stream.close()

    await _wait([client(number) for number in range(place, load.clients, workers)], load, stop, seen)


async def open_loop(load: Load, start: float, place: int, workers: int, seen: Seen) -> None:
    """This worker's part of the arrivals; each counts from when it was due, on a connection of its own."""
    stop = start + load.warm_s + load.window_s
    arrivals, prompts = random.Random(f"arrivals {load.seed} {place}"), Prompts(load, f"{load.seed} {place}")
    due, tasks = start, []

    async def arrival(asked: float) -> None:
        if stream := await one(prompts, None, seen, asked):
            stream.close()

    while (due := due + arrivals.expovariate(load.rate_rps / workers)) < stop:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(arrival(due)))
    await _wait(tasks, load, stop, seen)


async def _wait(work: Sequence[Any], load: Load, stop: float, seen: Seen) -> None:
    """Wait for all of `work`, but not for ever: what is not answered then is a fault."""
    tasks = [asyncio.ensure_future(part) for part in work]
    if not tasks:
        return
    _, pending = await asyncio.wait(tasks, timeout=stop - time.monotonic() + load.patience_s)
    seen.faults += [f"no whole answer {load.patience_s:g} s after the window"] * len(pending)
    for task in pending:
        task.cancel()


def worker() -> None:
    """Answer jobs from stdin until it ends."""
    import uvloop

    for line in sys.stdin:
        job = json.loads(line)
        load = Load(**{**job["load"], "models": tuple(job["load"]["models"])})
        seen, run = Seen(), closed_loop if load.clients else open_loop
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        uvloop.run(run(load, job["start"], job["place"], job["workers"], seen))
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seen.busy = spent / (ended - began)
        _send(json.dumps(asdict(seen)))


def _send(line: str) -> None:
    """Write a line to stdout, whole: after uvloop has run, `print` was seen to lose what one write to a pipe left."""
    data = f"{line}\n".encode()
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


class Clients:
    """Worker processes, for as long as the `with` block."""

    def __init__(self, workers: int) -> None:
        self.count = workers
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        for _ in range(self.count):
            self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def run(self, load: Load, *, urls: Sequence[str] = ()) -> Seen:
        """Put `load` to its server; with `urls`, each worker has a server of its own among them.

        Raises:
            RuntimeError: a worker died.
        """
        start = time.monotonic() + 0.5
        workers = min(self.count, load.clients or self.count)
        for place, process in enumerate(self.processes[:workers]):
            own = replace(load, url=urls[place % len(urls)]) if urls else load
            job = {"load": asdict(own), "start": start, "place": place, "workers": workers}
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        total = Seen(begin=start + load.warm_s, end=start + load.warm_s + load.window_s)
        for process in self.processes[:workers]:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"a client process ended with status {process.wait()}, expected its figures")
            part = json.loads(line)
            total.rows += [tuple(row) for row in part["rows"]]
            total.faults += part["faults"]
            total.busy = max(total.busy, part["busy"])
        return total


def figures(seen: Seen, models: Sequence[str] = ()) -> dict[str, Any]:
    """Throughput inside the window, and the times of the requests asked inside it; for each of `models` too.

    An answer that reaches beyond the window counts by the tokens inside, taken as evenly spread from its first event to
    its end; so slow answers are neither left out nor counted whole.
    """
    found = _figures(seen.rows, seen)
    for place, name in enumerate(models):
        rows = [row for row in seen.rows if row[4] == place]
        found.setdefault("by_model", {})[name] = _figures(rows, seen)
    return {
        **found,
        "failed": len(seen.faults),
        "faults": sorted(set(seen.faults))[:5],
        "client_busy": seen.busy,
        "mean_answer_tokens": sum(row[3] for row in seen.rows) / max(1, len(seen.rows)),
    }


def _figures(rows: Sequence[tuple[float, float, float, int, int]], seen: Seen) -> dict[str, Any]:
    asked = [row for row in rows if seen.begin <= row[0] < seen.end]
    seconds = seen.end - seen.begin
    return {
        "tokens_per_s": sum(_inside(row, seen) for row in rows) / seconds,
        "requests_per_s": sum(seen.begin <= row[2] < seen.end for row in rows) / seconds,
        "requests": len(rows),
        "first_token_s": percentiles([first - begin for begin, first, *_ in asked]),
        "token_s": percentiles([(end - first) / (count - 1) for _, first, end, count, _ in asked if count > 1]),
        "answer_s": percentiles([end - begin for begin, _, end, *_ in asked]),
    }


def _inside(row: tuple[float, float, float, int, int], seen: Seen) -> float:
    """Tokens of one answer that came inside the window."""
    _, first, end, count, _ = row
    if end <= first:
        return count if seen.begin <= first < seen.end else 0
    overlap = min(end, seen.end) - max(first, seen.begin)
    return count * max(0.0, overlap) / (end - first)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99, by the nearest rank; nothing without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {f"p{cut}": ordered[min(len(ordered) - 1, math.ceil(len(ordered) * cut / 100) - 1)] for cut in (50, 99)}


if __name__ == "__main__":
    worker()
