"""The GPU's layers beside those of a CPU, in Triton's interpreter: python fused_layers.py, with TRITON_INTERPRET=1.

A process of its own, since Triton decides when it is imported whether it interprets. Prints JSON: `losses` and
`gradients` are the largest relative errors by adapter, `padding` the largest error of any number of an adapter's,
`beside_nan` the gradients' change where another adapter holds a NaN.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from fgpipe.config import LoraConfig, ModelShape
from fgpipe.training import packing, shapes
from fgpipe.training.fast import bank, engine, gemma3
from fgpipe.training.fast.fused import FusedLayers

SHAPE = ModelShape(
    vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32,
)  # fmt: skip
LORAS = (
    LoraConfig(r=5, lora_alpha=10),
    LoraConfig(r=3, lora_alpha=7),
    LoraConfig(r=5, target_modules=("q_proj", "down_proj")),
)
"""Ranks that are no power of two, one narrower than the bank, and one adapter without some modules."""


def base() -> gemma3.Base:
    """Norms and weights far from their initial values, so that no term of a gradient is small."""
    config = Gemma3TextConfig(
        **SHAPE.model_dump(), sliding_window=8, query_pre_attn_scalar=32, max_position_embeddings=64,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 0.2 if "norm" in name else 0.1)
    return gemma3.take_base(model, positions=64)


def filled_bank() -> bank.Bank:
    """Adapters with scales of their own and B's that are not zero."""
    found = bank.Bank(bank.Layout(SHAPE, max(lora.r for lora in LORAS)), len(LORAS), "cpu")
    for slot, lora in enumerate(LORAS):
        state = bank.initial_state(SHAPE, lora, seed=slot)
        for name, weight in state.items():
            if "lora_B" in name:
                weight.normal_(0.0, 0.1)
        found.seat(slot, state, lora)
    return found


def parts() -> list[packing.Part]:
    """One or two rows an adapter."""
    draw = np.random.default_rng(0)
    found = []
    for slot, lengths in enumerate(((21,), (9, 17), (14,))):
        ids = [draw.integers(0, SHAPE.vocab_size, length) for length in lengths]
        rows = packing.TokenRows({"input_ids": ids, "loss_mask": [np.arange(len(row)) > len(row) // 2 for row in ids]})
        labels = sum(rows.labels)
        batch = shapes.MicroBatch(tuple(range(len(lengths))), sum(lengths), labels)
        found.append(packing.Part(slot, rows, batch, labels))
    return found


def main() -> None:
    """Compare, and print."""
    torch.manual_seed(0)
    packing.BLOCK = shapes.BLOCK = 16
    contents = parts()
    lengths = [length for part in contents for length in part.rows.lengths]
    labels = [count for part in contents for count in part.rows.labels]
    ladder = shapes.ladder(lengths, labels, slots=len(LORAS), largest_tokens=112)
    adapters = filled_bank()
    steps = engine.Engine(base(), adapters, ladder)
    packed = packing.pack(contents, ladder.largest, ladder)
    batch, _ = steps._tensors(packed, engine.control_rows({}, len(LORAS)))

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        adapters.gradients.zero_()
        return steps.model.accumulate(batch), adapters.gradients.clone()

    losses, expected = gradients()
    steps.model.fused = FusedLayers(steps.base, adapters, steps.model.sizes, ladder.longest_tokens)
    fused_losses, found = gradients()
    adapters.values[1, 0] = float("nan")
    _, beside = gradients()
    worst = []
    for slot, lora in enumerate(LORAS):
        of, to = (adapters.layout.views(flat[slot], lora.r) for flat in (found, expected))
        trained = [name for name in to if name.split(".")[-3] in lora.target_modules]
        worst.append(max(float((of[name] - to[name]).norm() / to[name].norm()) for name in trained))
    json.dump(
        {
            "losses": float((fused_losses - losses).abs().max() / losses.abs().max()),
            "gradients": worst,
            "padding": [float((found[slot] - expected[slot]).abs().max()) for slot in range(len(LORAS))],
            "beside_nan": [float((beside[slot] - found[slot]).abs().max()) for slot in (0, 2)],
            "nan": bool(torch.isnan(beside[1]).any()),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
