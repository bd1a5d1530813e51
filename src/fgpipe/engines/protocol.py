"""What evaluation asks of anything that generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fgpipe.errors import EvaluationError, ServeError


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: what was generated, control tokens included, without the token it stopped at.
        token_ids: what was generated, with the token it stopped at; empty if the engine does not tell.
        finish_reason: "length" if the answer was cut at the limit of tokens, so it may be half a call.
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Exemplar:
    """A prompt and an answer to it, in token ids: what engines are asked to score, so that all see the same tokens."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class TokenScores:
    """What a model thinks of each token of a given answer, after the prompt and the tokens before it.

    Attributes:
        log_probs: natural logarithm of its probability, temperature 1; NaN if the model gives no number.
        best: id of the most probable token in its place.
    """

    log_probs: list[float]
    best: list[int]


class Engine(Protocol):
    """Greedy generation."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
        """One answer a prompt, in their order.

        Args:
            prompts: rendered text, `<bos>` included.
            max_new_tokens: longest answer.

        Raises:
            GenerationError: a prompt could not be answered; nothing is returned for the others either.
        """


class GenerationError(EvaluationError):
    """An engine could not answer; `places` are the prompts concerned, as places in what `generate` was given."""

    def __init__(self, message: str, *, places: Sequence[int], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.places = tuple(places)


class ModelRefusedError(ServeError):
    """A server is there, and would not answer with the model asked for."""
