"""Tokens and loss masks: what is trained is what the model must produce, no more and no less."""

from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import tiny_random
from fgpipe import chat, functiongemma, store
from fgpipe.artifacts import Dataset, FormattedDataset, writing
from fgpipe.errors import DataError
from fgpipe.functiongemma import ToolCall, render_call

TOOL = {
    "type": "function",
    "function": {
        "name": "lamp",
        "description": "Switch a lamp.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string", "description": "Where"}}},
    },
}
SHIPPED_TOKENIZER = Path(__file__).parents[2] / "data" / "tiny"

# Starts and ends in something that no trimming touches; U+2581 is how sentencepiece writes a space.
PROSE = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20)
    .filter(lambda text: not any(token in text for token in functiongemma.SPECIAL_TOKEN_IDS))
    .map(lambda text: f"é{text}.")
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["room", "on", "level", "at"]),
    st.one_of(PROSE, st.integers(), st.booleans(), st.lists(PROSE, max_size=2)),
)


def tokenizers() -> list[Any]:
    found = [pytest.param(tiny_random.tokenizer(), id="bytes")]
    if (SHIPPED_TOKENIZER / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        found.append(pytest.param(AutoTokenizer.from_pretrained(SHIPPED_TOKENIZER), id="shipped"))
    return found


TOKENIZERS = tokenizers()


@st.composite
def conversations(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A row of up to three turns with single, parallel and chained calls, and the texts the model must produce."""
    messages: list[dict[str, Any]] = [{"role": "developer", "content": draw(PROSE)}] if draw(st.booleans()) else []
    produced: list[str] = []
    for turn in reversed(range(draw(st.integers(1, 3)))):
        messages.append({"role": "user", "content": draw(PROSE)})
        for _ in range(draw(st.integers(0, 2))):
            calls = [ToolCall("lamp", draw(ARGUMENTS)) for _ in range(draw(st.integers(1, 3)))]
            messages.append(assistant(calls, content=draw(st.sampled_from(["", "One moment."]))))
            produced.append(messages[-1]["content"] + "".join(map(render_call, calls)) + "<start_function_response>")
            messages.append({"role": "tool", "name": "lamp", "content": {"result": draw(PROSE)}})
        if messages[-1]["role"] == "tool" and turn == 0 and draw(st.booleans()):
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": draw(PROSE)})
            produced.append(messages[-1]["content"] + "<end_of_turn>")
    return {"id": "0123456789abcdef", "messages": messages, "tools": [TOOL]}, produced


def assistant(calls: list[ToolCall], content: str = "") -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def row(
    question: str = "Lights on", answer: dict[str, Any] | None = None, number: int = 0, **more: Any
) -> dict[str, Any]:
    answer = answer or assistant([ToolCall("lamp", {"room": "hall"})])
    return {
        "id": f"{number:016x}",
        "messages": [{"role": "user", "content": question}, answer],
        "tools": [TOOL],
        **more,
    }


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(case=conversations())
def test_the_mask_covers_what_the_model_must_produce(tokenizer: Any, case: tuple[dict[str, Any], list[str]]) -> None:
    """Training would teach the model to write prompts and tool results, or never to stop."""
    given_row, produced = case
    encoded = chat.encode(given_row, tokenizer)
    runs = groupby(zip(encoded.input_ids, encoded.loss_mask, strict=True), key=lambda pair: pair[1])
    trained = [tokenizer.decode([token for token, _ in run]) for masked, run in runs if masked]
    assert trained == produced
    assert tokenizer.decode(encoded.input_ids) == encoded.text == functiongemma.render(given_row["messages"], [TOOL])
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(case=conversations())
def test_generation_starts_from_the_tokens_that_training_saw(
    tokenizer: Any, case: tuple[dict[str, Any], list[str]]
) -> None:
    """The model would be asked with other tokens than those it was trained after, and answer worse than it could."""
    encoded = chat.encode(case[0], tokenizer)
    for point in chat.evaluation_points(case[0]):
        prompt = tokenizer(point["prompt"], add_special_tokens=False)["input_ids"]
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.loss_mask[len(prompt)] == 1
        assert encoded.loss_mask[len(prompt) - 1] == 0


@given(case=conversations())
def test_calls_and_direct_answers_are_scored(case: tuple[dict[str, Any], list[str]]) -> None:
    """A model that calls where no call is right would not be found out, or wording after a tool response be marked."""
    messages = case[0]["messages"]
    pairs = [(before["role"], now) for before, now in pairwise(messages) if now["role"] == "assistant"]
    scored = [now for before, now in pairs if "tool_calls" in now or before == "user"]
    points = chat.evaluation_points(case[0])
    assert [point["expected_text"] for point in points] == [message["content"] for message in scored]
    assert [point["expected_calls"] for point in points] == [
        [call["function"] for call in message.get("tool_calls", [])] for message in scored
    ]
    assert len({point["id"] for point in points}) == len(points)
    assert all(point["prompt"].endswith(("<start_of_turn>model\n", "<end_function_response>")) for point in points)


def test_a_second_bos_is_refused_by_the_rows_name() -> None:
    """The model would train on a beginning it never sees when it is served."""
    with pytest.raises(DataError, match=r"^row 0000000000000000 \('say <bos> now'\): got 2 <bos> tokens, expected one"):
        chat.encode(row("say <bos> now"), tiny_random.tokenizer())


def test_a_row_without_an_answer_is_refused_by_its_name() -> None:
    """A row that teaches nothing would only cost time."""
    nothing = {"id": "ab", "messages": [{"role": "user", "content": "Hello"}], "tools": []}
    with pytest.raises(DataError, match=r"^row ab \('Hello'\): got no token in the loss"):
        chat.encode(nothing, tiny_random.tokenizer())


def test_a_row_that_is_all_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask gone wrong would train on prompts without a word."""
    everything = [functiongemma.Segment("<bos>all", trained=True)]
    monkeypatch.setattr(functiongemma, "segments", lambda *_: everything)
    monkeypatch.setattr(chat, "check_prompt", lambda *_: None)
    with pytest.raises(DataError, match="got every token in the loss"):
        chat.encode(row(), tiny_random.tokenizer())


def test_a_token_across_prompt_and_answer_is_refused() -> None:
    """Training would see a token that generation, which starts after the prompt, can never begin with."""
    from tokenizers import AddedToken

    tokenizer = tiny_random.tokenizer()
    tokenizer.backend_tokenizer.add_tokens([AddedToken("model\nYes", normalized=False)])
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>")
    with pytest.raises(DataError, match=r"^row 0000000000000000 .*: got a token that joins prompt and answer"):
        chat.encode(row(answer={"role": "assistant", "content": "Yes, I can."}), tokenizer)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Thirty rows to train on and two to evaluate."""
    with writing(Dataset, tmp_path / "load", config={}, inputs={}) as draft:
        store.write_jsonl(draft.path / "train.jsonl", [row(f"Lights on in {n}", number=n) for n in range(30)])
        held_out = [row("Off?", number=90, meta={"wording": "held_out"}), row("Off!", number=91)]
        store.write_jsonl(draft.path / "evaluation.jsonl", held_out)
        draft.numbers |= {"rows": 32}
    return Dataset.open(tmp_path / "load")


def formatted(dataset: Dataset, out: Path, max_length_tokens: int = 400) -> FormattedDataset:
    return chat.format_dataset(
        dataset, tiny_random.tokenizer(), max_length_tokens=max_length_tokens, tokenizer_fingerprint="bytes", out=out
    )


def test_what_is_written_reads_back(dataset: Dataset, tmp_path: Path) -> None:
    """The trainer would read other tokens than were made, or the scores lack what they are reported by."""
    found = formatted(dataset, tmp_path / "format")
    columns = found.training_columns()
    expected = [chat.encode(each, tiny_random.tokenizer()) for each in dataset.rows("train")]
    assert columns["id"] == [each["id"] for each in dataset.rows("train")]
    assert columns["input_ids"] == [each.input_ids for each in expected]
    assert columns["loss_mask"] == [each.loss_mask for each in expected]
    assert [point["meta"] for point in found.examples()] == [{"wording": "held_out"}, {}]
    assert found.numbers["tokens"] == sum(map(len, columns["input_ids"]))
    assert found.numbers["length_tokens"]["max"] == max(map(len, columns["input_ids"]))
    assert found.manifest["inputs"] == {"dataset": dataset.fingerprint, "tokenizer": "bytes"}


def test_formatting_twice_gives_the_same_fingerprint(dataset: Dataset, tmp_path: Path) -> None:
    """Training would run again although nothing changed."""
    first, second = formatted(dataset, tmp_path / "a"), formatted(dataset, tmp_path / "b")
    assert first.fingerprint == second.fingerprint


def test_long_rows_are_counted_named_and_refused(dataset: Dataset, tmp_path: Path) -> None:
    """Rows would be cut without a word, and the model learn answers that never end."""
    longest = formatted(dataset, tmp_path / "format").numbers["length_tokens"]["max"]
    with pytest.raises(DataError) as caught:
        formatted(dataset, tmp_path / "refused", max_length_tokens=longest - 1)
    assert caught.value.message.startswith(
        f"train.max_length_tokens: got 20 of 32 rows longer than {longest - 1}; the longest"
    )
    assert caught.value.message.endswith(f"has {longest}")
    assert caught.value.hint.startswith(f"train.max_length_tokens={longest}")
    assert not (tmp_path / "refused").exists()


def shown(data: Dataset | FormattedDataset, **settings: Any) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"), **settings)  # noqa: SIM115
    with console.file:
        chat.preview(data, console=console, rows=2)
        return console.export_text(styles=bool(settings))


def test_the_preview_marks_what_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    """A user could not see, before hours of training, that the wrong part is in the loss."""
    call = "<start_function_call>call:lamp{room:<escape>hall<escape>}<end_function_call><start_function_response>"
    data = formatted(dataset, tmp_path / "format")
    assert shown(data).count(f"⟦{call}⟧") == 2
    assert shown(dataset).count(f"⟦{call}⟧") == 2
    in_colour = shown(data, force_terminal=True, color_system="standard")
    assert f"\x1b[1;32m{call}\x1b[0m" in in_colour
    assert "⟦" not in in_colour
    assert f"max {data.numbers['length_tokens']['max']}" in shown(data)


def test_the_preview_prints_text_as_it_is(tmp_path: Path) -> None:
    """Square brackets in a question would vanish as markup, or end the program."""
    with writing(Dataset, tmp_path / "load", config={}, inputs={}) as draft:
        store.write_jsonl(draft.path / "train.jsonl", [row("[red]a[/] [/b] list[0]")])
        store.write_jsonl(draft.path / "evaluation.jsonl", [])
    assert "[red]a[/] [/b] list[0]" in shown(Dataset.open(tmp_path / "load"))
