"""Requests through a gateway to stand-in upstreams: what it does when these are lost, slow, full or odd."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import pytest

from fgpipe.keys import ADMIN_KEY_VARIABLE, CLIENT_KEY_VARIABLE
from gateway_running import KEY, StandIn, gateway, listening, reply, start_events, tell
from tiny_server import free_port

ASKING = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/api/generate")
TELLING = ("/v1/models", "/api/adapters", "/api/figures", "/openapi.json")


def entry(name: str, version: str = "v0001", *, live: bool = True, base: str = "base") -> dict[str, Any]:
    return {"name": name, "version": version, "live": live, "aliases": (), "base": base}


def test_the_clients_key_stays_here_and_the_servers_own_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's key would be told to servers, or the server's key be needed by clients."""
    monkeypatch.setenv(CLIENT_KEY_VARIABLE, "key-of-the-server")
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "key-of-the-administration")
    one = StandIn()
    with listening(one) as url, gateway(url) as front:
        sent = {"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "X-Request-Id": "r1", "Api-Key": KEY}
        answer = front.client.post("/v1/chat/completions", json={"model": "sql"}, headers=sent)
        assert answer.status_code == 200
    (seen,) = one.headers
    assert seen["authorization"] == "Bearer key-of-the-server"
    assert seen["x-request-id"] == "r1"
    assert not {"cookie", "x-forwarded-for", "api-key"} & set(seen)
    assert KEY not in json.dumps(seen)
    assert "key-of" not in answer.text + str(answer.headers)


def test_every_path_but_the_open_ones_needs_a_key() -> None:
    """Models could be asked, or names read, by anyone."""
    one = StandIn()
    with listening(one) as url, gateway(url) as front, httpx.Client(base_url=front.url) as stranger:
        for path in ASKING + TELLING + ("/nothing", "/fgpipe/status", "/v1/load_lora_adapter"):
            for method in ("GET", "POST", "OPTIONS", "PUT", "DELETE", "HEAD"):
                refused = stranger.request(method, path, headers={"Authorization": "Bearer wrong"})
                assert refused.status_code == 401, (method, path)
        for path in ("/", "/health", "/ready"):
            assert stranger.get(path, headers={"Host": "fgpipe:8080"}).status_code == 200
        assert stranger.get("/metrics", headers={"Host": "fgpipe:8080"}).status_code == 401
        assert stranger.get("/metrics").status_code == 200, "Prometheus asks from the loopback, and has no key"
    assert not one.asked


ADMINISTRATION = (
    "/fgpipe/refresh",
    "/fgpipe/status",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/scale_elastic_ep",
    "/invocations",
    "/reset_prefix_cache",
    "/sleep",
    "/collective_rpc",
    "/server_info",
    "/pause",
    "/version",
    "/docs",
    "/redoc",
)
DISGUISES = (
    "{}",
    "/{}",
    "{}/",
    "/v1/..{}",
    "/v1/chat/completions/../..{}",
    "/%2e%2e{}",
    "/v1/%2e%2e{}",
    "/.{}",
    "{}?x=/v1/models",
    "{};x",
    "{}%00",
)


@pytest.mark.parametrize("path", ADMINISTRATION)
def test_no_disguise_reaches_the_servers_administration(path: str) -> None:
    """A client's key would load any folder of the server, or put it to sleep."""
    one = StandIn()
    with listening(one) as url, gateway(url) as front:
        address = front.url.removeprefix("http://")
        for disguise in DISGUISES:
            for method in ("GET", "POST"):
                assert raw_status(address, method, disguise.format(path)) in (404, 405, 400), (method, disguise)
    assert set(one.paths) <= {"/health", "/v1/models"}


def raw_status(address: str, method: str, target: str, body: bytes = b"{}") -> int:
    """HTTP status of a request whose target is sent as it is; a client library would tidy it up."""
    host, _, port = address.partition(":")
    head = f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        return int(connection.makefile("rb").readline().split()[1])


HOSTILE = (
    "../../etc",
    "/etc/passwd",
    "sql@../v0001",
    "a" * 100_000,
    "é\n\r",
    "\x00",
    "\ud800",
    "sql\r\nX: y",
    '"}',
    "",
    "{}",
)


def test_hostile_names_make_no_new_series_and_no_fault() -> None:
    """A client could fill Prometheus's memory, smuggle headers, or take the gateway down."""

    async def refuse(asked: dict[str, Any], send: Any) -> None:
        await reply(send, {"error": {"message": "no such model", "code": 404}}, status=404)

    one = StandIn(answer=refuse)
    with listening(one) as url, gateway(url, entries=[entry("sql")]) as front:
        for path in ASKING:
            for name in (*HOSTILE, *(f"made-up-{number}" for number in range(20))):
                key = "adapter" if path == "/api/generate" else "model"
                body = json.dumps({key: name, "prompt": "x"}).encode()
                assert front.client.post(path, content=body).status_code in (400, 404), (path, name)
        text = front.client.get("/metrics").text
        assert set(re.findall(r'adapter="([^"]*)"', text)) == {"unknown", "sql"}
        assert front.ask("sql").status_code == 404
        labels = {"adapter": "sql", "version": "none", "endpoint": "/v1/chat/completions", "status": "404"}
        front.expect(2, "requests_total", **labels)  # sql@../v0001 too
        front.expect(30, "requests_total", **{**labels, "adapter": "unknown"})


def test_what_is_asked_is_counted_by_the_version_that_answered() -> None:
    """Nobody could compare versions, or see what an adapter costs."""
    with listening(StandIn()) as url, gateway(url, entries=[entry("sql")]) as front:
        assert front.ask().json()["model"] == "sql@v0001"
        assert front.ask(stream=True).text.endswith("data: [DONE]\n\n")
        pair = {"adapter": "sql", "version": "v0001"}
        front.expect(2, "requests_total", **pair, endpoint="/v1/chat/completions", status="200")
        front.expect(2, "request_seconds_count", **pair)
        front.expect(1, "time_to_first_token_seconds_count", **pair)
        front.expect(5, "tokens_total", **pair, direction="in")
        front.expect(1, "adapter_live_version", **pair)
        front.ask("base")
        labels = {"adapter": "base", "version": "base", "endpoint": "/v1/chat/completions", "status": "200"}
        front.expect(1, "requests_total", **labels)


def test_a_lost_upstream_costs_no_request_and_comes_back() -> None:
    """Every request for its adapters would fail until somebody restarts the gateway."""
    first, second, port = StandIn(), StandIn(), free_port()
    with listening(second) as other, ExitStack() as stack:
        running = ExitStack()
        url = running.enter_context(listening(first, port=port))
        front = stack.enter_context(gateway(url, other))
        names = [f"adapter-{number}" for number in range(16)]
        assert all(front.ask(name).status_code == 200 for name in names)
        assert first.asked
        assert second.asked
        running.close()
        assert all(front.ask(name).status_code == 200 for name in names)
        front.wait_for(lambda: len(front.gateway.pool.healthy()) == 1)
        assert 'upstream_up{upstream="' + url + '"} 0.0' in front.client.get("/metrics").text
        assert front.client.get("/ready").status_code == 200
        first.asked.clear()
        with listening(first, port=port):
            front.wait_for(lambda: len(front.gateway.pool.healthy()) == 2)
            assert all(front.ask(name).status_code == 200 for name in names)
            assert first.asked, "it has its adapters back"


def test_a_loss_is_noticed_by_the_request_that_meets_it() -> None:
    """Until the next look, every request for the lost server's adapters would fail."""
    first, second = StandIn(), StandIn()
    with listening(second) as other, ExitStack() as running:
        url = running.enter_context(listening(first))
        with gateway(url, other, health_every_s=60) as front:
            running.close()
            assert all(front.ask(f"adapter-{number}").status_code == 200 for number in range(16))
            front.expect(1, "retries_total", upstream=url)
            assert len(second.asked) == 16


async def die(asked: dict[str, Any], send: Any) -> None:
    """Break the connection before the answer begins."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"x")]})


def test_a_request_whose_server_breaks_is_put_to_another_one() -> None:
    """A killed server breaks the connections that are kept to it one by one: two of them would cost a request."""
    broken, other = StandIn(answer=die), StandIn()
    with listening(broken) as first, listening(other) as second, gateway(first, second) as front:
        assert all(front.ask(f"adapter-{number}").status_code == 200 for number in range(16))
        assert 0 < len(broken.asked) < 16
        assert len(other.asked) == 16


def test_a_request_that_breaks_servers_is_not_put_to_all_of_them() -> None:
    """One request could take down every replica, one after another."""
    every = [StandIn(answer=die) for _ in range(4)]
    with ExitStack() as running:
        urls = [running.enter_context(listening(one)) for one in every]
        front = running.enter_context(gateway(*urls))
        assert front.ask().status_code == 502
        assert sum(len(one.asked) for one in every) == 2


def test_one_request_may_not_ask_for_any_number_of_answers() -> None:
    """A single client could fill the server, whatever the limit of requests."""
    one = StandIn()
    with listening(one) as url, gateway(url, max_answers=4) as front:
        for body in ({"n": 5}, {"prompt": ["a"] * 5}, {"prompt": [[1], [2], [3]], "n": 2}, {"n": 10**30}):
            assert front.ask(path="/v1/completions", **body).status_code == 400
        for body in ({"n": 4}, {"prompt": ["a"] * 4}, {"prompt": list(range(99))}, {"n": "x"}, {"n": 0}):
            assert front.ask(path="/v1/completions", **body).status_code == 200


def test_without_any_upstream_clients_are_told_when_to_come_back() -> None:
    """They would wait for a connection that nobody answers, or get a fault without a reason."""
    with gateway(f"http://127.0.0.1:{free_port()}") as front:
        answer = front.ask()
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert front.client.get("/ready").status_code == 503
        assert front.client.get("/health").status_code == 200
        front.expect(1, "refused_total", reason="no_upstream")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_has_begun_is_never_asked_for_again(stream: bool) -> None:
    """A client would get the beginning of one answer and the end of another, or pay twice."""

    async def break_off(asked: dict[str, Any], send: Any) -> None:
        if stream:
            await start_events(send)
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'data: {"model":"sql@v0001"}\n\n', "more_body": True})

    one, two = StandIn(answer=break_off), StandIn(answer=break_off)
    with listening(one) as url, listening(two) as other, gateway(url, other) as front:
        if stream:
            text = front.ask(stream=True).text
            assert text.startswith('data: {"model":"sql@v0001"}\n\ndata: {"error"')
            assert "[DONE]" not in text
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                front.ask()
        assert len(one.asked) + len(two.asked) == 1
        labels = {"adapter": "sql", "version": "v0001" if stream else "none"}
        front.wait_for(
            lambda: front.metric("requests_total", **labels, endpoint="/v1/chat/completions", status="502") == 1
        )


def test_a_slow_upstream_is_given_up_and_not_asked_again() -> None:
    """A request would hang for ever, or be put to one server after another."""
    one = StandIn(answer=partial(tell, pause_s=5))
    with listening(one) as url, gateway(url, first_byte_timeout_s=0.2, total_timeout_s=0.6) as front:
        assert front.ask().status_code == 504
        text = front.ask(stream=True).text
        assert text.count('"content": "a"') == 1
        assert '"code": 504' in text
        front.wait_for(lambda: one.ended_early == 2)
        assert len(one.asked) == 2
        assert front.gateway.pool.all[0].in_flight == 0


def test_beyond_the_queue_requests_are_refused_and_none_that_was_taken_is_lost() -> None:
    """The server would be overrun, or the gateway's memory grow with every client."""
    one = StandIn(answer=partial(tell, pause_s=0.2))
    limits = {"max_in_flight": 2, "spill_in_flight": 2, "max_queued": 3, "max_wait_s": 5}
    with listening(one) as url, gateway(url, **limits) as front, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: front.ask(stream=bool(number % 2)), range(20)))
        taken = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(taken) + len(refused) == 20
        assert len(taken) >= 5
        assert refused
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert all("[DONE]" in answer.text or answer.json()["choices"] for answer in taken)
        assert one.most_at_once <= 4, "one that has just sent its last piece may still be counted there"
        assert len(one.asked) == len(taken)
        front.wait_for(lambda: (front.gateway.admission.queued, front.gateway.inside) == (0, 0))
        assert sum(front.metric("refused_total", reason=reason) for reason in ("queue_full", "full")) == len(refused)


