"""The gateway in front of a real vLLM: what passes through it is what vLLM says, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fgpipe.serving import live
from gateway_running import KEY
from tiny_server import Served, chat_tools, free_port

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
CALLING = {"type": "function", "function": {"name": "ping"}}


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def front(
    request: pytest.FixtureRequest, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A gateway as the command starts it, with a key, and a client that has it."""
    with started(served, tmp_path_factory.mktemp("gateway"), f"gateway.workers={request.param}") as client:
        yield client


class started:  # noqa: N801
    """The gateway's process for as long as the block."""

    def __init__(self, served: Served, folder: Path, *words: str, upstreams: str = "") -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "gateway.log"
        self.command = [sys.executable, "-m", "fgpipe", "gateway", f"gateway.port={port}"]
        self.command += [f"gateway.upstreams=[{upstreams or served.server.base_url}]", "gateway.health_every_s=0.3"]
        self.command += [f"paths.adapters={served.adapters}", *words]

    def __enter__(self) -> httpx.Client:
        environment = {**os.environ, "FGPIPE_GATEWAY_KEYS": KEY}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        self.client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
        until = time.monotonic() + 60
        while not answers(self.client, "/health"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 130
        log = self.log.read_text()
        assert "Traceback" not in log
        assert KEY not in log


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def direct(served: Served, path: str, body: Any) -> httpx.Response:
    return httpx.post(served.server.base_url + path, json=body, timeout=120)


def chat(model: str = "red", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "go"}], "max_tokens": 12, "temperature": 0, **more}


def raw(model: str = "red", **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "go on", "max_tokens": 12, "temperature": 0, **more}


def same(text: str) -> str:
    """`text` without what differs between any two answers."""
    text = re.sub(r'"(id|created)":("[^"]*"|\d+)', r'"\1":0', text)
    text = re.sub(r"<dict of \d+ items>", "<dict>", text)  # a refusal counts the stream option that was put in
    return re.sub(r"chatcmpl-tool-[0-9a-f]+|call_[0-9A-Za-z]+", "call", text)


BODIES = {
    "chat": (CHAT, chat()),
    "chat, version": (CHAT, chat("red@v0001")),
    "chat, alias": (CHAT, chat("red@first")),
    "chat, base": (CHAT, chat("fgpipe/tiny-random")),
    "chat, two answers": (CHAT, chat(n=2, temperature=1, seed=3)),
    "chat, log-probs": (CHAT, chat(logprobs=True, top_logprobs=2)),
    "chat, call": (CHAT, chat(tools=chat_tools(), tool_choice=CALLING, parallel_tool_calls=False, max_tokens=64)),
    "chat, required": (CHAT, chat(tools=chat_tools(), tool_choice="required", temperature=1.5, seed=1, max_tokens=400)),
    "raw": (RAW, raw()),
    "raw, two prompts": (RAW, raw(prompt=["a", "b"])),
    "raw, token ids": (RAW, raw(prompt=[2, 110, 111], return_token_ids=True)),
    "tokenize": ("/tokenize", {"model": "red", "prompt": "hello"}),
    "detokenize": ("/detokenize", {"model": "red", "tokens": [110, 111]}),
    "unknown name": (CHAT, chat("nobody")),
    "path for a name": (CHAT, chat("../red")),
    "no messages": (CHAT, {"model": "red"}),
    "bad value": (RAW, raw(max_tokens=-5)),
}


@pytest.mark.parametrize("case", BODIES)
def test_an_answer_is_vllms_own(served: Served, front: httpx.Client, case: str) -> None:
    """A client would get something else through the gateway than from the server."""
    path, body = BODIES[case]
    expected, got = direct(served, path, body), front.post(path, json=body)
    assert got.status_code == expected.status_code
    assert same(got.text) == same(expected.text)
    assert got.headers["content-type"] == expected.headers["content-type"]


STREAMED = [case for case, (path, _) in BODIES.items() if path in (CHAT, RAW)]


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}, {"stream_options": None}])
@pytest.mark.parametrize("case", STREAMED)
def test_a_stream_is_vllms_own(served: Served, front: httpx.Client, case: str, options: dict[str, Any]) -> None:
    """A client would see events that it did not ask for, or miss some."""
    path, body = BODIES[case]
    body = {**body, "stream": True, **options}
    for _ in range(5):  # a busy vLLM puts two tokens into one event now and then
        expected, got = direct(served, path, body), front.post(path, json=body)
        assert got.status_code == expected.status_code
        if gathered(got.text) == gathered(expected.text):
            return
    assert gathered(got.text) == gathered(expected.text)


