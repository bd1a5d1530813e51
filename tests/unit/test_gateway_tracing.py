"""Spans of requests, sent to a collector that listens here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from fgpipe.gateway import tracing
from gateway_running import StandIn, gateway, listening

VARIABLES = (
    *tracing.ENDPOINT_VARIABLES,
    *tracing.HEADERS_VARIABLES,
    tracing.LOGFIRE_VARIABLE,
    tracing.LOGFIRE_URL_VARIABLE,
    "OTEL_SDK_DISABLED",
)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        assert scope["path"] == "/v1/traces"
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        if dict(scope["headers"]).get(b"content-encoding") == b"gzip":
            import gzip

            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for part in resource.scope_spans:
                self.spans += part.spans
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("logfire", [False, True])
def test_a_request_is_a_span_where_the_environment_says(logfire: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow requests could not be followed from client to server, or spans would need code of one's own."""
    collector, one = Collector(), StandIn()
    with listening(collector) as sink, listening(one) as url:
        if logfire:
            monkeypatch.setenv(tracing.LOGFIRE_VARIABLE, "pylf_v1_eu_secret")
            monkeypatch.setenv(tracing.LOGFIRE_URL_VARIABLE, sink)
        else:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of the collector's own")
        with gateway(url) as front:
            answer = front.client.post("/v1/chat/completions", json={"model": "sql"}, headers={"traceparent": PARENT})
            assert answer.status_code == 200
    (span,) = collector.spans
    told = {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}
    assert told["fgpipe.adapter"] == "sql"
    assert told["fgpipe.version"] == "v0001"
    assert told["http.response.status_code"] == 200
    assert told["gen_ai.usage.output_tokens"] == 3
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert one.headers[0]["traceparent"].split("-")[1:3] == [span.trace_id.hex(), span.span_id.hex()]
    assert (collector.headers[0].get("authorization") == "pylf_v1_eu_secret") is logfire
    assert (collector.headers[0].get("x-key") == "of the collector's own") is not logfire


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container every variable is there: empty ones would send spans to nowhere, or break the others."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert tracing.tracing().tracer is None
    collector, one = Collector(), StandIn()
    with listening(collector) as sink, listening(one) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink)
        with gateway(url) as front:
            assert front.ask().status_code == 200
    assert len(collector.spans) == 1


def test_without_a_token_nothing_of_it_is_loaded() -> None:
    """Everybody would pay for what few use, or send spans without having asked."""
    code = (
        "import sys\nfrom fgpipe.gateway import tracing\n"
        "assert tracing.tracing().tracer is None\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("token", "place"),
    [
        ("pylf_v1_eu_x", "logfire-eu"),
        ("pylf_v1_us_x", "logfire-us"),
        ("old", "logfire-us"),
        ("pylf_v1_../x_y", "logfire-us"),
    ],
)
def test_a_tokens_region_is_where_its_spans_go(token: str, place: str) -> None:
    """Spans of a European project would be sent elsewhere."""
    assert tracing._logfire_url(token) == f"https://{place}.pydantic.dev"
