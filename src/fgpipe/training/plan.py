"""What a training run will do and need, known before anything heavy is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fgpipe.config import LoraConfig, ModelConfig, ModelShape, TrainConfig
from fgpipe.training.order import RowOrder
from fgpipe.training.shapes import Ladder, cut, ladder

Attention = Literal["sdpa", "eager", "packed"]
Backend = Literal["trl", "fast"]

LOGITS_AT_ONCE = 2**26
"""Logits the loss holds at once: 256 MiB in float32, 256 rows of FunctionGemma's vocabulary."""

COMPILED_LOGITS_AT_ONCE = 2**29
"""The same for a compiled loss, which keeps bfloat16 alone: 2,048 rows; fewer leave matrix units of a GPU waiting."""

SCORES_BYTES = 2**30
"""Most memory for attention scores that plain attention may take on a CPU."""

ADAM_BYTES = 16
"""A trained weight in float32, its gradient, and AdamW's two moments."""

PASS_TOKENS = 32_768
"""Most tokens that the fast back end takes through the model at once; more gains 2 to 3 %."""

FAST_EXTRA_BYTES = 2**28
"""What a captured step takes besides what is counted."""


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
    backend: Backend = "trl"
    pass_tokens: int = 0
    """Fast back end: most tokens that go through the model at once."""
    largest_step_tokens: int = 0
    """Fast back end: tokens of the largest step of the run."""

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
            f"train: {self.dtype} on {self.device}, about {gib:.2g} GiB{self._passes()}",
        ]

    def _passes(self) -> str:
        return f", at most {self.pass_tokens:,} tokens a pass" if self.pass_tokens else ""


def plan(
    order: RowOrder,
    loss_tokens: Sequence[int],
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    device: str,
    dtype: str,
    backend: Backend = "trl",
    free_bytes: int | None = None,
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
        backend: what trains.
        free_bytes: memory that the fast back end must keep to; None: any.
    """
    steps = config.max_steps or math.ceil(config.epochs * order.steps_per_epoch)
    longest = max(order.lengths)
    largest = pass_tokens = 0
    attention: Attention = "packed"
    if backend == "fast":
        largest = largest_step_tokens(order, steps)
        shapes = fast_shapes(
            order.lengths,
            loss_tokens,
            model.shape,
            ranks=[lora.r],
            device=device,
            dtype=dtype,
            tokens=largest,
            free_bytes=free_bytes,
        )
        memory = fast_memory_bytes(model.shape, shapes, rank=lora.r, dtype=dtype)
        padded, pass_tokens = packed_tokens(order, loss_tokens, shapes), shapes.largest.tokens
    else:
        attention = choose_attention(model.shape, config, longest_row_tokens=longest, device=device)
        memory = memory_bytes(model, lora, config, longest_row_tokens=longest, dtype=dtype, attention=attention)
        padded = order.padded_tokens(batch_size=config.batch_size)
    return TrainingPlan(
        rows=len(order.lengths),
        tokens=sum(order.lengths),
        loss_tokens=sum(loss_tokens),
        padded_tokens=padded,
        longest_row_tokens=longest,
        rows_per_step=order.rows_per_step,
        steps=steps,
        warmup_steps=math.ceil(config.warmup_fraction * steps),
        epochs=steps / order.steps_per_epoch,
        trainable_parameters=trainable_parameters(model.shape, lora),
        base_parameters=model.shape.parameters(),
        memory_bytes=memory,
        device=device,
        dtype=dtype,
        attention=attention,
        backend=backend,
        pass_tokens=pass_tokens,
        largest_step_tokens=largest,
    )


def largest_step_tokens(order: RowOrder, steps: int) -> int:
    """Tokens of the largest step of the whole run."""
    epochs = range(math.ceil(steps / order.steps_per_epoch))
    return max(sum(order.lengths[row] for row in rows) for number in epochs for rows in order.epoch(number))


def packed_tokens(order: RowOrder, loss_tokens: Sequence[int], shapes: Ladder) -> int:
    """Tokens of the first epoch, free places included, when the fast back end trains it alone."""
    cuts = (cut(rows, order.lengths, loss_tokens, shapes) for rows in order.epoch(0))
    return sum(shapes.choose([batch]).tokens for batches in cuts for batch in batches)


def fast_shapes(
    lengths: Sequence[int],
    loss_tokens: Sequence[int],
    shape: ModelShape,
    *,
    ranks: Sequence[int],
    device: str,
    dtype: str,
    tokens: int,
    free_bytes: int | None,
) -> Ladder:
    """The shapes of the fast back end's passes: as large as needed, useful and fitting.

    Args:
        lengths: tokens of every row of every adapter.
        loss_tokens: labelled ones of each.
        shape: of the base.
        ranks: of the adapters that share a pass.
        device: where; on a CPU nothing is captured and every pass is as large as its content.
        dtype: of the base.
        tokens: more are never needed at once.
        free_bytes: memory to keep to; None: any.
    """
    wanted = min(PASS_TOKENS, tokens)
    while True:
        shapes = ladder(lengths, loss_tokens, slots=len(ranks), largest_tokens=wanted, exact=device == "cpu")
        smallest = wanted <= max(lengths)
        if free_bytes is None or smallest:
            return shapes
        if fast_memory_bytes(shape, shapes, rank=max(ranks), dtype=dtype) <= free_bytes:
            return shapes
        wanted = int(wanted * 0.8)


def fast_memory_bytes(shape: ModelShape, shapes: Ladder, *, rank: int, dtype: str) -> int:
    """Estimated peak of tensors with the fast back end: weights, adapters with gradient and Adam, a pass, logits.

    What a layer keeps of a token for the backward pass: 5 values a hidden unit (norms and sums), 4 an inner unit (gate,
    up, their product), 2.5 a query, key and value unit (projected, rotated, attended).
    """
    size = 4 if dtype == "float32" else 2
    linear = shape.linear_shapes()
    adapters = ADAM_BYTES * shapes.slots * shape.num_hidden_layers * rank * sum(i + o for i, o in linear.values())
    qkv = linear["q_proj"][1] + 2 * linear["k_proj"][1]
    layer = size * (5 * shape.hidden_size + 4 * shape.intermediate_size + int(2.5 * qkv))
    largest = shapes.largest
    at_once = COMPILED_LOGITS_AT_ONCE if size == 2 else LOGITS_AT_ONCE
    logits = 2 * size * min(largest.labels * shape.vocab_size, at_once)
    tokens = largest.tokens * shape.num_hidden_layers * layer
    return shape.parameters() * size + adapters + tokens + logits + FAST_EXTRA_BYTES


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