def test_a_wait_that_is_too_long_ends() -> None:
    """A client would wait longer than its own patience for nothing."""
    one = StandIn(answer=partial(tell, pause_s=1))
    limits = {"max_in_flight": 1, "spill_in_flight": 1, "max_wait_s": 0.2}
    with listening(one) as url, gateway(url, **limits) as front, ThreadPoolExecutor(2) as pool:
        assert sorted(answer.status_code for answer in pool.map(lambda _: front.ask(), range(2))) == [200, 429]
        front.expect(1, "refused_total", reason="wait_too_long")


def test_a_client_that_goes_away_ends_its_request_in_the_server() -> None:
    """The server would go on generating for nobody."""
    one = StandIn(answer=partial(tell, pause_s=0.1, pieces=200))
    with listening(one) as url, gateway(url) as front:
        with front.client.stream("POST", "/v1/chat/completions", json={"model": "sql", "stream": True}) as answer:
            next(answer.iter_bytes())
        front.wait_for(lambda: one.ended_early == 1)
        front.wait_for(lambda: front.gateway.inside == 0)
        assert front.gateway.pool.all[0].in_flight == 0
        labels = {"adapter": "sql", "version": "v0001", "endpoint": "/v1/chat/completions", "status": "499"}
        front.expect(1, "requests_total", **labels)


