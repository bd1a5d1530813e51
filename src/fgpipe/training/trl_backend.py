"""The back end that takes any model: TRL's SFTTrainer and PEFT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe.config import TrainConfig
from fgpipe.models import base
from fgpipe.progress import say
from fgpipe.training.peft_files import peft_config
from fgpipe.training.plan import TrainingPlan
from fgpipe.training.run import TrainingRun

if TYPE_CHECKING:
    from fgpipe.training.trainer import AdapterTrainer

SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Our name of a schedule -> transformers' name of it with a warm-up."""

PADDING_MULTIPLE = {"cuda": 64, "cpu": 16}
"""Batches are padded to a multiple of this, so that kernels are planned, and their plans kept, for few shapes."""


def fit(run: TrainingRun, folder: Path) -> list[dict[str, Any]]:
    """Train, write the adapter to `folder`, and return the lines of the log."""
    from fgpipe.training.callbacks import HeldOutLoss, MarkCheckpoints, Metrics, Progress
    from fgpipe.training.trainer import save_adapter

    checkpoints = run.checkpoints
    resume = checkpoints.latest()
    if resume is not None:
        say(f"train: resuming from step {resume.name.partition('-')[2]} of {run.todo.steps}")
    bar = Progress()
    metrics = Metrics(run.order, checkpoints.folder / "metrics.jsonl")
    base.watch_memory()
    with quiet(), base.fast_float32(), contextlib.closing(bar):
        trainer = build_trainer(run)
        held_out = HeldOutLoss(run, trainer, metrics) if run.held_out is not None else None
        for callback in (metrics, bar, held_out, MarkCheckpoints(checkpoints)):
            if callback is not None:
                trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    save_adapter(trainer.model, folder, base_id=run.model.id, revision=run.model.revision)
    if held_out is not None:
        held_out.restore(folder)
    return list(trainer.state.log_history)


def build_trainer(run: TrainingRun) -> AdapterTrainer:
    """The trainer with model, adapter and rows in place."""
    from datasets import Dataset

    from fgpipe.training.trainer import AdapterTrainer, Collator, labels

    columns, todo = run.columns, run.todo
    tokenizer = base.load_tokenizer(run.model)
    collator = Collator(pad_id=tokenizer.pad_token_id, multiple=PADDING_MULTIPLE[todo.device])
    trainer = AdapterTrainer(
        model=base.load_model(run.model, training=True, attention="eager" if todo.attention == "eager" else "sdpa"),
        args=trainer_arguments(run.config, todo, seed=run.seed, folder=run.checkpoints.folder),
        train_dataset=Dataset.from_dict({"input_ids": columns["input_ids"], "labels": labels(columns)}),
        data_collator=collator,
        processing_class=tokenizer,
        peft_config=peft_config(run.lora),
        order=run.order,
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
