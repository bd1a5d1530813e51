"""OpenAI-shaped conversations converted to the template's shape."""

from __future__ import annotations

from typing import Any

import pytest

from fgpipe.functiongemma import from_openai, render

OPENAI = [
    {"role": "system", "content": [{"type": "text", "text": " Be brief. "}]},
    {"role": "user", "content": "Weather in Paris and Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Paris", "days": 2}'},
            },
            {"id": "c2", "type": "function", "function": {"name": "rain", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c2", "content": '{"mm": 0.5, "likely": true}'},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "Sunny."},
]
NATIVE = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Weather in Paris and Rome?"},
    {
        "role": "assistant",
        "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}},
            {"function": {"name": "rain", "arguments": {}}},
        ],
    },
    {
        "role": "tool",
        "content": [
            {"name": "rain", "response": {"mm": 0.5, "likely": True}},
            {"name": "weather", "response": {"value": "sunny"}},
        ],
    },
    {"role": "assistant", "content": "Sunny."},
]

PART = {"type": "text", "text": "x"}


def answered(**fields: Any) -> str:
    """The response in a conversation whose tool message has `fields`."""
    call = {"id": "c1", "function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", **fields},
    ]
    return render(messages).partition("<end_function_call>")[2]


def test_both_shapes_render_alike() -> None:
    """Otherwise a dataset exported from OpenAI trains on ruined calls: arguments as text, responses without a name."""
    assert render(OPENAI) == render(NATIVE) == render(from_openai(OPENAI))


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"name": "f", "content": '{"a": 1}'}, '{value:<escape>{"a": 1}<escape>}'),
        ({"tool_call_id": "c1", "content": '{"a": 1}'}, "{a:1}"),
        ({"tool_call_id": "c1", "content": "{}"}, "{}"),
        ({"tool_call_id": "c1", "content": "[1, 2]"}, "{value:<escape>[1, 2]<escape>}"),
        ({"tool_call_id": "c1", "content": '{"a": NaN}'}, '{value:<escape>{"a": NaN}<escape>}'),
        ({"tool_call_id": "c1", "content": ""}, "{value:<escape><escape>}"),
        ({"tool_call_id": "c1", "content": None}, "{value:<escape><escape>}"),
        ({"tool_call_id": "c1", "content": {"a": True}}, "{a:true}"),
        ({"tool_call_id": "c1", "content": [PART, {"type": "text", "text": "y"}]}, "{value:<escape>x\ny<escape>}"),
        ({"name": "f", "content": [{"type": "text", "text": "ok"}]}, "{value:<escape>ok<escape>}"),
        ({"content": {"name": "f", "response": {"a": None}}}, "{a:None}"),
    ],
)
def test_every_shape_of_tool_message(fields: dict[str, Any], body: str) -> None:
    """Otherwise what a tool returned reaches the model garbled or not at all."""
    assert answered(**fields) == f"<start_function_response>response:f{body}<end_function_response>"


def test_the_latest_call_with_an_id_is_answered() -> None:
    """Otherwise a client that counts call ids from zero in every turn has its responses given to the wrong function."""
    turns = []
    for name in ("first", "second"):
        call = {"id": "call_0", "function": {"name": name, "arguments": "{}"}}
        turns += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0", "content": "ok"},
        ]
    text = render([{"role": "user", "content": "u"}, *turns])
    assert text.index("response:first{") < text.index("response:second{")


def test_older_shapes_are_read() -> None:
    """Otherwise `function_call` messages of older datasets silently lose their calls."""
    older = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "ok"},
        {"role": "model", "content": "Done."},
    ]
    assert "call:f{a:1}<end_function_call><start_function_response>response:f{value:" in render(older)
    assert render(older).endswith("Done.<end_of_turn>\n")
