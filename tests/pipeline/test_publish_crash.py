"""Publishing and rollback stopped at every step: killed, or refused by the file system. What was live stays live.

A forked child does the work and dies at step k without any clean-up, or finds the disk full from there on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import adapter_folders
from adapter_folders import CONTRACT, MODEL
from faults import FINISHED, KILLED, REFUSED, fail_from_event, in_child, kill_at_call, kill_at_event
from fgpipe import adapters_folder
from fgpipe.publishing import registry, retention
from fgpipe.publishing.card import card
from fgpipe.validation import gate

EXTRA: dict[str, Any] = {"base": {"id": MODEL.id}, "versions": {}, "git": None}


def publish(root: Path, seed: int) -> registry.PublishedVersion:
    """As with a running server: the adapter is on trial before it becomes a version."""
    trained, adapters = root / f"trained-{seed}", root / "adapters"
    with registry.on_trial(trained, name="sql", base_id=MODEL.id, adapters=adapters) as (served, content):
        found = adapters_folder.resolve(adapters, served)
        assert found is not None
        gate(CONTRACT)(found)
    return registry.publish(
        trained, name="sql", adapters=adapters, check=gate(CONTRACT), manifest_extra=EXTRA, tried=content
    )


def rollback(root: Path) -> None:
    registry.rollback("sql", adapters=root / "adapters")


def prune(root: Path) -> None:
    retention.prune("sql", adapters=root / "adapters", keep=1, loaded=set())


def alias(root: Path) -> None:
    registry.set_alias("sql", "best", "v0001", adapters=root / "adapters")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three trained adapters; the first two published, v0002 live."""
    # A killed process leaves its writes to the kernel; thousands of real ones would only wear the disk.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for seed in range(3):
        adapter_folders.write(tmp_path / f"trained-{seed}", seed=seed)
    # Once outside the child, so that no child spends its steps on imports.
    for seed in range(2):
        publish(tmp_path, seed)
    return tmp_path


def state(root: Path) -> dict[str, dict[str, bytes]]:
    """Every version that can be seen, with its files."""
    return {
        entry.version: {file.name: file.read_bytes() for file in (root / "adapters/sql" / entry.version).iterdir()}
        for entry in registry.versions(root / "adapters")
    }


def restore(root: Path, kept: Path) -> None:
    shutil.rmtree(root / "adapters")
    shutil.copytree(kept, root / "adapters")


def every_step(root: Path, work: Callable[[], Any], fault: Callable[[int], Callable[[], None]]) -> list[int]:
    """Run `work` with `fault` at step 0, 1, 2, … until it finishes; after each, check what a server would see."""
    kept = root / "kept"
    shutil.copytree(root / "adapters", kept)
    before = state(root)
    live = adapters_folder.resolve(root / "adapters", "sql")
    untouched = checked = tree(root)
    statuses: list[int] = []
    while not statuses or statuses[-1] != FINISHED:
        statuses.append(in_child(work, fault(len(statuses))))
        assert statuses[-1] in (KILLED, REFUSED, FINISHED), f"step {len(statuses) - 1}: a traceback"
        left = tree(root)
        if left != checked:
            check(root, before, live, statuses)
        if left != checked or left != untouched:
            restore(root, kept)
        checked = left
        assert len(statuses) < 5000
    return statuses


def tree(root: Path) -> dict[str, bytes]:
    """Everything below the adapters folder, hidden files too: most steps leave what an earlier step left."""
    found = {
        re.sub(r"(staging|candidate|trash)-[^/]*", r"\1", str(path)): path for path in (root / "adapters").rglob("*")
    }
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in found.items()}


