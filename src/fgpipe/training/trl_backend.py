"""The train stage: a LoRA adapter by TRL's SFTTrainer and PEFT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import artifacts, store
from fgpipe.artifacts import Adapter, Draft, FormattedDataset, writing
from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.models import base
from fgpipe.progress import say
from fgpipe.training.checkpoints import Checkpoints
from fgpipe.training.order import RowOrder
from fgpipe.training.plan import TrainingPlan, plan

if TYPE_CHECKING:
    from fgpipe.training.trainer import AdapterTrainer

SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Our name of a schedule -> transformers' name of it with a warm-up."""

WITHOUT_EFFECT = frozenset({"log_every_steps", "checkpoint_every_steps", "keep_checkpoints"})
"""Settings of `train` that do not change the adapter."""

PADDING_MULTIPLE = {"cuda": 64, "cpu": 16}
"""Batches are padded to a multiple of this, so that kernels are planned, and their plans kept, for few shapes."""


def train_config(model: ModelConfig, lora: LoraConfig, config: TrainConfig, *, seed: int) -> dict[str, Any]:
    """What the adapter depends on, as plain data."""
    return {
        "model": model.model_dump(mode="json", exclude={"name", "path"}),
        "lora": lora.model_dump(mode="json"),
        "train": config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
        "seed": seed,
    }


def train_inputs(data: FormattedDataset, model: ModelConfig) -> dict[str, str]:
    """Fingerprints of what the adapter is made from."""
    return {"data": data.fingerprint, "base": base.model_fingerprint(model)}


def train(
    data: FormattedDataset, model: ModelConfig, lora: LoraConfig, config: TrainConfig, *, seed: int, out: Path
) -> Adapter:
    """Fit a LoRA adapter to the training rows of `data` and write it to `out`.

    A run that was stopped resumes from its last checkpoint and, on a CPU, ends where an uninterrupted one would have
    ended, to the bit. Checkpoints lie in `<out>.checkpoints` and are removed at the end.

    Raises:
        TrainingError: no row can be trained on, or loss or gradient became infinite or NaN.
        ModelError: the base cannot be loaded.
    """
    columns = data.training_columns()
    order = RowOrder(
        lengths=tuple(len(ids) for ids in columns["input_ids"]),
        rows_per_step=config.batch_size * config.gradient_accumulation,
        seed=seed,
    )
    check_rows(columns, config)
    todo = plan(
        order,
        [sum(mask) for mask in columns["loss_mask"]],
        model,
        lora,
        config,
        device=base.device(),
        dtype=base.dtype_name(model),
    )
    for line in todo.lines():
        say(line)
    identity: dict[str, Any] = {
        "config": train_config(model, lora, config, seed=seed),
        "inputs": train_inputs(data, model),
    }
    checkpoints = Checkpoints(
        out.with_name(f"{out.name}.checkpoints"), key=artifacts.key(Adapter, **identity), keep=config.keep_checkpoints
    )
    with writing(Adapter, out, **identity) as draft:
        draft.unhashed |= {"metrics.jsonl", "plan.json"}  # speeds and the device: equal runs are equal adapters
        fit(columns, order, todo, model, lora, config, seed=seed, checkpoints=checkpoints, draft=draft)
    checkpoints.remove()
    return Adapter.open(out)


def check_rows(columns: Mapping[str, list[Any]], config: TrainConfig) -> None:
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


def fit(
    columns: Mapping[str, list[Any]],
    order: RowOrder,
    todo: TrainingPlan,
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    draft: Draft,
) -> None:
    """Train, and leave adapter, plan and metrics in the draft."""
    from fgpipe.training.callbacks import MarkCheckpoints, Metrics, Progress
    from fgpipe.training.trainer import save_adapter

    resume = checkpoints.latest()
    if resume is not None:
        say(f"train: resuming from step {resume.name.partition('-')[2]} of {todo.steps}")
    bar = Progress()
    metrics = Metrics(order, checkpoints.folder / "metrics.jsonl")
    with quiet(), base.fast_float32(), contextlib.closing(bar):
        trainer = build_trainer(columns, order, todo, model, lora, config, seed=seed, folder=checkpoints.folder)
        for callback in (metrics, bar, MarkCheckpoints(checkpoints)):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    save_adapter(trainer.model, draft.path, base_id=model.id, revision=model.revision)
    store.write_json(draft.path / "plan.json", asdict(todo))
    store.write_jsonl(draft.path / "metrics.jsonl", trainer.state.log_history)
    draft.numbers |= {
        "rows": todo.rows,
        "tokens": todo.tokens,
        "steps": todo.steps,
        "trainable_parameters": todo.trainable_parameters,
    }
    if trainer.state.log_history:
        first, last = trainer.state.log_history[0], trainer.state.log_history[-1]
        draft.numbers |= {"first_loss": first["loss"], "loss": last["loss"]}


def build_trainer(
    columns: Mapping[str, list[Any]],
    order: RowOrder,
    todo: TrainingPlan,
    model: ModelConfig,
    lora: LoraConfig,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
) -> AdapterTrainer:
    """The trainer with model, adapter and rows in place; checkpoints go to `folder`."""
    from datasets import Dataset

    from fgpipe.training.trainer import IGNORED, AdapterTrainer, Collator

    labels = [
        [token if learnt else IGNORED for token, learnt in zip(ids, mask, strict=True)]
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True)
    ]
    tokenizer = base.load_tokenizer(model)
    collator = Collator(pad_id=tokenizer.pad_token_id, multiple=PADDING_MULTIPLE[todo.device])
    trainer = AdapterTrainer(
        model=base.load_model(model, training=True, attention=todo.attention),
        args=trainer_arguments(config, todo, seed=seed, folder=folder),
        train_dataset=Dataset.from_dict({"input_ids": columns["input_ids"], "labels": labels}),
        data_collator=collator,
        processing_class=tokenizer,
        peft_config=peft_config(lora),
        order=order,
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer_arguments(config: TrainConfig, todo: TrainingPlan, *, seed: int, folder: Path) -> Any:
    """TRL's `SFTConfig` for these settings."""
    from trl import SFTConfig

    on_cpu = todo.device == "cpu"
    arguments = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=todo.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULERS[config.scheduler],
        warmup_steps=todo.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch_fused",
        bf16=todo.dtype == "bfloat16" and not on_cpu,
        fp16=False,
        use_cpu=on_cpu,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=not on_cpu,
        logging_steps=config.log_every_steps,
        # A NaN must reach our own check instead of being averaged away in the log.
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_every_steps,
        # Ours are deleted once a newer one is whole, the trainer's before that.
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
    )
    # One GPU trains one adapter; with several visible the trainer would wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def peft_config(lora: LoraConfig) -> Any:
    """PEFT's `LoraConfig` for our settings."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        target_modules=sorted(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' notes for developers, keep their warnings about what goes wrong."""
    import datasets
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(before)
