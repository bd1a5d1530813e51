"""Two real vLLM servers behind the gateway, as `serve server.replicas=2` starts them: what clients see of it all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import tiny_random
from fgpipe import releasing, resources, validation
from fgpipe.config import Config, ServerConfig
from fgpipe.gateway.upstreams import Upstream, ranked
from fgpipe.replicating import finding
from fgpipe.replicating.load import Load
from fgpipe.serving import api, live, process
from fgpipe.serving.process import VllmServer
from tiny_server import SHAPE, Served, free_port, free_ports, gone

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PROMPT = "<bos><start_of_turn>user\nHow many orders came in?<end_of_turn>\n<start_of_turn>model\n"
SPILL = 4
SETTINGS = {"max_model_len_tokens": 1024, "max_num_seqs": 64, "max_lora_rank": 8, "max_loras": 4}


@dataclass
class Wide:
    """The command that runs, its two servers, and what they serve."""

    process: subprocess.Popen[bytes]
    log: Path
    urls: tuple[str, str]
    client: httpx.Client
    served: Served

    def ask(self, name: str, **more: Any) -> dict[str, Any]:
        """One answer through the gateway."""
        answer = self.client.post("/v1/completions", json=body(name, **more))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def at(self, url: str, name: str) -> dict[str, Any]:
        """One answer by the server at `url`."""
        answer = httpx.post(f"{url}/v1/completions", json=body(name), timeout=120)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def release(self, name: str, seed: int) -> str:
        """Publish as a user does who knows of one server at the default address; the version."""
        config = Config.model_validate(
            {
                "model": self.served.model,
                "server": {**SETTINGS, "port": int(self.urls[0].rpartition(":")[2])},
                "lora": {"r": 8},
                "publish": {"name": name},
                "paths": {"adapters": str(self.served.adapters)},
            }
        )
        check = validation.gate(validation.contract(config.model, config.server))
        manifest = {"base": {"id": config.model.id}}
        version = releasing.release(config, self.served.make(seed), check=check, manifest=manifest, trial=None)
        return version.version

    def at_home(self, place: int, taken: Sequence[str] = ()) -> str:
        """A name whose adapter the gateway sends to server `place`."""
        upstreams = [Upstream(url) for url in self.urls]
        names = (f"n{number}" for number in range(1000))
        return next(n for n in names if n not in taken and ranked(upstreams, n)[0].url == self.urls[place])


def body(name: str, **more: Any) -> dict[str, Any]:
    asked = {"model": name, "prompt": PROMPT, "add_special_tokens": False, "return_token_ids": True}
    return {**asked, "max_tokens": 8, "temperature": 0, **more}


def ids(answer: dict[str, Any]) -> list[int]:
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wide]:
    """The command, with nothing published yet; ended by SIGTERM, after which nothing of it may be left."""
    folder = tmp_path_factory.mktemp("wide")
    template = (resources.PACKAGE / "functiongemma" / "template.jinja").read_text()
    model = tiny_random.save(folder / "base", shape=SHAPE, chat_template=template)
    first, front = free_ports(2), free_port()
    words = [f"server.{name}={value}" for name, value in SETTINGS.items()]
    words += [f"server.port={first}", "server.replicas=2", f"gateway.port={front}", f"gateway.spill_in_flight={SPILL}"]
    words += ["gateway.health_every_s=0.3", f"model.path={model.path}", f"model.id={model.id}", "model.name=wide"]
    words += [f"model.shape.{name}={value}" for name, value in SHAPE.model_dump().items()]
    words += [f"paths.adapters={folder / 'adapters'}", "lora.r=8"]
    log = folder / "serve.log"
    with open(log, "wb") as handle:
        running = subprocess.Popen([sys.executable, "-m", "fgpipe", "serve", *words], stdout=handle, stderr=handle)
    urls = (f"http://127.0.0.1:{first}", f"http://127.0.0.1:{first + 1}")
    server = VllmServer(model, ServerConfig(port=first), adapters=folder / "adapters", log=log, build="cpu")
    served = Served(server, model, folder / "adapters", folder / "workshop")
    with httpx.Client(base_url=f"http://127.0.0.1:{front}", timeout=120) as client:
        made = Wide(running, log, urls, client, served)
        try:
            wait(lambda: "ready:" in log.read_text(), running, log, timeout_s=300)
            yield made
            children = descendants(running.pid)
            assert len(children) >= 7, "two servers of three processes, and the gateway"
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 143
            assert all(gone(pid) for pid in children)
            assert "Traceback" not in log.read_text()
        finally:
            running.terminate()
            running.wait(60)


def wait(condition: Callable[[], bool], running: subprocess.Popen[bytes], log: Path, *, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert running.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < until, log.read_text()[-4000:]
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found, more = [], [pid]
    while more:
        more = [child for child, parent in parents.items() if parent in more]
        found += more
    return found


def answered(url: str) -> float:
    """Requests that the server at `url` has answered."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    return sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE)))


