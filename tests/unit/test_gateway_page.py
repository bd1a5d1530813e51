"""The page in a real browser, driven as a user would: Debian's `chromium` and `chromium-driver`, if they are there."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_running import KEY, Fronted, StandIn, gateway, listening, reply
from tiny_server import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no browser: apt-get install chromium chromium-driver",
    ),
]

MARKUP = "<img src=x onerror=\"document.title='taken over'\">"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Under this key WebDriver gives an element's id."""


class Browser:
    """A headless browser, by the few WebDriver commands that are needed."""

    def __init__(self, url: str) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1100"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self.client = httpx.Client(base_url=url, timeout=60)
        session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.path = f"/session/{session['sessionId']}"

    def _post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self._post(f"{self.path}/url", {"url": url})

    def element(self, css: str) -> str:
        found: str = self._post(f"{self.path}/element", {"using": "css selector", "value": css})[ELEMENT]
        return found

    def type(self, css: str, text: str) -> None:
        self._post(f"{self.path}/element/{self.element(css)}/value", {"text": text})

    def click(self, css: str) -> None:
        self._post(f"{self.path}/element/{self.element(css)}/click", {})

    def run(self, script: str) -> Any:
        return self._post(f"{self.path}/execute/sync", {"script": script, "args": []})

    def text(self, css: str = "body") -> str:
        return str(self.run(f"return document.querySelector('{css}').innerText"))

    def wait_for(self, text: str, css: str = "body") -> None:
        until = time.monotonic() + 20
        while text not in self.text(css):
            assert time.monotonic() < until, f"{text!r} is not in {self.text(css)!r}"
            time.sleep(0.1)

    def complaints(self) -> list[str]:
        return [str(entry["message"]) for entry in self._post(f"{self.path}/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.client.get(f"{self.path}/screenshot").json()["value"]))

    def close(self) -> None:
        self.client.delete(self.path)
        self.client.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    port = free_port()
    process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/status").json()["value"]["ready"]:
                    break
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.1)
        opened = Browser(f"http://127.0.0.1:{port}")
        yield opened
        opened.close()
    finally:
        process.terminate()
        process.wait()


def entry(name: str, version: str, *, live: bool, value: float) -> dict[str, Any]:
    headline = {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 400}
    return {
        "name": name,
        "version": version,
        "live": live,
        "aliases": [] if live else ["best"],
        "base": "base",
        "created": "2026-11-26T02:00:00Z",
        "headline": headline,
        "base_headline": {**headline, "value": 0.09, "low": 0.07, "high": 0.12},
        "problem": "",
    }


ENTRIES = [
    entry("sql", "v0002", live=True, value=0.875),
    entry("sql", "v0001", live=False, value=0.81),
    {**entry("email", "v0001", live=True, value=0.862), "problem": MARKUP},
]


async def call(asked: dict[str, Any], send: Any) -> None:
    """A call and text with markup in it."""
    function = {"name": "run_sql", "arguments": '{"query":"SELECT COUNT(*) FROM doctors"}'}
    message = {"content": MARKUP, "tool_calls": [{"type": "function", "function": function}]}
    usage = {"prompt_tokens": 61, "completion_tokens": 24}
    await reply(
        send, {"model": "sql@v0002", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
    )


@pytest.fixture
def front() -> Iterator[Fronted]:
    with listening(StandIn(models=("sql", "email"), answer=call)) as url, gateway(url, entries=ENTRIES) as front:
        yield front


def test_a_user_sees_what_is_published_and_tries_a_call(browser: Browser, front: Fronted) -> None:
    """The page would be empty, wrong, or let other people's text act with the user's key."""
    browser.open(front.url)
    browser.wait_for("Authorization: Bearer", "#state")
    assert "87.5 %" not in browser.text()
    browser.type("#key", KEY)
    browser.click("#prompt")
    browser.wait_for("87.5 % (84.5 % to 90.5 %)", "#adapters")
    browser.wait_for("live", "#adapters")
    browser.wait_for(MARKUP, "#adapters")
    browser.wait_for("up", "#upstreams")
    browser.type("#model", "sql")
    browser.type("#prompt", "How many doctors do we have?")
    browser.type("#tools", '[{"type": "function", "function": {"name": "run_sql"}}]')
    browser.click("#form button")
    browser.wait_for('run_sql({"query":"SELECT COUNT(*) FROM doctors"})', "#answer")
    browser.wait_for(MARKUP, "#answer")
    browser.wait_for("sql@v0002, 61 tokens in, 24 out", "#answer")
    browser.wait_for("v0002\t1\t0", "#figures")
    if folder := os.environ.get("FGPIPE_SCREENSHOTS"):
        browser.screenshot(Path(folder) / "gateway.png")
    assert browser.run("return document.title") == "fgpipe"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert not [line for line in browser.complaints() if "Content Security Policy" in line]


def test_a_mistake_is_told_on_the_page(browser: Browser, front: Fronted) -> None:
    """The user would look at an empty box."""
    browser.open(front.url)
    browser.type("#key", "wrong")
    browser.type("#model", "sql")
    browser.type("#prompt", "x")
    browser.click("#form button")
    browser.wait_for("got none or a wrong one", "#answer")
    browser.type("#tools", "not JSON")
    browser.click("#form button")
    browser.wait_for("JSON", "#answer")
