"""Generation by transformers in this process: one base, answering as itself or through a LoRA adapter."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fgpipe import progress
from fgpipe.config import ModelConfig
from fgpipe.engines.protocol import Completion, Exemplar, GenerationError, TokenScores
from fgpipe.errors import EvaluationError
from fgpipe.functiongemma import tokens
from fgpipe.models import base

QUIET_S = 2.0
"""Work shorter than this shows no progress bar."""


class HfEngine:
    """A base model and, if given, a LoRA adapter on it. `generate` answers with the adapter, `base_only()` without.

    Use as a context manager: the model is loaded on entry and let go on exit.
    """

    def __init__(self, model: ModelConfig, adapter: Path | None = None, *, batch_size: int = 32) -> None:
        self._config = model
        self._adapter = adapter
        self._batch_size = batch_size
        self._model: Any = None
        self._tokenizer: Any = None

    def __enter__(self) -> Self:
        self._tokenizer = base.load_tokenizer(self._config)
        loaded = base.load_model(self._config, training=False)
        self._model = (loaded if self._adapter is None else _with_adapter(loaded, self._adapter)).eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = self._tokenizer = None

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
        """See `Engine.generate`."""
        return self._answer(prompts, max_new_tokens, use_adapter=True)

    def score(self, exemplars: Sequence[Exemplar]) -> list[TokenScores]:
        """What the adapter thinks of each token of the answers."""
        return self._score(exemplars, use_adapter=True)

    def base_only(self) -> BaseView:
        """The same engine, answering as the base does."""
        return BaseView(self)

    def _answer(self, prompts: Sequence[str], max_new_tokens: int, *, use_adapter: bool) -> list[Completion]:
        if self._model is None:
            raise RuntimeError("HfEngine is used outside its `with` block")
        encoded = self.tokenise(prompts)
        self._refuse_unfit(encoded, max_new_tokens)
        # Equal lengths together waste the least padding; longest first, so that memory runs out at once or never.
        order = sorted(range(len(encoded)), key=lambda place: -len(encoded[place]))
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        answers: dict[int, Completion] = {}
        tuned = use_adapter and self._adapter is not None
        with (
            self._as_base(not tuned),
            _late_bar("answering, adapter" if tuned else "answering, base", len(prompts)) as move,
        ):
            for places in batches:
                answers.update(zip(places, self._answer_batch(encoded, places, max_new_tokens), strict=True))
                move(len(places))
        return [answers[place] for place in range(len(prompts))]

    def _score(self, exemplars: Sequence[Exemplar], *, use_adapter: bool) -> list[TokenScores]:
        if self._model is None:
            raise RuntimeError("HfEngine is used outside its `with` block")
        import torch

        tuned = use_adapter and self._adapter is not None
        scores = []
        with torch.inference_mode(), self._as_base(not tuned):
            # One at a time: no padding, so nothing but the weights can make a difference.
            for exemplar in exemplars:
                ids = torch.tensor([exemplar.prompt + exemplar.answer], device=self._model.device)
                length = len(exemplar.answer)
                # The head is the largest part of a small model: only where an answer's token is predicted.
                logits = self._model(input_ids=ids, logits_to_keep=length + 1).logits[0, :-1].float()
                wanted = ids[0, -length:].unsqueeze(1)
                log_probs = logits.log_softmax(dim=-1).gather(1, wanted).squeeze(1)
                scores.append(TokenScores(log_probs.tolist(), logits.argmax(dim=-1).tolist()))
        return scores

    def tokenise(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts, as `generate` gives them to the model."""
        return [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _as_base(self, base_only: bool) -> AbstractContextManager[Any]:
        if base_only and self._adapter is not None:
            disabled: AbstractContextManager[Any] = self._model.disable_adapter()
            return disabled
        return nullcontext()

    def _refuse_unfit(self, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        longest = self._model.config.max_position_embeddings - max_new_tokens
        for place, ids in enumerate(encoded):
            if not 0 < len(ids) <= longest:
                raise GenerationError(
                    f"prompt: got {len(ids)} tokens, expected 1 to {longest} (context less {max_new_tokens} new ones)",
                    places=[place],
                    hint="shorten the row, or lower evaluate.max_new_tokens",
                )

    def _answer_batch(
        self, encoded: Sequence[Sequence[int]], places: list[int], max_new_tokens: int
    ) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        width = max(len(encoded[place]) for place in places)
        ids = torch.tensor(
            [[tokens.SPECIAL_TOKEN_IDS[tokens.PAD]] * (width - len(encoded[p])) + list(encoded[p]) for p in places]
        )
        mask = torch.tensor([[0] * (width - len(encoded[p])) + [1] * len(encoded[p]) for p in places])
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(tokens.STOP_TOKEN_IDS),
            pad_token_id=tokens.SPECIAL_TOKEN_IDS[tokens.PAD],
        )
        try:
            with torch.inference_mode():
                generated = self._model.generate(
                    input_ids=ids.to(self._model.device),
                    attention_mask=mask.to(self._model.device),
                    generation_config=greedy,
                    logits_processor=[_finite_or_fail(places)],
                )
        except (RuntimeError, ValueError, IndexError) as error:
            # Out of memory is a RuntimeError too.
            raise GenerationError(
                f"generation failed: {_first_line(error)}",
                places=places,
                hint="if memory ran out, lower evaluate.batch_size",
            ) from error
        return [self._completion(row) for row in generated[:, width:].tolist()]

    def _completion(self, ids: list[int]) -> Completion:
        """The answer in a row of generated ids, which is padded after its stop."""
        stop = next((place for place, token in enumerate(ids) if token in tokens.STOP_TOKEN_IDS), None)
        text = self.decode(ids[:stop])
        if stop is None:
            return Completion(text, ids, "length")
        return Completion(text, ids[: stop + 1], "stop")


@dataclass(frozen=True)
class BaseView:
    """An engine over another's base, its adapter switched off."""

    engine: HfEngine

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
        """See `Engine.generate`."""
        return self.engine._answer(prompts, max_new_tokens, use_adapter=False)

    def score(self, exemplars: Sequence[Exemplar]) -> list[TokenScores]:
        """What the base thinks of each token of the answers."""
        return self.engine._score(exemplars, use_adapter=False)


def _with_adapter(model: Any, adapter: Path) -> Any:
    """`model` wrapped by PEFT with the LoRA weights in the folder `adapter`."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        # Asked first: PEFT would look for a missing file on the hub, or read a pickle instead.
        if not (adapter / name).is_file():
            raise EvaluationError(
                f"{adapter}: got no {name}, expected a PEFT LoRA folder", hint="python -m fgpipe train … makes one"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise _unfit(adapter, _first_line(error)) from error
    # PEFT passes over tensors that have no place, and only warns of layers that get none.
    wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        astray = sorted(wanted ^ set(file.keys()))
    if astray:
        raise _unfit(adapter, f"{len(astray)} tensors missing or without a layer, such as {astray[0]}")
    return wrapped


def _unfit(adapter: Path, reason: str) -> EvaluationError:
    return EvaluationError(
        f"{adapter}: got weights that do not fit the base ({reason})",
        hint="python -m fgpipe validate … tells which rule is broken",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _finite_or_fail(places: Sequence[int]) -> Callable[[Any, Any], Any]:
    """A logits processor that stops at NaN: greedy search would take it for a token and the answer would be scored."""

    def check(input_ids: Any, scores: Any) -> Any:
        finite = scores.max(dim=-1).values.isfinite().tolist()
        if not all(finite):
            broken = [place for place, fine in zip(places, finite, strict=True) if not fine]
            raise GenerationError("generation failed: got NaN or infinite logits", places=broken)
        return scores

    return check


@contextmanager
def _late_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that appears only once QUIET_S have passed; yields the function that moves it."""
    start, done = time.monotonic(), 0
    shown: list[tuple[Any, Any]] = []
    with ExitStack() as stack:

        def move(count: int) -> None:
            nonlocal done
            done += count
            if not shown and time.monotonic() - start > QUIET_S and done < total:
                shown.append(stack.enter_context(progress.bar(description, total)))
            for bar, task in shown:
                bar.update(task, completed=done)

        yield move
