"""Cross entropy through a frozen output head, at the rows that have a label.

Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253

from fgpipe.training.plan import LOGITS_AT_ONCE


class FrozenHeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Sum of -log p(target) over rows, for a head whose weights are not trained.

    Prompts are most of a function-calling row and have no label, so logits for every position would be mostly waste.
    And since no gradient of the head is wanted, the gradient of the hidden states can be made while the logits are
    there: nothing of the size of the vocabulary is kept for the backward pass or computed again in it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, a float32 scalar.

        Args:
            ctx: of autograd.
            hidden: (rows, hidden size), last hidden states.
            head: (vocabulary, hidden size), in the dtype of `hidden`.
            targets: (rows,), token ids.
        """
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), max(1, LOGITS_AT_ONCE // len(head))):
            part = slice(start, start + max(1, LOGITS_AT_ONCE // len(head)))
            logits = (hidden[part] @ head.T).float()
            normaliser = logits.logsumexp(1, keepdim=True)
            target = targets[part].unsqueeze(1)
            total += (normaliser - logits.gather(1, target)).sum()
            # d loss / d logits = probabilities - one-hot, made in place of the logits.
            logits.sub_(normaliser).exp_()
            logits.scatter_add_(1, target, torch.full_like(normaliser, -1.0))
            gradient[part] = logits.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient of `hidden`."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None


def completion_loss(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over labelled tokens of -log p(token | tokens before it).

    Args:
        hidden: (batch, time, hidden size), last hidden states.
        head: (vocabulary, hidden size), frozen.
        labels: (batch, time), -100 where a token is not in the loss; not shifted.
    """
    targets = labels[:, 1:]
    labelled = targets != -100
    rows: torch.Tensor = FrozenHeadLoss.apply(hidden[:, :-1][labelled].to(head.dtype), head, targets[labelled])
    return rows
