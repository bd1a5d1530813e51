"""The packed forward and backward pass against transformers with PEFT, in float32."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import tiny_random
from fgpipe.config import LoraConfig
from fgpipe.errors import ModelError, TrainingError
from fgpipe.training.fast.bank import Bank, Layout, initial_state, weights_of
from fgpipe.training.fast.engine import Engine, Update, control_rows, largest_that_fits, optimise
from fgpipe.training.fast.gemma3 import take_base
from fgpipe.training.fast.job import MOST_COPIES, Writer
from fgpipe.training.packing import Part, TokenRows
from fgpipe.training.shapes import Ladder, Shape, cut, ladder

LORAS = (LoraConfig(r=4, lora_alpha=8), LoraConfig(r=2, lora_alpha=6, use_rslora=True), LoraConfig(r=3))
WINDOW = 16


def model() -> object:
    """With a window far shorter than the rows, and norms away from their initial zeros."""
    built = tiny_random.model()
    built.config.sliding_window = WINDOW
    for layer in built.model.layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = WINDOW
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "norm" in name:
                weight.normal_(std=0.3, generator=generator)
    return built


def rows_of(seed: int, count: int) -> tuple[TokenRows, dict[str, list[list[int]]]]:
    source = random.Random(seed)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "loss_mask": []}
    for _ in range(count):
        length = source.choice([30, 70, 110, 290])
        columns["input_ids"].append([source.randrange(4, 380) for _ in range(length)])
        columns["loss_mask"].append([0] * (length - 12) + [1] * 12)
    return TokenRows(columns), columns


def state_of(seed: int) -> dict[str, torch.Tensor]:
    """An adapter away from its initial zeros, so that gradients reach A."""
    state = initial_state(tiny_random.SHAPE, LORAS[seed], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.1 if "lora_B" in name else value
        for name, value in state.items()
    }


@pytest.mark.parametrize("members", [1, 3])
def test_loss_and_gradients_are_those_of_transformers_and_peft(members: int) -> None:
    """Speed must not buy another model: every slot's loss and every gradient, with windows, ranks and scales mixed."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model, set_peft_model_state_dict

    rows = [rows_of(seed, 7 - seed) for seed in range(members)]
    lengths = [length for one, _ in rows for length in one.lengths]
    labels = [count for one, _ in rows for count in one.labels]
    shapes = ladder(lengths, labels, slots=members, largest_tokens=sum(lengths) + 256 * members, exact=True)
    bank = Bank(Layout(tiny_random.SHAPE, max(lora.r for lora in LORAS[:members])), members, "cpu")
    for slot in range(members):
        bank.seat(slot, state_of(slot), LORAS[slot])
    engine = Engine(take_base(model(), positions=shapes.longest_tokens), bank, shapes)  # type: ignore[arg-type]
    parts = []
    for slot, (one, _) in enumerate(rows):
        (batch,) = cut(range(len(one.lengths)), one.lengths, one.labels, shapes)
        parts.append(Part(slot, one, batch, sum(one.labels)))
    engine.run(engine.pack(parts), {})
    for slot, (_, columns) in enumerate(rows):
        lora = LORAS[slot]
        peft = get_peft_model(
            model(),
            PeftLoraConfig(
                r=lora.r,
                lora_alpha=lora.lora_alpha,
                use_rslora=lora.use_rslora,
                target_modules=list(lora.target_modules),
            ),
        )
        set_peft_model_state_dict(peft, weights_of(bank.state(slot, lora)))
        total = torch.zeros(())
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True):
            learnt = torch.tensor(mask[1:]).bool()
            logits = peft(input_ids=torch.tensor([ids])).logits[0, :-1][learnt]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])[learnt], reduction="sum")
        (total / sum(map(sum, columns["loss_mask"]))).backward()
        assert engine.losses[slot].item() == pytest.approx(total.item() / sum(map(sum, columns["loss_mask"])), rel=1e-5)
        found = bank.layout.views(bank.gradients[slot], lora.r)
        for name, weight in peft.named_parameters():
            if weight.grad is not None:
                gradient = found[name.replace(".default", "")]
                assert (gradient - weight.grad).norm() <= 1e-5 * weight.grad.norm(), name


