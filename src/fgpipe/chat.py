"""Conversations as what training and evaluation read: tokens with a loss mask, and prompts with the answer expected.

Which text is trained comes from FunctionGemma's own grammar (`functiongemma.segments`); here it only becomes tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from fgpipe import functiongemma, progress, store
from fgpipe.artifacts import Dataset, FormattedDataset, writing
from fgpipe.errors import DataError
from fgpipe.functiongemma import Segment

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

PREVIEW_ROWS = 20
"""Training rows kept in `preview.jsonl`, so that a preview needs no tokenizer."""


@dataclass(frozen=True)
class Encoded:
    """A conversation in tokens; `loss_mask` is 1 where the model must produce the token, and as long as `input_ids`."""

    input_ids: list[int]
    loss_mask: list[int]
    segments: list[Segment]

    @property
    def text(self) -> str:
        """The rendered conversation, `<bos>` included."""
        return "".join(segment.text for segment in self.segments)


def format_config(*, max_length_tokens: int) -> dict[str, Any]:
    """What of the configuration the formatted rows depend on."""
    return {"max_length_tokens": max_length_tokens, "tokenised": ["train", "held_out"]}


def format_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length_tokens: int,
    tokenizer_fingerprint: str,
    out: Path,
) -> FormattedDataset:
    """Write `dataset` as tokens with loss masks to train on, and as prompts with expected answers to evaluate on.

    Raises:
        DataError: a row is longer than `max_length_tokens`, has nothing or everything in the loss, or would be other
            tokens in training than in generation.
    """
    train, evaluation = dataset.rows("train"), dataset.rows("evaluation")
    rows = [*train, *evaluation]
    encoded: list[Encoded] = []
    with progress.bar("format", len(rows)) as (bar, task):
        for row in rows:
            encoded.append(encode(row, tokenizer))
            bar.update(task, advance=1)
    refuse_long_rows(rows, encoded, max_length_tokens)
    trained = encoded[: len(train)]
    points = [point for row in evaluation for point in evaluation_points(row)]
    inputs = {"dataset": dataset.fingerprint, "tokenizer": tokenizer_fingerprint}
    config = format_config(max_length_tokens=max_length_tokens)
    with writing(FormattedDataset, out, config=config, inputs=inputs) as draft:
        write_columns(draft.path / "train.parquet", train, trained)
        write_columns(draft.path / "held_out.parquet", evaluation, encoded[len(train) :])
        store.write_jsonl(draft.path / "evaluation.jsonl", points)
        store.write_jsonl(draft.path / "preview.jsonl", preview_lines(train, trained))
        draft.numbers |= {
            "train_rows": len(train),
            "evaluation_rows": len(evaluation),
            "evaluation_points": len(points),
            **token_numbers(trained),
        }
    return FormattedDataset.open(out)


def encode(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """The canonical `row` as tokens, masked by the grammar.

    The whole text is tokenised once; a token counts as trained when its first character is.

    Raises:
        FormatError: the conversation does not fit the format.
        DataError: not exactly one `<bos>`; no token or every token in the loss; or the tokens before an answer are not
            those of the same prompt alone, so that generation would start from something training never saw.
    """
    parts = functiongemma.segments(row["messages"], row["tools"])
    text = "".join(part.text for part in parts)
    tokenised = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = tokenised["input_ids"]
    starts = [start for start, _ in tokenised["offset_mapping"]]
    if ids[:1] != [tokenizer.bos_token_id] or ids.count(tokenizer.bos_token_id) != 1:
        found = ids.count(tokenizer.bos_token_id)
        raise DataError(f"{label(row)}: got {found} <bos> tokens, expected one, at the start")
    mask = [0] * len(ids)
    end = token = 0
    for part in parts:
        begin, end = end, end + len(part.text)
        if part.trained:
            check_prompt(row, text[:begin], ids[:token], tokenizer)
        while token < len(ids) and starts[token] < end:
            mask[token] = int(part.trained)
            token += 1
    if sum(mask) in (0, len(mask)):
        share = "no token" if not any(mask) else "every token"
        raise DataError(f"{label(row)}: got {share} in the loss, expected a prompt and an answer by the assistant")
    return Encoded(ids, mask, parts)


def check_prompt(row: Mapping[str, Any], prompt: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a row in which `ids`, the tokens before an answer, differ from the tokens of `prompt` alone."""
    if list(ids) != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
        raise DataError(
            f"{label(row)}: got a token that joins prompt and answer, expected the prompt's own tokens before it",
            hint="the answer must not begin with characters that the tokenizer merges with the line break before it",
        )


def label(row: Mapping[str, Any]) -> str:
    """What to call `row` in a message: its id, and the beginning of its last user text to search for."""
    asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    beginning = " ".join(asked[-1].split()) if asked else ""
    shown = beginning if len(beginning) <= 60 else f"{beginning[:60]}…"
    return f"row {row.get('id', '?')} ({shown!r})"


