"""What Prometheus reads from the gateway, by adapter and version. Labels hold published names only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

BOTH = ("adapter", "version")
UNKNOWN = "unknown"
"""Adapter label of a name that nobody published: clients must not be able to make new series."""

NO_VERSION = "none"
"""Version label of a request that no version answered."""

BASE_VERSION = "base"
"""Version label of the base model."""

FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PER_TOKEN_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class GatewayMetrics:
    """The gateway's counters, histograms and gauges, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests, by HTTP status.", (*BOTH, "endpoint", "status"))
        self.first_token = self._histogram("time_to_first_token_seconds", "Of streamed answers.", FIRST_TOKEN_S)
        self.per_token = self._histogram(
            "time_per_output_token_seconds", "After the first token, of streamed answers.", PER_TOKEN_S
        )
        self.request_seconds = self._histogram("request_seconds", "From request to the end of its answer.", REQUEST_S)
        self.tokens = self._counter("tokens", "Tokens of prompts (in) and answers (out).", (*BOTH, "direction"))
        self.calls = self._counter("tool_calls", "Function calls in answers.", BOTH)
        self.unknown_tools = self._counter(
            "unknown_tool_calls", "Calls of functions the request did not declare.", BOTH
        )
        self.violations = self._counter("schema_violations", "Calls that do not fit their function's schema.", BOTH)
        self.parse_failures = self._counter(
            "parse_failures", "Answers whose text holds a call nobody could read.", BOTH
        )
        self.in_flight = self._gauge("in_flight", "Requests an upstream answers now.", ("upstream",))
        self.queued = self._gauge("queued", "Requests that wait for an upstream.", ())
        self.refused = self._counter("refused", "Requests refused without asking an upstream.", ("reason",))
        self.retries = self._counter("retries", "Requests asked of another upstream, by the one lost.", ("upstream",))
        self.up = self._gauge("upstream_up", "1 if the upstream is well.", ("upstream",))
        self.live = self._gauge("adapter_live_version", "1 for the version an adapter's bare name means.", BOTH)
        self._live: set[tuple[str, str]] = set()

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"fgpipe_gateway_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"fgpipe_gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"fgpipe_gateway_{name}", text, BOTH, buckets=buckets, registry=self.registry)

    def set_live(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Say which (adapter, version) pairs are live; those of before are forgotten."""
        now = set(pairs)
        for gone in self._live - now:
            self.live.remove(*gone)
        for pair in now:
            self.live.labels(*pair).set(1)
        self._live = now

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return generate_latest(self.registry)

    def figures(self) -> list[dict[str, Any]]:
        """The main figures since the start, one entry an adapter and version, for the page."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        counters = (self.requests, self.tokens, self.calls, self.unknown_tools, self.violations, self.parse_failures)
        for metric in (*counters, self.first_token, self.request_seconds):
            self._collect(metric, found)
        return [{"adapter": pair[0], "version": pair[1], **found[pair]} for pair in sorted(found)]

    def _collect(self, metric: MetricWrapperBase, found: dict[tuple[str, str], dict[str, Any]]) -> None:
        for family in metric.collect():
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_created")):
                    continue
                labels = sample.labels
                entry = found.setdefault((labels["adapter"], labels["version"]), {})
                name = sample.name.removeprefix("fgpipe_gateway_").removesuffix("_total")
                keys = [f"{name}_{labels['direction']}"] if "direction" in labels else [name]
                if labels.get("status", "200") != "200":
                    keys.append("not_answered")
                for key in keys:
                    entry[key] = entry.get(key, 0.0) + sample.value
