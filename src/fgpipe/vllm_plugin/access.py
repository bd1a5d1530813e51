"""Who may ask what of the server, decided before any route sees the request.

vLLM guards only paths below /v1 and a few more, and leaves open routes that generate (`/invocations`), that read any
folder of the machine (`/adapters`), or that reconfigure the server.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fgpipe.keys import ADMIN_KEY_VARIABLE, CLIENT_KEY_VARIABLE, Lock
from fgpipe.vllm_plugin import ADMIN_PREFIX

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSED = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/scale_elastic_ep")
"""Never answered: they load any folder, or a second copy of a version, which ends vLLM's engine."""

OPEN = ("/health", "/ping", "/metrics", "/version")
"""Answered without a key, for health checks and Prometheus."""


class Access:
    """ASGI middleware: closed paths get 403; the rest needs the key its path asks for, if the server has keys."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.clients = Lock(CLIENT_KEY_VARIABLE)
        self.administration = Lock(ADMIN_KEY_VARIABLE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401 or 403."""
        if scope["type"] in ("http", "websocket"):
            status, message = self.judge(scope)
            if status:
                await _refuse(scope, send, status, message)
                return
        await self.app(scope, receive, send)

    def judge(self, scope: Scope) -> tuple[int, str]:
        """(0, "") if the request may pass, else the HTTP status and the reason."""
        path = _path(scope)
        if _below(path, CLOSED):
            return 403, f"{path} is closed on this server: adapters are published into its folder"
        if path in OPEN or scope.get("method") == "OPTIONS":
            return 0, ""
        admin = _below(path, (ADMIN_PREFIX,))
        if (self.administration if admin else self.clients).opens_for(_bearer(scope)):
            return 0, ""
        who, variable = ("administration", ADMIN_KEY_VARIABLE) if admin else ("clients", CLIENT_KEY_VARIABLE)
        return 401, f"{path}: expected the key for {who}, which the server has in {variable}"


def _path(scope: Scope) -> str:
    """The path as routes will see it; repeated slashes and a final one change no route, and must open none."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return "/" + "/".join(part for part in path.split("/") if part)


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name.lower() == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if scheme.lower() == "bearer" else None
    return None


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": message})
        return
    kind = "PermissionDeniedError" if status == 403 else "AuthenticationError"
    body = json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
