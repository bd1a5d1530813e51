"""The server as a client sees it. Everything here talks to one real vLLM process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError

import tiny_random
from fgpipe import functiongemma
from fgpipe.engines.http import client
from fgpipe.errors import ServeError
from fgpipe.serving import api, live
from tiny_server import Served, chat_tools, free_tools

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PROMPTS = [
    f"<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
    for question in ("How many orders came in?", "turn it up", "7 times 8")
]

BROKEN = {"name": "ping", "arguments": "[1]"}

HISTORY: list[dict[str, Any]] = [
    {"role": "developer", "content": "  You are a model that can do function calling with the following functions\n"},
    {"role": "user", "content": "Louder, and say hello"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "id": "c1",
                "function": {"name": "audio.set-volume", "arguments": {"level": 7, "mute": False}},
            },
            {"type": "function", "id": "c2", "function": {"name": "ping", "arguments": {}}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "audio.set-volume", "content": "set to 7"},
    {"role": "tool", "tool_call_id": "c2", "content": "hello"},
    {"role": "assistant", "content": "Done. "},
    {"role": "user", "content": [{"type": "text", "text": " Thank "}, {"type": "text", "text": "you"}]},
]


def test_base_and_adapters_each_give_their_own_answer_at_the_same_time(served: Served) -> None:
    """A batch that mixes adapters would mix up their answers, or ignore an adapter."""
    folders = {served.model.id: None, "red": served.make(1), "blue": served.make(2)}
    jobs = [(name, prompt) for prompt in PROMPTS for name in folders] * 2
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: served.answer(*job), jobs))
    for (name, prompt), answer in zip(jobs, answers, strict=True):
        assert answer == served.expected(folders[name], prompt), (name, prompt)
    for prompt in PROMPTS:
        assert len({tuple(answers[jobs.index((name, prompt))]) for name in folders}) == len(folders)


def test_the_base_stays_the_base_when_every_slot_is_taken(served: Served) -> None:
    """Requests to the base would be answered by whichever adapter is in the last slot, now and then."""
    names = {f"slot{seed}": seed for seed in (81, 82, 83, 84)}
    for name, seed in names.items():
        served.publish(name, seed)
        served.answer(name, PROMPTS[0])  # as many adapters as the server has slots
    jobs = [(name, prompt) for prompt in PROMPTS for name in (served.model.id, *names)] * 4
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: served.answer(*job), jobs))
    for (name, prompt), answer in zip(jobs, answers, strict=True):
        expected = served.expected(served.make(names[name]) if name in names else None, prompt)
        assert answer == expected, (name, prompt)


def test_a_server_started_without_adapters_serves_what_is_published_later(served: Served) -> None:
    """Each new adapter would need a restart, and every client would see an outage."""
    assert "ready" not in served.server.command  # the command names no adapter at all
    served.publish("late", 3)
    assert served.answer("late", PROMPTS[0]) == served.expected(served.make(3), PROMPTS[0])


def test_versions_and_aliases_can_be_asked_for_by_name(served: Served) -> None:
    """Nobody could pin a version, or compare a new one with the old."""
    assert (
        served.answer("red@v0001", PROMPTS[0])
        == served.answer("red@first", PROMPTS[0])
        == served.answer("red", PROMPTS[0])
    )


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "red@v0099",
        "red@nobody",
        "../workshop/1",
        "red/../blue",
        "red/v0001",
        "{adapters}/red/v0001",
        "RED",
        "red@../v0001",
        "red@",
        ".",
    ],
)
def test_names_that_are_not_published_are_not_found(served: Served, name: str) -> None:
    """A client could make the server read any folder of its machine."""
    with pytest.raises(NotFoundError):
        client(served.server.base_url).completions.create(
            model=name.format(adapters=served.adapters), prompt=PROMPTS[0], max_tokens=1
        )


def test_a_new_version_answers_after_refresh_and_the_old_one_by_its_number(served: Served) -> None:
    """After `publish` returned, clients would go on getting the old version's answers, or mixtures from the cache."""
    url = served.server.base_url
    served.publish("swap", 4)
    before = served.answer("swap", PROMPTS[0])
    served.publish("swap", 5)
    assert served.answer("swap", PROMPTS[0]) == before, "vLLM now looks at the pointer itself: refresh is not needed"
    assert live.refresh(url, "swap", expect="v0002") == live.answering(url, "swap") == "v0002"
    assert served.answer("swap", PROMPTS[0]) == served.expected(served.make(5), PROMPTS[0]) != before
    assert served.answer("swap@v0001", PROMPTS[0]) == before == served.expected(served.make(4), PROMPTS[0])
    served.point("swap", "v0001")
    assert live.refresh(url, "swap", expect="v0001") == "v0001"
    assert served.answer("swap", PROMPTS[0]) == before
    status = live.status(url)
    assert status is not None
    assert status.answers["swap"] == "swap@v0001"
    assert {"swap@v0001", "swap@v0002"} <= {*status.memory, *status.evicted}


