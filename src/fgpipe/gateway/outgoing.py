"""Bytes to a client from a callback: `send` of ASGI run to its end at once, as long as the client reads along."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any

from fgpipe.gateway.connections import Answer
from fgpipe.gateway.faults import Send


class Outgoing:
    """The body of an answer on its way to a client, who makes the upstream wait if it reads too slowly.

    `send` waits only when the client's buffer is full; until then its coroutine ends at the first step, and a task that
    would be woken for each piece is spared.
    """

    def __init__(self, send: Send, answer: Answer) -> None:
        self._send = send
        self._answer = answer
        self._held: list[bytes] = []
        self._waiting: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Send `data`, after what is held already."""
        if self._waiting is not None:
            self._held.append(data)
            return
        sending: Any = self._send({"type": "http.response.body", "body": data, "more_body": True})
        try:
            awaited = sending.send(None)
        except StopIteration:
            return
        self._answer.pause()
        self._waiting = asyncio.ensure_future(self._catch_up(sending, awaited))
        self._waiting.add_done_callback(self._caught_up)

    async def _catch_up(self, sending: Coroutine[Any, Any, None], awaited: Any) -> None:
        await _Rest(sending, awaited)
        while self._held:
            data, self._held = b"".join(self._held), []
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._waiting = None
        if task.cancelled():
            return
        if isinstance(error := task.exception(), Exception):
            self._answer.fail(error)
        self._answer.resume()

    async def end(self, data: bytes) -> None:
        """Send `data` as the last of it."""
        if self._waiting is not None:
            await self._waiting
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def close(self) -> None:
        """Stop waiting for the client."""
        if self._waiting is not None:
            self._waiting.cancel()


class _Rest:
    """The rest of a coroutine that was run up to `awaited`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        awaited, step = self._awaited, self._coroutine
        with suppress(StopIteration):
            while True:
                try:
                    value = yield awaited
                except BaseException as error:
                    awaited = step.throw(error)
                else:
                    awaited = step.send(value)
