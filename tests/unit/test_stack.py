"""The container stack as files: valid, pinned, and naming the same variables as `.env.example`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fgpipe import planned_models
from fgpipe.compose import compose
from fgpipe.config import Config, ServerConfig
from fgpipe.environment import variables
from fgpipe.environment_file import SET_BY_COMPOSE

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"
MAIN, MONITORING, MODELS, SOCKET = (
    SERVE / f"compose{part}.yaml" for part in ("", ".monitoring", ".multimodel", ".socket")
)
STACKS = {
    "main": [MAIN],
    "monitoring": [MAIN, MONITORING],
    "models": [MODELS],
    "models watched": [MODELS, MONITORING],
    "socket": [MAIN, SOCKET],
}
SPECIFICATION = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
SCRIPTS = sorted(path for path in ROOT.rglob("*.sh") if ".venv" not in path.parts)

needs_compose = pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose: .ci/run installs it")


def composed(stack: str) -> dict[str, Any]:
    """The stack as docker-compose reads it, with `.env.example`."""
    files = [word for file in STACKS[stack] for word in ("-f", str(file))]
    done = subprocess.run(
        ["docker-compose", "--env-file", str(SERVE / ".env.example"), *files, "config"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "COMPOSE_PROFILES": "three,gpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@needs_compose
@pytest.mark.parametrize("stack", STACKS)
def test_compose_takes_every_stack_with_the_example_settings(stack: str) -> None:
    """`docker compose up` would stop at the first line, or start a service with a variable that nobody set."""
    services = composed(stack)["services"]
    assert "tailscale" in services
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}, name
        assert name == "dcgm-exporter" or service["healthcheck"]["test"], name
        if name.startswith("docker-"):
            assert "-allowhealthcheck" in service["command"], name
        assert "ports" not in service, f"{name}: a published port is open to the box's own network"
        if not name.startswith(("tailscale", "docker-")):
            assert service["network_mode"] == "service:tailscale", name
        if name != "tailscale":
            assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name


@needs_compose
def test_only_the_sidecar_reaches_docker_and_only_readers_read() -> None:
    """A server taken over by a request could write adapters, or start containers of its own."""
    services = composed("monitoring")["services"]
    mounts = {
        name: {mount["target"]: mount for mount in service.get("volumes", []) if isinstance(mount, dict)}
        for name, service in services.items()
    }
    assert [name for name in mounts if "/var/run/docker.sock" in mounts[name]] == ["docker-proxy", "docker-reader"]
    assert [name for name, service in services.items() if "docker-proxy:" in str(service.get("volumes"))] == [
        "docker-proxy",
        "tailscale",
    ]
    for name in ("docker-proxy", "docker-reader"):
        assert services[name]["network_mode"] == "none"
    assert not re.search("-allow(POST|PUT|DELETE)", str(services["docker-reader"]["command"]))
    for name in ("server", "gateway"):
        assert mounts[name]["/adapters"]["read_only"] is True, name
    assert mounts["server"]["/models"]["read_only"] is True
    assert services["server"]["user"] == "1000:1000"


@needs_compose
def test_a_container_that_may_end_is_started_only_when_asked_for() -> None:
    """`up --wait`, and with it `update.sh --everything`, would fail where NVIDIA's management library is incomplete."""
    tree = yaml.safe_load(MONITORING.read_text())["services"]
    assert {name: service["profiles"] for name, service in tree.items() if "profiles" in service} == {
        "dcgm-exporter": ["gpu"]
    }
    assert "COMPOSE_PROFILES=\n" in (SERVE / ".env.example").read_text()


