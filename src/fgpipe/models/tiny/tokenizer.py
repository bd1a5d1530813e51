"""The tiny model's tokenizer: byte-level BPE, lossless, with FunctionGemma's special tokens at FunctionGemma's ids.

Made for copying: a word is cut the same way with and without a space before it (the space joins the first piece last
of all), identifiers are cut at `_` and at inner capitals, digits and signs stand alone, a line feed joins nothing.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fgpipe.functiongemma.tokens import NEWLINE_TOKEN_ID, SPECIAL_FLAGS, SPECIAL_TOKEN_IDS, UNUSED_TOKEN_IDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 4800
SPACED_TOKENS = 1200
"""How many tokens also exist with a space before them."""
_WORD = r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])"
_PIECES = r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[\s\S]"
SPACED_PIECES = r" ?[A-Z]?[a-z]+| ?[A-Z]+(?![a-z])|[\s\S]"
_SPECIAL = {identity: token for token, identity in SPECIAL_TOKEN_IDS.items() if SPECIAL_FLAGS[token]}
_MARKERS = {
    **{identity: token for token, identity in SPECIAL_TOKEN_IDS.items() if not SPECIAL_FLAGS[token]},
    **{identity: token for token, identity in UNUSED_TOKEN_IDS.items()},
}


def _plain_bpe(texts: Iterable[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges learned on words without their spaces."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    )
    model = json.loads(learner.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [(a, b) for a, b in model["merges"]]


def _assemble(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer with `tokens` on the ids that FunctionGemma's special tokens leave free."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    fixed = {**_SPECIAL, **_MARKERS, NEWLINE_TOKEN_ID: "Ċ"}
    vocabulary = {token: identity for identity, token in fixed.items()}
    free = (i for i in range(len(tokens) + len(fixed)) if i not in fixed)
    for token in tokens:
        if token not in vocabulary:
            vocabulary[token] = next(free)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPACED_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    for identity in sorted({**_SPECIAL, **_MARKERS}):
        special = identity in _SPECIAL
        added = AddedToken((_SPECIAL if special else _MARKERS)[identity], special=special, normalized=False)
        (made.add_special_tokens if special else made.add_tokens)([added])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 2)]
    )
    return made


def learn(texts: list[str]) -> Tokenizer:
    """The tokenizer of `VOCABULARY_SIZE` entries that suits `texts` (rendered conversations)."""
    from tokenizers import Regex, pre_tokenizers

    fixed = len(_SPECIAL) + len(_MARKERS)
    tokens, merges = _plain_bpe(texts, VOCABULARY_SIZE - fixed - SPACED_TOKENS)
    plain = _assemble(tokens, merges)
    split = pre_tokenizers.Split(Regex(rf" (?:{_WORD})"), "isolated")
    words = collections.Counter(
        piece for text in texts for piece, _ in split.pre_tokenize_str(text) if piece[0] == " " and len(piece) > 1
    )
    spaced: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        pieces = plain.encode(word.strip(), add_special_tokens=False).tokens
        if pieces:
            spaced[pieces[0]] += count
    joined = [token for token, _ in spaced.most_common(SPACED_TOKENS)]
    return _assemble(tokens + [f"Ġ{token}" for token in joined], merges + [("Ġ", token) for token in joined])


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers loads and saves it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
