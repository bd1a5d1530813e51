"""Prometheus as the stack runs it, on local ports, and every query of its dashboards and alerts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVE = Path(__file__).parents[1] / "serve"
RULES = SERVE / "prometheus" / "rules"
DASHBOARDS = sorted((SERVE / "grafana" / "dashboards").glob("*.json"))

FOREIGN = re.compile(r"\b(DCGM_|container_)")
"""Metrics of exporters that cannot run without a GPU or a Docker engine: their queries are only parsed."""


@dataclass(frozen=True)
class Query:
    """One expression, and where it is from."""

    place: str
    expression: str

    @property
    def runs_here(self) -> bool:
        return FOREIGN.search(self.expression) is None

    def selectors(self) -> set[str]:
        """The metric names it reads."""
        return set(
            re.findall(r"\b(?:vllm|fgpipe|node|prometheus|DCGM|container)[a-zA-Z0-9_]*:?[a-zA-Z0-9_]+", self.expression)
        )


def dashboard_queries() -> list[Query]:
    """Every expression of every panel, with Grafana's variables filled in."""
    found = []
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "1m").replace("$adapter", ".*")
                found.append(Query(f"{file.stem}: {panel['title']}", text))
    return found


def alert_queries() -> list[Query]:
    """The expression of every alert."""
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    return [Query(f"alert {rule['alert']}", rule["expr"]) for group in groups for rule in group["rules"]]


def configuration(folder: Path, **settings: int | str) -> Path:
    """serve/prometheus/prometheus.yml as the container would fill it in, looking every second."""
    variables = {name.upper(): str(value) for name, value in settings.items()} | {"PROMETHEUS_SCRAPE_INTERVAL_S": "1"}
    text = subprocess.run(
        [str(SERVE / "prometheus" / "start.sh"), "--print", str(SERVE / "prometheus" / "prometheus.yml")],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "@" not in text.partition("\n")[2], text
    path = folder / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/rules", str(RULES)))
    return path


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **words: str) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, expression: str) -> list[Any]:
        """The samples that `expression` has now."""
        samples: list[Any] = self.get("query", query=expression)["result"]
        return samples

    def healthy(self) -> set[str]:
        """Jobs all of whose targets answer."""
        targets = self.get("targets", state="active")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}


def eventually(condition: Any, *, limit_s: float = 60, every_s: float = 0.5) -> bool:
    """Whether `condition` came true within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_s)
    return False


@contextmanager
def process(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that lives as long as the block."""
    with open(log, "wb") as handle, subprocess.Popen(words, stdout=handle, stderr=subprocess.STDOUT) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def prometheus(config: Path, port: int) -> Iterator[Prometheus]:
    """Debian's Prometheus on `config`."""
    program = shutil.which("prometheus")
    assert program
    words = [program, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with process([*words, f"--storage.tsdb.path={config.parent / 'data'}"], config.parent / "prometheus.log"):
        running = Prometheus(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"{running.url}/-/ready", timeout=2):
                    return True
            except OSError:
                return False

        assert eventually(ready, limit_s=30), (config.parent / "prometheus.log").read_text()
        yield running
