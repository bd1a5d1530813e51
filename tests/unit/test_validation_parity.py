"""The verdict on a served adapter, from the numbers alone: no server, no model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgpipe.engines.protocol import TokenScores
from fgpipe.errors import ValidationError
from fgpipe.publishing.card import card
from fgpipe.validation.drift import THRESHOLDS, Distances, between, judge
from fgpipe.validation.parity import ParityReport, choose_prompts, require_parity

ANSWERS = [[5, 6, 7], [8, 9]]
FAR = [-9.0, -4.0, -7.0, -2.0, -5.0]
NEAR = [-0.1, -0.2, -0.3, -0.1, -0.2]


def scores(log_probs: list[float], best: list[int] | None = None) -> list[TokenScores]:
    """Scores of ANSWERS; without `best`, the answers' own tokens are the best."""
    best = best or [token for answer in ANSWERS for token in answer]
    return [TokenScores(log_probs[:3], best[:3]), TokenScores(log_probs[3:], best[3:])]


def distances(
    trained: list[float], base: list[float], served: list[float], served_base: list[float] | None = None
) -> Distances:
    bare = scores(served_base or base)
    return Distances(
        drift=between(scores(trained), scores(served), ANSWERS),
        from_base=between(bare, scores(served), ANSWERS),
        effect=between(scores(base), scores(trained), ANSWERS),
        base_drift=between(scores(base), bare, ANSWERS),
    )


def shifted(values: list[float], by: float) -> list[float]:
    return [value + by * (-1) ** place for place, value in enumerate(values)]


def report(found: Distances, dtype: str = "float32") -> ParityReport:
    verdict, reason = judge(found, THRESHOLDS[dtype])
    return ParityReport(
        verdict=verdict,
        reason=reason,
        served="sql@v0002",
        dtype=dtype,
        thresholds=THRESHOLDS[dtype],
        prompts=2,
        tokens=5,
        distances=found,
        texts={9: "kitchen"},
        vllm_version="0.32.0",
        seconds=1.26,
    )


@pytest.mark.parametrize(
    ("dtype", "served", "verdict"),
    [
        ("float32", NEAR, "same as trained"),
        ("float32", shifted(NEAR, 1e-4), "same as trained"),
        ("float32", shifted(NEAR, 1e-2), "drifted"),
        ("float32", FAR, "not applied"),
        ("float32", shifted(FAR, 1e-4), "not applied"),
        ("float32", [(a + b) / 2 for a, b in zip(NEAR, FAR, strict=True)], "drifted"),
        ("float32", [-0.1, math.nan, -0.3, -0.1, -0.2], "drifted"),
        ("float32", [-0.1, -math.inf, -0.3, -0.1, -0.2], "drifted"),
        ("bfloat16", shifted(NEAR, 3e-2), "same as trained"),
        ("bfloat16", shifted(FAR, 3e-2), "not applied"),
        ("bfloat16", shifted(NEAR, 0.5), "drifted"),
    ],
)
def test_verdict_follows_the_nearer_model(dtype: str, served: list[float], verdict: str) -> None:
    """An adapter that the server ignores, or serves in part, would be published."""
    assert judge(distances(NEAR, FAR, served), THRESHOLDS[dtype])[0] == verdict


def test_an_adapter_without_effect_is_not_called_sound() -> None:
    """Ignored or served, its answers are the same: "same as trained" would say nothing."""
    assert judge(distances(NEAR, NEAR, NEAR), THRESHOLDS["float32"])[0] == "no effect"
    assert judge(distances(NEAR, shifted(NEAR, 0.05), NEAR), THRESHOLDS["bfloat16"])[0] == "no effect"
    assert judge(distances(NEAR, NEAR, FAR), THRESHOLDS["float32"])[0] == "drifted"


def test_half_of_a_weak_adapter_is_not_taken_for_noise() -> None:
    """In bfloat16, an adapter of little effect of which half is served would be within the limits."""
    weak, half = shifted(NEAR, 0.15), shifted(NEAR, 0.07)
    assert judge(distances(weak, NEAR, weak), THRESHOLDS["bfloat16"])[0] == "same as trained"
    assert judge(distances(weak, NEAR, half), THRESHOLDS["bfloat16"])[0] != "same as trained"


def test_another_base_behind_the_server_is_named() -> None:
    """The user would look for the fault in the adapter."""
    served = [value - 0.5 for value in NEAR]
    verdict, reason = judge(distances(NEAR, FAR, served, served_base=shifted(FAR, 0.5)), THRESHOLDS["float32"])
    assert verdict == "drifted"
    assert "base" in reason


