"""One question to a published adapter through a vLLM server, as any OpenAI client would ask it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe import trial
from fgpipe.artifacts import Dataset
from fgpipe.config import Config
from fgpipe.errors import DataError, ServeError
from fgpipe.progress import say


@dataclass(frozen=True)
class Exchange:
    """A question, the model it went to, and what came back.

    Attributes:
        calls: `{"name", "arguments"}` of each call.
        expected: the calls the held-out row expects; None for a question of the user's own.
        results: a line per call that could be executed (sqlite tasks), in the order of the calls.
    """

    model: str
    context: str
    question: str
    content: str
    calls: list[dict[str, Any]]
    expected: list[dict[str, Any]] | None
    results: list[str]


def ask(config: Config, dataset: Dataset, *, question: str | None = None) -> Exchange:
    """Put a held-out question, or `question` in the same setting, to the adapter and to nobody else.

    Uses the server of the configuration if it runs, else one of its own for as long as the question takes.

    Raises:
        ServeError: no server answers and none can be started, or it refuses.
    """
    from fgpipe.engines import http

    row = _example(dataset)
    messages = _prompt(row, question)
    with _server(config) as base_url:
        answer = http.ask(base_url, model=config.adapter_name, messages=messages, tools=row["tools"])
    return Exchange(
        model=config.adapter_name,
        context=str(messages[0]["content"]) if messages[0]["role"] == "developer" else "",
        question=str(messages[-1]["content"]),
        content=answer.content,
        calls=answer.calls,
        expected=_calls(row["messages"][len(messages)]) if question is None else None,
        results=_results(row, answer.calls),
    )


def render_exchange(exchange: Exchange) -> str:
    """The exchange as lines for a terminal."""
    lines = [f"asked {exchange.model}: {exchange.question}"]
    lines += [f"  {line}" for line in exchange.context.splitlines()]
    for call in exchange.calls:
        lines.append(f"called: {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})")
    if exchange.content:
        lines.append(f"said: {exchange.content}")
    lines += [f"result: {line}" for line in exchange.results]
    if exchange.expected is not None:
        same = "yes" if exchange.calls == exchange.expected else f"no, expected {json.dumps(exchange.expected)}"
        lines.append(f"as the held-out row has it: {same}")
    return "\n".join(lines)


def _example(dataset: Dataset) -> dict[str, Any]:
    """The first held-out row that is one question answered by a call."""
    for row in dataset.rows("evaluation"):
        roles = [message["role"] for message in row["messages"]]
        if roles in (["user", "assistant"], ["developer", "user", "assistant"]) and row["messages"][-1].get(
            "tool_calls"
        ):
            return row
    raise DataError(f"{dataset.path}: got no held-out row with a question answered by a call, expected one to ask")


def _prompt(row: dict[str, Any], question: str | None) -> list[dict[str, Any]]:
    messages = [dict(message) for message in row["messages"][:-1]]
    if question is not None:
        messages[-1]["content"] = question
    return messages


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in message["tool_calls"]
    ]


def _results(row: dict[str, Any], calls: list[dict[str, Any]]) -> list[str]:
    """What each call's query returns, for rows that bring a database."""
    script = row.get("meta", {}).get("sqlite")
    if not script:
        return []
    from fgpipe.evaluation import queries

    lines = []
    with queries.Database(script) as database:
        for call in calls:
            try:
                lines.append(str(database.select(str(call["arguments"].get("query", ""))).rows))
            except queries.QueryError as error:
                lines.append(str(error))
    return lines


@contextmanager
def _server(config: Config) -> Iterator[str]:
    """Address of a server with this base and these adapters: the running one, or one that ends with the block."""
    from fgpipe import serving

    url = _running(config)
    if url is not None:
        say(f"vLLM at {url} answers")
        yield url
        return
    here = config.server.model_copy(update={"host": "127.0.0.1", "port": trial.free_port()})
    with serving.VllmServer(config.model, here, adapters=Path(config.paths.adapters)) as server:
        yield server.base_url


def _running(config: Config) -> str | None:
    """Address of the first configured server that runs with this base."""
    from fgpipe.serving import sync

    found, _ = sync.running(config)
    return found[0].url if found else None


def can_serve(config: Config) -> bool:
    """Whether a question could be answered here: a server runs, or vLLM is installed."""
    from fgpipe import serving

    try:
        return _running(config) is not None or bool(serving.installed_build())
    except ServeError:
        return False
