"""Cross entropy through a frozen output head, at the rows that have a label.

Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from fgpipe.training.plan import LOGITS_AT_ONCE

CrossEntropy = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(rows,) of weight x -log p(target) in float32, and their gradient by the logits, in the dtype of the logits.

    Args:
        logits: (rows, vocabulary).
        targets: (rows,), token ids.
        weights: (rows,), float32.
    """
    wide = logits.float()
    normaliser = wide.logsumexp(1, keepdim=True)
    losses = (normaliser - wide.gather(1, targets[:, None])).squeeze(1) * weights
    hit = torch.arange(wide.shape[1], device=wide.device)[None, :] == targets[:, None]
    # d loss / d logits = probabilities - one-hot.
    gradient = ((wide - normaliser).exp() - hit.float()) * weights[:, None]
    return losses, gradient.to(logits.dtype)


class FrozenHeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Weighted sum of -log p(target) over rows, for a head whose weights are not trained.

    Prompts are most of a function-calling row and have no label, so logits for every position would be mostly waste.
    And since no gradient of the head is wanted, the gradient of the hidden states can be made while the logits are
    there: nothing of the size of the vocabulary is kept for the backward pass or computed again in it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        one: CrossEntropy = cross_entropy,
        logits_at_once: int = LOGITS_AT_ONCE,
    ) -> tuple[Tensor, Tensor]:
        """The loss, a float32 scalar, and (rows,) what each row adds to it, without a gradient.

        Args:
            ctx: of autograd.
            hidden: (rows, hidden size), last hidden states.
            head: (vocabulary, hidden size), in the dtype of `hidden`.
            targets: (rows,), token ids.
            weights: (rows,), float32.
            one: `cross_entropy`, or the same compiled.
            logits_at_once: most logits to hold.
        """
        losses = torch.empty_like(weights)
        gradient = torch.empty_like(hidden)
        step = max(1, logits_at_once // len(head))
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            losses[part], of_logits = one(hidden[part] @ head.T, targets[part], weights[part])
            torch.mm(of_logits, head, out=gradient[part])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of `hidden`."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None, None, None


def completion_loss(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Sum over labelled tokens of -log p(token | tokens before it).

    Args:
        hidden: (batch, time, hidden size), last hidden states.
        head: (vocabulary, hidden size), frozen.
        labels: (batch, time), -100 where a token is not in the loss; not shifted.
    """
    targets = labels[:, 1:]
    labelled = targets != -100
    rows = targets[labelled]
    weights = torch.ones(len(rows), device=rows.device)
    total: Tensor
    total, _ = FrozenHeadLoss.apply(hidden[:, :-1][labelled].to(head.dtype), head, rows, weights)
    return total
