"""`python -m fgpipe validate`: an adapter judged by the rules and, if asked, by what a server answers with it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fgpipe import pipeline
from fgpipe.config import Config
from fgpipe.errors import ValidationError

if TYPE_CHECKING:
    from fgpipe.validation import Finding
    from fgpipe.validation.parity import ParityReport


def validate_folder(folder: Path, config: Config, *, as_json: bool, live: bool = False) -> int:
    """Judge any PEFT folder against the server of `config`; the exit status is 0 when it may be served, else 2.

    Args:
        live: if no rule is broken, also let a vLLM of its own answer with it, and compare.

    Raises:
        ValidationError: there is no such folder; with `as_json` that is a verdict too.
    """
    from fgpipe import trial, validation

    findings = validation.validate(folder, validation.contract(config.model, config.server))
    if not as_json and not os.path.isdir(folder):
        raise ValidationError(f"validate: {findings[0].message}", hint=findings[0].hint)
    if any(finding.status == "fail" for finding in findings) or not live:
        return show_verdict(findings, None, as_json=as_json)
    count = config.publish.parity_prompts
    prompts = pipeline.held_out_prompts(config, pipeline.format_dataset(config)) if config.task.dataset.source else None
    report = trial.parity_on_own_server(config, folder, prompts or trial.general_prompts(count))
    return show_verdict(findings, report, as_json=as_json)


def validate_live(config: Config, *, as_json: bool) -> int:
    """Stage `validate`, then the run's adapter answered by a vLLM of its own; the exit status is 0 if it may be served.

    Raises:
        ValidationError: the adapter breaks a rule of the server.
    """
    from fgpipe import trial, validation

    verdict, adapter = pipeline.validate(config), pipeline.train(config)
    report = trial.parity_on_own_server(
        config, adapter.path, pipeline.held_out_prompts(config, pipeline.format_dataset(config))
    )
    return show_verdict(validation.read_findings(verdict), report, as_json=as_json)


def show_verdict(findings: Sequence[Finding], report: ParityReport | None, *, as_json: bool) -> int:
    """Print what was found, by the rules and live; the exit status is 0 when the adapter may be served, else 2."""
    from rich.console import Console

    from fgpipe import validation

    broken = any(finding.status == "fail" for finding in findings)
    failed = broken or (report is not None and not report.passed)
    if as_json:
        found = validation.findings_json(findings)
        found |= {"passed": not failed, "parity": report.as_json()} if report else {}
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        Console().print(validation.render_findings(findings))
        if report is not None:
            print(f"parity: {report.line}" + ("" if report.passed else f"\n  {report.explanation()}"))
    return 2 if failed else 0
