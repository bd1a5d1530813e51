"""Rules on the folder and on `adapter_config.json` as a file; only regular files inside the folder are ever opened."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgpipe.validation.report import Finding, failed, judged, passed, quoted, warned

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
"""What vLLM reads if there is no safetensors file; a pickle can run code, so fgpipe never opens one."""

FILE_RULES = ("files", "pickle")
"""Names of the rules on the folder, in their order."""

LARGEST_CONFIG_BYTES = 1 << 20
DEEPEST_CONFIG = 50
"""Lists and objects inside each other; PEFT writes three."""


def own_file(folder: Path, name: str) -> bool:
    """Whether `name` in `folder` is a regular file that no link leads out of the folder for, and not empty."""
    return not _fault(folder, name)


def check_files(folder: Path) -> Iterator[Finding]:
    """One finding for each of FILE_RULES."""
    if not os.path.isdir(folder):
        got = "a file" if os.path.lexists(folder) else "nothing"
        message = f"{str(folder)[:300]}: got {got}, expected the folder of a PEFT adapter"
        yield failed("files", message, f"give the folder that holds {CONFIG_FILE}")
        return
    wrong = [fault for name in (CONFIG_FILE, WEIGHTS_FILE) if (fault := _fault(folder, name))]
    hint = "save the adapter again with PEFT's save_pretrained, or give its folder"
    if any("link" in fault for fault in wrong):
        hint = "copy the files themselves, as from a model hub's cache: cp -rL FOLDER COPY"
    message = f"{str(folder)[:300]}: {'; '.join(wrong)}"
    yield judged("files", [message] if wrong else [], f"{CONFIG_FILE} and {WEIGHTS_FILE}", hint)
    yield _pickle(folder)


def _fault(folder: Path, name: str) -> str:
    """What keeps the file from being read; empty if nothing does."""
    path = folder / name
    try:
        if not os.path.lexists(path):
            return f"{name} is missing"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            return f"{name} is a link that leads out of the folder"
        facts = os.stat(path)
    except OSError as error:
        return f"{name}: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode):
        return f"{name} is no regular file"
    return "" if facts.st_size else f"{name} is empty"


def _pickle(folder: Path) -> Finding:
    pickles = [name for name in PICKLES if os.path.lexists(folder / name)]
    if not pickles:
        return passed("pickle", "no pickled weights")
    if os.path.isfile(folder / WEIGHTS_FILE):
        message = f"got {', '.join(pickles)} beside {WEIGHTS_FILE}; not opened, and never published"
        return warned("pickle", message, "delete it")
    return failed(
        "pickle",
        f"got {', '.join(pickles)}, expected {WEIGHTS_FILE}: a pickle can run code, so it was not opened",
        "where you trust it, load it with PEFT and save it again: save_pretrained(folder, safe_serialization=True)",
    )


def read_config(path: Path) -> tuple[dict[str, Any] | None, Finding]:
    """The settings in `path`, if they can be read, and the finding of rule `config_json`."""
    hint = "the file is cut off or was edited by hand: copy it again, or save the adapter again"
    repeated: list[str] = []

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return value

    try:
        with open(path, "rb") as handle:
            text = handle.read(LARGEST_CONFIG_BYTES + 1)
        if len(text) > LARGEST_CONFIG_BYTES:
            raise ValueError(f"got more than {LARGEST_CONFIG_BYTES} bytes, expected at most that")
        value = json.loads(text.decode("utf-8"), object_pairs_hook=without_repeats)
        _require_shallow(value)
    except (OSError, ValueError, RecursionError) as error:
        return None, failed("config_json", f"{CONFIG_FILE}: {error}", hint)
    if not isinstance(value, dict):
        return None, failed("config_json", f"{CONFIG_FILE}: got {type(value).__name__}, expected a JSON object", hint)
    if repeated:
        # PEFT and vLLM both take the last, so it is served as it was trained.
        return value, warned("config_json", f"got {quoted(repeated)} twice; the last one counts", hint)
    return value, passed("config_json", "a JSON object")


def _require_shallow(value: object) -> None:
    """Raise ValueError if `value` is nested so deeply that showing it would fail."""
    level = [value]
    for _ in range(DEEPEST_CONFIG):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if not level:
            return
    raise ValueError(f"got lists or objects nested more than {DEEPEST_CONFIG} deep, expected a flat object")