def test_what_the_server_says_of_its_base_makes_no_sound_adapter_fail() -> None:
    """On a busy CPU server the base is at times answered by another adapter, or NaN: publishing would fail by luck."""
    for served_base in (NEAR, shifted(FAR, 2), [math.nan] * 5):
        found = distances(NEAR, FAR, NEAR, served_base=served_base)
        assert judge(found, THRESHOLDS["float32"])[0] == "same as trained"


@given(st.lists(st.floats(-20, 0), min_size=5, max_size=5), st.lists(st.floats(-20, 0), min_size=5, max_size=5))
def test_nothing_served_is_both_near_and_far(trained: list[float], base: list[float]) -> None:
    """The verdict would depend on luck: what was trained passes or shows no effect, and the base never passes."""
    as_trained = judge(distances(trained, base, trained), THRESHOLDS["float32"])[0]
    as_base = judge(distances(trained, base, base), THRESHOLDS["float32"])[0]
    assert as_trained in ("same as trained", "no effect")
    assert as_base in ("not applied", "no effect")
    assert (as_trained == "no effect") == (as_base == "no effect")


def test_largest_drift_is_found_where_it_is() -> None:
    """The user would look at the wrong prompt."""
    found = between(scores(NEAR), scores([-0.1, -0.2, -0.35, -0.1, -3.0]), ANSWERS)
    assert (found.place.prompt, found.place.token, found.place.token_id) == (2, 2, 9)
    assert (found.place.expected, found.place.found) == (-0.2, -3.0)
    assert found.max == pytest.approx(2.8)
    assert found.mean == pytest.approx(2.85 / 5)


def test_agreement_counts_the_tokens_both_would_choose() -> None:
    """Token agreement would not be what the word says."""
    found = between(scores(NEAR), scores(NEAR, [5, 6, 0, 8, 9]), ANSWERS)
    assert found.agreement == 0.8


def test_report_is_plain_json_whatever_was_found() -> None:
    """A NaN would make manifests and `--json` unreadable for other programs."""
    for served in (NEAR, FAR, [-0.1, math.nan, -0.3, -0.1, -0.2]):
        found = json.loads(json.dumps(report(distances(NEAR, FAR, served)).as_json(), allow_nan=False))
        assert set(found) >= {"verdict", "passed", "thresholds", "dtype", "prompts", "token_agreement", "drift", "vllm"}
        assert set(found["drift"]) == {"mean", "max", "place"}
        assert found["passed"] == (found["verdict"] == "same as trained")


def test_failed_gate_says_how_much_and_where() -> None:
    """The user would only know that something is wrong."""
    require_parity(report(distances(NEAR, FAR, NEAR)))
    with pytest.raises(ValidationError) as caught:
        require_parity(report(distances(NEAR, FAR, [*NEAR[:4], -3.0])))
    for part in ("sql@v0002", "'drifted'", "prompt 2 of 2, token 2 ('kitchen')", "-0.2 as trained", "-3 as served"):
        assert part in caught.value.message
    assert caught.value.hint


def test_card_shows_the_report_in_a_line(tmp_path: Path) -> None:
    """The card would show a Python dictionary."""
    manifest = {
        "name": "sql",
        "version": "v0002",
        "created": "2026-01-01T00:00:00Z",
        "content": "abc",
        "base": {"id": "fgpipe/tiny"},
        "adapter": {"r": 4},
        "versions": {"fgpipe": "0.1.0"},
    }
    found = report(distances(NEAR, FAR, NEAR))
    line = next(line for line in card({**manifest, "parity": found.as_json()}).splitlines() if "parity" in line)
    assert found.line in line
    assert "5 of 5 tokens agree" in line
    assert "| skipped (--no-parity) |" in card({**manifest, "parity": "skipped (--no-parity)"})


def test_prompts_do_not_depend_on_the_order_of_rows_and_every_wording_has_its_turn() -> None:
    """Two runs would compare different prompts, or all of them phrased as in training."""
    points = [
        {
            "id": f"{number:04x}",
            "prompt": f"p{number}",
            "meta": {"wording": "held_out" if number % 10 == 0 else "common"},
        }
        for number in range(60)
    ]
    chosen = choose_prompts(points, 8)
    assert chosen == choose_prompts(points[::-1], 8)
    assert len(set(chosen)) == 8
    assert sum(int(prompt[1:]) % 10 == 0 for prompt in chosen) == 4
    assert choose_prompts(points[:3], 8) == choose_prompts(points[:3], 3)
    assert len(choose_prompts([{"id": "a", "prompt": "p"}], 8)) == 1
