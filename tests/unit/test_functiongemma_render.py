"""The text FunctionGemma reads: published vectors, our Jinja template, the loss segments, and what is refused."""

from __future__ import annotations

import copy
import hashlib
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

import fgpipe.functiongemma
from conversations import random_case
from fgpipe.errors import FormatError
from fgpipe.functiongemma import (
    Segment,
    from_openai,
    render,
    render_call,
    render_declaration,
    render_response,
    segments,
    tokens,
)
from strategies import cases

GOLDEN = Path(__file__).parents[1] / "golden" / "functiongemma"
TEMPLATE = (Path(fgpipe.functiongemma.__file__).parent / "template.jinja").read_text(encoding="utf-8")
SHA256 = {
    "e1": "2f0fc45fd29ba56fefbba1e2152717c6d3ac413d1fc9c8eed96759676e7ba158",
    "e2": "7ac9ded7cbe667df438a558b771b1fdadaa3ba514b65a2329624fa139c1e652a",
    "e3": "c01c5912c40bdd2e02ec490e61477aa48df3ff9083016c7320e2da3d314bfbe8",
    "e4": "056632cb856a7c1320862bdfa7e6d17f3955f3d2b9f48cb1a969b5fcee8a864a",
    "e5": "32554bd4235454e4401d1f57619c81727c5e72d3acce8b5cbf6378752bf22f02",
    "e6": "810aa7770cd0b8a32ccd06074f7b51b8b2f2c36ddb4c13b1fa688695aa342bff",
}


def tool(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **({"required": [*required]} if required else {})}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def calling(name: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{**fields, "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def vectors() -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]]:
    trigger = {"role": "developer", "content": tokens.TRIGGER_SENTENCE}
    place = {"type": "string", "description": 'The city and state, e.g. "San Francisco, CA" or "Tokyo, JP"'}
    unit = {
        "type": "string",
        "enum": ["celsius", "fahrenheit"],
        "description": "The unit to return the temperature in.",
    }
    weather = tool(
        "get_current_weather",
        "Gets the current weather in a given location.",
        {"location": place, "unit": unit},
        "location",
    )
    asked = [trigger, user("Hey, what's the weather in Tokyo right now?")]
    sunny = [{"name": "get_current_weather", "response": {"temperature": 15, "weather": "sunny"}}]
    answer = "The current weather in Tokyo is sunny with a temperature of 15 degrees Celsius."
    search = tool(
        "search_knowledge_base",
        "Search internal company documents, policies and project data.",
        {"query": {"type": "string", "description": "query string"}},
        "query",
    )
    city = tool(
        "get_weather",
        "Get the current weather for a given city.",
        {"city": {"type": "string", "description": "City name, e.g. 'Tokyo'."}},
        "city",
    )
    options = {"cls": {"type": "string", "description": "Class", "enum": ["eco", "biz"]}, "bags": {"type": "integer"}}
    person = {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "Full name"}},
        "required": ["name"],
    }
    book = tool(
        "book",
        "Book a trip.",
        {
            "dest": {"type": "string", "description": "City"},
            "people": {"type": "integer", "description": "How many", "minimum": 1},
            "stops": {"type": "array", "description": "Stops", "items": {"type": "string"}},
            "opts": {"type": "object", "description": "Options", "properties": options, "required": ["cls"]},
            "pax": {"type": "array", "description": "Passengers", "items": person},
        },
        *("dest", "people"),
    )
    trip = {
        "dest": 'São "X" {1}',
        "people": 2,
        "budget": 99.5,
        "flex": True,
        "stops": ["A", "B"],
        "opts": {"cls": "eco", "bags": 1},
        "note": None,
    }
    both = {
        "role": "assistant",
        "tool_calls": [*calling("book", trip)["tool_calls"], *calling("flash", {})["tool_calls"]],
    }
    results = [
        {"name": "book", "response": {"ok": True, "ids": [7, 8]}},
        {"name": "flash", "response": {"result": "done"}},
    ]
    return {
        "e1": (asked, [weather], True),
        "e2": (
            [
                *asked,
                calling("get_current_weather", {"location": "Tokyo, Japan"}),
                {"role": "tool", "content": sunny},
                {"role": "assistant", "content": answer},
            ],
            [weather],
            False,
        ),
        "e3": (
            [
                trigger,
                user("What is the reimbursement limit for travel meals?"),
                calling("search_knowledge_base", {"query": "travel meal reimbursement limit policy"}),
            ],
            [search],
            False,
        ),
        "e4": (
            [
                {"role": "system", "content": "You are a weather assistant."},
                user("What is the weather in Tokyo?"),
                calling("get_weather", {"city": "Tokyo"}),
                {
                    "role": "tool",
                    "name": "get_weather",
                    "content": '{"city": "Tokyo", "temp_c": 25, "condition": "sunny"}',
                },
                {"role": "assistant", "content": "It is currently 25°C and sunny in Tokyo."},
            ],
            [city],
            False,
        ),
        "e5": ([trigger, user("go")], [book, tool("flash", "Light on.", {})], True),
        "e6": ([user("go"), both, {"role": "tool", "content": results}], None, True),
    }


