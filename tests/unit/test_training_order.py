"""Which rows a step sees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fgpipe.training.order import RowOrder

orders = st.builds(
    RowOrder,
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300).map(tuple),
    rows_per_step=st.integers(1, 9),
    seed=st.integers(0, 3),
)


@given(orders, st.integers(0, 3))
def test_every_row_once_an_epoch(order: RowOrder, epoch: int) -> None:
    """A lost row would never be learnt, a doubled one would count twice."""
    steps = order.epoch(epoch)
    assert sorted(row for rows in steps for row in rows) == list(range(len(order.lengths)))
    assert len(steps) == order.steps_per_epoch
    assert all(len(rows) == order.rows_per_step for rows in steps[:-1])


@given(orders)
def test_order_depends_on_seed_and_epoch_alone(order: RowOrder) -> None:
    """A resumed process must see the rows the stopped one would have seen."""
    again = RowOrder(order.lengths, order.rows_per_step, order.seed)
    assert again.epoch(1) == order.epoch(1)


def test_epochs_and_seeds_differ() -> None:
    """Always the same order would tie rows to their neighbours."""
    order = RowOrder(tuple(range(1, 65)), 4, 0)
    assert order.epoch(0) != order.epoch(1)
    assert order.epoch(0) != RowOrder(order.lengths, 4, 1).epoch(0)


@given(orders, st.integers(0, 100))
def test_tokens_until_counts_the_rows_seen(order: RowOrder, steps: int) -> None:
    """Tokens/s and the metrics file are made from it."""
    seen = [rows for epoch in range(steps // order.steps_per_epoch + 1) for rows in order.epoch(epoch)][:steps]
    assert order.tokens_until(steps) == sum(order.lengths[row] for rows in seen for row in rows)


@given(orders)
def test_padding_is_counted_as_it_happens(order: RowOrder) -> None:
    """The plan's memory and padding figures would be wrong."""
    whole = order.padded_tokens(batch_size=order.rows_per_step)
    assert whole == sum(len(rows) * max(order.lengths[row] for row in rows) for rows in order.epoch(0))
    assert order.padded_tokens(batch_size=1) == sum(order.lengths)
