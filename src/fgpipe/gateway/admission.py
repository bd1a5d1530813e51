"""How many requests are in flight and how many wait: both bounded, and whoever is refused is told when to come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fgpipe.gateway.faults import RefusedError
from fgpipe.gateway.upstreams import Upstream, choose

LONGEST_RETRY_S = 60.0
RATE_SAMPLES = 256
"""Finished requests from which the recent rate is taken."""

Candidates = Callable[[], list[Upstream]]
"""Upstreams that may answer a request as things stand, the preferred one first."""


@dataclass(eq=False)
class _Waiter:
    candidates: Candidates
    turn: asyncio.Future[Upstream]


class Admission:
    """Slots at upstreams, handed out first come, first served among those that a free slot fits."""

    def __init__(self, *, max_in_flight: int, spill_in_flight: int, max_queued: int, max_wait_s: float) -> None:
        self.max_in_flight = max_in_flight
        self.spill_in_flight = spill_in_flight
        self.max_queued = max_queued
        self.max_wait_s = max_wait_s
        self._waiting: deque[_Waiter] = deque()
        self._finished: deque[float] = deque(maxlen=RATE_SAMPLES)

    @property
    def queued(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    async def acquire(self, candidates: Candidates) -> Upstream:
        """A slot at one of `candidates`, which `release` gives back; waits if all are full.

        Raises:
            RefusedError: no upstream is well (503); the queue is full, or the wait too long (429).
        """
        preference = candidates()
        if not preference:
            raise RefusedError(
                503, "upstream: got none that is well, expected one", reason="no_upstream", retry_after_s=2
            )
        if not self._waiting or not self._ahead(preference):
            chosen = choose(preference, spill=self.spill_in_flight, limit=self.max_in_flight)
            if chosen is not None:
                chosen.in_flight += 1
                return chosen
        if self.queued >= self.max_queued:
            raise self.too_many("queue_full", f"queue: got {self.queued} waiting requests, the most that may wait")
        return await self._wait(candidates)

    def _ahead(self, preference: list[Upstream]) -> bool:
        """Whether somebody already waits for one of `preference`."""
        wanted = set(preference)
        return any(wanted.intersection(waiter.candidates()) for waiter in self._waiting)

    async def _wait(self, candidates: Candidates) -> Upstream:
        waiter = _Waiter(candidates, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.max_wait_s):
                return await waiter.turn
        except TimeoutError:
            self._give_up(waiter)
            message = f"queue: got no free upstream in {self.max_wait_s:g} s"
            raise self.too_many("wait_too_long", message) from None
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if waiter.turn.done() and not waiter.turn.cancelled():
            self.release(waiter.turn.result(), finished=False)

    def too_many(self, reason: str, message: str) -> RefusedError:
        """The 429 with its Retry-After."""
        return RefusedError(
            429, f"{message}; come back in a while", reason=reason, retry_after_s=self.retry_after_s(time.monotonic())
        )

    def release(self, upstream: Upstream, *, finished: bool = True) -> None:
        """Give the slot back; the next waiter that it fits gets it."""
        upstream.in_flight -= 1
        if finished:
            self._finished.append(time.monotonic())
        self.admit(upstream)

    def admit(self, upstream: Upstream) -> None:
        """Hand free slots of `upstream` to those who wait for it."""
        if not self._waiting or not upstream.healthy:
            return
        for waiter in list(self._waiting):
            if upstream.in_flight >= self.max_in_flight:
                return
            if waiter.turn.done():
                self._waiting.remove(waiter)
            elif upstream in waiter.candidates():
                self._waiting.remove(waiter)
                upstream.in_flight += 1
                waiter.turn.set_result(upstream)

    def retry_after_s(self, now_s: float) -> float:
        """When a slot will be free for one who comes last, by the rate of the last requests."""
        if len(self._finished) < 2:
            return 1.0
        rate_rps = len(self._finished) / max(now_s - self._finished[0], 1e-3)
        return min(LONGEST_RETRY_S, max(1.0, (self.queued + 1) / rate_rps))
