"""Gemma 3's text model over packed rows, with a bank of adapters: the forward pass of training.

Its numbers are those of transformers' Gemma 3 with PEFT, up to rounding; a test holds them together. Heavy: imports
torch; import it only to train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor  # noqa: TID253

from fgpipe.errors import ModelError
from fgpipe.training.fast.attention import packed_attention
from fgpipe.training.fast.bank import Bank, Layout
from fgpipe.training.fast.lora import lora_linear
from fgpipe.training.loss import CrossEntropy, FrozenHeadLoss, cross_entropy
from fgpipe.training.plan import COMPILED_LOGITS_AT_ONCE, LOGITS_AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fgpipe.training.fast.fused import FusedLayers


@dataclass(frozen=True)
class Sizes:
    """What the layers need besides their weights."""

    heads: int
    key_heads: int
    head_size: int
    rank: int
    epsilon: float
    score_scale: float
    splits: tuple[int, ...]
    """Of a layer's adapter weights, as `Layout.split_sizes`."""


@dataclass(frozen=True)
class Base:
    """A frozen Gemma 3 text model as the packed forward pass wants it."""

    embedding: Tensor
    """(vocabulary, hidden size), the head as well"""
    layers: tuple[tuple[Tensor, ...], ...]
    """qkv, o, gate and up, down; norms: input, after attention, before and after the MLP, query, key"""
    windows: tuple[int, ...]
    """Places a layer looks back; 0 for all"""
    kinds: tuple[str, ...]
    """of attention, by layer; each kind has rotations of its own"""
    rotations: dict[str, tuple[Tensor, Tensor]]
    """cosine and sine by kind, (positions, head size) each"""
    final_norm: Tensor
    sizes: dict[str, Any]
    """Fields of `Sizes` that do not depend on the adapters."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.embedding.device


def take_base(model: PreTrainedModel, *, positions: int) -> Base:
    """The weights of a loaded model, its matrices joined; rotations for rows of up to `positions` tokens.

    Raises:
        ModelError: it is no Gemma 3 text model, or has what this forward pass does not compute.
    """
    config = model.config
    inner = getattr(model, "model", None)
    faults = {
        "model_type": (config.model_type, "gemma3_text"),
        "hidden_activation": (getattr(config, "hidden_activation", None), "gelu_pytorch_tanh"),
        "attn_logit_softcapping": (getattr(config, "attn_logit_softcapping", None), None),
        "final_logit_softcapping": (getattr(config, "final_logit_softcapping", None), None),
        "attention_bias": (getattr(config, "attention_bias", False), False),
        "tie_word_embeddings": (getattr(config, "tie_word_embeddings", False), True),
    }
    wrong = [f"{name}={got}" for name, (got, expected) in faults.items() if got != expected]
    if wrong or inner is None:
        raise ModelError(
            f"train.backend=fast: got a base with {', '.join(wrong)}, expected a Gemma 3 text model",
            hint="train.backend=trl trains any model",
        )
    embedding = inner.embed_tokens.weight.detach()
    place = torch.arange(positions, device=embedding.device)[None]
    layers, windows = [], []
    for layer, kind in zip(inner.layers, config.layer_types, strict=True):
        a, f = layer.self_attn, layer.mlp
        weights = (
            torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight)),
            a.o_proj.weight,
            torch.cat((f.gate_proj.weight, f.up_proj.weight)),
            f.down_proj.weight,
            layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight,
            layer.pre_feedforward_layernorm.weight,
            layer.post_feedforward_layernorm.weight,
            a.q_norm.weight,
            a.k_norm.weight,
        )
        layers.append(tuple(weight.detach() for weight in weights))
        windows.append(config.sliding_window if kind == "sliding_attention" else 0)
    rotations = {}
    # Made anew: a model that was cast to bfloat16 has cast its frequencies too, and then turns far places wrongly.
    rotary = type(inner.rotary_emb)(config=config).to(embedding.device)
    for kind in set(config.layer_types):
        cosine, sine = rotary(embedding, place, kind)
        rotations[kind] = (cosine[0].clone(), sine[0].clone())
    return Base(
        embedding=embedding,
        layers=tuple(layers),
        windows=tuple(windows),
        kinds=tuple(config.layer_types),
        rotations=rotations,
        final_norm=inner.norm.weight.detach(),
        sizes={
            "heads": config.num_attention_heads,
            "key_heads": config.num_key_value_heads,
            "head_size": config.head_dim,
            "epsilon": config.rms_norm_eps,
            "score_scale": config.query_pre_attn_scalar**-0.5,
        },
    )


@dataclass(frozen=True)
class Batch:
    """Device tensors of one packed step; see `packing.Packed`. Index tensors are int64 but for `bounds`, int32."""

    ids: Tensor
    positions: Tensor
    bounds: Tensor
    block_slots: Tensor
    label_places: Tensor
    targets: Tensor
    label_slots: Tensor
    weights: Tensor


class PackedGemma3:
    """The base with a bank's adapters; `longest` bounds the rows of every batch."""

    def __init__(self, base: Base, bank: Bank, *, longest: int, on_gpu: bool) -> None:
        self.base = base
        self.bank = bank
        self.longest = longest
        layout: Layout = bank.layout
        self.sizes = Sizes(**base.sizes, rank=layout.rank, splits=tuple(layout.split_sizes()))
        self.fused: FusedLayers | None = None
        if on_gpu:
            from fgpipe.training.fast.fused import FusedLayers

            self.fused = FusedLayers(base, bank, self.sizes, longest)
        self.cross_entropy: CrossEntropy = torch.compile(cross_entropy) if on_gpu else cross_entropy
        self.logits_at_once = COMPILED_LOGITS_AT_ONCE if on_gpu else LOGITS_AT_ONCE
        hidden = base.embedding.shape[1]
        self.embedding_scale = torch.tensor(hidden**0.5).to(base.embedding.dtype).item()

    def losses(self, batch: Batch) -> Tensor:
        """(labels,) what each label adds to the weighted loss of all rows; no gradient."""
        with torch.no_grad():
            x = self.fused.forward(self._embedded(batch), batch, keep=False)[0] if self.fused else self._hidden(batch)
            return self._head(x, batch)[1]

    def accumulate(self, batch: Batch) -> Tensor:
        """As `losses`, and adds the gradients to the bank's."""
        if not self.fused:
            total, losses = self._head(self._hidden(batch), batch)
            gradients = torch.autograd.grad(total, self.bank.leaves)
            torch._foreach_add_(self.bank.leaf_gradients, list(gradients))
            return losses
        with torch.no_grad():
            x, values, kept = self.fused.forward(self._embedded(batch), batch, keep=True)
        x.requires_grad_()
        total, losses = self._head(x, batch)
        (of_x,) = torch.autograd.grad(total, x)
        with torch.no_grad():
            self.fused.backward(of_x, values, kept, batch)
        return losses

    def _embedded(self, batch: Batch) -> Tensor:
        return F.embedding(batch.ids, self.base.embedding) * self.embedding_scale

    def _hidden(self, batch: Batch) -> Tensor:
        """(tokens, hidden size) after the last layer."""
        base = self.base
        x = self._embedded(batch).unflatten(0, (len(batch.block_slots), -1))
        rotations = {
            kind: tuple(table[batch.positions].unsqueeze(1) for table in tables)
            for kind, tables in base.rotations.items()
        }
        for weights, leaf, window, kind in zip(base.layers, self.bank.leaves, base.windows, base.kinds, strict=True):
            cosine, sine = rotations[kind]
            x = layer(
                x, weights, leaf, self.bank.scales, cosine, sine, batch.bounds, window, batch.block_slots,
                self.longest, self.sizes,
            )  # fmt: skip
        return x.flatten(0, 1)

    def _head(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weighted loss, a scalar to differentiate, and (labels,) what each label adds to it."""
        x = x.index_select(0, batch.label_places)
        x = norm(x, self.base.final_norm, self.sizes.epsilon)
        found: tuple[Tensor, Tensor] = FrozenHeadLoss.apply(
            x, self.base.embedding, batch.targets, batch.weights, self.cross_entropy, self.logits_at_once
        )
        return found


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm over the last axis, in float32; the weight counts from 1."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + epsilon) * (1.0 + weight.float())
    return y.to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding of (tokens, heads, head size)."""
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


def layer(
    x: Tensor,
    weights: tuple[Tensor, ...],
    leaf: Tensor,
    scales: Tensor,
    cosine: Tensor,
    sine: Tensor,
    bounds: Tensor,
    window: int,
    slots: Tensor,
    longest: int,
    sizes: Sizes,
) -> Tensor:
    """One decoder layer: x is (blocks, block, hidden size), `leaf` (adapters, layer size)."""
    w_qkv, w_o, w_gate_up, w_down, n_in, n_attended, n_before, n_after, n_query, n_key = weights
    (a_qkv, b_qkv), (a_o, b_o), (a_gate_up, b_gate_up), (a_down, b_down) = adapter_matrices(
        leaf, scales, sizes, (x.shape[-1], w_o.shape[1], x.shape[-1], w_down.shape[1]), x.dtype
    )
    query_size, key_size = sizes.heads * sizes.head_size, sizes.key_heads * sizes.head_size
    qkv = lora_linear(norm(x, n_in, sizes.epsilon), w_qkv, a_qkv, b_qkv, slots)
    query, key, value = qkv.flatten(0, 1).split((query_size, key_size, key_size), -1)
    query = rotate(norm(query.unflatten(-1, (sizes.heads, -1)), n_query, sizes.epsilon), cosine, sine)
    key = rotate(norm(key.unflatten(-1, (sizes.key_heads, -1)), n_key, sizes.epsilon), cosine, sine)
    value = value.unflatten(-1, (sizes.key_heads, -1))
    attended, _ = packed_attention(query, key, value, bounds, window, longest, sizes.score_scale)
    attended = attended.flatten(1).unflatten(0, x.shape[:2])
    out = lora_linear(attended, w_o, a_o, b_o, slots)
    x = x + norm(out, n_attended, sizes.epsilon)
    gate_up = lora_linear(norm(x, n_before, sizes.epsilon), w_gate_up, a_gate_up, b_gate_up, slots)
    gate, up = gate_up.chunk(2, -1)
    out = lora_linear(F.gelu(gate, approximate="tanh") * up, w_down, a_down, b_down, slots)
    return x + norm(out, n_after, sizes.epsilon)


def adapter_matrices(
    leaf: Tensor, scales: Tensor, sizes: Sizes, inputs: tuple[int, ...], dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """A and scaled B of each group of linear layers; the B's of a group stand on a diagonal.

    Args:
        leaf: (adapters, layer size), float32.
        scales: (adapters,).
        sizes: of the model.
        inputs: width of each group's input.
        dtype: of the result.
    """
    parts = iter(leaf.split(sizes.splits, 1))
    found = []
    for width, members in zip(inputs, (3, 1, 2, 1), strict=True):
        a = next(parts).unflatten(1, (members * sizes.rank, width)).to(dtype)
        diagonal = []
        for place in range(members):
            b = next(parts).unflatten(1, (-1, sizes.rank)) * scales[:, None, None]
            diagonal.append(F.pad(b, (place * sizes.rank, (members - 1 - place) * sizes.rank)))
        found.append((a, torch.cat(diagonal, 1).to(dtype)))
    return found
