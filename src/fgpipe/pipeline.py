"""The stages in their order: each takes artefacts, leaves one, and is skipped while nothing it depends on changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fgpipe import artifacts, store
from fgpipe.artifacts import Adapter, Artifact, Dataset, FormattedDataset, Scores, Verdict
from fgpipe.config import Config
from fgpipe.progress import say

if TYPE_CHECKING:
    from fgpipe.publishing.registry import PublishedVersion
    from fgpipe.serving.live import ServerStatus

NOT_RUN = "not run (no server was running)"
SKIPPED = "skipped (--no-parity)"
"""What a manifest says of parity if no server was asked."""

A = TypeVar("A", bound=Artifact)


def run_stage(name: str, config: Config, *, force: bool = False, as_json: bool = False, parity: bool = True) -> None:
    """Bring stage `name` up to date, with the stages before it, and show what it left.

    Args:
        force: run the stage itself even if nothing changed; the stages before it are still skipped when they can be.
        as_json: print the artefact's figures as JSON on stdout instead of a preview.
        parity: publish only what a running server answers with as it was trained.
    """
    if name == "publish":
        version = publish(config, parity=parity)
        print(json.dumps(version_facts(version)) if as_json else _published_line(version))
        return
    artifact = STAGES[name](config, force=force)
    if as_json:
        print(json.dumps(_figures(artifact), ensure_ascii=False, indent=2))
    else:
        show(artifact)


def run_all(config: Config, *, force: bool = False) -> None:
    """Every stage, then one question answered by a vLLM server; ends with what was scored, asked and written."""
    from fgpipe import asking, releasing

    releasing.require_base(config)
    for stage in STAGES.values():
        stage(config, force=force)
    version = publish(config)
    say(_published_line(version))
    show(scores(config))
    if asking.can_serve(config):
        ask(config)
    else:
        say("no vLLM here and no server running: nothing asked; the adapter waits in the adapters folder")
    print(f"\nwritten:\n  {config.run_folder}/   artefacts of every stage\n  {version.path}/   the published version")


def load(config: Config, *, force: bool = False) -> Dataset:
    """Stage `load`."""
    from fgpipe.data import loading

    return _current(
        Dataset,
        config.run_folder / "load",
        config=loading.load_config(config.task, config.seed),
        inputs=loading.load_inputs(config.task),
        make=lambda out: loading.load(config.task, seed=config.seed, out=out),
        force=force,
    )


def format_dataset(config: Config, *, force: bool = False) -> FormattedDataset:
    """Stage `format`."""
    from fgpipe import chat
    from fgpipe.models import base

    dataset = load(config)
    longest = config.train.max_length_tokens
    tokenizer = base.tokenizer_fingerprint(config.model)
    return _current(
        FormattedDataset,
        config.run_folder / "format",
        config=chat.format_config(max_length_tokens=longest),
        inputs={"dataset": dataset.fingerprint, "tokenizer": tokenizer},
        make=lambda out: chat.format_dataset(
            dataset,
            base.load_tokenizer(config.model),
            max_length_tokens=longest,
            tokenizer_fingerprint=tokenizer,
            out=out,
        ),
        force=force,
    )


def train(config: Config, *, force: bool = False) -> Adapter:
    """Stage `train`."""
    from fgpipe.training import stage

    data = format_dataset(config)
    return _current(
        Adapter,
        config.run_folder / "train",
        **stage.identity(data, config.model, config.lora, config.train, seed=config.seed),
        make=lambda out: stage.train(data, config.model, config.lora, config.train, seed=config.seed, out=out),
        force=force,
    )


def scores(config: Config, *, force: bool = False) -> Scores:
    """Stage `evaluate`."""
    from fgpipe import evaluation
    from fgpipe.models import base

    adapter = train(config)
    data = format_dataset(config)
    return _current(
        Scores,
        config.run_folder / "evaluate",
        config=evaluation.evaluate_config(config.evaluate, scorer=config.task.scorer),
        inputs={"data": data.fingerprint, "adapter": adapter.fingerprint, "base": base.model_fingerprint(config.model)},
        make=lambda out: evaluation.evaluate(
            data,
            adapter.path,
            config.model,
            config.evaluate,
            scorer=config.task.scorer,
            adapter_fingerprint=adapter.fingerprint,
            out=out,
        ),
        force=force,
    )


def validate(config: Config, *, force: bool = False) -> Verdict:
    """Stage `validate`.

    Raises:
        ValidationError: the adapter breaks a rule of the server.
    """
    from fgpipe import validation

    adapter = train(config)
    contract = validation.contract(config.model, config.server)
    verdict = _current(
        Verdict,
        config.run_folder / "validate",
        config=validation.validate_config(contract, name=config.adapter_name),
        inputs={"adapter": adapter.fingerprint},
        make=lambda out: validation.validate_adapter(
            adapter.path, contract, name=config.adapter_name, adapter_fingerprint=adapter.fingerprint, out=out
        ),
        force=force,
    )
    validation.require_pass(validation.read_findings(verdict))
    return verdict


def held_out_prompts(config: Config, data: FormattedDataset) -> list[str]:
    """The held-out prompts on which an adapter is compared."""
    from fgpipe.validation import parity

    return parity.choose_prompts(data.examples(), config.publish.parity_prompts)


def shrink_folder(folder: Path, config: Config, *, r: int, out: Path | None, as_json: bool) -> None:
    """Write any PEFT folder anew at rank `r`, to `out` or beside it, and show what was lost."""
    from rich.console import Console

    from fgpipe import validation

    contract = validation.contract(config.model, config.server)
    shrunk = validation.shrink(folder, contract, r=r, out=out or validation.default_out(folder, r=r))
    if as_json:
        print(json.dumps(shrunk.as_json(), ensure_ascii=False, indent=2))
    else:
        Console().print(validation.render_shrunk(shrunk))
        print(f"shrunk to r={shrunk.r}: {shrunk.path}")


def publish(config: Config, *, parity: bool = True, scored: bool = True) -> PublishedVersion:
    """Publish the run's adapter: validated first, then live in the folder and in every running server.

    Args:
        scored: score it on the held-out rows first; what is not scored says so on its card.
        parity: ask every running server whether it serves the adapter as it was trained, before it goes live.
    """
    from fgpipe import releasing, trial, validation

    releasing.require_base(config)
    adapter = train(config)
    card = scores(config) if scored else None
    validate(config)
    contract = validation.contract(config.model, config.server)

    def gate(found: Sequence[ServerStatus], served: str) -> dict[str, Any]:
        prompts = held_out_prompts(config, format_dataset(config))
        return trial.parity_on_servers(found, config.model, adapter.path, prompts, served=served)

    return releasing.release(
        config,
        adapter.path,
        check=lambda folder: validation.require_pass(validation.validate(folder, contract, name=config.adapter_name)),
        manifest={**provenance(config, adapter=adapter, card=card), "parity": NOT_RUN if parity else SKIPPED},
        trial=gate if parity else None,
    )


def provenance(config: Config, *, adapter: Adapter, card: Scores | None) -> dict[str, Any]:
    """Where a version comes from: data, configuration, code, base and scores."""
    from fgpipe.models import base

    data = format_dataset(config)
    return {
        "task": config.task.model_dump(mode="json"),
        "instruction": config.task.instruction,
        "base": {
            "id": config.model.id,
            "revision": config.model.revision,
            "fingerprint": base.model_fingerprint(config.model),
        },
        "config": config.model_dump(mode="json"),
        "data": {"dataset": load(config).fingerprint, "formatted": data.fingerprint, **data.numbers},
        "adapter_fingerprint": adapter.fingerprint,
        "training": dict(adapter.numbers),
        "scores": card.scores() if card is not None else {},
        "versions": adapter.manifest["versions"],
        "git": adapter.manifest["git"],
    }


def list_adapters(config: Config, *, as_json: bool) -> None:
    """Print every published adapter: versions, scores, which is live."""
    from rich.console import Console

    from fgpipe.publishing import registry

    entries = registry.versions(Path(config.paths.adapters))
    if as_json:
        print(json.dumps([registry.entry_json(entry) for entry in entries], ensure_ascii=False, indent=2))
    else:
        Console().print(registry.render_versions(entries))


def rollback(request: str, config: Config) -> None:
    """Make `name` answer by its previous version, or `name@vNNNN` by that one."""
    from fgpipe import releasing

    now = releasing.rollback(config, request)
    print(f"{now.name}: {now.version} is live")


def sync(config: Config, *, watch: bool, as_json: bool, metrics: Path | None = None) -> int:
    """Bring running servers in step with the adapters folder; 2 if one could not be.

    Args:
        watch: do so again and again until interrupted, and say what changed.
        metrics: file to write how it went to, for Prometheus.
    """
    from rich.console import Console

    from fgpipe import releasing
    from fgpipe.serving import sync as servers

    def look() -> list[servers.Report]:
        found = releasing.sync(config)
        if metrics is not None:
            store.write_text(metrics, servers.metrics(found, now_s=time.time()))
        return found

    if watch:
        servers.watch(look)
    reports = look()
    if as_json:
        print(json.dumps(servers.reports_json(reports), ensure_ascii=False, indent=2))
    else:
        Console().print(servers.render(reports))
    return 2 if any(report.state == "failed" for report in reports) else 0


def ask(config: Config, *, question: str | None = None) -> None:
    """Ask the published adapter a held-out question, or `question`, through vLLM; print call and result."""
    from fgpipe import asking

    print(asking.render_exchange(asking.ask(config, load(config), question=question)))


def show(artifact: Artifact) -> None:
    """Print what a stage left: a table, a preview, the figures."""
    from rich.console import Console

    console = Console()
    if isinstance(artifact, (Dataset, FormattedDataset)):
        from fgpipe import chat

        chat.preview(artifact, console=console)
    elif isinstance(artifact, Scores):
        from fgpipe import evaluation

        console.print(evaluation.render_scores(artifact.scores()))
    elif isinstance(artifact, Verdict):
        from fgpipe import validation

        console.print(validation.render_findings(validation.read_findings(artifact)))
    else:
        for key, value in artifact.numbers.items():
            console.print(f"{key}: {value}")
    console.print(f"{artifact.stage}: {artifact.path}")


def version_facts(version: PublishedVersion) -> dict[str, str]:
    """A published version as JSON-ready facts."""
    return {"name": version.name, "version": version.version, "path": str(version.path)}


def _published_line(version: PublishedVersion) -> str:
    return f"published {version.name}@{version.version}: {version.path}"


def _figures(artifact: Artifact) -> dict[str, Any]:
    if isinstance(artifact, Scores):
        return artifact.scores()
    return {"stage": artifact.stage, "path": str(artifact.path), **artifact.numbers}


def _current(
    kind: type[A],
    out: Path,
    *,
    config: Any,
    inputs: Mapping[str, str],
    make: Callable[[Path], A],
    force: bool,
) -> A:
    """The artefact at `out`, made anew unless it was made from just these."""
    if not force:
        found = artifacts.up_to_date(kind, out, config=config, inputs=inputs)
        if found is not None:
            return found
    say(f"{kind.stage} …")
    start = time.monotonic()
    made = make(out)
    say(f"{kind.stage}: {time.monotonic() - start:.1f} s, {out}")
    return made


STAGES: dict[str, Callable[..., Artifact]] = {
    "load": load,
    "format": format_dataset,
    "train": train,
    "evaluate": scores,
    "validate": validate,
}
"""The stages that leave an artefact in the run folder, in order; `publish` follows them."""