def test_a_graph_that_is_too_large_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes a graph that is there, if it is not wanted often enough to have its own."""
    one, _ = rows_of(0, 5)
    found = []
    for first in (True, False):
        bank = Bank(Layout(tiny_random.SHAPE, LORAS[0].r), 2, "cpu")
        bank.seat(1, state_of(0), LORAS[0])
        shapes = ladder(one.lengths, one.labels, slots=2, largest_tokens=6000)
        engine = Engine(take_base(model(), positions=300), bank, shapes)  # type: ignore[arg-type]
        if first:
            monkeypatch.setattr(engine, "_graphs", {shapes.largest: None})
        (batch,) = cut(range(len(one.lengths)), one.lengths, one.labels, shapes)
        packed = engine.pack([Part(1, one, batch, sum(one.labels))])
        assert (packed.shape == shapes.largest) == first
        engine.run(packed, {})
        found.append((engine.losses[1].clone(), bank.gradients.clone()))
    (loss, gradients), (own_loss, own_gradients) = found
    assert loss.item() == pytest.approx(own_loss.item(), rel=1e-6)
    assert gradients[1].any()
    assert (gradients - own_gradients).norm() <= 1e-6 * own_gradients.norm()


def test_updates_are_those_of_torch_adamw() -> None:
    """Clipping, decay, moments and bias correction, each slot by its own numbers and only at the end of its step."""
    settings = [(0.01, 0.1, 0.5), (0.02, 0.0, 100.0)]
    bank = Bank(Layout(tiny_random.SHAPE, 2), 2, "cpu")
    rows, _ = rows_of(0, 2)
    shapes = ladder(rows.lengths, rows.labels, slots=2, largest_tokens=512, exact=True)
    engine = Engine(take_base(model(), positions=shapes.longest_tokens), bank, shapes)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    bank.values.normal_(generator=generator)
    weights = [bank.values[slot].clone().requires_grad_() for slot in range(2)]
    optimizers = [
        torch.optim.AdamW([weight], lr=rate, weight_decay=decay)
        for weight, (rate, decay, _) in zip(weights, settings, strict=True)
    ]
    for number in range(1, 5):
        bank.gradients.normal_(generator=generator)
        for slot in (0, 1) if number % 2 else (1,):
            rate, decay, norm = settings[slot]
            step = (number + 1) // 2 if slot == 0 else number
            weights[slot].grad = bank.gradients[slot].clone()
            torch.nn.utils.clip_grad_norm_([weights[slot]], norm)
            optimizers[slot].step()
            update = {slot: Update(step, rate, decay, norm)}
            kept = bank.gradients[1 - slot].clone()
            optimise(
                bank.values, bank.gradients, bank.exp_avg, bank.exp_avg_sq, engine.losses[:-1], engine.reports,
                torch.from_numpy(control_rows(update, 2)),
            )  # fmt: skip
            assert torch.allclose(bank.values[slot], weights[slot], atol=1e-6)
            assert torch.equal(bank.gradients[1 - slot], kept)
            assert not bank.gradients[slot].any()


def test_another_kind_of_model_is_refused() -> None:
    """Its numbers would be wrong, without a sign of it."""
    other = tiny_random.model()
    other.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match=r"final_logit_softcapping=30\.0"):
        take_base(other, positions=8)


class Small:
    """A GPU that holds so many tokens, as far as an engine that captures there can tell."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, *, tokens: int) -> None:
        self.tokens = tokens
        self.held = 0
        """By graphs, until they are released."""
        self.captured: list[int] = []
        monkeypatch.setattr(engine, "capture", self.capture)
        monkeypatch.setattr(engine, "release", self.release)

    def capture(self, shape: Shape) -> None:
        self.held += shape.tokens
        if self.held > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.captured.append(shape.tokens)

    def release(self) -> None:
        self.held = 0


def small_engine() -> tuple[Engine, Callable[[int], Ladder]]:
    rows, _ = rows_of(0, 40)

    def make(tokens: int) -> Ladder:
        return ladder(rows.lengths, rows.labels, slots=1, largest_tokens=tokens)

    bank = Bank(Layout(tiny_random.SHAPE, 4), 1, "cpu")
    return Engine(take_base(model(), positions=300), bank, make(8192)), make  # type: ignore[arg-type]


def test_what_does_not_fit_is_halved_until_it_does_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan that was wrong about the memory would end a training that a smaller pass can do."""
    engine, make = small_engine()
    gpu = Small(engine, monkeypatch, tokens=3000)
    largest_that_fits(engine, make)
    assert gpu.captured == [2048] == [engine.shapes.largest.tokens]
    said = capsys.readouterr().err
    assert "8,192 tokens a pass; going on with 4,096" in said
    assert "going on with 2,048" in said


def test_what_can_never_fit_is_one_line_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, make = small_engine()
    gpu = Small(engine, monkeypatch, tokens=100)
    with pytest.raises(TrainingError, match=r"out of memory at 512 tokens a pass, which the longest row needs"):
        largest_that_fits(engine, make)
    assert gpu.held == 0


def test_graphs_give_way_to_a_shape_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would end at the first step of a new length, an hour in."""
    engine, _ = small_engine()
    gpu = Small(engine, monkeypatch, tokens=9000)
    engine._capture_or_make_room(engine.shapes.largest)
    engine._capture_or_make_room(replace(engine.shapes.largest, blocks=20))
    assert gpu.captured == [8192, 5120]
    assert gpu.held == 5120


def test_checkpoints_that_wait_are_bounded() -> None:
    """A fleet whose disk is slow would fill pinned memory with copies of all its adapters."""
    hold = threading.Event()
    with Writer() as writer:
        for _ in range(MOST_COPIES):
            writer.make_room()
            writer.submit(hold.wait)
        waiting = threading.Thread(target=writer.make_room)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        hold.set()
        waiting.join(10)
        assert not waiting.is_alive()
