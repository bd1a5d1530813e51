"""A random Gemma 3 of a few thousand weights with a byte-level tokenizer: it exercises every stage, and knows nothing.

Special tokens stand at FunctionGemma's ids, so masks, stops and prompts behave as with the real model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgpipe.artifacts import FormattedDataset, writing
from fgpipe.config import ModelConfig, ModelShape

SHAPE = ModelShape(
    vocab_size=384,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
)

CONTROL_TOKENS = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    3: "<unk>",
    50: "<start_function_response>",
    105: "<start_of_turn>",
    106: "<end_of_turn>",
}
"""Marked special: hidden by `skip_special_tokens=True`."""

CALL_TOKENS = {
    46: "<start_function_declaration>",
    47: "<end_function_declaration>",
    48: "<start_function_call>",
    49: "<end_function_call>",
    51: "<end_function_response>",
    52: "<escape>",
}
"""Single tokens, but ordinary text for `skip_special_tokens`."""

FIRST_BYTE_ID = 108


def save(folder: Path, *, shape: ModelShape = SHAPE, seed: int = 0, chat_template: str | None = None) -> ModelConfig:
    """Write model and tokenizer to `folder`; the configuration that loads them."""
    model(shape, seed=seed).save_pretrained(folder)
    text_tokenizer = tokenizer(shape.vocab_size)
    text_tokenizer.chat_template = chat_template
    text_tokenizer.save_pretrained(folder)
    return ModelConfig(name="tiny-random", id="fgpipe/tiny-random", path=str(folder), shape=shape)


def model(shape: ModelShape = SHAPE, *, seed: int = 0) -> Any:
    """A `Gemma3ForCausalLM` of `shape` in float32, weights drawn from `seed`."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shape.model_dump(),
                query_pre_attn_scalar=shape.head_dim,
                sliding_window=512,
                layer_types=["sliding_attention"] * (shape.num_hidden_layers - 1) + ["full_attention"],
                max_position_embeddings=4096,
                # A larger spread than Gemma's 0.02: at this width the answers would hardly depend on the prompt.
                initializer_range=0.1,
            )
        )
    built.generation_config.eos_token_id = [1, 50, 106]
    built.generation_config.pad_token_id = 0
    built.generation_config.do_sample = False
    return built.eval()


def tokenizer(vocab_size: int = SHAPE.vocab_size) -> Any:
    """One token a byte, ids from FIRST_BYTE_ID; free ids are `<unusedN>`; adds `<bos>` unless told not to."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: id_ for id_, token in {**CONTROL_TOKENS, **CALL_TOKENS}.items()}
    vocabulary.update(
        {byte: FIRST_BYTE_ID + place for place, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    )
    taken = set(vocabulary.values())
    vocabulary.update({f"<unused{id_}>": id_ for id_ in range(vocab_size) if id_ not in taken})
    built = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS.values()])
    built.add_tokens([AddedToken(token, special=False, normalized=False) for token in CALL_TOKENS.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of `prompt` + `answer`, and the loss mask: 1 on the answer."""
    text = tokenizer()
    before, after = (text(part, add_special_tokens=False)["input_ids"] for part in (prompt, answer))
    return [*before, *after], [0] * len(before) + [1] * len(after)


def formatted(out: Path, rows: Sequence[tuple[str, str]]) -> FormattedDataset:
    """A format-stage artefact with one training row per (prompt, answer) of rendered text, and no evaluation points.

    The first rows are held out as well: enough for a loss to be looked at.
    """
    import pyarrow
    import pyarrow.parquet

    encoded = [encode(prompt, answer) for prompt, answer in rows]
    table = pyarrow.table(
        {
            "id": [f"{number:016x}" for number in range(len(rows))],
            "input_ids": [ids for ids, _ in encoded],
            "loss_mask": [mask for _, mask in encoded],
        }
    )
    with writing(FormattedDataset, out, config={"rows": list(rows)}, inputs={}) as draft:
        pyarrow.parquet.write_table(table, draft.path / "train.parquet")
        pyarrow.parquet.write_table(table.slice(0, 6), draft.path / "held_out.parquet")
        (draft.path / "evaluation.jsonl").write_text("")
        (draft.path / "preview.jsonl").write_text("")
    return FormattedDataset.open(out)


def toy_rows(count: int = 24) -> list[tuple[str, str]]:
    """Rows of different lengths with a rule a small model can learn: the prompt's word chooses the function called."""
    rows = []
    for number in range(count):
        word = ("lamp", "door", "heating", "radio")[number % 4]
        question = f"{word} {'please ' * (number % 3)}{number}"
        prompt = f"<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
        rows.append((prompt, f"<start_function_call>call:{word}{{}}<end_function_call><start_function_response>"))
    return rows
