"""The base and the rows that `training.py` trains on, made here: random weights and random words in calls of tools.

Speed and memory depend on shapes and lengths alone; nothing here says anything about what an adapter learns.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe import resources
from fgpipe.chat import encode
from fgpipe.config import ModelConfig, ModelShape
from fgpipe.functiongemma.tokens import TRIGGER_SENTENCE
from fgpipe.models import base

SHAPES = {
    "functiongemma": ModelShape(),
    "tiny": ModelShape(
        vocab_size=4800,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    ),
}
"""`tiny` is for trying the scripts without a GPU: 4,800 tokens are those of the shipped tokenizer."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")

MEAN_TOKENS, SPREAD, LONGEST_TOKENS, LEARNT = 350, 0.5, 1000, 0.15
"""Lengths are log-normal with this mean and standard deviation of the logarithm; LEARNT of a row is its answer."""

WORDS = """
the a of to in for on with from at by about after before over under river harbour garden train ticket order table window
letter price market doctor teacher number report meeting morning evening week month city street house room small large
early late quick slow open closed new old red green blue send find book move check change cancel keep
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Base:
    """A base on disk."""

    path: Path
    shape: ModelShape

    @property
    def words(self) -> list[str]:
        """What makes fgpipe's command line use it."""
        changed = [
            f"model.shape.{name}={value}"
            for name, value in self.shape.model_dump().items()
            if value != getattr(ModelShape(), name)
        ]
        return ["model=functiongemma-270m", f"model.path={self.path}", "model.id=random/functiongemma-shape", *changed]

    @property
    def config(self) -> ModelConfig:
        """The same for the Python API."""
        return ModelConfig(id="random/functiongemma-shape", path=str(self.path), shape=self.shape)


def make_base(folder: Path, kind: str) -> Base:
    """The base of SHAPES[kind] in `folder`, made unless it is there: weights in bfloat16, the shipped tokenizer."""
    made = Base(folder / f"base-{kind}", SHAPES[kind])
    if not (made.path / "done").exists():
        shutil.rmtree(made.path, ignore_errors=True)
        made.path.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            shutil.copyfile(resources.resolve("data/tiny") / name, made.path / name)
        _write_weights(made)
        (made.path / "done").touch()
    return made


def _write_weights(made: Base) -> None:
    import torch
    from transformers import Gemma3ForCausalLM
    from transformers.utils import logging

    torch.manual_seed(0)
    model = Gemma3ForCausalLM(gemma_config(made.shape))
    generation = (made.path / "generation_config.json").read_text()
    logging.disable_progress_bar()
    model.to(torch.bfloat16).save_pretrained(made.path)
    (made.path / "generation_config.json").write_text(generation)


def gemma_config(shape: ModelShape) -> Any:
    """A configuration of transformers: five layers with a window to one without, as FunctionGemma has them."""
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(
        **shape.model_dump(),
        sliding_window=512,
        query_pre_attn_scalar=shape.head_dim,
        max_position_embeddings=32768,
        layer_types=[
            "full_attention" if (number + 1) % 6 == 0 else "sliding_attention"
            for number in range(shape.num_hidden_layers)
        ],
    )
    config.architectures = ["Gemma3ForCausalLM"]
    return config


def make_rows(file: Path, made: Base, *, count: int, seed: int) -> Path:
    """`count` conversations in `file`, made unless it is there: a request in random words, a call that answers it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        with open(aside, "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in _rows(made, count, random.Random(seed)))
        aside.rename(file)
    return file


def _rows(made: Base, count: int, source: random.Random) -> Iterator[dict[str, Any]]:
    tokenizer = base.load_tokenizer(made.config)
    sizes = {word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in WORDS}

    def text(tokens: int) -> str:
        """Random words of about so many tokens; words do not merge, so their tokens add up."""
        chosen = []
        while tokens > 0:
            chosen.append(source.choice(WORDS))
            tokens -= sizes[chosen[-1]]
        return " ".join(chosen)

    tools = [_tools(source, number % 3 + 1) for number in range(24)]
    fixed = [_frame_tokens(entry, tokenizer) for entry in tools]
    for _ in range(count):
        wanted = min(LONGEST_TOKENS, source.lognormvariate(math.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD))
        fitting = [place for place, (prompt, _) in enumerate(fixed) if prompt < 0.8 * wanted]
        place = source.choice(fitting) if fitting else min(range(len(fixed)), key=lambda place: fixed[place][0])
        prompt, answer = fixed[place]
        learnt = max(answer + 2, round(LEARNT * wanted))
        request, note = text(max(8, round(wanted) - learnt - prompt)), text(learnt - answer)
        yield _row(tools[place], request, note)


def _tools(source: random.Random, count: int) -> list[dict[str, Any]]:
    """Declarations; the first is the one called."""
    made = []
    for name in source.sample(
        ["add_note", "find_place", "move_item", "send_message", "set_timer", "book_table"], count
    ):
        words = " ".join(source.sample(WORDS, 6))
        properties = {
            "text": {"type": "string", "description": f"{words}."},
            "level": {"type": "integer", "description": "From 1 to 9."},
        }
        parameters = {"type": "object", "properties": properties, "required": ["text"]}
        function = {"name": name, "description": f"{words}.", "parameters": parameters}
        made.append({"type": "function", "function": function})
    return made


def _row(tools: list[dict[str, Any]], request: str, note: str) -> dict[str, Any]:
    call = {"name": tools[0]["function"]["name"], "arguments": {"text": note, "level": 3}}
    return {
        "messages": [
            {"role": "user", "content": request},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        ],
        "tools": tools,
    }


def _frame_tokens(tools: list[dict[str, Any]], tokenizer: Any) -> tuple[int, int]:
    """Tokens of a row without its random words: (before the answer, of the answer)."""
    row = _row(tools, "a", "a")
    developer = {"role": "developer", "content": TRIGGER_SENTENCE}
    encoded = encode({"id": "0", **row, "messages": [developer, *row["messages"]]}, tokenizer)
    learnt = sum(encoded.loss_mask)
    return len(encoded.input_ids) - learnt - 1, learnt - 1
