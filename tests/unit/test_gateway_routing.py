"""Which upstream a request goes to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.gateway.upstreams import Pool, Upstream, choose, ranked

NAMES = [f"adapter-{number}" for number in range(300)]


def upstreams(count: int) -> list[Upstream]:
    return [Upstream(f"http://10.0.0.{number}:8000", healthy=True) for number in range(count)]


@settings(deadline=None)
@given(count=st.integers(2, 8), lost=st.integers(0, 7))
def test_a_lost_replica_moves_only_its_own_adapters(count: int, lost: int) -> None:
    """Every adapter's prefix cache would be cold at once whenever one replica restarts."""
    every = upstreams(count)
    lost %= count
    left = every[:lost] + every[lost + 1 :]
    for name in NAMES:
        before = ranked(every, name)
        assert ranked(reversed(every), name) == before
        assert ranked(left, name) == [one for one in before if one is not every[lost]]


def test_adapters_are_shared_out_evenly() -> None:
    """One replica would do the work of all."""
    counts = Counter(ranked(upstreams(4), name)[0].url for name in NAMES)
    assert len(counts) == 4
    assert min(counts.values()) > len(NAMES) / 4 / 2


@settings(deadline=None)
@given(busy=st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_a_busy_replica_spills_over_and_a_full_one_gets_nothing(busy: list[int]) -> None:
    """A popular adapter would wait at its replica while the others idle, or a replica would be overrun."""
    preference = upstreams(len(busy))
    for upstream, in_flight in zip(preference, busy, strict=True):
        upstream.in_flight = in_flight
    chosen = choose(preference, spill=5, limit=10)
    below = [upstream for upstream in preference if upstream.in_flight < 5]
    if below:
        assert chosen is below[0]
    elif min(busy) < 10:
        assert chosen is not None
        assert chosen.in_flight == min(busy)
    else:
        assert chosen is None


def test_a_request_goes_to_servers_of_its_own_base() -> None:
    """An adapter would be applied to another model than the one it was trained on."""
    pool = Pool([f"http://10.0.0.{number}:8000" for number in range(4)], timeout_s=1, on_change=lambda one: None)
    for upstream, base in zip(pool.all, ("small", "small", "large", "large"), strict=True):
        upstream.base, upstream.healthy = base, True
    pool.all[2].models = {"sql": "v0001"}
    assert pool.serving("large") == pool.all[2:]
    assert pool.serving("email", published_for="large") == pool.all[2:]
    assert pool.serving("sql@v0001") == [pool.all[2]]
    assert pool.serving("nobody-knows") == pool.all[:2]
    assert pool.serving("") == pool.all[:2]
    pool.all[0].healthy = pool.all[1].healthy = False
    assert pool.serving("small") == pool.all[2:], "the server's own 404 tells that nobody serves it"
