"""Several gateway processes behind one address, as the command starts them, over stand-in upstreams."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe import fronting
from fgpipe.config import GatewayConfig
from fgpipe.errors import ServeError
from fgpipe.gateway.desk import OwnDesk
from fgpipe.gateway.faults import RefusedError
from fgpipe.gateway.link import FarDesk, FarSlot, WorkerLink
from gateway_running import StandIn, listening, start_events, tell
from tiny_server import free_port

CHAT = "/v1/chat/completions"
pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no shared listeners here")


@dataclass(frozen=True)
class Running:
    """A gateway of several processes."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, model: str = "sql", **body: Any) -> httpx.Response:
        """One request over a connection of its own, so that any worker may get it."""
        return httpx.post(self.url + CHAT, json={"model": model, "messages": [], **body}, timeout=30)

    def figures(self) -> dict[str, Any]:
        """What the page shows."""
        found: dict[str, Any] = httpx.get(f"{self.url}/api/figures", timeout=10).json()
        return found

    def in_flight(self) -> list[int]:
        """By upstream."""
        return [one["in_flight"] for one in self.figures()["upstreams"]]

    def metric(self, line: str) -> float:
        """The value of a metric's line."""
        found = re.findall(rf"^fgpipe_gateway_{re.escape(line)} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.M)
        return float(found[0]) if found else 0.0

    def workers(self) -> list[int]:
        """Process ids."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for path in children for pid in path.read_text().split())


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return when `condition` holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@contextmanager
def running(folder: Path, *upstreams: str, workers: int = 2, **options: Any) -> Iterator[Running]:
    port, log = free_port(), folder / "gateway.log"
    words = {
        "port": port,
        "workers": workers,
        "upstreams": f"[{','.join(upstreams)}]",
        "health_every_s": 0.2,
        **options,
    }
    command = [sys.executable, "-m", "fgpipe", "gateway", *(f"gateway.{name}={value}" for name, value in words.items())]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*command, f"paths.adapters={folder / 'adapters'}"], stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or b"ready:" in log.read_bytes(), 60)
        assert process.poll() is None, log.read_text()
        yield Running(f"http://127.0.0.1:{port}", process, log)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        for pid in in_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def in_session(session: int) -> list[int]:
    """Processes of `session` that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


class Held:
    """An answer whose first event comes at once, and whose end when it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    async def __call__(self, asked: dict[str, Any], send: Any) -> None:
        await start_events(send)
        await send({"type": "http.response.body", "body": b'data: {"model":"sql@v0001"}\n\n', "more_body": True})
        while not self.let_go.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def test_figures_are_those_of_all_workers(tmp_path: Path) -> None:
    """A dashboard would show one worker's share, another one at each look."""
    with listening(StandIn(answer=partial(tell, pause_s=0.02))) as url, running(tmp_path, url) as front:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: front.ask(stream=bool(number % 2)), range(60)))
        assert {answer.status_code for answer in answers} == {200}
        line = f'requests_total{{adapter="sql",endpoint="{CHAT}",status="200",version="v0001"}}'
        until(lambda: front.metric(line) == 60)
        assert [front.metric(line) for _ in range(8)] == [60] * 8, "whichever worker is asked"
        assert front.metric('tokens_total{adapter="sql",direction="in",version="v0001"}') == 30 * 5
        assert front.metric('time_to_first_token_seconds_count{adapter="sql",version="v0001"}') == 30
        assert (front.figures()["inside"], front.in_flight()) == (0, [0])


def test_all_workers_take_part_and_tell_the_same(tmp_path: Path) -> None:
    """One process would do all the work, or health and lists depend on which one a client reached."""
    with listening(StandIn()) as url, running(tmp_path, url) as front:
        clients = [httpx.Client(base_url=front.url) for _ in range(32)]
        told = [
            {path: one.get(path).text for path in ("/ready", "/v1/models", "/openapi.json", "/")} for one in clients
        ]
        assert all(one == told[0] for one in told)
        sockets = [sum(os.readlink(fd).startswith("socket") for fd in fds(pid)) for pid in front.workers()]
        assert len(sockets) == 2
        assert min(sockets) >= 8, "32 connections, which the kernel shares out by chance"
        assert clients[0].post("/ready").status_code == 405
        assert clients[0].get("/fgpipe/status").status_code == 404
        for one in clients:
            one.close()


