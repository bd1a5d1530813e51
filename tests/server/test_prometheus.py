"""Debian's Prometheus on the stack's own configuration, looking at a real vLLM under traffic."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fgpipe import cli
from fgpipe.engines.http import client
from fgpipe.errors import ServeError
from fgpipe.serving import live
from monitoring import (
    Prometheus,
    alert_queries,
    configuration,
    dashboard_queries,
    eventually,
    process,
    prometheus,
)
from tiny_server import Served, chat_tools, free_port

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("prometheus-node-exporter")),
        reason="no prometheus or prometheus-node-exporter: .ci/run installs them",
    ),
]

SELDOM = {"fgpipe_gateway_refused_total", "fgpipe_gateway_retries_total"}
"""Series of a real gateway that are there only once something went wrong."""

ODD = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "^x"}},
    "required": ["a"],
}


@pytest.fixture(scope="module")
def watching(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, when it has looked at server, gateway and machine twice, with traffic between."""
    folder = tmp_path_factory.mktemp("monitoring")
    ports = {"prometheus_port": free_port(), "node_exporter_port": free_port(), "fgpipe_gateway_port": free_port()}
    config = configuration(folder, fgpipe_port=served.server.server.port, **ports)
    exporter = [
        "prometheus-node-exporter",
        f"--web.listen-address=127.0.0.1:{ports['node_exporter_port']}",
        f"--collector.textfile.directory={folder}",
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, served.adapters / "broken", ignore_errors=True)
        gateway = real_gateway if "gateway" in cli.COMMANDS else stand_in
        address = stack.enter_context(gateway(served, ports["fgpipe_gateway_port"], folder))
        stack.enter_context(process(exporter, folder / "node.log"))
        running = stack.enter_context(prometheus(config, ports["prometheus_port"]))
        wanted = {"server", "gateway", "node", "prometheus"}
        assert eventually(lambda: running.healthy() >= wanted), running.healthy()
        for _ in range(3):
            traffic(served, address)
            synchronise(served, folder / "sync.prom")
        enough = 'min(count_over_time(up{job=~"server|gateway|node"}[1m])) >= 5'
        assert eventually(lambda: running.ask(enough) and running.ask("fgpipe_sync_running"))
        yield running


def traffic(served: Served, address: str) -> None:
    """Requests of every kind that the dashboards show, one that fails, and a version that cannot be loaded."""
    tool = {"type": "function", "function": {"name": "odd", "description": "", "parameters": ODD}}
    call = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 32}
    messages: list[Any] = [{"role": "user", "content": "turn it up, and tell me how loud it is now"}]
    for url in {served.server.base_url, address}:
        with client(url) as asking:
            make: Any = asking.chat.completions.create
            for name in ("red", "blue"):
                for _ in make(model=name, messages=messages, max_tokens=24, stream=True):
                    pass
                make(model=name, messages=messages, tools=[chat_tools()[1]], **call)
                make(model=name, messages=messages, tools=[tool], **call)
    broken = served.adapters / "broken" / "v0001"
    if not broken.exists():
        served.publish("broken", 3)
        (broken / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ServeError):
        live.refresh(served.server.base_url, "broken")


def synchronise(served: Served, file: Path) -> None:
    """One look of `fgpipe sync`, written where node-exporter reads it."""
    words = [f"publish.servers=[{served.server.base_url}]", f"paths.adapters={served.adapters}"]
    done = subprocess.run(
        [sys.executable, "-m", "fgpipe", "sync", "--metrics", str(file), *words, f"model.id={served.model.id}"],
        capture_output=True,
        text=True,
    )
    assert file.exists(), done.stderr


@contextmanager
def real_gateway(served: Served, port: int, folder: Path) -> Iterator[str]:
    """`python -m fgpipe gateway` in front of the server."""
    words = [f"gateway.port={port}", f"server.port={served.server.server.port}", f"paths.adapters={served.adapters}"]
    command = [sys.executable, "-m", "fgpipe", "gateway", *words, f"model.id={served.model.id}"]
    with process(command, folder / "gateway.log"):
        address = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"{address}/ready", timeout=2):
                    return True
            except OSError:
                return False

        assert eventually(ready), (folder / "gateway.log").read_text()
        yield address


@contextmanager
def stand_in(served: Served, port: int, folder: Path) -> Iterator[str]:
    """The gateway's metrics under their agreed names, while this fgpipe has no gateway; requests go to the server."""
    registry = CollectorRegistry()
    pair = ["adapter", "version"]
    for name, labels in (("requests", [*pair, "endpoint", "status"]), ("tokens", [*pair, "direction"])):
        Counter(f"fgpipe_gateway_{name}", name, labels, registry=registry).labels(*labels).inc()
    for name in ("tool_calls", "unknown_tool_calls", "schema_violations", "parse_failures"):
        Counter(f"fgpipe_gateway_{name}", name, pair, registry=registry).labels("red", "v0001").inc()
    for name in ("time_to_first_token", "time_per_output_token", "request"):
        Histogram(f"fgpipe_gateway_{name}_seconds", name, pair, registry=registry).labels("red", "v0001").observe(1)
    for name, label in (("refused", "reason"), ("retries", "upstream")):
        Counter(f"fgpipe_gateway_{name}", name, [label], registry=registry).labels("x").inc()
    for name in ("in_flight", "upstream_up"):
        Gauge(f"fgpipe_gateway_{name}", name, ["upstream"], registry=registry).labels("x").set(1)
    Gauge("fgpipe_gateway_adapter_live_version", "version", pair, registry=registry).labels("red", "v0001").set(1)
    Gauge("fgpipe_gateway_queued", "queued", registry=registry).set(0)

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(generate_latest(registry))

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served.server.base_url
        server.shutdown()


def test_every_panel_shows_data(watching: Prometheus) -> None:
    """A panel would stay empty because vLLM, the plugin or the gateway calls its metric otherwise."""
    empty = []
    seldom = SELDOM if "gateway" in cli.COMMANDS else set()
    for query in dashboard_queries():
        if not query.runs_here:
            watching.ask(query.expression)  # what Prometheus cannot parse is HTTP 400
        elif query.selectors() and query.selectors() <= seldom:
            continue
        elif not eventually(lambda expression=query.expression: watching.ask(expression), limit_s=10):
            empty.append(query)
    assert empty == []


def test_every_alert_reads_metrics_that_are_there(watching: Prometheus) -> None:
    """An alert on a metric that nobody has never fires, and nobody notices."""
    missing = set()
    for query in alert_queries():
        watching.ask(query.expression)
        assert query.selectors() or "up{" in query.expression
        missing |= {name for name in query.selectors() if not watching.ask(f"count({name})")}
    assert missing - (SELDOM if "gateway" in cli.COMMANDS else set()) == set()
    loaded = {rule["name"] for group in watching.get("rules")["groups"] for rule in group["rules"]}
    assert loaded == {query.place.removeprefix("alert ") for query in alert_queries()}


def test_a_version_that_cannot_be_loaded_raises_the_alarm(watching: Prometheus) -> None:
    """A publish would fail in the server and nobody would be told."""
    firing = 'ALERTS{alertname="AdapterNotLoaded", alertstate="firing", model_name="broken@v0001"}'
    assert eventually(lambda: watching.ask(firing))


def test_what_prometheus_cannot_read_would_be_noticed(watching: Prometheus) -> None:
    """The tests above would pass whatever the dashboards ask for."""
    with pytest.raises(urllib.error.HTTPError):
        watching.ask("sum(rate(vllm:prompt_tokens_total")
    assert watching.ask("vllm:no_such_metric") == []
