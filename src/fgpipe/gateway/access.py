"""Who may ask: keys of clients, from the environment or a file; decided before any route sees the request."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from fgpipe import keys
from fgpipe.errors import ServeError
from fgpipe.gateway.faults import Application, Receive, RefusedError, Scope, Send, send_refusal

KEYS_VARIABLE = "FGPIPE_GATEWAY_KEYS"
"""Keys of clients, separated by commas."""

KEYS_FILE_VARIABLE = "FGPIPE_GATEWAY_KEYS_FILE"
"""A file with keys, one a line, as Docker's secrets are."""

OPEN = frozenset({"/", "/health", "/ready"})
"""Answered without a key: the page, which holds no data, and health checks."""

OPEN_HERE = frozenset({"/metrics"})
"""Answered without a key to who asks from this machine's loopback: Prometheus in the same network. Adapters' names,
versions and traffic stand there."""

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class ClientKeys:
    """The keys that open the gateway; kept as digests, compared in constant time. Without any, it is open."""

    def __init__(self, given: list[str]) -> None:
        self._digests = [_digest(key) for key in given]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def open_for(self, key: str | None) -> bool:
        """Whether `key` is one of them; takes the same time whichever it is."""
        if not self._digests:
            return True
        shown = _digest(key or "")
        return sum(hmac.compare_digest(shown, digest) for digest in self._digests) > 0


def client_keys() -> ClientKeys:
    """The keys in the environment, and in the file it names.

    Raises:
        ServeError: the file cannot be read, or a key is given and empty.
    """
    given = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",")]
    if path := os.environ.get(KEYS_FILE_VARIABLE):
        try:
            given += [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise ServeError(f"{KEYS_FILE_VARIABLE}: {path}: {error}", hint="a text file with one key a line") from None
    found = [key for key in given if key]
    if not found and (os.environ.get(KEYS_VARIABLE) or os.environ.get(KEYS_FILE_VARIABLE)):
        raise ServeError(
            f"{KEYS_VARIABLE}: got no key in it or in the file of {KEYS_FILE_VARIABLE}, expected one at least",
            hint="unset both to run without keys on the loopback",
        )
    return ClientKeys(found)


def require_keys(host: str, client: ClientKeys) -> None:
    """Refuse to listen where others can reach us without keys of their own.

    Raises:
        ServeError: `host` is no loopback address, and there are no keys.
    """
    if not client and not keys.is_loopback(host):
        raise ServeError(
            f"gateway.host: got {host} and no client keys, expected keys off the loopback",
            hint=f"set {KEYS_VARIABLE} or {KEYS_FILE_VARIABLE} in the environment, or gateway.host=127.0.0.1",
        )
    for variable in (keys.CLIENT_KEY_VARIABLE, keys.ADMIN_KEY_VARIABLE):
        if client and (own := os.environ.get(variable)) and client.open_for(own):
            raise ServeError(
                f"{KEYS_VARIABLE}: got the key of {variable}, expected keys of the clients' own",
                hint="the servers' keys are for the gateway and for publishing, and clients must not hold them",
            )


class Access:
    """ASGI middleware: a key, or 401. Without keys, only requests meant for this machine's loopback, or 403."""

    def __init__(self, app: Application, *, keys: ClientKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and (refusal := self.judge(scope)):
            await send_refusal(send, refusal)
            return
        await self.app(scope, receive, send)

    def judge(self, scope: Scope) -> RefusedError | None:
        """Why the request may not pass; None if it may."""
        headers = dict(scope["headers"])
        if not self.keys:
            if not _meant_for_loopback(headers):
                host = headers.get(b"host", b"").decode("latin-1")
                return RefusedError(
                    403, f"host: got {host[:80]!r}, expected localhost, as this gateway has no client keys"
                )
            return None
        if scope["path"] in OPEN or self.keys.open_for(_bearer(headers)):
            return None
        if scope["path"] in OPEN_HERE and _from_loopback(scope) and _meant_for_loopback(headers):
            return None
        return RefusedError(401, "key: got none or a wrong one, expected the header Authorization: Bearer <client key>")


def _meant_for_loopback(headers: dict[bytes, bytes]) -> bool:
    """Whether the address that was asked for is this machine's loopback.

    A page of another site, whose name was made to mean 127.0.0.1, asks for another.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower() in LOCAL_NAMES


def _from_loopback(scope: Scope) -> bool:
    """Whether the other end of the connection is on this machine."""
    client = scope.get("client")
    return client is not None and keys.is_loopback(client[0])


def _bearer(headers: dict[bytes, bytes]) -> str | None:
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
