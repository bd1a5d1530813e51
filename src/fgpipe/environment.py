"""Settings as environment variables: for containers, and for anyone who prefers `export` to `key=value`.

Every setting of a server and a gateway has a variable; `serve/entrypoint.sh` reads the same names. Keys and tokens are
variables too, but never settings. What is set in the environment comes after the files and before the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe.config import Config, keys

SECTIONS = {"server": "FGPIPE_", "gateway": "FGPIPE_GATEWAY_"}
"""Sections of the configuration whose every setting is a variable, and what their names begin with."""

SINGLE = {
    "model.id": "FGPIPE_MODEL_ID",
    "model.revision": "FGPIPE_MODEL_REVISION",
    "model.dtype": "FGPIPE_DTYPE",
    "publish.servers": "FGPIPE_SERVERS",
    "paths.adapters": "FGPIPE_ADAPTERS",
}
"""Settings of other sections that a container needs."""

MODEL_VARIABLE = "FGPIPE_MODEL"
"""Folder or hub id of the base: `model.path` or `model.id`, whichever it looks like."""

NOT_SET_HERE = ("server.vllm_version",)
"""What the image decides."""


@dataclass(frozen=True)
class Variable:
    """One setting as a variable."""

    name: str
    key: str
    """Dotted key of the setting."""
    default: str
    """As written in a .env file; empty for none."""
    description: str
    is_list: bool = False


def variables(config: Config) -> list[Variable]:
    """Every setting that a variable can set, with the value it has in `config`."""
    descriptions = {key: text for key, _, text in keys(Config)}
    tree = config.model_dump(mode="json")
    found = [Variable(MODEL_VARIABLE, "model", config.model.path or config.model.id, "folder or hub id of the base")]
    for key, value in _settings(tree):
        name = _name(key)
        if name is not None:
            found.append(Variable(name, key, _written(value), descriptions.get(key, ""), isinstance(value, list)))
    return found


def overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> the `key=value` word it stands for, of those in `environment` that are not empty."""
    return {
        variable.name: _word(variable, value)
        for variable in variables(Config())
        if (value := environment.get(variable.name, "").strip()) not in ("", "null")
    }


def tree(environment: Mapping[str, str], config: Config | None = None) -> dict[str, Any]:
    """The defaults with what `environment` changes of them, as `compose.validate` takes them: where there is no Hydra.

    No file is read: conf/ travels with fgpipe, and containers are told by variables what differs from the schema.
    Rules about training are out of it: what only serves may be smaller than the defaults of what is trained.

    Args:
        config: stands in for the defaults.
    """
    found: dict[str, Any] = (config or Config()).model_dump(mode="json")
    found["lora"]["r"], found["train"]["max_length_tokens"] = 1, 16
    for variable in variables(Config()):
        value = environment.get(variable.name, "").strip()
        if value in ("", "null"):
            continue
        key = _model_key(value) if variable.name == MODEL_VARIABLE else variable.key
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        section, _, setting = key.partition(".")
        found[section][setting] = entries if variable.is_list else value
    return found


def _settings(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _name(key: str) -> str | None:
    section, _, setting = key.partition(".")
    if key in SINGLE:
        return SINGLE[key]
    if key in NOT_SET_HERE or section not in SECTIONS:
        return None
    return SECTIONS[section] + setting.replace(".", "_").upper()


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_written(entry) for entry in value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _word(variable: Variable, value: str) -> str:
    if variable.name == MODEL_VARIABLE:
        return f"{_model_key(value)}={_quoted(value)}"
    if variable.is_list:
        entries = (_quoted(entry.strip()) for entry in value.split(",") if entry.strip())
        return f"{variable.key}=[{','.join(entries)}]"
    return f"{variable.key}={_quoted(value)}"


def _model_key(value: str) -> str:
    is_folder = value.startswith((".", "/", "~")) or Path(value).is_dir()
    return "model.path" if is_folder else "model.id"


def _quoted(value: str) -> str:
    """`value` as Hydra's grammar quotes it: backslashes mean themselves, except in front of a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"
