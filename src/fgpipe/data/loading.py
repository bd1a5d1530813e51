"""Stage `load`: a dataset's rows, converted, checked one by one and split into training and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fgpipe import progress, store
from fgpipe.artifacts import Dataset, writing
from fgpipe.config import TaskConfig
from fgpipe.data import checks, sources, splits
from fgpipe.data.layouts import LAYOUTS, Conversation
from fgpipe.data.readers import SourceRow
from fgpipe.errors import DataError, FormatError
from fgpipe.functiongemma.schema import SchemaIssue

Row = dict[str, Any]


def load_config(task: TaskConfig, seed: int) -> dict[str, Any]:
    """What of the configuration the loaded rows depend on; the source's content is an input of its own."""
    return {
        "dataset": task.dataset.model_dump(mode="json", exclude={"source", "revision"}),
        "instruction": task.instruction,
        "seed": seed,
    }


def load_inputs(task: TaskConfig) -> dict[str, str]:
    """Fingerprint of the source: its files' content, or hub id and commit.

    Raises:
        DataError: there is no such source.
    """
    return {"source": sources.fingerprint(task.dataset)}


def load(task: TaskConfig, *, seed: int, out: Path) -> Dataset:
    """Write the rows of `task.dataset` as canonical rows, split by content.

    The seed only orders the training rows; what is held out does not depend on it, so that runs with different seeds
    are scored on the same rows.

    Raises:
        DataError: the source cannot be read, a row is unusable (the message names it), or a side of the split is empty.
    """
    if token := checks.control_token(task.instruction):
        raise DataError(f"task.instruction: got the control token {token}, expected plain text")
    inputs = load_inputs(task)
    converted = convert(sources.read(task.dataset), task)
    rows = [row for row, _ in converted]
    # Split first: a row that is kept from training takes its duplicates along, however those are marked.
    train, evaluation = map(distinct, splits.split(rows, evaluation_fraction=task.dataset.evaluation_fraction))
    refuse_empty(train, evaluation, task)
    train.sort(key=lambda row: store.digest([seed, row["id"]]))
    with writing(Dataset, out, config=load_config(task, seed), inputs=inputs) as draft:
        store.write_jsonl(draft.path / "train.jsonl", train)
        store.write_jsonl(draft.path / "evaluation.jsonl", evaluation)
        draft.numbers |= {
            "rows": len(train) + len(evaluation),
            "train_rows": len(train),
            "evaluation_rows": len(evaluation),
            "held_out_wording_rows": sum(map(splits.is_held_out, evaluation)),
            "no_call_rows": sum(not checks.calls(row["messages"]) for row in [*train, *evaluation]),
            "duplicates": len(rows) - len(train) - len(evaluation),
            "repaired": sum(any(issue.repaired for issue in issues) for _, issues in converted),
        }
    progress.say(summary(draft.numbers, [issue for _, issues in converted for issue in issues]))
    return Dataset.open(out)


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The first row of every id."""
    return list({row["id"]: row for row in reversed(rows)}.values())[::-1]


def with_instruction(messages: Sequence[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    """`messages` whose developer text ends in a line with `instruction`; unchanged if that is empty or already there.

    Training, evaluation, serving and its clients all compose the developer message here.
    """
    leads = bool(messages) and messages[0]["role"] in ("developer", "system")
    own = messages[0]["content"].strip() if leads else ""
    sentence = instruction.strip()
    text = own if own.endswith(sentence) else f"{own}\n{sentence}".strip()
    rest = list(messages[1:] if leads else messages)
    return [{"role": "developer", "content": text}, *rest] if text else rest


def convert(source: Sequence[SourceRow], task: TaskConfig) -> list[tuple[Row, tuple[SchemaIssue, ...]]]:
    """Every row in canonical shape and checked, with what was mended or lost in it.

    Raises:
        DataError: rows that cannot be used; names the first and counts the others.
    """
    converted: list[tuple[Row, tuple[SchemaIssue, ...]]] = []
    faults: list[DataError] = []
    with progress.bar("load", len(source)) as (bar, position):
        for each in source:
            try:
                converted.append(convert_row(each, task))
            except DataError as fault:
                faults.append(fault)
            bar.update(position, advance=1)
    if faults:
        others = f" ({len(faults) - 1} more of {len(source)} rows are unusable)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0].message}{others}", hint=faults[0].hint) from faults[0]
    return converted


def convert_row(source: SourceRow, task: TaskConfig) -> tuple[Row, tuple[SchemaIssue, ...]]:
    """One row in canonical shape with its id, and what was mended or lost in it.

    The id is a hash of messages and tools as the dataset gives them, so a changed instruction leaves it alone.
    """
    place = source.place
    try:
        conversation = LAYOUTS[task.dataset.layout](source)
        identity = row_id(conversation)
        place = f"{place} (id {identity})"
        # Before the instruction is put in front, so that paths in messages count as the dataset's author does.
        checks.check(conversation.messages, conversation.tools)
    except FormatError as error:
        raise DataError(f"{place}: {error.message}", hint=error.hint) from error
    messages = with_instruction(conversation.messages, task.instruction)
    row = {"id": identity, "messages": messages, "tools": conversation.tools, "meta": conversation.meta}
    return row, conversation.issues


def row_id(conversation: Conversation) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of messages and tools.

    Raises:
        FormatError: there is text that UTF-8 cannot hold.
    """
    try:
        store.digest(conversation.meta)
        return store.digest({"messages": conversation.messages, "tools": conversation.tools})[:16]
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise FormatError(f"got half of a surrogate pair ({half!r}), expected text that UTF-8 can hold") from error


def refuse_empty(train: Sequence[Row], evaluation: Sequence[Row], task: TaskConfig) -> None:
    """Refuse a split with nothing to train on or nothing to evaluate on."""
    if train and evaluation:
        return
    raise DataError(
        f"{task.dataset.source}: got {len(train)} rows to train on and {len(evaluation)} to evaluate on, "
        "expected some of both",
        hint="add rows with other openings, or change task.dataset.evaluation_fraction or task.dataset.limit; "
        "rows that open alike stay on one side, and those of a held-out wording are never trained on",
    )


def summary(numbers: dict[str, Any], issues: Sequence[SchemaIssue]) -> str:
    """One line on what was loaded."""
    parts = [
        f"{numbers['rows']:,} rows: {numbers['train_rows']:,} to train on, {numbers['evaluation_rows']:,} held out",
        f"{numbers['held_out_wording_rows']:,} in wordings kept from training",
        f"{numbers['no_call_rows']:,} without a call",
    ]
    if numbers["duplicates"]:
        parts.append(f"{numbers['duplicates']:,} duplicates dropped")
    if mended := commonest(issue.problem for issue in issues if issue.repaired):
        parts.append(f"{numbers['repaired']:,} rows repaired ({mended})")
    if lost := commonest(f"{issue.path}: {issue.problem}" for issue in issues if not issue.repaired):
        parts.append(f"not shown to the model: {lost}")
    return ", ".join(parts)


def commonest(found: Iterable[str], shown: int = 3) -> str:
    """The most frequent texts with their counts, and how many other kinds there are."""
    counts = Counter(found)
    listed = [f"{text}, {times:,} times" for text, times in counts.most_common(shown)]
    more = [f"{len(counts) - shown} other kinds"] if len(counts) > shown else []
    return "; ".join([*listed, *more])
