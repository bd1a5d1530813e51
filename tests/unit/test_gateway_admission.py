"""Slots and the queue in front of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.gateway.admission import Admission
from fgpipe.gateway.faults import RefusedError
from fgpipe.gateway.upstreams import Upstream


def admission(**changes: float) -> Admission:
    settings = {"max_in_flight": 2, "spill_in_flight": 1, "max_queued": 3, "max_wait_s": 5, **changes}
    return Admission(**settings)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from(["ask", "ask", "finish", "cancel"]), max_size=60),
    replicas=st.integers(1, 3),
)
def test_no_order_of_events_overruns_an_upstream_or_loses_a_slot(steps: list[str], replicas: int) -> None:
    """A server would get more than it can hold, or slots would leak until nothing is answered any more."""

    async def run() -> None:
        gate, every = admission(), [Upstream(str(number), healthy=True) for number in range(replicas)]
        asking: list[asyncio.Task[Upstream]] = []
        for step in steps:
            if step == "ask":
                asking.append(asyncio.create_task(gate.acquire(lambda: every)))
            elif asking:
                done = [task for task in asking if task.done()]
                if step == "finish" and done:
                    task = done[0]
                    if not task.exception():
                        gate.release(task.result())
                    asking.remove(task)
                elif step == "cancel":
                    task = asking.pop()
                    if not task.cancel() and not task.exception():
                        gate.release(task.result())
                    await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0)
            assert all(0 <= upstream.in_flight <= 2 for upstream in every)
            assert gate.queued <= 3
            if gate.queued:
                assert all(upstream.in_flight == 2 for upstream in every), "somebody waits beside a free slot"
        for task in asking:
            task.cancel()
            if task.done() and not task.cancelled() and not task.exception():
                gate.release(task.result())
        await asyncio.gather(*asking, return_exceptions=True)
        assert gate.queued == 0
        assert all(upstream.in_flight == 0 for upstream in every)

    asyncio.run(run())


def test_who_comes_first_is_served_first() -> None:
    """Under load some requests would starve."""

    async def run() -> list[int]:
        gate, one, order = admission(max_in_flight=1, max_queued=10), Upstream("one", healthy=True), []

        async def ask(number: int) -> None:
            upstream = await gate.acquire(lambda: [one])
            order.append(number)
            await asyncio.sleep(0)
            gate.release(upstream)

        await asyncio.gather(*(ask(number) for number in range(8)))
        return order

    assert asyncio.run(run()) == list(range(8))


@pytest.mark.parametrize(
    ("setup", "status", "reason"),
    [({"max_queued": 0}, 429, "queue_full"), ({"max_wait_s": 0.01}, 429, "wait_too_long"), ({}, 503, "no_upstream")],
)
def test_whoever_is_refused_is_told_when_to_come_back(setup: dict[str, float], status: int, reason: str) -> None:
    """Clients would come back at once and keep the server overloaded."""

    async def run() -> RefusedError:
        gate, one = admission(**setup), Upstream("one", healthy=True, in_flight=2)
        with pytest.raises(RefusedError) as caught:
            await gate.acquire(lambda: [one] if setup else [])
        assert gate.queued == 0
        return caught.value

    refused = asyncio.run(run())
    assert (refused.status, refused.reason) == (status, reason)
    assert refused.retry_after_s is not None
    assert 1 <= refused.retry_after_s <= 60


def test_the_wait_that_is_told_follows_the_recent_rate() -> None:
    """Clients of a slow server would come back far too early, those of a fast one far too late."""

    async def run() -> None:
        gate, one = admission(), Upstream("one", healthy=True, in_flight=100)
        for number in range(100):
            gate.release(one)
            gate._finished[number] = number * 0.1
        assert gate.retry_after_s(10.0) == 1.0
        for number in range(100):
            gate._finished[number] = number * 3.0
        assert gate.retry_after_s(300.0) == pytest.approx(3.0)
        assert gate.retry_after_s(1e6) == 60.0

    asyncio.run(run())


def test_those_who_wait_go_to_a_server_that_comes_back() -> None:
    """They would be refused although a replica has become free for them."""

    async def run() -> None:
        gate, full, back = admission(), Upstream("full", healthy=True, in_flight=2), Upstream("back")
        every = [full, back]
        waiting = asyncio.create_task(gate.acquire(lambda: [one for one in every if one.healthy]))
        await asyncio.sleep(0)
        assert gate.queued == 1
        back.healthy = True
        gate.admit(back)
        assert await waiting is back

    asyncio.run(run())
