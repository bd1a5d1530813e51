"""What the gateway itself can carry: streams of a stand-in for vLLM that costs next to nothing, passed on and counted.

    python benchmarks/relay.py                             # CPU a token by streams, then the most tokens/s
    python benchmarks/relay.py --upstreams 4 --clients 4 --workers 1 4 8 --rates 20000 40000 80000 160000
    python benchmarks/relay.py --against ../before/src     # the same by another checkout's gateway, in turns

The stand-in writes what vLLM writes, one token an event and one event a chunk, to all its streams at the same moment,
as an engine's step does. Half the requests are chats, half raw completions; none asks for usage, which the gateway then
has to hide. Every answer is checked to be whole. A rate is *late* if its streams took over 5 % longer than the clock of
the stand-in wanted. At a high rate events arrive together and cost less, so CPU a token is to be read at the lowest.
`splice` copies bytes from socket to socket in one process and knows nothing: the floor.
Stand-in, gateway and clients share the machine; give them their own cores if you can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gateway import cpu_s, gateway

PATHS = ("/v1/chat/completions", "/v1/completions")
MODEL = "sql@v0001"
IN_TIME = 1.05
"""Most that a load may take, as a multiple of what the stand-in's clock wants."""

LATE_S = 20.0
"""A load that takes this much longer than wanted is given up."""


@dataclass(frozen=True)
class Load:
    """`streams` answers at a time, each of `tokens` tokens, `rate` tokens/s in all, `requests` answers in all."""

    streams: int
    rate: float
    tokens: int
    requests: int


