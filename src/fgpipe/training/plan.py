"""What a training run will do and need, known before anything heavy is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fgpipe.config import LoraConfig, ModelConfig, ModelShape, TrainConfig
from fgpipe.training.order import RowOrder

Attention = Literal["sdpa", "eager"]

LOGITS_AT_ONCE = 2**26
"""Logits the loss holds at once: 256 MiB in float32, 256 rows of FunctionGemma's vocabulary."""

COMPILED_LOGITS_AT_ONCE = 2**29
"""The same for a compiled loss, which keeps bfloat16 alone: 2,048 rows; fewer leave matrix units of a GPU waiting."""

SCORES_BYTES = 2**30
"""Most memory for attention scores that plain attention may take on a CPU."""

ADAM_BYTES = 16
"""A trained weight in float32, its gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class TrainingPlan:
    """Figures of one run; tokens are counted over one epoch."""

    rows: int
    tokens: int
    loss_tokens: int
    padded_tokens: int
    longest_row_tokens: int
    rows_per_step: int
    steps: int
    warmup_steps: int
    epochs: float
    trainable_parameters: int
    base_parameters: int
    memory_bytes: int
    device: str
    dtype: str
    attention: Attention

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        padding = self.padded_tokens / self.tokens - 1
        share = self.trainable_parameters / self.base_parameters
        longest, gib = self.longest_row_tokens, self.memory_bytes / 2**30
        return [
            f"train: {self.rows:,} rows, {self.tokens:,} tokens, {self.loss_tokens:,} of them in the loss",
            f"train: {self.steps:,} steps of {self.rows_per_step} rows, {self.epochs:.3g} epochs",
            f"train: longest row {longest:,} tokens, {padding:.0%} padding",
            f"train: {self.trainable_parameters:,} trainable parameters, {share:.1%} of {self.base_parameters:,}",
            f"train: {self.dtype} on {self.device}, about {gib:.2g} GiB",
        ]


def plan(
    order: RowOrder,
    loss_tokens: Sequence[int],
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    device: str,
    dtype: str,
) -> TrainingPlan:
    """What training the rows of `order` will take.

    Args:
        order: the rows and how they are spread over steps.
        loss_tokens: labelled tokens of each row.
        model: the base.
        lora: the adapter.
        config: how it is trained.
        device: where.
        dtype: number format of the frozen weights.
    """
    steps = config.max_steps or math.ceil(config.epochs * order.steps_per_epoch)
    longest = max(order.lengths)
    attention = choose_attention(model.shape, config, longest_row_tokens=longest, device=device)
    return TrainingPlan(
        rows=len(order.lengths),
        tokens=sum(order.lengths),
        loss_tokens=sum(loss_tokens),
        padded_tokens=order.padded_tokens(batch_size=config.batch_size),
        longest_row_tokens=longest,
        rows_per_step=order.rows_per_step,
        steps=steps,
        warmup_steps=math.ceil(config.warmup_fraction * steps),
        epochs=steps / order.steps_per_epoch,
        trainable_parameters=trainable_parameters(model.shape, lora),
        base_parameters=model.shape.parameters(),
        memory_bytes=memory_bytes(model, lora, config, longest_row_tokens=longest, dtype=dtype, attention=attention),
        device=device,
        dtype=dtype,
        attention=attention,
    )


def trainable_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Weights of the adapter: A is (r, in) and B is (out, r) for each adapted linear layer."""
    linear = shape.linear_shapes()
    return shape.num_hidden_layers * sum(lora.r * sum(linear[name]) for name in set(lora.target_modules))


def choose_attention(shape: ModelShape, config: TrainConfig, *, longest_row_tokens: int, device: str) -> Attention:
    """Plain matrix products on a CPU while all scores fit in SCORES_BYTES, else PyTorch's fused attention.

    Measured on two cores with rows of 150 tokens: the fused backward pass takes four times as long as plain products,
    and training as a whole 1.35 times.
    """
    scores = score_bytes(shape, config, longest_row_tokens=longest_row_tokens)
    return "eager" if device == "cpu" and scores <= SCORES_BYTES else "sdpa"


def score_bytes(shape: ModelShape, config: TrainConfig, *, longest_row_tokens: int) -> int:
    """Attention probabilities that plain products keep for the backward pass, and three temporary copies in a layer."""
    layers = 4 if config.gradient_checkpointing else shape.num_hidden_layers + 3
    return 4 * layers * config.batch_size * shape.num_attention_heads * longest_row_tokens**2


def memory_bytes(
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    longest_row_tokens: int,
    dtype: str,
    attention: Attention,
) -> int:
    """Estimated peak of tensors: frozen weights, adapter with gradient and Adam, activations, logits.

    Libraries and the CUDA context come on top, 0.5 to 1 GiB. The activations of a layer are what autograd keeps of
    transformers' Gemma 3 with PEFT, by a count of saved tensors: per token about 24 values a hidden unit, 16 an inner
    unit and 12 a query, key and value unit in bytes of float32; in bfloat16 only the inner part halves, since norms
    are computed in float32.
    """
    shape = model.shape
    size = 4 if dtype == "float32" else 2
    weights = shape.parameters() * size
    if model.quantization == "nf4":
        linear = shape.num_hidden_layers * sum(i * o for i, o in shape.linear_shapes().values())
        weights = (shape.parameters() - linear) * size + linear // 2
    linear_shapes = shape.linear_shapes()
    heads = linear_shapes["q_proj"][1] + linear_shapes["k_proj"][1]
    layer = 26 * shape.hidden_size + 4 * size * shape.intermediate_size + 12 * heads + 30 * lora.r
    layers = shape.num_hidden_layers * layer
    if config.gradient_checkpointing:
        layers = shape.num_hidden_layers * size * shape.hidden_size + layer
    tokens = config.batch_size * longest_row_tokens
    logits = min(tokens * shape.vocab_size, LOGITS_AT_ONCE) * 4 * 2
    scores = score_bytes(shape, config, longest_row_tokens=longest_row_tokens) if attention == "eager" else 0
    return weights + ADAM_BYTES * trainable_parameters(shape, lora) + tokens * layers + scores + logits
