"""`serve/update.sh` against a real git remote and a stand-in for docker that keeps images and containers in files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVE = Path(__file__).parents[2] / "serve"

DOCKER = r"""#!/usr/bin/env bash
# Images and what runs are files in $WORLD; an image holds the text of serve/app at the time it was built.
set -euo pipefail
echo "$*" >>"$WORLD/calls"
case "$*" in
  info) exit 0 ;;
  "info --format {{.OperatingSystem}}") cat "$WORLD/system" ;;
  "compose config --services") printf '%s\n' tailscale docker-proxy server gateway ;;
  "compose config --images") printf '%s\n' wollomatic/socket-proxy:1.13.1 fgpipe/server:local fgpipe/gateway:local ;;
  "image inspect "*) [[ -f $WORLD/images/${3//\//_} ]] ;;
  "tag "*) cp "$WORLD/images/${2//\//_}" "$WORLD/images/${3//\//_}" ;;
  "compose build "*)
    if grep -q unbuildable app; then exit 1; fi
    for name in server gateway; do cp app "$WORLD/images/fgpipe_$name:local"; done
    if grep -q "killed while building" app; then kill -KILL "$PPID"; fi ;;
  "compose up "*)
    cp "$WORLD/images/fgpipe_server:local" "$WORLD/running"
    echo "$*" >"$WORLD/up"
    if grep -q "killed while starting" "$WORLD/running" && [[ ! -f $WORLD/killed ]]; then
      touch "$WORLD/killed"
      kill -KILL "$PPID"
    fi
    if grep -q slow "$WORLD/running"; then sleep 5; fi
    grep -q "^healthy" "$WORLD/running" ;;
  *) echo "unexpected: docker $*" >&2; exit 64 ;;
