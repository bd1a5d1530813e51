"""An adapter on trial: served by a vLLM of its own and compared with what was trained, before anyone can ask for it."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import adapters_folder
from fgpipe.config import Config, DatasetConfig, ModelConfig, TaskConfig
from fgpipe.progress import say

if TYPE_CHECKING:
    from fgpipe.serving.live import ServerStatus
    from fgpipe.validation.parity import ParityReport

CANDIDATE = "candidate"
"""Name of the adapter in a server of its own."""

GENERAL_TASKS = ("sql", "email", "math")
"""Shipped tasks whose requests are put to an adapter of which no task is given."""


def parity_on_own_server(config: Config, adapter: Path, prompts: Sequence[str]) -> ParityReport:
    """Serve the PEFT folder `adapter` by a vLLM that ends with the call, and compare it with what was trained.

    Raises:
        EvaluationError: transformers cannot load the adapter or answer with it.
        ServeError: vLLM is not installed or does not start.
    """
    from fgpipe import serving
    from fgpipe.validation import parity

    serving.installed_build()  # said before the minute that the reference may take
    known = parity.reference(config.model, adapter, prompts)
    changes = {"host": "127.0.0.1", "port": free_port(), "max_num_seqs": min(config.server.max_num_seqs, 16)}
    with tempfile.TemporaryDirectory(prefix="fgpipe-trial-") as folder:
        adapters = Path(folder)
        publish_candidate(adapter, adapters)
        with serving.VllmServer(config.model, config.server.model_copy(update=changes), adapters=adapters) as server:
            return parity.compare(
                known,
                base_url=server.base_url,
                served=CANDIDATE,
                served_base=config.model.id,
                dtype=parity.dtype_of(config.model),
            )


def parity_on_servers(
    found: Sequence[ServerStatus], model: ModelConfig, adapter: Path, prompts: Sequence[str], *, served: str
) -> dict[str, Any]:
    """Hold what every server of `found` answers as `served` against the PEFT folder `adapter`; the first's report.

    Raises:
        EvaluationError: transformers cannot load the adapter or answer with it.
        ValidationError: a server does not answer as the adapter was trained.
    """
    from fgpipe.validation import parity

    say(f"parity: {served} in {len(found)} server{'s' * (len(found) > 1)} …")
    known = parity.reference(model, adapter, prompts)
    reports = []
    for status in found:
        dtype = parity.coarser(parity.dtype_of(model), status.dtype)
        report = parity.compare(known, base_url=status.url, served=served, served_base=model.id, dtype=dtype)
        parity.require_parity(report)
        say(f"parity: {status.url}: {report.line}")
        reports.append(report)
    return {**reports[0].as_json(), "servers": [report.line for report in reports]}


def publish_candidate(adapter: Path, adapters: Path) -> None:
    """Copy the PEFT folder `adapter` into `adapters` as the live version of CANDIDATE."""
    version = adapters / CANDIDATE / adapters_folder.version_name(1)
    version.mkdir(parents=True)
    for file in adapters_folder.ADAPTER_FILES:
        shutil.copyfile(adapter / file, version / file)
    (version / adapters_folder.MANIFEST_FILE).write_text("{}", encoding="utf-8")
    pointer = json.dumps({"current": version.name})
    (adapters / CANDIDATE / adapters_folder.CHANNEL_FILE).write_text(pointer, encoding="utf-8")


def general_prompts(count: int) -> list[str]:
    """Requests of the shipped tasks, for adapters whose own task is not known."""
    from fgpipe import chat
    from fgpipe.data import loading, sources
    from fgpipe.validation import parity

    points = []
    for name in GENERAL_TASKS:
        task = TaskConfig(name=name, dataset=DatasetConfig(source=f"data/{name}/rows.jsonl", limit=count))
        for source in sources.read(task.dataset):
            row, _ = loading.convert_row(source, task)
            points += chat.evaluation_points(row)
    return parity.choose_prompts(points, count)


def free_port() -> int:
    """A port of this machine nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
