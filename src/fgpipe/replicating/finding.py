"""`server.replicas=auto`: one server more as long as that pays, by measuring; what was found is remembered."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import adapters_folder, store, trial
from fgpipe.config import MOST_REPLICAS, Config
from fgpipe.errors import ServeError
from fgpipe.progress import console, say
from fgpipe.publishing import registry
from fgpipe.replicating import load
from fgpipe.replicating.front import GatewayProcess
from fgpipe.replicating.load import Load
from fgpipe.serving import fitting, gpus, tuned
from fgpipe.serving.command import Build, installed_build, installed_version
from fgpipe.serving.replicas import Replicas

if TYPE_CHECKING:
    from rich.table import Table

GAIN_FRACTION = 0.08
"""What a further server must add to the tokens a second of all. Two measurements of the same servers differ by a few
per cent, and a server costs memory and a start."""

PROCESSORS = {"gpu": 2, "cpu": 1}
"""That a server keeps busy: on a GPU its API process and its engine."""

FILE = "replicas.json"
"""In the folder of the runs: what was found, by a digest of the circumstances."""

NOT_MEASURED = {"host", "port", "replicas", "watch_s", "start_timeout_s", "vllm_version"}
"""Settings of the server that change nothing of its speed."""


def chosen(totals: Sequence[float]) -> int:
    """How many servers to run.

    Args:
        totals: tokens a second of 1, 2, … servers together; as far as it was measured, at least of one.
    """
    for count, (before, after) in enumerate(pairwise(totals), start=1):
        if not after > before * (1 + GAIN_FRACTION):
            return count
    return len(totals)


def pays(totals: Sequence[float]) -> bool:
    """Whether to try one server more than was measured."""
    return chosen(totals) == len(totals)


def find(config: Config, *, most: int, load_: Load | None = None) -> int:
    """Measure 1, 2, … servers until another one does not pay or `most` run; say what was found, and remember it.

    Every server has the part of a `most`-th meanwhile, so that none needs to start anew when another one comes. They
    start twice as many each time, as several need hardly longer than one; those that are not measured yet idle.

    Raises:
        ServeError: a server cannot start, or none of the requests is answered.
    """
    load_ = replace(load_ or load.standard(config), models=_models(config))
    say(
        f"server.replicas=auto: measuring 1 to {most} servers, {load_.streams} requests at once to "
        f"{len(load_.models)} model{'s' * (len(load_.models) > 1)}; once for these settings"
    )
    totals: list[float] = []
    with Replicas(config.model, config.server, of=most, adapters=Path(config.paths.adapters)) as replicas:
        while len(totals) < most and pays(totals or [0.0]):
            count = len(totals) + 1
            if count > len(replicas.urls):
                try:
                    replicas.grow(min(most, max(1, 2 * len(replicas.urls))))
                except ServeError as error:
                    if not totals:
                        raise
                    say(f"warning: the next servers did not start: {error.message}")
                    most = len(totals)
                    break
            totals.append(_measure(config, replicas.urls[:count], load_, logs=replicas.logs))
            say(f"{len(totals)} server{'s' * (len(totals) > 1)}: {totals[-1]:,.0f} output tokens/s")
    count = chosen(totals)
    console().print(table(totals))
    reason = f"the next one adds less than {GAIN_FRACTION:.0%}" if count < len(totals) else f"no more than {most} fit"
    say(f"server.replicas=auto: {count}; {reason}")
    _remember(config, count, totals)
    return count


def _measure(config: Config, urls: tuple[str, ...], load_: Load, *, logs: Path) -> float:
    """Output tokens a second of the servers at `urls` through a gateway of our own, at which no client can be."""
    from fgpipe.replicating import fronted

    gateway = config.gateway.model_copy(update={"host": "127.0.0.1", "port": trial.free_port()})
    own = config.model_copy(update={"gateway": gateway})
    with fronted(GatewayProcess(own, urls, log=logs / "gateway.log", closed=True)) as front:
        return load.tokens_per_s(front.url, load_)


def _models(config: Config) -> tuple[str, ...]:
    """The published adapters of this base; the base if there are none."""
    adapters = Path(config.paths.adapters)
    names = [
        name
        for name in adapters_folder.names_in(adapters)
        if registry.base_of(name, adapters=adapters) == config.model.id
    ]
    return tuple(names) or (config.model.id,)


def most(config: Config) -> int:
    """How many servers may be tried: for each the processors that it keeps busy, and memory for the load at least.

    Raises:
        ModelError: the base's files are not there.
        ServeError: not even one fits; with the arithmetic.
    """
    build = installed_build()
    by_processors = len(os.sched_getaffinity(0)) // PROCESSORS[build]
    by_ports = 65536 - config.server.port
    bound = max(1, min(by_processors, by_ports, MOST_REPLICAS))
    fitting.plan_here(config.model, config.server, build, replicas=1)
    while bound > 1 and not _holds(config, build, bound):
        bound -= 1
    return bound


def _holds(config: Config, build: Build, replicas: int) -> bool:
    """Whether one server, with its part, has a KV cache for all requests of the load: the first is alone with them."""
    try:
        plan = fitting.plan_here(config.model, config.server, build, replicas=replicas)
    except ServeError:
        return False
    return plan is None or plan.kv_bytes >= load.standard(config).tokens * plan.memory.kv.bytes_per_token


def table(totals: Sequence[float]) -> Table:
    """What was measured."""
    from rich.table import Table

    found = Table()
    for column in ("servers", "output tokens/s", "gain"):
        found.add_column(column, justify="right")
    for place, total in enumerate(totals):
        gain = f"{total / totals[place - 1] - 1:+.1%}" if place else ""
        found.add_row(str(place + 1), f"{total:,.0f}", gain)
    return found


def circumstances(config: Config) -> dict[str, Any]:
    """What the number depends on."""
    found = gpus.found_gpus() if installed_build() == "gpu" else []
    kernels = tuned.find(config.model, config.server, vllm=installed_version()).folder
    server = config.server.model_dump(mode="json", exclude=NOT_MEASURED)
    return {
        "device": found[0].name if found else platform.machine(),
        "model": {"shape": config.model.shape.model_dump(), "dtype": config.model.dtype},
        "vllm": installed_version(),
        "processors": len(os.sched_getaffinity(0)),
        "server": server,
        "gateway_workers": config.gateway.workers,
        "requests_at_once": load.standard(config).streams,
        "with_adapters": _models(config) != (config.model.id,),
        "kernels": tuned.digest(kernels) if kernels else None,
    }


def remembered(config: Config) -> int | None:
    """What was found under the same circumstances; None if nothing was."""
    path = _file(config)
    entry = _entries(path).get(store.digest(circumstances(config)))
    count = entry.get("replicas") if isinstance(entry, dict) else None
    if not isinstance(count, int) or not 1 <= count <= MOST_REPLICAS:
        return None
    say(f"server.replicas=auto: {count}, as measured before ({path}; remove it to measure anew)")
    return count


def _remember(config: Config, count: int, totals: Sequence[float]) -> None:
    path, facts = _file(config), circumstances(config)
    entry = {
        "replicas": count,
        "output_tokens_per_s": [round(total, 1) for total in totals],
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "circumstances": facts,
    }
    store.write_json(path, {**_entries(path), store.digest(facts): entry})
    say(f"remembered in {path}")


def _file(config: Config) -> Path:
    return Path(config.paths.runs) / FILE


def _entries(path: Path) -> dict[str, Any]:
    """What the file holds; nothing if it cannot be read, for then it is written anew."""
    try:
        found = store.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
