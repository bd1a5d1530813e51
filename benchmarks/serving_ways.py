"""What is compared by `serving.py`: ways to serve the same base and adapters.

A *way* is an address with what is behind it: one plain vLLM, one fgpipe server, or several behind the gateway, either
as `python -m fgpipe serve server.replicas=N` starts them or one by one.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway import ROOT, free_port
from gateway import _ready as answers

from fgpipe import resources
from fgpipe.compose import compose
from fgpipe.config import Config, ModelConfig
from fgpipe.errors import FgpipeError, ServeError
from fgpipe.serving import VllmServer, gpus, installed_build
from fgpipe.serving.memory import GIB

TUNED_VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"

PLAIN = {
    "plain": ("--max-num-seqs", "256"),
    "plain-default": (),
    "plain-api4": ("--max-num-seqs", "256", "--api-server-count", "4"),
}
"""vLLM alone: as many sequences as fgpipe's server has, vLLM's own number, and with four processes for HTTP."""

ENGINES = ("engine", "engine-default", "engine-tuned")
"""One fgpipe server, asked directly: as it comes, with vLLM's LoRA kernel settings, with those of --tuned."""

GPU_SHARE = 0.86
"""Of the GPU for all ways together."""

ENGINE_GIB = 3.2
"""Of an engine beside its KV cache, CUDA context included: 1.9 GiB were measured without the context, and the tensors
that exist only while it starts come on top."""

MOST_KV_GIB = 24
"""More KV cache than any load here fills."""


