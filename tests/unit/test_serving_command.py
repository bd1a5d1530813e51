from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from fgpipe import adapters_folder, serving
from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import ServeError
from fgpipe.serving import command, foreground

ENTRYPOINT = Path(__file__).parents[2] / "serve" / "entrypoint.sh"

HUB = ModelConfig(id="some/base", revision="a" * 40)

OTHER = ServerConfig(
    host="::1",
    port=8123,
    max_lora_rank=64,
    max_loras=3,
    max_cpu_loras=5,
    max_num_seqs=17,
    max_model_len_tokens=512,
    prefix_caching=False,
    chunked_prefill=False,
    max_num_batched_tokens=2048,
    cpu_kv_cache_gib=3,
    gpu_memory_utilization=0.25,
    enforce_eager=True,
    watch_s=1.5,
    tuned_kernels="/tuned",
)


def words(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def publish(adapters: Path, name: str, *versions: str, current: str) -> None:
    """Empty files in the published layout."""
    for version in versions:
        folder = adapters / name / version
        folder.mkdir(parents=True)
        for file in (*adapters_folder.ADAPTER_FILES, adapters_folder.MANIFEST_FILE):
            (folder / file).write_text("{}")
    (adapters / name / adapters_folder.CHANNEL_FILE).write_text(json.dumps({"current": current}))


@pytest.mark.parametrize("build", ["gpu", "cpu"])
def test_every_server_setting_reaches_vllm(build: command.Build) -> None:
    """A setting in conf/server would be silently without effect."""
    made = serving.serve_command(HUB, OTHER, adapters=Path("adapters"), build=build)
    given = {
        "--host": "::1",
        "--port": "8123",
        "--max-lora-rank": "64",
        "--max-loras": "3",
        "--max-cpu-loras": "5",
        "--max-num-seqs": "17",
        "--max-model-len": "512",
        "--max-num-batched-tokens": "2048",
        "--served-model-name": "some/base",
        "--revision": "a" * 40,
        "--tool-call-parser": "fgpipe",
        "--dtype": {"gpu": "bfloat16", "cpu": "float32"}[build],
    }
    assert {flag: words(made, flag) for flag in given} == given
    for flag in ("--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--enforce-eager", "--enable-lora"):
        assert flag in made
    assert ("--gpu-memory-utilization" in made) == (build == "gpu")
    variables = serving.server_environment(OTHER, adapters=Path("adapters"), build=build)
    assert variables.get("VLLM_CPU_KVCACHE_SPACE") == (None if build == "gpu" else "3")
    assert variables["FGPIPE_ADAPTERS"] == str(Path("adapters").absolute())
    kernels = serving.server_environment(OTHER, adapters=Path("adapters"), build=build, kernels=Path("/tuned"))
    assert kernels["VLLM_TUNED_CONFIG_FOLDER"] == "/tuned"
    # Fields one server has no flag for: the version checked against, our own patience, how many there are, and how they
    # share the GPU.
    used = {"vllm_version", "start_timeout_s", "replicas", "mps"} | set(OTHER.model_fields_set)
    assert used == set(ServerConfig.model_fields), "a new setting: give it a flag and a line here"


def test_graphs_are_kept_on_a_gpu_and_off_on_a_cpu() -> None:
    """A GPU would serve several times slower, or a CPU server compile for minutes."""
    assert "--enforce-eager" not in serving.serve_command(HUB, ServerConfig(), adapters=Path("a"), build="gpu")
    assert "--enforce-eager" in serving.serve_command(HUB, ServerConfig(), adapters=Path("a"), build="cpu")


def test_without_the_plugin_the_live_versions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has only vLLM and the folder could not serve it; or one damaged adapter would keep all others out."""
    publish(tmp_path, "sql", "v0001", "v0002", current="v0002")
    publish(tmp_path, "mail", "v0001", current="v0001")
    publish(tmp_path, "broken", "v0001", current="v0007")
    made = serving.serve_command(HUB, ServerConfig(), adapters=tmp_path, build="gpu", plugin=False)
    assert made[made.index("--lora-modules") + 1 :] == [f"mail={tmp_path}/mail/v0001", f"sql={tmp_path}/sql/v0002"]
    assert words(made, "--tool-call-parser") == "functiongemma"
    assert "broken" in capsys.readouterr().err
    none = serving.serve_command(HUB, ServerConfig(), adapters=tmp_path / "missing", build="gpu", plugin=False)
    assert "--lora-modules" not in none


def test_a_missing_vllm_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user would see a traceback about a module instead of the command that installs it."""

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ServeError, match="expected package vllm") as caught:
        serving.installed_build()
    assert "make setup" in caught.value.hint


