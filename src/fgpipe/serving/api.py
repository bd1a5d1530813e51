"""The few HTTP requests we make to a vLLM server ourselves, with nothing but the standard library."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from fgpipe import keys
from fgpipe.config import ServerConfig
from fgpipe.errors import ServeError
from fgpipe.keys import CLIENT_KEY_VARIABLE

TIMEOUT_S = 60.0


def address(server: ServerConfig) -> str:
    """URL under which this machine reaches `server`, without `/v1`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def fetch(
    url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S, key: str = CLIENT_KEY_VARIABLE
) -> str:
    """The text answered to a GET, or to a POST of `body` as JSON.

    Args:
        key: environment variable with the key to show, if it is set.

    Raises:
        ServeError: the server answered with an error; the message is its own.
        OSError: there is no server, or the connection broke.
    """
    headers = {"Content-Type": "application/json", **keys.shown(key)}
    request = urllib.request.Request(url, headers=headers, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise refused(url, error.code, error.read().decode(errors="replace"), key=key) from None


def models(base_url: str, *, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
    """What the server lists: the base, and every adapter that is loaded, with its folder as `root`."""
    entries: list[dict[str, Any]] = json.loads(fetch(f"{base_url}/v1/models", timeout_s=timeout_s))["data"]
    return entries


class RefusedError(ServeError):
    """The server answered, with an error: `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def refused(url: str, status: int, text: str, *, key: str = CLIENT_KEY_VARIABLE) -> RefusedError:
    """The error for an HTTP error answer of vLLM."""
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = text.strip()[:200]
    hint = f"{key} holds the key the server was started with" if status in (401, 403) else ""
    return RefusedError(f"{url}: got HTTP {status} ({said}), expected an answer", status=status, hint=hint)