def test_every_adapter_is_answered_right_by_both_and_through_the_gateway(wide: Wide) -> None:
    """A replica would mix adapters up, or serve another folder than the one that is published to."""
    assert [live.status(url).ports for url in wide.urls] == [tuple(int(u.rpartition(":")[2]) for u in wide.urls)] * 2  # type: ignore[union-attr]
    for name, seed in (("red", 1), ("blue", 2)):
        wide.release(name, seed)
    expected = {
        "red": wide.served.expected(wide.served.make(1), PROMPT, tokens=8),
        "blue": wide.served.expected(wide.served.make(2), PROMPT, tokens=8),
        wide.served.model.id: wide.served.expected(None, PROMPT, tokens=8),
    }
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    for name, tokens in expected.items():
        assert ids(wide.ask(name)) == tokens
        assert [ids(wide.at(url, name)) for url in wide.urls] == [tokens, tokens]


def test_an_adapter_stays_at_its_replica_until_that_is_busy(wide: Wide) -> None:
    """Every replica would hold every adapter and prompt's beginning; or one be flooded beside an idle one."""
    names = [wide.at_home(0), wide.at_home(1)]
    for seed, name in enumerate(names, start=10):
        wide.release(name, seed)
    before = [answered(url) for url in wide.urls]
    for _ in range(6):
        for name in names:
            wide.ask(name)
    assert [answered(url) - old for url, old in zip(wide.urls, before, strict=True)] == [6, 6]
    for _ in range(6):
        wide.ask(names[0])
    assert [answered(url) - old for url, old in zip(wide.urls, before, strict=True)] == [12, 6]
    with ThreadPoolExecutor(4 * SPILL) as pool:
        jobs = [pool.submit(wide.ask, names[0], max_tokens=200, ignore_eos=True) for _ in range(4 * SPILL)]
        tokens = {tuple(ids(job.result())) for job in jobs}
    assert len(tokens) == 1, "both replicas answer alike"
    home, other = (answered(url) - old for url, old in zip(wide.urls, before, strict=True))
    assert home + other == 18 + 4 * SPILL
    assert home >= 12 + SPILL
    assert other > 6 + SPILL


def test_a_publish_during_traffic_is_everywhere_when_it_returns(wide: Wide) -> None:
    """Half of the answers would come from the old version, although `publish` reported that the new one is live."""
    name = wide.at_home(1, taken=[wide.at_home(1)])
    wide.release(name, 20)
    stop = threading.Event()
    seen: list[tuple[float, str]] = []

    def ask(where: str | None) -> None:
        while not stop.is_set():
            sent = time.monotonic()
            answer = wide.at(where, name) if where else wide.ask(name)
            seen.append((sent, answer["model"]))

    returned: dict[str, float] = {}
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(ask, where) for where in (*wide.urls, None, None, None, None)]
        try:
            for seed in (21, 22, 23):
                version = wide.release(name, seed)
                returned[version] = time.monotonic()
                time.sleep(0.5)
        finally:
            stop.set()
        for job in jobs:
            job.result(60)
    assert [*returned] == ["v0002", "v0003", "v0004"]
    for sent, model in seen:
        live_before = [version for version, at in returned.items() if at < sent]
        assert model >= f"{name}@{max(live_before, default='v0001')}", "a stale answer"
    print(f"\n{len(seen)} requests during 3 publishes: none failed, none stale")
    assert {model for _, model in seen} >= {f"{name}@v0002", f"{name}@v0003", f"{name}@v0004"}


