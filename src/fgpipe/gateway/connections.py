"""Requests to upstreams over kept connections; the bytes of an answer go to a function, without a task in between.

aiohttp's client, which wakes a task for every piece, took a third of the gateway's time a token and more a request.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import cast
from urllib.parse import urlsplit

import httptools

IDLE_S = 4.0
"""Longest rest of a connection that is used again: an uvicorn left to itself closes them after 5 s."""

EARLY_BYTES = 262_144
"""Of a body that nobody has taken yet, from which reading stops for a while."""

Take = Callable[[bytes], None]

_LINE_END = re.compile(r"[\r\n]+")


class UnreachableError(ConnectionError):
    """There is no connection to be had."""


class BrokenError(ConnectionError):
    """The connection ended before the answer did."""


class NoHttpError(Exception):
    """What came is no answer in HTTP."""


class Answer:
    """An upstream's answer: its head is there when `Connections.post` returns it, its body comes."""

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = False
        self.ended = False
        self.kept_alive = False
        self._connection = connection
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._waiting: asyncio.Future[None] | None = None
        self._fault: Exception | None = None
        self.take: Take = self._keep

    @property
    def content_type(self) -> str:
        """Media type, without its parameters."""
        value = next((value for name, value in self.headers if name.lower() == b"content-type"), b"")
        return value.partition(b";")[0].strip().decode("latin-1").lower()

    async def pass_to(self, take: Take) -> None:
        """Call `take` with each piece of the body as it comes; returns at its end.

        Raises:
            BrokenError, NoHttpError: it has no end.
        """
        early, self._early = self._early, []
        if early:
            take(b"".join(early))
        self.take = take
        self.resume()
        while not self.ended:
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; raises as `pass_to`."""
        while True:
            if self._early:
                data, self._early, self._early_bytes = b"".join(self._early), [], 0
                self.resume()
                yield data
            elif self.ended:
                return
            else:
                await self._wait()

    async def read(self) -> bytes:
        """The whole body; raises as `pass_to`."""
        parts: list[bytes] = []
        await self.pass_to(parts.append)
        return b"".join(parts)

    async def head(self) -> None:
        """Wait for status and headers; raises as `pass_to`."""
        while not self.begun:
            await self._wait()

    def pause(self) -> None:
        """Let the upstream wait."""
        self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        self._connection.resume()

    def fail(self, fault: Exception) -> None:
        """Let whoever waits for the answer have `fault`."""
        if not self.ended:
            self._fault = self._fault or fault
            self.wake()

    def let_go(self) -> None:
        """Keep the connection if all was read; else close it, which tells vLLM that nobody waits for the rest."""
        self._connection.let_go(self)

    def wake(self) -> None:
        """Something changed."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _keep(self, data: bytes) -> None:
        self._early.append(data)
        self._early_bytes += len(data)
        if self._early_bytes > EARLY_BYTES:
            self.pause()
        self.wake()


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time; the methods named `on_…` are httptools'."""

    def __init__(self, idle: dict[_Connection, float]) -> None:
        self._idle = idle
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._pieces: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._until_closed = False

    async def ask(self, request: bytes) -> Answer:
        """The answer to `request` once its head is there."""
        answer = self._answer = Answer(self)
        if self._transport is None:
            raise BrokenError("closed")
        self._transport.write(request)
        try:
            await answer.head()
        except BaseException:
            self.close()
            raise
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.ended:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            answer.fail(error.__context__ if isinstance(error.__context__, Exception) else error)
            self.close()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.fail(NoHttpError(str(error)))
            self.close()
        self._hand_over(answer)

    def _hand_over(self, answer: Answer) -> None:
        """What came in one read goes on in one piece."""
        if pieces := self._pieces:
            self._pieces = []
            try:
                answer.take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            except Exception as error:
                answer.ended = False
                answer.fail(error)
                self.close()
        if answer.ended:
            answer.wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None or status < 200:
            return
        answer.status, answer.begun = status, True
        names = {name.lower() for name, _ in answer.headers}
        self._until_closed = not names & {b"content-length", b"transfer-encoding"}
        answer.wake()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None:
            return
        if answer.begun:
            answer.ended, answer.kept_alive = True, self._parser.should_keep_alive()
        else:
            answer.headers.clear()  # of a status below 200, after which the answer itself comes

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._idle.pop(self, None)
        if self._answer is not None and not self._answer.ended:
            if self._answer.begun and self._until_closed and exc is None:
                self._answer.ended = True
                self._answer.wake()
            else:
                self._answer.fail(BrokenError(str(exc or "closed")))

    def pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def let_go(self, answer: Answer) -> None:
        if not (answer.ended and answer.kept_alive) or self._transport is None:
            self.close()
        elif not self._transport.is_closing():
            self._answer = None
            self.resume()
            self._idle[self] = time.monotonic()

    def close(self) -> None:
        self._idle.pop(self, None)
        if self._transport is not None:
            self._transport.close()


class Connections:
    """All connections to upstreams, kept for the next request for some seconds."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        self.connect_timeout_s = connect_timeout_s
        self._idle: dict[str, dict[_Connection, float]] = {}

    async def post(self, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The beginning of the answer to `body`; the caller lets go of it.

        Raises:
            UnreachableError: no connection to `url`.
            BrokenError: the connection ended before the answer began.
            NoHttpError: what came is no answer.
        """
        lines = [f"{name}: {_LINE_END.sub(' ', value)}\r\n" for name, value in headers.items()]
        lines += [f"host: {urlsplit(url).netloc}\r\n", f"content-length: {len(body)}\r\n\r\n"]
        head = f"POST {path} HTTP/1.1\r\n{''.join(lines)}"
        connection = self._kept(url) or await self._connect(url)
        return await connection.ask(head.encode("latin-1", errors="replace") + body)

    def _kept(self, url: str) -> _Connection | None:
        idle = self._idle.setdefault(url, {})
        self._drop(idle, time.monotonic() - IDLE_S)
        return idle.popitem()[0] if idle else None

    async def _connect(self, url: str) -> _Connection:
        parts, loop = urlsplit(url), asyncio.get_running_loop()
        secure = parts.scheme == "https"
        idle = self._idle.setdefault(url, {})
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(idle),
                    parts.hostname or "",
                    parts.port or (443 if secure else 80),
                    ssl=_secure() if secure else None,
                )
        except TimeoutError:
            raise UnreachableError(f"got no connection in {self.connect_timeout_s:g} s, expected one") from None
        except OSError as error:
            raise UnreachableError(f"got {error}, expected a server") from None
        return connection

    def tidy(self) -> None:
        """Close connections that have rested too long."""
        for idle in self._idle.values():
            self._drop(idle, time.monotonic() - IDLE_S)

    def close(self) -> None:
        """Close those that rest."""
        for idle in self._idle.values():
            self._drop(idle, time.monotonic())

    @staticmethod
    def _drop(idle: dict[_Connection, float], before_s: float) -> None:
        while idle and idle[oldest := next(iter(idle))] <= before_s:
            oldest.close()


@cache
def _secure() -> ssl.SSLContext:
    return ssl.create_default_context()
