"""A server with keys, as it stands off the loopback; and one that was away while versions changed."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import tiny_random
from fgpipe import resources
from fgpipe.config import ServerConfig
from fgpipe.keys import ADMIN_KEY_VARIABLE, CLIENT_KEY_VARIABLE
from fgpipe.serving import VllmServer, live
from fgpipe.serving import sync as servers
from tiny_server import SHAPE, Served, free_port

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

KEYS = {CLIENT_KEY_VARIABLE: "key-of-the-clients", ADMIN_KEY_VARIABLE: "key-of-the-administration"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on every address of this machine, with both keys in its environment and in ours."""
    folder = tmp_path_factory.mktemp("guarded")
    template = (resources.PACKAGE / "functiongemma" / "template.jinja").read_text()
    model = tiny_random.save(folder / "base", shape=SHAPE, chat_template=template)
    config = ServerConfig(host="0.0.0.0", port=free_port(), max_model_len_tokens=512, max_num_seqs=8, max_loras=2)
    config = config.model_copy(update={"max_cpu_loras": 2})
    server = VllmServer(model, config, adapters=folder / "adapters", log=folder / "vllm.log")
    served = Served(server, model, folder / "adapters", folder / "workshop")
    served.publish("red", 1)
    with pytest.MonkeyPatch.context() as patch:
        for name, key in KEYS.items():
            patch.setenv(name, key)
        with server:
            yield served


def status(served: Served, path: str, *, key: str | None, body: Any = None, scheme: str = "Bearer") -> int:
    """HTTP status of a request that shows `key`."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"{scheme} {key}"} if key is not None else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{served.server.base_url}{path}", headers=headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


ASK = {"model": "red", "prompt": [2], "max_tokens": 1}
REFRESH = {"name": "red"}
CLIENT, ADMIN = KEYS[CLIENT_KEY_VARIABLE], KEYS[ADMIN_KEY_VARIABLE]


@pytest.mark.parametrize(
    ("path", "body", "allowed"),
    [
        ("/v1/completions", ASK, {CLIENT}),
        ("/v1/models", None, {CLIENT}),
        ("/tokenize", {"model": "red", "prompt": "x"}, {CLIENT}),
        ("/invocations", ASK, {CLIENT}),
        ("/fgpipe/refresh", REFRESH, {ADMIN}),
        ("/fgpipe/status", None, {ADMIN}),
        ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/tmp"}, set()),
        ("/adapters", {"name": "x", "src": "/tmp"}, set()),
        ("/health", None, {CLIENT, ADMIN, None, "wrong", ""}),
        ("/metrics", None, {CLIENT, ADMIN, None, "wrong", ""}),
    ],
)
def test_each_path_opens_for_its_own_key_only(guarded: Served, path: str, body: Any, allowed: set[str | None]) -> None:
    """A client could administer the server, or anyone of the network ask it."""
    for key in (CLIENT, ADMIN, None, "wrong", "", CLIENT[:-1], f"{CLIENT}x"):
        passed = status(guarded, path, key=key, body=body) == 200
        assert passed is (key in allowed or (path in ("/health", "/metrics"))), (path, key)
    assert status(guarded, path, key=CLIENT, body=body, scheme="Basic") != 200 or path in ("/health", "/metrics")


def test_our_own_commands_show_the_right_keys(guarded: Served) -> None:
    """Publish and sync would be refused by the server they are for."""
    guarded.publish("red", 2)
    assert live.refresh(guarded.server.base_url, "red", expect="v0002") == "v0002"
    assert servers.sync([guarded.server.base_url], guarded.adapters)[0].state == "in step"


def test_keys_are_nowhere_in_the_log(guarded: Served) -> None:
    """Whoever reads the log could ask and administer the server."""
    log = guarded.server.log.read_text(errors="replace")
    assert "Application startup complete" in log
    for key in KEYS.values():
        assert key not in log
        assert key not in " ".join(guarded.server.command)


def test_evictions_are_shown(guarded: Served) -> None:
    """Nobody could tell why some requests wait for the disk: more adapters are in use than fit in memory."""
    for seed in (3, 4):
        name = f"extra{seed}"
        guarded.publish(name, seed)
        live.answering(guarded.server.base_url, name)
    now = live.status(guarded.server.base_url)
    assert now is not None
    assert set(now.memory) == {"extra3@v0001", "extra4@v0001"}
    assert "red@v0002" in now.evicted
    assert "evicted" in now.memory_line()
    assert len(now.slots) <= now.max_loras == 2
    assert live.answering(guarded.server.base_url, "red") == "v0002", "an evicted adapter is read again"


def test_a_server_that_was_away_starts_with_what_is_live_now(guarded: Served) -> None:
    """A box that was off during a publish would answer by the old version until somebody noticed."""
    url = guarded.server.base_url
    guarded.server.stop()
    assert servers.sync([url], guarded.adapters)[0].state == "not running"
    guarded.publish("red", 5)
    guarded.server.start()
    guarded.server.wait_ready()
    assert live.answering(url, "red") == "v0003"


@pytest.mark.parametrize("missing", [(CLIENT_KEY_VARIABLE,), (ADMIN_KEY_VARIABLE,), tuple(KEYS), ()])
def test_without_keys_of_their_own_nothing_listens_off_the_loopback(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on the network would take orders from anyone."""
    import asyncio
    from types import SimpleNamespace

    from fgpipe.vllm_plugin.endpoint import AdminEndpoint

    monkeypatch.setenv("FGPIPE_ADAPTERS", "somewhere")
    for name in KEYS:
        monkeypatch.delenv(name, raising=False) if name in missing else monkeypatch.setenv(name, "same-for-both")
    for host in (None, "0.0.0.0", "192.0.2.1", "box.example"):
        with pytest.raises(RuntimeError, match="expected"):
            asyncio.run(AdminEndpoint().init_state(None, SimpleNamespace(), SimpleNamespace(host=host)))
    monkeypatch.delenv("FGPIPE_ADAPTERS", raising=False)
    for host in ("127.0.0.1", "::1", "localhost"):
        asyncio.run(AdminEndpoint().init_state(None, SimpleNamespace(), SimpleNamespace(host=host)))
