"""Shares with intervals, and the difference between two models answering the same rows. Only the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """`hits` of `n` rows. With n = 0 there is nothing to say: the value is None, never 0."""

    hits: int
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Share:
        """The share of True."""
        return cls(sum(outcomes), len(outcomes))

    @property
    def value(self) -> float | None:
        """The point estimate, in [0, 1]."""
        return self.hits / self.n if self.n else None

    def plain(self, confidence: float) -> dict[str, float | int | None]:
        """Value, Wilson interval and n as JSON shows them."""
        low, high = wilson(self.hits, self.n, confidence) if self.n else (None, None)
        return {"value": self.value, "low": low, "high": high, "n": self.n}


def wilson(hits: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval of a share, n >= 1 (Wilson 1927); unlike value ± z·sd it is sound at 0 and 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the bound is exactly 0 or 1; rounding must not put it a hair outside or inside.
    return (0.0 if hits == 0 else max(0.0, centre - half), 1.0 if hits == n else min(1.0, centre + half))


@dataclass(frozen=True)
class Difference:
    """Two models on the same rows: the second minus the first.

    Attributes:
        gained: rows only the second got right.
        lost: rows only the first got right.
        both: rows both got right.
        neither: rows both got wrong.
    """

    gained: int
    lost: int
    both: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Difference:
        """Count the four kinds of rows; the two sequences must be in the same order."""
        pairs = list(zip(first, second, strict=True))
        return cls(*(pairs.count(kind) for kind in ((False, True), (True, False), (True, True), (False, False))))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.gained + self.lost + self.both + self.neither

    def plain(self, confidence: float) -> dict[str, float | int | None]:
        """Difference, interval and p-value as JSON shows them."""
        low, high = paired_interval(self, confidence) if self.n else (None, None)
        return {
            "value": (self.gained - self.lost) / self.n if self.n else None,
            "low": low,
            "high": high,
            "n": self.n,
            "gained": self.gained,
            "lost": self.lost,
            "p_value": mcnemar(self.gained, self.lost) if self.n else None,
        }


def paired_interval(difference: Difference, confidence: float) -> Interval:
    """Newcombe's hybrid score interval of a difference of paired shares, n >= 1.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10. It needs no resampling and, unlike a
    bootstrap, keeps a width when no row changed sides.
    """
    n = difference.n
    second, first = difference.both + difference.gained, difference.both + difference.lost
    p2, p1 = second / n, first / n
    (low2, high2), (low1, high1) = wilson(second, n, confidence), wilson(first, n, confidence)
    phi = _correlation(difference)
    down = _root(p2 - low2, high1 - p1, phi)
    up = _root(high2 - p2, p1 - low1, phi)
    return max(-1.0, p2 - p1 - down), min(1.0, p2 - p1 + up)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: how likely a split at least this uneven is if both models were equally good."""
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**changed))


def _correlation(difference: Difference) -> float:
    """Phi of the 2x2 table, with Newcombe's continuity correction where it is positive."""
    both, neither, gained, lost = difference.both, difference.neither, difference.gained, difference.lost
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if product == 0:
        return 0.0
    cross = both * neither - gained * lost
    if cross > 0:
        return max(cross - difference.n / 2, 0.0) / sqrt(product)
    return cross / sqrt(product)


def _root(a: float, b: float, phi: float) -> float:
    """Length of the two half-widths put together; the radicand is >= 0 as |phi| <= 1, but for rounding."""
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
