"""How far two models are apart on the same tokens, and what that says of an adapter as it is served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from fgpipe.engines.protocol import TokenScores

Verdict = Literal["same as trained", "drifted", "not applied", "no effect", "refused"]


@dataclass(frozen=True)
class Thresholds:
    """What still counts as the same model computed twice; `docs/results.md` has the measurements behind them."""

    mean: float
    """Largest mean difference of log-probs, nats a token."""
    max: float
    """Largest difference of log-probs at any token, nats."""
    agreement: float
    """Smallest share of tokens that both would choose."""

    def hold(self, drift: Drift) -> bool:
        """Whether `drift` is no more than arithmetic makes."""
        return drift.mean <= self.mean and drift.max <= self.max and drift.agreement >= self.agreement


THRESHOLDS: Mapping[str, Thresholds] = MappingProxyType(
    {
        # float32: sound adapters differ by 1e-4 at most, one with a scale wrong by 1 % by 0.13 at some token.
        "float32": Thresholds(mean=2e-4, max=2e-3, agreement=0.99),
        # bfloat16 keeps three digits: the same base differs by 0.03 on average, 0.4 at most between the two engines.
        "bfloat16": Thresholds(mean=0.1, max=1.0, agreement=0.97),
    }
)
"""By the coarser number format of the two engines, finest first."""


def coarser(one: str, other: str) -> str:
    """The number format whose thresholds hold between engines of these two; bfloat16's for those not measured."""
    order = list(THRESHOLDS)
    return max((name if name in order else order[-1] for name in (one, other)), key=order.index)


NEARER = 4.0
"""How many times nearer to the adapter as trained than to the base its answers must be."""


@dataclass(frozen=True)
class Place:
    """A token of an answer, counted from 1, and its log-prob in the two models."""

    prompt: int
    token: int
    token_id: int
    expected: float
    found: float


@dataclass(frozen=True)
class Drift:
    """The difference of two models on the same answers: NaN counts as infinite."""

    mean: float
    """Mean absolute difference of the log-probs, nats a token."""
    max: float
    place: Place
    """Where the difference is largest."""
    agreement: float
    """Share of tokens at which both find the same one most probable."""

    def as_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite are null."""
        return {
            "mean": finite(self.mean),
            "max": finite(self.max),
            "place": {key: finite(value) for key, value in asdict(self.place).items()},
        }


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def between(expected: Sequence[TokenScores], found: Sequence[TokenScores], answers: Sequence[Sequence[int]]) -> Drift:
    """How far `found` is from `expected` on `answers`, token ids by prompt."""
    gaps: list[float] = []
    same: list[bool] = []
    places: list[Place] = []
    for prompt, (one, other, ids) in enumerate(zip(expected, found, answers, strict=True), 1):
        for token, (before, after, token_id) in enumerate(zip(one.log_probs, other.log_probs, ids, strict=True), 1):
            gap = abs(before - after)
            gaps.append(gap if math.isfinite(gap) else math.inf)
            places.append(Place(prompt, token, token_id, before, after))
        same += [before == after for before, after in zip(one.best, other.best, strict=True)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    return Drift(math.fsum(gaps) / len(gaps), gaps[worst], places[worst], sum(same) / len(same))


@dataclass(frozen=True)
class Distances:
    """The four models (adapter and base, as trained and as served) on the same tokens, two by two."""

    drift: Drift
    """Adapter as served, from the adapter as trained."""
    from_base: Drift
    """Adapter as served, from the base as served."""
    effect: Drift
    """Adapter as trained, from the base as trained: what there is to lose."""
    base_drift: Drift
    """Base as served, from the base as trained: what the two engines differ by without any adapter."""


def judge(distances: Distances, thresholds: Thresholds) -> tuple[Verdict, str]:
    """The verdict, and the reason in half a sentence."""
    drift, from_base, effect = distances.drift, distances.from_base, distances.effect
    if not math.isfinite(drift.max):
        return "drifted", "got NaN or infinity as served"
    if thresholds.hold(effect) and thresholds.hold(drift):
        return "no effect", "the adapter as trained answers as the base does, so nothing shows whether it is served"
    # Before the base is looked at: what the server says of its base can be wrong (vLLM's CPU build, issue 48421).
    if thresholds.hold(drift) and drift.mean * NEARER <= effect.mean:
        return "same as trained", "every difference is within what arithmetic makes"
    if distances.base_drift.mean > thresholds.mean:
        return "drifted", (
            f"the base itself differs by {distances.base_drift.mean:.2g} a token: the server has another base, "
            "or another number format"
        )
    if thresholds.hold(from_base) and from_base.mean <= drift.mean and not thresholds.hold(effect):
        return "not applied", "the base answers in its place"
    return "drifted", f"the trained adapter is {effect.mean:.2g} from its base, the served one {from_base.mean:.2g}"
