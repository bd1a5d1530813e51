"""Packed steps: every row once, nothing of one row in another's reach, few shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training.choose import Machine, choose_backend
from fgpipe.training.packing import Part, TokenRows, pack
from fgpipe.training.schedule import learning_rate_factor
from fgpipe.training.shapes import BLOCK, CAPTURE_COST, Ladder, MicroBatch, Shape, Thrift, cut, fill, ladder
from machines import CPU, GPU

lengths_and_labels = st.lists(
    st.integers(2, 700).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length - 1))),
    min_size=1,
    max_size=40,
)


def token_rows(rows: list[tuple[int, int]], *, first: int = 1) -> TokenRows:
    """Rows of (length, labels at the end); every token is different."""
    columns: dict[str, list[list[int]]] = {"input_ids": [], "loss_mask": []}
    for length, labels in rows:
        columns["input_ids"].append(list(range(first, first + length)))
        columns["loss_mask"].append([0] * (length - labels) + [1] * labels)
        first += length
    return TokenRows(columns)


def shapes_for(members: list[TokenRows], *, largest_tokens: int, exact: bool = False) -> Ladder:
    lengths = [length for rows in members for length in rows.lengths]
    labels = [count for rows in members for count in rows.labels]
    return ladder(lengths, labels, slots=len(members), largest_tokens=largest_tokens, exact=exact)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(lengths_and_labels, min_size=1, max_size=5),
    st.integers(0, 8000),
    st.booleans(),
)
def test_every_token_and_label_is_there_once_and_among_its_own(
    members: list[list[tuple[int, int]]], largest_tokens: int, exact: bool
) -> None:
    """A row that is lost, doubled or joined to another would train something nobody asked for."""
    rows = [token_rows(one, first=1 + 100_000 * number) for number, one in enumerate(members)]
    shapes = shapes_for(rows, largest_tokens=largest_tokens, exact=exact)
    for slot, one in enumerate(rows):
        batches = cut(range(len(one.lengths)), one.lengths, one.labels, shapes)
        assert [row for batch in batches for row in batch.rows] == list(range(len(one.lengths)))
        assert all(shapes.fits([batch]) for batch in batches)
        rows_left = [(slot, batch) for batch in batches]
        assert rows_left
    chosen: list[Part] = []
    for slot, one in enumerate(rows):
        batch = cut(range(len(one.lengths)), one.lengths, one.labels, shapes)[0]
        if shapes.fits([*(part.batch for part in chosen), batch]):
            chosen.append(Part(slot, one, batch, 7))
    shape = shapes.choose([part.batch for part in chosen])
    packed = pack(chosen, shape, shapes)
    assert packed.ids.shape == packed.positions.shape == (shape.tokens,)
    assert len(packed.bounds) == shape.segments + 1
    sizes = np.diff(packed.bounds)
    assert packed.bounds[0] == 0
    assert packed.bounds[-1] == shape.tokens
    assert (sizes >= 0).all()
    assert sizes.max() <= shapes.longest_tokens
    segments = {int(start): int(size) for start, size in zip(packed.bounds, sizes, strict=False) if size}
    assert all((packed.positions[start : start + size] == np.arange(size)).all() for start, size in segments.items())
    for part in chosen:
        for row in part.batch.rows:
            tokens = part.rows.tokens[row]
            (start,) = np.flatnonzero(packed.ids == tokens[0])
            assert segments[int(start)] == len(tokens)
            assert (packed.ids[start : start + len(tokens)] == tokens).all()
            blocks = packed.block_slots[start // BLOCK : (start + len(tokens) - 1) // BLOCK + 1]
            assert (blocks == part.slot).all()
    real = packed.weights > 0
    assert real.sum() == sum(part.batch.labels for part in chosen)
    assert (packed.ids[packed.label_places[real] + 1] == packed.targets[real]).all()
    assert (packed.label_slots[~real] == len(rows)).all()
    for part in chosen:
        assert (packed.label_slots[real] == part.slot).sum() == part.batch.labels


def test_few_shapes_and_little_room_left() -> None:
    """Each shape is captured once, which takes memory and a moment."""
    rows = token_rows([(100 + 37 * number % 900, 30) for number in range(400)])
    shapes = shapes_for([rows], largest_tokens=16_384)
    assert shapes.blocks[-1] == 64
    assert len(shapes.blocks) <= 32
    room = [later / earlier for earlier, later in zip(shapes.blocks[5:], shapes.blocks[6:], strict=False)]
    assert max(room) <= 1.2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 16_384), st.integers(1, 2000)), min_size=1, max_size=300), st.integers(1, 4))
def test_what_stays_empty_and_what_is_captured_cost_about_the_same(sizes: list[tuple[int, int]], epochs: int) -> None:
    """A graph for each shape that comes once took half of a short training; one graph for all leaves half empty."""
    batches = [MicroBatch((0,), tokens, min(labels, tokens)) for tokens, labels in sizes * epochs]
    shapes = ladder([batch.tokens for batch in batches], [batch.labels for batch in batches], slots=1, largest_tokens=1)
    captured: list[Shape] = [shapes.largest]
    thrift, empty, wanted = Thrift(), 0, set()
    for batch in batches:
        shape, best = thrift.choose(shapes, [batch], captured), shapes.choose([batch])
        assert shape.holds([batch])
        if shape not in captured:
            assert shape == best
            captured.append(shape)
        elif shape != best:
            wanted.add(best)
        empty += shape.cost - best.cost
    assert empty <= CAPTURE_COST * len(wanted)
    with_one_alone = sum(shapes.largest.cost - shapes.choose([batch]).cost for batch in batches)
    assert CAPTURE_COST * (len(captured) - 1) <= with_one_alone


def test_where_memory_was_short_no_graph_is_made_that_can_be_spared() -> None:
    """Two graphs that do not fit together would be captured in turns, each a moment in which nothing is trained."""
    often = MicroBatch((0,), 4000, 100)
    shapes = ladder([16_000, 4000], [500, 100], slots=1, largest_tokens=1)
    thrift = Thrift()
    for _ in range(50):
        thrift.choose(shapes, [often], [shapes.largest])
    assert thrift.choose(shapes, [often], [shapes.largest]) == shapes.choose([often])
    thrift.stop()
    assert thrift.choose(shapes, [often], [shapes.largest]) == shapes.largest
    assert thrift.choose(shapes, [often], []) == shapes.choose([often])


def test_a_shape_that_comes_often_is_captured_and_one_that_comes_once_is_not() -> None:
    often, once = MicroBatch((0,), 4000, 100), MicroBatch((0,), 300, 20)
    shapes = ladder([16_000, 4000, 300], [500, 100, 20], slots=1, largest_tokens=1)
    captured = {shapes.largest}
    thrift = Thrift()
    for batch in (once, *[often] * 50):
        captured.add(thrift.choose(shapes, [batch], captured))
    assert captured == {shapes.largest, shapes.choose([often])}
    assert thrift.choose(shapes, [often], captured) == shapes.choose([often])


def test_schedules_are_those_of_transformers() -> None:
    """Both back ends must walk the same learning rates."""
    import torch
    from transformers import get_scheduler

    names = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
    for ours, theirs in names.items():
        for steps, warmup in ((10, 0), (10, 3), (7, 7), (1, 1)):
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            schedule = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
            for step in range(steps):
                found = learning_rate_factor(ours, step, steps=steps, warmup_steps=warmup)  # type: ignore[arg-type]
                assert found == pytest.approx(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()


@pytest.mark.parametrize(
    ("machine", "lora", "train", "chosen"),
    [
        (GPU, {}, {}, "fast"),
        (CPU, {}, {}, "trl"),
        (CPU, {}, {"backend": "fast"}, "fast"),
        (GPU, {}, {"backend": "trl"}, "trl"),
        (GPU, {"lora_dropout": 0.1}, {}, "trl"),
        (GPU, {}, {"gradient_checkpointing": True}, "trl"),
    ],
)
def test_auto_takes_what_works(machine: Machine, lora: dict[str, float], train: dict[str, object], chosen: str) -> None:
    """A user who says nothing must get the fast one where it does what is asked, and an answer why not elsewhere."""
    backend, reason = choose_backend(LoraConfig(**lora), ModelConfig(), TrainConfig(**train), machine)  # type: ignore[arg-type]
    assert backend == chosen
    assert reason


@pytest.mark.parametrize(
    ("machine", "lora", "model", "named"),
    [
        (GPU, {"lora_dropout": 0.1}, {}, "lora.lora_dropout=0.1"),
        (GPU, {"r": 256}, {}, "lora.r=256"),
        (GPU, {}, {"quantization": "nf4"}, "model.quantization=nf4"),
        (Machine("cuda", "float32", True, True, 1), {}, {}, "float32 on the GPU"),
        (Machine("cuda", "bfloat16", False, True, 1), {}, {}, "compute capability 8.0"),
        (Machine("cuda", "bfloat16", True, False, 1), {}, {}, "triton"),
    ],
)
def test_fast_refuses_by_name_what_it_cannot_do(
    machine: Machine, lora: dict[str, float], model: dict[str, object], named: str
) -> None:
    """Silently training something else would be worse than not training."""
    config = TrainConfig(backend="fast")
    with pytest.raises(TrainingError) as caught:
        choose_backend(LoraConfig(**lora), ModelConfig(**model), config, machine)  # type: ignore[arg-type]
    assert named in caught.value.message
    assert "trl" in caught.value.hint


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 400)), min_size=1, max_size=24), st.integers(3000, 16_384)
)
def test_a_pass_is_filled_and_nobody_waits_for_ever(sizes: list[tuple[int, int]], largest_tokens: int) -> None:
    """Places that a pass leaves empty cost as much as full ones; an adapter always passed over would never end."""
    batches = [MicroBatch((0,), tokens, min(labels, tokens)) for tokens, labels in sizes]
    lengths, labels = [batch.tokens for batch in batches], [batch.labels for batch in batches]
    shapes = ladder(lengths, labels, slots=len(batches), largest_tokens=largest_tokens)
    places = fill(batches, shapes)
    chosen = [batches[place] for place in places]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert shapes.fits(chosen)
    one_by_one: list[MicroBatch] = []
    for batch in batches:
        if shapes.fits([*one_by_one, batch]):
            one_by_one.append(batch)
    assert sum(batch.blocks for batch in chosen) >= sum(batch.blocks for batch in one_by_one)