@pytest.mark.parametrize("name", SHA256)
def test_published_vectors(name: str) -> None:
    """Otherwise the real model reads a prompt it was not trained on."""
    messages, tools, add_generation_prompt = vectors()[name]
    golden = (GOLDEN / f"{name}.txt").read_bytes()
    assert hashlib.sha256(golden).hexdigest() == SHA256[name]
    assert render(messages, tools, add_generation_prompt=add_generation_prompt) == golden.decode()


def by_template(messages: Any, tools: Any, add_generation_prompt: bool) -> str:
    template = _compile_jinja_template(TEMPLATE)  # compiled once, then cached
    return template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)


def test_template_equals_render_on_ten_thousand_cases() -> None:
    """Otherwise the tiny model's tokenizer and vLLM prompt it differently from how it was trained."""
    random = Random(20_261_121)
    for _ in range(10_000):
        messages, tools, prompt = random_case(random)
        assert by_template(messages, tools, prompt) == render(messages, tools, add_generation_prompt=prompt)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_template_equals_render(case: tuple[Any, Any, bool]) -> None:
    """The same over text nobody thought of, shrinking to a readable case."""
    messages, tools, prompt = case
    assert by_template(messages, tools, prompt) == render(messages, tools, add_generation_prompt=prompt)


def test_converting_changes_no_prompt() -> None:
    """Otherwise a row stored in the template's shape is read differently from the same row in OpenAI's."""
    random = Random(6)
    for _ in range(500):
        messages, tools, prompt = random_case(random)
        converted = from_openai(messages)
        assert from_openai(converted) == converted
        assert by_template(converted, tools, prompt) == render(messages, tools, add_generation_prompt=prompt)


def test_template_through_transformers() -> None:
    """Otherwise the template works here and not in `apply_chat_template`."""
    messages, tools, _ = vectors()["e5"]
    rendered, _ = render_jinja_template([messages], tools=tools, chat_template=TEMPLATE, add_generation_prompt=True)
    assert rendered == [render(messages, tools, add_generation_prompt=True)]


def test_template_refuses_what_it_would_misread() -> None:
    """Otherwise a server shows the model an answer of no function, or arguments as raw text, without a word."""
    template = _compile_jinja_template(TEMPLATE)
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    for messages in ([image], [user("a"), {"role": "tool", "content": "x"}], [user("a"), calling("f", '{"a": 1}')]):
        with pytest.raises(Exception, match=r"expected|got neither"):
            template.render(messages=messages)


def test_segments_are_the_rendered_text() -> None:
    """Otherwise training sees another text than the served model does."""
    random = Random(7)
    for _ in range(1_000):
        messages, tools, _ = random_case(random)
        found = segments(messages, tools)
        assert "".join(segment.text for segment in found) == render(messages, tools)
        assert all(first.trained != second.trained for first, second in pairwise(found))


