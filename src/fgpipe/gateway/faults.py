"""What a client gets instead of an answer: an HTTP status and one line, in OpenAI's error shape."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "UpstreamError",
    503: "ServiceUnavailableError",
    504: "UpstreamTimeoutError",
}


class RefusedError(Exception):
    """A request that gets no answer by a model.

    Args:
        status: of HTTP.
        message: what was got and what was expected.
        reason: a word for the metrics; "" if the request was at fault.
        retry_after_s: when to come back; None if coming back is no use.
    """

    def __init__(self, status: int, message: str, *, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON that says so."""
        return error_json(self.status, self.message)


def error_json(status: int, message: str) -> bytes:
    """An error in OpenAI's shape; `message` in one line."""
    kind = KINDS.get(status, KINDS[400])
    line = " ".join(message.split())
    return json.dumps({"error": {"message": line, "type": kind, "param": None, "code": status}}).encode()


async def send_refusal(send: Send, refusal: RefusedError) -> None:
    """Answer with `refusal`."""
    headers = []
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after_s))).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send_json(send, refusal.status, refusal.body(), headers)


async def send_json(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Answer with the JSON in `body`."""
    length = (b"content-length", str(len(body)).encode())
    all_headers = [(b"content-type", b"application/json"), length, *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
