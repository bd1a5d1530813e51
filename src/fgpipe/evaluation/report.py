"""From judged answers to the scorecard (`scores.json`), and from that to what a person reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgpipe.config import EvaluateConfig
from fgpipe.engines.protocol import Completion
from fgpipe.evaluation.scorers import METRICS, SCORERS, Judgement, Point
from fgpipe.evaluation.stats import Difference, Share
from fgpipe.functiongemma import tokens

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MODELS = ("base", "adapter")

GROUPS: Mapping[str, str] = {
    "by_calls": "calls expected",
    "by_wording": "wording",
    "by_function": "function",
    "by_family": "family",
}
"""The ways rows are split up in the scorecard, and what a table calls them."""

MANY_GROUPS = 12
"""A table shows no more groups than this; the scorecard on disk has them all."""

SHOWN_CHARACTERS = 400
"""Longest answer shown; models that miss their stop go on and on."""


@dataclass(frozen=True)
class Judged:
    """One evaluation point with what one model answered."""

    point: Point
    completion: Completion
    judgement: Judgement


def scorecard(
    base: Sequence[Judged], adapter: Sequence[Judged], config: EvaluateConfig, *, scorer: str
) -> dict[str, Any]:
    """Every figure of an evaluation as plain data; `base` and `adapter` judge the same points in the same order."""
    headline = SCORERS[scorer].headline
    answers = dict(zip(MODELS, (base, adapter), strict=True))
    groups = {name: _by_group(answers, group, headline, config.confidence) for name, group in _GROUPERS.items()}
    return {
        "rows": len(adapter),
        "scorer": scorer,
        "headline": headline,
        "confidence": config.confidence,
        **{model: _metrics(judged, headline, config.confidence) for model, judged in answers.items()},
        "difference": Difference.of(_right(base, headline), _right(adapter, headline)).plain(config.confidence),
        "cut_at_limit": {model: sum(_is_cut(one) for one in judged) for model, judged in answers.items()},
        **groups,
        "worst": worst(base, adapter, config.worst_examples),
        "metrics": {name: {"of": metric.of, "meaning": metric.meaning} for name, metric in METRICS.items()},
    }


def worst(base: Sequence[Judged], adapter: Sequence[Judged], count: int) -> list[dict[str, Any]]:
    """The `count` worst wrong answers of the adapter: what the base got right first, then by severity, then by row."""
    wrong = [(before, after) for before, after in zip(base, adapter, strict=True) if after.judgement.fault]
    wrong.sort(key=lambda pair: (bool(pair[0].judgement.fault), -pair[1].judgement.severity, pair[1].point["id"]))
    return [
        {
            "id": after.point["id"],
            "question": question(after.point),
            "expected": shown_calls(after.point),
            "got": after.completion.text,
            "why": after.judgement.fault + (", and was cut at evaluate.max_new_tokens" if _is_cut(after) else ""),
            "base_was_right": not before.judgement.fault,
        }
        for before, after in wrong[:count]
    ]


def question(point: Point) -> str:
    """What the user said last, out of the rendered prompt."""
    _, _, after = str(point["prompt"]).rpartition(f"{tokens.START_OF_TURN}user\n")
    return after.partition(tokens.END_OF_TURN)[0].strip()


def shown_calls(point: Point) -> str:
    """The expected calls for people: `run_sql(query='SELECT 1')`."""
    calls = point["expected_calls"]
    if not calls:
        return "no call"
    return "; ".join(
        f"{call['name']}({', '.join(f'{key}={value!r}' for key, value in call['arguments'].items())})" for call in calls
    )


def render_scores(scores: Mapping[str, Any]) -> RenderableType:
    """A scorecard for the terminal: base against adapter, the groups, the worst examples."""
    from rich.console import Group

    parts: list[RenderableType] = [_main_table(scores), _difference_line(scores)]
    for name, title in GROUPS.items():
        groups = scores.get(name, {})
        if len(groups) > 1:
            parts += ["", _group_table(title, groups)]
    parts += _worst_lines(scores.get("worst", []))
    return Group(*parts)


def _metrics(judged: Sequence[Judged], headline: str, confidence: float) -> dict[str, Any]:
    """Every metric by name; `headline` repeats the one that counts."""
    shares = {name: Share.of(_right(judged, name)).plain(confidence) for name in METRICS}
    return {**shares, "headline": shares[headline]}


def _right(judged: Sequence[Judged], metric: str) -> list[bool]:
    """Outcomes of the answers that count for `metric`."""
    return [one.judgement.outcomes[metric] for one in judged if metric in one.judgement.outcomes]


def _is_cut(judged: Judged) -> bool:
    return judged.completion.finish_reason == "length"


def _by_group(
    answers: Mapping[str, Sequence[Judged]], group: Callable[[Point], Iterable[str]], headline: str, confidence: float
) -> dict[str, Any]:
    """The headline score of each model in each group; a row may be in none, one or several."""
    sorted_out: dict[str, dict[str, list[Judged]]] = {}
    for model, judged in answers.items():
        for one in judged:
            for name in group(one.point):
                sorted_out.setdefault(name, {model: [] for model in answers})[model].append(one)
    return {
        name: {model: Share.of(_right(judged, headline)).plain(confidence) for model, judged in models.items()}
        for name, models in sorted(sorted_out.items())
    }


def _meta(key: str) -> Callable[[Point], Iterable[str]]:
    return lambda point: [str(point["meta"][key])] if (point.get("meta") or {}).get(key) is not None else []


def _functions(point: Point) -> Iterable[str]:
    return sorted({call["name"] for call in point["expected_calls"]})


def _number_of_calls(point: Point) -> Iterable[str]:
    return [("none", "one", "several")[min(2, len(point["expected_calls"]))]]


_GROUPERS: Mapping[str, Callable[[Point], Iterable[str]]] = {
    "by_wording": _meta("wording"),
    "by_family": _meta("family"),
    "by_function": _functions,
    "by_calls": _number_of_calls,
}


def _main_table(scores: Mapping[str, Any]) -> Table:
    percent = round(100 * scores["confidence"], 1)
    table = _table("score", title=f"{scores['rows']} held-out rows, {percent:g} % intervals")
    for name, metric in METRICS.items():
        figures = [scores[model].get(name) or Share(0, 0).plain(0.5) for model in MODELS]
        if any(figure["n"] for figure in figures):
            style = "bold" if name == scores["headline"] else None
            table.add_row(name, *map(shown_share, figures), f"{_counts(figures)} {metric.of}", style=style)
    return table


def _group_table(title: str, groups: Mapping[str, Any]) -> Table:
    """The headline by group; of many groups those where the adapter does worst."""
    table = _table(title)
    worst_first = sorted(groups.items(), key=lambda item: item[1]["adapter"]["value"] or 0.0)
    kept = {name for name, _ in worst_first[:MANY_GROUPS]}
    for name, models in groups.items():
        if name in kept:
            table.add_row(
                name, *(shown_share(models[model]) for model in MODELS), f"{_counts(list(models.values()))} rows"
            )
    if len(groups) > MANY_GROUPS:
        table.caption = f"the {MANY_GROUPS} worst of {len(groups)}"
    return table


def _table(first: str, *, title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for model in MODELS:
        table.add_column(f"{model}, %", justify="right", no_wrap=True)
    table.add_column("of")
    return table


def shown_share(figure: Mapping[str, Any]) -> str:
    """A share with its interval, in per cent; "n/a" where no row counts."""
    if figure["value"] is None:
        return "n/a"
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _counts(figures: Sequence[Mapping[str, Any]]) -> str:
    """Rows that count: one number, or one a model where the models differ."""
    return " | ".join(dict.fromkeys(str(figure["n"]) for figure in figures))


def _difference_line(scores: Mapping[str, Any]) -> str:
    difference = scores["difference"]
    if difference["value"] is None:
        return "no rows to compare"
    points = [f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high")]
    cut = [f"{count} of {model}" for model, count in scores.get("cut_at_limit", {}).items() if count]
    return (
        f"{scores['headline']}: adapter - base = {points[0]} points ({points[1]} to {points[2]}); "
        f"{difference['gained']} rows gained, {difference['lost']} lost, McNemar p = {difference['p_value']:.2g}"
        + (f"\nanswers cut at evaluate.max_new_tokens: {', '.join(cut)}" if cut else "")
    )


def _cropped(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} … (predictions.jsonl has it all)"


def _worst_lines(examples: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    lines: list[RenderableType] = []
    for example in examples:
        regression = "  (the base was right)" if example["base_was_right"] else ""
        lines += ["", Text(f"wrong: {example['question']}{regression}", style="bold")]
        # Text, not markup: answers hold brackets.
        for label in ("expected", "got", "why"):
            lines.append(Padding(Text(f"{label:<9}{_cropped(str(example[label]))}"), (0, 0, 0, 2)))
    return lines