def fds(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def test_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """Each worker would let its own number in: a server gets several times what it can hold."""
    held = Held()
    one = StandIn(answer=held)
    limits = {"max_in_flight": 4, "spill_in_flight": 4, "max_queued": 3, "max_wait_s": 30}
    with listening(one) as url, running(tmp_path, url, **limits) as front, ThreadPoolExecutor(24) as pool:
        asking = [pool.submit(front.ask, stream=True) for _ in range(24)]
        until(lambda: sum(one.done() for one in asking) == 24 - 4 - 3)
        refused = [one.result() for one in asking if one.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert (front.in_flight(), front.figures()["queued"], one.at_once) == ([4], 3, 4)
        held.let_go.set()
        answers = [one.result(30) for one in asking]
        assert sum(answer.text.endswith("data: [DONE]\n\n") for answer in answers) == 7
        until(lambda: (front.in_flight(), front.figures()["queued"], front.figures()["inside"]) == ([0], 0, 0))


def test_an_adapter_has_one_replica_whichever_worker_is_asked(tmp_path: Path) -> None:
    """Its prefix cache would be cold in every other replica, or none would help out when its own is busy."""
    held = Held()
    one, two = StandIn(answer=held), StandIn(answer=held)
    with listening(one) as url, listening(two) as other, running(tmp_path, url, other, spill_in_flight=3) as front:  # noqa: SIM117
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(front.ask, stream=True) for _ in range(3)]
            until(lambda: sorted(front.in_flight()) == [0, 3])
            asking += [pool.submit(front.ask, stream=True) for _ in range(2)]
            until(lambda: sorted(front.in_flight()) == [2, 3])
            held.let_go.set()
            assert {answer.result(30).status_code for answer in asking} == {200}


def test_a_killed_worker_is_replaced_and_holds_nothing(tmp_path: Path) -> None:
    """Its slots would be taken for ever, or its share of the clients be refused until somebody restarts the gateway."""
    held = Held()
    one = StandIn(answer=held)
    with listening(one) as url, running(tmp_path, url) as front, ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(front.ask, stream=True) for _ in range(16)]
        until(lambda: front.in_flight() == [16])
        first, second = front.workers()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(front.workers()) == 2 and first not in front.workers())
        assert second in front.workers(), "the other went on"
        until(lambda: one.at_once == front.in_flight()[0] < 16)
        left = front.in_flight()[0]
        held.let_go.set()
        whole = 0
        for asked in asking:
            try:
                whole += asked.result(30).text.endswith("data: [DONE]\n\n")
            except httpx.TransportError:
                continue
        assert whole == left, "only the killed worker's answers are lost"
        until(lambda: (front.in_flight(), front.figures()["inside"]) == ([0], 0))
        assert {front.ask().status_code for _ in range(20)} == {200}
        assert f"worker {first}: ended with -9" in front.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_them_once_answers_have_ended(tmp_path: Path, number: int) -> None:
    """An update would cut answers off, or leave processes that hold the address."""
    held = Held()
    with listening(StandIn(answer=held)) as url, running(tmp_path, url) as front, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(front.ask, stream=True) for _ in range(8)]
        until(lambda: front.in_flight() == [8])
        front.process.send_signal(number)
        time.sleep(0.5)
        assert front.process.poll() is None
        held.let_go.set()
        assert all(answer.result(30).text.endswith("data: [DONE]\n\n") for answer in asking)
        assert front.process.wait(30) == (130 if number == signal.SIGINT else -signal.SIGTERM)
        assert not in_session(front.process.pid)
        socket.create_server(("127.0.0.1", int(front.url.rpartition(":")[2]))).close()


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """They would hold the address without anybody who knows the limits."""
    with listening(StandIn()) as url, running(tmp_path, url) as front:
        assert len(in_session(front.process.pid)) == 3
        front.process.kill()
        front.process.wait()
        until(lambda: not in_session(front.process.pid))


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Two gateways would share an address unnoticed, and each get half of the requests."""
    with listening(StandIn()) as url, running(tmp_path, url) as front:
        for workers in (1, 2):
            words = [f"gateway.port={front.url.rpartition(':')[2]}", f"gateway.workers={workers}"]
            command = [sys.executable, "-m", "fgpipe", "gateway", f"gateway.upstreams=[{url}]", *words]
            refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert refused.returncode == 2
            assert "Address already in use, expected a free address" in refused.stderr
            assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("given_", ["0", "65", "many"])
def test_a_number_of_workers_that_cannot_be_is_a_line(given_: str) -> None:
    """The gateway would start with no worker, or end in a traceback."""
    command = [sys.executable, "-m", "fgpipe", "gateway", f"gateway.workers={given_}"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "gateway.workers: got" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_application_that_something_else_runs_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody would ask for workers and get one without a word."""
    monkeypatch.setenv("FGPIPE_GATEWAY_WORKERS", "2")
    with pytest.raises(ServeError, match=r"gateway\.workers: got 2, expected 1"):
        fronting.application()


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.sampled_from(["ask", "ask", "finish", "cancel", "die"]), max_size=40))
def test_no_order_of_events_overruns_an_upstream_or_loses_a_slot(steps: list[str]) -> None:
    """A server would get more than it can hold, or slots leak, when clients of several workers come, go and die."""

    async def run() -> None:
        limits = {"max_in_flight": 2, "spill_in_flight": 1, "max_queued": 3, "max_wait_s": 5}
        config = GatewayConfig(upstreams=("http://one", "http://two"), **limits)
        desk = OwnDesk(config, versions=lambda: ())
        for upstream in desk.pool.all:
            upstream.healthy, upstream.base = True, "base"
        workers = [await linked(config, desk) for _ in range(2)]
        asking: list[tuple[FarDesk, asyncio.Task[FarSlot]]] = []
        for number, step in enumerate(steps):
            far = workers[number % 2]
            if step == "ask":
                asking.append((far, asyncio.create_task(far.acquire(f"adapter-{number}", ()))))
            elif step == "die":
                far._transport.close()  # type: ignore[union-attr]
                workers[number % 2] = await linked(config, desk)
            elif asking and step == "cancel":
                give_back(*asking.pop())
            elif asking:
                done = next((one for one in asking if one[1].done()), None)
                if done is not None:
                    asking.remove(done)
                    if not done[1].exception():
                        done[0].release(done[1].result())
            for _ in range(number % 5):
                await asyncio.sleep(0)
            assert all(0 <= upstream.in_flight <= 2 for upstream in desk.pool.all)
            assert desk.admission.queued <= 3
        for far, task in asking:
            give_back(far, task)
        results = await asyncio.gather(*(task for _, task in asking), return_exceptions=True)
        assert all(isinstance(one, FarSlot | RefusedError | asyncio.CancelledError) for one in results)
        for _ in range(20):  # what was told last arrives
            await asyncio.sleep(0.001)
        assert desk.admission.queued == 0
        assert all(upstream.in_flight == 0 for upstream in desk.pool.all)
        for far in workers:
            far._transport.close()  # type: ignore[union-attr]
        await asyncio.sleep(0.01)

    def give_back(far: FarDesk, task: asyncio.Task[FarSlot]) -> None:
        if not task.cancel() and not task.exception():
            far.release(task.result())

    async def linked(config: GatewayConfig, desk: OwnDesk) -> FarDesk:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        process: Any = None
        await loop.create_unix_connection(lambda: WorkerLink(config, desk, no_routes, process), sock=ours)
        _, far = await loop.create_unix_connection(FarDesk, sock=theirs)
        return far

    asyncio.run(run())


async def no_routes(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asked for a route")


def own_address() -> str:
    """An address of this machine that is not the loopback; "" if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return "" if address.startswith("127.") else address


@pytest.mark.skipif(not own_address(), reason="this machine has no address but the loopback")
@pytest.mark.parametrize("workers", [1, 2])
def test_figures_are_for_this_machine_alone_where_others_can_ask(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyone in the network could read adapters' names and traffic, or Prometheus could not."""
    monkeypatch.setenv("FGPIPE_GATEWAY_KEYS", "key")
    with listening(StandIn()) as url, running(tmp_path, url, workers=workers, host="0.0.0.0") as front:
        beyond = front.url.replace("127.0.0.1", own_address())
        forged = {"Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1"}
        for _ in range(4):  # each connection may be another worker's
            assert httpx.get(f"{front.url}/metrics").status_code == 200
            assert httpx.get(f"{beyond}/metrics").status_code == 401
            assert httpx.get(f"{beyond}/metrics", headers=forged).status_code == 401
            assert httpx.get(f"{beyond}/metrics", headers={"Authorization": "Bearer key"}).status_code == 200
            assert httpx.get(f"{beyond}/health").status_code == 200
