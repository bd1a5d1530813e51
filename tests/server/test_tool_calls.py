"""Calls under the server's grammar. A random model says anything it may, so what it may not say shows."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from fgpipe.engines.http import client
from fgpipe.functiongemma import ToolCall
from fgpipe.functiongemma.fit import FittedCall, declared_parameters, fit_call
from tiny_server import Served, chat_tools, free_tools

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PING = {"type": "function", "function": {"name": "ping"}}


def ask(served: Served, *, seed: int, stream: bool = False, tools: Any = None, **options: Any) -> tuple[Any, str, str]:
    """Calls, content and finish reason of a wild answer; different for each seed."""
    request: dict[str, Any] = {
        "model": "red",
        "messages": [{"role": "user", "content": f"go {seed}"}],
        "tools": tools or chat_tools(),
        "max_tokens": 1500,
        "temperature": 1.5,
        "seed": seed,
        **options,
    }
    chat = client(served.server.base_url).chat.completions
    if not stream:
        choice = chat.create(**request).choices[0]
        made = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        return made, choice.message.content or "", str(choice.finish_reason)
    calls, content, reason = [], "", ""
    for chunk in chat.create(**request, stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        calls += [(call.function.name, call.function.arguments) for call in choice.delta.tool_calls or []]
    return calls, content, reason


def assert_valid(calls: list[tuple[str, str]]) -> None:
    declared = declared_parameters(chat_tools())
    for name, arguments in calls:
        call = ToolCall(name, json.loads(arguments))
        assert fit_call(call, declared) == FittedCall(call)


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_made_and_valid(served: Served, stream: bool) -> None:
    """A 270M model would answer in prose where a call is needed, or call with arguments that the tool refuses."""
    for seed in range(6):
        calls, content, reason = ask(served, seed=seed, stream=stream, tool_choice="required")
        assert_valid(calls)
        if reason != "length":
            assert calls
            assert content == ""
            assert reason == "tool_calls"
        else:
            assert content.startswith("<start_function_call>call:")


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_function_is_the_one_that_is_called(served: Served, stream: bool) -> None:
    """A client that asks for one function would be given another."""
    for seed in range(3):
        calls, _, reason = ask(served, seed=seed, stream=stream, tool_choice=PING)
        assert set(calls) == {("ping", "{}")}
        assert reason in ("tool_calls", "stop")


def test_one_call_is_one_call_when_parallel_ones_are_switched_off(served: Served) -> None:
    """A client that runs one call at a time would lose the others."""
    for seed in range(4):
        assert ask(served, seed=seed, tool_choice=PING, parallel_tool_calls=False)[0] == [("ping", "{}")]
    many = [ask(served, seed=seed, tool_choice=PING)[0] for seed in range(8)]
    assert any(len(calls) > 1 for calls in many)


def test_without_a_demand_prose_stays_possible_and_calls_valid(served: Served) -> None:
    """Tools would force a call on every question, or a call made unasked would be unchecked."""
    answers = [ask(served, seed=seed, max_tokens=300) for seed in range(8)]
    assert any(content and not calls for calls, content, _ in answers)
    for calls, _, _ in answers:
        assert_valid(calls)


def test_the_stop_ends_the_answer_after_a_call(served: Served) -> None:
    """The model could not say that it is done, and would go on until max_tokens."""
    options: dict[str, Any] = {"tools": chat_tools()[1:], "tool_choice": "required", "parallel_tool_calls": False}
    assert ask(served, seed=0, temperature=0, **options) == ([("ping", "{}")], "", "tool_calls")


def test_strict_false_leaves_the_arguments_to_the_model(served: Served) -> None:
    """A client whose schema is looser than it says would have no way to switch the grammar off."""
    loose = {"type": "function", "function": {"name": "audio.set-volume"}}
    options = {"tools": free_tools(), "tool_choice": loose, "parallel_tool_calls": False}
    found = [ask(served, seed=seed, **options)[0] for seed in range(6)]
    made = [ToolCall(name, json.loads(text)) for calls in found for name, text in calls]
    assert any(fit_call(call, declared_parameters(chat_tools())).violations for call in made)


def test_counts_are_in_the_servers_metrics_by_adapter(served: Served) -> None:
    """Nobody could see which adapter makes calls that do not fit."""
    before = _counted(served, "fgpipe:tool_calls_total", "blue")
    ask(served, seed=1, model="blue", tool_choice=PING, parallel_tool_calls=False)
    ask(served, seed=1, model="blue", tool_choice=PING, parallel_tool_calls=False, stream=True)
    assert _counted(served, "fgpipe:tool_calls_total", "blue") == before + 2
    for name in ("tool_call_repairs", "tool_call_parse_failures", "tool_call_schema_violations"):
        assert _counted(served, f"fgpipe:{name}_total", "blue") == 0


def test_a_schema_beyond_the_grammar_is_answered_and_told(served: Served) -> None:
    """A tool with an unusual schema would make every request fail, or be thought to be checked."""
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "odd", "description": "", "parameters": parameters}}
    calls, _, _ = ask(served, seed=2, model="blue", tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert [name for name, _ in calls] in (["odd"], [])
    assert _counted(served, "fgpipe:tool_grammar_unenforced_requests_total", "blue") >= 1
    assert "odd.a: pattern not enforced" in (served.workshop.parent / "vllm.log").read_text()


def _counted(served: Served, name: str, model: str) -> float:
    with urllib.request.urlopen(f"{served.server.base_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model_name="{model}"}}'))
