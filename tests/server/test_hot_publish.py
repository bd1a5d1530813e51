"""Publishing and rolling back while clients ask: what they get, and what becomes of servers that lag or fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from faults import FINISHED, KILLED, in_child, kill_at_event
from fgpipe import adapters_folder, releasing, validation
from fgpipe.config import Config, PathsConfig
from fgpipe.engines.http import client
from fgpipe.errors import PublishError, ServeError
from fgpipe.publishing import registry, retention
from fgpipe.serving import api, live
from fgpipe.serving import sync as servers
from tiny_server import Served, free_port

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

CLIENTS = 64
CHANGES = 50
NAMES = ("north", "south", "west")
PROMPT = "<bos><start_of_turn>user\nHow many orders came in?<end_of_turn>\n<start_of_turn>model\n"
TOKENS = 4


def settings(served: Served, name: str, **publish: Any) -> Config:
    """The configuration a user would publish `name` with."""
    return Config.model_validate(
        {
            "model": served.model,
            "server": served.server.server,
            "lora": {"r": 8},
            "publish": {"name": name, "servers": (served.server.base_url,), **publish},
            "paths": {"adapters": str(served.adapters)},
        }
    )


def release(served: Served, name: str, seed: int, **publish: Any) -> str:
    """Publish the adapter of `seed` as a user does; its version."""
    config = settings(served, name, **publish)
    contract = validation.contract(config.model, config.server)
    manifest = {"base": {"id": config.model.id}}
    version = releasing.release(
        config, served.make(seed), check=validation.gate(contract), manifest=manifest, trial=None
    )
    return version.version


@dataclass(frozen=True)
class Change:
    """One publish or rollback: when it began, when it returned, and what is live after it."""

    name: str
    began: float
    returned: float
    version: str


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent, when its answer was complete, which version answered with what tokens."""

    name: str
    sent: float
    done: float
    version: str
    tokens: tuple[int, ...]


def test_fifty_changes_under_load_lose_nothing_and_serve_nothing_stale(served: Served) -> None:
    """Clients would see errors, or the old version's answers after a rollback was reported done."""
    seeds: dict[str, int] = {}

    def change(name: str, seed: int | None) -> Change:
        """Publish the adapter of `seed`, or roll back."""
        began = time.monotonic()
        config = settings(served, name)
        version = releasing.rollback(config, name).version if seed is None else release(served, name, seed)
        if seed is not None:
            seeds[f"{name}@{version}"] = seed
        return Change(name, began, time.monotonic(), version)

    changes = [change(name, 100 + place) for place, name in enumerate(NAMES)]
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [pool.submit(ask_until, served, NAMES[place % 3], place % 2 == 0, stop) for place in range(CLIENTS)]
        try:
            changes += [change(NAMES[step % 3], None if step % 4 == 3 else 200 + step) for step in range(CHANGES)]
        finally:
            stop.set()
        answers = [answer for job in jobs for answer in job.result()]
    tokens = {
        version: tuple(served.expected(served.make(seed), PROMPT, tokens=TOKENS)) for version, seed in seeds.items()
    }
    assert len(set(tokens.values())) > 30, "the versions must answer differently for this test to mean anything"
    assert len(answers) > CLIENTS
    for answer in answers:
        assert answer.version in allowed(answer, changes), answer
        assert answer.tokens == tokens[answer.version], "an answer that mixes versions"
    print(f"\n{len(answers)} requests during {len(changes)} changes: none failed, none by a version that was not live")


def ask_until(served: Served, name: str, stream: bool, stop: threading.Event) -> list[Answered]:
    """Ask again and again; a request that fails raises."""
    openai = client(served.server.base_url)
    found = []
    while not stop.is_set():
        sent = time.monotonic()
        version, tokens = complete(openai, name, stream=stream)
        found.append(Answered(name, sent, time.monotonic(), version, tokens))
    return found


