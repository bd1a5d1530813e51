"""Who may ask the gateway, and where it may listen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fgpipe import environment, fronting
from fgpipe.compose import compose
from fgpipe.errors import ServeError
from fgpipe.gateway import access
from fgpipe.gateway.access import KEYS_FILE_VARIABLE, KEYS_VARIABLE, Access, ClientKeys
from fgpipe.keys import ADMIN_KEY_VARIABLE, CLIENT_KEY_VARIABLE

STRANGER = ("192.0.2.7", 50000)
VARIABLES = (KEYS_VARIABLE, KEYS_FILE_VARIABLE, CLIENT_KEY_VARIABLE, ADMIN_KEY_VARIABLE)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_each_key_opens_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client would be locked out, or one that was never given a key let in."""
    file = tmp_path / "keys"
    file.write_text("third\n\nfourth \n")
    monkeypatch.setenv(KEYS_VARIABLE, "first, second,")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(file))
    keys = access.client_keys()
    assert all(keys.open_for(key) for key in ("first", "second", "third", "fourth"))
    for wrong in (None, "", " ", "first, second,", "firs", "first ", "FIRST", "third\n", "\udcff"):
        assert not keys.open_for(wrong)


@pytest.mark.parametrize("value", [",", " ", ", ,"])
def test_empty_keys_are_a_mistake_and_no_open_door(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was lost on its way into the container would leave the gateway open to all."""
    monkeypatch.setenv(KEYS_VARIABLE, value)
    with pytest.raises(ServeError, match="expected one at least"):
        access.client_keys()
    monkeypatch.delenv(KEYS_VARIABLE)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, "/no/such/file")
    with pytest.raises(ServeError, match="No such file"):
        access.client_keys()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.example", ""])
def test_without_keys_it_listens_on_the_loopback_only(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone of the network could ask the models."""
    with pytest.raises(ServeError, match="expected keys off the loopback"):
        access.require_keys(host, ClientKeys([]))
    access.require_keys(host, ClientKeys(["key"]))
    access.require_keys("127.0.0.1", ClientKeys([]))


def test_clients_must_not_hold_the_servers_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client could go around the gateway, or publish."""
    for variable in (CLIENT_KEY_VARIABLE, ADMIN_KEY_VARIABLE):
        monkeypatch.setenv(variable, "shared")
        with pytest.raises(ServeError, match="clients' own"):
            access.require_keys("127.0.0.1", ClientKeys(["other", "shared"]))
        monkeypatch.delenv(variable)


def scope(
    path: str,
    *,
    key: str | None = None,
    host: str = "127.0.0.1:8080",
    scheme: str = "Bearer",
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
) -> dict[str, Any]:
    headers = [(b"host", host.encode())]
    if key is not None:
        headers.append((b"authorization", f"{scheme} {key}".encode()))
    return {"type": "http", "path": path, "method": "GET", "headers": headers, "client": client}


def test_only_open_paths_answer_without_a_key() -> None:
    """Answers, names or figures would be readable by anyone."""
    guard = Access(lambda *_: None, keys=ClientKeys(["key"]))  # type: ignore[arg-type,return-value]
    for path in ("/", "/health", "/ready"):
        assert guard.judge(scope(path, client=STRANGER, host="fgpipe:8080")) is None
    for path in (
        "/v1/models",
        "/api/adapters",
        "/api/generate",
        "/openapi.json",
        "/health/",
        "//",
        "/metrics/../v1/models",
        "/metrics/",
        "//metrics",
    ):
        refused = guard.judge(scope(path))
        assert refused is not None
        assert refused.status == 401
        assert guard.judge(scope(path, key="key")) is None
        assert guard.judge(scope(path, key="key", scheme="Basic")) is not None
        assert guard.judge(scope(path, key="wrong")) is not None


def test_figures_are_open_to_this_machines_prometheus_and_to_no_other_stranger() -> None:
    """Names of adapters, versions and traffic would be there for the whole network; or every alert would go silent."""
    guard = Access(lambda *_: None, keys=ClientKeys(["key"]))  # type: ignore[arg-type,return-value]
    for client in (("127.0.0.1", 1), ("127.8.8.8", 1), ("::1", 1)):
        assert guard.judge(scope("/metrics", client=client)) is None
    for peer in (STRANGER, ("100.64.0.7", 1), ("fe80::1", 1), ("", 0), ("localhost.evil.example", 1), None):
        refused = guard.judge(scope("/metrics", client=peer))
        assert refused is not None, peer
        assert refused.status == 401
        assert guard.judge(scope("/metrics", client=peer, key="key")) is None
    # A page in this machine's browser, whose name was made to mean 127.0.0.1; a proxy here that others ask.
    assert guard.judge(scope("/metrics", host="evil.example:8080")) is not None
    assert guard.judge(scope("/metrics", host="fgpipe:8080")) is not None


def test_a_forwarding_header_makes_nobody_local() -> None:
    """A stranger would write that it is 127.0.0.1."""
    guard = Access(lambda *_: None, keys=ClientKeys(["key"]))  # type: ignore[arg-type,return-value]
    asked = scope("/metrics", client=STRANGER)
    asked["headers"] += [(b"x-forwarded-for", b"127.0.0.1"), (b"forwarded", b"for=127.0.0.1")]
    assert guard.judge(asked) is not None


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "localhost:1", "[::1]:8080", "LOCALHOST:8080"])
def test_without_keys_this_machine_may_ask(host: str) -> None:
    """Trying it out on one's own machine would need keys."""
    guard = Access(lambda *_: None, keys=ClientKeys([]))  # type: ignore[arg-type,return-value]
    assert guard.judge(scope("/v1/models", host=host)) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1].evil:80"])
