"""Several servers on one machine: their parts of it, their start together, and what happens when one dies."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_random
from fgpipe import cli, environment, replicating
from fgpipe.compose import compose
from fgpipe.config import Config, ModelConfig, ModelShape, ServerConfig
from fgpipe.errors import ConfigError, ServeError
from fgpipe.replicating import finding, front
from fgpipe.replicating.load import Load
from fgpipe.serving import command, foreground, keeping, memory, planner, process, replicas, shapes, sync, tuned
from fgpipe.serving.keeping import Keeper
from fgpipe.serving.memory import GIB, EngineSettings
from fgpipe.serving.planner import Gpu, Model
from fgpipe.serving.replicas import Replicas
from tiny_server import free_port, free_ports, gone

ENTRYPOINT = Path(__file__).parents[2] / "serve" / "entrypoint.sh"

FUNCTIONGEMMA = Model(
    "functiongemma", "x", shapes.functiongemma(ModelShape()), EngineSettings(4096, 256, 8192, 2, 8, 32)
)

# Answers as vLLM with the plugin does, a second after its start; its log tells when that was, and what it was told.
STAND_IN = """
import http.server, json, sys, time
port, told = sys.argv[1:3]
print("told", told, "at", time.monotonic(), flush=True)
time.sleep(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kv = 123_000_000 if told == "nothing" else int(told)
        status = {"base": "base", "dtype": "float32", "answers": {}, "contents": {}, "max_loras": 8,
                  "max_cpu_loras": 32, "slots": [], "memory": [], "evicted": [], "kv_cache_bytes": kv, "ports": PORTS}
        body = json.dumps(status if self.path == "/fgpipe/status" else {"data": [{"id": "base"}]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
server = http.server.HTTPServer(("127.0.0.1", int(port)), Handler)
print("answers at", time.monotonic(), flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that run STAND_IN instead of vLLM."""

    def made(model: ModelConfig, server: ServerConfig, *, share: command.Share, **_: Any) -> list[str]:
        script = STAND_IN.replace("PORTS", repr(list(share.ports)))
        return [sys.executable, "-c", script, str(server.port), str(share.kv_cache_bytes or "nothing")]

    monkeypatch.setattr(process, "serve_command", made)


@given(st.floats(0.01, 1), st.integers(1, 8), st.integers(1, 64), st.integers(1, 40), st.integers(0, 200))
def test_parts_are_equal_and_never_more_than_the_whole(
    share: float, gib: int, of: int, processors: int, first: int
) -> None:
    """Servers would start on each other's port or memory, or leave processors without work."""
    server = ServerConfig(gpu_memory_utilization=share, cpu_kv_cache_gib=gib, replicas=of)
    ones = [replicas.one_of(server, place, of=of) for place in range(of)]
    assert [one.port for one in ones] == [server.port + place for place in range(of)]
    each = {one.gpu_memory_utilization for one in ones}
    assert len(each) == 1
    assert sum(one.gpu_memory_utilization for one in ones) <= share + 1e-6
    cpus = list(range(first, first + processors))
    parts = [replicas.cpus_of(place, of=of, cpus=cpus) for place in range(of)]
    assert all(parts)
    assert {cpu for part in parts for cpu in part} == set(cpus) or of > processors
    if of <= processors:
        assert sum(map(len, parts)) == processors, "one processor for two servers while others have several"
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("build", ["gpu", "cpu"])
def test_a_replica_is_the_same_server_with_its_part(build: command.Build) -> None:
    """Replicas would answer otherwise than the one server did, or each take the whole machine."""
    server = ServerConfig(replicas=3, gpu_memory_utilization=0.6, cpu_kv_cache_gib=2)
    alone = command.serve_command(ModelConfig(), server, adapters=Path("a"), build=build)
    share = replicas.share_of(server, 1, of=3, build=build, kv_cache_bytes=12345)
    one = replicas.one_of(server, 1, of=3)
    made = command.serve_command(ModelConfig(), one, adapters=Path("a"), build=build, share=share)
    added = [(flag, value) for flag, value in itertools.pairwise(made) if (flag, value) not in pairs(alone)]
    told = {"gpu": 12345, "cpu": 2 * GIB // 3}[build]
    expected = {("--port", "8001"), ("--kv-cache-memory-bytes", str(told))}
    assert {(flag, value) for flag, value in added if flag.startswith("--") and not value.startswith("--")} == (
        expected | {("--gpu-memory-utilization", "0.2")} if build == "gpu" else expected
    )
    variables = command.server_environment(one, adapters=Path("a"), build=build, share=share)
    assert variables["FGPIPE_REPLICA_PORTS"] == "8000,8001,8002"
    assert variables.get("OMP_NUM_THREADS") == ("1" if build == "gpu" else None)
    assert ("VLLM_CPU_OMP_THREADS_BIND" in variables) == (build == "cpu")
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables, "whole GiB, and vLLM would take it before the bytes"


def pairs(words: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


def test_a_size_of_the_cache_is_not_inherited(model: ModelConfig, tmp_path: Path, monkeypatch: Any) -> None:
    """VLLM_CPU_KVCACHE_SPACE of the shell would give every replica the memory of all."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    share = command.Share((1, 2), kv_cache_bytes=2**20)
    server = process.VllmServer(
        model, ServerConfig(port=free_port()), adapters=tmp_path, log=tmp_path / "log", build="cpu", share=share
    )
    server.command = [sys.executable, "-c", "import os; print('space', os.environ.get('VLLM_CPU_KVCACHE_SPACE'))"]
    with pytest.raises(ServeError, match="space None"):
        server.__enter__()


@given(st.sampled_from(["a", "b"]), st.integers(1, 12), st.floats(0.05, 0.95), st.integers(8, 150), st.data())
def test_vllm_would_start_every_replica_however_far_the_others_are(
    request_memory: Any, name: str, of: int, share: float, total_gib: int, data: st.DataObject
) -> None:
    """The plan would be accepted, and the third replica refuse to start because the others came first, or did not."""
    gpu = Gpu("any", total_gib * GIB)
    try:
        plan = planner.plan_gpu(FUNCTIONGEMMA, gpu, utilization=share, replicas=of)
    except ServeError:
        return
    assert plan.kv_bytes >= plan.memory.kv.least_bytes()
    assert plan.shares * of <= round(share * planner.SHARES)
    # Every other one has taken anything from nothing to all of its part when this one looks at what is free.
    taken = [data.draw(st.floats(0, 1)) for _ in range(of - 1)]
    free = gpu.total_bytes - gpu.reserved_bytes - of * memory.CONTEXT_BYTES
    free -= sum(int(part * plan.utilization * gpu.total_bytes) for part in taken)
    snapshot: Any = SimpleNamespace(total_memory=gpu.total_bytes, free_memory=free, device_="cuda:0")
    request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=plan.utilization))


@given(st.integers(2, 64), st.floats(0.05, 0.9), st.integers(6, 150))
def test_the_hint_of_a_refusal_is_not_refused(of: int, share: float, total_gib: int) -> None:
    """The user would follow the hint, and be refused again."""
    gpu = Gpu("any", total_gib * GIB)
    for _ in range(2):  # so many fit into the GPU; then so large a share
        try:
            planner.plan_gpu(FUNCTIONGEMMA, gpu, utilization=share, replicas=of)
        except ServeError as error:
            key, _, value = error.hint.partition(",")[0].partition("=")
            if key == "server.replicas":
                of = int(value)
            elif key == "server.gpu_memory_utilization":
                share = float(value)
            else:
                raise
    planner.plan_gpu(FUNCTIONGEMMA, gpu, utilization=share, replicas=of)


def test_plan_shows_the_part_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody could see before a start what each replica gets, or that it does not fit."""
    assert cli.main(["plan", "gpu=h200", "server.replicas=4", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert (found["replicas"], found["gpu_memory_utilization"]) == (4, 0.125)
    assert cli.main(["plan", "gpu=h200", "server.replicas=4", "--env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"FGPIPE_REPLICAS=4", "FGPIPE_GPU_MEMORY_UTILIZATION=0.500"} <= set(lines)
    assert cli.main(["plan", "gpu=rtx4090", "server.replicas=40"]) == 2
    refusal = capsys.readouterr().err
    assert "server.replicas: got 40" in refusal
    assert "40 CUDA contexts" in refusal
    assert cli.main(["plan", "gpu=cpu", "model=tiny", "server.replicas=64", "server.max_model_len_tokens=32000"]) == 2
    assert "for 64 replicas" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["many", "0", "-1", "65", "1.5", "true", "null"])
def test_other_numbers_of_replicas_are_refused(value: str) -> None:
    """A misspelt auto, or a share of a server, would start something else than was asked for."""
    with pytest.raises(ConfigError, match=r"server\.replicas"):
        compose([f"server.replicas={value}"])


def test_a_replica_does_not_take_the_gateways_port() -> None:
    """The last of many servers would fail to start after the others were waited for."""
    config = compose(["server.port=8078", "server.replicas=4", "model=tiny"])
    with pytest.raises(ConfigError, match=r"gateway\.port: got 8080, expected none of the replicas' 8078 to 8081"):
        replicating.serve(config)
    with pytest.raises(ConfigError, match=r"server.*port: got 65534 for 4 replicas"):
        compose(["server.port=65534", "server.replicas=4"])


def test_on_a_gpu_the_first_measures_alone_and_the_others_follow_together(
    model: ModelConfig, tmp_path: Path, stand_ins: None
) -> None:
    """Engines that measure beside each other would take each other's memory for their own, or end by an assertion."""
    server = ServerConfig(port=free_ports(4), replicas=4)
    with Replicas(model, server, of=4, adapters=tmp_path, logs=tmp_path, build="gpu") as running:
        running.grow(1)
        running.grow(4)
        pids = [one.process.pid for one in running.running if one.process is not None]
        keepers = running.keepers()
        told = [one.command[4] for one in running.running]
        logs = [one.log.read_text().split() for one in running.running]
    assert [words[1] for words in logs] == ["nothing", "123000000", "123000000", "123000000"]
    assert told == ["123000000"] * 4, "started again beside the others, the first cannot measure"
    starts, answers = [float(words[3]) for words in logs], [float(words[6]) for words in logs]
    assert answers[0] <= min(starts[1:])
    assert max(starts[1:]) < min(answers[1:])
    assert len(keepers) == len(pids) == 4
    assert all(gone(pid) for pid in pids)


def test_a_replica_that_cannot_start_ends_all(
    model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting would leave servers behind, or be found only in one of several logs."""
    script = (
        "import sys, time\nif sys.argv[1] == sys.argv[2]: print('ValueError: the reason'); sys.exit(1)\ntime.sleep(600)"
    )
    first = free_ports(2)
    monkeypatch.setattr(
        process,
        "serve_command",
        lambda model, server, **_: [sys.executable, "-c", script, str(server.port), str(first + 1)],
    )
    running = Replicas(model, ServerConfig(port=first), of=2, adapters=tmp_path, logs=tmp_path, build="cpu")
    with running:
        with pytest.raises(ServeError, match="the reason") as caught:
            running.grow(2)
        assert f"vllm-{first + 1}.log" in caught.value.hint
        waiting = running.running[0].process
        assert waiting is not None
        assert not gone(waiting.pid)
    assert gone(waiting.pid)


def test_one_that_dies_comes_back_alone(
    model: ModelConfig, tmp_path: Path, stand_ins: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """One crash would halve the capacity until somebody looks; or take the other server along."""
    server = ServerConfig(port=free_ports(2), replicas=2)
    with Replicas(model, server, of=2, adapters=tmp_path, logs=tmp_path, build="cpu") as running:
        running.grow(2)
        keepers = running.keepers()
        other, dying = (one.process for one in running.running)
        assert other is not None
        assert dying is not None
        os.kill(dying.pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while not (keepers[1].deaths and running.running[1].answers()):
            assert time.monotonic() < until
            for keeper in keepers:
                keeper.look(time.monotonic())
            time.sleep(0.05)
        keepers[1].look(time.monotonic())
        assert other.poll() is None
        assert running.running[0].process is other
        assert (keepers[0].deaths, keepers[1].deaths) == (0, 1)
        assert (tmp_path / f"vllm-{server.port + 1}.before.log").exists(), "why it died stands there"
    said = capsys.readouterr().err
    url = f"http://127.0.0.1:{server.port + 1}"
    assert f"{url}: vLLM: ended with exit code -9" in said
    assert f"{url}: starts again in 1 s" in said
    assert f"{url}: answers again" in said


class Mortal:
    """A service that dies when it is told to."""

    def __init__(self) -> None:
        self.alive, self.ready, self.starts = True, True, 0

    def start(self) -> None:
        self.alive, self.ready, self.starts = True, False, self.starts + 1

    def answers(self) -> bool:
        return self.ready

    def require_alive(self) -> None:
        if not self.alive:
            raise ServeError("it ended")

    def stop(self) -> None:
        self.alive = self.ready = False


def test_quick_deaths_wait_longer_each_time_and_are_given_up() -> None:
    """A server that cannot live would be started for ever, and take the processors of those that can."""
    service = Mortal()
    keeper = Keeper("it", service, patience_s=100)
    now, starts = time.monotonic(), []
    for step in range(4000):
        at = now + step * 0.1
        keeper.look(at)
        if service.starts > len(starts):
            starts.append(at)
        service.alive = False
    assert keeper.given_up
    assert keeper.deaths == keeping.QUICK_DEATHS == len(starts) + 1
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * keeping.FIRST_PAUSE_S


def test_one_that_lived_long_may_die_any_number_of_times() -> None:
    """A server that fails once a day would be left down at the end of the week."""
    service = Mortal()
    keeper = Keeper("it", service, patience_s=100)
    now = time.monotonic()
    for _ in range(3 * keeping.QUICK_DEATHS):
        now += keeping.SETTLED_S + 1
        service.alive = False
        keeper.look(now)
        now += keeping.FIRST_PAUSE_S
        keeper.look(now)
        service.ready = True
        keeper.look(now)
    assert not keeper.given_up
    assert service.starts == 3 * keeping.QUICK_DEATHS


def test_one_that_hangs_at_its_start_is_started_again() -> None:
    """A start that never ends would be waited for for ever."""
    service = Mortal()
    keeper = Keeper("it", service, patience_s=5)
    now = time.monotonic()
    service.alive = False
    keeper.look(now)
    keeper.look(now + 2)
    assert service.starts == 1
    keeper.look(now + 6)
    assert (service.alive, keeper.deaths) == (True, 1)
    keeper.look(now + 8)
    assert (service.alive, keeper.deaths) == (False, 2)


@pytest.mark.parametrize(("dying", "ends"), [("one", False), ("all", True), ("gateway", True)])
def test_what_is_left_goes_on_as_long_as_it_is_of_use(dying: str, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One broken server would end the service of all; or `serve` would sit there with nothing behind it."""
    monkeypatch.setattr(keeping, "POLL_S", 0)
    keepers = [Keeper(name, Mortal(), patience_s=1) for name in ("one", "two", "gateway")]
    for keeper in keepers:
        keeper.given_up = keeper.name == dying or (dying == "all" and keeper.name != "gateway")
    looks = iter(range(3))

    def look() -> None:
        if next(looks, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(ServeError if ends else KeyboardInterrupt):
        keeping.keep(keepers[:2], keepers[2], look=look)


def test_whoever_asks_one_replica_learns_of_all(model: ModelConfig, tmp_path: Path, stand_ins: None) -> None:
    """`publish` without server.replicas would leave all but the first with the old version, and report success."""
    server = ServerConfig(port=free_ports(3), replicas=3)
    urls = [f"http://127.0.0.1:{server.port + place}" for place in range(3)]
    alone = server.model_copy(update={"replicas": 1})
    here: dict[str, Any] = {"model": {"id": "base"}}
    assert sync.server_urls(Config(server=server)) == tuple(urls), "also while none runs"
    assert sync.server_urls(Config(server=alone)) == (urls[0],)
    with Replicas(model, server, of=3, adapters=tmp_path, logs=tmp_path, build="cpu") as running:
        running.grow(3)
        for given_ in (
            {"server": server},
            {"server": alone},
            {"server": server.model_copy(update={"replicas": "auto"})},
            {"publish": {"servers": [urls[1]]}},
        ):
            config = Config.model_validate({**here, **given_})
            assert sorted(sync.server_urls(config)) == urls
            found, unreachable = sync.running(config)
            assert sorted(status.url for status in found) == urls
            assert unreachable == []


totals = st.lists(st.floats(1, 1e6), min_size=1, max_size=10)


@given(totals)
def test_every_server_that_is_chosen_paid(rates: list[float]) -> None:
    """`auto` would start servers that add nothing, or stop before one that does."""
    count = finding.chosen(rates)
    assert 1 <= count <= len(rates)
    threshold = 1 + finding.GAIN_FRACTION
    assert all(rates[place] > rates[place - 1] * threshold for place in range(1, count))
    assert count == len(rates) or rates[count] <= rates[count - 1] * threshold
    assert finding.pays(rates) == (count == len(rates))


@given(totals, st.floats(0.001, 1000))
def test_the_choice_depends_on_ratios_alone(rates: list[float], factor: float) -> None:
    """A faster GPU with the same ratios would get another number."""
    ratios = [after / before for before, after in itertools.pairwise(rates)]
    if all(abs(ratio - 1 - finding.GAIN_FRACTION) > 1e-6 for ratio in ratios):
        assert finding.chosen([rate * factor for rate in rates]) == finding.chosen(rates)


def test_measuring_stops_where_it_no_longer_pays_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start would measure for minutes; or a number found for other settings be taken."""
    rates = iter([100.0, 180.0, 190.0, 400.0])
    grown: list[int] = []

    class Standing:
        """In the place of Replicas: nothing is started."""

        def __init__(self, *_: object, of: int, **__: object) -> None:
            assert of == 8

        def __enter__(self) -> Standing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        logs = tmp_path
        urls: tuple[str, ...] = ()

        def grow(self, count: int) -> None:
            grown.append(count)
            self.urls = tuple(f"http://127.0.0.1:{8000 + place}" for place in range(count))

    def measure(_: Config, urls: Sequence[str], *__: object, **___: object) -> float:
        measured.append(len(urls))
        return next(rates)

    measured: list[int] = []
    monkeypatch.setattr(finding, "Replicas", Standing)
    monkeypatch.setattr(finding, "_measure", measure)
    config = Config.model_validate({"paths": {"runs": str(tmp_path), "adapters": str(tmp_path / "none")}})
    assert finding.remembered(config) is None
    assert finding.find(config, most=8, load_=Load(4, 8, 8)) == 2
    assert measured == [1, 2, 3]
    assert grown == [1, 2, 4], "several start in the time of one"
    assert finding.remembered(config) == 2
    for same in ({"port": 8100}, {"start_timeout_s": 5}, {"replicas": "auto"}):
        assert finding.remembered(with_server(config, **same)) == 2
    for gateway in ({"workers": 4}, {"max_in_flight": 8}):
        changed = config.gateway.model_copy(update=gateway)
        assert finding.remembered(config.model_copy(update={"gateway": changed})) is None
    for other in ({"max_num_seqs": 8}, {"gpu_memory_utilization": 0.9}, {"max_loras": 3}):
        assert finding.remembered(with_server(config, **other)) is None
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "GPU_SHRINK.json").write_text("{}")
    tuned_now = tuned.Found(tmp_path / "tuned", "")
    with monkeypatch.context() as patch:
        patch.setattr(tuned, "find", lambda *_, **__: tuned_now)
        assert finding.remembered(config) is None  # kernels were tuned since
    assert finding.remembered(config) == 2
    (tmp_path / finding.FILE).write_text("{")
    assert finding.remembered(config) is None


def test_what_was_measured_counts_when_a_further_server_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of measuring would be lost, and none would serve."""

    class Short:
        """In the place of Replicas: a third server finds no memory."""

        logs = tmp_path
        urls: tuple[str, ...] = ()

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None: ...

        def grow(self, count: int) -> None:
            if count > most:
                raise ServeError("vLLM ended with status 1")
            self.urls = ("http://127.0.0.1:8000",) * count

    config = Config.model_validate({"paths": {"runs": str(tmp_path), "adapters": str(tmp_path / "none")}})
    monkeypatch.setattr(finding, "Replicas", Short)
    monkeypatch.setattr(finding, "_measure", lambda _, urls, *__, **___: 100.0 * len(urls))
    most = 2
    assert finding.find(config, most=8, load_=Load(4, 8, 8)) == 2
    assert "the next servers did not start: vLLM ended with status 1" in capsys.readouterr().err
    most = 0
    with pytest.raises(ServeError, match="status 1"):
        finding.find(config, most=8, load_=Load(4, 8, 8))


def with_server(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"server": config.server.model_copy(update=changes)})


def test_no_more_servers_are_tried_than_there_are_processors_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring would go on for as many servers as anybody may ask for, or preempt for want of memory."""
    config = compose(["model=tiny", "server.replicas=auto"])
    monkeypatch.setattr(finding, "installed_build", lambda: "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    by_memory = finding.most(config)
    assert 1 < by_memory < 64
    assert finding.most(with_server(config, cpu_kv_cache_gib=40)) == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert finding.most(config) == 2


def test_the_gateway_in_front_has_the_settings_that_were_given(tmp_path: Path, monkeypatch: Any) -> None:
    """`serve gateway.spill_in_flight=4` would be without effect on the gateway that it starts."""
    monkeypatch.setenv("FGPIPE_GATEWAY_MAX_QUEUED", "9")
    config = compose(["gateway.spill_in_flight=4", "gateway.port=8181", "gateway.max_wait_s=1.5", "server.replicas=3"])
    config = config.model_copy(update={"paths": config.paths.model_copy(update={"adapters": str(tmp_path / "it's")})})
    made = front.GatewayProcess(config, replicas.addresses(config.server), log=tmp_path / "log")
    child = compose(list(environment.overrides({**os.environ, **made.variables}).values()))
    wanted = config.gateway.model_copy(update={"upstreams": tuple(f"http://127.0.0.1:{8000 + n}" for n in range(3))})
    assert child.gateway == wanted
    assert child.paths.adapters == str(tmp_path / "it's")
    assert made.url == "http://127.0.0.1:8181"


def test_what_the_gateway_lacks_is_told_before_servers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key or a taken port would be told when the servers are ready, minutes later."""
    port = free_port()
    config = compose([f"gateway.port={port}", "server.replicas=2", "gateway.host=0.0.0.0", "model=tiny"])
    monkeypatch.delenv("FGPIPE_GATEWAY_KEYS", raising=False)
    with pytest.raises(ServeError, match="no client keys"):
        replicating.serve(config)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ServeError, match="expected a free address") as caught,
    ):
        replicating.serve(compose([f"gateway.port={port}", "server.replicas=2", "model=tiny"]))
    assert f"gateway.port={port + 1}" in caught.value.hint


def test_the_container_starts_the_replicas_that_print_shows(
    model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The container, which has no Hydra, would start others than `serve`, or end with a missing module."""
    packages = tmp_path / "absent"
    for name in ("hydra", "omegaconf", "rich", "trl", "peft", "datasets"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text("raise ImportError('not in the container')")
    python = tmp_path / "python"
    paths = os.pathsep.join([str(packages), *(path for path in sys.path if path)])
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(paths)} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    variables = {
        "FGPIPE_MODEL": str(model.path),
        "FGPIPE_MODEL_ID": "my/base",
        "FGPIPE_ADAPTERS": str(tmp_path / "adapters"),
        "FGPIPE_REPLICAS": "3",
        "FGPIPE_PREFIX_CACHING": "false",
        "FGPIPE_GPU_MEMORY_UTILIZATION": "0.75",
        "FGPIPE_WATCH_S": "1.5",
    }

    def entrypoint(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        surroundings = {"PATH": os.environ["PATH"], "FGPIPE_PYTHON": str(python), "FGPIPE_PRINT": "1"}
        return subprocess.run(
            [str(ENTRYPOINT), *words],
            env={**surroundings, **variables, **more},
            capture_output=True,
            text=True,
            timeout=120,
        )

    theirs = entrypoint()
    assert theirs.returncode == 0, theirs.stderr
    words = [f"{key}={value}" for key, value in environment.overrides(variables).items()]
    config = compose([word.partition("=")[2] for word in words])
    replicating.serve(config, print_only=True)
    assert theirs.stdout == capsys.readouterr().out
    assert len(theirs.stdout.splitlines()) == 3
    for wrong in (entrypoint("--seed", "1"), entrypoint(FGPIPE_REPLICAS="auto"), entrypoint(FGPIPE_REPLICAS="many")):
        assert wrong.returncode == 2
        assert "expected" in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_logs_are_shown_by_server_and_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of several servers would run into each other, and nothing be shown of one that was started again."""
    log = tmp_path / "log"
    copy = foreground.follow(log, prefix="8001 | ")
    copy()
    log.write_text("a first line\nhalf a l")
    copy()
    assert capsys.readouterr().err == "8001 | a first line\n"
    log.write_text("a first line\nhalf a line\n")
    copy()
    assert capsys.readouterr().err == "8001 | half a line\n"
    log.write_text("anew\n")
    copy()
    assert capsys.readouterr().err == "8001 | anew\n"
