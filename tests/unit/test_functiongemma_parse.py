"""Calls read back from text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from fgpipe.functiongemma import ParsedOutput, ToolCall, parse, parse_output, render_call
from fgpipe.functiongemma.parse import OutputReader
from strategies import calls, outputs

NASTY = [
    *(
        "",
        " ",
        "2",
        "2.0",
        "true",
        "null",
        "None",
        "{}",
        "[1]",
        '"',
        "'",
        "\n",
        "a,b",
        "a:b",
        "}<end_function_call>",
        "<esc",
        "日本語",
    ),
    "<start_function_call>call:g{}<end_function_call>",
    "<start_function_response>",
    "<end_of_turn>",
]
VALUES = [
    2,
    2.0,
    True,
    1,
    False,
    0,
    -0.0,
    0.0,
    None,
    10**40,
    -(10**40),
    1e20,
    1e-07,
    5e-324,
    [],
    {},
    [[]],
    [{}],
    {"a": {"b": [1, "1"]}},
    *NASTY,
]


def exact(value: Any) -> Any:
    """`value` with its types spelled out, because Python holds 2 == 2.0 == True and 0.0 == -0.0."""
    if isinstance(value, dict):
        return {key: exact(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [exact(entry) for entry in value]
    return type(value).__name__, repr(value)


def assert_same(parsed: list[ToolCall], expected: list[ToolCall]) -> None:
    assert [call.name for call in parsed] == [call.name for call in expected]
    assert [exact(call.arguments) for call in parsed] == [exact(call.arguments) for call in expected]


@given(calls())
def test_reading_what_was_written_is_the_identity(call: ToolCall) -> None:
    """Otherwise an argument reaches the user's function changed: another type, another string, another name."""
    output = parse_output(render_call(call))
    assert_same(output.calls, [call])
    assert (output.content, output.problems) == ("", [])


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_kind_of_value_survives(value: Any) -> None:
    """The same for the values known to break other parsers, so that none is left to chance."""
    call = ToolCall("ns.get-it", {"value": value, "nested": {"list": [value, value]}})
    assert_same(parse(render_call(call)), [call])


@given(calls(), calls())
def test_parallel_calls_with_text_and_stops_around_them(first: ToolCall, second: ToolCall) -> None:
    """Otherwise parallel calls are lost or merged, or a stop token left in the text breaks the reading."""
    text = f"Let me see. {render_call(first)}{render_call(second)}"
    for stop in ("", "<start_function_response>", "<eos>", "<end_of_turn>\n", "<start_function_response><pad><pad>"):
        output = parse_output(text + stop)
        assert_same(output.calls, [first, second])
        assert (output.content, output.problems) == ("Let me see.", [])


@given(calls())
def test_a_cut_off_call_is_never_a_call(call: ToolCall) -> None:
    """Otherwise an answer cut by max_tokens runs a function with half its arguments."""
    text = render_call(call)
    for end in range(len("<start_function_call>"), len(text)):
        output = parse_output(text[:end])
        assert (output.calls, output.content, len(output.problems)) == ([], text[:end].strip(), 1)


@given(outputs())
def test_no_text_makes_the_reader_fail(text: str) -> None:
    """Otherwise one odd answer of a model ends an evaluation or a server request with a traceback."""
    output = parse_output(text)
    assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in output.calls)
    assert parse(text) == output.calls


@given(outputs(), calls())
def test_a_flaw_is_said(text: str, call: ToolCall) -> None:
    """Otherwise a start of call is dropped silently: each one yields a call or a problem."""
    text = text.replace("<escape>", "").replace("<bos>", "")
    for stop in ("<eos>", "<end_of_turn>", "<start_function_response>"):
        text = text.replace(stop, "")
    output = parse_output(text + render_call(call))
    assert len(output.calls) + len(output.problems) >= (text + "<start_function_call>").count("<start_function_call>")
    assert output.calls[-1] == call


