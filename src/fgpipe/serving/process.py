"""One vLLM server as a child process: started, waited for, watched, and stopped with everything it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import ServeError
from fgpipe.models import base
from fgpipe.progress import console, say
from fgpipe.serving import api, faults
from fgpipe.serving.command import (
    CPU_KV_CACHE_VARIABLE,
    Build,
    Share,
    installed_build,
    plugin_installed,
    serve_command,
    server_environment,
    tuned_kernels,
)

POLL_S = 0.25
"""Between two looks at a server that starts or ends."""

NOTE_EVERY_S = 10.0
"""Between two progress lines where stderr is no terminal."""

GRACE_S = 10.0
"""For the server to end its requests and its engine before it is killed."""


class VllmServer:
    """A vLLM server that lives as long as the `with` block; entering returns when it answers.

    It has a process group of its own, so that Ctrl-C reaches only us and stopping reaches all of it. While it lives, a
    SIGTERM to us leaves the block like an exception, instead of leaving the server behind.
    """

    def __init__(
        self,
        model: ModelConfig,
        server: ServerConfig,
        *,
        adapters: Path,
        log: Path | None = None,
        build: Build | None = None,
        share: Share | None = None,
    ) -> None:
        self.model = model
        self.server = server
        self.log = log or Path(tempfile.mkdtemp(prefix="fgpipe-vllm-")) / "vllm.log"
        build = build or installed_build()
        plugin = plugin_installed()
        self.kernels = tuned_kernels(model, server, build=build)
        self.command = serve_command(model, server, adapters=adapters, build=build, plugin=plugin, share=share)
        self.variables = server_environment(
            server, adapters=adapters, build=build, plugin=plugin, share=share, kernels=self.kernels.folder
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._undo = ExitStack()

    @property
    def base_url(self) -> str:
        """`http://host:port`, without `/v1`."""
        return api.address(self.server)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it answers.

        Raises:
            ModelError: the model's files are not there and cannot be fetched; vLLM would say so a minute later.
            ServeError: something else listens on the port.
        """
        base.local_folder(self.model)
        require_free_port(self.server.host, self.server.port)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():  # of a server that died and is started again
            self.log.replace(self.log.with_suffix(".before.log"))
        self._undo.enter_context(sigterm_as_exit())
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**environment(), **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._undo.callback(end, self.process)

    def wait_ready(self) -> None:
        """Return when the server answers; show on stderr what it is doing meanwhile.

        Raises:
            ServeError: it ended, or took longer than server.start_timeout_s.
        """
        began = time.monotonic()
        with progress() as show:
            while not self.answers():
                self.require_alive()
                elapsed = time.monotonic() - began
                if elapsed > self.server.start_timeout_s:
                    raise faults.too_slow(self.log, self.server.start_timeout_s)
                show(f"vLLM starts: {elapsed:3.0f} s  {faults.last_line(self.log)}")
                time.sleep(POLL_S)

    def wait(self, look: Callable[[], None] = lambda: None) -> NoReturn:
        """Wait while the server lives, calling `look` often.

        Raises:
            ServeError: it ended, though nobody had asked it to.
        """
        while True:
            look()
            self.require_alive()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the server and all it started; nothing if it is not running."""
        self.process = None
        self._undo.close()

    def require_alive(self) -> None:
        """Check that the process lives.

        Raises:
            ServeError: it ended; with the root cause if its log has one.
        """
        code = self.process.poll() if self.process is not None else None
        if self.process is None or code is not None:
            raise faults.died(self.log, code)

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            api.fetch(f"{self.base_url}/health", timeout_s=5)
            return bool(api.models(self.base_url, timeout_s=5))
        except (OSError, ServeError):
            return False


def environment() -> dict[str, str]:
    """Our environment without what vLLM must not inherit.

    TRL sets a level when it is imported with which vLLM's log would hold errors only; the size of the KV cache is ours
    to say.
    """
    found = dict(os.environ)
    if "trl" in sys.modules and found.get("VLLM_LOGGING_LEVEL") == "ERROR":
        del found["VLLM_LOGGING_LEVEL"]
    found.pop(CPU_KV_CACHE_VARIABLE, None)
    return found


def require_free_port(host: str, port: int, *, setting: str = "server.port") -> None:
    """Check that a server can listen there.

    Args:
        setting: what the user would change.

    Raises:
        ServeError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As vLLM does: connections of an earlier server that are still closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"{host}:{port}: got {error.strerror}, expected a free address to listen on",
                hint=f"stop the program that listens there, or choose another port: {setting}={port % 65535 + 1}",
            ) from None


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function showing one changing line on a terminal, or a line now and then in a log file."""
    if sys.stderr.isatty():
        with console().status("") as status:
            yield lambda line: status.update(line.replace("[", "\\["))
        return
    shown = time.monotonic() - NOTE_EVERY_S

    def show(line: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= NOTE_EVERY_S:
            shown = time.monotonic()
            say(line)

    yield show


def end(process: subprocess.Popen[bytes], *, grace_s: float = GRACE_S) -> None:
    """Ask a process to end, then kill what is left of its group; returns when it is gone.

    Args:
        grace_s: how long it may take to end by itself.
    """
    try:
        process.terminate()
        until = time.monotonic() + grace_s
        # WNOWAIT leaves the ended process in the table, so that its group's number is still ours to signal below.
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (
            process.returncode is None and os.waitid(os.P_PID, process.pid, look) is None and time.monotonic() < until
        ):
            time.sleep(POLL_S / 5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143), so that `with` blocks end what they hold; only in the main thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