@needs_compose
def test_the_files_named_in_the_settings_are_the_ones_that_count(tmp_path: Path) -> None:
    """An update would start the adapters' server beside several full models, on the same GPU."""
    for file in SERVE.glob("compose*.yaml"):
        shutil.copy(file, tmp_path)
    example = (SERVE / ".env.example").read_text()
    assert "\nCOMPOSE_FILE=compose.yaml\n" in example
    (tmp_path / ".env").write_text(example.replace("COMPOSE_FILE=compose.yaml", f"COMPOSE_FILE={MODELS.name}"))
    done = subprocess.run(
        ["docker-compose", "config", "--services"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    # Debian's old docker-compose lists services whose profile is off, too.
    assert set(done.stdout.split()) - {"model-c"} == {"docker-proxy", "tailscale", "model-a", "model-b", "gateway"}, (
        done.stderr
    )
    for script in ("update.sh", "rejoin.sh"):
        assert not re.search(r"docker compose (-f|--file)", (SERVE / script).read_text())


@needs_compose
def test_models_start_one_after_another() -> None:
    """Two engines that measure the GPU's free memory at once take each other's for a leak, and end."""
    services = composed("models")["services"]
    for later, earlier in (("model-b", "model-a"), ("model-c", "model-b")):
        assert services[later]["depends_on"][earlier] == {"condition": "service_healthy"}


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="no compose specification: Debian's docker-compose brings it")
@pytest.mark.parametrize("file", [MAIN, MONITORING, MODELS, SOCKET], ids=lambda file: file.name)
def test_the_files_are_valid_by_the_compose_specification(file: Path) -> None:
    """Another implementation of Compose would refuse what docker-compose lets through."""
    import jsonschema

    tree = yaml.safe_load(file.read_text())
    assert "version" not in tree
    jsonschema.Draft201909Validator(json.loads(SPECIFICATION.read_text())).validate(tree)


def test_every_variable_of_the_compose_files_is_in_the_example_and_the_reverse() -> None:
    """A variable would be read that nobody can find, or set without effect."""
    known = set(re.findall(r"^([A-Z][A-Z0-9_]*)=", (SERVE / ".env.example").read_text(), re.MULTILINE))
    used = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "COMPOSE_PROFILES"}
    for file in (MAIN, MONITORING, MODELS):
        text = re.sub(r"(?m)^\s*#.*", "", file.read_text())
        used |= set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)", text))
        used |= set(re.findall(r"(?m)^\s+([A-Z][A-Z0-9_]*):\s*$", text))
    # The gateway's own settings come with its section of the configuration.
    coming = {name for name in used if name.startswith("FGPIPE_GATEWAY_")}
    assert used - known - (set() if "gateway" in Config.model_fields else coming) == set()
    for name in planned_models.VARIABLES:
        assert {f"MODEL_{letter}_{name.upper()}" for letter in "ABC"} <= known
        assert f"MODEL_{name.upper()}" in (SERVE / "model.sh").read_text()
    assert known - used == set(), "in .env.example, read by no container: add it to the service's environment"


def test_every_setting_reaches_its_container() -> None:
    """A line of .env would be silently without effect."""
    tree = yaml.safe_load(MAIN.read_text())["services"]
    models = yaml.safe_load(MODELS.read_text())["services"]
    for variable in variables(compose([])):
        section = variable.key.partition(".")[0]
        services = {"server": ["server"], "model": ["server"], "gateway": ["gateway"]}.get(section, [])
        if variable.name == "FGPIPE_START_TIMEOUT_S":
            continue
        for service in services:
            assert variable.name in tree[service]["environment"], f"{service}: {variable.name} is missing"
        if section == "gateway":
            assert variable.name in models["gateway"]["environment"], f"compose.multimodel.yaml: {variable.name}"
    for name in ("server", "gateway", "sync"):
        assert set(SET_BY_COMPOSE) & set(tree[name]["environment"]) == {"FGPIPE_ADAPTERS"}


def images() -> list[str]:
    """Every image the stack takes from a registry."""
    found: list[str] = []
    for file in (MAIN, MONITORING, MODELS):
        for service in yaml.safe_load(file.read_text())["services"].values():
            if not service.get("image", "fgpipe/").startswith("fgpipe/"):
                found.append(service["image"])
    for dockerfile in SERVE.rglob("Dockerfile"):
        found += re.findall(r"(?m)^FROM (\S+)", dockerfile.read_text())
    return found


def test_images_are_pinned_to_a_version() -> None:
    """The same commit would bring up another stack next month."""
    assert len(images()) >= 10
    for image in images():
        assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*$", image), image
    assert f"vllm/vllm-openai:v{ServerConfig().vllm_version}" in images()


