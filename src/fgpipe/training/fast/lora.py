"""A frozen linear layer with LoRA, for blocks of tokens that belong to different adapters.

The thin products are accumulated in place into the frozen layer's result, which autograd's own formula would copy.
Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253


@torch.library.custom_op("fgpipe::lora_linear", mutates_args=())  # type: ignore[untyped-decorator]
def lora_linear(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return x W^T + (x A^T) B^T, and x A^T for the backward pass.

    Args:
        x: (blocks, block, in).
        weight: (out, in), frozen.
        a: (adapters, rank, in).
        b: (adapters, out, rank), scaled.
        slots: (blocks,), which adapter's A and B a block uses; not read where there is one adapter.
    """
    flat = x.flatten(0, 1)
    out = flat @ weight.t()
    if len(a) == 1:
        thin = flat @ a[0].t()
        out.addmm_(thin, b[0].t())
        thin = thin.unflatten(0, x.shape[:2])
    else:
        thin = torch.bmm(x, a[slots].transpose(1, 2))
        out.unflatten(0, x.shape[:2]).baddbmm_(thin, b[slots].transpose(1, 2))
    return out.unflatten(0, x.shape[:2]), thin


@lora_linear.register_fake  # type: ignore[untyped-decorator]
def _(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(*x.shape[:2], weight.shape[0]), x.new_empty(*x.shape[:2], a.shape[1])


@torch.library.custom_op("fgpipe::lora_linear_backward", mutates_args=())  # type: ignore[untyped-decorator]
def lora_linear_backward(
    gradient: Tensor, x: Tensor, thin: Tensor, weight: Tensor, a: Tensor, b: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, A and B; A's and B's are summed over an adapter's blocks in float32."""
    flat = gradient.flatten(0, 1)
    of_x = flat @ weight
    if len(a) == 1:
        of_thin = flat @ b[0]
        of_a = of_thin.t() @ x.flatten(0, 1)
        of_b = flat.t() @ thin.flatten(0, 1)
        of_x.addmm_(of_thin, a[0])
        return of_x.unflatten(0, x.shape[:2]), of_a[None], of_b[None]
    of_thin = torch.bmm(gradient, b[slots])
    of_x.unflatten(0, x.shape[:2]).baddbmm_(of_thin, a[slots])
    of_a = _by_adapter(torch.bmm(of_thin.transpose(1, 2), x), slots, a)
    of_b = _by_adapter(torch.bmm(gradient.transpose(1, 2), thin), slots, b)
    return of_x.unflatten(0, x.shape[:2]), of_a, of_b


@lora_linear_backward.register_fake  # type: ignore[untyped-decorator]
def _(
    gradient: Tensor, x: Tensor, thin: Tensor, weight: Tensor, a: Tensor, b: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(a), torch.empty_like(b)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, a, b, slots = inputs
    ctx.save_for_backward(x, output[1], weight, a, b, slots)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_a, of_b = torch.ops.fgpipe.lora_linear_backward(gradient.contiguous(), *ctx.saved_tensors)
    return of_x, None, of_a, of_b, None


lora_linear.register_autograd(_backward, setup_context=_save)


def _by_adapter(by_block: Tensor, slots: Tensor, like: Tensor) -> Tensor:
    """Sums over each adapter's blocks; a block's NaN reaches its own adapter alone, as no product mixes them."""
    total = torch.zeros(like.shape, dtype=torch.float32, device=like.device)
    return total.index_add_(0, slots, by_block.float()).to(like.dtype)
