"""One request asked of an upstream: a slot for it, another upstream where that is safe, timeouts, and its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from fgpipe import keys
from fgpipe.config import GatewayConfig
from fgpipe.gateway import tracing
from fgpipe.gateway.admission import Admission
from fgpipe.gateway.faults import Receive, RefusedError
from fgpipe.gateway.metrics import GatewayMetrics
from fgpipe.gateway.published import Published, Versions
from fgpipe.gateway.reading import Asked, Reading, count_calls
from fgpipe.gateway.upstreams import Pool, Upstream, ranked

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


class Gateway:
    """Everything that lives as long as the gateway does."""

    def __init__(self, config: GatewayConfig, *, upstreams: tuple[str, ...], versions: Versions) -> None:
        self.config = config
        self.metrics = GatewayMetrics()
        self.admission = Admission(
            max_in_flight=config.max_in_flight,
            spill_in_flight=config.spill_in_flight,
            max_queued=config.max_queued,
            max_wait_s=config.max_wait_s,
        )
        self.pool = Pool(upstreams, timeout_s=config.health_timeout_s, on_change=self.admission.admit)
        self.published = Published(versions, self.pool)
        self.tracing = tracing.tracing()
        self.inside = 0
        self.capacity = config.max_in_flight * len(upstreams) + config.max_queued
        """Requests that may be inside at once, those whose body is still being read included."""
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Connections to the upstreams."""
        assert self._session is not None, "the gateway has not started"
        return self._session

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold connections, and look at upstreams and folder again and again."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)  # vLLM's uvicorn closes idle ones after 5 s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout_s)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as self._session:
            await self._look()
            watching = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await asyncio.to_thread(self.tracing.close)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.health_every_s)
            await self._look()

    async def _look(self) -> None:
        await asyncio.gather(self.pool.look(self.session), self.published.look())
        self.metrics.set_live(self.published.live())

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

    def full(self) -> RefusedError | None:
        """Why no more requests may come in now; None if they may."""
        if self.inside < self.capacity:
            return None
        return self.admission.too_many("full", f"gateway: got {self.inside} requests at once, the most it holds")

    @asynccontextmanager
    async def answer(
        self, asked: Asked, headers: Mapping[str, str], record: Record
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the upstream that `asked.model` prefers, or of the next where that one was lost.

        Raises:
            RefusedError: none is well, none is free in time, none answers, or the one that was asked is too slow.
        """
        record.asked = asked
        sent = self._headers(headers)
        tried: set[str] = set()
        resets = 0
        with self.tracing.span(record.endpoint, headers, sent) as span:
            while True:
                upstream = await self.admission.acquire(lambda: self._candidates(asked.model, tried))
                record.upstream = upstream.url
                try:
                    response = await self._ask(upstream, asked, sent)
                    if response is not None:
                        try:
                            yield response
                        finally:
                            _let_go(response)
                        return
                finally:
                    self.admission.release(upstream)
                    self._describe(span, record)
                self.metrics.retries.labels(upstream.url).inc()
                resets += upstream.healthy
                # A killed server breaks kept connections one by one: where there is another one, that is asked next.
                if not upstream.healthy or self._candidates(asked.model, {*tried, upstream.url}):
                    tried.add(upstream.url)
                if resets >= RESETS or not self._candidates(asked.model, tried):
                    raise RefusedError(
                        502, "upstream: got none that answers, expected one", reason="lost", retry_after_s=2
                    )

    def _describe(self, span: Span | None, record: Record) -> None:
        if span is not None and record.asked is not None:
            adapter, version = self.published.labels(record.asked.model, record.reading.model)
            usage = record.reading.usage
            tracing.describe(
                span,
                fgpipe__adapter=adapter,
                fgpipe__version=version,
                fgpipe__upstream=record.upstream,
                http__response__status_code=record.status,
                gen_ai__usage__input_tokens=usage.get("prompt_tokens"),
                gen_ai__usage__output_tokens=usage.get("completion_tokens"),
            )

    def _candidates(self, model: str, tried: set[str]) -> list[Upstream]:
        fitting = self.pool.serving(model, published_for=self.published.base_of(model))
        return ranked((one for one in fitting if one.url not in tried), model.partition("@")[0])

    def _headers(self, headers: Mapping[str, str]) -> MutableMapping[str, str]:
        passed = {name: headers[name] for name in PASSED_HEADERS if name in headers}
        return {**passed, "content-type": "application/json", **keys.shown(keys.CLIENT_KEY_VARIABLE)}

    async def _ask(self, upstream: Upstream, asked: Asked, headers: Mapping[str, str]) -> aiohttp.ClientResponse | None:
        """The beginning of an answer; None if the upstream was lost before it said anything, so that another may."""
        try:
            async with asyncio.timeout(self.config.first_byte_timeout_s):
                response = await self.session.post(
                    upstream.url + asked.path, data=asked.body, headers=headers, allow_redirects=False
                )
                upstream.heard_s = time.monotonic()
                return response
        except aiohttp.ConnectionTimeoutError:
            self.pool.lost(upstream, f"got no connection in {self.config.connect_timeout_s:g} s, expected one")
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
            self.pool.lost(upstream, f"got {error}, expected a server")
        except (aiohttp.ClientConnectionError, ConnectionResetError):
            # Perhaps a kept connection that the server had just closed: no reason to call it down.
            return None
        except TimeoutError:
            message = f"upstream: got nothing in {self.config.first_byte_timeout_s:g} s, expected an answer's beginning"
            raise RefusedError(504, message) from None
        except aiohttp.ClientError as error:
            raise RefusedError(502, f"upstream: got {type(error).__name__}, expected an answer in HTTP") from None
        return None

    def count(self, record: Record) -> None:
        """Put a finished request into the metrics."""
        asked, reading, metrics = record.asked, record.reading, self.metrics
        pair = self.published.labels(asked.model if asked else "", reading.model)
        metrics.requests.labels(*pair, record.endpoint, str(record.status)).inc()
        if record.status != 200 or asked is None:
            return
        now_s = time.perf_counter()
        metrics.request_seconds.labels(*pair).observe(now_s - record.began_s)
        tokens_out = _number(reading.usage.get("completion_tokens"))
        metrics.tokens.labels(*pair, "in").inc(_number(reading.usage.get("prompt_tokens")))
        metrics.tokens.labels(*pair, "out").inc(tokens_out)
        if asked.stream and record.first_s:
            metrics.first_token.labels(*pair).observe(record.first_s - record.began_s)
            if tokens_out > 1:
                metrics.per_token.labels(*pair).observe((record.last_s - record.first_s) / (tokens_out - 1))
        metrics.parse_failures.labels(*pair).inc(reading.unread_call)
        counts = count_calls(reading.calls, asked.tools)
        metrics.calls.labels(*pair).inc(counts.calls)
        metrics.unknown_tools.labels(*pair).inc(counts.unknown)
        metrics.violations.labels(*pair).inc(counts.violations)

    def figures(self) -> dict[str, Any]:
        """How things are now, for the page."""
        upstreams = [
            {"url": one.url, "base": one.base, "up": one.healthy, "reason": one.reason, "in_flight": one.in_flight}
            for one in self.pool.all
        ]
        queued, figures = self.admission.queued, self.metrics.figures()
        return {"upstreams": upstreams, "queued": queued, "inside": self.inside, "adapters": figures}

    def metrics_text(self) -> bytes:
        """The metrics, with the gauges as they are now."""
        for upstream in self.pool.all:
            self.metrics.in_flight.labels(upstream.url).set(upstream.in_flight)
            self.metrics.up.labels(upstream.url).set(upstream.healthy)
        self.metrics.queued.set(self.admission.queued)
        return self.metrics.text()


def _let_go(response: aiohttp.ClientResponse) -> None:
    """Keep the connection if the answer was read to its end; closing it tells vLLM that nobody waits for the rest."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def too_large(limit: int) -> RefusedError:
    """The 413 for a body of more than `limit` bytes."""
    return RefusedError(
        413, f"body: got more, expected at most {limit} bytes (gateway.max_body_bytes)", reason="too_large"
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