def test_tokens_reach_the_client_when_the_server_sends_them() -> None:
    """Streaming would look like waiting: the gateway would collect the answer first."""
    let_go = threading.Event()

    async def wait_between(asked: dict[str, Any], send: Any) -> None:
        await start_events(send)
        await send({"type": "http.response.body", "body": b'data: {"model":"sql@v0001"}\n\n', "more_body": True})
        while not let_go.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    body = {"model": "sql", "stream": True}
    with listening(StandIn(answer=wait_between)) as url, gateway(url) as front:  # noqa: SIM117
        with front.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.iter_bytes()
            assert next(pieces) == b'data: {"model":"sql@v0001"}\n\n'
            let_go.set()
            assert b"".join(pieces) == b"data: [DONE]\n\n"


def test_large_slow_and_broken_bodies_are_refused() -> None:
    """One client could hold the gateway's memory, or its connections."""
    one = StandIn()
    with listening(one) as url, gateway(url, max_body_bytes=2048, body_timeout_s=0.3) as front:
        for path in ASKING:
            assert front.client.post(path, content=b"{" + b" " * 4000).status_code == 413, path
            chunks = (b" " * 100 for _ in range(100))
            assert front.client.post(path, content=chunks).status_code == 413, path
            for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"model": 5}'):
                refused = front.client.post(path, content=content)
                assert refused.status_code == 400, (path, content)
                assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
        address = front.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
            head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.makefile("rb").readline().split()[1] == b"408"
        assert front.gateway.inside == 0
    assert not one.asked


