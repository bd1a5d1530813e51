"""Makes a running server answer by the version that the pointer names now, and asks it which one that is.

vLLM looks a name up once and keeps the answer, so a moved pointer alone changes nothing for a name in use.
"""

from __future__ import annotations

import errno
import json
import urllib.error
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fgpipe.errors import ServeError
from fgpipe.keys import ADMIN_KEY_VARIABLE
from fgpipe.progress import say
from fgpipe.serving import api
from fgpipe.serving.api import StrangerError, UnreachableError
from fgpipe.vllm_plugin import REFRESH_PATH, STATUS_PATH

LOOK_S = 20.0
"""Longest wait for a server to say how it is; it may be busy, and must not be taken for one that is not there."""

ANSWER_S = 600.0
"""Longest wait for a version to be loaded, and to answer its first request, behind all that the server has to do."""


class OtherVersionError(ServeError):
    """A server answers a name by another version than it should."""


@dataclass(frozen=True)
class ServerStatus:
    """What one running server says of itself.

    Attributes:
        base: name of the base model it serves.
        dtype: number format it computes in.
        answers: the version behind every name it was asked for, such as `{"sql": "sql@v0002"}`.
        contents: digest of each of these versions, as its manifest had it when the server read it.
        slots: versions on the device now; at most `max_loras`.
        memory: versions in memory now, those in slots included; at most `max_cpu_loras`.
        evicted: versions that were in memory and had to make room; asking for one reads it from disk again.
        kv_cache_bytes: size of its KV cache; None if it does not say.
        ports: of the servers that were started together with it, its own included; none if it was started alone.
    """

    url: str
    base: str
    dtype: str
    answers: Mapping[str, str]
    contents: Mapping[str, str]
    max_loras: int
    max_cpu_loras: int
    slots: tuple[str, ...]
    memory: tuple[str, ...]
    evicted: tuple[str, ...]
    kv_cache_bytes: int | None = None
    ports: tuple[int, ...] = ()

    def replicas(self) -> list[str]:
        """Addresses of the servers that were started together with this one, its own included."""
        return [f"{self.url.rpartition(':')[0]}:{port}" for port in self.ports]

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
        StrangerError: something answers there that is no vLLM with fgpipe's plugin.
        UnreachableError: the network does not reach it, or it does not finish answering.
        ServeError: it refuses.
    """
    try:
        said = _administer(f"{base_url}{STATUS_PATH}", timeout_s=LOOK_S)
    except OSError as error:
        if _nobody_listens(error):
            return None
        raise UnreachableError(f"{base_url}: got {error}, expected a server or none") from error
    try:
        # What has a default came later: a server of an earlier version does not say it.
        wanted = [field.name for field in fields(ServerStatus) if field.name in said or field.default is MISSING]
        wanted.remove("url")
        facts: dict[str, Any] = {key: tuple(said[key]) if isinstance(said[key], list) else said[key] for key in wanted}
        return ServerStatus(url=base_url, **facts)
    except (KeyError, TypeError):
        raise StrangerError(f"{base_url}: got {said!s:.80}, expected the status of vLLM with fgpipe's plugin") from None


def refresh(base_url: str, name: str, *, expect: str | None = None, content: str = "") -> str | None:
    """Make the server at `base_url` answer `name` by its current version; that version, such as `v0002`.

    Returns when a request has been answered by it. Requests in flight finish on the version they began with; none
    fails. None if the server forgot the name because it is not published any more.

    Args:
        expect: the version that must answer now; None: nobody.
        content: digest of that version, if it is known: a server that reads another folder may have the same number.

    Raises:
        OtherVersionError: it answers by another version than `expect`, or by other files of that number.
        ServeError: the server refuses, or cannot be reached.
    """
    try:
        said = _administer(f"{base_url}{REFRESH_PATH}", {"name": name}, timeout_s=ANSWER_S)
        version = answering(base_url, name) if said["version"] else None
    except OSError as error:
        raise UnreachableError(f"{base_url}: got {error}, expected it to take up {name}") from error
    except KeyError as error:
        raise StrangerError(f"{base_url}: got no {error}, expected vLLM with fgpipe's plugin") from None
    same_files = not content or not said.get("content") or said["content"] == content
    if version != expect or not same_files:
        raise OtherVersionError(
            f"{base_url}: {name} is answered by {version or 'nobody'}{'' if same_files else ' of other files'}, "
            f"expected {expect or 'nobody'}",
            hint="it may read another adapters folder (its FGPIPE_ADAPTERS): then restart it with this one",
        )
    say(f"{base_url}: {name} is answered by {version or 'nobody: it is not published'}")
    return version


def forget(base_url: str, name: str) -> None:
    """Let the server drop `name`, which is published no more.

    Raises:
        ServeError: the server refuses, or cannot be reached.
    """
    try:
        _administer(f"{base_url}{REFRESH_PATH}", {"name": name})
    except OSError as error:
        raise UnreachableError(f"{base_url}: got {error}, expected it to forget {name}") from error


def answering(base_url: str, name: str) -> str:
    """The version, such as `v0002`, that answered one request for `name`.

    Raises:
        ServeError: the server refuses.
        OSError: there is no server, or the connection broke.
    """
    body = {"model": name, "prompt": [2], "max_tokens": 1, "temperature": 0}
    try:
        model = json.loads(api.fetch(f"{base_url}/v1/completions", body, timeout_s=ANSWER_S))["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise StrangerError(f"{base_url}: got no completion ({error!r:.80}), expected one by {name}") from None
    return str(model).rpartition("@")[2].partition("+")[0]


def _administer(url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = api.TIMEOUT_S) -> dict[str, Any]:
    """What an administration route answers; the key is shown only to a server that asks for it."""
    try:
        try:
            text = api.fetch(url, body, timeout_s=timeout_s, key=None)
        except api.RefusedError as error:
            if error.status != 401:
                raise
            text = api.fetch(url, body, timeout_s=timeout_s, key=ADMIN_KEY_VARIABLE)
        said: dict[str, Any] = json.loads(text)
    except api.RefusedError as error:
        if error.status in (404, 405):
            raise StrangerError(
                f"{url}: got HTTP {error.status}, expected vLLM with fgpipe's plugin",
                hint="another program may listen there (server.port), or vLLM lacks the plugin and must be restarted",
            ) from None
        raise
    except ValueError:
        raise StrangerError(f"{url}: got no JSON, expected vLLM with fgpipe's plugin") from None
    return said


def _nobody_listens(error: OSError) -> bool:
    """Whether the machine is there and says that nothing listens; a network that is down says no such thing."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED
