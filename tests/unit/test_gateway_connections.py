"""The gateway's own client: answers in HTTP, however they are cut, and connections that are used again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.gateway import connections
from fgpipe.gateway.connections import BrokenError, Connections, NoHttpError, UnreachableError
from gateway_running import StandIn, gateway, listening, start_events
from tiny_server import free_port

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that runs `script` for each connection, and the connections it had."""
    had: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        had.append(len(had))
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", had


async def request(reader: asyncio.StreamReader) -> bytes:
    """One request of this client."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    return head + await reader.readexactly(length)


def written(parts: list[bytes], framing: str) -> bytes:
    """An answer whose body is `parts`."""
    head, body = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=x\r\n", b"".join(parts)
    if framing == "chunked":
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
        return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    length = b"content-length: %d\r\n" % len(body) if framing == "length" else b""
    return head + length + b"\r\n" + body


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.binary(max_size=40), max_size=5),
    places=st.lists(st.integers(0, 10_000), max_size=6),
    framing=st.sampled_from(["chunked", "length", "until closed"]),
    early=st.booleans(),
    way=st.sampled_from(["pass_to", "pieces", "read"]),
)
def test_an_answer_is_whole_however_it_is_cut(
    parts: list[bytes], places: list[int], framing: str, early: bool, way: str
) -> None:
    """A client would miss bytes, or get those of HTTP's own framing."""
    data = (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" if early else b"") + written(parts, framing)
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for start, end in itertools.pairwise(cuts):
            writer.write(data[start:end])
            await writer.drain()
            await asyncio.sleep(0.0005)
        if framing != "until closed":
            await reader.read()

    async def run() -> None:
        client = Connections(connect_timeout_s=5)
        async with upstream(script) as (url, _):
            answer = await client.post(url, "/x", b"{}", {})
            assert (answer.status, answer.content_type) == (200, "text/plain")
            got: list[bytes] = []
            if way == "pass_to":
                await answer.pass_to(got.append)
            elif way == "read":
                got.append(await answer.read())
            else:
                got += [piece async for piece in answer.pieces()]
            assert b"".join(got) == b"".join(parts)
            answer.let_go()
            client.close()

    asyncio.run(run())


def test_a_connection_is_used_again_only_if_it_is_clean_and_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request would pay for a connection, or a client get the rest of somebody else's answer."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await request(reader)
            body = asked.rpartition(b"\r\n\r\n")[2]
            writer.write(
                written([b"half of it, " if body == b"slow" else body], "chunked")[: -5 if body == b"slow" else None]
            )
            if body == b"bye":
                return

    async def ask(client: Connections, url: str, body: bytes) -> bytes:
        answer = await client.post(url, "/x", body, {"x-request-id": "1\r\nx: y"})
        try:
            return b"" if body == b"slow" else await answer.read()
        finally:
            answer.let_go()

    async def run() -> None:
        client = Connections(connect_timeout_s=5)
        async with upstream(script) as (url, had):
            assert [await ask(client, url, body) for body in (b"a", b"b")] == [b"a", b"b"]
            assert len(had) == 1, "used again"
            await ask(client, url, b"slow")
            assert await ask(client, url, b"c") == b"c"
            assert len(had) == 2, "not used again: it had not been read to its end"
            monkeypatch.setattr(connections, "IDLE_S", 0.0)
            assert await ask(client, url, b"d") == b"d"
            assert len(had) == 3, "not used again: it may be closed by now"
            monkeypatch.undo()
            assert await ask(client, url, b"bye") == b"bye"
            await asyncio.sleep(0.05)
            assert await ask(client, url, b"e") == b"e"
            assert len(had) == 4, "the upstream had closed it"
            client.close()

    asyncio.run(run())


def test_what_went_wrong_can_be_told_apart() -> None:
    """A request would be asked twice that must not be, or given up where another server could answer."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await reader.read()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(written([b"abc"], "chunked")[:-7])

    async def run() -> None:
        client = Connections(connect_timeout_s=5)
        with pytest.raises(UnreachableError):
            await client.post(f"http://127.0.0.1:{free_port()}", "/x", b"", {})
        async with upstream(close) as (url, _):
            with pytest.raises(BrokenError):
                await client.post(url, "/x", b"", {})
        async with upstream(talk) as (url, _):
            with pytest.raises(NoHttpError):
                await client.post(url, "/x", b"", {})
        async with upstream(break_off) as (url, _):
            answer = await client.post(url, "/x", b"", {})
            with pytest.raises(BrokenError):
                await answer.read()
            answer.let_go()

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_reads_slowly_makes_the_server_wait_and_misses_nothing(stream: bool) -> None:
    """The gateway would hold whole answers in memory for slow clients, or lose a part of them."""
    event = b'data: {"model":"sql@v0001","choices":[{"text":"' + b"x" * 65_000 + b'"}]}\n\n'
    count, sent = 800, []

    async def pour(asked: dict[str, Any], send: Any) -> None:
        if stream:
            await start_events(send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(count):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            sent.append(len(event))
        await send({"type": "http.response.body", "body": b""})

    body = {"model": "sql", "stream": stream}
    with listening(StandIn(answer=pour)) as url, gateway(url) as front:
        with front.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.iter_bytes()
            got = [next(pieces)]
            seen = -1
            while seen != len(sent):  # until nothing more fits into buffers
                seen = len(sent)
                front.client.get("/health")
                asyncio.run(asyncio.sleep(0.5))
            assert sum(sent) < 0.7 * count * len(event)
            got += pieces
        assert b"".join(got) == count * event
