"""A fixed load to compare numbers of servers by: so many requests at once, to all adapters in turn, all of one size."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fgpipe.config import Config
from fgpipe.errors import ServeError

if TYPE_CHECKING:
    import aiohttp

STREAMS = 256
"""Requests at once; what one engine is given at most by default (server.max_num_seqs)."""

TOKEN_IDS = range(110, 360)
"""Of prompts: legal in every vocabulary of the family, and none of them special."""

RETRY_S = 0.5
"""Before a request that was refused is made again."""


@dataclass(frozen=True)
class Load:
    """What is asked, and for how long."""

    streams: int
    prompt_tokens: int
    output_tokens: int
    models: tuple[str, ...] = field(default=())
    warm_s: float = 5.0
    """Before anything is counted: adapters are loaded, graphs and caches warm."""
    window_s: float = 6.0
    windows: int = 3
    """The median of so many counts."""

    @property
    def tokens(self) -> int:
        """That all requests hold at once."""
        return self.streams * (self.prompt_tokens + self.output_tokens)


def standard(config: Config) -> Load:
    """The load for the configured server: short prompts and answers, as function calling has them."""
    length = config.server.max_model_len_tokens
    streams = min(STREAMS, config.server.max_num_seqs, config.gateway.max_in_flight)
    return Load(streams, prompt_tokens=min(128, length // 2), output_tokens=min(64, length // 4))


def tokens_per_s(url: str, load: Load) -> float:
    """Output tokens a second that the server or gateway at `url` gives under `load`.

    Raises:
        ServeError: it answered none of the requests.
    """
    return asyncio.run(_run(url, load))


async def _run(url: str, load: Load) -> float:
    import aiohttp

    count = _Count()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(
        base_url=url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0), trust_env=False
    ) as session:
        streams = [asyncio.create_task(_ask_on(session, load, place, count)) for place in range(load.streams)]
        try:
            await asyncio.sleep(load.warm_s)
            rates = [await _window(count, load.window_s) for _ in range(load.windows)]
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
    if not count.tokens:
        raise ServeError(f"{url}: got no answer to any request ({count.last}), expected some to measure by")
    return statistics.median(rates)


@dataclass
class _Count:
    tokens: int = 0
    last: str = "nothing came back"
    """How the last request that failed ended."""


async def _window(count: _Count, seconds: float) -> float:
    before, began = count.tokens, time.monotonic()
    await asyncio.sleep(seconds)
    return (count.tokens - before) / (time.monotonic() - began)


async def _ask_on(session: aiohttp.ClientSession, load: Load, place: int, count: _Count) -> None:
    """One stream: a request as soon as the one before is answered, each to the next model."""
    draw = random.Random(place)
    for turn in itertools.count(place):
        model = load.models[turn % len(load.models)]
        try:
            async with session.post("/v1/completions", json=_body(load, model, draw)) as answer:
                if answer.status == 200:
                    count.tokens += (await answer.json())["usage"]["completion_tokens"]
                    continue
                count.last = f"HTTP {answer.status}: {(await answer.text())[:200]}"
        except (OSError, _client_error(), ValueError, KeyError) as error:
            count.last = f"{type(error).__name__}: {error}"
        await asyncio.sleep(RETRY_S)


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


def _body(load: Load, model: str, draw: random.Random) -> dict[str, Any]:
    """Half of a prompt is the model's, as its declarations are; the other half is new each time."""
    shared = random.Random(model).choices(TOKEN_IDS, k=load.prompt_tokens // 2)
    own = draw.choices(TOKEN_IDS, k=load.prompt_tokens - len(shared))
    return {
        "model": model,
        "prompt": [*shared, *own],
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