def test_generating_from_every_prompt_gives_the_trained_text() -> None:
    """Otherwise the model is trained to answer prompts that a server never sends, or to write what it never must."""
    random = Random(8)
    for _ in range(1_000):
        messages, tools, _ = random_case(random)
        trained = [segment.text for segment in segments(messages, tools) if segment.trained]
        stops = ("<start_function_response>", "<end_of_turn>")
        assert all(text.endswith(stops) for text in trained)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        assert len(trained) == len(answers)
        whole = render(messages, tools)
        for index, text in zip(answers, trained, strict=True):
            if index:
                assert whole.startswith(render(messages[:index], tools, add_generation_prompt=True) + text)


def test_segments_train_what_the_model_must_produce() -> None:
    """Otherwise the model learns to write tool results, or never learns to stop after a call or an answer."""
    messages, tools, _ = vectors()["e2"]
    call = "<start_function_call>call:get_current_weather{location:<escape>Tokyo, Japan<escape>}<end_function_call>"
    body = "response:get_current_weather{temperature:15,weather:<escape>sunny<escape>}<end_function_response>"
    assert segments(messages, tools)[1:] == [
        Segment(f"{call}<start_function_response>", True),
        Segment(body, False),
        Segment("The current weather in Tokyo is sunny with a temperature of 15 degrees Celsius.<end_of_turn>", True),
        Segment("\n", False),
    ]
    messages, tools, _ = vectors()["e3"]
    assert segments(messages, tools)[-1].text.endswith("<end_function_call><start_function_response>")
    assert segments(messages, tools)[-1].trained


def test_only_the_first_of_several_responses_is_opened_by_the_model() -> None:
    """Otherwise the loss holds a token that the engine writes, not the model."""
    messages, _, _ = vectors()["e6"]
    trained = [segment.text for segment in segments(messages) if segment.trained]
    assert [text.count("<start_function_response>") for text in trained] == [1]


def test_input_is_not_changed() -> None:
    """Otherwise rendering a dataset row corrupts it for the next stage."""
    random = Random(9)
    for _ in range(300):
        messages, tools, _ = random_case(random)
        before = copy.deepcopy((messages, tools))
        render(messages, tools)
        assert (messages, tools) == before


def test_parts_render_alone_as_in_a_conversation() -> None:
    """Otherwise a tool built on one part writes it differently from training."""
    messages, tools, _ = vectors()["e2"]
    text = render(messages, tools)
    call = fgpipe.functiongemma.ToolCall("get_current_weather", {"location": "Tokyo, Japan"})
    assert render_declaration(tools[0]) in text  # type: ignore[index]
    assert render_call(call) + render_response(call.name, {"weather": "sunny", "temperature": 15}) in text


def test_no_developer_text_is_invented() -> None:
    """Otherwise training and serving disagree on a sentence nobody configured."""
    text = render([user("hi")], [tool("f", "D", {})])
    assert text.startswith("<bos><start_of_turn>developer\n<start_function_declaration>declaration:f{")
    assert tokens.TRIGGER_SENTENCE not in text


def test_details_of_the_format() -> None:
    """Otherwise one of the template's smaller rules is lost: sorting, defaults, dropped keys, array items."""
    properties = {
        "b": {"type": "string"},
        "C": {"type": "float", "enum": [1.5]},
        "_z": {"type": "any", "description": None},
        "A": {},
        "a2": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": None}},
        "d": {"type": ["string", "null"]},
    }
    written = render_declaration(tool("f", "D", properties))
    empty, end = "description:<escape><escape>", "<escape>}"
    assert written == (
        "<start_function_declaration>declaration:f{description:<escape>D<escape>,parameters:{properties:{"
        f"_z:{{description:<escape>None<escape>,type:<escape>ANY{end},A:{{{empty},type:<escape>{end},"
        f"a2:{{{empty},items:{{items:{{<escape>type<escape>:<escape>integer<escape>}},type:<escape>ARRAY{end},type:<escape>ARRAY{end},"
        f"b:{{{empty},type:<escape>STRING{end},C:{{{empty},type:<escape>FLOAT{end},"
        f"d:{{{empty},type:<escape>['STRING', 'NULL']{end}}},type:<escape>OBJECT{end}}}<end_function_declaration>"
    )
    assert render_declaration({"function": {"name": "f"}}) == (
        "<start_function_declaration>declaration:f{description:<escape><escape>}<end_function_declaration>"
    )