def check(root: Path, before: dict[str, dict[str, bytes]], live: Path | None, statuses: list[int]) -> None:
    step = f"step {len(statuses) - 1}"
    after = state(root)
    assert {version: after[version] for version in before} == before, f"{step}: a published version changed"
    for version in after.keys() - before.keys():
        folder = root / "adapters/sql" / version
        gate(CONTRACT)(folder)
        manifest = json.loads(after[version].pop("manifest.json"))
        assert after[version].pop("README.md").decode() == card(manifest), f"{step}: half a card"
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in after[version].items()}
        assert digests == {file: facts["sha256"] for file, facts in manifest["files"].items()}, (
            f"{step}: half a version"
        )
    assert not any(entry.problem for entry in registry.versions(root / "adapters")), step
    if statuses[-1] == FINISHED:
        return
    now = adapters_folder.resolve(root / "adapters", "sql")
    # The very last steps come after the pointer has moved: then the new version is live, and whole.
    assert now is not None
    assert now == live or now.name in after, step
    publish(root, 2)
    assert adapters_folder.resolve(root / "adapters", "sql") is not None
    weights = adapters_folder.resolve(root / "adapters", "sql") / "adapter_model.safetensors"  # type: ignore[operator]
    assert weights.read_bytes() == (root / "trained-2/adapter_model.safetensors").read_bytes(), f"{step}: cannot go on"
    hidden = [name for name in os.listdir(root / "adapters/sql") if name.startswith(".") and name != ".lock"]
    assert hidden == [], f"{step}: rubbish stays"


@pytest.mark.parametrize("fault", [kill_at_event, fail_from_event])
def test_publish_stopped_at_every_file_operation(root: Path, fault: Callable[[int], Callable[[], None]]) -> None:
    """A power cut or a full disk while publishing would take the live adapter down, or serve half of the new one."""
    statuses = every_step(root, lambda: publish(root, 2), fault)
    assert len(statuses) > 40
    assert set(statuses[:-1]) <= ({KILLED} if fault is kill_at_event else {REFUSED})


def test_publish_killed_at_every_call(root: Path) -> None:
    """The same between operations: after some bytes were written, before they were made durable."""
    statuses = every_step(root, lambda: publish(root, 2), kill_at_call)
    assert set(statuses[:-1]) == {KILLED}
    assert len(statuses) > 100


@pytest.mark.parametrize("work", [rollback, alias])
@pytest.mark.parametrize("fault", [kill_at_event, kill_at_call, fail_from_event])
def test_rollback_and_alias_stopped_at_every_step(
    root: Path, work: Callable[[Path], None], fault: Callable[[int], Callable[[], None]]
) -> None:
    """An interrupted rollback would leave no live version, in the moment in which one is needed most."""
    statuses = every_step(root, lambda: work(root), fault)
    assert len(statuses) > 5


@pytest.mark.parametrize("fault", [kill_at_event, kill_at_call])
def test_prune_stopped_at_every_step(root: Path, fault: Callable[[int], Callable[[], None]]) -> None:
    """An interrupted clean-up would leave half a version to be served, or take away what is live."""
    publish(root, 2)
    kept = root / "kept"
    shutil.copytree(root / "adapters", kept)
    before = state(root)
    step, status = 0, KILLED
    while status != FINISHED:
        status = in_child(lambda: prune(root), fault(step))
        after = state(root)
        assert after in (before, {version: before[version] for version in ("v0002", "v0003")}), step
        assert adapters_folder.resolve(root / "adapters", "sql") == root / "adapters/sql/v0003"
        restore(root, kept)
        step += 1
    assert step > 10


def test_the_first_publish_killed_at_every_step_leaves_nothing_to_serve(root: Path) -> None:
    """A name would appear in the server before anything whole stands behind it."""
    folder = root / "adapters"
    steps = 0
    while True:
        shutil.rmtree(folder)
        folder.mkdir()
        status = in_child(lambda: publish(root, 0), kill_at_event(steps))
        found = adapters_folder.resolve(folder, "sql")
        if found is not None:
            gate(CONTRACT)(found)
        if status == FINISHED:
            break
        assert status == KILLED
        assert publish(root, 0).version in ("v0001", "v0002")
        steps += 1
    assert steps > 40


def test_a_number_given_to_a_killed_publish_is_not_given_again(root: Path) -> None:
    """Clients that asked for `sql@v0003` while it was there would be answered from its cache as another v0003."""
    kept = root / "kept"
    shutil.copytree(root / "adapters", kept)
    step, seen = 0, False
    while in_child(lambda: publish(root, 2), kill_at_event(step)) != FINISHED:
        if (root / "adapters/sql/v0003").is_dir():
            seen = True
            shutil.rmtree(root / "adapters/sql/v0003")
            assert publish(root, 2).version == "v0004"
        restore(root, kept)
        step += 1
    assert seen