def test_one_that_is_killed_costs_no_request_and_comes_back_with_what_is_live(wide: Wide) -> None:
    """A crash would be seen by clients, halve the capacity for good, or bring an old version back."""
    name, other = wide.at_home(1), wide.at_home(0)
    expected = {one: ids(wide.ask(one)) for one in (name, other)}
    stop = threading.Event()
    wrong: list[str] = []
    count = 0

    def ask(one: str) -> None:
        nonlocal count
        while not stop.is_set():
            answer = wide.client.post("/v1/completions", json=body(one))
            if answer.status_code != 200 or ids(answer.json()) not in (expected[one], expected.get(f"{one} anew")):
                wrong.append(answer.text)
            count += 1

    (killed,) = (pid for pid in descendants(wide.process.pid) if listens(pid, wide.urls[1]))
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(ask, (name, other)[place % 2]) for place in range(6)]
        try:
            time.sleep(0.5)
            began = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            wait(lambda: healthy(wide) == 1, wide.process, wide.log, timeout_s=30)
            expected[f"{name} anew"] = wide.served.expected(wide.served.make(30), PROMPT, tokens=8)
            before = count
            version = wide.release(name, 30)  # one server is down: it reads the folder when it starts
            wait(lambda: count > before + 20, wide.process, wide.log, timeout_s=60)
            stop.set()
        finally:
            stop.set()
        for job in jobs:
            job.result(60)
    assert wrong == []
    wait(lambda: healthy(wide) == 2, wide.process, wide.log, timeout_s=200)
    back_s = time.monotonic() - began
    print(f"\n{count} requests while one of two was killed: none failed; {back_s:.0f} s until it was back")
    assert ids(wide.ask(name)) == expected[f"{name} anew"]
    assert {wide.at(url, name)["model"] for url in wide.urls} == {f"{name}@{version}"}
    assert {wide.ask(name)["model"] for _ in range(4)} == {f"{name}@{version}"}
    said = wide.log.read_text()
    assert f"{wide.urls[1]}: vLLM: ended with exit code -9" in said
    assert f"{wide.urls[1]}: answers again" in said
    assert f"{wide.urls[0]}: vLLM: ended" not in said


def healthy(wide: Wide) -> int:
    return int(wide.client.get("/ready").json()["healthy"])


def listens(pid: int, url: str) -> bool:
    """Whether `pid` is the process that was told to listen at `url`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return "vllm.entrypoints.openai.api_server" in words and url.rpartition(":")[2] in words


@pytest.mark.slow
def test_auto_measures_real_servers_and_remembers(wide: Wide, tmp_path: Path) -> None:
    """`auto` would start a number that nobody measured; or measure at every start."""
    config = Config.model_validate(
        {
            "model": wide.served.model,
            "server": {**SETTINGS, "port": free_ports(2), "replicas": "auto"},
            "lora": {"r": 8},
            "paths": {"adapters": str(wide.served.adapters), "runs": str(tmp_path)},
        }
    )
    load = Load(streams=16, prompt_tokens=32, output_tokens=16, warm_s=2, window_s=1.5, windows=3)
    most = 2
    count = finding.find(config, most=most, load_=load)
    (entry,) = finding._entries(tmp_path / finding.FILE).values()
    rates = entry["output_tokens_per_s"]
    assert all(rate > 10 for rate in rates)
    assert count == entry["replicas"] == finding.chosen(rates)
    assert len(rates) == most, "one server alone never decides"
    assert finding.remembered(config) == count
    for place in range(most):
        process.require_free_port("127.0.0.1", config.server.port + place)
    assert api.models(wide.urls[0]), "others are left alone"
