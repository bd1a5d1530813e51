"""Whether an adapter answers in the server as it was trained: asked of the running server, token by token.

transformers with PEFT answers held-out prompts greedily; then it, and the server, say how probable every token of
those answers is. Equal numbers mean equal models; no status code can say so: vLLM answers 200 for adapters it ignores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fgpipe.config import ModelConfig
from fgpipe.engines.hf import HfEngine
from fgpipe.engines.http import HttpEngine, server_version
from fgpipe.engines.protocol import Exemplar, ModelRefusedError, TokenScores
from fgpipe.errors import ValidationError
from fgpipe.models import base
from fgpipe.validation.drift import THRESHOLDS, Distances, Thresholds, Verdict, between, coarser, finite, judge

__all__ = ["ParityReport", "Reference", "check", "choose_prompts", "coarser", "compare", "dtype_of", "reference"]

ANSWER_TOKENS = 64
"""Longest answer compared: calls are shorter, and a model that rambles shows in its first tokens."""


@dataclass(frozen=True)
class Reference:
    """What the server is held against: answers of the adapter as trained, scored with and without it."""

    exemplars: list[Exemplar]
    adapter: list[TokenScores]
    base: list[TokenScores]
    texts: dict[int, str]
    """The text of each token that occurs in an answer."""


@dataclass(frozen=True)
class ParityReport:
    """What was found. `distances` is None if the server refused."""

    verdict: Verdict
    reason: str
    served: str
    """The model name asked for."""
    dtype: str
    thresholds: Thresholds
    prompts: int
    tokens: int
    distances: Distances | None
    texts: dict[int, str]
    vllm_version: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the adapter may be served."""
        return self.verdict == "same as trained"

    @property
    def line(self) -> str:
        """All of it in one line, for a terminal or a model card."""
        where = f"{self.prompts} prompts, {self.dtype}, vLLM {self.vllm_version}"
        if self.distances is None:
            return f"{self.verdict}: {self.reason} ({where})"
        drift, limits = self.distances.drift, self.thresholds
        agreed = round(drift.agreement * self.tokens)
        figures = (
            f"{agreed} of {self.tokens} tokens agree, log-prob drift {drift.mean:.1e} on average "
            f"(limit {limits.mean:g}), {drift.max:.1e} at most (limit {limits.max:g}), "
            f"{self.distances.from_base.mean:.2g} from the base"
        )
        return f"{self.verdict}: {figures}; {where}"

    def as_json(self) -> dict[str, Any]:
        """Plain data for manifests and scripts."""
        found: dict[str, Any] = {
            "verdict": self.verdict,
            "passed": self.passed,
            "reason": self.reason,
            "served": self.served,
            "dtype": self.dtype,
            "thresholds": asdict(self.thresholds),
            "prompts": self.prompts,
            "tokens": self.tokens,
        }
        if self.distances is not None:
            drift = self.distances.drift
            found |= {"token_agreement": drift.agreement, "drift": drift.as_json()}
            found["drift"]["place"]["text"] = self.texts.get(drift.place.token_id, "")
            found |= {
                "from_base": finite(self.distances.from_base.mean),
                "effect": finite(self.distances.effect.mean),
                "base_drift": finite(self.distances.base_drift.mean),
            }
        return {**found, "vllm": self.vllm_version, "seconds": round(self.seconds, 1), "line": self.line}

    def explanation(self) -> str:
        """The reason, and where the difference is largest."""
        if self.distances is None:
            return self.reason
        drift, place = self.distances.drift, self.distances.drift.place
        return (
            f"{self.reason}; {drift.agreement:.1%} of {self.tokens} tokens agree, drift {drift.mean:.2g} on average; "
            f"largest at prompt {place.prompt} of {self.prompts}, token {place.token} "
            f"({self.texts.get(place.token_id, '')!r}): "
            f"log-prob {place.expected:.4g} as trained, {place.found:.4g} as served"
        )


HINTS: dict[Verdict, str] = {
    "drifted": "python -m fgpipe validate names what may be wrong with it; does the server read these very files?",
    "not applied": "its tensors match no module of the server's base: python -m fgpipe validate says which",
    "no effect": "train longer (train.epochs) or faster (train.learning_rate); --no-parity publishes it nevertheless",
    "refused": "python -m fgpipe validate says which rule is broken; the server's log has its reason",
}


