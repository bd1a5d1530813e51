"""Several full models on one GPU: what `plan` reads from a file or `.env`, refuses, and writes for the containers."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fgpipe.appliance import read_env
from fgpipe.cli import main
from qwen import QWEN

SERVE = Path(__file__).parents[2] / "serve"
GPU = "gpu.memory_gib=24"

needs_compose = pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose: .ci/run installs it")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The appliance's `.env` for two models, `small` and `large`, which are there."""
    for name in ("COMPOSE_FILE", "COMPOSE_PROFILES", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, layers in (("small", 28), ("large", 56), ("third", 14)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**QWEN, "num_hidden_layers": layers}))
    file = tmp_path / ".env"
    file.write_text((SERVE / ".env.example").read_text())
    change(
        file,
        COMPOSE_FILE="compose.multimodel.yaml",
        FGPIPE_MODELS_DIR=str(tmp_path),
        HF_CACHE_DIR=str(tmp_path / "cache"),
        MODEL_A_ID="/models/large",
        MODEL_B_ID="/models/small",
        MODEL_B_MAX_NUM_BATCHED_TOKENS="4096",
        MODEL_B_DTYPE="bfloat16",
        MODEL_B_ENFORCE_EAGER="true",
        MODEL_B_TOOL_PARSER="hermes",
    )
    return file


def change(file: Path, **lines: str) -> None:
    """Later lines count, as with `plan --env >> .env`."""
    with open(file, "a") as handle:
        handle.writelines(f"{name}={value}\n" for name, value in lines.items())


def plan(env: Path, *words: str) -> int:
    return main(["plan", "--env-file", str(env), GPU, *words])


