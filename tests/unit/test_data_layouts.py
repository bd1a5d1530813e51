"""Rows as OpenAI's and TRL's users write them become one canonical conversation."""

import json
from typing import Any

import pytest

from fgpipe.data import checks
from fgpipe.data.layouts import LAYOUTS, Conversation
from fgpipe.data.readers import SourceRow
from fgpipe.errors import DataError, FgpipeError, FormatError

TOOL = {
    "type": "function",
    "function": {
        "name": "lamp",
        "description": "Switch a lamp.",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean", "description": "Lit or not"}},
            "required": ["on"],
        },
    },
}
CALL = {"type": "function", "function": {"name": "lamp", "arguments": {"on": True}}}
MESSAGES = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Lights on"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "lamp", "content": {"name": "lamp", "response": {"ok": True}}},
    {"role": "assistant", "content": "Done."},
]


def convert(**columns: Any) -> Conversation:
    return LAYOUTS["messages"](SourceRow("rows.jsonl:7", columns))


CANONICAL = convert(messages=MESSAGES, tools=[TOOL])


def with_call(call: dict[str, Any], **message: Any) -> list[dict[str, Any]]:
    return [*MESSAGES[:2], {"role": "assistant", **message, "tool_calls": [call]}, *MESSAGES[3:]]


OPENAI_CALL = {"id": "call_1", "type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}}
FUNCTION = TOOL["function"]

QUIRKS = {
    "columns as JSON text": {"messages": json.dumps(MESSAGES), "tools": json.dumps([TOOL])},
    "elements as JSON text": {"messages": [json.dumps(each) for each in MESSAGES], "tools": [json.dumps(TOOL)]},
    "arguments as JSON text": {"messages": with_call(OPENAI_CALL, content=None), "tools": [TOOL]},
    "content left out": {"messages": with_call(CALL), "tools": [TOOL]},
    "null filler": {"messages": with_call(CALL, content=None, name=None, tool_call_id=None), "tools": [TOOL]},
    "system instead of developer": {"messages": [{**MESSAGES[0], "role": "system"}, *MESSAGES[1:]], "tools": [TOOL]},
    "content in parts": {
        "messages": [MESSAGES[0], {"role": "user", "content": [{"type": "text", "text": "Lights on"}]}, *MESSAGES[2:]],
        "tools": [TOOL],
    },
    "tool message by call id": {
        "messages": [
            *MESSAGES[:2],
            {"role": "assistant", "content": "", "tool_calls": [OPENAI_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"ok": true}'},
            MESSAGES[4],
        ],
        "tools": [TOOL],
    },
    "bare functions": {"messages": MESSAGES, "tools": [FUNCTION]},
    "legacy functions": {"messages": MESSAGES, "functions": [FUNCTION]},
    "legacy functions beside null tools": {"messages": MESSAGES, "tools": None, "functions": json.dumps([FUNCTION])},
    "legacy function_call": {
        "messages": [
            *MESSAGES[:2],
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            *MESSAGES[3:],
        ],
        "tools": [TOOL],
    },
    "parameters as JSON text": {
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": {**FUNCTION, "parameters": json.dumps(FUNCTION["parameters"])}}],
    },
    "Python types": {
        "messages": MESSAGES,
        "tools": [{**FUNCTION, "parameters": {"on": {"type": "bool", "description": "Lit or not"}}}],
    },
    "null argument": {
        "messages": with_call({"function": {"name": "lamp", "arguments": {"on": True, "room": None}}}, content=""),
        "tools": [TOOL],
    },
    "columns of its own": {"messages": MESSAGES, "tools": [TOOL], "source": "crowd", "parallel_tool_calls": False},
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_every_way_of_writing_a_row_gives_the_same_row(quirk: str) -> None:
    """The same data in another of OpenAI's or TRL's spellings would train another model, or be refused."""
    found = convert(**QUIRKS[quirk])
    assert (found.messages, found.tools, found.meta) == (CANONICAL.messages, CANONICAL.tools, {})


def test_a_canonical_row_is_left_as_it_is() -> None:
    """Shipped rows would be reported as repaired, or change on loading."""
    assert (CANONICAL.messages, CANONICAL.tools, CANONICAL.issues) == (MESSAGES, [TOOL], ())


@pytest.mark.parametrize("quirk", ["bare functions", "Python types", "null argument"])
def test_what_was_mended_is_told(quirk: str) -> None:
    """A dataset would be changed without a word to its owner."""
    issues = convert(**QUIRKS[quirk]).issues
    assert issues
    assert all(issue.repaired for issue in issues)


def test_what_the_model_cannot_be_shown_is_told() -> None:
    """A user would believe that the model knows of limits that its format has no place for."""
    parameters = {"type": "object", "properties": {"level": {"type": "integer", "maximum": 9}}}
    issues = convert(messages=MESSAGES, tools=[TOOL, {**FUNCTION, "name": "dim", "parameters": parameters}]).issues
    assert any("maximum" in issue.path + issue.problem and not issue.repaired for issue in issues)


def test_integers_that_arrow_made_fractions_are_integers_again() -> None:
    """The model would answer with 2.0 pieces, which the typed score, and most tools, refuse."""
    properties = {
        "count": {"type": "integer"},
        "size": {"type": "number"},
        "places": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "INTEGER"}}}},
    }
    dim = {
        "type": "function",
        "function": {**FUNCTION, "name": "dim", "parameters": {"type": "object", "properties": properties}},
    }
    arguments = {"count": 2.0, "size": 2.0, "places": [{"x": 1.0}, {"x": 1.5}]}
    found = convert(messages=with_call({"function": {"name": "dim", "arguments": arguments}}), tools=[dim])
    mended = found.messages[2]["tool_calls"][0]["function"]["arguments"]
    assert repr(mended) == repr({"count": 2, "size": 2.0, "places": [{"x": 1}, {"x": 1.5}]})
    assert [issue.path for issue in found.issues if issue.repaired][
        -1
    ] == "messages[2].tool_calls[0].function.arguments"