def refuse_long_rows(rows: Sequence[Mapping[str, Any]], encoded: Sequence[Encoded], max_length_tokens: int) -> None:
    """Refuse rows over `max_length_tokens`: cut off, they would teach answers that never end."""
    lengths = [len(one.input_ids) for one in encoded]
    longest = max(lengths)
    if longest <= max_length_tokens:
        return
    too_long = sum(length > max_length_tokens for length in lengths)
    raise DataError(
        f"train.max_length_tokens: got {too_long} of {len(rows)} rows longer than {max_length_tokens}; "
        f"the longest, {label(rows[lengths.index(longest)])}, has {longest}",
        hint=f"train.max_length_tokens={longest}, or leave those rows out",
    )


def evaluation_points(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers in `row` to score, each with the prompt that asks for it.

    Those are turns that call, and turns that answer a user directly, so that calling where no call is right is seen as
    well. Text after a tool's response is left out: there is no one right wording of it.
    """
    points: list[dict[str, Any]] = []
    messages, tools = row["messages"], row["tools"]
    for index, message in enumerate(messages):
        calls = message.get("tool_calls", [])
        if message["role"] != "assistant" or not (calls or messages[index - 1]["role"] == "user"):
            continue
        points.append(
            {
                "id": f"{row['id']}-{len(points)}" if points else row["id"],
                "prompt": functiongemma.render(messages[:index], tools, add_generation_prompt=True),
                "expected_calls": [
                    {"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls
                ],
                "expected_text": message["content"],
                "tools": tools,
                "meta": row.get("meta", {}),
            }
        )
    return points


def write_columns(path: Path, rows: Sequence[Mapping[str, Any]], encoded: Sequence[Encoded]) -> None:
    """Columns id, input_ids and loss_mask as Parquet."""
    import pyarrow
    import pyarrow.parquet

    columns = {
        "id": pyarrow.array([row["id"] for row in rows], pyarrow.string()),
        "input_ids": pyarrow.array([one.input_ids for one in encoded], pyarrow.list_(pyarrow.int32())),
        "loss_mask": pyarrow.array([one.loss_mask for one in encoded], pyarrow.list_(pyarrow.int8())),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def preview_lines(rows: Sequence[Mapping[str, Any]], encoded: Sequence[Encoded]) -> Iterable[dict[str, Any]]:
    """The first rows with their text cut into trained and untrained parts."""
    for row, one in islice(zip(rows, encoded, strict=True), PREVIEW_ROWS):
        yield {"id": row["id"], "segments": [[part.text, part.trained] for part in one.segments]}


def token_numbers(encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Tokens of the training rows: total, share in the loss, and lengths."""
    lengths = sorted(len(one.input_ids) for one in encoded)
    tokens, loss_tokens = sum(lengths), sum(sum(one.loss_mask) for one in encoded)
    return {
        "tokens": tokens,
        "loss_tokens": loss_tokens,
        "loss_fraction": round(loss_tokens / tokens, 4),
        "length_tokens": {
            "min": lengths[0],
            "median": lengths[len(lengths) // 2],
            "p95": lengths[min(len(lengths) * 95 // 100, len(lengths) - 1)],
            "max": lengths[-1],
        },
    }


def preview(data: Dataset | FormattedDataset, console: Console | None = None, rows: int = 3) -> None:
    """Print training rows of `data` with what is in the loss set off, and how long the rows are.

    Trained text is green, the rest dim; where there is no colour, trained text stands between ⟦ and ⟧.
    """
    from rich.console import Console

    console = console or Console()
    brackets = console.color_system is None
    for name, parts in islice(previewed_rows(data), rows):
        console.rule(f"row {name}", align="left", style="dim")
        console.print(coloured(parts, brackets=brackets), soft_wrap=True)
    console.rule(style="dim")
    console.print(coloured([("in the loss", True), (" · given", False)], brackets=brackets))
    for line in figures(data.numbers):
        console.print(line, soft_wrap=True)


def figures(numbers: Mapping[str, Any]) -> list[str]:
    """What a manifest counts, in lines to read."""
    counts = {key: value for key, value in numbers.items() if isinstance(value, int)}
    lines = [", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.items())]
    if "length_tokens" in numbers:
        lengths = ", ".join(f"{key} {value:,}" for key, value in numbers["length_tokens"].items())
        lines.append(f"{numbers['loss_fraction']:.1%} of the tokens in the loss; tokens a row: {lengths}")
    return lines


def previewed_rows(data: Dataset | FormattedDataset) -> Iterable[tuple[str, list[tuple[str, bool]]]]:
    """Id and (text, trained) parts of the first training rows."""
    if isinstance(data, FormattedDataset):
        for line in store.read_jsonl(data.path / "preview.jsonl"):
            yield line["id"], [(text, trained) for text, trained in line["segments"]]
        return
    for row in data.rows("train"):
        parts = functiongemma.segments(row["messages"], row["tools"])
        yield row["id"], [(part.text, part.trained) for part in parts]


def coloured(parts: Iterable[tuple[str, bool]], *, brackets: bool = False) -> Text:
    """Rendered text with its trained parts in green, and between ⟦ and ⟧ if `brackets`."""
    from rich.text import Text

    text = Text()
    for part, trained in parts:
        text.append(f"⟦{part}⟧" if trained and brackets else part, style="bold green" if trained else "dim")
    return text
