"""Several equal vLLM servers on one machine: their ports, their parts of it, and how they are started together.

A step of a small model is bound by the host's code, so one engine leaves most of a GPU idle, and several share it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.serving import api, faults, fitting, foreground, live, planner
from fgpipe.serving.command import Build, Share, installed_build
from fgpipe.serving.keeping import Keeper
from fgpipe.serving.memory import GIB
from fgpipe.serving.process import POLL_S, VllmServer, progress, require_free_port, sigterm_as_exit
from fgpipe.serving.sharing import shared_gpu


def one_of(server: ServerConfig, place: int, *, of: int) -> ServerConfig:
    """Settings of replica `place` (from 0) of `of`: its port, and its part of the memory that all of them get."""
    share = planner.replica_shares(server.gpu_memory_utilization, of) / planner.SHARES
    return server.model_copy(
        update={
            "port": server.port + place,
            "replicas": 1,
            "gpu_memory_utilization": share if of > 1 else server.gpu_memory_utilization,
        }
    )


def addresses(server: ServerConfig) -> tuple[str, ...]:
    """Where the servers of `server` answer; for auto the first, which knows the others."""
    count = 1 if server.replicas == "auto" else server.replicas
    return tuple(api.address(one_of(server, place, of=count)) for place in range(count))


def share_of(server: ServerConfig, place: int, *, of: int, build: Build, kv_cache_bytes: int | None) -> Share:
    """What replica `place` of `of` gets of this machine.

    Args:
        kv_cache_bytes: what the first replica measured, on a GPU; None where it is to measure.
    """
    ports = tuple(server.port + each for each in range(of))
    if build == "gpu":
        return Share(ports, kv_cache_bytes=kv_cache_bytes)
    cpus = cpus_of(place, of=of, cpus=sorted(os.sched_getaffinity(0)))
    return Share(ports, kv_cache_bytes=server.cpu_kv_cache_gib * GIB // of, cpus=cpus)


def cpus_of(place: int, *, of: int, cpus: Sequence[int]) -> tuple[int, ...]:
    """The processors of replica `place`: its part of all, or one in turn where there are fewer than replicas.

    vLLM's own choice is all of them for every server, and their threads would spin in each other's way.
    """
    if of > len(cpus):
        return (cpus[place % len(cpus)],)
    return tuple(cpus[len(cpus) * place // of : len(cpus) * (place + 1) // of])


def shell_lines(model: ModelConfig, server: ServerConfig, *, of: int, adapters: Path) -> list[str]:
    """Environment and command of each of `of` replicas, quoted for a shell; without what the first one measures."""
    build = installed_build()
    lines = []
    for place in range(of):
        share = share_of(server, place, of=of, build=build, kv_cache_bytes=None)
        lines.append(foreground.shell_line(model, one_of(server, place, of=of), adapters=adapters, share=share))
    return lines


class Replicas:
    """Up to `of` servers that end with the block; `grow` starts them and returns when they answer.

    Every one has the part of an `of`-th, however many run.

    Raises:
        ModelError: the base's files are not there.
        ServeError: the part of one cannot hold one sequence of full length.
    """

    def __init__(
        self,
        model: ModelConfig,
        server: ServerConfig,
        *,
        of: int,
        adapters: Path,
        logs: Path | None = None,
        build: Build | None = None,
    ) -> None:
        self.model = model
        self.server = server
        self.of = of
        self.adapters = adapters
        self.logs = logs or Path(tempfile.mkdtemp(prefix="fgpipe-vllm-"))
        self.build = build or installed_build()
        self.running: list[VllmServer] = []
        self._sharing: dict[str, str] = {}
        self._undo = ExitStack()
        fitting.plan_here(model, server, self.build, replicas=of)

    def __enter__(self) -> Self:
        # First of all, so that no server that is stopped alone takes the handler with it.
        self._undo.enter_context(sigterm_as_exit())
        if self.build == "gpu" and self.of > 1 and self.server.mps:
            self._sharing = self._undo.enter_context(shared_gpu())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with ThreadPoolExecutor(max(1, len(self.running))) as pool:
                list(pool.map(VllmServer.stop, self.running))
        finally:
            self._undo.close()

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of those that were started."""
        return tuple(running.base_url for running in self.running)

    def log(self, place: int) -> Path:
        """The log of replica `place`."""
        return self.logs / f"vllm-{self.server.port + place}.log"

    def grow(self, count: int, *, look: Callable[[], object] = lambda: None) -> None:
        """Start what is missing to `count` servers; return when all answer.

        On a GPU the first starts alone: vLLM measures what it takes, and is disturbed by whoever takes or frees memory
        meanwhile; and it leaves the compiled graphs for the others. These are told the size of the KV cache that it
        found. With --kv-cache-memory-bytes vLLM 0.32 skips the measuring (`Worker.determine_available_memory`, whose
        assertion "Error in memory profiling" would end it when another one frees memory), so they may start together.
        Its other check stands: `request_memory` refuses a start with less than gpu_memory_utilization free. Each gets
        its part only, so that much is free for each however far the others are.

        Args:
            look: called often meanwhile.

        Raises:
            ServeError: one of them ended, or took longer than server.start_timeout_s.
        """
        for place in range(len(self.running), count):
            require_free_port(self.server.host, self.server.port + place)
        while len(self.running) < count:
            told = self._kv_cache_bytes()
            together = count if told is not None else len(self.running) + 1
            fresh = [self._make(place, told) for place in range(len(self.running), together)]
            for running in fresh:
                self.running.append(running)
                running.start()
            self._wait_ready(fresh, of=count, look=look)

    def _kv_cache_bytes(self) -> int | None:
        """What a further server is told of its KV cache; None where it must measure, and so start alone."""
        if self.build == "cpu":
            return self.server.cpu_kv_cache_gib * GIB // self.of
        try:
            found = live.status(self.running[0].base_url) if self.running else None
        except api.StrangerError:  # without the plugin nobody says it
            return None
        return found.kv_cache_bytes if found else None

    def _make(self, place: int, kv_cache_bytes: int | None) -> VllmServer:
        settings = one_of(self.server, place, of=self.of)
        share = share_of(self.server, place, of=self.of, build=self.build, kv_cache_bytes=kv_cache_bytes)
        log = self.log(place)
        made = VllmServer(self.model, settings, adapters=self.adapters, log=log, build=self.build, share=share)
        made.variables |= self._sharing
        return made

    def _wait_ready(self, fresh: Sequence[VllmServer], *, of: int, look: Callable[[], object]) -> None:
        began, waiting = time.monotonic(), list(fresh)
        with progress() as show:
            while waiting := [running for running in waiting if not running.answers()]:
                look()
                elapsed = time.monotonic() - began
                for running in waiting:
                    running.require_alive()
                    if elapsed > self.server.start_timeout_s:
                        raise faults.too_slow(running.log, self.server.start_timeout_s)
                last = faults.last_line(waiting[0].log)
                ready = len(self.running) - len(waiting)
                show(f"vLLM starts: {elapsed:3.0f} s, {ready} of {of} answer  {last}")
                time.sleep(POLL_S)

    def keepers(self) -> list[Keeper]:
        """What starts each one again that dies; all must have been started."""
        if (told := self._kv_cache_bytes()) is not None:
            # The first, should it start again, as the others: it could not measure beside them.
            again = self._make(0, told)
            self.running[0].command, self.running[0].variables = again.command, again.variables
        patience_s = self.server.start_timeout_s
        return [Keeper(running.base_url, running, patience_s=patience_s) for running in self.running]