def test_meta_is_kept() -> None:
    """Held-out wordings and the databases that queries are scored on would be lost."""
    meta = {"wording": "held_out", "sqlite": "CREATE TABLE a (b);"}
    assert convert(messages=MESSAGES, tools=[TOOL], meta=meta).meta == meta
    assert convert(messages=MESSAGES, tools=[TOOL], meta=json.dumps(meta)).meta == meta


def test_no_tools_is_a_conversation_without_tools() -> None:
    """Rows of plain conversation mixed in to keep the model talking would be refused."""
    assert convert(messages=MESSAGES[:2]).tools == []


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"conversation": []}, "rows.jsonl:7: messages: got no such column (there is conversation)"),
        ({"messages": None}, "rows.jsonl:7: messages: got no such column"),
        ({"messages": {"role": "user"}}, "rows.jsonl:7: messages: got dict, expected a list"),
        ({"messages": "hello"}, "rows.jsonl:7: messages: got invalid JSON"),
        ({"messages": ["hello"]}, "rows.jsonl:7: messages[0]: got invalid JSON"),
        ({"messages": MESSAGES, "tools": "[{]"}, "rows.jsonl:7: tools: got invalid JSON"),
        (
            {"messages": MESSAGES, "tools": [{**FUNCTION, "parameters": "{"}]},
            "rows.jsonl:7: tools: parameters: got invalid",
        ),
        ({"messages": MESSAGES, "meta": [1]}, "rows.jsonl:7: meta: got list, expected an object"),
    ],
)
def test_a_bad_column_is_named(columns: dict[str, Any], expected: str) -> None:
    """A user could not find the row, or the column in it, that is wrong."""
    with pytest.raises(DataError) as caught:
        convert(**columns)
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([*MESSAGES[:2], {"role": "assistant", "content": "x", "weight": 0}], "messages[2].weight: got 0"),
        (with_call({"function": {"name": "lamp", "arguments": "on"}}), "messages[2].tool_calls[0].function.arguments"),
    ],
)
def test_a_bad_message_is_named_by_its_path(messages: list[dict[str, Any]], expected: str) -> None:
    """An answer marked not to be learnt would be learnt, or a broken call be trained on as text."""
    with pytest.raises(FormatError) as caught:
        convert(messages=messages, tools=[TOOL])
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize(
    "tools", ["text", [1], [[]], [None], [{}], [{"function": 3}], [{"function": {"name": 5}}], {}, 7]
)
def test_no_tool_list_ends_in_a_traceback(tools: Any) -> None:
    """A malformed dataset would look like a bug of the program."""

    def convert_and_check() -> None:
        found = convert(messages=MESSAGES, tools=tools)
        checks.check(found.messages, found.tools)

    with pytest.raises(FgpipeError):
        convert_and_check()
