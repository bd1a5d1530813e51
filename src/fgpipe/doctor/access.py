"""Checks of who gets in: ports and keys, the licence of the base, and whether adapters fit the served base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fgpipe import appliance, keys, resources, store
from fgpipe.adapters_folder import ADAPTER_FILES
from fgpipe.config import MOST_REPLICAS, ModelConfig
from fgpipe.doctor.checks import Check
from fgpipe.errors import ModelError, ServeError
from fgpipe.models import base, hub_config
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
    checks = [port_check(name, variable, where, number) for name, variable, where, number in wanted]
    *servers, gateway = wanted
    if gateway[3] in [server[3] for server in servers]:
        checks.append(
            Check("ports", "fail", f"server and gateway both want {gateway[3]}", "FGPIPE_GATEWAY_PORT: another port")
        )
    return checks


def port_check(name: str, variable: str, host: str, number: str) -> Check:
    """Whether `number` is a port, free or answered by a server."""
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
    if has_gateway_key and not gateway_open:
        found = "client keys, and the gateway on the loopback: no other machine gets an answer"
        checks.append(Check("keys", "warn", found, "FGPIPE_GATEWAY_HOST=0.0.0.0, as it asks for keys"))
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
    """Whether the server's base can be had."""
    wanted = values.get("FGPIPE_MODEL") or str(resources.resolve(model.path).absolute() if model.path else model.id)
    revision = values.get("FGPIPE_MODEL_REVISION") or (model.revision if wanted == model.id else None)
    return [base_model(wanted, revision, values, variables="FGPIPE_MODEL", name="base model")]


def base_model(wanted: str, revision: str | None, values: Mapping[str, str], *, variables: str, name: str) -> Check:
    """Whether a base can be had: a folder here, the hub's cache, or the hub, which is asked for its config.json.

    Args:
        wanted: a hub id, or a folder as the container sees it.
        variables: what says which it is; with `_REVISION`, at which commit.
    """
    if folder := appliance.base_folder(wanted, values):
        try:
            return Check(name, "ok", f"{base.local_folder(ModelConfig(path=str(folder)))}: here")
        except ModelError as error:
            return Check(name, "fail", error.message, f"{variables}: a folder with config.json and safetensors")
    if any(_is_whole(snapshot) for snapshot in appliance.cached_snapshots(wanted, values)):
        return Check(name, "ok", f"{wanted}: in the hub's cache")
    token = values.get("HF_TOKEN")
    try:
        hub_config.read_config(wanted, revision, token=token)
    except hub_config.HubRefusalError as error:
        page = f"https://huggingface.co/{wanted}"
        login = f"HF_TOKEN: a token, after accepting {page}; or {variables}: a local folder"
        changes = {
            "token": "HF_TOKEN: a token that is valid, and may read gated models",
            "licence": f"HF_TOKEN: of an account that accepted {page}" if token else login,
            "model": f"{variables}: a model of the hub, or a local folder",
            "revision": f"{variables}_REVISION: a commit of {page}/commits",
        }
        if error.reason in changes:
            return Check(name, "fail", error.message, changes[error.reason])
        if token:
            return Check(name, "warn", f"{error.message}: whether its licence was accepted is not known")
        return Check(name, "fail", f"{error.message}, and no HF_TOKEN: a gated model cannot be fetched", login)
    return Check(name, "ok", f"{wanted}: the hub gives it" + (" to this token" if token else " to everybody"))


def _is_whole(snapshot: Path) -> bool:
    return (snapshot / "config.json").is_file() and any(snapshot.glob("*.safetensors"))


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
