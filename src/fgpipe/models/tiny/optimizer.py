"""The optimizer of the pretraining: Muon for the layers' matrices, AdamW for embeddings and norms."""

from __future__ import annotations

from collections.abc import Callable

import torch  # noqa: TID253 (imported by nothing but the pretraining)

from fgpipe.models.tiny.network import MATRICES, Weights

MATRIX_RATE = 0.015
PLAIN_RATE = 0.004
_DECAY = 0.02


def orthogonalise(x: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix of each in a stack: five quintic Newton-Schulz steps (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    y = x.bfloat16().mT if tall else x.bfloat16()
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if tall else y).float()


class Optimizer:
    """Holds the momenta of `weights` and updates them in place."""

    def __init__(self, weights: Weights, *, compiled: bool) -> None:
        self.weights = weights
        self._matrices = [name for name in weights if name in MATRICES]
        self._momentum = {name: torch.zeros_like(weights[name]) for name in self._matrices}
        plain = [weights[name] for name in weights if name not in MATRICES]
        self._adam = torch.optim.AdamW(
            plain, lr=PLAIN_RATE, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, fused=plain[0].is_cuda
        )
        self._orthogonalise: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(orthogonalise) if compiled else orthogonalise
        )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, fraction: float) -> None:
        """One update with the learning rates at `fraction` of their peak; clears the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = PLAIN_RATE * fraction
        self._adam.step()
        for name in self._matrices:
            weight, momentum = self.weights[name], self._momentum[name]
            grad = weight.grad
            if grad is None:
                continue
            momentum.lerp_(grad, 0.05)
            update = self._orthogonalise(grad.lerp(momentum, 0.95))
            weight.mul_(1 - _DECAY * MATRIX_RATE * fraction)
            weight.add_(update, alpha=-MATRIX_RATE * fraction * max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5)
        for weight in self.weights.values():
            weight.grad = None
