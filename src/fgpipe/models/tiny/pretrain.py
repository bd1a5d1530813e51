"""Rebuilds the tiny model: `python -m fgpipe.models.tiny.pretrain --out data/tiny --minutes 15` on one GPU.

Steps: a tokenizer from a sample of the corpus, pretraining on fresh rows of it, a check against transformers, a score
on rows never trained on, and the model's folder.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe.functiongemma import render
from fgpipe.models.tiny import corpus
from fgpipe.models.tiny.batches import LONGEST_ROW, Batch, stream

if TYPE_CHECKING:
    import torch

    from fgpipe.models.tiny.network import Shape, Weights

TOKENIZER_ROWS = 30_000
BATCH_TOKENS = 131_072
KEPT_BATCHES = 1500
REPEATS = 2
"""How often a batch is used on average, the second time drawn from the last `KEPT_BATCHES`: the GPU outruns the corpus."""
_WARM_UP_STEPS = 100
_STABLE_FRACTION = 0.4


def sample_texts(count: int, *, seed: int) -> list[str]:
    """Rendered corpus rows without their markers: what the tokenizer learns from."""
    import re

    rng = random.Random(f"tokenizer-{seed}")
    marker = re.compile(r"<(?:start|end)_\w+>|<escape>|<bos>")
    rows = (corpus.row(rng) for _ in range(count))
    return [marker.sub("\n", render(row["messages"], row["tools"])) for row in rows]


def rate_fraction(step: int, progress: float) -> float:
    """Share of the peak learning rate: warm-up, a plateau, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    if progress < _STABLE_FRACTION:
        return warm
    return warm * max(0.0, 0.5 * (1 + math.cos(math.pi * (progress - _STABLE_FRACTION) / (1 - _STABLE_FRACTION))))


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
        self, weights: Weights, ids: torch.Tensor, position: torch.Tensor, bounds: torch.Tensor, targets: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch.nn.functional as F  # noqa: N812 (torch's own convention)

        from fgpipe.models.tiny.network import logits

        scores = logits(weights, self.shape, ids, position, bounds, LONGEST_ROW, self._dtype).float()
        each = F.cross_entropy(scores, targets, reduction="none")
        completion = (share > 0.5).float()
        return (each * share).sum() / share.sum(), (each.detach() * completion).sum() / completion.sum()

    def step(self, batch: Batch, progress: float) -> torch.Tensor:
        """Train on one batch; `progress` from 0 to 1 sets the learning rate. The mean loss of completion tokens."""
        import torch

        ids, position, targets = (
            torch.from_numpy(a.astype("int32")).to(self.device, non_blocking=True).long() for a in (batch.ids, batch.position, batch.targets)
        )
        bounds = torch.from_numpy(batch.bounds).to(self.device)
        share = torch.from_numpy(batch.weights).to(self.device).float()
        loss, completion = self._loss(self.weights, ids, position, bounds, targets, share)
        loss.backward()
        self._optimizer.step(rate_fraction(self.steps, progress))
        self.steps += 1
        return completion


def train(trainers: list[Trainer], batches: Iterator[Batch], *, minutes: float, steps: int, log: Path | None = None) -> None:
    """Step all `trainers` on the same batches until `steps` or `minutes` are used up, whichever comes first."""
    began, tokens, losses = time.monotonic(), 0, []
    recent: collections.deque[Batch] = collections.deque(maxlen=KEPT_BATCHES)
    chooser = random.Random(0)
    while True:
        progress = max(trainers[0].steps / steps, (time.monotonic() - began) / (60 * minutes))
        if progress >= 1:
            return
        if not recent or trainers[0].steps % REPEATS == 0:
            recent.append(next(batches))
            batch = recent[-1]
        else:
            batch = recent[chooser.randrange(len(recent))]
        if len(recent) == 1:
            began = time.monotonic()  # compilation is not training time
        losses = [trainer.step(batch, progress) for trainer in trainers]
        tokens += len(batch.ids)
        if trainers[0].steps % 200 == 0:
            values = [loss.item() for loss in losses]
            if not all(math.isfinite(value) for value in values):
                raise RuntimeError(f"pretraining loss: got {values}, expected finite numbers")
            line = f"step {trainers[0].steps} loss {' '.join(f'{v:.4f}' for v in values)} {tokens / (time.monotonic() - began) / 1e6:.2f} Mtok/s {tokens / 1e6:.0f} Mtok"
            print(line, file=sys.stderr, flush=True)
            if log is not None:
                with log.open("a") as file:
                    file.write(line + "\n")


def save(trainer: Trainer, tokenizer_file: Path, out: Path) -> None:
    """The model's folder: bf16 weights, configuration, tokenizer, chat template."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig

    from fgpipe.models.tiny import tokenizer
    from fgpipe.models.tiny.network import to_transformers

    model = to_transformers(trainer.weights, trainer.shape).to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=[1, 50, 106], pad_token_id=0, do_sample=False)
    model.save_pretrained(out)
    tokenizer.wrap(Tokenizer.from_file(str(tokenizer_file))).save_pretrained(out)


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


def build(out: Path, *, minutes: float, steps: int, seed: int, workers: int, device: str, shape: Shape) -> dict[str, Any]:
    """Make the tiny model from nothing in `out`; what was measured on the way."""
    from fgpipe.models.tiny import tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = out / "tokenizer.json"
    tokenizer.learn(sample_texts(TOKENIZER_ROWS, seed=seed)).save(str(tokenizer_file))
    batches = stream(tokenizer_file, seed=seed, tokens=BATCH_TOKENS, workers=workers)
    trainer = Trainer(shape, seed=seed, device=device)
    train([trainer], batches, minutes=minutes, steps=steps, log=out / "pretrain.log")
    difference = largest_difference(trainer, next(batches))
    save(trainer, tokenizer_file, out)
    return {"steps": trainer.steps, "tokens": trainer.steps * BATCH_TOKENS, "difference_from_transformers": difference}


def main() -> None:
    """Read the arguments and build."""
    from fgpipe.models.tiny.network import Shape

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    print(json.dumps(build(given.out, minutes=given.minutes, steps=given.steps, seed=given.seed, workers=given.workers, device=given.device, shape=Shape())))


if __name__ == "__main__":
    main()
