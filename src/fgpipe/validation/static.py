"""Every rule of the server, applied to a PEFT folder: no vLLM, no torch, no GPU, a fraction of a second.

The rules are those vLLM 0.32 enforces when it loads an adapter, and those it does not enforce although the answers are
then wrong: such adapters load with status 200 and answer as the base, as another model, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fgpipe import adapters_folder
from fgpipe.validation.contract import Contract
from fgpipe.validation.files import CONFIG_FILE, FILE_RULES, WEIGHTS_FILE, check_files, own_file, read_config
from fgpipe.validation.report import Finding, failed, passed, printable, warned
from fgpipe.validation.scaling import Settings
from fgpipe.validation.settings import SETTINGS_RULES, check_settings
from fgpipe.validation.tensors import TENSOR_RULES, check_tensors
from fgpipe.validation.weights import DamagedFileError, read_header

RULES_REVISION = 2
"""Raised when a rule changes, so that verdicts on disk are made anew."""

RULES = (*FILE_RULES, "name", "config_json", *SETTINGS_RULES, "weights_file", *TENSOR_RULES)
"""Names of all rules, in the order of the findings."""


def validate(folder: Path, contract: Contract, *, name: str | None = None) -> list[Finding]:
    """One finding for each of RULES, in that order, whatever `folder` is; nothing outside it is read.

    Args:
        name: what the adapter is to be called in the server; without it the folder's own name is only remarked upon.
    """
    found = {finding.rule: finding for finding in _check(folder, contract, name)}
    unreadable = Finding("", "skip", "not checked: an earlier rule failed")
    findings = [found.get(rule) or replace(unreadable, rule=rule) for rule in RULES]
    return [replace(each, message=printable(each.message), hint=printable(each.hint)) for each in findings]


def _check(folder: Path, contract: Contract, name: str | None) -> Iterator[Finding]:
    yield from check_files(folder)
    yield _name(folder, contract, name)
    config: Settings | None = None
    if own_file(folder, CONFIG_FILE):
        config, finding = read_config(folder / CONFIG_FILE)
        yield finding
    if config is not None:
        findings = list(check_settings(config, contract, folder=folder))
        yield from findings
        config = config if ("fields", "pass") in {(each.rule, each.status) for each in findings} else None
    if own_file(folder, WEIGHTS_FILE):
        yield from _check_weights(folder / WEIGHTS_FILE, config, contract)


def _check_weights(path: Path, config: Settings | None, contract: Contract) -> Iterator[Finding]:
    try:
        tensors = read_header(path)
        yield passed("weights_file", "complete safetensors file")
        yield from check_tensors(path, tensors, config, contract)
    except (DamagedFileError, OSError) as error:
        hint = "the file is cut off or is not safetensors: copy it again, or save the adapter again"
        yield failed("weights_file", f"{WEIGHTS_FILE}: {error}", hint)


def _name(folder: Path, contract: Contract, name: str | None) -> Finding:
    judged = name if name is not None else os.path.basename(os.path.abspath(folder))
    fault = adapters_folder.name_fault(judged, base_id=contract.base_id)
    if not fault:
        return passed("name", judged)
    if name is None:
        return warned("name", f"folder: {fault}", "serve it under another name: publish.name=…")
    return failed("name", fault, "publish.name=… sets it")