def test_without_keys_another_sites_page_may_not(host: str) -> None:
    """A web page whose name was made to mean 127.0.0.1 could ask the models and read what they say."""
    guard = Access(lambda *_: None, keys=ClientKeys([]))  # type: ignore[arg-type,return-value]
    refused = guard.judge(scope("/v1/models", host=host))
    assert refused is not None
    assert refused.status == 403


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run(
        [sys.executable, "-m", "fgpipe", "gateway", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_the_command_refuses_in_two_lines() -> None:
    """Whoever starts it wrongly would see a traceback, or a gateway that is open to all."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, said in (
            (("gateway.host=0.0.0.0",), "expected keys off the loopback"),
            ((f"gateway.port={port}",), "expected a free address"),
            (("gateway.upstreams=[nowhere]",), "expected http://host:port"),
            (("gateway.spill_in_flight=9", "gateway.max_in_flight=8"), "expected at most max_in_flight (8)"),
        ):
            done = command(*words)
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            assert said in done.stderr
            assert "Traceback" not in done.stderr
            assert "hint:" in done.stderr


def test_a_container_says_the_settings_in_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting given in .env would be ignored."""
    monkeypatch.setenv("FGPIPE_GATEWAY_UPSTREAMS", "http://one:8000,http://two:8000")
    monkeypatch.setenv("FGPIPE_GATEWAY_MAX_WAIT_S", "2.5")
    monkeypatch.setenv("FGPIPE_GATEWAY_KEYS", "key")
    monkeypatch.setenv("FGPIPE_ADAPTERS", str(tmp_path))
    config = compose(list(environment.overrides(os.environ).values()))
    assert config.gateway.upstreams == ("http://one:8000", "http://two:8000")
    assert config.gateway.max_wait_s == 2.5
    assert config.paths.adapters == str(tmp_path)
    assert isinstance(fronting.application(), Access)


def test_the_gateway_needs_neither_torch_nor_vllm() -> None:
    """Its container would be gigabytes larger, and fail to start in one without them."""
    code = (
        "import sys\n"
        "heavy = ('torch', 'transformers', 'peft', 'trl', 'datasets', 'vllm', 'pyarrow', 'numpy', 'openai')\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"
        "from fgpipe import fronting\n"
        "fronting.application()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
