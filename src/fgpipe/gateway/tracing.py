"""A span a request, sent to wherever OpenTelemetry's own variables or a Logfire token say; nothing without either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fgpipe.errors import ServeError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

SERVICE = "fgpipe-gateway"
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HEADERS_VARIABLES = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
LOGFIRE_VARIABLE = "LOGFIRE_TOKEN"
LOGFIRE_URL_VARIABLE = "LOGFIRE_BASE_URL"


class Tracing:
    """Makes spans; without a tracer it does nothing."""

    def __init__(self, tracer: Tracer | None = None, *, close: Callable[[], None] = lambda: None) -> None:
        self.tracer = tracer
        self.close = close
        """Sends what is left; waits for that."""

    @contextmanager
    def span(self, name: str, incoming: Mapping[str, str], outgoing: MutableMapping[str, str]) -> Iterator[Span | None]:
        """A span below the one named in the `incoming` headers; `outgoing` ones are told of it."""
        if self.tracer is None:
            yield None
            return
        from opentelemetry import propagate, trace

        context = propagate.extract(incoming)
        with self.tracer.start_as_current_span(name, context=context, kind=trace.SpanKind.SERVER) as span:
            propagate.inject(outgoing)
            yield span


def tracing() -> Tracing:
    """Spans as the environment asks for.

    Raises:
        ServeError: it asks for spans, and a package for that is missing.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    exporters = list(_exporters())
    if not exporters:
        return Tracing()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider.get_tracer("fgpipe.gateway"), close=provider.shutdown)


def _exporters() -> Iterator[SpanExporter]:
    token = os.environ.get(LOGFIRE_VARIABLE)
    if not token and not any(os.environ.get(variable) for variable in ENDPOINT_VARIABLES):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ServeError(
            "tracing: got no OTLP exporter in this environment, expected one, as its variables are set",
            hint="pip install 'fgpipe[gateway]', or unset OTEL_EXPORTER_OTLP_ENDPOINT and LOGFIRE_TOKEN",
        ) from None
    if any(os.environ.get(variable) for variable in ENDPOINT_VARIABLES):
        yield OTLPSpanExporter()
    if token:
        with _without(HEADERS_VARIABLES):  # they are for the collector, and may hold its key
            exporter = OTLPSpanExporter(endpoint=f"{_logfire_url(token)}/v1/traces", headers={"Authorization": token})
        yield exporter


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """The environment without `names`, for as long as the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _logfire_url(token: str) -> str:
    """Where Logfire takes spans: a token names its region, `pylf_v1_eu_…`."""
    if url := os.environ.get(LOGFIRE_URL_VARIABLE):
        return url.rstrip("/")
    parts = token.split("_")
    region = parts[2] if token.startswith("pylf_") and len(parts) > 3 and parts[2].isalpha() else "us"
    return f"https://logfire-{region}.pydantic.dev"


def describe(span: Span | None, **attributes: Any) -> None:
    """Put `attributes` on `span`; those that are None are left out."""
    if span is not None:
        span.set_attributes({key.replace("__", "."): value for key, value in attributes.items() if value is not None})
