"""One way to train on rows that are already tokens, timed: TRL's SFTTrainer with given settings, or Unsloth's.

Started by `training.py`, in a process of its own; takes its settings as one JSON object and prints one. Tokens/s are of
real tokens, padding not counted, in windows after a warm-up; each window ends with an optimizer step.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from training_run import RESULT, spread  # noqa: E402

RANK, ALPHA, LEARNING_RATE = 16, 32, 2e-4
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

TUNED: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "bfloat16"},
}

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "trl": (
        "TRL as its documentation begins: everything at its default but 4 rows x 4 accumulated",
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ),
    "trl-bf16": (
        "TRL, 4 rows x 4 accumulated, base in bfloat16, no gradient checkpointing",
        {**TUNED, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ),
    "trl-b32": ("TRL, 32 rows a step, bfloat16, no checkpointing", TUNED),
    "trl-b32-grouped": (
        "TRL, 32 rows a step of similar length",
        {**TUNED, "train_sampling_strategy": "group_by_length", "pad_to_multiple_of": 64},
    ),
    "trl-b32-compiled": (
        "TRL, 32 rows a step of similar length, torch_compile",
        {**TUNED, "train_sampling_strategy": "group_by_length", "pad_to_multiple_of": 128, "torch_compile": True},
    ),
    "trl-b32-liger": ("TRL, 32 rows a step, Liger's layer kernels", {**TUNED, "use_liger_kernel": True}),
    "trl-packed": (
        "TRL, rows packed to 1,024 tokens, 16 of these a step, FlashAttention",
        {**TUNED, "per_device_train_batch_size": 16, "packing": True, "max_length": 1024},
    ),
    "trl-packed-flex": (
        "TRL, packed, flex attention",
        {
            **TUNED,
            "per_device_train_batch_size": 16,
            "packing": True,
            "max_length": 1024,
            "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "flex_attention"},
        },
    ),
    "trl-packed-sdpa": (
        "TRL, packed, PyTorch's attention with a mask by rows",
        {
            **TUNED,
            "per_device_train_batch_size": 16,
            "packing": True,
            "max_length": 1024,
            "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "sdpa"},
        },
    ),
    "unsloth": ("Unsloth, 4 rows x 4 accumulated, its own checkpointing", {"checkpointing": "unsloth"}),
    "unsloth-b32": ("Unsloth, 32 rows a step, no checkpointing", {"checkpointing": False, "rows": 32}),
}
"""Name -> what it is, and its settings: SFTConfig's for TRL, our own words for Unsloth."""


def main() -> None:
    """Time the way that the settings name."""
    settings = json.loads(sys.argv[1])
    way = settings["way"]
    if way.startswith("unsloth"):
        import unsloth  # noqa: F401  it must come before what it changes
    import torch

    from fgpipe.training.trl_backend import quiet

    with quiet(), tempfile.TemporaryDirectory() as folder:
        seen, trainer = build(settings, folder)
        windows = Windows(seen, **{key: settings[key] for key in ("warm_s", "window_s", "windows")})
        trainer.add_callback(windows.callback())
        trainer.train()
    found = {
        "tokens_per_s": spread(windows.found),
        "windows": windows.found,
        "steps": windows.steps,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "versions": {name: metadata.version(name) for name in ("trl", "transformers", way.split("-")[0])},
        "real_share": windows.tokens / windows.places,
        "loss": trainer.state.log_history[-2]["loss"] if len(trainer.state.log_history) > 1 else None,
    }
    print(RESULT + json.dumps(found), flush=True)


def read_rows(parquet: str) -> dict[str, list[list[int]]]:
    """`input_ids` and `labels` of the rows of fgpipe's format stage: -100 where a token is not in the loss."""
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(parquet).to_pydict()
    labels = [
        [token if learnt else -100 for token, learnt in zip(ids, mask, strict=True)]
        for ids, mask in zip(columns["input_ids"], columns["loss_mask"], strict=True)
    ]
    return {"input_ids": columns["input_ids"], "labels": labels}


