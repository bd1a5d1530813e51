"""Several processes behind one address: the parent has the desk, replaces workers that died, and ends all of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from fgpipe.config import GatewayConfig
from fgpipe.errors import ServeError
from fgpipe.gateway.application import routes
from fgpipe.gateway.desk import OwnDesk
from fgpipe.gateway.exchange import Gateway
from fgpipe.gateway.faults import Application
from fgpipe.gateway.link import WorkerLink
from fgpipe.gateway.published import Versions
from fgpipe.progress import say

START_S = 60.0
"""For a worker to be ready."""

GRACE_S = 35.0
"""For workers to end after they were told to; their own answers have a little less."""

PAUSE_S = 1.0
"""Before a worker is replaced that did not live ten times as long."""


class Workers:
    """One worker a listener, each started again when it dies.

    Args:
        config: the gateway's; `upstreams` are the servers behind it.
        routes: answers what is no request for a model.
        listeners: closed at the end; a worker that died leaves its own, and who waits there, to the next.
    """

    def __init__(
        self, config: GatewayConfig, desk: OwnDesk, routes: Application, listeners: list[socket.socket]
    ) -> None:
        self.config = config
        self.listeners = listeners
        self.desk = desk
        self.routes = routes
        self.stopping = asyncio.Event()
        self.links: set[WorkerLink] = set()
        self.processes: set[subprocess.Popen[bytes]] = set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the workers until `stop`.

        Raises:
            ServeError: one of the first does not start.
        """
        try:
            keeping = [(await self._start(listener), listener) for listener in self.listeners]
            for link, _ in keeping:
                await self._until_ready(link)
            if not self.stopping.is_set():
                on_ready()
            await asyncio.gather(self._close(), *(self._keep(link, listener) for link, listener in keeping))
        finally:
            await self._end()

    async def _start(self, listener: socket.socket) -> WorkerLink:
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = [listener.fileno(), theirs.fileno()]
            # A group of its own: Ctrl-C in a terminal is for the parent, which ends the workers in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "fgpipe.gateway.worker", *map(str, numbers)], pass_fds=numbers, process_group=0
            )
        self.processes.add(process)
        _, link = await asyncio.get_running_loop().create_unix_connection(
            lambda: WorkerLink(self.config, self.desk, self.routes, process), sock=ours
        )
        self.links.add(link)
        if self.stopping.is_set():
            link.stop()
        return link

    async def _until_ready(self, link: WorkerLink) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (link.ready, link.over, self.stopping)]
        await asyncio.wait(waits, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not link.ready.is_set() and not self.stopping.is_set():
            raise ServeError(
                "gateway.workers: got a worker that does not start, expected it ready",
                hint="its own lines are above; gateway.workers=1 runs everything in one process",
            )

    async def _keep(self, link: WorkerLink, listener: socket.socket) -> None:
        while True:
            began_s = time.monotonic()
            await link.over.wait()
            await self._reap(link)
            if not self.stopping.is_set() and time.monotonic() - began_s < 10 * PAUSE_S:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), PAUSE_S)
            if self.stopping.is_set():
                return
            say(f"worker {link.process.pid}: ended with {link.process.returncode}; another takes its place")
            link = await self._start(listener)

    async def _reap(self, link: WorkerLink) -> None:
        """Wait for the end of a process whose link is closed."""
        self.links.discard(link)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(link.process.wait, GRACE_S)
        link.process.kill()
        await asyncio.to_thread(link.process.wait)
        self.processes.discard(link.process)

    def stop(self) -> None:
        """Let the workers end their answers and themselves; asked a second time, end them at once."""
        if self.stopping.is_set():
            for process in self.processes:
                process.kill()
        self.stopping.set()
        for link in self.links:
            link.stop()

    async def _close(self) -> None:
        """Let nobody wait at a listener whose worker has stopped taking requests."""
        await self.stopping.wait()
        for listener in self.listeners:
            listener.close()

    async def _end(self) -> None:
        for process in list(self.processes):
            process.kill()
            await asyncio.to_thread(process.wait)


async def _run(
    config: GatewayConfig, versions: Versions, listeners: list[socket.socket], on_ready: Callable[[], None]
) -> int:
    desk = OwnDesk(config, versions=versions)
    workers = Workers(config, desk, routes(Gateway(config, desk), desk), listeners)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        workers.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    async with desk.running():
        await workers.run(on_ready)
    return received[0]


def run(
    config: GatewayConfig, *, versions: Versions, listeners: list[socket.socket], on_ready: Callable[[], None]
) -> None:
    """Run a worker for each of `listeners` until a signal, and end by that signal.

    Raises:
        ServeError: a worker does not start.
        KeyboardInterrupt: Ctrl-C, once answers in flight have ended.
    """
    import uvloop

    number = uvloop.run(_run(config, versions, listeners, on_ready))
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
