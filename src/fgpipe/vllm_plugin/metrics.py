"""What the tool parser read, counted in the server's own `/metrics` by the name of the model that was asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter


@dataclass(frozen=True)
class ToolCallCounters:
    """One counter a question; each has the label `model_name`, which is the adapter's name as the request gave it."""

    calls: Counter
    repairs: Counter
    parse_failures: Counter
    schema_violations: Counter
    unenforced: Counter


@cache
def counters() -> ToolCallCounters:
    """The counters of this process, registered when first asked for.

    With several API server processes, prometheus_client adds them up through PROMETHEUS_MULTIPROC_DIR, as for vLLM's.
    """
    return ToolCallCounters(
        calls=_counter("tool_calls", "Function calls read from answers."),
        repairs=_counter("tool_call_repairs", "Arguments of calls that were given the type their schema declares."),
        parse_failures=_counter("tool_call_parse_failures", "Starts of calls that were cut off or malformed."),
        schema_violations=_counter("tool_call_schema_violations", "Calls that do not fit their function's schema."),
        unenforced=_counter(
            "tool_grammar_unenforced_requests", "Requests with tools whose schemas the grammar enforces only in part."
        ),
    )


def _counter(name: str, documentation: str) -> Counter:
    return Counter(f"fgpipe:{name}", documentation, labelnames=["model_name"])


@dataclass(frozen=True)
class LoadCounters:
    """How often a version was put into the engine; `model_name` is the version's own name, `sql@v0002`."""

    loads: Counter
    failures: Counter


@cache
def load_counters() -> LoadCounters:
    """The counters of this process, registered when first asked for."""
    return LoadCounters(
        loads=_counter("adapter_loads", "Versions of adapters that the engine took."),
        failures=_counter("adapter_load_failures", "Versions of adapters that the engine could not load."),
    )
