"""Gradients of the packed engine, as it runs on this machine, against transformers with PEFT in float32.

Started by `training.py`; takes its settings as one JSON object and prints one. Two adapters with weights away from
their initial zeros share a step; the norms of the base are random too. The yardstick is what transformers itself makes
of the same rows in the engine's number format.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from training_base import SHAPES, gemma_config  # noqa: E402
from training_peers import read_rows  # noqa: E402
from training_run import RESULT  # noqa: E402

from fgpipe.config import LoraConfig  # noqa: E402
from fgpipe.training.fast.bank import Bank, Layout, weights_of  # noqa: E402
from fgpipe.training.fast.engine import Engine  # noqa: E402
from fgpipe.training.fast.gemma3 import take_base  # noqa: E402
from fgpipe.training.packing import Part, TokenRows  # noqa: E402
from fgpipe.training.shapes import cut, ladder  # noqa: E402

LORA = LoraConfig(r=16, lora_alpha=32)
ADAPTERS = 2
NORM_STD, ADAPTER_STD = 0.2, 0.05

Rows = list[tuple[list[int], list[int]]]
"""(token ids, labels) of each row."""


def main() -> None:
    """Compare."""
    settings = json.loads(sys.argv[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    columns = read_rows(settings["rows"])
    rows = list(zip(columns["input_ids"], columns["labels"], strict=True))
    random.Random(0).shuffle(rows)
    mine = [share_of(rows, number, settings["tokens"]) for number in range(ADAPTERS)]
    reference = random_base(settings["shape"], device)
    states = [random_adapter(settings["shape"], seed, device) for seed in range(ADAPTERS)]
    rounded = copy.deepcopy(reference).to(dtype)
    losses, gradients = packed(rounded, states, mine, settings["shape"])
    found = []
    for number, (own, state) in enumerate(zip(mine, states, strict=True)):
        loss, expected = with_peft(reference, state, own)
        yard_loss, yard = with_peft(rounded, state, own)
        found.append(
            {
                "tokens": sum(len(ids) for ids, _ in own),
                "loss": {"float32": loss, "transformers": yard_loss, "fast": losses[number]},
                "error": {"transformers": distance(yard, expected), "fast": distance(gradients[number], expected)},
            }
        )
    print(RESULT + json.dumps({"dtype": str(dtype).removeprefix("torch."), "adapters": found}), flush=True)


def share_of(rows: Rows, number: int, tokens: int) -> Rows:
    """The rows of adapter `number`: every so-manieth until they have about `tokens` tokens."""
    chosen: Rows = []
    for ids, labels in rows[number::ADAPTERS]:
        if sum(len(one) for one, _ in chosen) + len(ids) > tokens and chosen:
            break
        chosen.append((ids, labels))
    return chosen


def random_base(kind: str, device: str) -> Any:
    """A base in float32 whose weights bfloat16 can hold, its norms away from their initial zeros."""
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(0)
    config = gemma_config(SHAPES[kind])
    config._attn_implementation = "eager"
    with torch.device(device):
        model = Gemma3ForCausalLM(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=NORM_STD) if "norm" in name else None
            weight.copy_(weight.bfloat16().float())
    return model.requires_grad_(False)


def random_adapter(kind: str, seed: int, device: str) -> dict[str, Tensor]:
    """All its matrices drawn alike, by PEFT's names."""
    layout = Layout(SHAPES[kind], LORA.r)
    generator = torch.Generator(device=device).manual_seed(seed)
    flat = torch.randn(layout.size(), generator=generator, device=device) * ADAPTER_STD
    return layout.views(flat, LORA.r)


def packed(
    model: Any, states: list[dict[str, Tensor]], mine: list[Rows], kind: str
) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Loss and gradients of each adapter by the packed engine, all in one pass."""
    rows = [
        TokenRows(
            {
                "input_ids": [ids for ids, _ in own],
                "loss_mask": [[int(label != -100) for label in labels] for _, labels in own],
            }
        )
        for own in mine
    ]
    lengths = [length for one in rows for length in one.lengths]
    labels = [count for one in rows for count in one.labels]
    shapes = ladder(lengths, labels, slots=len(mine), largest_tokens=sum(lengths) + 256 * len(mine))
    device = next(model.parameters()).device
    bank = Bank(Layout(SHAPES[kind], LORA.r), len(mine), device)
    for slot, state in enumerate(states):
        bank.seat(slot, state, LORA)
    engine = Engine(take_base(model, positions=shapes.longest_tokens), bank, shapes)
    parts = []
    for slot, one in enumerate(rows):
        (batch,) = cut(range(len(one.lengths)), one.lengths, one.labels, shapes)
        parts.append(Part(slot, one, batch, sum(one.labels)))
    engine.run(engine.pack(parts), {})
    if engine.on_gpu:
        torch.cuda.synchronize()
    gradients = [bank.layout.views(bank.gradients[slot], LORA.r) for slot in range(len(mine))]
    return engine.losses[: len(mine)].tolist(), gradients


def with_peft(model: Any, state: dict[str, Tensor], rows: Rows) -> tuple[float, dict[str, Tensor]]:
    """The same of one adapter by transformers and PEFT, a row at a time."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model, set_peft_model_state_dict

    peft = get_peft_model(
        model, PeftLoraConfig(r=LORA.r, lora_alpha=LORA.lora_alpha, target_modules=sorted(LORA.target_modules))
    )
    set_peft_model_state_dict(peft, weights_of(state))
    device = next(model.parameters()).device
    count = sum(label != -100 for _, labels in rows for label in labels[1:])
    total = 0.0
    for ids, labels in rows:
        logits = peft(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, :-1]
        target = torch.tensor(labels[1:], device=device)
        loss = torch.nn.functional.cross_entropy(logits.float(), target, ignore_index=-100, reduction="sum") / count
        loss.backward()
        total += float(loss.detach())
    found = {
        name.replace(".default", ""): weight.grad.float()
        for name, weight in peft.named_parameters()
        if weight.grad is not None
    }
    peft.unload()
    return total, found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to the length of the expected ones."""
    assert found.keys() == expected.keys()
    apart = sum(float((found[name].float() - value).square().sum()) for name, value in expected.items())
    whole = sum(float(value.square().sum()) for value in expected.values())
    return (apart / whole) ** 0.5


if __name__ == "__main__":
    main()