def build(settings: dict[str, Any], folder: str) -> tuple[list[Any], Any]:
    """What counts tokens, and the trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    given = dict(WAYS[settings["way"]][1])
    kwargs: dict[str, Any] = {}
    if settings["way"].startswith("unsloth"):
        rows = given.get("rows", 4)
        kwargs["model"] = _unsloth_model(settings["base"], given["checkpointing"])
        given = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 16 // rows or 1}
    else:
        from peft import LoraConfig

        kwargs["model"] = settings["base"]
        kwargs["peft_config"] = LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM"
        )
        if settings["way"] == "trl-packed":
            given["model_init_kwargs"] = {**given["model_init_kwargs"], "attn_implementation": flash_attention()}
    if not on_gpu:
        given |= {"use_cpu": True, "bf16": False}
        given["model_init_kwargs"] = {**given.get("model_init_kwargs", {}), "dtype": "float32"}
    arguments = SFTConfig(
        output_dir=folder,
        max_steps=10**6,
        learning_rate=LEARNING_RATE,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **given,
    )
    seen: list[Any] = []

    class Counted(SFTTrainer):  # type: ignore[misc]
        """Counts the tokens of each forward pass, without waiting for the device."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            places = inputs["input_ids"].numel()
            seen.append((places if mask is None else mask.sum(), places))
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = Counted(
        args=arguments,
        train_dataset=Dataset.from_dict(read_rows(settings["rows"])),
        processing_class=AutoTokenizer.from_pretrained(settings["base"]),
        **kwargs,
    )
    trainer.remove_callback(PrinterCallback)
    return seen, trainer


def flash_attention() -> str:
    """The implementation TRL's documentation asks for with packing: installed, or from the hub by `kernels`."""
    return "flash_attention_2" if importlib.util.find_spec("flash_attn") else "kernels-community/flash-attn2"


def _unsloth_model(base: str, checkpointing: str | bool) -> Any:
    import torch
    from unsloth import FastModel

    model, _ = FastModel.from_pretrained(
        model_name=base, max_seq_length=1024, dtype=torch.bfloat16, load_in_4bit=False, full_finetuning=False
    )
    return FastModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=MODULES,
        use_gradient_checkpointing=checkpointing,
    )


class Windows:
    """Times training in windows, and ends it after the last.

    Args:
        seen: (real tokens, places) of every forward pass so far.
        warm_s: of the first steps, at least two, that do not count.
        window_s: of a window, at least two steps.
        windows: how many.
    """

    def __init__(self, seen: list[Any], *, warm_s: float, window_s: float, windows: int) -> None:
        self._seen, self._warm_s, self._window_s, self._windows = seen, warm_s, window_s, windows
        self.found: list[float] = []
        self.steps = self.tokens = self.places = 0

    def callback(self) -> Any:
        """For the trainer."""
        import torch
        from transformers import TrainerCallback

        outer = self

        class Callback(TrainerCallback):  # type: ignore[misc]
            """Reads the clock at the end of steps."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self.since, self.step, self.warm = time.perf_counter(), 0, True

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.perf_counter()
                wanted = outer._warm_s if self.warm else outer._window_s
                if state.global_step - self.step < 2 or now - self.since < wanted:
                    return
                if not self.warm:
                    outer.close(now - self.since, state.global_step - self.step)
                outer._seen.clear()
                self.since, self.step, self.warm = time.perf_counter(), state.global_step, False
                control.should_training_stop = len(outer.found) >= outer._windows

        return Callback()

    def close(self, seconds: float, steps: int) -> None:
        """The end of a window."""
        tokens, places = sum(int(count) for count, _ in self._seen), sum(count for _, count in self._seen)
        self.found.append(tokens / seconds)
        self.tokens, self.places, self.steps = self.tokens + tokens, self.places + places, self.steps + steps


if __name__ == "__main__":
    main()
