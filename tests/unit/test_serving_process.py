"""Starting, watching and ending a child, with small scripts in vLLM's place; the real one is in tests/server."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tiny_random
from fgpipe.config import Config, ModelConfig, ServerConfig
from fgpipe.errors import ModelError, ServeError
from fgpipe.serving import VllmServer, api, faults, foreground, live, process, sync
from tiny_server import free_port, gone

VLLM_TRACEBACK = """\
(EngineCore pid=7) ERROR 11-21 01:30:00 [core.py:1101] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-21 01:30:00 [core.py:1101] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-21 01:30:00 [core.py:1101]   File "worker.py", line 3, in load
(EngineCore pid=7) ERROR 11-21 01:30:00 [core.py:1101] ValueError: the real reason
(APIServer pid=6) Traceback (most recent call last):
(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.
"""

# Answers like vLLM, and keeps a grandchild, which as an engine would ignores a polite end.
STAND_IN = """
import http.server, json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print("grandchild", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        listed = {"data": [{"id": "base", "root": "/base", "parent": None},
                           {"id": "sql", "root": "/adapters/sql/v0002", "parent": "base"}]}
        status = {"base": "base", "dtype": "float32", "answers": {"sql": "sql@v0002"}, "contents": {},
                  "max_loras": 8, "max_cpu_loras": 32, "more": "from a later version",
                  "slots": [], "memory": ["sql@v0002"], "evicted": []}
        body = json.dumps(status if self.path == "/fgpipe/status" else listed).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("model"))


def server(model: ModelConfig, folder: Path, script: str, **settings: object) -> VllmServer:
    """A VllmServer that runs `script` instead of vLLM."""
    config = ServerConfig.model_validate({"port": free_port(), **settings})
    made = VllmServer(model, config, adapters=folder / "adapters", log=folder / "log", build="cpu")
    made.command = [sys.executable, "-c", script, str(config.port)]
    return made


def grandchild(log: Path) -> int:
    return int(log.read_text().split("grandchild")[1].split()[0])


def test_leaving_the_block_ends_the_server_and_what_it_started(model: ModelConfig, tmp_path: Path) -> None:
    """An engine left behind would hold the memory of the GPU until someone finds it."""
    with server(model, tmp_path, STAND_IN) as running:
        assert [entry["id"] for entry in api.models(running.base_url)] == ["base", "sql"]
        assert live.status(running.base_url).loaded() == {"sql@v0002"}  # type: ignore[union-attr]
        process.require_free_port("127.0.0.1", free_port())
        with pytest.raises(ServeError, match="expected a free address"):
            process.require_free_port("127.0.0.1", running.server.port)
        engine = grandchild(running.log)
        assert not gone(engine)
    assert gone(engine)
    process.require_free_port("127.0.0.1", running.server.port)


def test_training_before_does_not_silence_the_servers_log(
    model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `run` has trained, vLLM would say nothing of its start, and nothing of adapters it cannot load."""
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    import trl.trainer.sft_trainer  # noqa: F401

    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # as its first import does
    script = "import os; print('level', os.environ.get('VLLM_LOGGING_LEVEL'))"
    with pytest.raises(ServeError, match="level None"):
        server(model, tmp_path, script).__enter__()


def test_a_failing_start_names_the_root_cause_at_once(model: ModelConfig, tmp_path: Path) -> None:
    """The user would wait for a time-out, then search three stacked tracebacks."""
    script = f"import sys; print({VLLM_TRACEBACK!r}); sys.exit(1)"
    with pytest.raises(ServeError, match="exit code 1: ValueError: the real reason") as caught:
        server(model, tmp_path, script).__enter__()
    assert str(tmp_path / "log") in caught.value.hint


def test_a_start_that_takes_too_long_is_ended(model: ModelConfig, tmp_path: Path) -> None:
    """A server that hangs would hang every command that needs one."""
    script = "import os, time; print('grandchild', os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(ServeError, match=r"got no answer in 1 s.*grandchild"):
        server(model, tmp_path, script, start_timeout_s=1).__enter__()
    assert gone(grandchild(tmp_path / "log"))


def test_a_server_that_dies_later_is_reported(model: ModelConfig, tmp_path: Path) -> None:
    """`serve` would wait for ever beside a dead server."""
    with server(model, tmp_path, STAND_IN) as running:
        assert running.process is not None
        running.process.kill()
        with pytest.raises(ServeError, match="exit code -9"):
            running.wait()
        engine = grandchild(running.log)
    assert gone(engine)


def test_a_missing_model_is_told_before_anything_starts(tmp_path: Path) -> None:
    """A wrong path would be told a minute later, by a traceback of vLLM's engine."""
    with pytest.raises(ModelError):
        server(ModelConfig(path=str(tmp_path / "nothing")), tmp_path, STAND_IN).start()
    assert not (tmp_path / "log").exists()


def test_sigterm_to_us_ends_the_server_too(model: ModelConfig, tmp_path: Path) -> None:
    """`docker stop`, or a time-out around `make demo`, would leave the server running."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "import test_serving_process as t\n"
        "with t.server(t.ModelConfig(path=sys.argv[1]), Path(sys.argv[2]), t.STAND_IN):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(model.path), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    ) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"up\n"
            owner.send_signal(signal.SIGTERM)
            assert owner.wait(timeout=30) == 143
        finally:
            owner.kill()
    assert gone(grandchild(tmp_path / "log"))


def test_no_server_is_no_error() -> None:
    """Publishing would fail wherever no server happens to run."""
    url = f"http://127.0.0.1:{free_port()}"
    assert live.status(url) is None
    assert sync.sync([url], Path("nowhere")) == [sync.Report(url, "not running")]


def test_watching_says_only_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a watcher would fill with a line every two seconds, and the one that matters be lost."""
    repaired = sync.Report("http://a", "repaired", (sync.Repair("sql", "sql@v0001", "sql@v0002"),))
    calm = sync.Report("http://a", "in step")
    looks = iter([[calm], [calm], [repaired], [calm], [calm]])

    def look() -> list[sync.Report]:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        sync.watch(look, every_s=0)
    said = [line.partition("http://a: ")[2] or line.strip() for line in capsys.readouterr().err.splitlines()]
    assert said == ["in step", "repaired", "sql: sql@v0001 -> sql@v0002", "in step"]


def settings(*urls: str, base: str = "base", port: int = 1) -> Config:
    return Config.model_validate({"model": {"id": base}, "publish": {"servers": urls}, "server": {"port": port}})


def test_servers_of_another_base_are_left_alone(model: ModelConfig, tmp_path: Path) -> None:
    """Publishing for one base would load its adapters into the server of another."""
    with server(model, tmp_path, STAND_IN) as running:
        found, unreachable = sync.running(settings(running.base_url))
        assert ([status.url for status in found], unreachable) == ([running.base_url], [])
        with pytest.raises(ServeError, match="expected one of another/base"):
            sync.running(settings(running.base_url, base="another/base"))
        # Without publish.servers the address is a default: whoever listens there is no fault.
        assert sync.running(settings(base="another/base", port=running.server.port)) == ([], [])


@pytest.mark.parametrize("answer", [401, 403, 500])
def test_a_server_that_refuses_us_is_never_passed_over(answer: int) -> None:
    """With a wrong key, rollback would report success while clients go on getting the old version."""
    with listening(status=answer) as url, pytest.raises(ServeError, match=str(answer)):
        sync.running(settings(port=int(url.rpartition(":")[2])))


def test_a_name_that_cannot_be_looked_up_is_told_and_keeps_nobody_waiting() -> None:
    """One box that is off would keep an emergency rollback from all others."""
    found, unreachable = sync.running(settings("http://no-such-host.invalid:8000"))
    assert found == []
    assert "no-such-host" in unreachable[0]


def test_a_server_that_does_not_finish_answering_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server would go on with the old version, and publish report success."""
    monkeypatch.setattr(live, "LOOK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServeError, match="expected a server or none"):
        live.status(f"http://127.0.0.1:{silent.getsockname()[1]}")


@contextmanager
def listening(*, status: int = 200, body: str = "", headers: dict[str, str] | None = None) -> Iterator[str]:
    """Address of a program that gives every request one answer."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    seen: list[dict[str, str]] = []
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{page.server_port}"
        page.shutdown()


@pytest.mark.parametrize("body", ["{}", "[]", "hello", '{"base": 1, "other": 2}', "null"])
def test_another_program_on_the_port_is_told_from_a_server(body: str) -> None:
    """A web page on port 8000 would end publish with a traceback."""
    with listening(body=body) as url, pytest.raises(api.StrangerError, match="plugin"):
        live.status(url)


def test_a_program_that_speaks_no_http_is_told_from_a_server() -> None:
    """An SSH server on the port would end publish with a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(api.StrangerError, match="HTTP"):
            live.status(f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_a_key_is_shown_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers with a redirect, or names a proxy in the environment, would be given the key."""
    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with listening(body="stolen") as other, listening(status=302, headers={"Location": other}) as url:
        with pytest.raises(api.RefusedError, match="302"):
            api.fetch(url)
        assert api.fetch(other) == "stolen", "reached without the proxy"


@pytest.mark.parametrize("key", ["with\rreturn", "new\nline", "two words", "schlüssel"])
def test_a_key_no_header_can_hold_is_named_and_not_printed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env file with line ends of Windows would print the key in a traceback."""
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(ServeError, match="VLLM_API_KEY: got a key with") as caught:
        api.fetch("http://127.0.0.1:9")
    assert key not in str(caught.value)


def test_a_wildcard_address_is_reached_through_loopback() -> None:
    """The readiness check would ask 0.0.0.0, which not every system can connect to."""
    assert api.address(ServerConfig(host="0.0.0.0", port=1)) == "http://127.0.0.1:1"
    assert api.address(ServerConfig(host="::1", port=1)) == "http://[::1]:1"


def test_print_starts_nothing(model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking at the command would start a server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = ServerConfig(port=taken.getsockname()[1])
        foreground.serve(model, config, adapters=tmp_path / "missing", print_only=True)
    assert "--enable-lora" in capsys.readouterr().out
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(APIServer pid=1) INFO 11-21 01:30:00 [api_server.py:1] Loading weights", "Loading weights"),
        ("WARNING 11-21 01:30:00 [interface.py:300] slow", "slow"),
        ("INFO:     Application startup complete.", "INFO:     Application startup complete."),
        ("plain text", "plain text"),
    ],
)
def test_log_lines_are_shown_without_vllms_prefixes(line: str, message: str, tmp_path: Path) -> None:
    """The progress line would show process numbers and dates in place of what the server is doing."""
    (tmp_path / "log").write_text(f"before\n{line}\n\n")
    assert faults.last_line(tmp_path / "log") == message