def complete(openai: OpenAI, name: str, *, stream: bool) -> tuple[str, tuple[int, ...]]:
    """The version that answered, and the ids of its tokens."""
    request: dict[str, Any] = {"model": name, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    request["extra_body"] = {"add_special_tokens": False, "return_token_ids": True}
    answers = (
        list(openai.completions.create(**request, stream=True)) if stream else [openai.completions.create(**request)]
    )
    assert len({answer.model for answer in answers}) == 1, "an answer by two versions"
    ids = [
        id_ for answer in answers for choice in answer.choices for id_ in (choice.model_extra or {})["token_ids"] or ()
    ]
    return answers[0].model, tuple(ids)


def allowed(answer: Answered, changes: list[Change]) -> set[str]:
    """What may answer: the version live when the request was sent, and any whose change began before it was done."""
    mine = [change for change in changes if change.name == answer.name]
    settled = [change for change in mine if change.returned <= answer.sent]
    moving = [change for change in mine if change.returned > answer.sent and change.began < answer.done]
    return {f"{change.name}@{change.version}" for change in [*settled[-1:], *moving]}


def test_a_server_that_lags_is_repaired_and_then_left_alone(served: Served) -> None:
    """A publish killed between folder and server would leave the server with the old version for good."""
    url = served.server.base_url
    release(served, "lag", 31)
    release(served, "lag", 32)
    served.point("lag", "v0001")  # as a process that dies before it reaches the server
    assert live.answering(url, "lag") == "v0002"
    first, second = (servers.sync([url], served.adapters)[0] for _ in range(2))
    assert servers.Repair("lag", "lag@v0002", "lag@v0001") in first.repairs
    assert live.answering(url, "lag") == "v0001"
    assert (second.state, second.repairs) == ("in step", ())
    shutil.rmtree(served.adapters / "lag")
    assert servers.Repair("lag", "lag@v0001", None) in servers.sync([url], served.adapters)[0].repairs
    with pytest.raises(api.RefusedError):
        live.answering(url, "lag")


def test_publish_and_rollback_killed_anywhere_leave_an_answer_and_sync_brings_the_right_one(served: Served) -> None:
    """A power cut on the machine that publishes would leave the server with a version that nobody chose."""
    url = served.server.base_url
    release(served, "cut", 61)
    release(served, "cut", 62)
    trained = served.make(63), served.make(64)  # by us, so that no child spends its steps on it
    assert all(folder.is_dir() for folder in trained)
    released = False
    for step in range(0, 800, 5):
        work = (
            (lambda: releasing.rollback(settings(served, "cut"), "cut"))
            if released
            else (lambda step=step: release(served, "cut", 63 + step % 2))  # type: ignore[misc]
        )
        status = in_child(work, kill_at_event(step))
        assert status in (KILLED, FINISHED), step
        assert live.answering(url, "cut") in {entry.version for entry in registry.versions(served.adapters)}, step
        assert servers.sync([url], served.adapters)[0].state in ("in step", "repaired"), step
        current = adapters_folder.resolve(served.adapters, "cut")
        assert current is not None
        assert live.answering(url, "cut") == current.name, step
        if status == FINISHED:
            if released:
                break
            released = True
    assert released, "the loop must reach the end of a publish for this test to mean anything"


def test_a_number_given_twice_is_not_taken_for_the_version_it_was(served: Served) -> None:
    """Whoever deletes a folder and publishes anew would be told that the new weights answer, while the old ones do."""
    url = served.server.base_url
    release(served, "anew", 75)
    assert served.answer("anew", PROMPT) == served.expected(served.make(75), PROMPT)
    shutil.rmtree(served.adapters / "anew")
    assert release(served, "anew", 76) == "v0001"
    assert served.answer("anew", PROMPT) == served.expected(served.make(76), PROMPT)
    assert servers.sync([url], served.adapters)[0].state == "in step"
    assert live.answering(url, "anew") == "v0001"


def test_a_server_of_another_folder_is_never_taken_for_one_of_ours(served: Served, tmp_path: Path) -> None:
    """Publishing into the wrong folder would be reported as live, while clients get other weights."""
    url = served.server.base_url
    release(served, "folder", 77)
    here = settings(served, "folder").model_copy(update={"paths": PathsConfig(adapters=str(tmp_path))})
    shutil.copytree(served.adapters / "folder" / "v0001", tmp_path / "folder" / "v0001")
    manifest = json.loads((tmp_path / "folder/v0001/manifest.json").read_text())
    (tmp_path / "folder/v0001/manifest.json").chmod(0o644)
    (tmp_path / "folder/v0001/manifest.json").write_text(json.dumps({**manifest, "content": "f" * 64}))
    (tmp_path / "folder/channel.json").write_text(json.dumps({"current": "v0001", "aliases": {}}))
    with pytest.raises(ServeError, match="expected v0001"):
        releasing.set_alias(here, "folder@best", "v0001")
    with pytest.raises(ServeError, match="of other files"):
        live.refresh(url, "folder", expect="v0001", content="f" * 64)
    assert servers.sync([url], tmp_path)[0].state == "failed"
    empty = servers.sync([url], tmp_path / "empty")[0]
    assert (empty.state, empty.repairs) == ("failed", ())
    assert "expected nobody" in " ".join(empty.problems)
    assert served.answer("folder", PROMPT) == served.expected(served.make(77), PROMPT)


def test_aliases_move_in_running_servers_too(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Clients of an alias would keep the version it meant when it was first asked for."""
    url = served.server.base_url
    for seed in (71, 72):
        release(served, "named", seed)
    config = settings(served, "named")
    for version in ("v0001", "v0002"):
        releasing.set_alias(config, "named@best", version)
        assert live.answering(url, "named@best") == version
    releasing.set_alias(config, "named@best", None)
    with pytest.raises(api.RefusedError):
        live.answering(url, "named@best")
    for request, version in (
        ("named", "v0001"),
        ("named@best", "v0009"),
        ("nobody@best", "v0001"),
        ("named@v1", "v0001"),
    ):
        with pytest.raises(PublishError):
            releasing.set_alias(config, request, version)


def test_a_damaged_version_is_never_taken_up(served: Served) -> None:
    """One bad file would take the adapter out of service in every server, and sync would do it again each time."""
    release(served, "frail", 33)
    release(served, "frail", 34)
    url = served.server.base_url
    folder = served.adapters / "frail"
    (folder / "v0001" / "adapter_model.safetensors").chmod(0o644)
    (folder / "v0001" / "adapter_model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(PublishError, match="changed after it was published"):
        releasing.rollback(settings(served, "frail"), "frail")
    served.point("frail", "v0001")
    report = servers.sync([url], served.adapters)[0]
    assert report.state in ("failed", "repaired"), "v0001 may still be in the engine's memory, whole"
    assert live.answering(url, "frail") in ("v0001", "v0002")
    served.point("frail", "v0002")
    servers.sync([url], served.adapters)
    assert live.answering(url, "frail") == "v0002"


def test_one_server_down_does_not_keep_the_others_from_the_new_version(served: Served) -> None:
    """A box that is off would block every publish, or be reported as done."""
    down = f"http://127.0.0.1:{free_port()}"
    release(served, "pair", 35)
    assert release(served, "pair", 36, servers=(down, served.server.base_url)) == "v0002"
    assert live.answering(served.server.base_url, "pair") == "v0002"
    states = [report.state for report in servers.sync([down], served.adapters)]
    assert states == ["not running"]


def test_a_server_that_stops_answering_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish would report success while clients of that server get the old version."""
    release(served, "stuck", 37)
    monkeypatch.setattr(live, "_administer", broken(live._administer))
    with pytest.raises(ServeError, match="not in every server"):
        release(served, "stuck", 38)
    monkeypatch.undo()
    assert live.answering(served.server.base_url, "stuck") == "v0001"
    servers.sync([served.server.base_url], served.adapters)
    assert live.answering(served.server.base_url, "stuck") == "v0002"


def broken(real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but the connection breaks when it is told to take up a version."""

    def administer(url: str, body: Any = None, **rest: Any) -> Any:
        if body is not None:
            raise ConnectionResetError("connection reset by peer")
        return real(url, body, **rest)

    return administer


def test_old_versions_go_unless_somebody_may_need_them(served: Served) -> None:
    """The folder would grow for ever; or a version that clients use would be deleted under the server."""
    url = served.server.base_url
    for seed in (41, 42, 43):
        release(served, "many", seed)
    assert live.answering(url, "many@v0001") == "v0001"
    registry.set_alias("many", "best", "v0002", adapters=served.adapters)
    for seed in (44, 45):
        release(served, "many", seed)
    config = settings(served, "many", keep_versions=1)
    kept = lambda: {entry.version for entry in registry.versions(served.adapters) if entry.name == "many"}  # noqa: E731
    releasing.prune(config, "many")
    # v0001 was asked for, v0002 has an alias, v0004 is the previous, v0005 live; v0003 is in memory still.
    assert kept() >= {"v0001", "v0002", "v0004", "v0005"}
    retention.prune("many", adapters=served.adapters, keep=1, loaded={"many@v0001"})
    assert kept() == {"v0001", "v0002", "v0004", "v0005"}
    for version in ("v0001", "v0002", "v0005"):
        assert live.answering(url, f"many@{version}") == version


def test_sync_as_a_user_types_it(served: Served, tmp_path: Path) -> None:
    """A script could not tell whether the servers are in step, or a user see which slots are in use."""
    release(served, "typed", 51)
    release(served, "typed", 52)
    served.point("typed", "v0001")
    config = tmp_path / "conf" / "model"
    config.mkdir(parents=True)
    (config / "random.yaml").write_text(json.dumps(served.model.model_dump(mode="json")))
    words = ["model=random", f"paths.adapters={served.adapters}", f"publish.servers=[{served.server.base_url}]"]

    def sync(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fgpipe", "sync", *words, *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    done = sync("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)[0]
    assert {"name": "typed", "before": "typed@v0002", "now": "typed@v0001"} in report["repairs"]
    assert report["status"]["max_loras"] == 4
    shown = sync()
    assert shown.returncode == 0
    assert "in step" in shown.stdout
    assert "slots in use" in shown.stdout
    assert sync("--watch", "--json").returncode == 2
