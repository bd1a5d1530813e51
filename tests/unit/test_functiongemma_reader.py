"""Model output read in pieces: the same whatever the pieces, however long it is."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from fgpipe.functiongemma import ParsedOutput, parse, render_call
from fgpipe.functiongemma.parse import OutputReader
from wrong_answers import CALLS, mutated

MUTATIONS = 100_000


def whole(text: str) -> ParsedOutput:
    """`text` read at once."""
    reader = OutputReader()
    reader.feed(text)
    reader.close()
    return reader.output()


def taken(pieces: list[str]) -> ParsedOutput:
    """What is taken after each piece, put together."""
    reader = OutputReader()
    parts = []
    for piece in pieces:
        reader.feed(piece)
        parts.append(reader.take())
    reader.close()
    parts.append(reader.take())
    return ParsedOutput(
        [call for part in parts for call in part.calls],
        "".join(part.content for part in parts),
        [problem for part in parts for problem in part.problems],
        [literals for part in parts for literals in part.literals],
        broken_calls=sum(part.broken_calls for part in parts),
    )


@pytest.mark.slow
def test_a_hundred_thousand_broken_answers_are_read_alike_whole_and_in_pieces() -> None:
    """One odd answer would crash a request, hang the server, or read differently when it is streamed."""
    random = Random(20261126)
    for _ in range(MUTATIONS):
        text = mutated(random)
        places = [0, *sorted(random.randrange(len(text) + 1) for _ in range(random.randint(0, 8))), len(text)]
        read = whole(text)
        streamed = taken([text[start:end] for start, end in pairwise(places)])
        assert (streamed, streamed.literals, streamed.broken_calls) == (read, read.literals, read.broken_calls), text
        for call in read.calls:
            assert parse(render_call(call)) == [call]


@pytest.mark.parametrize("text", [*map(render_call, CALLS), "a  <start_function_call>call:f{a:1 \n b <start_", " x  "])
def test_the_parts_taken_join_at_every_split_point(text: str) -> None:
    """A streamed answer would lose what stands where a piece ends, or send it twice."""
    for cut in range(len(text) + 1):
        assert taken([text[:cut], text[cut:]]) == whole(text)
    assert taken(list(text)) == whole(text)


OPEN = "<start_function_call>call:f{a:"


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        ("", "<start_function_call>"),
        ("", "{"),
        ("", "<"),
        ("", " "),
        ("<start_function_call>call:", "f"),
        ("<start_function_call>call:f{", "a"),
        (OPEN, "{{{{"),
        (OPEN, "9"),
        (f"{OPEN}<escape>", "<escape"),
        (f"{OPEN}[", "1,"),
        (f"{OPEN}<escape>", " > "),
        ("", f"{OPEN}1"),
        ("", "<start_function_call>call:f{}<end_function_call>"),
    ],
)
@pytest.mark.parametrize("piece_length", [None, 7])
@pytest.mark.timeout(60)
def test_a_megabyte_is_read_in_one_go(start: str, repeated: str, piece_length: int | None) -> None:
    """One runaway answer would hold up every other request for minutes: read twice over, it takes hours."""
    text = start + repeated * (1_000_000 // len(repeated))
    step = piece_length or len(text)
    read = taken([text[place : place + step] for place in range(0, len(text), step)])
    assert len(read.content) + len(read.calls) * len(repeated) >= len(text.strip())
