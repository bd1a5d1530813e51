"""Every rule of the server, applied to a PEFT folder: no vLLM, no torch, no GPU, a fraction of a second.

The rules are those vLLM 0.32 enforces when it loads an adapter, and those it does not enforce although the answers are
then wrong: such adapters load with status 200 and answer as the base, as another model, or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgpipe.validation.contract import Contract
from fgpipe.validation.report import Finding
from fgpipe.validation.settings import SETTINGS_RULES, check_settings
from fgpipe.validation.tensors import DAMAGED, TENSOR_RULES, check_tensors
from fgpipe.validation.weights import DamagedFileErrorError, read_header

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
"""What vLLM reads if there is no safetensors file; a pickle can run code, so fgpipe never opens one."""

RULES_REVISION = 1
"""Raised when a rule changes, so that verdicts on disk are made anew."""

RULES = ("files", "pickle", "config_json", *SETTINGS_RULES, "weights_file", *TENSOR_RULES)
"""Names of all rules, in the order of the findings."""

LARGEST_CONFIG_BYTES = 1 << 20


def validate(folder: Path, contract: Contract) -> list[Finding]:
    """One finding for each of RULES, in that order, whatever `folder` holds; nothing outside it is read."""
    found = {finding.rule: finding for finding in _check(folder, contract)}
    unreadable = "not checked: an earlier rule failed"
    return [found.get(rule) or Finding(rule, "skip", unreadable) for rule in RULES]


def _check(folder: Path, contract: Contract) -> list[Finding]:
    findings = [_files(folder), _pickle(folder)]
    config: dict[str, Any] | None = None
    if (folder / CONFIG_FILE).is_file():
        config, finding = _config_json(folder / CONFIG_FILE)
        findings.append(finding)
    if config is not None:
        findings += check_settings(config, contract)
        sound = any(finding.rule == "fields" and finding.status == "pass" for finding in findings)
        config = config if sound else None
    if (folder / WEIGHTS_FILE).is_file():
        try:
            tensors = read_header(folder / WEIGHTS_FILE)
        except DamagedFileErrorError as error:
            hint = "the file is cut off or is not safetensors: copy it again, or save the adapter again"
            findings.append(Finding("weights_file", "fail", f"{WEIGHTS_FILE}: {error}", hint))
        else:
            findings.append(Finding("weights_file", "pass", "complete safetensors file"))
            findings += check_tensors(folder / WEIGHTS_FILE, tensors, config, contract)
    return findings


def _files(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("files", "fail", f"got no folder {folder}, expected a PEFT adapter", "give its folder")
    wrong = []
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size == 0:
            wrong.append(f"{name} is empty")
    if wrong:
        return Finding("files", "fail", f"{folder}: {'; '.join(wrong)}", DAMAGED)
    return Finding("files", "pass", f"{CONFIG_FILE} and {WEIGHTS_FILE}")


def _pickle(folder: Path) -> Finding:
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if not pickles:
        return Finding("pickle", "pass", "no pickled weights")
    if (folder / WEIGHTS_FILE).is_file():
        message = f"got {', '.join(pickles)} beside {WEIGHTS_FILE}; not opened, and never published"
        return Finding("pickle", "warn", message, "delete it")
    return Finding(
        "pickle",
        "fail",
        f"got {', '.join(pickles)}, expected {WEIGHTS_FILE}: a pickle can run code, so it was not opened",
        "where you trust it, load it with PEFT and save it again: save_pretrained(folder, safe_serialization=True)",
    )


def _config_json(path: Path) -> tuple[dict[str, Any] | None, Finding]:
    hint = "the file is cut off or was edited by hand: copy it again, or save the adapter again"
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ValueError(f"got {path.stat().st_size} bytes, expected at most {LARGEST_CONFIG_BYTES}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return None, Finding("config_json", "fail", f"{CONFIG_FILE}: {error}", hint)
    if not isinstance(value, dict):
        return None, Finding(
            "config_json", "fail", f"{CONFIG_FILE}: got {type(value).__name__}, expected a JSON object", hint
        )
    return value, Finding("config_json", "pass", "a JSON object")