def test_refresh_under_load_fails_no_request(served: Served) -> None:
    """Every publish would cost the requests that happen to arrive while the name changes hands."""
    served.publish("busy", 6)
    served.publish("busy", 7)
    chat = client(served.server.base_url).chat.completions
    messages: Any = [{"role": "user", "content": "words " * 100}]  # long enough to spend time between vLLM's two looks

    def say(name: str) -> str | None:
        return chat.create(model=name, messages=messages, max_tokens=2).choices[0].message.content

    allowed = {say("busy@v0001"), say("busy@v0002")}
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(say, "busy") for _ in range(160)]
        for version in ("v0001", "v0002") * 8:
            served.point("busy", version)
            live.refresh(served.server.base_url, "busy", expect=version)
        assert {job.result() for job in jobs} <= allowed


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(served: Served) -> None:
    """One damaged file in a new version would take the adapter out of service."""
    served.publish("solid", 8)
    before = served.answer("solid", PROMPTS[0])
    (served.publish("solid", 9) / "adapter_model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(api.RefusedError, match="vLLM can load"):
        live.refresh(served.server.base_url, "solid")
    assert served.answer("solid", PROMPTS[0]) == before


def test_refresh_refuses_names_nobody_published(served: Served) -> None:
    """A typing error in a rollback would look like success."""
    for name in ("nobody", "../workshop/1", "solid@v0099"):
        assert live.refresh(served.server.base_url, name) is None
        with pytest.raises(ServeError, match="answered by nobody"):
            live.refresh(served.server.base_url, name, expect="v0001")


def test_the_server_lists_what_it_can_answer_with(served: Served) -> None:
    """Clients that choose from the list would not see an adapter before somebody else asked for it."""
    served.publish("unasked", 3)
    listed = {entry["id"]: entry for entry in api.models(served.server.base_url)}
    assert listed["unasked"]["root"] == str(served.adapters / "unasked" / "v0001")
    assert listed["unasked"]["parent"] == served.model.id
    assert {"red", "blue", served.model.id} <= listed.keys()


def test_answers_say_which_version_gave_them(served: Served) -> None:
    """Nobody could tell from an answer, or a log of answers, whether it came from the old or the new version."""
    chat = client(served.server.base_url).chat.completions
    for name in ("red", "red@v0001", "red@first"):
        assert chat.create(model=name, messages=[{"role": "user", "content": "go"}], max_tokens=1).model == "red@v0001"


def test_routes_that_load_any_folder_are_closed(served: Served) -> None:
    """A client could make the server read any folder of its machine, or end its engine with a second copy."""
    load = {"lora_name": "x", "lora_path": str(served.make(1)), "name": "x", "src": str(served.make(1))}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "//adapters/", "/scale_elastic_ep"):
        with pytest.raises(api.RefusedError, match="closed"):
            api.fetch(f"{served.server.base_url}{path}", load)


