"""The few HTTP requests we make to a vLLM server ourselves, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from fgpipe import keys
from fgpipe.config import GatewayConfig, ServerConfig
from fgpipe.errors import ServeError
from fgpipe.keys import CLIENT_KEY_VARIABLE

TIMEOUT_S = 60.0


def address(server: ServerConfig | GatewayConfig) -> str:
    """URL under which this machine reaches a server or gateway, without `/v1`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def fetch(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    key: str | None = CLIENT_KEY_VARIABLE,
) -> str:
    """The text answered to a GET, or to a POST of `body` as JSON.

    Args:
        key: environment variable with the key to show, if it is set; None shows none.

    Raises:
        RefusedError: the server answered with an error; the message is its own.
        StrangerError: what answers there does not speak HTTP.
        OSError: there is no server, or the connection broke.
    """
    headers = {"Content-Type": "application/json", **(keys.shown(key) if key else {})}
    request = urllib.request.Request(url, headers=headers, data=None if body is None else json.dumps(body).encode())
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return str(response.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            raise refused(url, error.code, error.read().decode(errors="replace"), key=key) from None
    except http.client.IncompleteRead as error:
        raise ConnectionResetError(f"the answer broke off after {len(error.partial)} bytes") from None
    except http.client.RemoteDisconnected:
        raise
    except http.client.HTTPException as error:
        raise StrangerError(f"{url}: got {type(error).__name__}, expected an answer in HTTP") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the next address would be shown our key."""

    def redirect_request(self, *words: Any, **more: Any) -> None:
        """None: do not follow."""


# Servers of ours are on this machine or in its private network; a proxy of the environment would answer in their place.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def models(base_url: str, *, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
    """What the server lists: the base, and every adapter that is loaded, with its folder as `root`."""
    entries: list[dict[str, Any]] = json.loads(fetch(f"{base_url}/v1/models", timeout_s=timeout_s))["data"]
    return entries


class RefusedError(ServeError):
    """The server answered, with an error: `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class StrangerError(ServeError):
    """What answers there is no vLLM with fgpipe's plugin."""


class UnreachableError(ServeError):
    """Whether a server runs there cannot be told: the network, or a server that does not finish answering."""


def refused(url: str, status: int, text: str, *, key: str | None = CLIENT_KEY_VARIABLE) -> RefusedError:
    """The error for an HTTP error answer of vLLM."""
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = text.strip()[:200]
    hint = f"{key or CLIENT_KEY_VARIABLE} holds the key the server was started with" if status in (401, 403) else ""
    return RefusedError(f"{url}: got HTTP {status} ({said}), expected an answer", status=status, hint=hint)
