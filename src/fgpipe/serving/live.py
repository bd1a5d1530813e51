"""Makes a running server answer by the version that the pointer names now, and asks it which one that is.

vLLM looks a name up once and keeps the answer, so a moved pointer alone changes nothing for a name in use.
"""

from __future__ import annotations

import errno
import json
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fgpipe.errors import ServeError
from fgpipe.keys import ADMIN_KEY_VARIABLE
from fgpipe.progress import say
from fgpipe.serving import api
from fgpipe.vllm_plugin import REFRESH_PATH, STATUS_PATH

LOOK_S = 20.0
"""Longest wait for a server to say how it is; it may be busy, and must not be taken for one that is not there."""

NOBODY = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
"""What a connection fails with where no server runs."""


@dataclass(frozen=True)
class ServerStatus:
    """What one running server says of itself.

    Attributes:
        base: name of the base model it serves.
        answers: the version behind every name it was asked for, such as `{"sql": "sql@v0002"}`.
        slots: versions on the device now; at most `max_loras`.
        memory: versions in memory now, those in slots included; at most `max_cpu_loras`.
        evicted: versions that were in memory and had to make room; asking for one reads it from disk again.
    """

    url: str
    base: str
    answers: Mapping[str, str]
    max_loras: int
    max_cpu_loras: int
    slots: tuple[str, ...]
    memory: tuple[str, ...]
    evicted: tuple[str, ...]

    def loaded(self) -> set[str]:
        """Every version whose files this server may still need."""
        return {*self.answers.values(), *self.memory}

    def memory_line(self) -> str:
        """Slots, memory and evictions in a line."""
        room = f"{self.url}: {len(self.slots)} of {self.max_loras} slots in use, "
        room += f"{len(self.memory)} of {self.max_cpu_loras} adapters in memory"
        return f"{room}, evicted: {', '.join(self.evicted)}" if self.evicted else room


def status(base_url: str) -> ServerStatus | None:
    """How the server at `base_url` is; None if none runs there.

    Raises:
        ServeError: something answers there that is no vLLM with fgpipe's plugin, refuses, or does not finish answering.
    """
    try:
        said = _administer(f"{base_url}{STATUS_PATH}", timeout_s=LOOK_S)
    except OSError as error:
        if _nobody(error):
            return None
        raise ServeError(f"{base_url}: got {error}, expected a server or none") from error
    try:
        facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        return ServerStatus(url=base_url, **facts)
    except (AttributeError, TypeError):
        raise ServeError(f"{base_url}: got {said!s:.80}, expected the status of vLLM with fgpipe's plugin") from None


def refresh(base_url: str, name: str, *, expect: str | None = None) -> str | None:
    """Make the server at `base_url` answer `name` by its current version; that version, such as `v0002`.

    Returns when a request has been answered by it. Requests in flight finish on the version they began with; none
    fails. None if the server forgot the name because it is not published any more.

    Args:
        expect: the version that must answer now.

    Raises:
        ServeError: the server refuses, or answers by another version than `expect`.
    """
    try:
        taken_up = _administer(f"{base_url}{REFRESH_PATH}", {"name": name})["version"]
        version = answering(base_url, name) if taken_up else None
    except OSError as error:
        raise ServeError(f"{base_url}: got {error}, expected it to take up {name}") from error
    if expect is not None and version != expect:
        raise ServeError(
            f"{base_url}: {name} is answered by {version or 'nobody'}, expected {expect}",
            hint="it may read another adapters folder (its FGPIPE_ADAPTERS): then restart it with this one",
        )
    say(f"{base_url}: {name} is answered by {version or 'nobody: it is not published'}")
    return version


def answering(base_url: str, name: str) -> str:
    """The version, such as `v0002`, that answered one request for `name`.

    Raises:
        ServeError: the server refuses.
        OSError: there is no server, or the connection broke.
    """
    body = {"model": name, "prompt": [2], "max_tokens": 1, "temperature": 0}
    model = str(json.loads(api.fetch(f"{base_url}/v1/completions", body))["model"])
    return model.rpartition("@")[2]


def _administer(url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = api.TIMEOUT_S) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(api.fetch(url, body, timeout_s=timeout_s, key=ADMIN_KEY_VARIABLE))
    except api.RefusedError as error:
        if error.status in (404, 405):
            raise ServeError(
                f"{url}: got HTTP {error.status}, expected vLLM with fgpipe's plugin",
                hint="another program may listen there (server.port), or vLLM lacks the plugin and must be restarted",
            ) from None
        raise
    except ValueError as error:
        raise ServeError(f"{url}: got no JSON, expected vLLM with fgpipe's plugin") from error
    return said


def _nobody(error: OSError) -> bool:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(cause, OSError) and cause.errno in NOBODY
