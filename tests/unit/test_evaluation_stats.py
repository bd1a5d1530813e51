"""Intervals and paired differences, against published values and independent definitions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import isclose, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgpipe.evaluation.stats import Difference, Share, mcnemar, paired_interval, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(hits: int, n: int, low: float, high: float) -> None:
    """If this fails, every interval printed beside a score is wrong."""
    assert wilson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@given(
    st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_wilson_bounds_are_the_shares_that_the_observation_just_rejects(counts: tuple[int, int], level: float) -> None:
    """The definition of a score interval: |hits/n - p| = z sqrt(p (1 - p) / n) at both ends, with the value inside."""
    hits, n = counts
    z = NormalDist().inv_cdf(0.5 + level / 2)
    low, high = wilson(hits, n, level)
    assert 0 <= low <= hits / n <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert isclose(abs(hits / n - bound), z * sqrt(bound * (1 - bound) / n), rel_tol=1e-6, abs_tol=1e-9)
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == n)


def test_no_rows_give_no_number() -> None:
    """A score over no rows must be shown as n/a: 0 % or 100 % would be a lie."""
    assert Share(0, 0).plain(0.95) == {"value": None, "low": None, "high": None, "n": 0}
    empty = Difference.of([], []).plain(0.95)
    assert (empty["value"], empty["low"], empty["p_value"], empty["n"]) == (None, None, None, 0)


def test_paired_interval_gives_newcombes_published_example() -> None:
    """Newcombe 1998, method 10 on (36, 12, 2, 0): if it fails, the interval of "adapter - base" is wrong."""
    difference = Difference(gained=12, lost=2, both=36, neither=0)
    assert paired_interval(difference, 0.95) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_interval_allows_for_answers_that_go_together() -> None:
    """Base and adapter mostly agree: phi, less a correction of n/2, narrows the interval by just so much."""
    both, gained, lost, neither = 20, 2, 1, 27
    low, high = paired_interval(Difference(gained, lost, both, neither), 0.95)
    phi = (both * neither - gained * lost - 25) / sqrt(22 * 28 * 21 * 29)
    (low2, high2), (low1, high1) = wilson(22, 50, 0.95), wilson(21, 50, 0.95)
    down, down_other, up, up_other = 0.44 - low2, high1 - 0.42, high2 - 0.44, 0.42 - low1
    assert 0.02 - low == pytest.approx(sqrt(down**2 - 2 * phi * down * down_other + down_other**2))
    assert high - 0.02 == pytest.approx(sqrt(up**2 - 2 * phi * up * up_other + up_other**2))


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any))
def test_paired_interval_holds_the_value_and_turns_over_with_the_models(counts: tuple[int, int, int, int]) -> None:
    """Swapping base and adapter must only change the sign."""
    gained, lost, both, neither = counts
    low, high = paired_interval(Difference(gained, lost, both, neither), 0.95)
    value = (gained - lost) / sum(counts)
    assert -1 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1
    swapped = paired_interval(Difference(lost, gained, both, neither), 0.95)
    assert (-swapped[1], -swapped[0]) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("changed", range(9))
def test_mcnemar_counts_the_splits_at_least_as_uneven(changed: int) -> None:
    """The p-value by listing every way the changed rows could have fallen."""
    for gained in range(changed + 1):
        uneven = abs(2 * gained - changed)
        as_bad = sum(abs(2 * sum(ways) - changed) >= uneven for ways in product((0, 1), repeat=changed))
        assert mcnemar(gained, changed - gained) == pytest.approx(float(Fraction(as_bad, 2**changed)))


def test_mcnemar_stands_thousands_of_rows() -> None:
    """Big evaluations must not overflow a float."""
    assert mcnemar(0, 5000) == 0.0
    assert mcnemar(2500, 2500) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_difference_is_the_difference_of_the_shares(pairs: list[tuple[bool, bool]]) -> None:
    """Gained minus lost over n must be what a reader gets by subtracting the two columns."""
    before, after = [one for one, _ in pairs], [two for _, two in pairs]
    value = Difference.of(before, after).plain(0.95)["value"]
    assert value == pytest.approx(Share.of(after).hits / len(pairs) - Share.of(before).hits / len(pairs))


def test_rows_of_two_models_must_line_up() -> None:
    """A paired test over different rows would mean nothing."""
    with pytest.raises(ValueError, match="zip"):
        Difference.of([True], [True, False])
