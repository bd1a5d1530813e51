"""The packed forward and backward pass against transformers with PEFT, in float32."""

from __future__ import annotations

import random

import pytest
import torch

import tiny_random
from fgpipe.config import LoraConfig
from fgpipe.errors import ModelError
from fgpipe.training.fast.bank import Bank, Layout, initial_state, weights_of
from fgpipe.training.fast.engine import Engine, Update, control_rows, optimise
from fgpipe.training.fast.gemma3 import take_base
from fgpipe.training.packing import Part, TokenRows
from fgpipe.training.shapes import cut, ladder

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
