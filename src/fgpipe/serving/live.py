"""Makes a running server answer by the version that the pointer names now, and says which one that is.

vLLM asks the plugin for a name once and keeps the answer, so a moved pointer alone changes nothing for that name.
"""

from __future__ import annotations

import json
from pathlib import PurePath

from fgpipe.errors import ServeError
from fgpipe.progress import say
from fgpipe.serving import api
from fgpipe.vllm_plugin import REFRESH_PATH

LOOK_S = 5.0
"""Longest wait to find out whether there is a server at all."""


def refresh(base_url: str, name: str, *, expect: str | None = None, base: str | None = None) -> str | None:
    """Make the server at `base_url` answer `name` by its current version; the version that answers from now on.

    Requests in flight finish on the version they began with; none fails. None if no server answers there, or one that
    serves another base: it will find the current version when it starts.

    Args:
        expect: the version that must answer now.
        base: name of the base the server must serve to be the one meant.

    Raises:
        ServeError: the server refuses, or answers by another version than `expect`.
    """
    if not _is_there(base_url, base):
        return None
    try:
        version = _version(json.loads(api.fetch(f"{base_url}{REFRESH_PATH}", {"name": name}))["path"])
    except api.RefusedError as error:
        if error.status not in (404, 405):
            raise
        version = _unload_and_warm_up(base_url, name)
    except OSError as error:
        raise ServeError(f"{base_url}: got {error}, expected it to take up {name}") from error
    if expect is not None and version != expect:
        raise ServeError(
            f"{base_url}: {name} is answered by {version}, expected {expect}",
            hint="it may read another adapters folder (its FGPIPE_ADAPTERS), or lack fgpipe's plugin: then restart it",
        )
    say(f"{base_url}: {name} is answered by {version}")
    return version


def versions(base_url: str) -> dict[str, str]:
    """The version each adapter loaded in the server answers by, by the name it was asked for; without the base.

    Raises:
        ServeError: the server refuses or does not answer.
    """
    try:
        entries = api.models(base_url)
    except OSError as error:
        raise ServeError(
            f"{base_url}: got {error}, expected a server", hint="python -m fgpipe serve starts one"
        ) from error
    # Adapters have a parent, the base; their root is the folder their weights were read from.
    return {str(entry["id"]): _version(str(entry["root"])) for entry in entries if entry.get("parent")}


def _is_there(base_url: str, base: str | None) -> bool:
    try:
        entries = api.models(base_url, timeout_s=LOOK_S)
    except OSError:
        return False
    except api.RefusedError as error:
        if error.status in (401, 403):
            raise
        return False
    return base is None or any(entry.get("id") == base for entry in entries)


def _version(path: str) -> str:
    return PurePath(path).name


def _unload_and_warm_up(base_url: str, name: str) -> str:
    """For a server without our route: forget the name, then ask for it, so that it is resolved anew."""
    try:
        api.fetch(f"{base_url}/v1/unload_lora_adapter", {"lora_name": name})
    except api.RefusedError as error:
        if error.status != 404:
            raise
    api.fetch(f"{base_url}/v1/completions", {"model": name, "prompt": [2], "max_tokens": 1, "temperature": 0})
    return versions(base_url)[name]
