"""What the clients of `serving.py` can take in: streams from stand-ins that do nothing but send.

A stand-in (`python benchmarks/serving_capacity.py`) sends one event of a token to each of its open streams a step, as
vLLM does, and prints its port. `measure` lets the clients take from several at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any, ClassVar

from serving_load import Clients, Load, figures

STEP_S = 0.004

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"

EVENT = json.dumps(
    {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1764000000,
        "model": "a00@v0001",
        "choices": [{"index": 0, "text": " t123456", "logprobs": None, "finish_reason": None, "stop_reason": None}],
        "usage": None,
    },
    separators=(",", ":"),
)


def chunk(text: str) -> bytes:
    """One event in HTTP's chunked coding."""
    data = f"data: {text}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Sender(asyncio.Protocol):
    """One connection of the stand-in."""

    open: ClassVar[set[Sender]] = set()

    def connection_made(self, transport: Any) -> None:
        """Wait for a request."""
        self.transport, self.received, self.left = transport, b"", 0

    def connection_lost(self, error: Exception | None) -> None:
        """Send no more."""
        Sender.open.discard(self)

    def data_received(self, data: bytes) -> None:
        """Begin an answer when the request is whole."""
        self.received += data
        length = re.search(rb"Content-Length: (\d+)\r\n\r\n", self.received)
        if length and len(self.received) - length.end() >= int(length[1]):
            found = re.search(rb'"max_tokens":(\d+)', self.received)
            assert found is not None
            self.received, self.left, self.tokens = b"", int(found[1]), int(found[1])
            self.transport.write(HEAD)
            Sender.open.add(self)

    def step(self, event: bytes) -> None:
        """Send a token, and the end after the last."""
        self.transport.write(event)
        self.left -= 1
        if not self.left:
            usage = chunk(json.dumps({"usage": {"completion_tokens": self.tokens}}, separators=(",", ":")))
            self.transport.write(usage + chunk("[DONE]") + b"0\r\n\r\n")
            Sender.open.discard(self)


async def stand_in() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sender, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    event, due = chunk(EVENT), loop.time()
    while True:
        for sender in list(Sender.open):
            sender.step(event)
        due = max(due + STEP_S, loop.time())
        await asyncio.sleep(due - loop.time())


def measure(workers: Clients, streams: int, *, window_s: float) -> dict[str, Any]:
    """Figures of `streams` streams from as many stand-ins as there are client processes."""
    command = [sys.executable, __file__]
    senders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in workers.processes]
    try:
        ports = [sender.stdout.readline().strip() for sender in senders if sender.stdout is not None]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        load = Load(urls[0], ("a00",), seed=0, clients=streams, warm_s=1, window_s=window_s)
        return {"streams": streams, "processes": workers.count, **figures(workers.run(load, urls=urls))}
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(stand_in())
