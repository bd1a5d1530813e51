"""The paths that ask a model, and the way past the routes that they take."""

from __future__ import annotations

from fgpipe.gateway.exchange import Gateway
from fgpipe.gateway.faults import Application, Receive, Scope, Send
from fgpipe.gateway.generate import CHAT, Generate
from fgpipe.gateway.relay import Relay

GENERATE = "/api/generate"

PASSED_THROUGH = {
    CHAT: "Chat completion, OpenAI's shape; `stream` as server-sent events",
    "/v1/completions": "Completion of a raw prompt, OpenAI's shape",
    "/tokenize": "Token ids of a prompt or conversation",
    "/detokenize": "Text of token ids",
}
"""Paths of vLLM that clients may ask; all others stay closed, its administration above all."""


class Shortcut:
    """ASGI middleware: requests for a model go straight to what answers them.

    FastAPI's routing and the wrappers around its `send` cost a fifth of the gateway's time a token.
    """

    def __init__(self, app: Application, gateway: Gateway) -> None:
        self.app = app
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or leave it to the routes."""
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif path in PASSED_THROUGH:
            await Relay(self.gateway, path)(scope, receive, send)
        elif path == GENERATE:
            await Generate(self.gateway, path)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
