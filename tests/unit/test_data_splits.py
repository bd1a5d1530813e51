"""What is trained on and what is held out: no leak, and no row that changes sides."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fgpipe.data.splits import is_held_out, opening, split

TOOL = {"type": "function", "function": {"name": "lamp"}}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Rows whose prompts often coincide, with one or several turns."""
    messages = [{"role": "developer", "content": draw(st.sampled_from(["", "a"]))}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(
            {"role": "user", "content": draw(st.sampled_from(["on", "off", "On ", "what?", "dim it", "hi"]))}
        )
        messages.append({"role": "assistant", "content": draw(st.sampled_from(["yes", "no"]))})
    wording = draw(st.sampled_from([{}, {}, {}, {"wording": "common"}, {"wording": "held_out"}]))
    return {"messages": messages, "tools": draw(st.sampled_from([[], [TOOL]])), "meta": wording}


FRACTIONS = st.floats(0.05, 0.85)


def prompts(row: dict[str, Any]) -> set[str]:
    """Everything the model is asked in `row`, as text."""
    messages = row["messages"]
    return {str(messages[:index]) for index, message in enumerate(messages) if message["role"] == "assistant"}


@given(st.lists(rows(), max_size=30), FRACTIONS)
def test_no_prompt_is_on_both_sides(given_rows: list[dict[str, Any]], fraction: float) -> None:
    """A score would count answers that were learnt by heart, in whatever turn they stand."""
    train, evaluation = split(given_rows, evaluation_fraction=fraction)
    asked_in_training = set().union(*map(prompts, train))
    asked_in_evaluation = set().union(*map(prompts, evaluation))
    assert not asked_in_training & asked_in_evaluation
    assert not {opening(row) for row in train} & {opening(row) for row in evaluation}


@given(st.lists(rows(), max_size=30), FRACTIONS)
def test_every_row_is_on_one_side_in_its_order(given_rows: list[dict[str, Any]], fraction: float) -> None:
    """Rows would be lost, or doubled."""
    train, evaluation = split(given_rows, evaluation_fraction=fraction)
    remaining = {True: list(train), False: list(evaluation)}
    for row in given_rows:
        side = bool(remaining[True]) and remaining[True][0] is row
        assert remaining[side].pop(0) is row
    assert remaining == {True: [], False: []}


@given(st.lists(rows(), max_size=30), FRACTIONS)
def test_held_out_wordings_are_never_trained_on(given_rows: list[dict[str, Any]], fraction: float) -> None:
    """The score on unseen wordings would be one on seen wordings."""
    train, _ = split(given_rows, evaluation_fraction=fraction)
    assert not any(map(is_held_out, train))


@given(st.lists(rows(), max_size=20), st.lists(rows(), max_size=20), FRACTIONS)
def test_added_rows_move_none(before: list[dict[str, Any]], added: list[dict[str, Any]], fraction: float) -> None:
    """After adding data, rows once trained on would be scored, and the score be compared with one on other rows."""
    train_before, _ = split(before, evaluation_fraction=fraction)
    train_after, _ = split([*added, *before], evaluation_fraction=fraction)
    # The one exception: an added row that must never be trained on takes the rows that open like it along.
    taken = {opening(row) for row in added if is_held_out(row)}
    trained_before = [row for row in train_before if opening(row) not in taken]
    assert [row for row in train_after if any(row is each for each in before)] == trained_before


def test_about_the_wanted_share_is_held_out() -> None:
    """`evaluation_fraction` would mean something else than it says."""
    many = [{"messages": [{"role": "user", "content": f"number {i}"}], "tools": []} for i in range(4000)]
    for fraction in (0.05, 0.15, 0.5):
        _, evaluation = split(many, evaluation_fraction=fraction)
        assert abs(len(evaluation) / 4000 - fraction) < 0.03


def test_the_side_of_a_row_is_the_same_in_every_release() -> None:
    """An upgrade would evaluate adapters on rows they were trained on."""
    many = [{"messages": [{"role": "user", "content": f"number {i}"}], "tools": []} for i in range(20)]
    _, evaluation = split(many, evaluation_fraction=0.3)
    assert [row["messages"][0]["content"] for row in evaluation] == [f"number {i}" for i in (5, 6, 8, 9, 10, 13, 17)]
