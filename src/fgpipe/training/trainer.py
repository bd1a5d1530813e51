"""TRL's SFTTrainer with PEFT, fed with rows that are already tokens and a loss mask.

Heavy: imports torch, trl and peft; import it only to train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from trl import SFTTrainer  # noqa: TID253

from fgpipe.training.loss import completion_loss
from fgpipe.training.order import RowOrder
from fgpipe.training.peft_files import write_config
from fgpipe.training.run import Columns, not_finite

IGNORED = -100
"""Label of a token that is not in the loss."""


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer in our row order, with logits at labelled tokens only; stops at a loss that is not finite."""

    def __init__(self, *args: Any, order: RowOrder, **kwargs: Any) -> None:
        self._order = order
        self._step_loss = 0.0
        super().__init__(*args, **kwargs)
        # Only to satisfy SFTTrainer: with a tokenizer it would replace the model's stop tokens by the tokenizer's one
        # and save the tokenizer into every checkpoint.
        self.processing_class = None

    def held_out_loss(self, columns: Columns, collator: Collator, *, batch_size: int) -> float:
        """Mean over the labelled tokens of `columns`; dropout is off meanwhile."""
        rows = [
            {"input_ids": ids, "labels": row} for ids, row in zip(columns["input_ids"], labels(columns), strict=True)
        ]
        rows.sort(key=lambda row: len(row["input_ids"]))
        count = sum(label != IGNORED for row in rows for label in row["labels"][1:])
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), batch_size):
                inputs = {
                    name: part.to(self.model.device)
                    for name, part in collator(rows[start : start + batch_size]).items()
                }
                total += float(self._loss(inputs))
        self.model.train()
        return float(total / count)

    def _loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the labelled tokens."""
        base = self.model.get_base_model()
        with self.accelerator.autocast():
            # No attention mask: rows are padded on the right, where causal attention never looks from a real token.
            hidden = base.base_model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
        return completion_loss(hidden, base.get_output_embeddings().weight, inputs["labels"])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean over the labelled tokens of the whole optimizer step, however it is cut into batches."""
        loss = self._loss(inputs) / num_items_in_batch
        self._step_loss += loss.detach()
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Clip; a loss or gradient that is not finite stops the run here, before it reaches the weights."""
        norm: torch.Tensor = super()._clip_grad_norm(model)
        loss, self._step_loss = float(self._step_loss), 0.0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise not_finite(self.state.global_step + 1, self.state.max_steps, loss=loss, norm=float(norm))
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return OrderedSampler(self._order)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # PEFT's "auto" would ask the hub whether the vocabulary has changed.
        self.model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the one of a published version is made from its scores."""

    def _send_telemetry(self) -> None:
        """Report nothing."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: walking all modules costs more than a small model's clipping."""
        return 0


def labels(columns: Columns) -> list[list[int]]:
    """Of each row: the token where it is in the loss, else IGNORED."""
    return [
        [token if learnt else IGNORED for token, learnt in zip(ids, mask, strict=True)]
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True)
    ]


class OrderedSampler(torch.utils.data.Sampler):  # type: ignore[misc]
    """Rows of an epoch as `RowOrder` says; the trainer names the epoch."""

    def __init__(self, order: RowOrder) -> None:
        self._order = order
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._order.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter([row for step in self._order.epoch(self._epoch) for row in step])


class Collator:
    """Rows to tensors, padded on the right (the loss relies on it) to the longest of the batch; adds no token."""

    def __init__(self, *, pad_id: int, multiple: int = 1) -> None:
        self._pad_id = pad_id
        self._multiple = multiple

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, each (rows, time)."""
        longest = max(len(row["input_ids"]) for row in rows)
        time = -(-longest // self._multiple) * self._multiple
        input_ids = torch.full((len(rows), time), self._pad_id)
        labels = torch.full((len(rows), time), IGNORED)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[place, :length] = torch.as_tensor(row["input_ids"])
            labels[place, :length] = torch.as_tensor(row["labels"])
        return {"input_ids": input_ids, "labels": labels}


def save_adapter(model: Any, folder: Path, *, base_id: str, revision: str | None) -> None:
    """Write a PEFT adapter of trained weights alone: `adapter_model.safetensors` and a plain `adapter_config.json`."""
    (config,) = model.peft_config.values()
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    write_config(config, folder, base_id=base_id, revision=revision)
