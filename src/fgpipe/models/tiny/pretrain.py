"""Rebuilds the tiny model on one GPU: `python -m fgpipe.models.tiny.pretrain --out data/tiny`.

Steps: a tokenizer from a sample of the corpus, pretraining on fresh rows of it, a comparison with transformers, a
score on rows never trained on, and the model's folder with its card.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fgpipe.errors import TrainingError
from fgpipe.functiongemma import render
from fgpipe.models.tiny import corpus
from fgpipe.models.tiny.batches import KEPT_BATCHES, LONGEST_ROW, REPEATS, Batch, stream

if TYPE_CHECKING:
    import torch

    from fgpipe.models.tiny.network import Shape, Weights

TOKENIZER_ROWS = 20_000
SCORED_ROWS = 200
BATCH_TOKENS = 131_072
LARGEST_DIFFERENCE = 0.01
"""Most that a log-probability may differ from transformers', both in float32."""
_WARM_UP_STEPS = 100
_STABLE_FRACTION = 0.4
_MARKER = re.compile(r"<(?:start|end)_\w+>|<escape>|<bos>")


def sample_texts(count: int, *, seed: int) -> list[str]:
    """Rendered corpus rows without their markers: what the tokenizer learns from."""
    rng = random.Random(f"tokenizer-{seed}")
    rows = (corpus.row(rng) for _ in range(count))
    return [_MARKER.sub("\n", render(row["messages"], row["tools"])) for row in rows]


def rate_fraction(step: int, progress: float) -> float:
    """Share of the peak learning rate: warm-up, a plateau, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    falling = max(0.0, progress - _STABLE_FRACTION) / (1 - _STABLE_FRACTION)
    return warm * max(0.0, 0.5 * (1 + math.cos(math.pi * falling)))


class Trainer:
    """One model in training: its weights, optimizer and compiled loss."""

    def __init__(self, shape: Shape, *, seed: int, device: str) -> None:
        import torch

        from fgpipe.models.tiny.network import initial
        from fgpipe.models.tiny.optimizer import Optimizer

        self.shape, self.device, self.steps = shape, device, 0
        self.weights = initial(shape, seed=seed, device=device)
        cuda = device.startswith("cuda")
        self._dtype = torch.bfloat16 if cuda else torch.float32
        self._optimizer = Optimizer(self.weights, compiled=cuda)
        self._loss = torch.compile(self._plain_loss) if cuda else self._plain_loss

    def _plain_loss(
        self,
        weights: Weights,
        ids: torch.Tensor,
        position: torch.Tensor,
        bounds: torch.Tensor,
        targets: torch.Tensor,
        share: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted mean loss, and the mean loss of completion tokens alone."""
        from torch.nn.functional import cross_entropy

        from fgpipe.models.tiny.network import logits

        scores = logits(weights, self.shape, ids, position, bounds, LONGEST_ROW, self._dtype).float()
        each = cross_entropy(scores, targets, reduction="none")
        completion = (share > 0.5).float()
        return (each * share).sum() / share.sum(), (each.detach() * completion).sum() / completion.sum()

    def step(self, batch: Batch, progress: float) -> torch.Tensor:
        """Train on one batch; `progress` from 0 to 1 sets the learning rate. The mean loss of completion tokens."""
        import torch

        ids, position, targets = (
            torch.from_numpy(a.astype("int32")).to(self.device, non_blocking=True).long()
            for a in (batch.ids, batch.position, batch.targets)
        )
        bounds = torch.from_numpy(batch.bounds).to(self.device)
        share = torch.from_numpy(batch.weights).to(self.device).float()
        loss, completion = self._loss(self.weights, ids, position, bounds, targets, share)
        loss.backward()
        self._optimizer.step(rate_fraction(self.steps, progress))
        self.steps += 1
        return completion


def train(trainer: Trainer, batches: Iterator[Batch], *, minutes: float, steps: int) -> None:
    """Step on batches until `steps` or `minutes` are used up, whichever comes first.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    began, recent = time.monotonic(), collections.deque[Batch](maxlen=KEPT_BATCHES)
    chooser = random.Random(0)
    while (progress := max(trainer.steps / steps, (time.monotonic() - began) / (60 * minutes))) < 1:
        if not recent or trainer.steps % REPEATS == 0:
            recent.append(next(batches))
            batch = recent[-1]
        else:
            batch = recent[chooser.randrange(len(recent))]
        loss = trainer.step(batch, progress)
        if trainer.steps == 1:
            began = time.monotonic()  # compilation is not training time
        if trainer.steps % 200 == 0:
            if not math.isfinite(loss.item()):
                raise TrainingError(f"pretraining loss: got {loss.item()}, expected a finite number")
            tokens = trainer.steps * BATCH_TOKENS / 1e6
            rate = tokens / (time.monotonic() - began)
            print(f"step {trainer.steps} loss {loss.item():.4f} {rate:.2f} Mtok/s {tokens:.0f} Mtok", file=sys.stderr)


def largest_difference(trainer: Trainer, batch: Batch) -> float:
    """Largest difference of a log-probability between the training network and transformers, on four rows."""
    import torch

    from fgpipe.models.tiny.network import logits, to_transformers

    model = to_transformers(trainer.weights, trainer.shape)
    weights = {name: value.detach().cpu() for name, value in trainer.weights.items()}
    worst = 0.0
    for start, end in zip(batch.bounds[:4].tolist(), batch.bounds[1:5].tolist(), strict=True):
        ids = torch.from_numpy(batch.ids[start:end].astype("int64"))
        bounds = torch.tensor([0, len(ids)], dtype=torch.int32)
        with torch.no_grad():
            own = logits(weights, trainer.shape, ids, torch.arange(len(ids)), bounds, len(ids), torch.float32)
            theirs = model(input_ids=ids[None]).logits[0]
        worst = max(worst, (own.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item())
    return worst


def build(out: Path, *, minutes: float, steps: int, seed: int, workers: int, device: str, shape: Shape) -> None:
    """Make the tiny model from nothing in `out`.

    Raises:
        TrainingError: the loss diverged, or the weights mean something else to transformers.
    """
    from fgpipe.models.tiny import folder, tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    out.mkdir(parents=True, exist_ok=True)
    learned = tokenizer.learn(sample_texts(TOKENIZER_ROWS, seed=seed))
    folder.save_tokenizer(learned, out)
    batches = stream(out / "tokenizer.json", seed=seed, tokens=BATCH_TOKENS, workers=workers)
    trainer = Trainer(shape, seed=seed, device=device)
    train(trainer, batches, minutes=minutes, steps=steps)
    difference = largest_difference(trainer, next(batches))
    if not difference < LARGEST_DIFFERENCE:
        raise TrainingError(
            f"log-probabilities: got {difference:.2g} from transformers', expected {LARGEST_DIFFERENCE}"
        )
    folder.save_model(trainer.weights, shape, out)
    folder.write_card(out, tokens=trainer.steps * BATCH_TOKENS, rows=SCORED_ROWS, seed=seed, device=device)


def main() -> None:
    """Read the arguments and build."""
    from fgpipe.models.tiny.network import Shape

    parser = argparse.ArgumentParser(prog="python -m fgpipe.models.tiny.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=12.5, help="training time at most, compilation not counted")
    parser.add_argument("--steps", type=int, default=10**9, help="training steps at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="corpus processes")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try a few steps")
    given = parser.parse_args()
    build(
        given.out,
        minutes=given.minutes,
        steps=given.steps,
        seed=given.seed,
        workers=given.workers,
        device=given.device,
        shape=Shape(),
    )


if __name__ == "__main__":
    main()
