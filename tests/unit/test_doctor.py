"""`python -m fgpipe doctor`: what it finds, what it says to change, and what it must never show."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import stand_in_hub
from fgpipe.appliance import DESKTOP_DRIVES, here, read_env
from fgpipe.cli import main
from fgpipe.compose import compose
from fgpipe.config import Config, ServerConfig
from fgpipe.doctor import Check, access, disks, examine, machine
from fgpipe.errors import ConfigError
from fgpipe.serving import gpus
from fgpipe.serving.gpus import FoundGpu
from qwen import QWEN
from stand_in_hub import COMMIT, Hub
from tiny_server import free_port, free_ports

SECRETS = {
    "VLLM_API_KEY": "client-secret-0123456789",
    "FGPIPE_ADMIN_KEY": "admin-secret-0123456789",
    "FGPIPE_GATEWAY_KEYS": "gate-secret-0123456789,other-secret-0123456789",
    "HF_TOKEN": "hf_secret_0123456789",
    "TS_AUTHKEY": "tskey-auth-secret",
}


@pytest.fixture
def tiny() -> Config:
    return compose(["model=tiny"])


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    """Settings of an appliance on which all is well, but for what this machine lacks."""
    folders = {folder.variable: str(tmp_path / folder.variable) for folder in disks.FOLDERS}
    for folder in folders.values():
        Path(folder).mkdir()
    for inside in (".git", "serve"):
        (tmp_path / "FGPIPE_CHECKOUT_DIR" / inside).mkdir()
    return {
        **SECRETS,
        **folders,
        "FGPIPE_PORT": str(free_port()),
        "FGPIPE_GATEWAY_PORT": str(free_port()),
        "FGPIPE_HOST": "0.0.0.0",
        "FGPIPE_GATEWAY_HOST": "0.0.0.0",
    }


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk under the tests is not what is tested."""
    monkeypatch.setattr(disks, "PROBE_BYTES", 2**20)
    monkeypatch.setattr(disks, "SMALL_FILES", 2)
    monkeypatch.setattr(disks, "SLOW_MIB_PER_S", 0)
    monkeypatch.setattr(disks, "SLOW_SMALL_MS", 1e9)


def only(checks: list[Check], state: str) -> list[Check]:
    return [check for check in checks if check.state == state]


def settings_checks(config: Config, values: Mapping[str, str]) -> list[Check]:
    """The checks of what `.env` says, not of what this machine is."""
    found = examine(config, dict(values), containers=False)
    return [check for check in found if check.name not in ("GPU", "Docker", "compose", "tunnel device")]


def test_a_sound_setting_has_nothing_to_change(tiny: Config, values: dict[str, str]) -> None:
    """A user would be sent to change lines that are right."""
    for check in settings_checks(tiny, values):
        assert (check.state, check.change) == ("ok", ""), check


@pytest.mark.parametrize(
    ("change", "name", "variable"),
    [
        ({"VLLM_API_KEY": ""}, "keys", "VLLM_API_KEY"),
        ({"FGPIPE_ADMIN_KEY": ""}, "keys", "FGPIPE_ADMIN_KEY"),
        ({"FGPIPE_ADMIN_KEY": SECRETS["VLLM_API_KEY"]}, "keys", "FGPIPE_ADMIN_KEY"),
        ({"FGPIPE_GATEWAY_KEYS": ""}, "keys", "FGPIPE_GATEWAY_KEYS"),
        ({"FGPIPE_GATEWAY_KEYS": "a" * 20 + "," + SECRETS["FGPIPE_ADMIN_KEY"]}, "keys", "FGPIPE_GATEWAY_KEYS[1]"),
        ({"FGPIPE_ADAPTERS_DIR": "/nowhere/at/all"}, "folder for adapters", "FGPIPE_ADAPTERS_DIR"),
        (
            {"HF_CACHE_DIR": "D:\\models\\cache"},
            "folder for hub cache",
            "HF_CACHE_DIR=/run/desktop/mnt/host/d/models/cache",
        ),
        ({"FGPIPE_PORT": "70000"}, "server port", "FGPIPE_PORT"),
        ({"FGPIPE_GATEWAY_PORT": "many"}, "gateway port", "FGPIPE_GATEWAY_PORT"),
        ({"FGPIPE_MODEL": "/models/none"}, "base model", "FGPIPE_MODEL"),
    ],
)
def test_each_mistake_names_the_line_to_change(
    tiny: Config, values: dict[str, str], change: dict[str, str], name: str, variable: str
) -> None:
    """The stack would fail minutes later, in a container's log."""
    failed = only(settings_checks(tiny, {**values, **change}), "fail")
    assert [check.name for check in failed] == [name]
    assert failed[0].change.startswith(variable)