def check(
    model: ModelConfig,
    adapter: Path,
    prompts: Sequence[str],
    *,
    base_url: str,
    served: str,
    served_base: str | None = None,
) -> ParityReport:
    """Compare the PEFT folder `adapter` as transformers runs it with the model `served` of the server at `base_url`.

    Args:
        model: the base the adapter was trained on; its `dtype` is the server's too.
        prompts: rendered text, `<bos>` included; held-out ones say most.
        served: name of the adapter in the server.
        served_base: name of the base in the server; None takes `model.id`.

    Raises:
        EvaluationError: transformers cannot load the adapter or answer with it.
        ServeError: there is no such server, or it does not let us in.
        ValidationError: `prompts` is empty.
    """
    known = reference(model, adapter, prompts)
    return compare(known, base_url=base_url, served=served, served_base=served_base or model.id, dtype=dtype_of(model))


def dtype_of(model: ModelConfig) -> str:
    """Number format that decides the thresholds."""
    return base.dtype_name(model)


def reference(
    model: ModelConfig, adapter: Path, prompts: Sequence[str], *, answer_tokens: int = ANSWER_TOKENS
) -> Reference:
    """Greedy answers of `adapter` to `prompts`, at most `answer_tokens` each, scored; the model is let go again.

    Raises:
        EvaluationError: the adapter cannot be loaded, or answers NaN.
        ValidationError: `prompts` is empty.
    """
    if not prompts:
        raise ValidationError("parity: got no prompts, expected at least one", hint="publish.parity_prompts=16")
    with HfEngine(model, adapter, batch_size=8) as engine:
        answers = engine.generate(prompts, max_new_tokens=answer_tokens)
        pairs = zip(engine.tokenise(prompts), answers, strict=True)
        exemplars = [Exemplar(prompt, answer.token_ids) for prompt, answer in pairs]
        texts = {token: engine.decode([token]) for exemplar in exemplars for token in exemplar.answer}
        return Reference(exemplars, engine.score(exemplars), engine.base_only().score(exemplars), texts)


def compare(known: Reference, *, base_url: str, served: str, served_base: str, dtype: str) -> ParityReport:
    """Hold the model `served` against `known`."""
    began = time.monotonic()
    answers = [exemplar.answer for exemplar in known.exemplars]
    bare = HttpEngine(base_url, served_base).score(known.exemplars)
    distances: Distances | None = None
    verdict: Verdict
    try:
        found = HttpEngine(base_url, served).score(known.exemplars)
    except ModelRefusedError as error:
        verdict, reason = "refused", error.message
    else:
        distances = Distances(
            drift=between(known.adapter, found, answers),
            from_base=between(bare, found, answers),
            effect=between(known.base, known.adapter, answers),
            base_drift=between(known.base, bare, answers),
        )
        verdict, reason = judge(distances, THRESHOLDS[dtype])
    return ParityReport(
        verdict=verdict,
        reason=reason,
        served=served,
        dtype=dtype,
        thresholds=THRESHOLDS[dtype],
        prompts=len(answers),
        tokens=sum(map(len, answers)),
        distances=distances,
        texts=known.texts,
        vllm_version=server_version(base_url),
        seconds=time.monotonic() - began,
    )


def require_parity(report: ParityReport) -> None:
    """Return if the adapter is served as it was trained.

    Raises:
        ValidationError: it is not; the message says how far it is off, and where.
    """
    if not report.passed:
        raise ValidationError(
            f"parity of {report.served}: got {report.verdict!r}, expected 'same as trained': {report.explanation()}",
            hint=HINTS[report.verdict],
        )


def choose_prompts(points: Sequence[dict[str, Any]], count: int) -> list[str]:
    """At most `count` prompts of held-out `points`, the same whatever their order; each kind of wording gets its turn.

    Args:
        points: lines of the format stage's `evaluation.jsonl`: `id`, `prompt`, `meta`.
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: (str(point["id"]), point["prompt"])):
        kinds.setdefault(str((point.get("meta") or {}).get("wording", "")), []).append(point)
    turns = [(turn, kind, point["prompt"]) for kind, group in kinds.items() for turn, point in enumerate(group)]
    return [prompt for _, _, prompt in sorted(turns)[:count]]
