"""The train stage: rows and a base in, a LoRA adapter out, by the back end that `train.backend` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fgpipe import artifacts, store
from fgpipe.artifacts import Adapter, Draft, FormattedDataset, writing
from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.models import base
from fgpipe.progress import say
from fgpipe.training.checkpoints import Checkpoints
from fgpipe.training.choose import Machine, choose_backend, this_machine
from fgpipe.training.order import RowOrder
from fgpipe.training.plan import Backend, plan
from fgpipe.training.run import Columns, TrainingRun, labels_of

WITHOUT_EFFECT = frozenset({"log_every_steps", "checkpoint_every_steps", "keep_checkpoints"})
"""Settings of `train` that do not change the adapter."""


def train_config(model: ModelConfig, lora: LoraConfig, config: TrainConfig, *, seed: int) -> dict[str, Any]:
    """What the adapter depends on, as plain data."""
    return {
        "model": model.model_dump(mode="json", exclude={"name", "path"}),
        "lora": lora.model_dump(mode="json"),
        "train": config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
        "seed": seed,
    }


def identity(
    data: FormattedDataset, model: ModelConfig, lora: LoraConfig, config: TrainConfig, *, seed: int
) -> dict[str, Any]:
    """Configuration and inputs of the artefact: what decides whether it is up to date."""
    return {
        "config": train_config(model, lora, config, seed=seed),
        "inputs": {"data": data.fingerprint, "base": base.model_fingerprint(model)},
    }


def train(
    data: FormattedDataset, model: ModelConfig, lora: LoraConfig, config: TrainConfig, *, seed: int, out: Path
) -> Adapter:
    """Fit a LoRA adapter to the training rows of `data` and write it to `out`.

    A run that was stopped resumes from its last checkpoint and, on a CPU, ends where an uninterrupted one would have
    ended, to the bit. Checkpoints lie in `<out>.checkpoints` and are removed at the end.

    Raises:
        TrainingError: no row can be trained on, the back end asked for cannot do it, or loss or gradient became
            infinite or NaN.
        ModelError: the base cannot be loaded.
    """
    machine = this_machine(model)
    backend, reason = choose_backend(lora, model, config, machine)
    run = prepare(data, model, lora, config, seed=seed, name="train", out=out, machine=machine, backend=backend)
    say(f"train: backend {backend} ({reason})")
    for line in run.todo.lines():
        say(line)
    with writing(Adapter, out, **run.identity) as draft:
        if backend == "fast":
            from fgpipe.training import fast_backend

            log = fast_backend.fit(run, draft.path)
        else:
            from fgpipe.training import trl_backend

            log = trl_backend.fit(run, draft.path)
        describe(draft, run, log)
    run.checkpoints.remove()
    return Adapter.open(out)


def prepare(
    data: FormattedDataset,
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    seed: int,
    name: str,
    out: Path,
    machine: Machine,
    backend: Backend,
) -> TrainingRun:
    """The rows of `data`, checked and planned, with the checkpoints beside `out`.

    Raises:
        TrainingError: a row cannot be trained on.
    """
    columns = data.training_columns()
    held_out = data.held_out_columns() if config.evaluate_every_steps else None
    check_rows(columns, config)
    if held_out is not None:
        check_held_out(held_out)
    order = RowOrder(
        lengths=tuple(len(ids) for ids in columns["input_ids"]),
        rows_per_step=config.batch_size * config.gradient_accumulation,
        seed=seed,
    )
    loss_tokens = labels_of(columns)
    todo = plan(
        order,
        loss_tokens,
        model,
        lora,
        config,
        device=machine.device,
        dtype=machine.dtype,
        backend=backend,
        free_bytes=machine.free_bytes,
    )
    made_from = identity(data, model, lora, config, seed=seed)
    key = artifacts.key(Adapter, **made_from)
    return TrainingRun(
        name=name,
        columns=columns,
        held_out=held_out,
        loss_tokens=loss_tokens,
        order=order,
        todo=todo,
        model=model,
        lora=lora,
        config=config,
        seed=seed,
        out=out,
        identity=made_from,
        checkpoints=Checkpoints(
            out.with_name(f"{out.name}.checkpoints"), key=f"{key}/{backend}", keep=config.keep_checkpoints
        ),
    )


def describe(draft: Draft, run: TrainingRun, log: Sequence[Mapping[str, Any]]) -> None:
    """Leave plan, metrics and figures beside the adapter in the draft.

    Beside the planned memory stands what was taken, by all adapters that were trained together until now.
    """
    draft.unhashed |= {"metrics.jsonl", "plan.json"}  # speeds and the device: equal runs are equal adapters
    store.write_json(draft.path / "plan.json", {**asdict(run.todo), "peak_bytes": base.peak_bytes()})
    store.write_jsonl(draft.path / "metrics.jsonl", log)
    draft.numbers |= {
        "rows": run.todo.rows,
        "tokens": run.todo.tokens,
        "steps": run.todo.steps,
        "trainable_parameters": run.todo.trainable_parameters,
    }
    losses = [line["loss"] for line in log if "loss" in line]
    if losses:
        draft.numbers |= {"first_loss": losses[0], "loss": losses[-1]}
    held_out = [line["held_out_loss"] for line in log if "held_out_loss" in line]
    if held_out:
        draft.numbers |= {"held_out_loss": min(held_out)}


def check_rows(columns: Columns, config: TrainConfig) -> None:
    """Refuse rows that would train nothing or be cut.

    Raises:
        TrainingError: naming the first such row.
    """
    if not columns["input_ids"]:
        raise TrainingError(
            "train: got no training rows, expected at least one", hint="task.dataset.limit or evaluation_fraction?"
        )
    for name, ids, mask in zip(columns["id"], columns["input_ids"], columns["loss_mask"], strict=True):
        if len(ids) != len(mask):
            raise TrainingError(f"row {name}: got a loss mask of {len(mask)} entries, expected {len(ids)}, one a token")
        if not any(mask[1:]):
            raise TrainingError(f"row {name}: got no token in the loss, expected an answer to learn")
        if len(ids) > config.max_length_tokens:
            raise TrainingError(
                f"row {name}: got {len(ids)} tokens, expected at most train.max_length_tokens "
                f"({config.max_length_tokens}); rows are never cut",
                hint=f"train.max_length_tokens={len(ids)}",
            )


def check_held_out(columns: Columns) -> None:
    """Refuse to look at a loss on no rows."""
    if not columns["input_ids"]:
        raise TrainingError(
            "train.evaluate_every_steps: got no held-out rows, expected at least one",
            hint="a larger task.dataset.evaluation_fraction, or train.evaluate_every_steps=null",
        )
