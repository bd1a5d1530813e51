"""The comparison of served and trained adapters, against a real server: damage is caught, sound adapters pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai import NotFoundError
from safetensors.numpy import load_file, save_file

import tiny_random
from fgpipe import adapters_folder, pipeline
from fgpipe.artifacts import Adapter
from fgpipe.config import Config, LoraConfig, ModelConfig, PathsConfig, PublishConfig, ServerConfig
from fgpipe.engines.http import client
from fgpipe.errors import ServeError, ValidationError
from fgpipe.publishing import registry
from fgpipe.serving import VllmServer, api, live
from fgpipe.validation import parity
from fgpipe.validation.parity import ParityReport
from tiny_server import SHAPE, Served, free_port
from truth_cases import layer, mapped, only, renamed, shuffled

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PROMPTS = [
    f"<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
    for question in ("How many orders came in?", "turn it up", "7 times 8", "Hello")
]

DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "zeroed": (mapped(lambda name, array: array * ("lora_A" in name)), "not applied"),
    "keys-of-another-library": (renamed("base_model.model.model.layers", "transformer.h"), "not applied"),
    "shuffled": (shuffled, "drifted"),
    "half-applied": (only(lambda name: layer(name) == 0), "drifted"),
    "one-layer-lost": (only(lambda name: layer(name) != 1), "drifted"),
    "a-little-stronger": (mapped(lambda name, array: array * (1.05 if "lora_B" in name else 1)), "drifted"),
}


@pytest.fixture(scope="module")
def served_in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that computes as those on a GPU do, in bfloat16."""
    folder = tmp_path_factory.mktemp("bfloat16")
    model = tiny_random.save(folder / "base", shape=SHAPE).model_copy(update={"dtype": "bfloat16"})
    config = ServerConfig(port=free_port(), max_model_len_tokens=512, max_num_seqs=16, max_lora_rank=8, max_loras=4)
    with VllmServer(model, config, adapters=folder / "adapters", log=folder / "vllm.log") as server:
        yield Served(server, model, folder / "adapters", folder / "workshop")


def serve_damaged(served: Served, name: str, change: Callable[[Any], Any]) -> None:
    """Publish the adapter of seed 1, changed, as `name`."""
    folder = served.publish(name, 1)
    save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")


def check(served: Served, name: str, *, seed: int = 1) -> ParityReport:
    """The adapter of `seed` as trained, against `name` in the server."""
    return parity.check(served.model, served.make(seed), PROMPTS, base_url=served.server.base_url, served=name)


def test_a_sound_adapter_passes_with_room_to_spare(served: Served) -> None:
    """Sound adapters would be refused now and then, and people would learn to skip the check."""
    served.publish("sound", 1)
    report = check(served, "sound")
    assert report.verdict == "same as trained"
    assert report.distances is not None
    assert report.distances.drift.max < report.thresholds.max / 10
    assert report.distances.drift.mean < report.thresholds.mean / 10
    assert report.distances.drift.agreement == 1
    found = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert (found["vllm"], found["prompts"], found["dtype"]) == ("0.32.0", len(PROMPTS), "float32")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_caught_by_its_own_verdict(served: Served, kind: str) -> None:
    """Users would get the base's answers, or ones nobody trained, under the adapter's name."""
    change, verdict = DAMAGE[kind]
    serve_damaged(served, kind, change)
    report = check(served, kind)
    assert report.verdict == verdict, report.line
    with pytest.raises(ValidationError, match=verdict):
        parity.require_parity(report)


def test_another_tasks_adapter_is_caught(served: Served) -> None:
    """Two names mixed up: each task would be answered by the other's specialist."""
    served.publish("foreign", 2)
    assert check(served, "foreign").verdict == "drifted"


@pytest.mark.slow
def test_bfloat16_tells_the_same_apart(served_in_bfloat16: Served) -> None:
    """On a GPU, rounding would hide damage, or be taken for it."""
    served = served_in_bfloat16
    served.publish("sound", 1)
    served.publish("foreign", 2)
    verdicts = {"sound": "same as trained", "foreign": "drifted"}
    for kind in ("zeroed", "shuffled", "half-applied"):
        serve_damaged(served, kind, DAMAGE[kind][0])
        verdicts[kind] = DAMAGE[kind][1]
    reports = {name: check(served, name) for name in verdicts}
    for report in reports.values():
        print(report.served, report.line, report.distances and report.distances.base_drift.mean)
    assert {name: report.verdict for name, report in reports.items()} == verdicts


def test_the_place_named_is_where_the_server_differs(served: Served) -> None:
    """The one place a user would look at would be the wrong one; checked by letting the server generate there."""
    serve_damaged(served, "place", DAMAGE["one-layer-lost"][0])
    report = check(served, "place")
    assert report.distances is not None
    place = report.distances.drift.place
    exemplar = parity.reference(served.model, served.make(1), PROMPTS).exemplars[place.prompt - 1]
    assert exemplar.answer[place.token - 1] == place.token_id
    with client(served.server.base_url) as connection:
        answer = connection.completions.create(
            model="place",
            prompt=exemplar.prompt + exemplar.answer[: place.token - 1],
            max_tokens=1,
            logprobs=0,
            extra_body={"logprob_token_ids": [place.token_id], "return_tokens_as_token_ids": True},
        )
    assert answer.choices[0].logprobs is not None
    top = answer.choices[0].logprobs.top_logprobs
    assert top is not None
    assert top[0][f"token_id:{place.token_id}"] == pytest.approx(place.found, abs=1e-3)
    assert abs(place.found - place.expected) == report.distances.drift.max


