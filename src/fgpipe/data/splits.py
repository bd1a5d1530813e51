"""Which rows are trained on and which are held out: decided by content, so that rows added later move none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fgpipe import store

Row = dict[str, Any]


def opening(row: Row) -> str:
    """SHA-256 of what the model sees before it first speaks: developer and user text, without case and spacing.

    Every later prompt of a conversation begins with its opening, so rows with unequal openings share no prompt. Tools
    are left out: a question asked once with and once without the right tool must not be trained on in one form and
    scored in the other.
    """
    before: list[Any] = []
    for message in row["messages"]:
        if message["role"] == "assistant":
            break
        before.append([message["role"], flat(message.get("content"))])
    return store.digest(before)


def flat(content: Any) -> Any:
    """Text without case and spacing; anything else as it is."""
    return " ".join(content.casefold().split()) if isinstance(content, str) else content


def is_held_out(row: Row) -> bool:
    """Whether the row's wording is one that training must never see."""
    return bool(row.get("meta", {}).get("wording") == "held_out")


def split(rows: Sequence[Row], *, evaluation_fraction: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate, each in the given order.

    Rows with equal openings stay together; those of a held-out wording are evaluated, and so is every row that opens
    like one. The share that is held out approaches `evaluation_fraction` of the other openings.
    """
    openings = [opening(row) for row in rows]
    kept_from_training = {key for key, row in zip(openings, rows, strict=True) if is_held_out(row)}
    train: list[Row] = []
    evaluation: list[Row] = []
    for key, row in zip(openings, rows, strict=True):
        held = key in kept_from_training or share(key) < evaluation_fraction
        (evaluation if held else train).append(row)
    return train, evaluation


def share(key: str) -> float:
    """A hexadecimal hash as a number from 0 to below 1."""
    return int(key[:13], 16) / 16**13