WEATHER = tool("f", "D", {"a": {"type": "string"}}, "a")
PROPERTIES = "function.parameters.properties"
ANSWERED = [user("u"), calling("f", {}), {"role": "tool", "name": "f", "content": "ok"}]


def with_schema(path: str, value: Any) -> list[dict[str, Any]]:
    changed = copy.deepcopy(WEATHER)
    node = changed
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    return [changed]


@pytest.mark.parametrize(
    ("messages", "tools", "path"),
    [
        ([], None, "messages"),
        ("hello", None, "messages"),
        (["hello"], None, "messages[0]"),
        ([{"content": "x"}], None, "messages[0].role"),
        ([{"role": "critic", "content": "x"}], None, "messages[0].role"),
        ([{"role": "user", "content": 3}], None, "messages[0].content"),
        ([user("u"), {"role": "user", "content": [{"type": "image_url"}]}], None, "messages[1].content[0]"),
        ([{**user("u"), "tool_calls": calling("f", {})["tool_calls"]}], None, "messages[0].tool_calls"),
        ([user("u"), {"role": "assistant", "tool_calls": {"name": "f"}}], None, "messages[1].tool_calls"),
        ([user("u"), {"role": "assistant", "tool_calls": [{"name": "f"}]}], None, "messages[1].tool_calls[0].function"),
        ([user("u"), calling("", {})], None, "messages[1].tool_calls[0].function.name"),
        ([user("u"), calling("f{", {})], None, "messages[1].tool_calls[0].function.name"),
        ([user("u"), calling(" f", {})], None, "messages[1].tool_calls[0].function.name"),
        ([user("u"), calling("f", '{"a": 1')], None, "messages[1].tool_calls[0].function.arguments"),
        ([user("u"), calling("f", "[1]")], None, "messages[1].tool_calls[0].function.arguments"),
        ([user("u"), calling("f", '{"a": NaN}')], None, "messages[1].tool_calls[0].function.arguments"),
        ([user("u"), calling("f", [1])], None, "messages[1].tool_calls[0].function.arguments"),
        ([user("u"), calling("f", {"a": float("nan")})], None, "messages[1].tool_calls[0].function.arguments.a"),
        ([user("u"), calling("f", {"a": [float("inf")]})], None, "messages[1].tool_calls[0].function.arguments.a[0]"),
        ([user("u"), calling("f", {"a": "x<escape>"})], None, "messages[1].tool_calls[0].function.arguments.a"),
        ([user("u"), calling("f", {"a": {"b:c": 1}})], None, "messages[1].tool_calls[0].function.arguments.a.b:c"),
        ([user("u"), calling("f", {"}": 1})], None, "messages[1].tool_calls[0].function.arguments.}"),
        ([user("u"), calling("f", {1: 1})], None, "messages[1].tool_calls[0].function.arguments"),
        ([user("u"), calling("f", {"a": object()})], None, "messages[1].tool_calls[0].function.arguments.a"),
        ([user("u"), calling("f", {"a": 10**5000})], None, "messages[1].tool_calls[0].function.arguments.a"),
        ([user("u"), {"role": "tool", "name": "f", "content": "x"}], None, "messages[1]"),
        ([user("u"), calling("f", {}), user("v")], None, "messages[2]"),
        ([user("u"), calling("f", {}), {"role": "assistant", "content": "x"}], None, "messages[2]"),
        ([*ANSWERED, user("v")], None, "messages[3]"),
        ([*ANSWERED, {"role": "system", "content": "v"}], None, "messages[3]"),
        ([*ANSWERED[:2], {"role": "tool", "content": "x"}], None, "messages[2].name"),
        ([*ANSWERED[:2], {"role": "tool", "tool_call_id": "c9", "content": "x"}], None, "messages[2].tool_call_id"),
        ([*ANSWERED[:2], {"role": "tool", "name": "f", "content": ""}], None, "messages[2].content"),
        ([*ANSWERED[:2], {"role": "tool", "name": "f", "content": {}}], None, "messages[2].content"),
        ([*ANSWERED[:2], {"role": "tool", "name": "f", "content": [1]}], None, "messages[2].content[0]"),
        (
            [*ANSWERED[:2], {"role": "tool", "content": {"name": "f", "response": "x"}}],
            None,
            "messages[2].content.response",
        ),
        ([*ANSWERED[:2], {"role": "tool", "name": "f", "content": {"a": "<escape>"}}], None, "messages[2].content.a"),
        ([user("u")], "f", "tools"),
        ([user("u")], ["f"], "tools[0]"),
        ([user("u")], [WEATHER, WEATHER["function"]], "tools[1]"),
        ([user("u")], with_schema("function.name", None), "tools[0].function.name"),
        ([user("u")], with_schema("function.description", "a<escape>b"), "tools[0].function.description"),
        ([user("u")], with_schema("function.parameters", [1]), "tools[0].function.parameters"),
        ([user("u")], with_schema("function.parameters.type", None), "tools[0].function.parameters.type"),
        ([user("u")], with_schema(PROPERTIES, ["a"]), f"tools[0].{PROPERTIES}"),
        ([user("u")], with_schema("function.parameters.required", True), "tools[0].function.parameters.required"),
        ([user("u")], with_schema(f"{PROPERTIES}.a", "str"), f"tools[0].{PROPERTIES}.a"),
        *(
            ([user("u")], with_schema(f"{PROPERTIES}.{name}", {"type": "string"}), f"properties.{name}")
            for name in ("type", "description", "properties", "required", "nullable")
        ),
        (
            [user("u")],
            with_schema(f"{PROPERTIES}.a", {"type": "object", "additionalProperties": {"type": "string"}}),
            f"tools[0].{PROPERTIES}.a",
        ),
        (
            [user("u")],
            with_schema(f"{PROPERTIES}.a", {"type": "array", "items": {"properties": {"type": {}}}}),
            f"tools[0].{PROPERTIES}.a.items.properties.type",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_path(messages: Any, tools: Any, path: str) -> None:
    """Otherwise a property vanishes, a turn is glued to another or a value changes, and nobody is told where."""
    with pytest.raises(FormatError) as caught:
        render(messages, tools)
    assert f"{path}: got" in caught.value.message
    assert "expected" in caught.value.message
    assert caught.value.hint


def test_generation_prompt_after_a_call_is_refused() -> None:
    """Otherwise the model is asked to go on inside a turn it has just ended."""
    with pytest.raises(FormatError, match=r"messages\[1\]\.tool_calls: got a generation prompt"):
        render([user("u"), calling("f", {})], add_generation_prompt=True)


@pytest.mark.parametrize("depth", [64, 65, 5000])
def test_nesting_has_a_limit_both_ways(depth: int) -> None:
    """Otherwise a deeply nested value ends in a RecursionError, or is written but cannot be read back."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    if depth <= 64:
        call = fgpipe.functiongemma.ToolCall("f", value)
        assert fgpipe.functiongemma.parse(render_call(call)) == [call]
        template = _compile_jinja_template(TEMPLATE)
        assert template.render(messages=[calling("f", value)]) == render([calling("f", value)])
    else:
        with pytest.raises(FormatError, match="deeper than 64"):
            render([user("u"), calling("f", value)])


def test_public_names() -> None:
    """Otherwise a name other code imports has gone, or `render` and `parse` are modules instead of functions."""
    names = {
        "render",
        "parse",
        "parse_output",
        "ToolCall",
        "render_call",
        "render_declaration",
        "segments",
        "Segment",
        "from_openai",
    }
    assert names | {"STOP_TOKEN_IDS", "SPECIAL_TOKEN_IDS"} <= {*fgpipe.functiongemma.__all__}
    assert callable(fgpipe.functiongemma.render)
    assert callable(fgpipe.functiongemma.parse)
    stops = tuple(fgpipe.functiongemma.SPECIAL_TOKEN_IDS[text] for text in tokens.STOP_TEXTS)
    assert stops == fgpipe.functiongemma.STOP_TOKEN_IDS == (1, 50, 106)