def test_every_replica_needs_its_port(tiny: Config, values: dict[str, str]) -> None:
    """The third of four servers would fail at its start, minutes after the first."""
    first = free_ports(4)
    wide = {**values, "FGPIPE_PORT": str(first), "FGPIPE_REPLICAS": "4"}
    assert not only(settings_checks(tiny, wide), "fail")
    with socket.create_server(("127.0.0.1", first + 2)):
        (failed,) = only(settings_checks(tiny, wide), "fail")
        assert f"{first + 2}" in failed.found
    (clash,) = only(settings_checks(tiny, {**wide, "FGPIPE_GATEWAY_PORT": str(first + 3)}), "fail")
    assert clash.change.startswith("FGPIPE_GATEWAY_PORT")


def test_an_empty_variable_means_the_default(tiny: Config, values: dict[str, str]) -> None:
    """A copied `.env.example` is full of empty lines; each would be taken for a wrong value."""
    empty = dict.fromkeys(("FGPIPE_HOST", "FGPIPE_GATEWAY_HOST", "FGPIPE_MODEL_ID", "FGPIPE_MODEL", *SECRETS), "")
    assert not only(settings_checks(tiny, {**values, **empty}), "fail")
    (warned,) = only(settings_checks(tiny, {**values, **empty, "TS_HOSTNAME": "box", "TS_AUTHKEY": "x"}), "warn")
    assert warned.change.startswith("FGPIPE_GATEWAY_KEYS")


