"""What the guides name exists: files, variables, keys, targets, links. Commands: `test_documented_commands`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from documents import CONCEPT, DOCUMENTS, GUIDE, ROOT, code
from fgpipe.config import Config, ServerConfig, keys

ELSEWHERE = {"HF_HOME", "VLLM_CACHE_ROOT", "FGPIPE_KEY", "FGPIPE_ADAPTERS", "FGPIPE_PRINT", "FGPIPE_PYTHON"}
"""Variables that containers, scripts and clients set for themselves."""

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@documents
def test_every_variable_is_in_the_example(document: Path) -> None:
    """The reader would look for a line of .env that is not there."""
    known = set(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=", (ROOT / "serve/.env.example").read_text())) | ELSEWHERE
    if "gateway" not in Config.model_fields:
        known |= {"FGPIPE_GATEWAY_HOST"}
    found = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b(?!_?…)", code(document)))
    assert found - known == set()


@documents
def test_every_file_link_and_heading_is_there(document: Path) -> None:
    """The reader would follow a link to nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, heading = target.partition("#")
        if target.startswith("http"):
            continue
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        headings = [line.lstrip("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
        slugs = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}
        assert not heading or heading in slugs, target
    names = {word for word in re.findall(r"[\w./-]+", code(document)) if re.search(r"\.(sh|py|yaml|md|json)$", word)}
    names |= set(re.findall(r"\b(?:serve|src|docs|tests|conf)/[\w./-]+", code(document)))
    for name in names - {"channel.json", "serve/.env"}:
        places = [ROOT / name, ROOT / "serve" / name, ROOT / "docs" / name]
        assert any(place.exists() for place in places), name


@documents
def test_every_key_and_make_target_is_there(document: Path) -> None:
    """A setting or a target would be recommended that nobody has."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:^|&& )make ([a-z-]+)", code(document))) <= targets
    known = {key for key, _, _ in keys(Config)}
    sections = "|".join(Config.model_fields)
    named = set(re.findall(rf"(?<![\w./-])(?:{sections})\.[a-z_]+(?:\.[a-z_]+)?(?![\w/]|\.py)", code(document)))
    files = {name for name in named if re.search(r"\.(sh|json|yaml|md)$", name)}
    assert named - known - files == set()


def test_the_guides_tailnet_policy_lets_its_own_commands_through() -> None:
    """`ssh root@fgpipe update` would time out, or pasting the policy would cut other devices off from each other."""
    policy = json.loads(re.search(r"(?ms)^```json\n(.*?)^```", GUIDE.read_text()).group(1))  # type: ignore[union-attr]
    default = {"src": ["*"], "dst": ["*"], "ip": ["*"]}
    assert default in policy["grants"]
    (tag,) = policy["tagOwners"]
    assert f"--advertise-tags={tag}" in code(GUIDE)

    def granted(who: str, port: str) -> bool:
        """Without the default, which some take away."""
        grants = [grant for grant in policy["grants"] if grant != default and tag in grant["dst"]]
        return any(who in grant["src"] and f"tcp:{port}" in grant["ip"] for grant in grants)

    (shell,) = [rule for rule in policy["ssh"] if tag in rule["dst"]]
    assert "root" in shell["users"]
    assert all(granted(who, "22") for who in shell["src"])
    example = (ROOT / "serve/.env.example").read_text()
    for variable in ("FGPIPE_GATEWAY_PORT", "GRAFANA_PORT"):
        port = re.search(rf"(?m)^{variable}=(\d+)$", example)
        assert port, variable
        assert granted("autogroup:member", port.group(1)), variable


def test_the_guides_name_compose_files_in_the_settings_alone() -> None:
    """An update reads them there: what was started by `-f` would be started a second time as something else."""
    for document in DOCUMENTS:
        assert not re.search(r"docker compose (-f|--file)", document.read_text())
        for files in re.findall(r"COMPOSE_FILE=([\w.:-]+)", code(document)):
            for file in files.split(":"):
                assert (ROOT / "serve" / file).exists(), file


def test_the_guide_names_services_and_scripts_as_they_are() -> None:
    """`docker compose logs` would be told of a service that is called otherwise."""
    services = set()
    for file in ROOT.glob("serve/compose*.yaml"):
        services |= set(yaml.safe_load(file.read_text())["services"])
    for document in DOCUMENTS:
        text = code(document)
        named = re.findall(r"docker compose (?:logs|ps|restart) ([a-z-]+)", text)
        named += re.findall(r"docker logs .*?fgpipe-([a-z-]+)-1", text)
        assert set(named) <= services
    image = (ROOT / "serve/Dockerfile").read_text()
    for version in re.findall(r"vllm/vllm-openai:(\S+)", GUIDE.read_text()):
        assert f"FROM vllm/vllm-openai:{version}\n" in image


def test_the_concept_explains_every_setting_of_the_server_and_every_alert() -> None:
    """A new setting or alert would come without a word on what it does."""
    text = CONCEPT.read_text()
    for name in set(ServerConfig.model_fields) - {"vllm_version"}:
        assert f"| `server.{name}` | `FGPIPE_{name.upper()}` |" in text
    rules = yaml.safe_load((ROOT / "serve/prometheus/rules/fgpipe.yml").read_text())["groups"][0]["rules"]
    table = text.partition("| alert |")[2].partition("## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == {rule["alert"] for rule in rules}