def planned(env: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert plan(env, "--json") == 0
    models: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["models"]
    return models


def write(env: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan --env-file .env --env >> .env`."""
    assert plan(env, "--env") == 0
    with open(env, "a") as handle:
        handle.write(capsys.readouterr().out)


def composed(env: Path) -> dict[str, Any]:
    """The services that docker-compose would start with `env`."""
    values = read_env(env)
    files = [word for name in values["COMPOSE_FILE"].split(":") for word in ("-f", str(SERVE / name))]
    done = subprocess.run(
        ["docker-compose", "--env-file", str(env), *files, "config"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "COMPOSE_PROFILES": values["COMPOSE_PROFILES"]},
    )
    assert done.returncode == 0, done.stderr
    chosen = set(values["COMPOSE_PROFILES"].split(","))
    # Debian's docker-compose shows also those that no profile starts.
    services = yaml.safe_load(done.stdout)["services"].items()
    return {name: one for name, one in services if not one.get("profiles") or chosen & set(one["profiles"])}


def flags(environment: dict[str, Any]) -> dict[str, str]:
    """The flags for vLLM as serve/model.sh gives them."""
    given = {name: str(value) for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [str(SERVE / "model.sh")],
        env={"PATH": "/usr/bin:/bin", "MODEL_PRINT": "1", **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    words = words[words.index("serve") + 2 :]
    return {
        word: "" if following.startswith("--") else following
        for word, following in zip(words, [*words[1:], "--"], strict=True)
        if word.startswith("--")
    }


@needs_compose
@pytest.mark.parametrize("third", [False, True])
def test_what_was_planned_is_what_starts_and_is_routed(
    third: bool, env: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model would start with other settings than those that fit, not at all, or where no request reaches it."""
    change(env, COMPOSE_FILE="compose.multimodel.yaml:compose.monitoring.yaml")
    if third:
        change(env, MODEL_C_ID="/models/third")
    models = planned(env, capsys)
    write(env, capsys)
    services = composed(env)
    letters = "abc"[: len(models)]
    assert len(models) == 2 + third
    assert {name for name in services if name.startswith("model-")} == {f"model-{letter}" for letter in letters}
    ports = []
    for letter, model in zip(letters, models, strict=True):
        environment = services[f"model-{letter}"]["environment"]
        given = flags(environment)
        assert environment["MODEL_ID"] == model["id"]
        assert float(given["--gpu-memory-utilization"]) == model["gpu_memory_utilization"]
        for flag, key in (
            ("--max-model-len", "max_model_len_tokens"),
            ("--max-num-seqs", "max_num_seqs"),
            ("--max-num-batched-tokens", "max_num_batched_tokens"),
        ):
            assert int(given[flag]) == model[key], flag
        assert ("--enforce-eager" in given) == ("cuda_graphs" not in model["bytes"])
        small = model["id"] == "/models/small"
        assert (given["--dtype"], given.get("--tool-call-parser")) == (
            ("bfloat16", "hermes") if small else ("auto", None)
        )
        ports.append(given["--port"])
    upstreams = services["gateway"]["environment"]["FGPIPE_GATEWAY_UPSTREAMS"].split(",")
    assert upstreams == [f"http://127.0.0.1:{port}" for port in ports]
    watched = {name: services["prometheus"]["environment"][name] for name in ("COMPOSE_FILE", "COMPOSE_PROFILES")}
    assert watched["COMPOSE_FILE"] == "compose.multimodel.yaml:compose.monitoring.yaml"
    assert ("three" in (watched["COMPOSE_PROFILES"] or "")) == third
    assert planned(env, capsys) == [{**model, "name": f"model-{letters[at]}"} for at, model in enumerate(models)]


def test_small_models_come_first_and_a_third_line_that_is_not_wanted_goes(
    env: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The large one would start first; or a third model of last month would still be asked by the gateway."""
    change(env, COMPOSE_PROFILES="three", MODEL_C_UPSTREAM=",http://127.0.0.1:8003")
    env.write_text(env.read_text().rstrip("\n"))  # as some editors leave it
    write(env, capsys)
    values = read_env(env)
    assert (values["MODEL_A_ID"], values["MODEL_B_ID"]) == ("/models/small", "/models/large")
    assert values["MODEL_A_TOOL_PARSER"] == "hermes"
    assert values["MODEL_B_TOOL_PARSER"] == ""
    assert (values["COMPOSE_PROFILES"], values["MODEL_C_UPSTREAM"]) == ("", "")


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ({"MODEL_B_GPU_MEMORY_UTILIZATION": "0.05"}, ["model-b: gpu_memory_utilization: got 0.050 of GPU (24.00 GiB)"]),
        (
            {"MODEL_A_GPU_MEMORY_UTILIZATION": "0.5", "MODEL_B_GPU_MEMORY_UTILIZATION": "0.45"},
            ["got 2 models that need 0.950 of it, expected at most 0.916", "given 0.500", "2 CUDA contexts 1.00"],
        ),
        ({"MODEL_A_GPU_MEMORY_UTILIZATION": "0.85"}, ["expected at most 0.916", "given 0.850"]),
        ({"MODEL_A_GPU_MEMORY_UTILIZATION": "1.7"}, ["MODEL_A_GPU_MEMORY_UTILIZATION: got '1.7'"]),
        ({"MODEL_B_ID": ""}, ["MODEL_B_ID: got nothing"]),
        ({"MODEL_B_DTYPE": "float16", "MODEL_A_PORT": "no"}, ["MODEL_B_DTYPE: got 'float16'", "MODEL_A_PORT: got"]),
        ({"MODEL_B_PORT": "8001"}, ["port: got 8001 twice"]),
        ({"MODEL_B_ID": "/models/nowhere"}, ["nowhere", "No such file"]),
        ({"MODEL_B_ID": "some/model"}, ["some/model: the hub cannot be reached"]),
    ],
)
def test_what_cannot_work_is_refused_with_the_line_or_the_sum(
    lines: dict[str, str], messages: list[str], env: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second container would die after minutes, with a message about the first."""
    change(env, **lines)
    assert plan(env, "--env") == 2
    shown = capsys.readouterr()
    assert not shown.out
    for message in messages:
        assert message in shown.err


def test_a_share_of_the_users_is_kept_and_the_others_get_the_rest(
    env: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody who knows what his chat model needs would be planned over."""
    change(env, MODEL_A_GPU_MEMORY_UTILIZATION="0.6")
    models = {model["id"]: model["gpu_memory_utilization"] for model in planned(env, capsys)}
    assert models["/models/large"] == 0.6
    assert 0.1 < models["/models/small"] <= 0.316


def test_a_file_of_models_becomes_the_same_lines(env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan tried on a laptop could not be carried to the box."""
    rows = [
        {"name": "large", "config": "large", "max_model_len_tokens": 8192, "max_num_seqs": 32},
        {"name": "tools", "config": "small/config.json", "tool_parser": "hermes", "gpu_memory_utilization": 0.25},
    ]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": rows}))
    assert plan(env, f"models={tmp_path / 'models.yaml'}", "--env") == 0
    (tmp_path / "lines").write_text(capsys.readouterr().out)
    lines = read_env(tmp_path / "lines")
    assert (lines["MODEL_A_ID"], lines["MODEL_A_GPU_MEMORY_UTILIZATION"]) == ("/models/small", "0.250")
    assert (lines["MODEL_A_TOOL_PARSER"], lines["MODEL_A_PORT"]) == ("hermes", "8001")
    assert (lines["MODEL_B_ID"], lines["MODEL_B_REVISION"], lines["MODEL_B_DTYPE"]) == ("/models/large", "", "auto")


def test_a_file_is_refused_what_the_containers_would_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan would fit that nothing starts: adapters' slots, a fourth model, weights that are not quantised."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    cases = [
        ([{"max_loras": 8}], "models.0.max_loras: got 8"),
        ([{"quantization": "int4"}], "m0: quantization: got int4, expected what"),
        ([{}], "models: got 1, expected 2 or 3"),
        ([{}] * 4, "models: got 4, expected 2 or 3"),
    ]
    for rows, message in cases:
        entries = [{"name": f"m{at}", "config": ".", **row} for at, row in enumerate(rows)]
        (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
        assert main(["plan", f"models={tmp_path / 'models.yaml'}", "gpu=h100", "--env"]) == 2
        assert message in capsys.readouterr().err


def test_step_six_plans_what_step_five_set(env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` would say that the defaults fit, whatever `.env` says."""
    shutil.copytree(SERVE.parent / "data" / "tiny", tmp_path / "base")
    change(
        env,
        COMPOSE_FILE="compose.yaml",
        FGPIPE_MODEL="/models/base",
        FGPIPE_GPU_MEMORY_UTILIZATION="0.7",
        FGPIPE_MAX_LORAS="20",
    )
    (only,) = planned(env, capsys)
    assert only["gpu_memory_utilization"] == 0.7
    assert only["id"] == str(tmp_path / "base")
    change(env, FGPIPE_MAX_LORA_RANK="8", FGPIPE_MAX_MODEL_LEN_TOKENS="512")
    (smaller,) = planned(env, capsys)
    assert smaller["bytes"]["adapter_slots"] < only["bytes"]["adapter_slots"]
    assert smaller["max_model_len_tokens"] == 512
    change(env, FGPIPE_GPU_MEMORY_UTILIZATION="0.98")
    assert plan(env) == 2
    assert "server.gpu_memory_utilization: got 0.98" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MODEL_GPU_MEMORY_UTILIZATION": "0.3"}, "MODEL_ID: got nothing"),
        ({"MODEL_ID": "a/b"}, "MODEL_GPU_MEMORY_UTILIZATION: got nothing, expected a share"),
        (
            {"MODEL_ID": "a/b", "MODEL_GPU_MEMORY_UTILIZATION": "0.3", "MODEL_ENFORCE_EAGER": "yes"},
            "MODEL_ENFORCE_EAGER: got 'yes'",
        ),
    ],
)
def test_a_model_without_id_or_share_does_not_start(variables: dict[str, str], message: str) -> None:
    """It would take a share that nobody planned, and the next one would not start."""
    done = subprocess.run(
        [str(SERVE / "model.sh")],
        env={"PATH": "/usr/bin:/bin", "MODEL_PORT": "8001", "MODEL_PRINT": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
