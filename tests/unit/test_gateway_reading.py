"""What the gateway reads in passing, and that it changes nothing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.gateway.faults import RefusedError
from fgpipe.gateway.reading import StreamReader, count_calls, read_asked, read_whole

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "dim",
            "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}, "required": ["level"]},
        },
    }
]
MARKS = [
    '"choices":[]',
    '"finish_reason":"stop"',
    "data: ",
    "\n\n",
    "<start_function_call>",
    '"model":"evil"',
    "é",
    "x",
]
texts = st.lists(st.sampled_from(MARKS), max_size=4).map("".join)


def stream(pieces: list[str], *, usage: bool) -> bytes:
    """A stream as vLLM 0.32 writes it, with or without its usage event; that decides who has the fingerprint."""
    head: dict[str, Any] = {"id": "chatcmpl-1", "model": "sql@v0002"}
    choices = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, "delta": {"content": ""}, "finish_reason": "stop"})
    values = [{**head, "choices": [choice]} for choice in choices]
    fingerprint = {"system_fingerprint": "vllm-1"}
    if usage:
        counts = {"prompt_tokens": 7, "completion_tokens": len(pieces)}
        values.append({**head, "choices": [], "usage": counts, **fingerprint})
    else:
        values[-1].update(fingerprint)
    written = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]
    return "".join(f"data: {text}\n\n" for text in [*written, "[DONE]"]).encode()


def split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


@settings(deadline=None)
@given(pieces=st.lists(texts, max_size=6), places=st.lists(st.integers(0, 10_000), max_size=12), hides=st.booleans())
def test_a_stream_passes_unchanged_however_it_is_split(pieces: list[str], places: list[int], hides: bool) -> None:
    """A client would see other bytes than from vLLM itself, or text that looks like an event would be cut."""
    reader = StreamReader(hides_usage=hides, keeps_events=True)
    passed = b"".join(reader.feed(part) for part in split(stream(pieces, usage=True), places)) + reader.flush()
    assert passed == stream(pieces, usage=not hides)
    reading = reader.reading()
    assert (reading.model, reading.content) == ("sql@v0002", "".join(pieces))
    assert reading.usage == {"prompt_tokens": 7, "completion_tokens": len(pieces)}
    assert reading.finish_reason == "stop"
    assert reading.unread_call is ("<start_function_call>" in "".join(pieces))


@settings(deadline=None)
@given(data=st.binary(max_size=200), hides=st.booleans())
def test_bytes_that_are_no_events_pass_too(data: bytes, hides: bool) -> None:
    """An upstream's unusual answer would be swallowed, or end the request with a fault of ours."""
    reader = StreamReader(hides_usage=hides, keeps_events=True)
    assert reader.feed(data) + reader.flush() == data
    reader.reading()


@settings(deadline=None)
@given(pieces=st.lists(texts, min_size=1, max_size=4))
def test_every_whole_event_but_the_last_passes_at_once(pieces: list[str]) -> None:
    """Tokens would reach the client later than the server made them."""
    reader = StreamReader(hides_usage=True, keeps_events=False)
    for event in stream(pieces, usage=True).split(b"\n\n")[: len(pieces)]:
        assert reader.feed(event + b"\n\n") == event + b"\n\n"


def test_usage_is_asked_for_only_where_it_can_be_hidden_again() -> None:
    """A client's own stream options would be overridden, or a request that streams nothing would be refused by vLLM."""
    plain = b'{"model":"sql","stream":true,"messages":[]}'
    asked = read_asked("/v1/chat/completions", plain)
    assert asked.hides_usage
    assert json.loads(asked.body) == {**json.loads(plain), "stream_options": {"include_usage": True}}
    for other in (
        b'{"model":"sql"}',
        b'{"model":"sql","stream":true,"stream_options":null}',
        b'{"model":"sql","stream":true,"stream_options":{"include_usage":false}}',
        b'{"model":"sql","stream":true,"n":2}',
        b'{"model":"sql","stream":true,"prompt":["a","b"]}',
    ):
        asked = read_asked("/v1/completions", other, max_answers=2)
        assert (asked.body, asked.hides_usage) == (other, False)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"model":5}', b'{"model":{}}', b"[" * 100_000])
def test_what_is_no_request_is_refused_in_a_line(body: bytes) -> None:
    """A client would get an error of the gateway's own making, or a page of traceback."""
    with pytest.raises(RefusedError) as caught:
        read_asked("/v1/completions", body)
    assert caught.value.status == 400
    message = json.loads(caught.value.body())["error"]["message"]
    assert "got" in message
    assert "expected" in message
    assert "\n" not in message


def test_calls_are_held_against_the_tools_of_their_request() -> None:
    """Nobody could see that an adapter calls functions that are not there, or with arguments that do not fit."""
    calls = [("dim", '{"level":3}'), ("dim", '{"level":"high"}'), ("dim", "{"), ("dim", "[]"), ("open", "{}")]
    counts = count_calls(calls, TOOLS)
    assert (counts.calls, counts.unknown, counts.violations) == (5, 1, 3)
    assert count_calls(calls, ["junk"]).unknown == 5
    assert count_calls([], TOOLS).calls == 0


@settings(deadline=None)
@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "usage", "choices", "message", "tool_calls", "function"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_an_answer_of_any_shape_can_be_read(value: Any) -> None:
    """An answer that vLLM gave would turn into a fault because the gateway could not count it."""
    read_whole(json.dumps(value).encode())
