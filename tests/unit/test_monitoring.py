"""Alerts and dashboards as files; that their queries find data is tested in tests/server/test_prometheus.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fgpipe.serving import sync
from monitoring import DASHBOARDS, RULES, SERVE, alert_queries, configuration, dashboard_queries

TESTS = Path(__file__).parents[1] / "prometheus" / "fgpipe_test.yml"
GATEWAY = {
    *("requests_total", "tokens_total", "tool_calls_total", "unknown_tool_calls_total", "schema_violations_total"),
    *("parse_failures_total", "in_flight", "queued", "refused_total", "retries_total", "upstream_up"),
    *("adapter_live_version", "time_to_first_token_seconds_bucket", "time_per_output_token_seconds_bucket"),
    "request_seconds_bucket",
}

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: .ci/run installs prometheus")


@needs_promtool
def test_prometheus_takes_configuration_and_rules(tmp_path: Path) -> None:
    """Prometheus would not start on the box, and nobody would be told of anything."""
    for words in (
        ["check", "config", str(configuration(tmp_path))],
        ["check", "rules", *map(str, RULES.glob("*.yml"))],
    ):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_replica_is_looked_at(tmp_path: Path) -> None:
    """The figures and alerts would be of one server in four."""
    file = configuration(tmp_path, fgpipe_port=8100, fgpipe_replicas=4)
    jobs = {job["job_name"]: job["static_configs"] for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    (server,) = jobs["server"]
    assert server["targets"] == [f"127.0.0.1:{8100 + place}" for place in range(4)]
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(("profiles", "ports"), [("", (8001, 8112)), ("three", (8001, 8112, 8003))])
def test_every_model_of_the_stack_of_several_is_looked_at(
    profiles: str, ports: tuple[int, ...], tmp_path: Path
) -> None:
    """Prometheus would watch a server that does not run, cry for it, and say nothing of the models."""
    files = "compose.multimodel.yaml:compose.monitoring.yaml"
    file = configuration(tmp_path, compose_file=files, compose_profiles=profiles, model_b_port=8112)
    jobs = {job["job_name"]: job["static_configs"] for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert jobs["server"] == [{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"stack": "models"}}]
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("replicas", ["auto", "0", "-1"])
def test_replicas_that_are_no_number_stop_prometheus(replicas: str) -> None:
    """It would run and look at no server, and no alert could say that none answers."""
    done = subprocess.run(
        [str(SERVE / "prometheus" / "start.sh"), "--print", str(SERVE / "prometheus" / "prometheus.yml")],
        env={"PATH": "/usr/bin:/bin", "FGPIPE_REPLICAS": replicas},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"FGPIPE_REPLICAS: got {replicas}, expected a number" in done.stderr


@needs_promtool
def test_every_alert_fires_when_it_should_and_not_before() -> None:
    """An alert would stay silent when the server is down, or cry on every burst until it is ignored."""
    done = subprocess.run(["promtool", "test", "rules", str(TESTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        case["alertname"]
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == {query.place.removeprefix("alert ") for query in alert_queries()}


def test_alerts_and_dashboards_name_only_the_gateways_own_metrics() -> None:
    """A misspelt metric is an empty panel, or an alert that never fires."""
    used = {name for query in [*dashboard_queries(), *alert_queries()] for name in query.selectors()}
    assert {name.removeprefix("fgpipe_gateway_") for name in used if name.startswith("fgpipe_gateway_")} == GATEWAY


def test_dashboards_are_complete_and_use_the_provisioned_source() -> None:
    """Grafana would show 'data source not found', or two panels in one place."""
    source = yaml.safe_load((SERVE / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert {file.stem for file in DASHBOARDS} == {"serving", "adapters", "machine"}
    for file in DASHBOARDS:
        tree = json.loads(file.read_text())
        assert tree["uid"] == file.stem
        taken: set[tuple[int, int]] = set()
        for panel in tree["panels"]:
            assert panel["title"]
            assert panel["datasource"]["uid"] == source["uid"], panel["title"]
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells


def test_grafana_is_not_opened_without_a_password(tmp_path: Path) -> None:
    """The whole tailnet could log in as admin with the password that every Grafana has at first."""
    stand_in = tmp_path / "grafana"
    stand_in.write_text('#!/bin/sh\necho "$GF_SERVER_HTTP_ADDR $GF_SERVER_HTTP_PORT $GF_SECURITY_ADMIN_PASSWORD"\n')
    stand_in.chmod(0o755)

    def start(**variables: str) -> subprocess.CompletedProcess[str]:
        words = [str(SERVE / "grafana" / "start.sh")]
        return subprocess.run(
            words,
            env={"PATH": "/usr/bin:/bin", "FGPIPE_GRAFANA": str(stand_in)} | variables,
            capture_output=True,
            text=True,
        )

    assert start().stdout == "127.0.0.1 3000 admin\n"
    refused = start(GRAFANA_HOST="0.0.0.0")
    assert (refused.returncode, "GRAFANA_ADMIN_PASSWORD" in refused.stderr) == (2, True)
    assert start(GRAFANA_HOST="0.0.0.0", GRAFANA_ADMIN_PASSWORD="s").stdout == "0.0.0.0 3000 s\n"


def test_sync_writes_what_prometheus_can_read() -> None:
    """node-exporter would drop the file whole, and no alert could say that a publish was not taken up."""
    from prometheus_client.parser import text_string_to_metric_families

    reports = [
        sync.Report("http://a:1", "in step"),
        sync.Report("http://b:2", "failed", problems=("no",)),
        sync.Report("http://c:3", "not running"),
        sync.Report("http://d:4", "repaired", (sync.Repair("sql", "sql@v0001", "sql@v0002"),)),
    ]
    families = {family.name: family for family in text_string_to_metric_families(sync.metrics(reports, now_s=7.4))}
    values = {
        name: {sample.labels.get("server", "")[-1:]: sample.value for sample in family.samples}
        for name, family in families.items()
    }
    assert values == {
        "fgpipe_sync_running": {"1": 1, "2": 1, "3": 0, "4": 1},
        "fgpipe_sync_failed": {"1": 0, "2": 1, "3": 0, "4": 0},
        "fgpipe_sync_repairs": {"1": 0, "2": 0, "3": 0, "4": 1},
        "fgpipe_sync_last_run_timestamp_seconds": {"": 7},
    }
    assert list(text_string_to_metric_families(sync.metrics([], now_s=7)))
