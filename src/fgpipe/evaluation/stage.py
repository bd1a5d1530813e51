"""The stage `evaluate`: base and adapter answer the held-out rows, and every answer is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgpipe import artifacts, store
from fgpipe.artifacts import FormattedDataset, Scores
from fgpipe.config import EvaluateConfig, ModelConfig
from fgpipe.engines.hf import HfEngine
from fgpipe.engines.protocol import Completion, Engine, GenerationError
from fgpipe.errors import EvaluationError
from fgpipe.evaluation import scorers
from fgpipe.evaluation.report import Judged, question, scorecard
from fgpipe.evaluation.scorers import Point, judge
from fgpipe.models import base


def evaluate_config(config: EvaluateConfig, *, scorer: str) -> dict[str, Any]:
    """What of the configuration decides the scores; the batch size does not."""
    return {"scorer": scorer, **config.model_dump(mode="json", exclude={"batch_size"})}


def evaluate(
    data: FormattedDataset,
    adapter: Path,
    model: ModelConfig,
    config: EvaluateConfig,
    *,
    scorer: str,
    adapter_fingerprint: str,
    out: Path,
) -> Scores:
    """Score the base and `adapter` on the held-out rows of `data`: `scores.json` and `predictions.jsonl` in `out`.

    Args:
        scorer: "exact" or "sqlite" (see `scorers.SCORERS`).

    Raises:
        EvaluationError: there are no held-out rows, a row cannot be scored, or generation failed; nothing is written.
    """
    points = sample(data.examples(), config.limit)
    if not points:
        raise EvaluationError(
            "held-out rows: got none, expected at least one", hint="raise task.dataset.evaluation_fraction"
        )
    scorers.check(points, scorer=scorer)
    inputs = {"data": data.fingerprint, "adapter": adapter_fingerprint, "base": base.model_fingerprint(model)}
    with artifacts.writing(Scores, out, config=evaluate_config(config, scorer=scorer), inputs=inputs) as draft:
        with HfEngine(model, adapter, batch_size=config.batch_size) as engine:
            before = answer(engine.base_only(), points, config, scorer=scorer)
            after = answer(engine, points, config, scorer=scorer)
        card = scorecard(before, after, config, scorer=scorer)
        store.write_json(draft.path / "scores.json", card)
        store.write_jsonl(draft.path / "predictions.jsonl", map(_prediction, before, after))
        draft.numbers = {
            "rows": card["rows"],
            "headline": card["headline"],
            "base": card["base"]["headline"]["value"],
            "adapter": card["adapter"]["headline"]["value"],
        }
    return Scores.open(out)


def sample(points: Sequence[Point], limit: int | None) -> list[Point]:
    """At most `limit` points, in their order: those with the smallest content hashes, so that rows may be reordered."""
    if limit is None or limit >= len(points):
        return list(points)
    chosen = set(sorted(range(len(points)), key=lambda place: (points[place]["id"], place))[:limit])
    return [point for place, point in enumerate(points) if place in chosen]


def answer(engine: Engine, points: Sequence[Point], config: EvaluateConfig, *, scorer: str) -> list[Judged]:
    """Every point answered by `engine` and judged.

    Raises:
        EvaluationError: the engine failed; the message names the rows. A missing answer is never a wrong one.
    """
    try:
        completions = engine.generate([point["prompt"] for point in points], max_new_tokens=config.max_new_tokens)
    except GenerationError as error:
        rows = [points[place]["id"] for place in error.places]
        shown = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more answered with them" if len(rows) > 3 else "")
        raise EvaluationError(f"row{'s' if len(rows) > 1 else ''} {shown}: {error.message}", hint=error.hint) from error
    if len(completions) != len(points):
        raise EvaluationError(f"engine: got {len(completions)} answers, expected {len(points)}")
    return [_judged(point, completion, scorer) for point, completion in zip(points, completions, strict=True)]


def _judged(point: Point, completion: Completion, scorer: str) -> Judged:
    return Judged(point, completion, judge(point, completion.text, scorer=scorer))


def _prediction(before: Judged, after: Judged) -> dict[str, Any]:
    """A line of `predictions.jsonl`: the row, what was expected, what each model answered and how it was judged."""
    point = after.point
    meta = {key: value for key, value in (point.get("meta") or {}).items() if key != "sqlite"}
    answers = {"base": before, "adapter": after}
    return {
        "id": point["id"],
        "question": question(point),
        "expected_calls": point["expected_calls"],
        "meta": meta,
        **{
            name: {
                "text": one.completion.text,
                "finish_reason": one.completion.finish_reason,
                "outcomes": dict(one.judgement.outcomes),
                "fault": one.judgement.fault,
            }
            for name, one in answers.items()
        },
    }
