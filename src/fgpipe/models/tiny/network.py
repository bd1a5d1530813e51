"""A plain-torch Gemma 3 for pretraining the tiny model: packed rows, weights stacked over the layers.

Weights map one to one to `Gemma3ForCausalLM` (`to_transformers`), which everything else uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 (imported by nothing but the pretraining)
import torch.nn.functional as F  # noqa: N812, TID253

if TYPE_CHECKING:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

Weights = dict[str, torch.Tensor]
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Shape:
    """The sizes of a tiny model; heads share one key-value head of 64."""

    hidden: int = 256
    intermediate: int = 640
    layers: int = 7
    heads: int = 4
    head: int = 64
    vocabulary: int = 4800
    window: int = 512
    full_every: int = 6
    positions: int = 4096

    def is_full(self, layer: int) -> bool:
        """Whether the layer attends over the whole row instead of the last `window` tokens."""
        return (layer + 1) % self.full_every == 0

    def config(self) -> Gemma3TextConfig:
        """The same sizes as transformers' configuration."""
        from transformers import Gemma3TextConfig

        return Gemma3TextConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=1,
            head_dim=self.head,
            query_pre_attn_scalar=self.head,
            sliding_window=self.window,
            max_position_embeddings=self.positions,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            layer_types=["full_attention" if self.is_full(i) else "sliding_attention" for i in range(self.layers)],
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
            architectures=["Gemma3ForCausalLM"],
            dtype="bfloat16",
        )


@torch.library.custom_op("fgpipe_tiny::attention", mutates_args=())  # type: ignore[untyped-decorator]
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, window: int, longest: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = (window - 1, 0) if window else (-1, -1)
    out, normaliser, _, _, _ = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        bounds,
        bounds,
        longest,
        longest,
        0.0,
        True,
        False,
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )
    return out, normaliser


@_attention.register_fake
def _(q, k, v, bounds, window, longest, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("fgpipe_tiny::attention_backward", mutates_args=())  # type: ignore[untyped-decorator]
def _attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    normaliser: torch.Tensor,
    bounds: torch.Tensor,
    window: int,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    left, right = (window - 1, 0) if window else (-1, -1)
    state, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        grad,
        q,
        k,
        v,
        out,
        normaliser,
        bounds,
        bounds,
        longest,
        longest,
        0.0,
        True,
        state,
        unused,
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )
    return dq, dk, dv


@_attention_backward.register_fake
def _(grad, q, k, v, out, normaliser, bounds, window, longest, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, bounds, ctx.window, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, bounds, *output)