def test_several_models_stand_behind_one_address() -> None:
    """An adapter would be asked of a server with another base, which answers nonsense or 404."""
    small, large = StandIn("small", ("sql",)), StandIn("large", ("essay",))
    entries = [entry("sql", base="small"), entry("essay", base="large"), entry("new", base="large")]
    with listening(small) as one, listening(large) as two, gateway(one, two, entries=entries) as front:
        for model in ("small", "sql", "sql@v0001", "large", "essay", "new"):
            assert front.ask(model).status_code == 200
        listed = {model["id"]: model["parent"] for model in front.client.get("/v1/models").json()["data"]}
    assert [asked["model"] for asked in small.asked] == ["small", "sql", "sql@v0001"]
    assert [asked["model"] for asked in large.asked] == ["large", "essay", "new"]
    assert listed == {"small": None, "sql": "small", "large": None, "essay": "large"}


def test_one_model_can_be_looked_up_by_each_name_that_answers() -> None:
    """A client that looks its model up first, as OpenAI's library can, would call it missing and not ask."""
    one = StandIn("google/functiongemma-270m-it", ("sql", "mail@v0003"))
    old = {**entry("sql", base=one.base), "version": "v0000", "live": False, "aliases": ["best"]}
    gone = entry("gone", base=one.base)
    with listening(one) as url, gateway(url, entries=[entry("sql", base=one.base), old, gone]) as front:
        listed = {found["id"]: found for found in front.client.get("/v1/models").json()["data"]}
        for name, found in listed.items():
            assert front.client.get(f"/v1/models/{name}").json() == found
        for name in (one.base, "sql@v0000", "sql@v0001", "sql@best"):
            for written in (name, name.replace("/", "%2F").replace("@", "%40")):
                found = front.client.get(f"/v1/models/{written}").json()
                assert (found["id"], found["object"]) == (name, "model")
        for name in ("nobody", "sql@v0009", "sql@worst", "gone", "gone@v0001", "mail@v0001", "sql/", "", "../sql"):
            missing = front.client.get(f"/v1/models/{name}")
            assert missing.status_code == 404, name
            assert set(missing.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/audio/speech", "/nothing"])
def test_a_path_that_is_not_served_is_answered_with_those_that_are(path: str) -> None:
    """The client would have to guess whether the address, the model or the gateway is wrong."""
    one = StandIn()
    with listening(one) as url, gateway(url) as front:
        refused = front.client.post(path, json={"model": "sql", "input": "x"})
        assert refused.status_code == 404
        message = refused.json()["error"]["message"]
        described = front.client.get("/openapi.json").json()["paths"]
        assert all(served in message for served in described)
        assert "POST /v1/chat/completions" in message
        wrong = front.client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert not one.asked


def test_an_upstream_that_is_ill_gets_nothing() -> None:
    """Requests would go to a server whose engine has died."""
    one, two = StandIn(), StandIn()
    with listening(one) as url, listening(two) as other, gateway(url, other) as front:
        one.healthy = False
        front.wait_for(lambda: len(front.gateway.pool.healthy()) == 1)
        one.asked.clear()
        assert all(front.ask(f"adapter-{number}").status_code == 200 for number in range(12))
        assert not one.asked
        assert "HTTP 503" in front.client.get("/api/figures").json()["upstreams"][0]["reason"]


def test_generate_answers_with_text_calls_version_and_figures() -> None:
    """A client without an OpenAI library would have to take the answer apart itself."""

    async def call(asked: dict[str, Any], send: Any) -> None:
        function = {"name": "dim", "arguments": '{"level":3}'}
        message = {"content": None, "tool_calls": [{"type": "function", "function": function}]}
        usage = {"prompt_tokens": 9, "completion_tokens": 4}
        choice = {"message": message, "finish_reason": "tool_calls"}
        await reply(send, {"model": "sql@v0007", "choices": [choice], "usage": usage})

    one = StandIn(answer=call)
    tools = [
        {
            "type": "function",
            "function": {"name": "dim", "parameters": {"type": "object", "properties": {"level": {"type": "string"}}}},
        }
    ]
    with listening(one) as url, gateway(url, entries=[entry("sql", "v0007")]) as front:
        answer = front.client.post("/api/generate", json={"adapter": "sql", "prompt": "darker", "tools": tools}).json()
        assert answer["calls"] == [{"name": "dim", "arguments": {"level": 3}}]
        assert (answer["model"], answer["version"], answer["text"]) == ("sql@v0007", "v0007", "")
        assert answer["usage"] == {"prompt_tokens": 9, "completion_tokens": 4}
        assert answer["schema_violations"] == 1
        assert answer["timings"]["total_s"] > 0
        assert [message["role"] for message in one.asked[0]["messages"]] == ["developer", "user"]
        pair = {"adapter": "sql", "version": "v0007"}
        front.expect(1, "tool_calls_total", **pair)
        front.expect(1, "schema_violations_total", **pair)
        for body in (
            {},
            {"adapter": "a"},
            {"adapter": "a", "model": "b", "prompt": "x"},
            {"adapter": "a", "prompt": "x", "messages": []},
            {"adapter": "a", "prompt": "x", "bogus": 1},
            {"adapter": "a", "prompt": "x", "max_tokens": 0},
        ):
            assert front.client.post("/api/generate", json=body).status_code == 400


def test_generate_streams_text_and_then_the_whole_answer() -> None:
    """A client could show nothing until the answer is complete."""
    with listening(StandIn()) as url, gateway(url) as front:
        text = front.client.post("/api/generate", json={"model": "sql", "prompt": "x", "stream": True}).text
    values = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]
    assert [value.get("text") for value in values] == ["a", "a", "a", "aaa"]
    assert values[-1]["done"] is True
    assert values[-1]["version"] == "v0001"
    assert values[-1]["timings"]["first_token_s"] > 0


def test_the_page_may_run_its_own_script_and_nothing_else() -> None:
    """A name or answer with markup in it could act with the user's key."""
    with gateway(f"http://127.0.0.1:{free_port()}") as front:
        page = front.client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|localStorage|cookie", page.text
        )
        assert not re.search(r'(?:src|href)="(?!data:)', page.text)


def test_time_goes_on_while_the_folder_is_read_and_a_damaged_one_changes_nothing() -> None:
    """One unreadable file would take every adapter's figures and routes away."""
    with listening(StandIn()) as url, gateway(url, entries=[entry("sql")]) as front:
        front.wait_for(lambda: front.metric("adapter_live_version", adapter="sql", version="v0001") == 1)

        def fail() -> list[Any]:
            raise OSError("the drive is gone")

        front.gateway.published._versions = fail
        time.sleep(0.3)
        front.expect(1, "adapter_live_version", adapter="sql", version="v0001")
        assert front.client.get("/api/adapters").json()["adapters"][0]["servers"] == []
        assert front.ask().status_code == 200
