"""Between the process that has the desk and a worker: JSON objects, one a line, over a pair of sockets.

A worker asks for slots and tells what became of them; it also has everything but requests for a model answered here.
Whatever a worker held is free again when its end of the link closes, however it died.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, cast

from fgpipe.config import GatewayConfig
from fgpipe.gateway.desk import Facts, OwnDesk, Slot
from fgpipe.gateway.faults import Application, Message, Receive, RefusedError, Scope, Send, send_refusal
from fgpipe.gateway.upstreams import Upstream

HEARD_EVERY_S = 0.1
"""Between two words of a worker that it heard from the same upstream."""


class _Lines(asyncio.Protocol):
    """One end. What is told in one turn of the loop is written at once."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._told: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.take(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.ended()

    def tell(self, **message: Any) -> None:
        """Send a message; nothing happens if the other end is gone."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._write)
        self._told.append(json.dumps(message).encode() + b"\n")

    def _write(self) -> None:
        told, self._told = self._told, []
        if self._transport is not None:
            self._transport.write(b"".join(told))

    def take(self, message: dict[str, Any]) -> None:
        """The other end told `message`."""

    def ended(self) -> None:
        """The other end is gone."""


@dataclass(frozen=True)
class FarSlot:
    """A slot by the number of the question that it answers."""

    number: int
    url: str
    base: str


class FarDesk(_Lines):
    """The desk as a worker sees it: `Desk`, over the link.

    Attributes:
        stop: called when the parent wants the worker to end, or is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.stop: Callable[[], None] = lambda: None
        self._heard_s: dict[str, float] = {}
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def config(self) -> GatewayConfig:
        """The gateway's settings."""
        return GatewayConfig.model_validate((await self._ask(next(self._numbers), "config"))["config"])

    def ready(self) -> None:
        """This worker takes requests now."""
        self.tell(do="ready")

    def move(self, change: int) -> None:
        """See `Desk`."""
        self.inside += change
        self.tell(do="move", change=change)

    async def acquire(self, model: str, tried: Collection[str]) -> FarSlot:
        """See `Desk`."""
        number = next(self._numbers)
        told = await self._ask(number, "acquire", model=model, tried=list(tried))
        return FarSlot(number, told["url"], told["base"])

    def release(self, slot: Slot) -> None:
        """See `Desk`."""
        assert isinstance(slot, FarSlot)
        self.tell(do="release", number=slot.number)

    def heard(self, slot: Slot) -> None:
        """See `Desk`."""
        now_s = time.monotonic()
        if now_s - self._heard_s.get(slot.url, 0.0) > HEARD_EVERY_S:
            self._heard_s[slot.url] = now_s
            self.tell(do="heard", url=slot.url)

    def lost(self, slot: Slot, reason: str) -> None:
        """See `Desk`."""
        self.tell(do="lost", url=slot.url, reason=reason)

    def retried(self, slot: Slot) -> None:
        """See `Desk`."""
        self.tell(do="retried", url=slot.url)

    def refused(self, reason: str) -> None:
        """See `Desk`."""
        self.tell(do="refused", reason=reason)

    async def too_many(self, reason: str, message: str) -> RefusedError:
        """See `Desk`."""
        try:
            await self._ask(next(self._numbers), "too_many", reason=reason, message=message)
        except RefusedError as error:
            return error
        raise AssertionError("the desk answers this with a refusal only")

    def count(self, facts: Facts) -> None:
        """See `Desk`."""
        self.tell(do="count", facts=asdict(facts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: have the parent's routes answer a request; its body is not passed on."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        line = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode("latin-1")}
        try:
            told = await self._ask(next(self._numbers), "route", **line, headers=headers)
        except RefusedError as error:
            await send_refusal(send, error)
            return
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told["headers"]]
        await send({"type": "http.response.start", "status": told["status"], "headers": pairs})
        await send({"type": "http.response.body", "body": told["body"].encode("latin-1")})

    async def _ask(self, number: int, do: str, **more: Any) -> dict[str, Any]:
        if self._transport is None:
            raise _no_parent()
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(do=do, number=number, **more)
        try:
            told: dict[str, Any] = await answer
        except asyncio.CancelledError:
            self.tell(do="give_up", number=number)
            raise
        finally:
            del self._asked[number]
        if "refused" in told:
            raise RefusedError(**told["refused"])
        return told

    def take(self, message: dict[str, Any]) -> None:
        """See `_Lines`."""
        if message.get("stop"):
            self.stop()
        elif (answer := self._asked.get(message["number"])) is not None and not answer.done():
            answer.set_result(message)

    def ended(self) -> None:
        """See `_Lines`."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_no_parent())
        self.stop()


def _no_parent() -> RefusedError:
    return RefusedError(503, "gateway: got an end of it, expected it to go on", reason="stopping", retry_after_s=2)


class WorkerLink(_Lines):
    """The desk's end of the link to one worker.

    Args:
        routes: answers what is no request for a model.
        process: the worker's.
    """

    def __init__(
        self, config: GatewayConfig, desk: OwnDesk, routes: Application, process: subprocess.Popen[bytes]
    ) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self.over = asyncio.Event()
        """The worker is gone, or about to be."""
        self.process = process
        self._config = config
        self._desk = desk
        self._routes = routes
        self._inside = 0
        self._slots: dict[int, Upstream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, message: dict[str, Any]) -> None:
        """See `_Lines`."""
        desk = self._desk
        match message:
            case {"do": "acquire", "number": number, "model": model, "tried": tried}:
                self._start(number, self._acquire(number, model, tried))
            case {"do": "release" | "give_up", "number": number}:
                if (task := self._tasks.pop(number, None)) is not None:
                    task.cancel()
                elif (slot := self._slots.pop(number, None)) is not None:
                    desk.release(slot)
            case {"do": "move", "change": change}:
                self._inside += change
                desk.move(change)
            case {"do": "count", "facts": facts}:
                desk.count(Facts(**facts))
            case {"do": "heard", "url": url}:
                desk.heard(desk.pool.named(url))
            case {"do": "lost", "url": url, "reason": reason}:
                desk.lost(desk.pool.named(url), reason)
            case {"do": "retried", "url": url}:
                desk.retried(desk.pool.named(url))
            case {"do": "refused", "reason": reason}:
                desk.refused(reason)
            case {"do": "too_many", "number": number, "reason": reason, "message": text}:
                self._refuse(number, desk.admission.too_many(reason, text))
            case {"do": "route", "number": number}:
                self._start(number, self._route(number, message))
            case {"do": "config", "number": number}:
                self.tell(number=number, config=self._config.model_dump(mode="json"))
            case {"do": "ready"}:
                self.ready.set()
            case _:
                raise AssertionError(message)

    def stop(self) -> None:
        """Ask the worker to end once its answers have."""
        self.tell(stop=True)

    def ended(self) -> None:
        """See `_Lines`."""
        for task in self._tasks.values():
            task.cancel()
        for slot in self._slots.values():
            self._desk.release(slot)
        self._desk.move(-self._inside)
        self.over.set()

    def _start(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[number] = asyncio.ensure_future(work)

    async def _acquire(self, number: int, model: str, tried: list[str]) -> None:
        try:
            slot = await self._desk.acquire(model, tried)
        except RefusedError as refusal:
            self._refuse(number, refusal)
        else:
            self._slots[number] = slot
            self.tell(number=number, url=slot.url, base=slot.base)
        self._tasks.pop(number, None)

    def _refuse(self, number: int, refusal: RefusedError) -> None:
        names = ("status", "message", "reason", "retry_after_s")
        self.tell(number=number, refused={name: getattr(refusal, name) for name in names})

    async def _route(self, number: int, asked: dict[str, Any]) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": asked["method"],
            "path": asked["path"],
            "raw_path": asked["path"].encode("utf-8", errors="replace"),
            "root_path": "",
            "query_string": asked["query"].encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked["headers"]],
        }
        told: dict[str, Any] = {"status": 500, "headers": [], "body": ""}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                told["headers"] = [
                    [name.decode("latin-1"), value.decode("latin-1")] for name, value in message["headers"]
                ]
            else:
                told["body"] += bytes(message.get("body", b"")).decode("latin-1")

        try:
            await self._routes(scope, _no_body, send)
        finally:
            self.tell(number=number, **told)
            self._tasks.pop(number, None)


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
