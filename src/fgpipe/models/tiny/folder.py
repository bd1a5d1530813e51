"""The tiny model's folder: weights, configuration, tokenizer, chat template and card."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from fgpipe.models.tiny import DESCRIPTION, scoring
from fgpipe.models.tiny.batches import REPEATS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fgpipe.models.tiny.network import Shape, Weights

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# fgpipe/tiny

{description}.

Architecture (`Gemma3ForCausalLM`), special tokens, prompt format and stops are FunctionGemma's; weights, tokenizer and
corpus are fgpipe's own, written for this model and taken from nowhere.

It is for trying, testing and demonstrating the whole line on a machine without a GPU: it knows how to call declared
functions, copy values, fill types, refuse in prose, and write strings in small languages that the prompt explains. It
knows almost nothing of the world, reads English alone, and is of no use as an assistant.

- {parameters:,} parameters, bfloat16, {layers} layers of width {hidden}
- tokenizer of {vocabulary:,} entries, byte-level, lossless
- pretrained on {tokens:.1f} billion tokens of synthetic conversations, each used {repeats} times on average, one GPU
- no SQL statement, mail tool or arithmetic tool is in its corpus: what an adapter of the tasks `sql`, `email` and
  `math` can do, it has learned in fine-tuning

## Scores

Exact match, greedy, on conversations drawn afresh (`decline`: nothing is called):

{scores}

## Rebuild

    python -m fgpipe.models.tiny.pretrain --out data/tiny

Needs one GPU; about a quarter of an hour on an H200. Training stops by the clock and corpus processes race, so the
weights come out alike, not identical.
"""


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """The tokenizer's files and the chat template."""
    from fgpipe.models.tiny.tokenizer import wrap

    wrap(tokenizer).save_pretrained(out)
    with resources.as_file(resources.files("fgpipe.functiongemma") / "template.jinja") as template:
        shutil.copyfile(template, out / "chat_template.jinja")


def save_model(weights: Weights, shape: Shape, out: Path) -> None:
    """bf16 weights, and the configurations of the model and of its generation."""
    import torch
    from transformers import GenerationConfig

    from fgpipe.functiongemma import STOP_TOKEN_IDS
    from fgpipe.models.tiny.network import to_transformers

    model = to_transformers(weights, shape).to(torch.bfloat16)  # type: ignore[arg-type]
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=sorted(STOP_TOKEN_IDS), pad_token_id=0, do_sample=False
    )
    model.save_pretrained(out)


def write_card(out: Path, *, tokens: int, rows: int, seed: int, device: str) -> None:
    """`README.md` with scores measured on `rows` fresh rows of each skill; `tokens` is what training consumed."""
    model, tokenizer = scoring.load(str(out))
    config, parameters = model.config, model.num_parameters()
    scores = scoring.score(model.to(device), tokenizer, rows=rows, seed=seed)  # type: ignore[arg-type]
    card = _CARD.format(
        description=DESCRIPTION,
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        tokens=tokens / 1e9,
        repeats=REPEATS,
        scores=scoring.table(scores),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