esac
"""


@dataclass(frozen=True)
class Box:
    """A machine with a checkout of a remote, running what the remote held at first."""

    folder: Path

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def running(self) -> str:
        return (self.folder / "world" / "running").read_text().strip()

    def git(self, *words: str, where: str = "checkout") -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=self.folder / where, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def push(self, app: str) -> str:
        """A new revision in the remote whose application is `app`; the revision."""
        (self.folder / "author" / "serve" / "app").write_text(app + "\n")
        self.git("commit", "--quiet", "--all", "--message", app, where="author")
        self.git("push", "--quiet", where="author")
        return self.git("rev-parse", "HEAD", where="author")

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        surroundings = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "WORLD": str(self.folder / "world"),
            "FGPIPE_SIDECAR_MARK": str(self.folder / "sidecar"),
        }
        return subprocess.Popen(
            [str(self.checkout / "serve" / "update.sh"), *words],
            env=surroundings | variables,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def update(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def called(self, what: str) -> bool:
        calls = self.folder / "world" / "calls"
        return calls.exists() and what in calls.read_text()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """The box, its remote, and the checkout of whoever pushes to it."""
    box = Box(tmp_path)
    for folder in ("author/serve", "bin", "world/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    shutil.copy(SERVE / "update.sh", tmp_path / "author" / "serve")
    (tmp_path / "author" / ".gitignore").write_text("/serve/.env\n")
    (tmp_path / "author" / "serve" / "app").write_text("healthy 1\n")
    for name in ("compose.yaml", "compose.monitoring.yaml"):
        (tmp_path / "author" / "serve" / name).write_text("")
    box.git("init", "--quiet", where="author")
    box.git("add", "--all", where="author")
    box.git("commit", "--quiet", "--message", "first", where="author")
    box.git("clone", "--quiet", "--bare", "author", "remote", where=".")
    box.git("remote", "add", "origin", "../remote", where="author")
    box.git("push", "--quiet", "--set-upstream", "origin", "main", where="author")
    box.git("clone", "--quiet", "remote", "checkout", where=".")
    (box.checkout / "serve" / ".env").write_text("FGPIPE_START_TIMEOUT_S=30\nFGPIPE_MODELS_DIR=/mnt/d/models\n")
    for name in ("server", "gateway"):
        (tmp_path / "world" / "images" / f"fgpipe_{name}:local").write_text("healthy 1\n")
    (tmp_path / "world" / "running").write_text("healthy 1\n")
    (tmp_path / "world" / "system").write_text("Debian GNU/Linux 12\n")
    return box


def test_a_new_revision_is_built_and_runs(box: Box) -> None:
    """The one command for updates would not update, or would restart the sidecar it runs in."""
    new = box.push("healthy 2")
    status, said = box.update()
    assert (status, box.running, box.head()) == (0, "healthy 2", new), said
    started = (box.folder / "world" / "up").read_text().split()
    assert started[-2:] == ["server", "gateway"]
    assert "150" in started
    assert box.update()[0] == 0
    assert "nothing new" in box.update()[1]


def test_nothing_new_touches_nothing(box: Box) -> None:
    """A second run, or one by a timer, would restart the server and drop requests."""
    status, said = box.update()
    assert (status, "nothing new" in said) == (0, True)
    assert not box.called("compose build")
    assert not box.called("compose up")
    assert box.update("--force")[0] == 0
    assert box.called("compose up")


@pytest.mark.parametrize("bad", ["sick 2", "unbuildable 2"])
def test_what_does_not_become_healthy_is_rolled_back_and_not_tried_again(box: Box, bad: str) -> None:
    """A bad push would take the box down until somebody walks up to it; a timer would take it down every night."""
    old = box.head()
    box.push(bad)
    status, said = box.update()
    assert (status, box.running, box.head()) == (1, "healthy 1", old), said
    assert "rolled back" in said
    status, said = box.update()
    assert (status, "failed before" in said, box.running) == (2, True, "healthy 1")
    newer = box.push("healthy 3")
    assert box.update()[0] == 0
    assert (box.running, box.head()) == ("healthy 3", newer)


def test_own_changes_are_never_overwritten(box: Box) -> None:
    """What somebody tried out on the box would be lost, or built into an image that no commit describes."""
    old = box.head()
    box.push("healthy 2")
    (box.checkout / "serve" / "app").write_text("healthy, mine\n")
    status, said = box.update()
    assert (status, "serve/app" in said, box.running, box.head()) == (2, True, "healthy 1", old)
    assert (box.checkout / "serve" / "app").read_text() == "healthy, mine\n"
    box.git("commit", "--quiet", "--all", "--message", "mine")
    status, said = box.update()
    assert (status, "upstream lacks" in said, box.running) == (2, True, "healthy 1")


@pytest.mark.parametrize("when", ["building", "starting"])
def test_an_update_that_was_killed_is_finished_by_the_next(box: Box, when: str) -> None:
    """A closed laptop in the middle of an update would leave a stack of two revisions, and nothing to roll back to."""
    old = box.head()
    new = box.push(f"healthy 2, killed while {when}")
    process = box.start()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    if when == "building":  # the same revision cannot be built a second time either
        (box.folder / "bin" / "docker").write_text(DOCKER.replace("killed while building", "unbuildable"))
    status, said = box.update()
    assert "was interrupted" in said
    assert (status, box.running, box.head()) == (0, f"healthy 2, killed while {when}", new), said
    assert (box.folder / "world" / "images" / "fgpipe_server:previous").read_text() == "healthy 1\n"
    assert old != new
    assert "nothing new" in box.update()[1]


def test_a_killed_update_to_a_sick_revision_still_rolls_back(box: Box) -> None:
    """The second run would take the sick images for the ones to go back to."""
    old = box.head()
    box.push("sick, killed while starting")
    box.start().communicate(timeout=60)
    status, said = box.update()
    assert (status, box.running, box.head()) == (1, "healthy 1", old), said


def test_two_at_once_do_not_mix(box: Box) -> None:
    """Two people, or a person and a timer, would build and restart against each other."""
    new = box.push("healthy 2, slow")
    first = box.start()
    deadline = time.monotonic() + 30
    while not box.called("compose up") and time.monotonic() < deadline:
        time.sleep(0.05)
    status, said = box.update()
    assert (status, "another update is running" in said) == (2, True)
    first.communicate(timeout=60)
    assert (first.returncode, box.head()) == (0, new)


def test_in_the_sidecar_nothing_is_done_that_would_end_or_mislead_it(box: Box) -> None:
    """The update would cut the connection it runs over, or mount empty folders in the place of adapters and models."""
    (box.folder / "sidecar").touch()
    box.push("healthy 2")
    status, said = box.update("--everything")
    assert (status, "on the box itself" in said, box.running) == (2, True, "healthy 1")
    (box.folder / "world" / "system").write_text("Docker Desktop\n")
    status, said = box.update()
    assert (status, "FGPIPE_MODELS_DIR: got /mnt/d/models" in said, box.running) == (2, True, "healthy 1")
    (box.folder / "world" / "system").write_text("Debian GNU/Linux 12\n")
    assert box.update()[0] == 0
    assert box.running == "healthy 2"


@pytest.mark.parametrize("file", ["compose.yaml", "compose.multimodel.yaml", "compose.socket.yaml", "sidecar/x"])
def test_what_an_update_from_the_sidecar_leaves_is_said(box: Box, file: str) -> None:
    """The proxy, the sidecar or an exporter would go on as before without a word."""
    path = box.folder / "author" / "serve" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("changed\n")
    box.git("add", "--all", where="author")
    box.push("healthy 2")
    status, said = box.update()
    assert (status, "--everything on the box" in said) == (0, True), said
    box.push("healthy 3")
    assert "--everything" not in box.update()[1]


def test_settings_that_do_not_start_are_not_blamed_on_the_revision(box: Box) -> None:
    """After a wrong line in .env one would look for a fault in a revision that has run for weeks."""
    docker = box.folder / "bin" / "docker"
    docker.write_text(DOCKER.replace('grep -q "^healthy"', "! grep -q wrong .env && grep -q '^healthy'"))
    settings = box.checkout / "serve" / ".env"
    right = settings.read_text()
    settings.write_text(right + "FGPIPE_MAX_LORAS=wrong\n")
    status, said = box.update("--force")
    assert (status, "a line of .env?" in said, "not tried again" in said) == (1, True, False), said
    settings.write_text(right)
    assert box.update("--force")[0] == 0


def test_mistakes_are_told_before_anything_changes(box: Box) -> None:
    """An update would stop half-way at what could have been seen at once."""
    box.push("healthy 2")
    assert box.update("--evrything")[0] == 2
    (box.checkout / "serve" / ".env").unlink()
    status, said = box.update()
    assert (status, "cp .env.example .env" in said) == (2, True)
    assert not box.called("compose")