@given(outputs())
def test_pieces_read_as_the_whole(text: str) -> None:
    """Otherwise a streamed answer yields other calls than the same answer at once."""
    reader = OutputReader()
    for character in text:
        reader.feed(character)
    reader.close()
    whole = OutputReader()
    whole.feed(text)
    whole.close()
    assert reader.output() == whole.output()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("just prose<end_of_turn>", ParsedOutput([], "just prose", [])),
        ("<start_function_call>call:f{}<end_function_call>", ParsedOutput([ToolCall("f", {})], "", [])),
        (
            "<start_function_call>call:f{a:null,b:None}<end_function_call>",
            ParsedOutput([ToolCall("f", {"a": None, "b": None})], "", []),
        ),
        ("done<end_of_turn>\n<start_function_call>call:f{}<end_function_call>", ParsedOutput([], "done", [])),
    ],
)
def test_plain_answers(text: str, expected: ParsedOutput) -> None:
    """Otherwise prose, empty calls and both spellings of null are misread, or what follows the stop is obeyed."""
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    "bare",
    [
        "12abc",
        "02139",
        "12:30",
        "NaN",
        "Infinity",
        "1e999",
        "True",
        "+5",
        ".5",
        "5.",
        "1_000",
        "0x10",
        "٣",
        "Tokyo",
        "9" * 5000,
    ],
)
def test_unquoted_text_stays_text_and_is_reported(bare: str) -> None:
    """Otherwise a zip code loses its zero, or a value is made up where the model forgot the quotes."""
    output = parse_output(f"<start_function_call>call:f{{a:{bare},b:1}}<end_function_call>")
    assert_same(output.calls, [ToolCall("f", {"a": bare, "b": 1})])
    assert len(output.problems) == 1
    assert "'a'" in output.problems[0]


@pytest.mark.parametrize(
    "body",
    [
        *(
            "",
            "f{}",
            "call:",
            "call:{}",
            "call: f{}",
            "call:f",
            "call:f{a}",
            "call:f{a:}",
            "call:f{a:1,}",
            "call:f{a:1 b:2}x",
            "call:f{a:1}}",
        ),
        *(
            "call:f{a:[1,2}}",
            "call:f{a:{b:1]}",
            "call:f{a:<escape>x<escape>y}",
            "call:f{a:x<escape>y<escape>}",
            "call:f{a:1,a:2}",
            "call:f[1]",
        ),
        *(
            "call:f{a:1",
            "call:f{a:x{y}}",
            "call:f{a:[,]}",
            "call:f{,}",
            "call:f{a:" + "[" * 1000,
            "call:f{a:{a:" * 1000,
        ),
    ],
)
def test_a_malformed_call_is_content_and_the_next_call_is_read(body: str) -> None:
    """Otherwise a broken call is guessed at, or swallows the sound call after it."""
    good = "<start_function_call>call:good{n:1}<end_function_call>"
    broken = f"<start_function_call>{body}<end_function_call>"
    output = parse_output(broken + good)
    assert output.calls == [ToolCall("good", {"n": 1})]
    assert output.problems
    assert output.content.startswith("<start_function_call>" + body[:10])


def test_an_open_string_swallows_the_rest() -> None:
    """Otherwise text the user asked to be written down is run as a call when the answer is cut inside it."""
    text = "<start_function_call>call:note{text:<escape>say <start_function_call>call:wipe{}<end_function_call> and"
    output = parse_output(text)
    assert (output.calls, output.content) == ([], text)


def test_a_whole_conversation_is_read_from_the_models_last_words() -> None:
    """Otherwise a decoded prompt plus answer yields the calls of earlier turns again."""
    call = "<start_function_call>call:f{n:1}<end_function_call>"
    prompt = f"<bos><start_of_turn>user\nrun {call}<end_of_turn>\n<start_of_turn>model\n"
    assert parse(prompt) == []
    assert parse(f"{prompt}{call}<start_function_response>") == [ToolCall("f", {"n": 1})]
    answered = (
        f"{prompt}{call}<start_function_response>response:f{{value:<escape>{call}<escape>}}<end_function_response>"
    )
    assert parse_output(f"{answered}Done.<end_of_turn>\n") == ParsedOutput([], "Done.", [])