def gathered(text: str) -> Any:
    """The events of a stream byte for byte; with several answers these interleave by chance, so sorted."""
    events = same(text).split("\n\n")
    several = any('"index":1' in event for event in events)
    return sorted(events) if several else events


def test_the_openai_client_works_through_it(served: Served, front: httpx.Client) -> None:
    """People would have to write a client of their own."""
    from openai import OpenAI

    with OpenAI(base_url=f"{str(front.base_url).rstrip('/')}/v1", api_key=KEY, max_retries=0) as client:
        assert {"red", "blue", served.model.id} <= {model.id for model in client.models.list()}
        made = client.chat.completions.create(
            model="red",
            messages=[{"role": "user", "content": "go"}],
            tools=chat_tools(),  # type: ignore[arg-type]
            tool_choice=CALLING,  # type: ignore[arg-type]
            parallel_tool_calls=False,
        )
        calls = made.choices[0].message.tool_calls or []
        assert [(call.function.name, call.function.arguments) for call in calls if call.type == "function"] == [
            ("ping", "{}")
        ]
        assert made.model.startswith("red@v0")


def test_generate_gives_decoded_calls_and_the_version(front: httpx.Client) -> None:
    """A client would not know which version answered, or take arguments apart itself."""
    body = {"adapter": "red@first", "prompt": "go", "tools": chat_tools(), "tool_choice": CALLING}
    answer = front.post("/api/generate", json=body).json()
    assert answer["version"] == "v0001"
    assert answer["calls"][0] == {"name": "ping", "arguments": {}}
    assert answer["usage"]["prompt_tokens"] > 0
    text = front.post("/api/generate", json={**body, "stream": True}).text
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["calls"][0] == {"name": "ping", "arguments": {}}
    assert last["model"] == "red@v0001"


def test_adapters_are_listed_with_who_answers(served: Served, front: httpx.Client) -> None:
    """Nobody could see what is published, or whether the servers follow."""
    listed = {(one["name"], one["version"]): one for one in front.get("/api/adapters").json()["adapters"]}
    assert "first" in listed["red", "v0001"]["aliases"]
    current = [one["servers"] for (name, _), one in listed.items() if name == "red" and one["live"]]
    assert current == [[served.server.base_url]]


def test_tokens_are_counted_as_the_server_counts_them(served: Served, front: httpx.Client) -> None:
    """The dashboards would show other figures than vLLM's own usage, streamed or not."""
    before = tokens(front)
    usage = [front.post(CHAT, json=chat("blue")).json()["usage"]]
    front.post(CHAT, json=chat("blue", stream=True))
    usage.append(usage[0])
    until = time.monotonic() + 5
    wanted = {"in": sum(one["prompt_tokens"] for one in usage), "out": sum(one["completion_tokens"] for one in usage)}
    while (now := tokens(front)) != {key: before[key] + wanted[key] for key in wanted}:
        assert time.monotonic() < until, (before, now, wanted)
        time.sleep(0.05)


def tokens(front: httpx.Client) -> dict[str, float]:
    text = front.get("/metrics").text
    found = re.findall(r'tokens_total\{adapter="blue",direction="(in|out)",version="v[0-9]+"\} (\S+)', text)
    return {"in": 0.0, "out": 0.0, **{direction: float(value) for direction, value in found}}


def test_a_publish_during_traffic_fails_no_request_and_is_seen(
    served: Served, front: httpx.Client, request: pytest.FixtureRequest
) -> None:
    """Clients of the gateway would notice every publish."""
    name = f"gate-{request.node.callspec.params['front']}"
    served.publish(name, 5)
    models, statuses, done = [], set(), threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = front.post(CHAT, json=chat(name, max_tokens=3))
            statuses.add(answer.status_code)
            models.append(answer.json().get("model"))

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        try:
            for seed, version in ((6, "v0002"), (7, "v0003")):
                time.sleep(1)
                served.publish(name, seed)
                live.refresh(served.server.base_url, name, expect=version)
            after = front.post(CHAT, json=chat(name, max_tokens=1)).json()["model"]
        finally:
            done.set()
        for one in asking:
            one.result(60)
    assert statuses == {200}
    assert after == f"{name}@v0003"
    assert set(models) == {f"{name}@v000{number}" for number in (1, 2, 3)}
    until = time.monotonic() + 10
    while f'live_version{{adapter="{name}",version="v0003"}} 1.0' not in (text := front.get("/metrics").text):
        assert time.monotonic() < until, text
        time.sleep(0.1)


