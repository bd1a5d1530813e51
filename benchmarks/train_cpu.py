"""Training speed on this machine's CPU: the train stage against a plain TRL script with the same settings.

    python benchmarks/train_cpu.py [--steps 12] [--rounds 4] [--model data/tiny]

Both train the same LoRA adapter on the same rows of random tokens, as long as those of the `sql` task, in float32, one
after the other in this process. Printed: tokens/s of each (padding not counted), the ratio of each round, and the
median ratio with its range. The plain script is what TRL's documentation shows for rows that are already tokens; its
batches are drawn at random, ours hold rows of similar length.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As fgpipe's command line does, and here for both: spinning threads stall on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from transformers import PrinterCallback, TrainerCallback  # noqa: E402

from fgpipe.config import LoraConfig, ModelConfig, ModelShape, TrainConfig  # noqa: E402
from fgpipe.models import base  # noqa: E402
from fgpipe.training import trl_backend  # noqa: E402
from fgpipe.training.order import RowOrder  # noqa: E402
from fgpipe.training.plan import plan  # noqa: E402

Columns = dict[str, list[Any]]


class Clock(TrainerCallback):
    """Seconds between the first optimizer step and the last: loading and the first step's set-up are left out."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        now = time.perf_counter()
        if state.global_step == 1:
            self.start = now
        self.seconds = now - self.start


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


def tokens_per_s_of_trl(columns: Columns, model: ModelConfig, lora: LoraConfig, config: TrainConfig) -> float:
    """Tokens/s of SFTTrainer as it comes."""
    from datasets import Dataset
    from peft import LoraConfig as PeftLoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    labels = [
        [token if learnt else -100 for token, learnt in zip(ids, mask, strict=True)]
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True)
    ]
    seen: list[int] = []

    class Counted(SFTTrainer):
        """Counts the tokens of each step."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(int(inputs["attention_mask"].sum()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Counted(
            model=AutoModelForCausalLM.from_pretrained(base.model_source(model), dtype=torch.float32),
            args=SFTConfig(
                output_dir=folder,
                max_steps=config.max_steps,
                per_device_train_batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                lr_scheduler_type=config.scheduler,
                max_grad_norm=config.max_grad_norm,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_steps=config.log_every_steps,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"input_ids": columns["input_ids"], "labels": labels}),
            processing_class=AutoTokenizer.from_pretrained(base.model_source(model)),
            peft_config=PeftLoraConfig(
                r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM"
            ),
            callbacks=[clock := Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return sum(seen[1:]) / clock.seconds


def tokens_per_s_of_fgpipe(columns: Columns, model: ModelConfig, lora: LoraConfig, config: TrainConfig) -> float:
    """Tokens/s of the train stage."""
    order = RowOrder(tuple(len(ids) for ids in columns["input_ids"]), config.batch_size, seed=0)
    loss_tokens = [sum(mask) for mask in columns["loss_mask"]]
    todo = plan(order, loss_tokens, model, lora, config, device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as folder, base.fast_float32():
        trainer = trl_backend.build_trainer(columns, order, todo, model, lora, config, seed=0, folder=Path(folder))
        trainer.add_callback(clock := Clock())
        trainer.train()
    return (order.tokens_until(todo.steps) - order.tokens_until(1)) / clock.seconds


def main() -> None:
    """Run both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default=str(ROOT / "data" / "tiny"))
    options = parser.parse_args()
    sizes = json.loads((Path(options.model) / "config.json").read_text())
    shape = ModelShape.model_validate({name: sizes[name] for name in ModelShape.model_fields})
    model = ModelConfig(name="tiny", id="fgpipe/tiny", path=options.model, shape=shape, dtype="float32")
    config = TrainConfig(batch_size=16, max_steps=options.steps, learning_rate=1e-3, checkpoint_every_steps=10**6)
    columns, lora = random_rows(512, shape.vocab_size), LoraConfig()
    print(f"{torch.get_num_threads()} threads, {shape.parameters():,} parameters, {options.steps} steps of 16 rows")
    ratios = []
    with trl_backend.quiet():
        for number in range(options.rounds):
            plain = tokens_per_s_of_trl(columns, model, lora, config)
            ours = tokens_per_s_of_fgpipe(columns, model, lora, config)
            ratios.append(ours / plain)
            print(f"round {number + 1}: TRL {plain:,.0f} tokens/s, fgpipe {ours:,.0f} tokens/s, ratio {ratios[-1]:.2f}")
    print(f"fgpipe / TRL: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