CALL = functiongemma.ToolCall(
    "audio.set-volume",
    {"label": 'say "12" {ok}', "level": 5, "mute": True, "options": {"none": None, "steps": [1, 2.5, -3]}},
)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_come_back_through_the_openai_client_with_their_types(served: Served, stream: bool) -> None:
    """Numbers, booleans, lists and nested objects would be dropped from calls, as vLLM's own parser does."""
    text = functiongemma.render_call(CALL) + functiongemma.render_call(functiongemma.ToolCall("ping", {}))
    calls, content, reason = _forced(served, text, stream=stream)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [(CALL.name, CALL.arguments), ("ping", {})]
    assert (content, reason) == ("", "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_prose_and_broken_calls_come_back_as_content(served: Served, stream: bool) -> None:
    """A call cut off in the middle would be completed by guesswork, or vanish."""
    for text in ("I cannot do that.", "Well: <start_function_call>call:ping{level:"):
        assert _forced(served, text, stream=stream) == ([], text, "stop")


def _forced(served: Served, text: str, *, stream: bool) -> tuple[list[tuple[str, str]], str, str]:
    """What a client reads when the model says `text`: a grammar leaves the random model no choice."""
    request: dict[str, Any] = {
        "model": "red",
        "messages": [{"role": "user", "content": "go"}],
        "tools": free_tools(),
        "max_tokens": 400,
        "extra_body": {"structured_outputs": {"choice": [text]}},
    }
    chat = client(served.server.base_url).chat.completions
    if not stream:
        choice = chat.create(**request).choices[0]
        made = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        return made, choice.message.content or "", choice.finish_reason
    calls: dict[int, list[str]] = {}
    content, reason = "", ""
    for chunk in chat.create(**request, stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or []:
            entry = calls.setdefault(piece.index, ["", ""])
            entry[0] += piece.function.name or ""
            entry[1] += piece.function.arguments or ""
    return [(name, arguments) for _, (name, arguments) in sorted(calls.items())], content, reason


@pytest.mark.parametrize("length", [1, 2, 4, 5, 7], ids=["developer", "user", "tool", "tools", "turns"])
@pytest.mark.parametrize("with_tools", [True, False])
def test_the_server_reads_conversations_as_training_does(served: Served, length: int, with_tools: bool) -> None:
    """The model would be asked in another format than it was trained on, and answer badly without any error."""
    messages = HISTORY[:length]
    tools = chat_tools() if with_tools else None
    request = {"model": served.model.id, "messages": _as_openai(messages), "tools": tools, "return_token_strs": False}
    answered = json.loads(api.fetch(f"{served.server.base_url}/tokenize", request))["tokens"]
    text = functiongemma.render(messages, tools, add_generation_prompt=True)
    assert tiny_random.tokenizer().decode(answered) == text


def _answered(*results: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation with two calls, and these tool messages as a client sends them."""
    return [*HISTORY[1:3], *({"role": "tool", **result} for result in results)]


OBJECT, PROSE = '{"level": 7, "steps": [1, 2.5, null], "note": {"muted": false}}', "it is louder now"


@pytest.mark.parametrize(
    "results",
    [
        [{"tool_call_id": "c1", "content": OBJECT}, {"tool_call_id": "c2", "content": PROSE}],
        [{"tool_call_id": "c2", "content": OBJECT}, {"tool_call_id": "c1", "content": OBJECT}],
        [{"tool_call_id": "c1", "name": "audio.set-volume", "content": OBJECT}, {"name": "ping", "content": PROSE}],
        [{"tool_call_id": "c1", "content": '["a", 1]'}, {"tool_call_id": "c2", "content": "5"}],
        [{"tool_call_id": "c1", "content": '{"cut": '}, {"tool_call_id": "c2", "content": "{}"}],
        [
            {"tool_call_id": "c1", "content": [{"type": "text", "text": OBJECT}]},
            {"tool_call_id": "c2", "content": [{"type": "text", "text": " one "}, {"type": "text", "text": "two"}]},
        ],
        [{"tool_call_id": "c1", "content": ""}, {"tool_call_id": "c2", "content": " "}],
    ],
    ids=["object", "out of order", "named", "list", "no object", "parts", "empty"],
)
@pytest.mark.parametrize("with_tools", [True, False])
@pytest.mark.parametrize("then", [[], [{"role": "assistant", "content": "Done"}, {"role": "user", "content": "ok"}]])
def test_the_server_reads_tool_results_as_training_does(
    served: Served, results: list[dict[str, Any]], with_tools: bool, then: list[dict[str, Any]]
) -> None:
    """The model would get a tool's answer in a form it never saw, and answer the user badly without any error."""
    messages = [*_answered(*results), *then]
    messages[1] = {**messages[1], "content": None}
    tools = chat_tools() if with_tools else None
    request = {"model": served.model.id, "messages": _as_openai(messages), "tools": tools}
    answered = json.loads(api.fetch(f"{served.server.base_url}/tokenize", request))["tokens"]
    text = functiongemma.render(messages, tools, add_generation_prompt=True)
    assert tiny_random.tokenizer().decode(answered) == text


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (_answered({"tool_call_id": "c9", "content": "x"}), "messages[2].tool_call_id: got 'c9'"),
        (_answered({"content": "x", "tool_call_id": None}), "messages[2].name: got nothing"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
            "messages[0].content[0]: got a part of type 'image_url'",
        ),
        (
            [HISTORY[1], {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": BROKEN}]}],
            "messages[1].tool_calls[0].function.arguments: got '[1]'",
        ),
    ],
    ids=["unknown id", "no name", "image", "arguments"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_impossible_conversation_is_refused_in_one_line(
    served: Served, messages: Any, message: str, stream: bool
) -> None:
    """The client would see an internal error, or an answer to another conversation than the one it sent."""
    with pytest.raises(BadRequestError) as refused:
        client(served.server.base_url).chat.completions.create(
            model="red", messages=_as_openai(messages), stream=stream
        )
    assert message in str(refused.value)


def _as_openai(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As an OpenAI client sends them: arguments as JSON text."""
    copied: list[dict[str, Any]] = json.loads(json.dumps(messages))
    for message in copied:
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return copied


@pytest.mark.parametrize("stop", functiongemma.STOP_TOKEN_IDS)
def test_each_stop_ends_an_answer(served: Served, stop: int) -> None:
    """The model would go on after its call and answer for the tool itself."""
    answer = client(served.server.base_url).chat.completions.create(
        model="red", messages=[{"role": "user", "content": "go"}], max_tokens=8, logit_bias={str(stop): 100}
    )
    assert (answer.choices[0].finish_reason, answer.usage and answer.usage.completion_tokens) == ("stop", 1)


def test_answers_are_greedy_unless_the_request_says_otherwise(served: Served) -> None:
    """The hub's generation config samples: the same question would be answered differently each time."""
    chat = client(served.server.base_url).chat.completions
    messages: Any = [{"role": "user", "content": "go"}]
    plain = {chat.create(model="red", messages=messages, max_tokens=8).choices[0].message.content for _ in range(4)}
    hot = {
        chat.create(model="red", messages=messages, max_tokens=8, temperature=2, seed=seed).choices[0].message.content
        for seed in range(4)
    }
    assert len(plain) == 1
    assert len(hot) > 1
