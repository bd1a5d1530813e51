"""Answers passed on as they come: the bytes of an upstream, unbuffered, with an end when the client goes away."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from fgpipe.gateway.connections import Answer, BrokenError, NoHttpError
from fgpipe.gateway.exchange import CLIENT_GONE, Gateway, Record
from fgpipe.gateway.faults import Receive, RefusedError, Scope, Send, error_json, send_refusal
from fgpipe.gateway.outgoing import Outgoing
from fgpipe.gateway.reading import KEPT_BYTES, Asked, StreamReader, read_asked, read_whole

PASSED_BACK = (b"content-type", b"content-length", b"x-request-id", b"cache-control")


class Exchanged(Response):
    """A response that is made while the request is still being read: body, slot, upstream, answer, metrics."""

    background = None

    def __init__(self, gateway: Gateway, endpoint: str) -> None:
        # Not Response's own: there is no body and no header yet.
        self.gateway = gateway
        self.endpoint = endpoint

    @abstractmethod
    def asked(self, body: bytes) -> Asked:
        """What the client asks for; raises RefusedError."""

    @abstractmethod
    async def exchange(self, asked: Asked, headers: Mapping[str, str], record: Record, send: Send) -> None:
        """Ask the upstream and answer the client; raises RefusedError only before anything was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count how that went."""
        record = Record(self.endpoint)
        gateway, entered = self.gateway, False
        try:
            await gateway.enter()
            entered = True
            headers = Headers(scope=scope)
            asked = self.asked(await gateway.read_body(receive, headers))
            await self._until_gone(self.exchange(asked, headers, record, send), receive, record)
        except RefusedError as error:
            await self._refuse(error, record, send)
        except ConnectionResetError:
            record.status = CLIENT_GONE
        finally:
            if entered:
                gateway.leave()
            gateway.desk.count(record.facts())

    async def _refuse(self, refusal: RefusedError, record: Record, send: Send) -> None:
        record.status = refusal.status
        if refusal.reason:
            self.gateway.desk.refused(refusal.reason)
        await send_refusal(send, refusal)

    async def _until_gone(self, exchange: Coroutine[Any, Any, None], receive: Receive, record: Record) -> None:
        """Run `exchange`, but no longer than the client waits."""
        leaving, over = asyncio.timeout(None), False

        def leave(task: asyncio.Task[None]) -> None:
            if not over and not task.cancelled():
                leaving.reschedule(asyncio.get_running_loop().time())

        gone = asyncio.ensure_future(_disconnect(receive))
        gone.add_done_callback(leave)
        try:
            async with leaving:
                await exchange
        except TimeoutError:
            if not leaving.expired():
                raise
            record.status = CLIENT_GONE
        finally:
            over = True
            gone.cancel()


class Relay(Exchanged):
    """The upstream's own answer, byte for byte."""

    def asked(self, body: bytes) -> Asked:
        """See `Exchanged`."""
        return read_asked(self.endpoint, body, max_answers=self.gateway.config.max_answers)

    async def exchange(self, asked: Asked, headers: Mapping[str, str], record: Record, send: Send) -> None:
        """See `Exchanged`."""
        async with self.gateway.answer(asked, headers, record) as answer:
            record.status = answer.status
            passed = [(name, value) for name, value in answer.headers if name.lower() in PASSED_BACK]
            await send({"type": "http.response.start", "status": answer.status, "headers": passed})
            try:
                async with asyncio.timeout(self.gateway.config.total_timeout_s):
                    if answer.content_type == "text/event-stream":
                        await _pass_events(answer, asked, record, send)
                    else:
                        await _pass_whole(answer, record, send)
                    return
            except TimeoutError:
                record.status = 504
            except (BrokenError, NoHttpError):
                record.status = 502
            # Too late for a status. A stream can still say it; anything else just lacks its end.
            if answer.content_type == "text/event-stream":
                message = "upstream: got no end of its answer, expected all of it"
                event = b"data: " + error_json(record.status, message) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": False})


async def _pass_events(answer: Answer, asked: Asked, record: Record, send: Send) -> None:
    reader = StreamReader(hides_usage=asked.hides_usage, keeps_events=bool(asked.tools))
    outgoing = Outgoing(send, answer)

    def take(data: bytes) -> None:
        if passed := reader.feed(data):
            outgoing.write(passed)

    try:
        await answer.pass_to(take)
        await outgoing.end(reader.flush())
    finally:
        outgoing.close()
        record.reading = reader.reading()
        record.first_s, record.last_s = reader.first_s, reader.last_s


async def _pass_whole(answer: Answer, record: Record, send: Send) -> None:
    kept, size = [], 0
    async for data in answer.pieces():
        if not record.first_s:
            record.first_s = time.perf_counter()
        if size < KEPT_BYTES:
            kept.append(data)
            size += len(data)
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    record.reading = read_whole(b"".join(kept))


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
