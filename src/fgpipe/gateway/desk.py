"""The one place that knows all requests: slots, the queue, upstreams, what is published, and the figures.

With one process it is an object in it. With several, the parent has it and workers ask it over a link (`link`), so
limits, routing and figures are the same whichever process a client happened to reach.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from fgpipe.config import GatewayConfig
from fgpipe.gateway.admission import Admission
from fgpipe.gateway.faults import RefusedError
from fgpipe.gateway.metrics import GatewayMetrics
from fgpipe.gateway.published import Published, Versions
from fgpipe.gateway.upstreams import Pool, Upstream, ranked


@dataclass(frozen=True)
class Facts:
    """What the metrics need of a finished request.

    Attributes:
        asked: the model that the client named.
        answered: the model that the answer names; "" if there was none.
        seconds: from request to the end of its answer; None if it was not answered.
        first_s: from request to the first piece of a streamed answer.
        per_token_s: between two tokens of a streamed answer.
        unread_call: the answer's text holds a call nobody could read.
    """

    endpoint: str
    status: int
    asked: str = ""
    answered: str = ""
    seconds: float | None = None
    first_s: float | None = None
    per_token_s: float | None = None
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    unread_call: bool = False
    calls: int = 0
    unknown_tools: int = 0
    violations: int = 0


class Slot(Protocol):
    """A request's place at an upstream."""

    @property
    def url(self) -> str:
        """Of the upstream."""

    @property
    def base(self) -> str:
        """Name of the base model there."""


class Desk(Protocol):
    """What answering a request needs to know and to tell."""

    inside: int
    """Requests that this process has now, those whose body is still being read included."""

    def move(self, change: int) -> None:
        """A request came in (1) or is over (-1)."""

    async def acquire(self, model: str, tried: Collection[str]) -> Slot:
        """A slot at the upstream that `model` prefers, those `tried` left out; waits if all are full.

        Raises:
            RefusedError: none is well, none is free in time, or too many wait already.
        """

    def release(self, slot: Slot) -> None:
        """Give a slot back."""

    def heard(self, slot: Slot) -> None:
        """The upstream began an answer."""

    def lost(self, slot: Slot, reason: str) -> None:
        """The upstream cannot be reached."""

    def retried(self, slot: Slot) -> None:
        """A request goes to another upstream, as this one was lost."""

    def refused(self, reason: str) -> None:
        """A request was refused for `reason`."""

    async def too_many(self, reason: str, message: str) -> RefusedError:
        """The 429 with its Retry-After."""

    def count(self, facts: Facts) -> None:
        """Put a finished request into the metrics."""


class OwnDesk:
    """The desk itself.

    Args:
        config: its limits; `upstreams` are the servers behind it.
        versions: what is published.
    """

    def __init__(self, config: GatewayConfig, *, versions: Versions) -> None:
        self.config = config
        self.metrics = GatewayMetrics()
        self.admission = Admission(
            max_in_flight=config.max_in_flight,
            spill_in_flight=config.spill_in_flight,
            max_queued=config.max_queued,
            max_wait_s=config.max_wait_s,
        )
        self.pool = Pool(config.upstreams, timeout_s=config.health_timeout_s, on_change=self.admission.admit)
        self.published = Published(versions, self.pool)
        self.inside = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at upstreams and folder again and again."""
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=4
        )  # an uvicorn left to itself closes them after 5 s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout_s)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as session:
            await self._look(session)
            watching = asyncio.create_task(self._watch(session))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(self.config.health_every_s)
            await self._look(session)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        await asyncio.gather(self.pool.look(session), self.published.look())
        self.metrics.set_live(self.published.live())

    def move(self, change: int) -> None:
        """See `Desk`."""
        self.inside += change

    async def acquire(self, model: str, tried: Collection[str]) -> Upstream:
        """See `Desk`."""
        return await self.admission.acquire(lambda: self._candidates(model, tried))

    def _candidates(self, model: str, tried: Collection[str]) -> list[Upstream]:
        fitting = self.pool.serving(model, published_for=self.published.base_of(model))
        return ranked((one for one in fitting if one.url not in tried), model.partition("@")[0])

    def release(self, slot: Slot) -> None:
        """See `Desk`."""
        self.admission.release(self.pool.named(slot.url))

    def heard(self, slot: Slot) -> None:
        """See `Desk`."""
        self.pool.named(slot.url).heard_s = time.monotonic()

    def lost(self, slot: Slot, reason: str) -> None:
        """See `Desk`."""
        self.pool.lost(self.pool.named(slot.url), reason)

    def retried(self, slot: Slot) -> None:
        """See `Desk`."""
        self.metrics.retries.labels(slot.url).inc()

    def refused(self, reason: str) -> None:
        """See `Desk`."""
        self.metrics.refused.labels(reason).inc()

    async def too_many(self, reason: str, message: str) -> RefusedError:
        """See `Desk`."""
        return self.admission.too_many(reason, message)

    def count(self, facts: Facts) -> None:
        """See `Desk`."""
        metrics, pair = self.metrics, self.published.labels(facts.asked, facts.answered)
        metrics.requests.labels(*pair, facts.endpoint, str(facts.status)).inc()
        if facts.seconds is None:
            return
        metrics.request_seconds.labels(*pair).observe(facts.seconds)
        metrics.tokens.labels(*pair, "in").inc(facts.tokens_in)
        metrics.tokens.labels(*pair, "out").inc(facts.tokens_out)
        if facts.first_s is not None:
            metrics.first_token.labels(*pair).observe(facts.first_s)
        if facts.per_token_s is not None:
            metrics.per_token.labels(*pair).observe(facts.per_token_s)
        metrics.parse_failures.labels(*pair).inc(facts.unread_call)
        metrics.calls.labels(*pair).inc(facts.calls)
        metrics.unknown_tools.labels(*pair).inc(facts.unknown_tools)
        metrics.violations.labels(*pair).inc(facts.violations)

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