@dataclass(frozen=True)
class Outcome:
    """What came of a load, as one way carried it."""

    seconds: float
    tokens: int
    cpu_us_a_token: float
    first_token_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens that reached clients."""
        return self.tokens / self.seconds


def events(path: str, tokens: int, *, usage: bool) -> list[bytes]:
    """An answer in the events and chunks of vLLM 0.32."""
    chat = path == PATHS[0]
    head = {"id": "chatcmpl-9f2c41d07be34c5a8d6e", "object": "chat.completion.chunk" if chat else "text_completion"}
    head |= {"created": 1790000000, "model": MODEL}

    def piece(text: str, finish: str | None, **delta: Any) -> dict[str, Any]:
        said = {"delta": {**delta, "content": text}} if chat else {"text": text}
        ends: dict[str, Any] = {"logprobs": None, "finish_reason": finish, "stop_reason": None}
        return {**head, "choices": [{"index": 0, **said, **ends, "token_ids": None}]}

    values = [piece("", None, role="assistant")] if chat else []
    values += [piece(" order", None) for _ in range(tokens - 1)]
    values.append(piece(" order", "length"))
    if usage:
        counts = {"prompt_tokens": 21, "total_tokens": 21 + tokens, "completion_tokens": tokens}
        values.append({**head, "choices": [], "usage": counts})
    written = [json.dumps(value, separators=(",", ":")) for value in values]
    return [f"data: {text}\n\n".encode() for text in [*written, "[DONE]"]]


class Engine:
    """The stand-in's clock: at each step every stream gets its next token."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.step_s = 0.01
        self.streams: dict[_Connection, Iterator[bytes]] = {}
        self.answers: dict[tuple[str, int, bool], list[bytes]] = {}

    def answer(self, path: str, body: bytes) -> Iterator[bytes]:
        """The chunks of an answer; the first tells the event apart from the rest, the last holds the end."""
        asked = json.loads(body)
        key = (path, int(asked["max_tokens"]), bool((asked.get("stream_options") or {}).get("include_usage")))
        if key not in self.answers:
            pieces = [b"%x\r\n%s\r\n" % (len(event), event) for event in events(key[0], key[1], usage=key[2])]
            first, rest = (2, pieces[2:]) if path == PATHS[0] else (1, pieces[1:])
            token_ends = first + key[1] - 1
            self.answers[key] = [b"".join(pieces[:first]), *rest[: key[1] - 2], b"".join(pieces[token_ends - 1 :])]
            self.answers[key][-1] += b"0\r\n\r\n"
        self.step_s = asked["step_s"]
        return iter(self.answers[key])

    async def run(self) -> None:
        """Listen, and step."""
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096)
        due = loop.time()
        while True:
            due = max(due + self.step_s, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
            for connection, pieces in list(self.streams.items()):
                piece = next(pieces, None)
                if piece is None:
                    del self.streams[connection]
                else:
                    connection.transport.write(piece)


class _Connection(asyncio.Protocol):
    """A connection to the stand-in."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parser = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.url = self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.streams.pop(self, None)

    def on_url(self, url: bytes) -> None:
        self.url, self.body = url, b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        path = self.url.decode()
        if path in PATHS:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            self.engine.streams[self] = self.engine.answer(path, self.body)
            return
        entries = [{"id": "base", "parent": None}, {"id": "sql", "parent": "base", "root": "/adapters/sql/v0001"}]
        text = json.dumps({"data": entries}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        self.transport.write(head.encode() + text)


@dataclass
class _Client(asyncio.Protocol):
    """One stream after another over one connection."""

    load: Load
    bodies: Iterator[tuple[str, bytes]]
    done: asyncio.Future[None]
    first_token_s: list[float]
    parts: list[bytes] = field(default_factory=list)
    began: float = 0.0
    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """The next request, or the end."""
        asked = next(self.bodies, None)
        if asked is None:
            self.done.set_result(None)
            self.transport.close()
            return
        path, body = asked
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        self.parts, self.began = [], time.perf_counter()
        self.transport.write(head.encode() + b"\r\n\r\n" + body)

    def data_received(self, data: bytes) -> None:
        if self.began and b"data: {" in data:
            self.first_token_s.append(time.perf_counter() - self.began)
            self.began = 0.0
        self.parts.append(data)
        if data.endswith(b"0\r\n\r\n"):
            self.check(b"".join(self.parts))
            self.ask()

    def check(self, answer: bytes) -> None:
        """End the run if the answer is not whole."""
        found = answer.count(b'" order"'), answer.count(b"data: [DONE]"), answer.count(b'"usage"')
        if not answer.startswith(b"HTTP/1.1 200") or found != (self.load.tokens, 1, 0):
            self.connection_lost(ValueError(f"got tokens, ends, usages {found} in {answer[:300]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("closed before the last answer"))


async def ask_all(port: int, load: Load, step_s: float) -> tuple[float, list[float]]:
    """Seconds that `load` took, and times to first tokens."""
    loop = asyncio.get_running_loop()
    numbers = range(load.requests)
    said = [{"prompt": f"order {n}", "messages": [{"role": "user", "content": f"order {n}"}]} for n in numbers]
    common = {"model": "sql", "max_tokens": load.tokens, "stream": True, "step_s": step_s}
    bodies = iter([(PATHS[n % 2], json.dumps({**common, **said[n]}).encode()) for n in numbers])
    waits: list[float] = []
    futures = [loop.create_future() for _ in range(load.streams)]
    began = loop.time()
    for future in futures:
        await loop.create_connection(lambda done=future: _Client(load, bodies, done, waits), "127.0.0.1", port)  # type: ignore[misc]
    wanted = load.requests / load.streams * load.tokens * step_s
    await asyncio.wait_for(asyncio.gather(*futures), wanted + LATE_S)
    return loop.time() - began, waits


class _Splice(asyncio.Protocol):
    """Bytes from socket to socket."""

    def __init__(self, other: asyncio.Transport | None, targets: Iterator[int]) -> None:
        self.other, self.targets, self.early = other, targets, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        if self.other is None:
            self.connecting = asyncio.ensure_future(self.connect(next(self.targets)))

    async def connect(self, port: int) -> None:
        """The other side."""
        loop = asyncio.get_running_loop()
        self.other, _ = await loop.create_connection(lambda: _Splice(self.transport, self.targets), "127.0.0.1", port)
        if self.early:
            self.other.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def splice(port: int, targets: list[int]) -> None:
    """Copy between `port` and `targets` in turn."""
    turn = (target for _ in iter(int, 1) for target in targets)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Splice(None, turn), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


def run_engine(port: int) -> None:
    """A process of the stand-in."""
    uvloop.run(Engine(port).run())


def run_splice(port: int, targets: list[int]) -> None:
    """A process of the splice, in a session of its own so that its CPU time can be told."""
    os.setsid()
    uvloop.run(splice(port, targets))


def run_client(port: int, load: Load, step_s: float, result: Any) -> None:
    """A process of clients."""
    try:
        result.put(uvloop.run(ask_all(port, load, step_s)))
    except Exception as error:
        result.put(f"{type(error).__name__}: {error}")


@contextmanager
def process(target: Callable[..., None], port: int, *arguments: Any) -> Iterator[Any]:
    """A process that listens on `port`, for as long as the block."""
    running = multiprocessing.get_context("spawn").Process(target=target, args=(port, *arguments), daemon=True)
    running.start()
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > until:
                raise SystemExit("a process of the benchmark does not listen")
            time.sleep(0.05)
        yield running
    finally:
        running.kill()
        running.join()


def measure(port: int, session: int, load: Load, clients: int) -> Outcome | None:
    """What came of `load`; None if it was not carried to its end."""
    context = multiprocessing.get_context("spawn")
    step_s = load.streams / load.rate
    part = Load(load.streams // clients, load.rate, load.tokens, load.requests // clients)
    results = context.Queue()
    before = cpu_s(session)
    workers = [context.Process(target=run_client, args=(port, part, step_s, results)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    if failed := [one for one in found if isinstance(one, str)]:
        if "TimeoutError" in failed[0]:
            return None
        raise SystemExit(failed[0])
    tokens = part.requests * part.tokens * clients
    cpu_us = 1e6 * (cpu_s(session) - before) / tokens
    waits = tuple(wait for _, waits in found for wait in waits)
    return Outcome(max(seconds for seconds, _ in found), tokens, cpu_us, waits)


@contextmanager
def ways(upstreams: int, workers: list[int], against: Path | None) -> Iterator[dict[str, tuple[int, int]]]:
    """Name of each way -> its port and session."""
    from gateway import free_port

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [free_port() for _ in range(upstreams)]
        for port in ports:
            stack.enter_context(process(run_engine, port))
        found = {}
        front = free_port()
        running = stack.enter_context(process(run_splice, front, ports))
        found["splice"] = front, running.pid
        address = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        wide = ("gateway.max_in_flight=4096", "gateway.spill_in_flight=8", "gateway.health_every_s=3600")
        if against is not None:
            url, pid = stack.enter_context(gateway(address, folder, *wide, source=against))
            found["against"] = int(url.rpartition(":")[2]), pid
        for count in workers:
            url, pid = stack.enter_context(gateway(address, folder, *wide, f"gateway.workers={count}"))
            found[f"{count} worker" + "s" * (count > 1)] = int(url.rpartition(":")[2]), pid
        yield found


def sized(streams: int, rate: float, tokens: int, seconds: float, clients: int) -> Load:
    """A load that takes about `seconds`."""
    rounds = max(2, round(seconds * rate / (streams * tokens)))
    streams -= streams % clients
    return Load(streams, rate, tokens, rounds * streams)


def main() -> None:
    """Print CPU a token by streams, then the rates that each way carries."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--streams", type=int, nargs="+", default=[64, 256, 512])
    arguments.add_argument("--tokens", type=int, default=64, help="of an answer")
    arguments.add_argument("--rates", type=float, nargs="+", default=[10_000, 20_000, 30_000, 40_000, 60_000])
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--upstreams", type=int, default=1, help="processes of the stand-in")
    arguments.add_argument("--clients", type=int, default=1, help="processes of clients")
    arguments.add_argument("--seconds", type=float, default=4.0, help="of one measurement, about")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--against", type=Path, help="folder `src` of another checkout")
    chosen = arguments.parse_args()
    with ways(chosen.upstreams, chosen.workers, chosen.against) as found:
        for port, session in found.values():  # first requests import and connect
            measure(port, session, Load(8, 1000, 8, 16), 1)
        loads = [(streams, chosen.rates[0]) for streams in chosen.streams]
        loads += [(chosen.streams[-1], rate) for rate in chosen.rates[1:]]
        print(
            f"{'':12}{'streams':>8}{'asked/s':>10}{'tokens/s':>10}{'':5}"
            f"{'us a token':>11}{'range':>14}{'TTFT p50':>11}{'p99':>10}"
        )
        for streams, rate in loads:
            load = sized(streams, rate, chosen.tokens, chosen.seconds, chosen.clients)
            outcomes: dict[str, list[Outcome | None]] = {name: [] for name in found}
            for _ in range(chosen.rounds):
                for name, (port, session) in found.items():
                    outcomes[name].append(measure(port, session, load, chosen.clients))
            for name, several in outcomes.items():
                show(name, load, several)


def show(name: str, load: Load, outcomes: list[Outcome | None]) -> None:
    """Print a line."""
    whole = [one for one in outcomes if one is not None]
    line = f"{name:12}{load.streams:8}{load.rate:10.0f}"
    if len(whole) < len(outcomes):
        print(f"{line}   not carried", flush=True)
        return
    wanted = load.requests * load.tokens / load.rate
    late = statistics.median(one.seconds for one in whole) > IN_TIME * wanted
    cpu = sorted(one.cpu_us_a_token for one in whole)
    waits = statistics.quantiles([wait for one in whole for wait in one.first_token_s], n=100)
    rate = statistics.median(one.tokens_per_s for one in whole)
    spread = f"{cpu[0]:.1f} to {cpu[-1]:.1f}"
    print(
        f"{line}{rate:10.0f}{' late' if late else '     '}{statistics.median(cpu):11.1f}{spread:>14}"
        f"{waits[49] * 1000:8.1f} ms{waits[98] * 1000:7.0f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