ENVIRONMENTS = {
    "defaults": (HUB, ServerConfig(), {"FGPIPE_MODEL": "some/base", "FGPIPE_MODEL_REVISION": "a" * 40}),
    "everything": (
        ModelConfig(id="my/base", path="/models/my base", dtype="bfloat16"),
        OTHER,
        {
            "FGPIPE_MODEL": "/models/my base",
            "FGPIPE_MODEL_ID": "my/base",
            "FGPIPE_DTYPE": "bfloat16",
            "FGPIPE_HOST": "::1",
            "FGPIPE_PORT": "8123",
            "FGPIPE_WATCH_S": "1.5",
            "FGPIPE_TUNED_KERNELS": "/tuned",
            "FGPIPE_MAX_LORA_RANK": "64",
            "FGPIPE_MAX_LORAS": "3",
            "FGPIPE_MAX_CPU_LORAS": "5",
            "FGPIPE_MAX_NUM_SEQS": "17",
            "FGPIPE_MAX_MODEL_LEN_TOKENS": "512",
            "FGPIPE_PREFIX_CACHING": "false",
            "FGPIPE_CHUNKED_PREFILL": "false",
            "FGPIPE_MAX_NUM_BATCHED_TOKENS": "2048",
            "FGPIPE_CPU_KV_CACHE_GIB": "3",
            "FGPIPE_GPU_MEMORY_UTILIZATION": "0.25",
            "FGPIPE_ENFORCE_EAGER": "true",
        },
    ),
}


@pytest.mark.parametrize("build", ["gpu", "cpu"])
@pytest.mark.parametrize("plugin", [True, False])
@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_the_entrypoint_says_the_same_as_print(
    case: str, plugin: bool, build: command.Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container would serve otherwise than `python -m fgpipe serve`, and nobody would notice before production."""
    model, server, given = ENVIRONMENTS[case]
    adapters = tmp_path / "my adapters"
    publish(adapters, "sql", "v0001", "v0002", current="v0002")
    publish(adapters, "mail", "v0001", current="v0001")
    publish(adapters, "broken", "v0001", current="v0007")
    monkeypatch.setattr(foreground, "installed_build", lambda: build)
    monkeypatch.setattr(foreground, "plugin_installed", lambda: plugin)
    ours = foreground.shell_line(model, server, adapters=adapters)
    theirs = entrypoint({**given, "FGPIPE_ADAPTERS": str(adapters)}, packages=environment(tmp_path, build, plugin))
    assert shlex.split(theirs.stdout) == shlex.split(ours)
    assert ("broken" in theirs.stderr) == (not plugin)


def test_the_entrypoint_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    """A misspelt switch would start a server with the opposite of what was asked."""
    refused = entrypoint({"FGPIPE_PREFIX_CACHING": "yes"}, packages=environment(tmp_path, "gpu", True))
    assert (refused.returncode, "expected true or false" in refused.stderr) == (2, True)
    for word in ("--host", "--host=0.0.0.0", "--port=1"):
        bypass = entrypoint({}, packages=environment(tmp_path / word, "gpu", True), words=[word])
        assert (bypass.returncode, "expected FGPIPE_HOST" in bypass.stderr) == (2, True)
    missing = entrypoint({}, packages=tmp_path / "empty")
    assert (missing.returncode, "expected package vllm" in missing.stderr) == (2, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "127.0.0.1.example"])
def test_nothing_is_served_off_the_loopback_without_both_keys(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on the network would take orders from anyone who reaches it."""
    cases: list[dict[str, str]] = [{}, {"VLLM_API_KEY": "a"}, {"FGPIPE_ADMIN_KEY": "a"}]
    cases.append({"VLLM_API_KEY": "a", "FGPIPE_ADMIN_KEY": "a"})
    packages = environment(tmp_path, "gpu", True)
    for keys in cases:
        refused = entrypoint({"FGPIPE_HOST": host, "FGPIPE_PRINT": "0", **keys}, packages=packages)
        assert (refused.returncode, "expected" in refused.stderr) == (2, True), keys
        for name in ("VLLM_API_KEY", "FGPIPE_ADMIN_KEY"):
            monkeypatch.setenv(name, keys[name]) if name in keys else monkeypatch.delenv(name, raising=False)
        with pytest.raises(ServeError, match="expected"):
            foreground.serve(ModelConfig(), ServerConfig(host=host), adapters=tmp_path)
    bare = entrypoint({"FGPIPE_HOST": host, "FGPIPE_PRINT": "0"}, packages=environment(tmp_path / "bare", "gpu", False))
    assert (bare.returncode, "plugin" in bare.stderr) == (2, True)


def environment(folder: Path, build: command.Build, plugin: bool) -> Path:
    """A package folder in which a build of vLLM, and perhaps our plugin, look installed."""
    packages = folder / "packages"
    name = {"gpu": "vllm", "cpu": "vllm-cpu"}[build]
    for package, entry in (
        (name, ""),
        *([("fgpipe", "[vllm.general_plugins]\nfgpipe = fgpipe:x\n")] if plugin else []),
    ):
        info = packages / f"{package.replace('-', '_')}-0.32.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.32.0\n")
        (info / "entry_points.txt").write_text(entry)
    return packages


def entrypoint(
    variables: dict[str, str], *, packages: Path, words: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """What serve/entrypoint.sh prints, run by a Python that sees no packages but those in `packages`."""
    python = packages.parent / "python"
    # `-S` hides this environment's packages. The command shall name the interpreter that we are.
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "FGPIPE_PRINT": "1"}
    done = subprocess.run(
        [str(ENTRYPOINT), *words],
        env={**surroundings, "FGPIPE_PYTHON": str(python), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    done.stdout = done.stdout.replace(f"{python} -m", f"{sys.executable} -m")
    return done
