"""How well a tiny model does on corpus rows it has never seen: exact match by skill, with intervals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgpipe.functiongemma import STOP_TOKEN_IDS, parse, segments
from fgpipe.models.tiny import corpus
from fgpipe.models.tiny.corpus_rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LONGEST_ANSWER_TOKENS = 220
_BATCH = 32


@dataclass(frozen=True)
class SkillScore:
    """Rows of one skill, those answered exactly, and the 95 % Wilson interval of the share in percent."""

    skill: str
    rows: int
    right: int
    low: float
    high: float


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, in percent."""
    z, share = 1.959964, right / rows
    centre, spread = share + z * z / (2 * rows), z * ((share * (1 - share) + z * z / (4 * rows)) / rows) ** 0.5
    return tuple(100 * (centre + side * spread) / (1 + z * z / rows) for side in (-1, 1))  # type: ignore[return-value]


def prompt_and_answer(row: Row) -> tuple[str, str]:
    """The text before the last thing the model must produce, and that thing."""
    cut = segments(row["messages"], row["tools"])
    last = max(i for i, segment in enumerate(cut) if segment.trained)
    return "".join(segment.text for segment in cut[:last]), cut[last].text


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Greedy continuations, stop token included; prompts of like length share a batch."""
    import torch

    encoded = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        longest = max(len(encoded[i]) for i in chosen)
        ids = torch.tensor([[0] * (longest - len(encoded[i])) + encoded[i] for i in chosen], device=model.device)
        with torch.no_grad():
            out = model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=(ids != 0).long(), max_new_tokens=LONGEST_ANSWER_TOKENS, do_sample=False
            )
        for i, tokens in zip(chosen, out[:, longest:].tolist(), strict=True):
            end = next((n + 1 for n, token in enumerate(tokens) if token in STOP_TOKEN_IDS), len(tokens))
            texts[i] = tokenizer.decode(tokens[:end])
    return texts


def _is_right(skill: str, answer: str, given: str) -> bool:
    return not parse(given) if skill == "decline" else given == answer


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, rows: int, seed: int) -> list[SkillScore]:
    """Exact match on `rows` fresh rows of each skill; for refusals, that nothing is called."""
    rng = random.Random(f"score-{seed}")
    found = []
    for skill, (_, make) in corpus.SKILLS.items():
        pairs = [prompt_and_answer(make(rng)) for _ in range(rows)]
        given = generate(model, tokenizer, [prompt for prompt, _ in pairs])
        right = sum(_is_right(skill, answer, text) for (_, answer), text in zip(pairs, given, strict=True))
        found.append(SkillScore(skill, rows, right, *wilson(right, rows)))
    return found


def table(scores: Sequence[SkillScore]) -> str:
    """The scores as a Markdown table."""
    lines = ["| skill | rows | exact match | 95 % interval |", "|---|---|---|---|"]
    lines += [f"| {s.skill} | {s.rows} | {100 * s.right / s.rows:.1f} % | {s.low:.1f} – {s.high:.1f} |" for s in scores]
    return "\n".join(lines)


def load(folder: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model in `folder`, ready to generate, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    return model, AutoTokenizer.from_pretrained(folder)
