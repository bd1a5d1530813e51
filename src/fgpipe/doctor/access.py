"""Checks of who gets in: ports and keys, the licence of the base, and whether adapters fit the served base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fgpipe import keys, store
from fgpipe.adapters_folder import ADAPTER_FILES
from fgpipe.config import MOST_REPLICAS, ModelConfig
from fgpipe.doctor.checks import Check
from fgpipe.errors import ModelError, ServeError
from fgpipe.models import base
from fgpipe.publishing import listing
from fgpipe.serving import api
from fgpipe.serving.process import require_free_port

SHORTEST_KEY = 16
"""Characters below which a key is worth a warning."""

GATEWAY_KEYS = "FGPIPE_GATEWAY_KEYS"


def ports(values: Mapping[str, str], *, host: str, port: int, replicas: int | str) -> list[Check]:
    """Whether server, its replicas and gateway can listen where they are told to."""
    wanted = [
        ("server", "FGPIPE_PORT", values.get("FGPIPE_HOST", host), values.get("FGPIPE_PORT", str(port))),
        (
            "gateway",
            "FGPIPE_GATEWAY_PORT",
            values.get("FGPIPE_GATEWAY_HOST", "127.0.0.1"),
            values.get("FGPIPE_GATEWAY_PORT", "8080"),
        ),
    ]
    count = values.get("FGPIPE_REPLICAS", str(replicas))
    if wanted[0][3].isdigit() and count.isdigit():  # of auto only the first is known
        first = int(wanted[0][3])
        further = range(first + 1, first + min(int(count), MOST_REPLICAS))
        wanted[1:1] = [("replica", "FGPIPE_PORT", wanted[0][2], str(number)) for number in further]
    checks = [_port(name, variable, where, number) for name, variable, where, number in wanted]
    *servers, gateway = wanted
    if gateway[3] in [server[3] for server in servers]:
        checks.append(
            Check("ports", "fail", f"server and gateway both want {gateway[3]}", "FGPIPE_GATEWAY_PORT: another port")
        )
    return checks


def _port(name: str, variable: str, host: str, number: str) -> Check:
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535):
        return Check(f"{name} port", "fail", f"got {number!r:.20}, expected 1 to 65535", f"{variable}: a port")
    try:
        require_free_port(host, int(number))
    except ServeError as error:
        if _answers(int(number)):
            return Check(f"{name} port", "ok", f"{host}:{number}: a server is running there")
        return Check(f"{name} port", "fail", error.message, f"{variable}: another port")
    return Check(f"{name} port", "ok", f"{host}:{number} is free")


def _answers(port: int) -> bool:
    try:
        api.fetch(f"http://127.0.0.1:{port}/health", timeout_s=3)
    except (OSError, ServeError, ValueError):
        return False
    return True


def key_checks(values: Mapping[str, str], *, host: str) -> list[Check]:
    """Whether every key that is needed is there, and no two are the same."""
    given = {name: values.get(name, "") for name in (keys.CLIENT_KEY_VARIABLE, keys.ADMIN_KEY_VARIABLE)}
    given |= {
        f"{GATEWAY_KEYS}[{place}]": key.strip() for place, key in enumerate(values.get(GATEWAY_KEYS, "").split(","))
    }
    given = {name: key for name, key in given.items() if key}
    checks = []
    server_open = not keys.is_loopback(values.get("FGPIPE_HOST", host))
    gateway_open = not keys.is_loopback(values.get("FGPIPE_GATEWAY_HOST", "127.0.0.1"))
    for name in (keys.CLIENT_KEY_VARIABLE, keys.ADMIN_KEY_VARIABLE) if server_open else ():
        if name not in given:
            checks.append(
                Check("keys", "fail", f"no {name}, expected it off the loopback", f"{name}: openssl rand -hex 24")
            )
    has_gateway_key = any(name.startswith(GATEWAY_KEYS) for name in given) or values.get(f"{GATEWAY_KEYS}_FILE")
    if values.get("TS_HOSTNAME") and not gateway_open and not has_gateway_key:
        found = f"no {GATEWAY_KEYS}: the gateway stays on the loopback, where the private network cannot reach it"
        checks.append(Check("keys", "warn", found, f"{GATEWAY_KEYS}: openssl rand -hex 24"))
    if gateway_open and not has_gateway_key:
        found = f"no {GATEWAY_KEYS}, expected one off the loopback"
        checks.append(Check("keys", "fail", found, f"{GATEWAY_KEYS}: openssl rand -hex 24"))
    checks += _same(given)
    checks += [
        Check(
            "keys",
            "warn",
            f"{name} has {len(key)} characters, expected {SHORTEST_KEY}",
            f"{name}: openssl rand -hex 24",
        )
        for name, key in given.items()
        if len(key) < SHORTEST_KEY
    ]
    where = (
        "every one that is needed off the loopback" if server_open or gateway_open else "none needed on the loopback"
    )
    return checks or [Check("keys", "ok", f"{len(given)} set, all different; {where}")]


def _same(given: Mapping[str, str]) -> list[Check]:
    names = list(given)
    return [
        Check("keys", "fail", f"{first} and {second} are the same", f"{second}: a key of its own")
        for place, first in enumerate(names)
        for second in names[place + 1 :]
        if given[first] == given[second]
    ]


def licence(model: ModelConfig, values: Mapping[str, str]) -> list[Check]:
    """Whether the base can be had: a folder here, or a token for the hub."""
    wanted = values.get("FGPIPE_MODEL", "")
    if wanted.startswith("/models/"):  # as the container sees FGPIPE_MODELS_DIR
        wanted = str(Path(values.get("FGPIPE_MODELS_DIR", "/models")) / wanted.removeprefix("/models/"))
    path = wanted if wanted.startswith(("/", "~", ".")) else model.path
    if path:
        try:
            folder = base.local_folder(model.model_copy(update={"path": path}))
        except ModelError as error:
            return [
                Check("base model", "fail", error.message, "FGPIPE_MODEL: a folder with config.json and safetensors")
            ]
        return [Check("base model", "ok", f"{folder}: here")]
    hub = wanted or model.id
    if _in_cache(hub, values):
        return [Check("base model", "ok", f"{hub}: in the hub's cache")]
    if values.get("HF_TOKEN"):
        return [Check("base model", "ok", f"{hub}: HF_TOKEN is set; its licence must be accepted on the model's page")]
    found = f"{hub}: no HF_TOKEN and no folder; a gated model cannot be fetched"
    change = f"HF_TOKEN: a token, after accepting https://huggingface.co/{hub}; or FGPIPE_MODEL: a local folder"
    return [Check("base model", "fail", found, change)]


def _in_cache(hub: str, values: Mapping[str, str]) -> bool:
    """Whether a snapshot of the model lies in the hub's cache."""
    root = values.get("HF_CACHE_DIR") or values.get("HF_HOME") or "~/.cache/huggingface"
    snapshots = Path(root).expanduser() / "hub" / f"models--{hub.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/config.json")) and any(snapshots.glob("*/*.safetensors"))


def adapters(folder: Path, *, served: str) -> list[Check]:
    """Whether what is published can be read, and was trained on the base that is served."""
    if not folder.is_dir():
        return [Check("adapters", "ok", f"no {folder} yet: the server starts with the base alone")]
    entries = listing.versions(folder)
    checks = [
        Check(
            "adapters",
            "fail",
            f"{entry.name}@{entry.version}: {entry.problem}",
            "FGPIPE_ADAPTERS_DIR, or publish it anew",
        )
        for entry in entries
        if entry.problem
    ]
    for entry in entries:
        found = _base_of(folder / entry.name / entry.version) if not entry.problem else served
        if entry.live and found != served:
            line = f"{entry.name}@{entry.version} was trained on {found!r}, the server serves {served!r}"
            checks.append(Check("adapters", "fail", line, f"FGPIPE_MODEL_ID={found}, or publish it anew"))
    live = sum(entry.live for entry in entries)
    return checks or [Check("adapters", "ok", f"{live} live, {len(entries)} versions, all on {served}")]


def _base_of(version: Path) -> str:
    try:
        return str(store.read_json(version / ADAPTER_FILES[0]).get("base_model_name_or_path"))
    except (OSError, ValueError, AttributeError):
        return "an unreadable adapter_config.json"
