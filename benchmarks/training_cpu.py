"""Training speed on this machine's CPU: both back ends of the train stage against a plain TRL script, same settings.

Started by `training.py`; takes its settings as one JSON object and prints one. All train the same LoRA adapter on the
same rows of random tokens, as long as those of the `sql` task, in float32, in one process, in turns. The plain script
is what TRL's documentation shows for rows that are already tokens; its batches are drawn at random, ours hold rows of
similar length.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]
# As fgpipe's command line does, and here for all: spinning threads stall on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from training_run import RESULT  # noqa: E402
from transformers import PrinterCallback, TrainerCallback  # noqa: E402

from fgpipe.compose import compose  # noqa: E402
from fgpipe.config import Config  # noqa: E402
from fgpipe.models import base  # noqa: E402
from fgpipe.training import fast_backend, trl_backend  # noqa: E402
from fgpipe.training.checkpoints import Checkpoints  # noqa: E402
from fgpipe.training.order import RowOrder  # noqa: E402
from fgpipe.training.plan import Backend, plan  # noqa: E402
from fgpipe.training.run import TrainingRun, labels_of  # noqa: E402

Columns = dict[str, list[Any]]


class Clock(TrainerCallback):
    """Seconds between the first optimizer step and the last: loading and the first step's set-up are left out.

    Listens to either back end.
    """

    start = seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Of TRL's trainer."""
        self._read(state.global_step)

    def stepped(self, job: Any) -> None:
        """Of the packed engine."""
        self._read(job.step)

    def _read(self, step: int) -> None:
        now = time.perf_counter()
        if step == 1:
            self.start = now
        self.seconds = now - self.start

    def seated(self, job: Any) -> None:
        """Nothing to do."""

    logged = seated

    def finished(self, job: Any, weights: Any) -> None:
        """Nothing to do."""

    def failed(self, job: Any, error: Exception) -> None:
        """End with the error."""
        raise error


def random_rows(count: int, vocab_size: int) -> Columns:
    """Rows of 140 to 290 tokens, 25 to 55 of them in the loss, as the `sql` task has them."""
    source = random.Random(0)
    columns: Columns = {"id": [], "input_ids": [], "loss_mask": []}
    for number in range(count):
        length, answer = source.randint(140, 290), source.randint(25, 55)
        columns["id"].append(str(number))
        columns["input_ids"].append([2] + [source.randrange(110, vocab_size) for _ in range(length - 1)])
        columns["loss_mask"].append([0] * (length - answer) + [1] * answer)
    return columns


def plain_trl(columns: Columns, config: Config) -> float:
    """Tokens/s of SFTTrainer as it comes."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    labels = [
        [token if learnt else -100 for token, learnt in zip(ids, mask, strict=True)]
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True)
    ]
    seen: list[int] = []

    class Counted(SFTTrainer):  # type: ignore[misc]
        """Counts the tokens of each step."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(int(inputs["attention_mask"].sum()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    train, lora, source = config.train, config.lora, base.model_source(config.model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Counted(
            model=AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
            args=SFTConfig(
                output_dir=folder,
                max_steps=train.max_steps,
                per_device_train_batch_size=train.batch_size,
                learning_rate=train.learning_rate,
                lr_scheduler_type=train.scheduler,
                max_grad_norm=train.max_grad_norm,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_steps=train.log_every_steps,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"input_ids": columns["input_ids"], "labels": labels}),
            processing_class=AutoTokenizer.from_pretrained(source),
            peft_config=LoraConfig(
                r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM"
            ),
            callbacks=[clock := Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return sum(seen[1:]) / clock.seconds


def fgpipe(columns: Columns, config: Config, backend: Backend) -> float:
    """Tokens/s of the train stage."""
    train = config.train
    order = RowOrder(tuple(len(ids) for ids in columns["input_ids"]), train.batch_size, seed=0)
    loss_tokens = labels_of(columns)
    todo = plan(
        order,
        loss_tokens,
        config.model,
        config.lora,
        train,
        device="cpu",
        dtype="float32",
        backend=backend,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(
            name="cpu",
            columns=columns,
            held_out=None,
            loss_tokens=loss_tokens,
            order=order,
            todo=todo,
            model=config.model,
            lora=config.lora,
            config=train,
            seed=0,
            out=Path(folder) / "train",
            identity={},
            checkpoints=Checkpoints(Path(folder), key="", keep=1),
        )
        clock = Clock()
        if backend == "fast":
            fast_backend.train_together([run], clock)
        else:
            with base.fast_float32():
                trainer = trl_backend.build_trainer(run)
                trainer.add_callback(clock)
                trainer.train()
    return (order.tokens_until(todo.steps) - order.tokens_until(1)) / clock.seconds


def main() -> None:
    """Run all in turn."""
    settings = json.loads(sys.argv[1])
    config = compose(
        [
            "model=tiny",
            "train.batch_size=16",
            f"train.max_steps={settings['steps']}",
            "train.checkpoint_every_steps=1000000",
        ]
    )
    columns = random_rows(512, config.model.shape.vocab_size)
    rounds = []
    with trl_backend.quiet():
        for number in range(settings["rounds"]):
            ways = {
                "plain TRL": lambda: plain_trl(columns, config),
                "train.backend=trl": lambda: fgpipe(columns, config, "trl"),
                "train.backend=fast": lambda: fgpipe(columns, config, "fast"),
            }
            order = list(ways)[:: -1 if number % 2 else 1]
            rounds.append({name: ways[name]() for name in order})
            print(rounds[-1], flush=True)
    print(RESULT + json.dumps({"rounds": rounds, "threads": torch.get_num_threads(), "steps": settings["steps"]}))


if __name__ == "__main__":
    main()