def test_a_client_that_goes_away_frees_the_server(served: Served, front: httpx.Client) -> None:
    """The server would go on generating for nobody."""
    wanted, before = 1900, generated(served)
    with front.stream("POST", RAW, json=raw(max_tokens=wanted, stream=True, ignore_eos=True)) as answer:
        next(answer.iter_bytes())
    until = time.monotonic() + 60
    while running(served) or generated(served) == before:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert generated(served) - before < wanted


def generated(served: Served) -> float:
    """Tokens that the server has made since it started."""
    return figure(served, "vllm:generation_tokens_total")


def running(served: Served) -> float:
    """Requests that it decodes now."""
    return figure(served, "vllm:num_requests_running")


def figure(served: Served, name: str) -> float:
    """The sum of one of vLLM's own figures over its labels."""
    with urllib.request.urlopen(f"{served.server.base_url}/metrics") as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)))


def test_a_server_that_is_lost_and_comes_back_needs_no_hand(served: Served, tmp_path: Path) -> None:
    """Somebody would have to restart the gateway after each restart of a server, or clients see faults."""
    port = free_port()
    pipe = Forwarder(port, int(served.server.base_url.rpartition(":")[2]))
    upstreams = f"http://127.0.0.1:{port},{served.server.base_url}"
    with started(served, tmp_path, upstreams=upstreams) as client:
        names = ["red", "blue", "red@v0001", "red@first", "blue@v0001", served.model.id]
        with pipe:
            wait_healthy(client, 2)
            assert all(client.post(CHAT, json=chat(name)).status_code == 200 for name in names)
        assert all(client.post(CHAT, json=chat(name)).status_code == 200 for name in names)
        wait_healthy(client, 1)
        with Forwarder(port, pipe.target):
            wait_healthy(client, 2)
            assert all(client.post(CHAT, json=chat(name)).status_code == 200 for name in names)


def wait_healthy(client: httpx.Client, count: int) -> None:
    until = time.monotonic() + 20
    while client.get("/ready").json()["healthy"] != count:
        assert time.monotonic() < until
        time.sleep(0.1)


class Forwarder:
    """A second address of the server, which can be taken away as a killed process would be."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target

    def __enter__(self) -> Forwarder:
        code = (
            "import asyncio, sys\n"
            "async def pump(reader, writer):\n"
            "    while data := await reader.read(65536):\n"
            "        writer.write(data)\n"
            "    writer.close()\n"
            "async def serve(reader, writer):\n"
            "    other = await asyncio.open_connection('127.0.0.1', int(sys.argv[2]))\n"
            "    await asyncio.gather(pump(reader, other[1]), pump(other[0], writer), return_exceptions=True)\n"
            "async def main():\n"
            "    server = await asyncio.start_server(serve, '127.0.0.1', int(sys.argv[1]))\n"
            "    await server.serve_forever()\n"
            "asyncio.run(main())\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code, str(self.port), str(self.target)])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/fgpipe/refresh",
        "/fgpipe/status",
        "/adapters",
        "/invocations",
    ],
)
def test_administration_is_not_behind_it(front: httpx.Client, path: str) -> None:
    """A client's key would be enough to change what everybody is answered."""
    body = {"lora_name": "x", "lora_path": "/tmp", "name": "red"}
    for given in (path, f"{path}/", f"/v1/..{path}", f"/v1/%2e%2e{path}"):
        assert front.post(given, json=body).status_code in (404, 405)
        assert front.get(given).status_code in (404, 405)


def test_nothing_the_description_allows_is_a_fault(front: httpx.Client) -> None:
    """Some body or other would take the gateway down, or be answered with an error of ours."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is in the dev extra")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(front.get("/openapi.json").json())
    schema.config.base_url = str(front.base_url).rstrip("/")
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def probe(case: Any) -> None:
            answer = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
            asked.add((case.method, case.path))
            assert answer.status_code < 500 or answer.status_code in (502, 503, 504), answer.text

        probe()
    assert len(asked) >= 10
    assert front.get("/health").status_code == 200