def test_a_name_the_server_does_not_have_is_refused(served: Served) -> None:
    """A server that will not load the adapter would look like a crash of ours."""
    report = check(served, "nobody")
    assert report.verdict == "refused"
    assert "nobody" in report.line
    json.dumps(report.as_json(), allow_nan=False)


def test_no_server_is_an_error_and_no_verdict(served: Served) -> None:
    """A server that is down would be taken for a bad adapter."""
    with pytest.raises(ServeError):
        parity.check(served.model, served.make(1), PROMPTS, base_url=f"http://127.0.0.1:{free_port()}", served="x")
    with pytest.raises(ValidationError):
        parity.check(served.model, served.make(1), [], base_url=served.server.base_url, served="red")


def test_other_requests_answer_as_before_while_an_adapter_is_on_trial(served: Served) -> None:
    """The check of a new adapter would disturb those in use, or leave its trial name behind."""
    url = served.server.base_url
    before = served.answer("red", PROMPTS[0])
    with registry.on_trial(served.make(9), name="tried", base_id=served.model.id, adapters=served.adapters) as (
        name,
        _,
    ):
        assert check(served, name, seed=9).passed
        assert served.answer("red", PROMPTS[0]) == before
        assert name not in {entry["id"] for entry in api.models(url)}
    live.forget(url, name)
    status = live.status(url)
    assert status is not None
    assert name not in {*status.answers, *status.memory, *status.evicted}
    with pytest.raises(NotFoundError):
        client(url).completions.create(model=name, prompt=PROMPTS[0], max_tokens=1)


@pytest.mark.slow
def test_validate_live_judges_a_folder_without_a_running_server(served: Served, tmp_path: Path) -> None:
    """Nobody could try an adapter on vLLM before it is published."""
    model = model_words(served.model)
    words = [sys.executable, "-m", "fgpipe", "validate", str(served.make(1)), "--live", "--json", *model]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["parity"]["verdict"] == "same as trained"
    assert "Traceback" not in done.stderr


def model_words(model: ModelConfig) -> list[str]:
    """The words that configure `model` on the command line."""
    shape = [f"model.shape.{key}={value}" for key, value in model.shape.model_dump().items()]
    return [
        "model=tiny",
        f"model.name={model.name}",
        f"model.id={model.id}",
        f"model.path={model.path}",
        "server.max_model_len_tokens=4096",
        "publish.parity_prompts=4",
        *shape,
    ]


def publishing(served: Served, seed: int, name: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What `publish` needs, without a training run: the adapter of `seed`, and held-out rows."""
    folder = served.workshop / f"run-{seed}"
    shutil.copytree(served.make(seed), folder, dirs_exist_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": served.model.id}))
    rows = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    monkeypatch.setattr(pipeline, "train", lambda config: Adapter(folder, {}))
    monkeypatch.setattr(pipeline, "format_dataset", lambda config: SimpleNamespace(examples=lambda: rows))
    monkeypatch.setattr(pipeline, "scores", lambda config: None)
    monkeypatch.setattr(pipeline, "validate", lambda config: None)
    monkeypatch.setattr(pipeline, "provenance", lambda config, **more: {"base": {"id": served.model.id}})
    return Config(
        model=served.model,
        server=served.server.server,
        lora=LoraConfig(r=4),
        publish=PublishConfig(name=name),
        paths=PathsConfig(adapters=str(served.adapters)),
    )


def test_publish_keeps_what_the_running_server_made_of_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version would not say whether its server ever answered as it was trained, or claim so though nobody looked."""
    config = publishing(served, 21, "gated", monkeypatch)
    version = pipeline.publish(config)
    found = json.loads((version.path / "manifest.json").read_text())["parity"]
    assert (found["verdict"], found["prompts"]) == ("same as trained", len(PROMPTS))
    assert found["line"] in (version.path / "README.md").read_text()
    version = pipeline.publish(publishing(served, 22, "gated", monkeypatch), parity=False)
    assert json.loads((version.path / "manifest.json").read_text())["parity"] == "skipped (--no-parity)"
    unreached = config.model_copy(update={"server": config.server.model_copy(update={"port": free_port()})})
    publishing(served, 23, "gated", monkeypatch)
    version = pipeline.publish(unreached)
    assert json.loads((version.path / "manifest.json").read_text())["parity"].startswith("not run")


def test_publish_refuses_what_the_server_answers_otherwise(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate would look, and let everything through."""
    config = publishing(served, 24, "refused", monkeypatch)
    compare = parity.compare
    monkeypatch.setattr(parity, "compare", lambda known, **more: compare(known, **{**more, "served": "blue"}))
    with pytest.raises(ValidationError, match="drifted"):
        pipeline.publish(config)
    assert adapters_folder.resolve(served.adapters, "refused") is None
    assert list((served.adapters / "refused").iterdir()) == [], "nothing is left behind"
