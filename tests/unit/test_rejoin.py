"""`serve/rejoin.sh` with a stand-in for docker whose containers are files: whose network they have, and since when."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

REJOIN = Path(__file__).parents[2] / "serve" / "rejoin.sh"

DOCKER = r"""#!/usr/bin/env bash
# A container is a file: service, network, status, time of its start, whether its last start failed, health.
set -euo pipefail
cd "$WORLD"
echo "$*" >>../calls
find_service() { grep -l "^$1 " * | head -n 1; }
case "$*" in
  "compose ps --quiet tailscale") find_service tailscale || true ;;
  "compose ps --all --quiet") ls ;;
  "container inspect --format {{.Id}}"*)
    read -r service network status started failed health <"$5"
    echo "$5 $started $health" ;;
  "container inspect --format {{index"*)
    shift 4
    for id in "$@"; do cut -d " " -f 1-5 "$id"; done ;;
  "compose stop "*)
    shift 2
    for name in "$@"; do sed -i "s/ running / exited /" "$(find_service "$name")"; done ;;
  "compose start "*)
    shift 2
    for name in "$@"; do
      file=$(find_service "$name")
      read -r service network status started failed health <"$file"
      echo "$service $network running 2026-11-26T13:00:00Z false $health" >"$file"
    done ;;
  *) echo "unexpected: docker $*" >&2; exit 64 ;;
esac
"""

BEFORE, SIDECAR, AFTER = "2026-11-26T12:00:00.512Z", "2026-11-26T12:00:00.52Z", "2026-11-26T12:00:00.520001Z"


@dataclass(frozen=True)
class Engine:
    """The containers of a box."""

    folder: Path

    def put(
        self, service: str, status: str, started: str, *, failed: bool = False, network: str = "container:s1"
    ) -> None:
        health = "healthy" if service == "tailscale" else "-"
        name = "s1" if service == "tailscale" else service
        line = f"{service} {network} {status} {started} {str(failed).lower()} {health}\n"
        (self.folder / "world" / name).write_text(line)

    def rejoin(self) -> str:
        done = subprocess.run(
            [str(self.folder / "rejoin.sh")],
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "WORLD": str(self.folder / "world")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def changed(self) -> list[str]:
        """What docker was asked to stop or start, and forgets it."""
        calls = self.folder / "calls"
        found = [line.removeprefix("compose ") for line in calls.read_text().splitlines() if " st" in line]
        calls.write_text("")
        return found


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A sidecar that just started, and nothing else."""
    for folder in ("bin", "world"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    shutil.copy(REJOIN, tmp_path)
    engine = Engine(tmp_path)
    engine.put("tailscale", "running", SIDECAR, network="fgpipe_default")
    return engine


def test_what_kept_the_network_of_a_sidecar_that_is_gone_is_started_again(engine: Engine) -> None:
    """After a crash of the sidecar all would run, be healthy on their own loopback, and answer nobody, for ever."""
    engine.put("server", "running", BEFORE)
    engine.put("gateway", "running", BEFORE)
    engine.put("sync", "running", AFTER)
    engine.put("docker-proxy", "running", BEFORE, network="none")
    said = engine.rejoin()
    assert engine.changed() == ["stop gateway server", "start gateway server"]
    assert "gateway server" in said
    assert engine.rejoin() == ""
    assert engine.changed() == [], "once is enough"


def test_what_could_not_start_without_the_sidecar_is_started(engine: Engine) -> None:
    """After a reboot Docker starts all at once; who came before the sidecar would stay down until somebody signs in."""
    engine.put("server", "exited", BEFORE, failed=True)
    engine.put("gateway", "created", "0001-01-01T00:00:00Z", failed=True)
    engine.put("sync", "running", AFTER)
    engine.rejoin()
    assert engine.changed() == ["start gateway server"]


def test_what_somebody_stopped_or_is_being_started_is_left_alone(engine: Engine) -> None:
    """Grafana, stopped to save memory, would come back; or an update's new containers would start before their turn."""
    engine.put("grafana", "exited", BEFORE)
    engine.put("server", "created", "0001-01-01T00:00:00Z")
    engine.put("sync", "restarting", BEFORE)
    engine.put("other", "running", BEFORE, network="container:s0")
    assert engine.rejoin() == ""
    assert engine.changed() == []


@pytest.mark.parametrize("health", ["starting", "unhealthy"])
def test_nothing_is_restarted_while_the_sidecar_is_not_in_the_tailnet(engine: Engine, health: str) -> None:
    """With an expired key the sidecar ends every minute, and would take down a server that needs three to start."""
    engine.put("server", "running", BEFORE)
    sidecar = engine.folder / "world" / "s1"
    sidecar.write_text(sidecar.read_text().replace("healthy", health))
    engine.rejoin()
    assert engine.changed() == []
    sidecar.unlink()
    engine.rejoin()
    assert engine.changed() == []
