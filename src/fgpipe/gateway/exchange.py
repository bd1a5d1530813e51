"""One request asked of an upstream: a slot for it, another upstream where that is safe, timeouts, and its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fgpipe import keys
from fgpipe.config import GatewayConfig
from fgpipe.gateway import published, tracing
from fgpipe.gateway.connections import Answer, BrokenError, Connections, NoHttpError, UnreachableError
from fgpipe.gateway.desk import Desk, Facts, Slot
from fgpipe.gateway.faults import Receive, RefusedError
from fgpipe.gateway.metrics import NO_VERSION
from fgpipe.gateway.reading import Asked, Reading, count_calls

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CLIENT_GONE = 499
"""Status in the metrics of a request whose client did not wait for the answer (nginx's number)."""

RESETS = 2
"""Connections that may break after a request was sent before it is given up: it may be what breaks the servers."""

PASSED_HEADERS = ("content-type", "accept", "x-request-id")
"""All that an upstream sees of a client's headers; its key least of all."""


@dataclass
class Record:
    """What is known of one request when it ends."""

    endpoint: str
    began_s: float = field(default_factory=time.perf_counter)
    status: int = 500
    asked: Asked | None = None
    reading: Reading = field(default_factory=Reading)
    first_s: float = 0.0
    last_s: float = 0.0
    upstream: str = ""

    def facts(self) -> Facts:
        """What of it is counted."""
        asked, reading = self.asked, self.reading
        if self.status != 200 or asked is None:
            return Facts(self.endpoint, self.status, asked.model if asked else "", reading.model)
        tokens_out = _number(reading.usage.get("completion_tokens"))
        streamed = asked.stream and self.first_s > 0
        counts = count_calls(reading.calls, asked.tools)
        return Facts(
            endpoint=self.endpoint,
            status=self.status,
            asked=asked.model,
            answered=reading.model,
            seconds=time.perf_counter() - self.began_s,
            first_s=self.first_s - self.began_s if streamed else None,
            per_token_s=(self.last_s - self.first_s) / (tokens_out - 1) if streamed and tokens_out > 1 else None,
            tokens_in=_number(reading.usage.get("prompt_tokens")),
            tokens_out=tokens_out,
            unread_call=reading.unread_call,
            calls=counts.calls,
            unknown_tools=counts.unknown,
            violations=counts.violations,
        )


class Gateway:
    """What answers requests: connections to the upstreams, spans, and the desk that all requests go by.

    Args:
        config: its limits; `upstreams` are the servers behind it.
    """

    def __init__(self, config: GatewayConfig, desk: Desk) -> None:
        self.config = config
        self.desk = desk
        self.connections = Connections(connect_timeout_s=config.connect_timeout_s)
        self.tracing = tracing.tracing()
        self.capacity = config.max_in_flight * len(config.upstreams) + config.max_queued
        """Requests that may be inside at once, those whose body is still being read included."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold connections."""
        tidying = asyncio.create_task(self._tidy())
        try:
            yield
        finally:
            tidying.cancel()
            await asyncio.gather(tidying, return_exceptions=True)
            self.connections.close()
            await asyncio.to_thread(self.tracing.close)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.connections.tidy()

    async def read_body(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """The whole body of a request.

        Raises:
            RefusedError: it is too long, or did not come in time.
            ConnectionResetError: the client went away.
        """
        limit = self.config.max_body_bytes
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.config.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large(limit)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RefusedError(
                408, f"body: got {size} bytes in {self.config.body_timeout_s:g} s, expected all"
            ) from None

    async def enter(self) -> None:
        """Let a request in, which `leave` ends.

        Raises:
            RefusedError: no more may come in now.
        """
        if (inside := self.desk.inside) >= self.capacity:
            raise await self.desk.too_many("full", f"gateway: got {inside} requests at once, the most it holds")
        self.desk.move(1)

    def leave(self) -> None:
        """A request is over."""
        self.desk.move(-1)

    @asynccontextmanager
    async def answer(self, asked: Asked, headers: Mapping[str, str], record: Record) -> AsyncIterator[Answer]:
        """The answer of the upstream that `asked.model` prefers, or of the next where that one was lost.

        Raises:
            RefusedError: none is well, none is free in time, none answers, or the one that was asked is too slow.
        """
        record.asked = asked
        sent = self._headers(headers)
        tried: set[str] = set()
        broken: list[str] = []
        with self.tracing.span(record.endpoint, headers, sent) as span:
            while True:
                slot = await self._slot(asked.model, tried, broken)
                record.upstream = slot.url
                try:
                    answer = await self._ask(slot, asked, sent)
                except UnreachableError as error:
                    self.desk.lost(slot, str(error))
                    tried.add(slot.url)
                except BrokenError:
                    # Perhaps a kept connection that the server had just closed: no reason to call it down.
                    broken.append(slot.url)
                else:
                    try:
                        yield answer
                    finally:
                        answer.let_go()
                    return
                finally:
                    self.desk.release(slot)
                    self._describe(span, record, slot.base)
                self.desk.retried(slot)

    async def _slot(self, model: str, tried: set[str], broken: list[str]) -> Slot:
        """A slot of one that was not lost; a killed server breaks kept connections one by one, so others come first."""
        refusal = RefusedError(502, "upstream: got none that answers, expected one", reason="lost", retry_after_s=2)
        if len(broken) >= RESETS:
            raise refusal
        for avoided in (tried.union(broken), tried):
            try:
                return await self.desk.acquire(model, avoided)
            except RefusedError as error:
                if error.status != 503 or not (tried or broken):
                    raise
        raise refusal

    def _describe(self, span: Span | None, record: Record, base: str) -> None:
        if span is not None and record.asked is not None:
            adapter, version = published.named(record.reading.model or record.asked.model, base)
            usage = record.reading.usage
            tracing.describe(
                span,
                fgpipe__adapter=adapter,
                fgpipe__version=version if record.reading.model else NO_VERSION,
                fgpipe__upstream=record.upstream,
                http__response__status_code=record.status,
                gen_ai__usage__input_tokens=usage.get("prompt_tokens"),
                gen_ai__usage__output_tokens=usage.get("completion_tokens"),
            )

    def _headers(self, headers: Mapping[str, str]) -> MutableMapping[str, str]:
        passed = {name: headers[name] for name in PASSED_HEADERS if name in headers}
        return {**passed, "content-type": "application/json", **keys.shown(keys.CLIENT_KEY_VARIABLE)}

    async def _ask(self, slot: Slot, asked: Asked, headers: Mapping[str, str]) -> Answer:
        """The beginning of an answer.

        Raises:
            UnreachableError, BrokenError: the upstream was lost before it said anything, so that another may be asked.
            RefusedError: it said nothing in time, or no HTTP.
        """
        try:
            async with asyncio.timeout(self.config.first_byte_timeout_s):
                answer = await self.connections.post(slot.url, asked.path, asked.body, headers)
        except TimeoutError:
            message = f"upstream: got nothing in {self.config.first_byte_timeout_s:g} s, expected an answer's beginning"
            raise RefusedError(504, message) from None
        except NoHttpError as error:
            raise RefusedError(502, f"upstream: got {error}, expected an answer in HTTP") from None
        self.desk.heard(slot)
        return answer


def too_large(limit: int) -> RefusedError:
    """The 413 for a body of more than `limit` bytes."""
    return RefusedError(
        413, f"body: got more, expected at most {limit} bytes (gateway.max_body_bytes)", reason="too_large"
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
