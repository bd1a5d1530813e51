"""Gateways and stand-in upstreams that listen in this process, and requests to them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from fgpipe.config import GatewayConfig
from fgpipe.gateway import application
from fgpipe.gateway.access import ClientKeys

KEY = "key-of-a-client"


@contextmanager
def listening(app: Any, *, port: int = 0) -> Iterator[str]:
    """The address of a server that runs `app` in a thread, for as long as the block."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    # Resuming reading by a signal handler is for the main thread only; the end here is a flag.
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@dataclass
class StandIn:
    """An upstream that lists `models` and answers as it is told; only for what happens inside the gateway."""

    base: str = "base"
    models: tuple[str, ...] = ("sql",)
    answer: Callable[[dict[str, Any], Any], Any] | None = None
    """Takes the request's body and `send`; None: one event after another, then [DONE]."""
    healthy: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ended_early: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.paths.append(scope["path"])
        if scope["path"] == "/health":
            await reply(send, {}, status=200 if self.healthy else 503)
        elif scope["path"] == "/v1/models":
            entries = [{"id": self.base, "parent": None}] + [{"id": m, "parent": self.base} for m in self.models]
            await reply(send, {"data": entries})
        else:
            await self._generate(scope, receive, send)

    async def _generate(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body)
        self.asked.append(asked)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        work = asyncio.ensure_future((self.answer or tell)(asked, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        self.at_once -= 1
        gone.cancel()
        if not work.done():
            self.ended_early += 1
            work.cancel()
        else:
            await work


async def reply(send: Any, value: Any, *, status: int = 200) -> None:
    """Answer with JSON."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def start_events(send: Any) -> None:
    """Begin a stream."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def tell(asked: dict[str, Any], send: Any, *, pause_s: float = 0.0, pieces: int = 3) -> None:
    """A short answer by version v0001 of whatever was asked for."""
    model = asked["model"] if "@" in asked["model"] or asked["model"] == "base" else f"{asked['model']}@v0001"
    if not asked.get("stream"):
        await asyncio.sleep(pause_s)
        choice = {"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}
        await reply(send, {"model": model, "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        return
    await start_events(send)
    for _ in range(pieces):
        event = json.dumps({"model": model, "choices": [{"index": 0, "delta": {"content": "a"}}]})
        await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
        await asyncio.sleep(pause_s)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@dataclass(frozen=True)
class Fronted:
    """A gateway that listens, and its desk."""

    url: str
    gateway: Any
    client: httpx.Client

    def ask(self, model: str = "sql", path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        """One request, whose answer is read to its end."""
        return self.client.post(path, json={"model": model, "messages": [], **body})

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 if it has no such series."""
        value = self.gateway.metrics.registry.get_sample_value(f"fgpipe_gateway_{name}", labels)
        return value or 0.0

    def expect(self, value: float, name: str, **labels: str) -> None:
        """Check that a metric gets to `value`: a request is counted once its client has the answer."""
        until = time.monotonic() + 5
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < until, f"{name} {labels}: got {found}, expected {value}"
            time.sleep(0.02)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Return when `condition` holds."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, "it did not come about"
            time.sleep(0.02)


@contextmanager
def gateway(
    *upstreams: str, key: str = KEY, entries: list[Mapping[str, Any]] | None = None, **options: Any
) -> Iterator[Fronted]:
    """A gateway in front of `upstreams`, with quick looks; `entries` is what is published."""
    config = GatewayConfig(**{"health_every_s": 0.1, "upstreams": upstreams, **options})
    app = application.create(config, versions=lambda: entries or [], keys=ClientKeys([key] if key else []))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with listening(app) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield Fronted(url, app.app.gateway.desk, client)
