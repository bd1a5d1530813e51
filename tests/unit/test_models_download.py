"""`python -m fgpipe download` as a user runs it, against a hub of our own on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stand_in_hub
from fgpipe.errors import ModelError
from fgpipe.models import hub_files
from stand_in_hub import COMMIT, Hub, safetensors

FILES = {
    "config.json": b'{"architectures": ["X"]}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"\x00\x01",
    "chat_template.jinja": b"{{ x }}",
    "model.safetensors": safetensors(300_000),
    "pytorch_model.bin": b"pickle",
    "modeling_x.py": b"import os",
    "onnx/model.onnx": b"other",
    "consolidated.safetensors": safetensors(8),
    "README.md": b"# x",
}
WANTED = {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.safetensors"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with stand_in_hub.running(Hub(dict(FILES))) as running:
        yield running


def command(*words: str, **_: object) -> list[str]:
    return [sys.executable, "-m", "fgpipe", "download", *words]


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    given = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    return {**os.environ, **given, "HF_HUB_DISABLE_XET": "1", **more}


def run(hub: Hub, tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Download `words` into tmp_path/models."""
    return subprocess.run(
        command(*words, f"to={tmp_path / 'models'}"),
        env=environment(hub, tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_only_what_is_needed_arrives_under_the_models_name(hub: Hub, tmp_path: Path) -> None:
    """A pickle or code of a stranger would lie on the disk, or a file would be missing when the server starts."""
    done = run(hub, tmp_path, f"org/small@{COMMIT}", "--json")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "small"
    assert {path.name for path in folder.iterdir()} == {*WANTED, "download.json"}
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    (found,) = json.loads(done.stdout)
    assert (found["id"], found["commit"], found["path"]) == ("org/small", COMMIT, str(folder))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


@pytest.mark.parametrize("request_", ["org/small", "org/small@main"])
def test_a_moving_name_is_resolved_and_the_commit_said(hub: Hub, tmp_path: Path, request_: str) -> None:
    """Nobody could say later which weights these were, or get the same again."""
    done = run(hub, tmp_path, request_)
    assert done.returncode == 0, done.stderr
    assert f"org/small@{COMMIT}" in done.stderr
    assert f"model.revision={COMMIT}" in done.stdout
    assert json.loads((tmp_path / "models" / "small" / "download.json").read_text())["commit"] == COMMIT


def test_broken_connections_are_continued_not_begun_anew(hub: Hub, tmp_path: Path) -> None:
    """A large model would never arrive over a line that breaks now and then."""
    hub.break_after, hub.breaks = 100_000, 2
    assert run(hub, tmp_path, f"org/small@{COMMIT}").returncode == 0
    assert [line.partition(" bytes=")[2] for line in hub.asked if "model.safetensors" in line] == [
        "",
        "100000-",
        "200000-",
    ]
    assert (tmp_path / "models" / "small" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_line_that_only_breaks_ends_in_one_line_and_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    """The command would hang for ever, or throw away what had arrived."""
    hub.break_after, hub.breaks = 0, 99
    done = run(hub, tmp_path, f"org/small@{COMMIT}")
    assert done.returncode == 2
    assert "the connection broke 5 times" in done.stderr
    assert "Traceback" not in done.stderr
    hub.breaks = 0
    hub.asked.clear()
    assert run(hub, tmp_path, f"org/small@{COMMIT}").returncode == 0
    assert not any("config.json" in line for line in hub.asked)


def test_a_killed_download_goes_on_and_leaves_no_half_model(hub: Hub, tmp_path: Path) -> None:
    """A server would start on half a model; or every byte would have to come again."""
    hub.break_after, hub.breaks = 100_000, 1
    hub.files["model.safetensors"] = safetensors(400_000)
    part = tmp_path / "models" / f"small.{COMMIT[:12]}.part" / "model.safetensors.part"
    with subprocess.Popen(
        command(f"org/small@{COMMIT}", f"to={tmp_path / 'models'}"),
        env=environment(hub, tmp_path),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        for _ in range(600):  # after the break it waits a second before it goes on
            if part.exists() and part.stat().st_size == 100_000:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "models" / "small").exists()
    hub.asked.clear()
    assert run(hub, tmp_path, f"org/small@{COMMIT}").returncode == 0
    assert [line for line in hub.asked if "model.safetensors" in line and "bytes=100000-" in line]
    content = (tmp_path / "models" / "small" / "model.safetensors").read_bytes()
    assert content == hub.files["model.safetensors"]


def test_a_server_without_ranges_still_gives_the_right_file(hub: Hub, tmp_path: Path) -> None:
    """The first part would stand twice in the file."""
    hub.break_after, hub.breaks, hub.ignores_range = 100_000, 1, True
    assert run(hub, tmp_path, f"org/small@{COMMIT}").returncode == 0
    assert (tmp_path / "models" / "small" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize(("name", "hash_"), [("model.safetensors", "SHA-256"), ("config.json", "git hash")])
def test_damaged_files_never_count(hub: Hub, tmp_path: Path, name: str, hash_: str) -> None:
    """A model would be served with a flipped bit in its weights, and answer a little wrong."""
    hub.damaged = {name}
    done = run(hub, tmp_path, f"org/small@{COMMIT}")
    assert done.returncode == 2
    assert f"{name}: got another {hash_}" in done.stderr
    assert not (tmp_path / "models" / "small").exists()
    hub.damaged = set()
    assert run(hub, tmp_path, f"org/small@{COMMIT}").returncode == 0


def test_what_is_here_is_checked_and_never_overwritten(hub: Hub, tmp_path: Path) -> None:
    """Adapters would lose the base they were trained on, or a damaged copy would pass."""
    folder = tmp_path / "models" / "small"
    assert run(hub, tmp_path, "org/small").returncode == 0
    hub.asked.clear()
    assert run(hub, tmp_path, "org/small").returncode == 0
    assert not any("resolve" in line for line in hub.asked)
    (folder / "tokenizer.json").write_bytes(b"[]")
    assert "tokenizer.json: got another git hash" in run(hub, tmp_path, "org/small").stderr
    record = json.loads((folder / "download.json").read_text())
    (folder / "download.json").write_text(json.dumps({**record, "commit": "f" * 40}))
    done = run(hub, tmp_path, "org/small")
    assert (done.returncode, "is never overwritten" in done.stderr) == (2, True)
    shutil.rmtree(folder)
    folder.mkdir()
    assert "files of unknown origin" in run(hub, tmp_path, "org/small").stderr


def test_link_keeps_one_copy_in_the_hubs_cache(hub: Hub, tmp_path: Path) -> None:
    """The weights would lie twice on the disk."""
    done = run(hub, tmp_path, f"org/small@{COMMIT}", "link=true")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "small"
    assert folder.is_symlink()
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (folder / "model.safetensors").resolve().is_relative_to(tmp_path / "cache")
    assert not (folder / "pytorch_model.bin").exists()
    assert run(hub, tmp_path, f"org/small@{COMMIT}", "link=true").returncode == 0


def test_a_gated_model_is_one_line_with_two_ways_out(hub: Hub, tmp_path: Path) -> None:
    """A first-time user must learn from the line what to do, and the token must not be shown."""
    hub.status, hub.gated = 401, True
    done = run(hub, tmp_path, "org/small", HF_TOKEN="hf_secret_of_a_test")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line]
    for word in ("gated", "https://huggingface.co/org/small", "HF_TOKEN", "model.path"):
        assert word in line
    assert "hf_secret" not in done.stderr + done.stdout
    assert hub.tokens == {"Bearer hf_secret_of_a_test"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["org/none"], "no such model"),
        (["org/small@" + "9" * 40], "no such"),
        (["small"], "got 'small', expected organisation/model"),
        (["../org/small"], "expected organisation/model"),
        (["org/../small"], "expected organisation/model"),
        (["org/small", "org/small"], "two models of one name"),
        (["org/small", "link=perhaps"], "link: got perhaps"),
        (["org/small", "where=here"], "download: got where=here, expected to, link"),
        ([], "got no model"),
    ],
)
def test_mistakes_are_told_in_a_line(hub: Hub, tmp_path: Path, words: list[str], message: str) -> None:
    """A user would get a traceback, or a folder outside the one that was named."""
    done = run(hub, tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models" / "small").exists()


def test_pickles_alone_are_refused(hub: Hub, tmp_path: Path) -> None:
    """Weights that can run code would be fetched for want of others."""
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    done = run(hub, tmp_path, "org/small")
    assert (done.returncode, "pickled weights" in done.stderr) == (2, True)


def test_too_little_space_is_told_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk would be filled to the brim, and everything else on it would fail."""
    from fgpipe.models import download

    commit = hub_files.Commit("org/small", COMMIT, (hub_files.HubFile("model.safetensors", 2**40, None, None),))
    monkeypatch.setattr(hub_files, "find_commit", lambda *_: commit)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**39, 2**39))
    with pytest.raises(ModelError, match=r"got 512.00 GiB free in .*, expected 1024.25"):
        download.download([f"org/small@{COMMIT}"], to=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_a_cut_safetensors_file_is_seen_in_its_header(tmp_path: Path, cut: int) -> None:
    """Without a hash from the hub, half a file would pass as a whole one."""
    whole = safetensors(100)
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole)
    assert hub_files.safetensors_fault(path) == ""
    path.write_bytes(whole[:cut])
    assert hub_files.safetensors_fault(path) != ""
