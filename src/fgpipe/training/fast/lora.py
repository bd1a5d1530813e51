"""Frozen linear layers with LoRA, for blocks of tokens that belong to different adapters: as autograd differentiates.

On a GPU, `fused` computes the same. Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253


def lora_linear(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, slots: Tensor) -> Tensor:
    """Return x W^T + (x A^T) B^T. No product mixes blocks, so a NaN in one reaches its own adapter alone.

    Args:
        x: (blocks, block, in).
        weight: (out, in), frozen.
        a: (adapters, rank, in).
        b: (adapters, out, rank), scaled.
        slots: (blocks,), which adapter's A and B a block uses.
    """
    thin = torch.bmm(x, a.index_select(0, slots).transpose(1, 2))
    return torch.baddbmm(x @ weight.t(), thin, b.index_select(0, slots).transpose(1, 2))
