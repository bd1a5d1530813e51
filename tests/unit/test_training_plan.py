"""The plan that is printed before training."""

from __future__ import annotations

import pytest

from fgpipe.config import LoraConfig, ModelConfig, ModelShape, TrainConfig
from fgpipe.training.order import RowOrder
from fgpipe.training.plan import choose_attention, memory_bytes, plan, trainable_parameters


@pytest.mark.parametrize(("rank", "published"), [(16, 3_796_992), (128, 30_375_936)])
def test_trainable_parameters_of_functiongemma(rank: int, published: int) -> None:
    """The figures others report for all seven modules of FunctionGemma; a wrong formula misleads plan and card."""
    assert trainable_parameters(ModelShape(), LoraConfig(r=rank)) == published


def test_trainable_parameters_of_some_modules() -> None:
    """An adapted layer has r * (in + out) weights."""
    lora = LoraConfig(r=4, target_modules=("q_proj", "down_proj"))
    assert trainable_parameters(ModelShape(), lora) == 18 * 4 * ((640 + 1024) + (2048 + 640))


@pytest.mark.parametrize(
    ("rows", "settings", "steps"),
    [
        (20, {"batch_size": 8, "epochs": 2}, 6),
        (20, {"batch_size": 4, "gradient_accumulation": 2, "epochs": 2}, 6),
        (20, {"batch_size": 8, "epochs": 0.5}, 2),
        (20, {"batch_size": 8, "epochs": 5, "max_steps": 4}, 4),
    ],
)
def test_steps(rows: int, settings: dict[str, float], steps: int) -> None:
    """The number of steps decides the schedule and how long the user waits."""
    config = TrainConfig.model_validate(settings)
    order = RowOrder((10,) * rows, config.batch_size * config.gradient_accumulation, 0)
    made = plan(order, [3] * rows, ModelConfig(), LoraConfig(), config, device="cpu", dtype="float32")
    assert made.steps == steps
    assert (made.tokens, made.loss_tokens, made.padded_tokens) == (200, 60, 200)


def test_memory_grows_with_what_takes_memory() -> None:
    """A user chooses batch size, format and checkpointing by this figure."""

    def estimate(model: ModelConfig, dtype: str = "float32", **settings: object) -> int:
        config = TrainConfig.model_validate(settings)
        return memory_bytes(model, LoraConfig(), config, longest_row_tokens=1024, dtype=dtype, attention="sdpa")

    usual = estimate(ModelConfig())
    assert estimate(ModelConfig(), batch_size=32) > usual
    assert estimate(ModelConfig(), gradient_checkpointing=True) < usual
    assert estimate(ModelConfig(), "bfloat16") < usual
    assert estimate(ModelConfig(quantization="nf4"), "bfloat16") < estimate(ModelConfig(), "bfloat16")
    assert usual > ModelShape().parameters() * 4


def test_plain_attention_only_where_its_scores_fit() -> None:
    """On a CPU it is faster, but its memory grows with the square of the row length."""
    config = TrainConfig(batch_size=16)
    assert choose_attention(ModelShape(), config, longest_row_tokens=128, device="cpu") == "eager"
    assert choose_attention(ModelShape(), config, longest_row_tokens=4096, device="cpu") == "sdpa"
    assert choose_attention(ModelShape(), config, longest_row_tokens=128, device="cuda") == "sdpa"
