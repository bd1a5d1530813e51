"""Generation by a running vLLM server, through the OpenAI client: raw completions, or a question with tools."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgpipe import keys
from fgpipe.engines.protocol import Completion, Exemplar, GenerationError, ModelRefusedError, TokenScores
from fgpipe.errors import ServeError
from fgpipe.keys import CLIENT_KEY_VARIABLE

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_S = 600.0
"""For one request, queueing in the server included."""


NOT_A_NUMBER = "not JSON compliant"
"""vLLM cannot write NaN, so it answers 400 with this; without log-probs such a model answers 200 and nothing."""


@dataclass(frozen=True)
class Answer:
    """What a model said to a question.

    Attributes:
        content: prose; "" if it only called functions.
        calls: `{"name", "arguments"}` of each call, arguments decoded from the JSON that came over the wire.
        finish_reason: "tool_calls", "stop" or "length".
    """

    content: str
    calls: list[dict[str, Any]]
    finish_reason: str


@dataclass(frozen=True)
class HttpEngine:
    """The `Engine` protocol over a server: `model` names the base or an adapter, `base_url` has no `/v1`."""

    base_url: str
    model: str

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[Completion]:
        """See `Engine.generate`; the server batches the prompts as it likes."""
        import openai

        if not prompts:
            return []
        try:
            answer = client(self.base_url).completions.create(
                model=self.model,
                prompt=list(prompts),
                max_tokens=max_new_tokens,
                temperature=0,
                # The prompts hold their <bos>; calls hold special tokens; the stops are the server's own.
                extra_body={"add_special_tokens": False, "skip_special_tokens": False, "return_token_ids": True},
            )
        except openai.OpenAIError as error:
            raise GenerationError(
                f"{self.base_url}: got {_said(error)}, expected {len(prompts)} answers by {self.model}",
                places=range(len(prompts)),
            ) from error
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        return [
            Completion(
                choice.text,
                list((choice.model_extra or {}).get("token_ids") or []),
                "length" if choice.finish_reason == "length" else "stop",
            )
            for choice in choices
        ]

    def score(self, exemplars: Sequence[Exemplar]) -> list[TokenScores]:
        """What `model` thinks of each token of the answers.

        The server computes these afresh: it never reads its prefix cache for a request that asks for them. Where one
        answer has a NaN, all are NaN.

        Raises:
            ModelRefusedError: the server has no such model, cannot load it, or cannot answer with it.
            ServeError: there is no server.
        """
        import openai

        try:
            with client(self.base_url) as connection:
                answer = connection.completions.create(
                    model=self.model,
                    prompt=[exemplar.prompt + exemplar.answer for exemplar in exemplars],
                    max_tokens=1,
                    temperature=0,
                    extra_body={"add_special_tokens": False, "prompt_logprobs": 1},
                )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ServeError(
                f"{self.base_url}: got {_said(error)}, expected to be let in",
                hint=f"{CLIENT_KEY_VARIABLE} holds the key the server was started with",
            ) from error
        except openai.APIStatusError as error:
            if NOT_A_NUMBER in _said(error):
                return [TokenScores([math.nan] * len(one.answer), [-1] * len(one.answer)) for one in exemplars]
            raise ModelRefusedError(f"{self.base_url}: got {_said(error)}, expected scores by {self.model}") from error
        except openai.OpenAIError as error:
            raise ServeError(f"{self.base_url}: got {_said(error)}, expected scores by {self.model}") from error
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        return [_scores(choice, exemplar) for choice, exemplar in zip(choices, exemplars, strict=True)]


def _scores(choice: Any, exemplar: Exemplar) -> TokenScores:
    """The scores in vLLM's `prompt_logprobs`: for each token of the prompt, itself and the most probable one."""
    places = (choice.model_extra or {})["prompt_logprobs"][len(exemplar.prompt) :]
    log_probs, best = [], []
    for place, token in zip(places, exemplar.answer, strict=True):
        log_prob = place[str(token)]["logprob"]
        log_probs.append(math.nan if log_prob is None else float(log_prob))
        best.append(next((int(other) for other, entry in place.items() if entry["rank"] == 1), -1))
    return TokenScores(log_probs, best)


def ask(
    base_url: str,
    *,
    model: str,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] = (),
    max_new_tokens: int = 256,
) -> Answer:
    """One greedy answer to `messages`, which may call `tools`, as any OpenAI client would get it.

    Raises:
        ServeError: the server cannot be reached, or refuses.
    """
    import openai

    request: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_new_tokens,
        "temperature": 0,
    }
    if tools:
        request["tools"] = list(tools)
    try:
        choice = client(base_url).chat.completions.create(**request).choices[0]
    except openai.OpenAIError as error:
        raise ServeError(
            f"{base_url}: got {_said(error)}, expected an answer by {model}",
            hint="python -m fgpipe adapters lists what is published, `curl <address>/v1/models` what is loaded",
        ) from error
    calls = [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in choice.message.tool_calls or []
        if call.type == "function"
    ]
    return Answer(choice.message.content or "", calls, choice.finish_reason)


def server_version(base_url: str) -> str:
    """The version of vLLM that answers at `base_url`; "unknown" if it does not tell."""
    import openai

    try:
        with client(base_url) as connection:
            answer = connection.get(f"{base_url}/version", cast_to=object)
    except openai.OpenAIError:
        return "unknown"
    return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else "unknown"


def client(base_url: str) -> OpenAI:
    """An OpenAI client for the server at `base_url`."""
    from openai import DefaultHttpxClient, OpenAI

    # A proxy of the environment would answer in the place of a server of ours.
    transport = DefaultHttpxClient(trust_env=False)
    # The client wants some text even where no key is asked for.
    key = keys.read(CLIENT_KEY_VARIABLE) or "none"
    made = OpenAI(base_url=f"{base_url}/v1", api_key=key, timeout=TIMEOUT_S, max_retries=0, http_client=transport)
    weakref.finalize(made, transport.close)
    return made


def _said(error: Exception) -> str:
    """The server's own message, or the kind of fault, in a line."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return f"HTTP {getattr(error, 'status_code', '?')} ({body['message']})"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
