"""The stage `evaluate` from formatted rows to scores on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny_random
from fgpipe.artifacts import FormattedDataset, writing
from fgpipe.config import EvaluateConfig, ModelConfig
from fgpipe.engines.protocol import Completion, GenerationError
from fgpipe.errors import EvaluationError
from fgpipe.evaluation import evaluate, evaluate_config, render_scores
from fgpipe.evaluation.report import scorecard
from fgpipe.evaluation.stage import answer, sample
from fgpipe.functiongemma import ToolCall, render, render_call

CONFIG = EvaluateConfig(batch_size=4, max_new_tokens=8, worst_examples=3)
TOOL = {
    "type": "function",
    "function": {
        "name": "light",
        "description": "Switch a light.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}
ROOMS = ["hall", "attic", "cellar", "garage", "[bold]studio[/bold]"]


def points() -> list[dict[str, Any]]:
    """One call row a room and wording, and two rows where no call is right."""
    asked = [
        (f"Light in the {room}, {wording}", [room], wording) for room in ROOMS for wording in ("common", "held_out")
    ]
    asked += [("Tell me a joke", [], "common"), ("Sing", [], "held_out")]
    return [
        {
            "id": f"{number:016x}",
            "prompt": render([{"role": "user", "content": question}], [TOOL], add_generation_prompt=True),
            "expected_calls": [{"name": "light", "arguments": {"room": room}} for room in rooms],
            "expected_text": "",
            "tools": [TOOL],
            "meta": {"wording": wording, "family": "switch" if rooms else "chat"},
        }
        for number, (question, rooms, wording) in enumerate(asked)
    ]


class Scripted:
    """An engine that knows the rows: right answers except at `wrong`, where it gives the text found there."""

    def __init__(self, wrong: dict[int, str]) -> None:
        self.wrong = wrong

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
        right = [
            "".join(render_call(ToolCall(**call)) for call in point["expected_calls"]) or "No." for point in points()
        ]
        return [Completion(self.wrong.get(place, text), [], "stop") for place, text in enumerate(right)]


def card(base: dict[int, str], adapter: dict[int, str]) -> dict[str, Any]:
    """The scorecard of two scripted engines."""
    judged = [answer(Scripted(wrong), points(), CONFIG, scorer="exact") for wrong in (base, adapter)]
    return scorecard(*judged, CONFIG, scorer="exact")


def shown(scores: dict[str, Any]) -> str:
    """What the terminal shows."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(render_scores(scores))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def formatted(out: Path, rows: list[dict[str, Any]]) -> FormattedDataset:
    """A format-stage artefact with `rows` as evaluation points."""
    with writing(FormattedDataset, out, config={}, inputs={}) as draft:
        (draft.path / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FormattedDataset.open(out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(tiny_random.model(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def run(data: FormattedDataset, adapter: Path, model: ModelConfig, out: Path, config: EvaluateConfig = CONFIG) -> Any:
    """The stage as the pipeline calls it."""
    return evaluate(data, adapter, model, config, scorer="exact", adapter_fingerprint="f" * 64, out=out)


def test_stage_leaves_scores_and_predictions_of_every_row(model: ModelConfig, adapter: Path, tmp_path: Path) -> None:
    """The whole stage on a real (random) model; an untrained adapter must score exactly as its base."""
    data = formatted(tmp_path / "format", points())
    made = run(data, adapter, model, tmp_path / "scores")
    scores = made.scores()
    assert scores["rows"] == len(points())
    assert scores["base"] == scores["adapter"]
    assert scores["difference"]["gained"] == scores["difference"]["lost"] == 0
    lines = (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [line["id"] for line in predictions] == [point["id"] for point in points()]
    assert all(line["base"] == line["adapter"] for line in predictions)
    assert set(made.manifest["inputs"]) == {"data", "adapter", "base"}
    assert made.manifest["config"] == evaluate_config(CONFIG, scorer="exact")


def test_scores_are_the_same_again_and_in_other_batches(model: ModelConfig, adapter: Path, tmp_path: Path) -> None:
    """Equal inputs give an equal fingerprint; the batch size is speed, not content."""
    data = formatted(tmp_path / "format", points())
    first = run(data, adapter, model, tmp_path / "one")
    second = run(data, adapter, model, tmp_path / "two", CONFIG.model_copy(update={"batch_size": 3}))
    assert first.fingerprint == second.fingerprint
    assert first.manifest["key"] == second.manifest["key"]


def test_scores_count_rows_and_groups() -> None:
    """Hand-counted: the figures in the report must be those of the rows."""
    scores = card(dict.fromkeys(range(10), "No."), {1: render_call(ToolCall("light", {"room": "roof"})), 11: "Ha"})
    assert scores["base"]["headline"] == scores["base"]["exact_match"]
    assert (scores["base"]["exact_match"]["value"], scores["base"]["exact_match"]["n"]) == (2 / 12, 12)
    assert (scores["adapter"]["exact_match"]["value"], scores["adapter"]["exact_match"]["n"]) == (11 / 12, 12)
    assert (scores["base"]["no_call_precision"]["value"], scores["base"]["no_call_precision"]["n"]) == (2 / 12, 12)
    assert (scores["adapter"]["no_call_precision"]["value"], scores["adapter"]["no_call_precision"]["n"]) == (1.0, 2)
    assert scores["adapter"]["function_name"]["n"] == 10
    assert scores["adapter"]["execution_accuracy"]["value"] is None
    assert {name: group["adapter"]["value"] for name, group in scores["by_wording"].items()} == {
        "common": 1.0,
        "held_out": 5 / 6,
    }
    assert {name: group["base"]["n"] for name, group in scores["by_calls"].items()} == {"none": 2, "one": 10}
    assert {name: group["base"]["value"] for name, group in scores["by_family"].items()} == {"chat": 1.0, "switch": 0.0}
    assert scores["by_function"]["light"]["adapter"] == pytest.approx(scores["by_calls"]["one"]["adapter"])
    assert (scores["difference"]["gained"], scores["difference"]["lost"]) == (9, 0)
    json.dumps(scores, allow_nan=False)


def test_worst_examples_start_with_what_the_adapter_broke() -> None:
    """A row the base got right and the adapter gets wrong is what a user most needs to see."""
    near = render_call(ToolCall("light", {"room": "roof"}))
    scores = card({0: "No.", 1: "No."}, {0: near, 1: "No.", 2: near, 10: near})
    assert [example["id"][-1] for example in scores["worst"]] == ["a", "2", "1"]
    assert [example["base_was_right"] for example in scores["worst"]] == [True, True, False]
    assert scores["worst"][0]["question"] == "Tell me a joke"
    assert scores["worst"][1]["expected"] == "light(room='attic')"
    assert scores["worst"][1]["got"] == near
    assert card({}, {})["worst"] == []


def test_report_shows_figures_and_literal_answers() -> None:
    """The table is what people read: it must hold each score, n/a where there is none, and answers as they are."""
    wrong = render_call(ToolCall("light", {"room": "[red]x[/red]"}))
    text = shown(card(dict.fromkeys(range(10), "No."), {8: wrong}))
    for piece in ("exact_match", "16.7 [", "91.7 [", "held_out", "12 held-out rows", "95 % intervals", "McNemar"):
        assert piece in text
    assert "[bold]studio[/bold]" in text
    assert "[red]x[/red]" in text
    assert "execution_accuracy" not in text
    assert "2 | 12 refusals" in text or "12 | 2 refusals" in text
    never_declines = shown(card({}, dict.fromkeys(range(12), wrong)))
    assert next(line for line in never_declines.splitlines() if "no_call_precision" in line).count("n/a") == 1


def test_failing_engine_is_an_error_with_the_row_and_leaves_nothing(
    model: ModelConfig, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash or a lost server scored as wrong answers would make a good adapter look bad."""

    class Failing:
        def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
            raise GenerationError("the server went away", places=[2, 3, 4, 5])

    with pytest.raises(EvaluationError, match="the server went away") as caught:
        answer(Failing(), points(), CONFIG, scorer="exact")
    assert points()[2]["id"] in str(caught.value)
    assert "1 more" in str(caught.value)

    rows = points()
    rows[4]["prompt"] = "x" * 5000
    with pytest.raises(EvaluationError, match=rows[4]["id"]):
        run(formatted(tmp_path / "format", rows), adapter, model, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_engine_that_loses_answers_is_an_error() -> None:
    """Too few answers would shift every later answer to another row."""

    class Losing:
        def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
            return [Completion("", [], "stop")] * (len(prompts) - 1)

    with pytest.raises(EvaluationError, match="11 answers"):
        answer(Losing(), points(), CONFIG, scorer="exact")


def test_no_held_out_rows_is_an_error(model: ModelConfig, adapter: Path, tmp_path: Path) -> None:
    """A score over nothing must not be written."""
    with pytest.raises(EvaluationError, match="held-out rows"):
        run(formatted(tmp_path / "format", []), adapter, model, tmp_path / "scores")


def test_limit_takes_the_same_rows_whatever_their_order() -> None:
    """A quick trial must be repeatable after the file was sorted anew."""
    rows = points()
    some = sample(rows, 5)
    assert len(some) == 5
    assert sample(rows[::-1], 5) == some[::-1]
    assert sample(rows, None) == sample(rows, 100) == rows