class Product:
    """`python -m fgpipe serve server.replicas=N`: all its servers and the gateway, as one process that ends them."""

    def __init__(self, words: Sequence[str], *, url: str, log: Path, timeout_s: float) -> None:
        self.words, self.url, self.log, self.timeout_s = list(words), url, log, timeout_s
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with open(self.log, "wb") as log:
            command = [sys.executable, "-m", "fgpipe", "serve", *self.words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait_ready(self) -> None:
        """Return when it says that it is ready.

        Raises:
            ServeError: it ended, or took too long.
        """
        until = time.monotonic() + self.timeout_s
        while not re.search(r"^ready: ", self.log.read_text(errors="replace"), re.MULTILINE):
            if self.process is None or self.process.poll() is not None or time.monotonic() > until:
                raise ServeError(f"serve: got no `ready:`, expected it: {self.log.read_text(errors='replace')[-500:]}")
            time.sleep(0.25)

    def stop(self) -> None:
        """End it; it ends its servers and the gateway first."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait(90)

    def sessions(self) -> dict[str, list[int]]:
        """Its children by what they are; each is a session of its own."""
        found: dict[str, list[int]] = {"servers": [], "gateway": []}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.process is not None and parent == str(self.process.pid):
                found["gateway" if b"gateway" in words else "servers"].append(int(path.name))
        return found


@dataclass
class Way:
    """One way to serve, running or not."""

    name: str
    servers: list[VllmServer] = field(default_factory=list)
    product: Product | None = None
    behind_gateway: bool = False
    url: str = ""
    problem: str = ""
    """Why it does not run."""
    gateway_pid: int | None = None
    start_s: float = 0.0

    def processes(self) -> list[VllmServer | Product]:
        """What is started."""
        return [self.product] if self.product else [*self.servers]

    def sessions(self) -> dict[str, list[int]]:
        """Process groups whose CPU time counts, by part."""
        if self.product:
            return self.product.sessions()
        servers = [server.process.pid for server in self.servers if server.process is not None]
        return {"servers": servers, "gateway": [self.gateway_pid] if self.gateway_pid else []}


SEVERAL = re.compile(r"replicas([1-9]\d?)|engines([1-9]\d?)(?:-default)?")
"""N servers behind the gateway; -default: with vLLM's LoRA kernel settings."""


def names_known(part: str) -> bool:
    """Whether `part` names a way."""
    return part in PLAIN or part in ENGINES or SEVERAL.fullmatch(part) is not None


def engine_count(part: str) -> int:
    """N of `replicasN` and `enginesN`, else 1."""
    found = SEVERAL.fullmatch(part)
    return int(found[1] or found[2]) if found else 1


@dataclass(frozen=True)
class Bench:
    """What all ways have in common."""

    model: ModelConfig
    adapters: Path
    names: Sequence[str]
    logs: Path
    words: tuple[str, ...]
    """Settings of servers and gateway, from the command line."""
    most_clients: int
    tuned: Path | None = None

    def common(self) -> list[str]:
        """Settings of all fgpipe's servers here."""
        slots = max(1, len(self.names))
        slots_words = [f"server.max_loras={slots}", f"server.max_cpu_loras={max(32, slots)}"]
        given = [word for word in self.words if not word.startswith("gateway.")]
        return [*slots_words, "server.max_lora_rank=32", "server.max_model_len_tokens=2048", *given]

    def base_words(self) -> list[str]:
        """The base, for a command line."""
        if self.model.name == "tiny":
            return ["model=tiny"]
        return [f"model.name={self.model.name}", f"model.id={self.model.id}", f"model.path={self.model.path}"]

    def config(self, *words: str) -> Config:
        """The configuration of one server."""
        return compose([*self.common(), f"server.port={free_port()}", *words])


def ways(bench: Bench, parts: Sequence[str], *, timeout_s: float) -> list[Way]:
    """The ways that `parts` name, not started. Each gets the same share of the GPU, its engines in equal parts."""
    found = []
    for part in parts:
        share = GPU_SHARE / len(parts)
        if part.startswith("replicas"):
            found.append(Way(part, product=_product(bench, part, share, timeout_s), behind_gateway=True))
            continue
        kv_bytes = _kv_bytes(share / engine_count(part))
        made = [_server(bench, part, place, kv_bytes, timeout_s) for place in range(engine_count(part))]
        found.append(Way(part, made, behind_gateway=part not in PLAIN and part not in ENGINES))
    return found


def _product(bench: Bench, part: str, share: float, timeout_s: float) -> Product:
    count, port, front = engine_count(part), _free_ports(engine_count(part)), free_port()
    words = [
        *bench.common(),
        f"server.replicas={count}",
        f"server.port={port}",
        f"server.gpu_memory_utilization={share:.3f}",
        f"server.start_timeout_s={max(1, timeout_s):.0f}",
        *bench.base_words(),
        *_gateway_words(bench, front),
    ]
    return Product(words, url=f"http://127.0.0.1:{front}", log=bench.logs / f"{part}.log", timeout_s=timeout_s)


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row on which nobody listens now."""
    while True:
        first = free_port()
        if first + count < 65536 and all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _gateway_words(bench: Bench, port: int) -> list[str]:
    """Settings of the gateway: it may hold all clients there are; what vLLM is not asked for waits in its queue."""
    return [
        f"gateway.port={port}",
        f"paths.adapters={bench.adapters}",
        f"gateway.max_queued={2 * bench.most_clients}",
        "gateway.max_wait_s=120",
        *(word for word in bench.words if word.startswith("gateway.")),
    ]


def _kv_bytes(share: float) -> int | None:
    """KV cache of an engine that may have `share` of the GPU; None for the CPU build."""
    if installed_build() == "cpu":
        return None
    total = gpus.found_gpus()[0].total_bytes
    left = share * total - ENGINE_GIB * GIB
    if left < GIB:
        raise SystemExit(f"serving: got {share:.3f} of the GPU an engine, expected {ENGINE_GIB + 1} GiB: fewer --parts")
    return int(min(left, MOST_KV_GIB * GIB))


def _server(bench: Bench, part: str, place: int, kv_bytes: int | None, timeout_s: float) -> VllmServer:
    words = [f"server.start_timeout_s={max(1, timeout_s):.0f}"]
    if kv_bytes is not None:
        share = (kv_bytes + ENGINE_GIB * GIB) / gpus.found_gpus()[0].total_bytes
        words.append(f"server.gpu_memory_utilization={share:.3f}")
    config = bench.config(*words)
    server = VllmServer(bench.model, config.server, adapters=bench.adapters, log=bench.logs / f"{part}-{place}.log")
    if part in PLAIN:
        server.command, server.variables = plain_command(bench, config, PLAIN[part])
    if part.endswith("-default") and part not in PLAIN:
        server.variables[TUNED_VARIABLE] = ""
    if part == "engine-tuned":
        server.variables[TUNED_VARIABLE] = str(bench.tuned)
    if kv_bytes is not None:
        # By its size: engines that start together would count each other's memory as their own while they profile.
        server.command += ["--kv-cache-memory-bytes", str(kv_bytes)]
    return server


def plain_command(bench: Bench, config: Config, more: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line of vLLM itself, and variables: no plugin, adapters named one by one."""
    build, server, model = installed_build(), config.server, bench.model
    where = str(resources.resolve(str(model.path)).absolute())
    command = [sys.executable, "-m"]
    command += ["vllm.entrypoints.cli.main", "serve", where] if build == "gpu" else [API_SERVER, "--model", where]
    command += ["--served-model-name", model.id, "--host", server.host, "--port", str(server.port)]
    command += ["--max-model-len", str(server.max_model_len_tokens), "--enable-lora"]
    command += ["--dtype", "bfloat16" if build == "gpu" else "float32"]
    command += ["--max-loras", str(server.max_loras), "--max-lora-rank", str(server.max_lora_rank)]
    command += ["--max-cpu-loras", str(server.max_cpu_loras)]
    command += (
        ["--gpu-memory-utilization", str(server.gpu_memory_utilization)] if build == "gpu" else ["--enforce-eager"]
    )
    command += [*more, "--lora-modules", *(f"{name}={bench.adapters / name / 'v0001'}" for name in bench.names)]
    variables = {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if build == "cpu":
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(server.cpu_kv_cache_gib)
    return command, variables


API_SERVER = "vllm.entrypoints.openai.api_server"


@contextmanager
def running(bench: Bench, wanted: Sequence[Way]) -> Iterator[list[Way]]:
    """Start all ways; yields those that run, and says why others do not.

    Those of the product come first and one after another: their first server measures the GPU's memory, and must be
    alone while it does. The others are told the size of their KV caches, and start together.
    """
    with ExitStack() as stack:
        single = [[way] for way in wanted if way.product]
        for together in [*single, [way for way in wanted if not way.product]]:
            began = time.monotonic()
            for way in together:
                for process in way.processes():
                    stack.callback(process.stop)
                    _attempt(way, process.start)
            for way in together:
                for process in way.processes():
                    _attempt(way, process.wait_ready)
                way.url = way.product.url if way.product else way.servers[0].base_url
                way.start_s = round(time.monotonic() - began, 1)
                if way.behind_gateway and not way.product:
                    _attempt(way, lambda way=way: stack.enter_context(_gateway(bench, way)))
        for way in wanted:
            if way.problem:
                print(f"{way.name} does not run: {way.problem}", file=sys.stderr)
                for process in way.processes():
                    process.stop()
        stack.callback(_end_together, wanted)
        yield [way for way in wanted if not way.problem]


def _attempt(way: Way, action: Callable[[], object]) -> None:
    """Do `action`, unless the way has failed before; a failure is noted."""
    try:
        if not way.problem:
            action()
    except FgpipeError as error:
        way.problem = error.message


def _end_together(wanted: Sequence[Way]) -> None:
    """Ask all processes to end, so that each has done so when it is waited for."""
    for process in [process.process for way in wanted for process in way.processes()]:
        if process is not None and process.poll() is None:
            process.terminate()


@contextmanager
def _gateway(bench: Bench, way: Way) -> Iterator[None]:
    """The gateway in front of the servers of `way`, as the command starts it; puts its address into `way`."""
    port, log = free_port(), bench.logs / f"{way.name}-gateway.log"
    upstreams = f"gateway.upstreams=[{','.join(server.base_url for server in way.servers)}]"
    words = [upstreams, *_gateway_words(bench, port)]
    with open(log, "wb") as sink:
        command = [sys.executable, "-m", "fgpipe", "gateway", *words]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/ready"):
            if process.poll() is not None or time.monotonic() > until:
                raise ServeError(f"the gateway did not start: {log.read_text()[-500:]}")
            time.sleep(0.2)
        _until_all_healthy(log, len(way.servers))
        way.url, way.gateway_pid = f"http://127.0.0.1:{port}", process.pid
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _until_all_healthy(log: Path, count: int) -> None:
    """Wait until the gateway has said of each upstream that it serves."""
    until = time.monotonic() + 30
    while log.read_text().count(": serves ") < count and time.monotonic() < until:
        time.sleep(0.2)


os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
