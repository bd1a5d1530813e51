"""The servers behind the gateway: what each serves, whether it is well, and which of them a request goes to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import aiohttp

from fgpipe import adapters_folder, keys
from fgpipe.progress import say

PATIENCE = 2
"""Looks in a row that an upstream may fail to answer in time; a refused connection ends its turn at once."""


@dataclass(eq=False)
class Upstream:
    """One server: `base` and `models` are what it said last; `reason` says why it is not well."""

    url: str
    base: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    """Name -> version it means there; "" for the base and where a server does not say."""
    healthy: bool = False
    reason: str = "not asked yet"
    in_flight: int = 0
    misses: int = 0
    heard_s: float = -math.inf
    """When it last began an answer; one that does so is well, however slow it is to say so."""

    def ranked_for(self, adapter: str) -> bytes:
        """Weight of this upstream for `adapter` in rendezvous hashing; the largest is preferred."""
        text = f"{self.url}\0{adapter}".encode(errors="surrogatepass")
        return hashlib.blake2b(text, digest_size=8).digest()


def ranked(upstreams: Iterable[Upstream], adapter: str) -> list[Upstream]:
    """`upstreams` in the order in which `adapter` prefers them; one that goes or comes moves only its own adapters."""
    return sorted(upstreams, key=lambda upstream: upstream.ranked_for(adapter), reverse=True)


def choose(preference: Sequence[Upstream], *, spill: int, limit: int) -> Upstream | None:
    """The first of `preference` below `spill` requests, else the least busy below `limit`; None if all are full."""
    for upstream in preference:
        if upstream.in_flight < spill:
            return upstream
    free = [upstream for upstream in preference if upstream.in_flight < limit]
    return min(free, key=lambda upstream: upstream.in_flight, default=None)


class Pool:
    """All upstreams, and the task that looks at them again and again.

    Args:
        urls: their addresses.
        session: for the looks and the requests.
        on_change: told of an upstream that came or went.
    """

    def __init__(self, urls: Sequence[str], *, timeout_s: float, on_change: Callable[[Upstream], None]) -> None:
        self.all = [Upstream(url) for url in urls]
        self._by_url = {upstream.url: upstream for upstream in self.all}
        self.timeout = aiohttp.ClientTimeout(total=timeout_s)
        self.on_change = on_change

    def named(self, url: str) -> Upstream:
        """The one at `url`."""
        return self._by_url[url]

    def healthy(self) -> list[Upstream]:
        """Those that are well."""
        return [upstream for upstream in self.all if upstream.healthy]

    def serving(self, model: str, *, published_for: str = "") -> list[Upstream]:
        """Healthy upstreams that `model` may be asked of, in no order.

        Args:
            model: as the client wrote it; "" for none.
            published_for: the base that the adapter was published for, if that is known.
        """
        well = self.healthy()
        name = model.partition("@")[0]
        for fits in (
            lambda upstream: upstream.base == model,
            lambda upstream: bool(published_for) and upstream.base == published_for,
            lambda upstream: name in upstream.models,
        ):
            if found := [upstream for upstream in well if fits(upstream)]:
                return found
        first = well[0].base if well else ""
        return [upstream for upstream in well if upstream.base == first]

    def bases(self) -> set[str]:
        """Names of the base models served."""
        return {upstream.base for upstream in self.all if upstream.base}

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Ask every upstream once how it is."""
        await asyncio.gather(*(self._look(session, upstream) for upstream in self.all))

    async def _look(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        try:
            await self._ask(session, upstream)
        except (aiohttp.ClientConnectorError, ConnectionResetError) as error:
            self.lost(upstream, f"got {error}, expected a server")
        except TimeoutError:
            if time.monotonic() - upstream.heard_s > PATIENCE * (self.timeout.total or 0):
                self._missed(upstream, f"got nothing in {self.timeout.total:g} s, expected it to say how it is")
        except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
            self._missed(upstream, f"got {error or type(error).__name__}, expected a well vLLM server")
        else:
            upstream.misses = 0
            if not upstream.healthy:
                upstream.healthy, upstream.reason = True, ""
                say(f"{upstream.url}: serves {upstream.base}")
                self.on_change(upstream)

    def _missed(self, upstream: Upstream, reason: str) -> None:
        upstream.misses += 1
        if upstream.misses >= PATIENCE or not upstream.healthy:
            self.lost(upstream, reason)

    async def _ask(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        async with session.get(f"{upstream.url}/health", timeout=self.timeout, allow_redirects=False) as answer:
            _require_ok(answer)
        listing = f"{upstream.url}/v1/models"
        own_key = keys.shown(keys.CLIENT_KEY_VARIABLE)
        async with session.get(listing, timeout=self.timeout, headers=own_key, allow_redirects=False) as answer:
            _require_ok(answer)
            entries: list[dict[str, Any]] = json.loads(await answer.read())["data"]
        upstream.base = str(next(entry["id"] for entry in entries if not entry.get("parent")))
        upstream.models = {str(entry["id"]): _version(entry) for entry in entries}

    def lost(self, upstream: Upstream, reason: str) -> None:
        """Take `upstream` out until a look finds it well."""
        if upstream.healthy or upstream.reason != reason:
            upstream.reason = reason
            say(f"{upstream.url}: down: {reason}")
        if upstream.healthy:
            upstream.healthy = False
            self.on_change(upstream)


def _require_ok(answer: aiohttp.ClientResponse) -> None:
    if answer.status != 200:
        hint = f" (does {keys.CLIENT_KEY_VARIABLE} hold its key?)" if answer.status == 401 else ""
        raise ValueError(f"HTTP {answer.status} from {answer.url.path}{hint}")


def _version(entry: Mapping[str, Any]) -> str:
    """The version in an entry of /v1/models: with our plugin its `root` is the version's folder."""
    last = PurePath(str(entry.get("root") or "")).name
    return last if entry.get("parent") and adapters_folder.is_version(last) else ""
