"""A model hub on the loopback: the few addresses that huggingface_hub asks, with files that a test makes up."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(weights_bytes: int) -> bytes:
    """A whole safetensors file of so many bytes of weights."""
    entry = {"dtype": "U8", "shape": [weights_bytes], "data_offsets": [0, weights_bytes]}
    header = json.dumps({"x": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(index * 7 % 251 for index in range(weights_bytes))


@dataclass
class Hub:
    """What the hub holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    model: str = "org/small"
    status: int = 200
    """Of every answer; 401 with `gated` for a gated model."""
    gated: bool = False
    break_after: int | None = None
    """Close the connection after so many bytes of a large file; once for each entry of `breaks`."""
    breaks: int = 0
    ignores_range: bool = False
    damaged: set[str] = field(default_factory=set)
    """Files that arrive with another content than the hub says."""
    asked: list[str] = field(default_factory=list)
    """`METHOD path range` of every request."""
    tokens: set[str] = field(default_factory=set)
    address: str = ""


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The hub, listening."""

    class Handler(_Handler):
        held = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    held: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.held, urlsplit(self.path).path
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.status != 200:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"} if hub.gated else {}
            self._send(hub.status, b"{}", headers)
        elif path.startswith(f"/api/models/{hub.model}"):
            revision = path.partition("/revision/")[2]
            known = revision in ("", "main", COMMIT)
            headers = {} if known else {"X-Error-Code": "RevisionNotFound"}
            self._send(200 if known else 404, json.dumps(self._info()).encode() if known else b"{}", headers)
        elif path.startswith(f"/{hub.model}/resolve/{COMMIT}/") and path.rpartition("/")[2] in hub.files:
            self._file(path.rpartition("/")[2], body=body)
        else:
            known = path.startswith(f"/{hub.model}/resolve/")
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})

    def _info(self) -> dict[str, Any]:
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            | ({"lfs": _lfs(content)} if name.endswith(".safetensors") else {})
            for name, content in self.held.files.items()
        ]
        return {"id": self.held.model, "modelId": self.held.model, "sha": COMMIT, "siblings": siblings}

    def _file(self, name: str, *, body: bool) -> None:
        hub, content = self.held, self.held.files[name]
        etag = hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else git_sha1(content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        start = 0 if hub.ignores_range else int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        sent = content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if name in hub.damaged:
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        if body and hub.breaks and hub.break_after is not None and name.endswith(".safetensors"):
            hub.breaks -= 1
            self._send(206 if start else 200, sent, headers, only=hub.break_after)
            return
        self._send(206 if start else 200, sent if body else b"", headers, length=len(sent))

    def _send(
        self, status: int, sent: bytes, headers: dict[str, str], *, only: int | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(sent) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent if only is None else sent[:only])
        if only is not None:
            self.wfile.flush()
            self.close_connection = True


def _lfs(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}


def git_sha1(content: bytes) -> str:
    """Git's blob id of `content`."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