def _pull_back(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    q, k, v, bounds, out, normaliser = ctx.saved_tensors
    dq, dk, dv = torch.ops.fgpipe_tiny.attention_backward(
        grad.contiguous(), q, k, v, out, normaliser, bounds, ctx.window, ctx.longest, ctx.scale
    )
    return dq, dk, dv, None, None, None, None


_attention.register_autograd(_pull_back, setup_context=_keep)


def _attention_by_row(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    """The same attention without a GPU, one row after the other."""
    rows = []
    edges = bounds.tolist()
    for start, end in pairwise(edges):
        step = torch.arange(end - start)
        distance = step[:, None] - step[None, :]
        mask = (distance >= 0) & (distance < (window or end - start + 1))
        query, key, value = (x[start:end].transpose(0, 1) for x in (q, k, v))
        rows.append(
            F.scaled_dot_product_attention(
                query, key.expand_as(query), value.expand_as(query), attn_mask=mask, scale=scale
            ).transpose(0, 1)
        )
    return torch.cat(rows)


def initial(shape: Shape, *, seed: int, device: str) -> Weights:
    """Fresh float32 weights; each matrix is stacked over the layers, `(layers, out, in)`."""
    generator = torch.Generator().manual_seed(seed)
    wide = shape.heads * shape.head
    sizes = {
        "q_proj": (wide, shape.hidden),
        "k_proj": (shape.head, shape.hidden),
        "v_proj": (shape.head, shape.hidden),
        "o_proj": (shape.hidden, wide),
        "gate_proj": (shape.intermediate, shape.hidden),
        "up_proj": (shape.intermediate, shape.hidden),
        "down_proj": (shape.hidden, shape.intermediate),
    }
    weights = {
        name: torch.randn(shape.layers, out, into, generator=generator) * 0.6 / into**0.5
        for name, (out, into) in sizes.items()
    }
    weights["embed"] = torch.randn(shape.vocabulary, shape.hidden, generator=generator) * 0.04
    weights |= {name: torch.zeros(shape.layers, shape.hidden) for name in _NORMS}
    weights |= {
        "q_norm": torch.zeros(shape.layers, shape.head),
        "k_norm": torch.zeros(shape.layers, shape.head),
        "norm": torch.zeros(shape.hidden),
    }
    return {name: value.to(device).requires_grad_() for name, value in weights.items()}


def _normalise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + weight.float())).to(x.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def logits(
    weights: Weights,
    shape: Shape,
    ids: torch.Tensor,
    position: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Logits `(tokens, vocabulary)` of packed rows; row i is `bounds[i]:bounds[i + 1]` of the token axis."""
    w = {name: value.to(dtype) for name, value in weights.items()}
    stacked = {name: w[name].unbind(0) for name in (*MATRICES, *_NORMS, "q_norm", "k_norm")}
    # Gathered in float32: the gradient of a gather adds with atomics, which are slow and inexact in bfloat16.
    x = F.embedding(ids, weights["embed"]).to(dtype) * shape.hidden**0.5
    frequency = torch.arange(0, shape.head, 2, device=ids.device, dtype=torch.float32) / shape.head
    angles = {full: position.float()[:, None] / (1e6 if full else 1e4) ** frequency for full in (False, True)}
    turns = {
        full: tuple(torch.cat((f(a), f(a)), -1).to(dtype)[:, None] for f in (torch.cos, torch.sin))
        for full, a in angles.items()
    }
    wide, scale = shape.heads * shape.head, shape.head**-0.5
    for i in range(shape.layers):
        cos, sin = turns[shape.is_full(i)]
        window = 0 if shape.is_full(i) else shape.window
        h = _normalise(x, stacked["input_layernorm"][i])
        joined = h @ torch.cat((stacked["q_proj"][i], stacked["k_proj"][i], stacked["v_proj"][i])).t()
        q, k, v = joined.split((wide, shape.head, shape.head), -1)
        q = _rotate(_normalise(q.view(-1, shape.heads, shape.head), stacked["q_norm"][i]), cos, sin)
        k = _rotate(_normalise(k.view(-1, 1, shape.head), stacked["k_norm"][i]), cos, sin)
        v = v.reshape(-1, 1, shape.head).contiguous()
        if ids.is_cuda:
            out, _ = torch.ops.fgpipe_tiny.attention(q.contiguous(), k.contiguous(), v, bounds, window, longest, scale)
        else:
            out = _attention_by_row(q, k, v, bounds, window, scale)
        x = x + _normalise(out.reshape(-1, wide) @ stacked["o_proj"][i].t(), stacked["post_attention_layernorm"][i])
        h = _normalise(x, stacked["pre_feedforward_layernorm"][i])
        gate, up = (h @ torch.cat((stacked["gate_proj"][i], stacked["up_proj"][i])).t()).chunk(2, -1)
        h = (F.gelu(gate, approximate="tanh") * up) @ stacked["down_proj"][i].t()
        x = x + _normalise(h, stacked["post_feedforward_layernorm"][i])
    return _normalise(x, w["norm"]) @ w["embed"].t()


def to_transformers(weights: Weights, shape: Shape) -> Gemma3ForCausalLM:
    """A float32 transformers model that holds copies of `weights`."""
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM(shape.config()).float()
    found = {name: value.detach().float().cpu() for name, value in weights.items()}
    state = {
        "model.embed_tokens.weight": found["embed"],
        "model.norm.weight": found["norm"],
        "lm_head.weight": found["embed"],
    }
    for i in range(shape.layers):
        prefix = f"model.layers.{i}."
        for name in (*MATRICES, "q_norm", "k_norm"):
            block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            state[f"{prefix}{block}.{name}.weight"] = found[name][i]
        for name in _NORMS:
            state[f"{prefix}{name}.weight"] = found[name][i]
    model.load_state_dict(state)
    return model.eval()