def test_dockerfiles_run_as_a_user_and_copy_what_is_there() -> None:
    """A build would fail on a missing file, or a container run as root for no reason."""
    for dockerfile in SERVE.rglob("Dockerfile"):
        text = dockerfile.read_text()
        root = ROOT if dockerfile.parent.name in ("serve", "gateway", "sidecar") else dockerfile.parent
        for words in re.findall(r"(?m)^COPY (?!--from)(.+)$", text):
            for source in [word for word in words.split() if not word.startswith("--")][:-1]:
                assert (root / source).exists(), f"{dockerfile}: {source}"
        assert "sudo" not in text
        assert not re.search(r"(?m)^ADD |pip install (?!--no-cache-dir)|apt-get", text), dockerfile
        if dockerfile.parent.name in ("serve", "gateway"):
            assert "\nUSER 1000:1000\n" in text


def test_the_gateways_image_has_what_its_package_asks_for() -> None:
    """The gateway would start on a laptop, and end with a missing module in its container."""
    listed = (SERVE / "gateway" / "requirements.txt").read_text().splitlines()
    pinned = re.findall(r"(?m)^([\w-]+)==", (ROOT / "requirements" / "constraints.txt").read_text().lower())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[^\w-]", line)[0] for line in extras.get("gateway", [])}
    assert wanted - set(listed) == set()
    assert {line.lower() for line in listed if not line.startswith("#")} - set(pinned) == set()


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck: .ci/run installs it")
def test_scripts_are_clean() -> None:
    """A script would break on a path with a space, in a container where nobody watches."""
    assert SCRIPTS
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS), str(ROOT / ".ci" / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for script in SCRIPTS:
        assert re.search(r"^set -eu(o pipefail)?$", script.read_text(), re.MULTILINE), script


ID = "0a1b2c3d4e5f" + 52 * "6"
ALLOWED = [
    ("HEAD", "/_ping"),
    ("GET", "/_ping"),
    ("GET", "/v1.51/info"),
    ("GET", "/v1.51/version"),
    ("GET", "/v1.51/containers/json"),
    ("GET", f"/v1.51/containers/{ID}/json"),
    ("GET", f"/v1.51/containers/{ID}/logs"),
    ("GET", "/v1.51/containers/0a1b2c3d4e5f/json"),
    ("GET", "/v1.51/containers/fgpipe-sync-1/json"),
    ("GET", "/v1.51/containers/fgpipe-sync-1/logs"),
    ("GET", "/v1.51/images/fgpipe/server:local/json"),
    ("GET", "/v1.51/images/sha256:0a1b/json"),
    ("GET", "/v1.51/volumes/fgpipe_tailscale"),
    ("GET", "/v1.51/networks/fgpipe_default"),
    ("GET", "/v1.51/events"),
    ("POST", "/v1.51/build"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    ("POST", "/v1.51/images/create"),
    ("POST", "/v1.51/images/fgpipe/server:local/tag"),
    ("POST", "/v1.51/images/fgpipe/gateway:previous/tag"),
    ("POST", "/v1.51/containers/create"),
    ("POST", f"/v1.51/containers/{ID}/start"),
    ("POST", f"/v1.51/containers/{ID}/stop"),
    ("POST", f"/v1.51/containers/{ID}/restart"),
    ("POST", "/v1.51/containers/0a1b2c3d4e5f_fgpipe-server-1/rename"),
    ("POST", "/v1.51/containers/fgpipe-docker-proxy-1/stop"),
    ("DELETE", f"/v1.51/containers/{ID}"),
]
REFUSED = [
    ("POST", f"/v1.51/containers/{ID}/exec"),
    ("POST", "/v1.51/exec/0a1b2c/start"),
    ("GET", f"/v1.51/containers/{ID}/archive"),
    ("PUT", f"/v1.51/containers/{ID}/archive"),
    ("GET", f"/v1.51/containers/{ID}/export"),
    ("POST", f"/v1.51/containers/{ID}/update"),
    ("POST", f"/v1.51/containers/{ID}/attach"),
    ("POST", "/v1.51/volumes/create"),
    ("POST", "/v1.51/networks/create"),
    ("POST", "/v1.51/swarm/init"),
    ("POST", "/v1.51/services/create"),
    ("POST", "/v1.51/plugins/pull"),
    ("POST", "/v1.51/containers/prune"),
    ("DELETE", "/v1.51/volumes/fgpipe_tailscale"),
    ("DELETE", "/v1.51/images/fgpipe/server:local"),
    ("GET", "/v1.51/secrets"),
    ("POST", "/v1.51/containers/x/../../volumes/create"),
    # Without a version Docker takes the same requests: one way in is enough.
    ("POST", "/containers/create"),
    ("POST", f"/containers/{ID}/start"),
    ("GET", "/containers/json"),
    ("DELETE", f"/containers/{ID}"),
    ("POST", "/build"),
    # Another project's containers by their names, or by the start of an id, which is a name as well.
    ("POST", "/v1.51/containers/blog-db-1/stop"),
    ("POST", "/v1.51/containers/notfgpipe-db-1/stop"),
    ("POST", "/v1.51/containers/fgpipe2-db-1/stop"),
    ("POST", "/v1.51/containers/0a1b2c/stop"),
    ("GET", "/v1.51/containers/blog-db-1/json"),
    ("GET", "/v1.51/containers/blog-db-1/logs"),
    ("DELETE", "/v1.51/containers/blog-db-1"),
    ("POST", "/v1.51/containers/blog-db-1/rename"),
    ("POST", "/v1.51/images/postgres:17/tag"),
    # What a pattern would let through whose alternatives stand outside of brackets.
    ("GET", "/_ping/../containers/json"),
    ("POST", f"/grpc/v1.51/containers/{ID}/exec"),
    ("POST", f"/v1.51/exec/{ID}/session"),
]


@needs_compose
def test_the_docker_proxy_allows_what_an_update_asks_for_and_no_more() -> None:
    """Updates would stop at a 403, or the sidecar could run commands in any container of the machine."""
    words = composed("main")["services"]["docker-proxy"]["command"]
    allowed = [found.groups() for word in words if (found := re.fullmatch("-allow([A-Z]+)=(.*)", word))]
    assert allowed

    def passes(method: str, path: str) -> bool:
        # As the proxy does it: no brackets of its own between ^ and $, and any of several patterns.
        return any(method == its and re.search(f"^{pattern}$", path) for its, pattern in allowed)

    assert [request for request in ALLOWED if not passes(*request)] == []
    assert [request for request in REFUSED if passes(*request)] == []


@needs_compose
def test_every_container_of_the_stack_can_be_named_to_the_docker_proxy() -> None:
    """`docker logs fgpipe-…-1` in the sidecar would be refused for a service with an unusual name."""
    words = "\n".join(composed("main")["services"]["docker-proxy"]["command"])
    names = {service for stack in STACKS for service in composed(stack)["services"]}
    (pattern,) = re.findall(r"-allowGET=(.*/\(json\|logs\))$", words, re.MULTILINE)
    for name in names:
        assert re.search(f"^{pattern}$", f"/v1.51/containers/fgpipe-{name}-1/logs"), name


@needs_compose
def test_the_docker_proxy_mounts_the_stacks_own_folders_and_no_others() -> None:
    """An update could not start the stack again, or a container be made with the whole disk in it."""
    services = composed("main")["services"]
    (word,) = [word for word in services["docker-proxy"]["command"] if word.startswith("-allowbindmountfrom=")]
    folders = set(word.partition("=")[2].split(","))
    replaced = {
        mount["source"]
        for name, service in services.items()
        if name not in ("tailscale", "docker-proxy")
        for mount in service.get("volumes", [])
        if isinstance(mount, dict) and mount["type"] == "bind"
    }
    assert folders == replaced
    # Before this version, a create without the API's version, or a volume that is a folder, was not looked at.
    version = services["docker-proxy"]["image"].rpartition(":")[2]
    assert tuple(map(int, version.split("."))) >= (1, 13, 0)