def test_no_report_holds_a_key(
    tmp_path: Path, values: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report pasted into an issue would give the box away."""
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    for change in ({}, {"FGPIPE_ADMIN_KEY": SECRETS["VLLM_API_KEY"]}, {"VLLM_API_KEY": "short"}):
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in {**values, **change}.items()))
        for flags in ([], ["--json"]):
            main(["doctor", "model=tiny", "--env-file", str(tmp_path / ".env"), *flags])
            shown = capsys.readouterr()
            for secret in [*SECRETS.values(), "short"]:
                for part in secret.split(","):
                    assert part not in shown.out + shown.err


def test_a_taken_port_fails_and_our_own_server_does_not(tiny: Config, values: dict[str, str]) -> None:
    """The server would end at its start with "address already in use"."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (failed,) = only(settings_checks(tiny, {**values, "FGPIPE_PORT": port}), "fail")
        assert failed.change.startswith("FGPIPE_PORT")
    both = {**values, "FGPIPE_GATEWAY_PORT": values["FGPIPE_PORT"]}
    assert any("both want" in check.found for check in only(settings_checks(tiny, both), "fail"))


def test_adapters_of_another_base_are_named(tmp_path: Path, tiny: Config, values: dict[str, str]) -> None:
    """The server would answer with an adapter that was made for other weights."""
    version = Path(values["FGPIPE_ADAPTERS_DIR"]) / "sql" / "v0001"
    version.mkdir(parents=True)
    facts: dict[str, Any] = {"created": "", "base": {"id": "x"}, "files": {}}
    (version / "manifest.json").write_text(json.dumps(facts))
    (version / "adapter_model.safetensors").write_bytes(b"")
    (version.parent / "channel.json").write_text(json.dumps({"current": "v0001"}))
    for trained, states in (("fgpipe/tiny", []), ("other/base", ["sql@v0001 was trained on 'other/base'"])):
        (version / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": trained}))
        failed = only(settings_checks(tiny, values), "fail")
        assert [check.found.partition(",")[0] for check in failed] == states
    (version.parent / "channel.json").write_text("{")
    assert any("channel.json" in check.found for check in only(settings_checks(tiny, values), "fail"))


def test_a_gated_base_needs_a_token_a_folder_or_the_cache(values: dict[str, str]) -> None:
    """The first start would end after minutes, with the hub's refusal in a log."""
    hub, nothing = compose([]), {**values, "HF_TOKEN": ""}
    (failed,) = only(access.licence(hub.model, nothing), "fail")
    assert failed.change.startswith("HF_TOKEN")
    assert "https://huggingface.co/google/functiongemma-270m-it" in failed.change
    assert not only(access.licence(hub.model, values), "fail")
    snapshot = Path(values["HF_CACHE_DIR"]) / "hub" / "models--google--functiongemma-270m-it" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(b"{}")
    assert not only(access.licence(hub.model, nothing), "fail")
    shutil.copytree(snapshot, Path(values["FGPIPE_MODELS_DIR"]) / "base")
    local = {**nothing, "HF_CACHE_DIR": "", "FGPIPE_MODEL": "/models/base"}
    assert not only(access.licence(hub.model, local), "fail")


@pytest.mark.parametrize(
    ("answer", "lines", "state", "found", "change"),
    [
        ({}, {}, "ok", "org/small: the hub gives it to this token", ""),
        ({}, {"HF_TOKEN": ""}, "ok", "org/small: the hub gives it to everybody", ""),
        (
            {"status": 403, "gated": True},
            {},
            "fail",
            "gated: the token's account has not accepted its licence",
            "HF_TOKEN: of an account that accepted https://huggingface.co/org/small",
        ),
        (
            {"status": 401, "gated": True},
            {"HF_TOKEN": ""},
            "fail",
            "gated: it wants a token",
            "HF_TOKEN: a token, after accepting https://huggingface.co/org/small",
        ),
        ({"status": 401}, {}, "fail", "the hub does not know the token", "HF_TOKEN: a token that is valid"),
        ({}, {"FGPIPE_MODEL": "org/other"}, "fail", "no such model", "FGPIPE_MODEL: a model of the hub"),
        ({}, {"FGPIPE_MODEL_REVISION": "f" * 40}, "fail", "no commit", "FGPIPE_MODEL_REVISION: a commit"),
        ({"status": 500}, {}, "warn", "the hub answered 500 for config.json", ""),
        ({"address": "http://127.0.0.1:9"}, {}, "warn", "the hub cannot be reached (ConnectError)", ""),
        ({"address": "http://127.0.0.1:9"}, {"HF_TOKEN": ""}, "fail", "and no HF_TOKEN", "HF_TOKEN: a token"),
    ],
)
def test_the_hub_is_asked_whether_it_gives_the_base(
    answer: dict[str, Any],
    lines: dict[str, str],
    state: str,
    found: str,
    change: str,
    tmp_path: Path,
    values: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any token would pass for a licence, and the server end minutes later with a 401 in its log."""
    given = {**values, "FGPIPE_MODEL": "org/small", "FGPIPE_MODEL_REVISION": COMMIT, **lines}
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    with stand_in_hub.running(Hub({"config.json": b"{}"})) as hub:
        for name, value in answer.items():
            setattr(hub, name, value)
        done = subprocess.run(
            [sys.executable, "-m", "fgpipe", "doctor", "--env-file", str(file), "--json"],
            env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    (check,) = [check for check in json.loads(done.stdout) if check["name"] == "base model"]
    assert (check["state"], found in check["found"], check["change"].startswith(change)) == (state, True, True), check
    assert bool(check["change"]) == (state == "fail")
    assert SECRETS["HF_TOKEN"] not in done.stdout + done.stderr
    if hub.asked:
        assert hub.asked == [f"GET /{given['FGPIPE_MODEL']}/resolve/{given['FGPIPE_MODEL_REVISION']}/config.json"]
        assert hub.tokens == {f"Bearer {given['HF_TOKEN']}" if given["HF_TOKEN"] else ""}


@pytest.mark.parametrize(
    ("lines", "found", "variable"),
    [
        ({"FGPIPE_GPU_MEMORY_UTILIZATION": "1.7"}, "got '1.7'", "FGPIPE_GPU_MEMORY_UTILIZATION"),
        ({"FGPIPE_MAX_LORA_RANK": "33"}, "got 33, expected one of 1, 8, 16", "FGPIPE_MAX_LORA_RANK"),
        ({"FGPIPE_MAX_LORAS": "800"}, "got 32, expected at least max_loras (800)", "FGPIPE_MAX_CPU_LORAS"),
        ({"FGPIPE_DTYPE": "float16"}, "got 'float16'", "FGPIPE_DTYPE"),
        ({"FGPIPE_REPLICAS": "auto"}, "got auto, expected a number in a container", "FGPIPE_REPLICAS"),
        ({"FGPIPE_REPLICAS": "two"}, "got 'two', expected a whole number", "FGPIPE_REPLICAS"),
        ({"FGPIPE_ENFORCE_EAGER": "yes"}, "got 'yes', expected true or false", "FGPIPE_ENFORCE_EAGER"),
        ({"FGPIPE_GATEWAY_UPSTREAMS": "box:8000"}, "got box:8000, expected http", "FGPIPE_GATEWAY_UPSTREAMS"),
    ],
)
def test_what_no_container_would_take_is_told_before(
    tiny: Config, values: dict[str, str], lines: dict[str, str], found: str, variable: str
) -> None:
    """Server or gateway would end at its start, again and again, with the reason in a log."""
    failed = only(examine(tiny, {**values, **lines}, containers=True), "fail")
    (check,) = [check for check in failed if check.name == "settings"]
    assert found in check.found
    assert check.change.startswith(variable)
    assert not [
        check for check in settings_checks(tiny, {**values, "FGPIPE_REPLICAS": "auto"}) if check.state == "fail"
    ]


def test_all_wrong_values_are_told_at_once(tiny: Config, values: dict[str, str]) -> None:
    """The user would mend one line, look again, and find the next."""
    lines = {"FGPIPE_GPU_MEMORY_UTILIZATION": "1.7", "FGPIPE_MAX_LORAS": "800", "FGPIPE_GATEWAY_MAX_WAIT_S": "-1"}
    lines["FGPIPE_REPLICAS"] = "auto"
    for more in ({}, {"FGPIPE_MAX_CPU_LORAS": "9"}):
        checks = examine(tiny, {**values, **lines, **more}, containers=True)
        failed = [check for check in checks if (check.name, check.state) == ("settings", "fail")]
        assert sorted(check.change.partition(":")[0] for check in failed) == [
            "FGPIPE_GATEWAY_MAX_WAIT_S",
            "FGPIPE_GPU_MEMORY_UTILIZATION",
            "FGPIPE_MAX_CPU_LORAS",
            "FGPIPE_REPLICAS",
        ]


def test_client_keys_behind_a_loopback_are_told(tiny: Config, values: dict[str, str]) -> None:
    """The likeliest slip of the guide: all is healthy, and the laptop gets no answer."""
    (warned,) = only(settings_checks(tiny, {**values, "FGPIPE_GATEWAY_HOST": "127.0.0.1"}), "warn")
    assert warned.name == "keys"
    assert warned.change.startswith("FGPIPE_GATEWAY_HOST=0.0.0.0")


def test_the_folders_of_secrets_and_checkout_are_looked_at(tiny: Config, values: dict[str, str]) -> None:
    """Docker would make an empty folder, owned by root, and the next update find no repository."""
    for name in ("FGPIPE_SECRETS_DIR", "FGPIPE_CHECKOUT_DIR"):
        (failed,) = only(settings_checks(tiny, {**values, name: "/nowhere/at/all"}), "fail")
        assert failed.change.startswith(name)
    shutil.rmtree(Path(values["FGPIPE_CHECKOUT_DIR"]) / ".git")
    (failed,) = only(settings_checks(tiny, values), "fail")
    assert "no clone of this repository" in failed.found


def test_folders_are_judged_for_the_user_that_the_containers_run_as(tiny: Config, values: dict[str, str]) -> None:
    """Whoever runs the doctor may write where the server may not, and the server ends at its first write."""
    for name in ("VLLM_CACHE_DIR", "HF_CACHE_DIR", "FGPIPE_ADAPTERS_DIR", "FGPIPE_MODELS_DIR"):
        os.chmod(values[name], 0o755)
    stranger = {**values, "FGPIPE_USER": f"{os.getuid() + 4711}:{os.getgid() + 4711}"}
    failed = only(settings_checks(tiny, stranger), "fail")
    assert [check.name for check in failed] == ["folder for adapters", "folder for hub cache", "folder for vLLM cache"]
    assert all("FGPIPE_USER" in check.change for check in failed)
    assert not only(settings_checks(tiny, {**values, "FGPIPE_USER": f"{os.getuid()}:{os.getgid()}"}), "fail")
    os.chmod(values["FGPIPE_SECRETS_DIR"], 0o700)
    assert any("secrets" in check.name for check in only(settings_checks(tiny, stranger), "fail"))


def test_several_models_are_judged_instead_of_the_adapters_server(
    tiny: Config, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor would find all well for a server that does not run, and nothing wrong with those that do."""
    for name in ("small", "large"):
        folder = Path(values["FGPIPE_MODELS_DIR"]) / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(QWEN))
        (folder / "model.safetensors").write_bytes(b"")
    sound = {
        **values,
        "COMPOSE_FILE": "compose.multimodel.yaml",
        "MODEL_A_ID": "/models/small",
        "MODEL_B_ID": "/models/large",
        "MODEL_A_PORT": str(free_port()),
        "MODEL_B_PORT": str(free_port()),
        "MODEL_A_GPU_MEMORY_UTILIZATION": "0.3",
        "MODEL_B_GPU_MEMORY_UTILIZATION": "0.4",
    }
    monkeypatch.setattr(gpus, "found_gpus", lambda: [FoundGpu("a GPU", 24 * 2**30, 2**30, "580.1")])
    assert not only(settings_checks(tiny, sound), "warn")
    assert not [check for check in only(settings_checks(tiny, sound), "fail") if check.name != "vLLM build"]
    for lines, variable, found in (
        ({"MODEL_B_ID": ""}, "MODEL_B_ID", "got nothing"),
        ({"MODEL_B_ID": "/models/none"}, "MODEL_B", "expected a folder with config.json"),
        ({"MODEL_A_GPU_MEMORY_UTILIZATION": ""}, "MODEL_A_GPU_MEMORY_UTILIZATION", "no share of the GPU"),
        ({"MODEL_A_GPU_MEMORY_UTILIZATION": "0.55"}, "MODEL_…_GPU_MEMORY_UTILIZATION", "that need 0.950 of it"),
        ({"MODEL_C_UPSTREAM": ",http://127.0.0.1:8003"}, "MODEL_C_UPSTREAM=;", "would not ask what runs"),
        ({"COMPOSE_PROFILES": "three"}, "MODEL_C_ID", "MODEL_C_ID is empty"),
        ({"MODEL_C_ID": "/models/small"}, "COMPOSE_PROFILES=three", "nothing starts it"),
    ):
        failed = only(settings_checks(tiny, {**sound, **lines}), "fail")
        named = [check for check in failed if check.change.startswith(variable) and found in check.found]
        assert named, (lines, failed)


@pytest.mark.parametrize(
    ("used_gib", "driver", "states"),
    [(1, "580.1", ["ok", "ok", "ok"]), (20, "580.1", ["ok", "ok", "warn"]), (1, "550.54", ["ok", "warn", "ok"])],
)
def test_the_share_of_the_gpu_is_held_against_what_is_free(used_gib: int, driver: str, states: list[str]) -> None:
    """The server would refuse to start: its share is of the whole GPU, and must be free."""
    found = FoundGpu("a GPU", 24 * 2**30, used_gib * 2**30, driver)
    checks = machine.gpu(ServerConfig(gpu_memory_utilization=0.5), [found])
    assert [check.state for check in checks] == states


def test_without_a_gpu_it_says_so() -> None:
    """A user would wait for a GPU server on a machine that cannot run one."""
    (check,) = machine.gpu(ServerConfig(), [])
    assert (check.state, "CPU build" in check.found) == ("warn", True)


def test_nothing_of_the_measurement_stays(tmp_path: Path) -> None:
    """Every look at the disk would leave 64 MiB behind."""
    speed = disks.measure(tmp_path)
    assert speed.mib_per_s > 0
    assert speed.small_file_ms > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_of_another_user_is_told(values: dict[str, str], tiny: Config) -> None:
    """The container would stop at its first write."""
    os.chmod(values["VLLM_CACHE_DIR"], 0o500)
    (failed,) = only(settings_checks(tiny, values), "fail")
    assert failed.change.startswith("VLLM_CACHE_DIR")


def test_a_full_or_slow_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download or publish would end half-way, or take minutes on a drive seen through WSL2."""
    settings = {"HF_CACHE_DIR": str(tmp_path)}
    usage = shutil._ntuple_diskusage(2**40, 2**40, 2**20)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        (check,) = disks.folders(settings, adapters=tmp_path / "none")
        assert (check.state, check.change.startswith("HF_CACHE_DIR")) == ("fail", True)
    monkeypatch.setattr(disks, "measure", lambda _: disks.Speed(3.0, 80.0))
    monkeypatch.setattr(disks, "SLOW_MIB_PER_S", 50)
    (check,) = disks.folders(settings, adapters=tmp_path / "none")
    assert (check.state, "slow" in check.found) == ("warn", True)


def test_env_files_are_read_as_compose_reads_them(tmp_path: Path) -> None:
    """A quoted path or a comment behind a value would be taken for the value."""
    file = tmp_path / ".env"
    file.write_text("# c\n\nA=1\nexport B='two words'\nC=\"x # y\"\nD=/p # why\nE=\nF=a=b\n")
    assert read_env(file) == {"A": "1", "B": "two words", "C": "x # y", "D": "/p", "E": "", "F": "a=b"}
    file.write_text("A=1\nsecret without a name\n")
    with pytest.raises(ConfigError, match=r"\.env:2: got a line that is no NAME=value") as caught:
        read_env(file)
    assert "secret" not in str(caught.value)


def test_exit_status_follows_the_worst_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that starts the stack after the doctor would start a broken one."""
    words = ["doctor", "model=tiny", f"server.port={free_port()}", f"paths.adapters={tmp_path}", "--json"]
    assert main(words) in (0, 2)
    report = json.loads(capsys.readouterr().out)
    assert main(words) == (2 if any(check["state"] == "fail" for check in report) else 0)
    assert main(["doctor", "--env-file", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: No such file" in capsys.readouterr().err


def test_a_folder_is_found_by_the_name_that_docker_desktop_gives_it(tmp_path: Path) -> None:
    """The guide's own spelling would be called missing, and the user told to make a folder that nobody uses."""
    missing = Path(DESKTOP_DRIVES) / "z" / "fgpipe"
    assert here(missing) == Path("/mnt/z/fgpipe")
    assert here(tmp_path) == tmp_path
