"""The two keys of a server, taken from the environment: one for clients, one for administration. Standard library only.

Keys are never configuration, never logged, and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os

from fgpipe.errors import ServeError

CLIENT_KEY_VARIABLE = "VLLM_API_KEY"
"""vLLM's own: the key its clients must show."""

ADMIN_KEY_VARIABLE = "FGPIPE_ADMIN_KEY"
"""The key for fgpipe's administration routes."""


def read(variable: str) -> str | None:
    """The key in `variable`; None if it is not set.

    Raises:
        ServeError: it holds what no HTTP header can, such as the line end of a file written on Windows.
    """
    key = os.environ.get(variable) or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ServeError(
            f"{variable}: got a key with spaces, line ends or other characters a header cannot hold, expected none",
            hint="line ends of Windows in a .env file are such: sed -i 's/\\r$//' .env",
        )
    return key


def shown(variable: str) -> dict[str, str]:
    """The header that shows the key in `variable`; none if it is not set."""
    key = read(variable)
    return {"Authorization": f"Bearer {key}"} if key else {}


class Lock:
    """What opens for one key only; for everybody if `variable` is not set."""

    def __init__(self, variable: str) -> None:
        key = read(variable)
        self._digest = _digest(key) if key else None

    def opens_for(self, key: str | None) -> bool:
        """Whether `key` is the right one, in a time that tells nothing of it."""
        return self._digest is None or (key is not None and hmac.compare_digest(_digest(key), self._digest))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def refusal_to_listen(host: str | None) -> str:
    """Why a server must not listen on `host` with the keys that are in the environment; "" if it may."""
    if is_loopback(host):
        return ""
    found = {name: read(name) for name in (CLIENT_KEY_VARIABLE, ADMIN_KEY_VARIABLE)}
    missing = [name for name, key in found.items() if key is None]
    if missing:
        return f"{host or 'every address'}: got no {' and no '.join(missing)}, expected both keys off the loopback"
    if found[CLIENT_KEY_VARIABLE] == found[ADMIN_KEY_VARIABLE]:
        return f"{ADMIN_KEY_VARIABLE}: got the clients' key, expected one of its own"
    return ""


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach `host`; vLLM takes None for every address."""
    if host == "localhost":
        return True
    try:
        return bool(host) and ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
