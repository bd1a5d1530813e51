"""What `serve/.env` says, read as docker compose reads it, and where this machine has what the containers see."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fgpipe.errors import ConfigError

LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")

DESKTOP_DRIVES = "/run/desktop/mnt/host"
"""Where Docker Desktop's engine has the drives of Windows; `/mnt/d` in WSL2 is `/run/desktop/mnt/host/d` there."""

SEVERAL_MODELS = "compose.multimodel.yaml"
"""The stack of several full models; it runs if COMPOSE_FILE names it."""


def settings(env_file: Path | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables as docker compose sees them: those of the file, and over them those of the environment.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no NAME=value; the line is not shown, only its number.
    """
    given = {name: value for name, value in (environment or os.environ).items() if value}
    return {**(read_env(env_file) if env_file is not None else {}), **given}


def read_env(path: Path) -> dict[str, str]:
    """The variables in an `.env` file: comments and quotes are taken off; of two lines the later one counts.

    Raises:
        ConfigError: as `settings`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "got no UTF-8 text"
        raise ConfigError(f"{path}: {reason}", hint="copy serve/.env.example to serve/.env") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        matched = LINE.fullmatch(text)
        if matched is None:
            raise ConfigError(f"{path}:{number}: got a line that is no NAME=value", hint="begin comments with #")
        found[matched[1]] = _plain(matched[2])
    return found


def _plain(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"') and len(value) > 1 and value[-1] == value[0]:
        return value[1:-1]
    return re.split(r"\s+#", value)[0].strip()


def here(path: Path) -> Path:
    """Where this machine has what Docker Desktop's engine calls `path`: WSL2 mounts the drives elsewhere."""
    if path.is_relative_to(DESKTOP_DRIVES) and not path.exists():
        return Path("/mnt") / path.relative_to(DESKTOP_DRIVES)
    return path


def base_folder(text: str, values: Mapping[str, str]) -> Path | None:
    """Where this machine has the base `text`; None if it is a hub id. The container's /models is FGPIPE_MODELS_DIR."""
    if text.startswith("/models/"):
        return here(Path(values.get("FGPIPE_MODELS_DIR") or "/models").expanduser()) / text.removeprefix("/models/")
    return Path(text).expanduser() if text.startswith(("/", "~", ".")) else None


def cached_snapshots(hub_id: str, values: Mapping[str, str]) -> list[Path]:
    """Folders of the hub's cache that hold a commit of the model `hub_id`, named by it."""
    root = here(Path(values.get("HF_CACHE_DIR") or values.get("HF_HOME") or "~/.cache/huggingface").expanduser())
    return sorted((root / "hub" / f"models--{hub_id.replace('/', '--')}" / "snapshots").glob("*"))


def has_several_models(values: Mapping[str, str]) -> bool:
    """Whether the stack is that of several full models instead of the adapters' server."""
    return SEVERAL_MODELS in compose_files(values)


def compose_files(values: Mapping[str, str]) -> list[str]:
    """The names in COMPOSE_FILE."""
    names = (values.get("COMPOSE_FILE") or "compose.yaml").split(values.get("COMPOSE_PATH_SEPARATOR") or ":")
    return [name.rpartition("/")[2] for name in names]
