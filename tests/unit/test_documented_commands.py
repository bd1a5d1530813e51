"""What the documents tell a reader to type can be typed: programs, subcommands, flags, files, targets, tests."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from documents import EVERY_DOCUMENT, GUIDE, README, ROOT, STACK, commands
from fgpipe import cli
from fgpipe.config import Config, keys

SERVE = ROOT / "serve"
NOT_YET = {"export"}
"""Commands of fgpipe of which a document says that they are not there yet."""

SYSTEM = {
    "cd",
    "cp",
    "docker-compose",
    "export",
    "git",
    "ls",
    "mkdir",
    "nvidia-smi",
    "schtasks",
    "openssl",
    "sed",
    "sudo",
    "vi",
    "wsl",
}
"""Programs that are not ours, and whose words are not looked at."""

COMPOSE = {
    "build": {"--no-cache", "--pull"},
    "config": {"--images", "--quiet", "--services"},
    "down": {"--remove-orphans", "--volumes"},
    "logs": {"--follow", "--since", "--tail", "--timestamps"},
    "ps": {"--all", "--quiet"},
    "pull": set(),
    "restart": {"--no-deps", "--timeout"},
    "start": set(),
    "stop": {"--timeout"},
    "up": {"--build", "--detach", "--force-recreate", "--no-deps", "--remove-orphans", "--wait", "--wait-timeout"},
}
"""Subcommands of `docker compose` and what they take, from Docker's reference; with values: --tail, --since, …"""

DOCKER = {
    "build": set(),
    "inspect": {"--format"},
    "logs": {"--follow", "--since", "--tail", "--timestamps"},
    "run": {"--entrypoint", "--gpus", "--rm"},
}
VALUED = {"--since", "--tail", "--timeout", "--wait-timeout", "--format", "--entrypoint", "--gpus"}

every_document = pytest.mark.parametrize("document", EVERY_DOCUMENT, ids=lambda path: str(path.relative_to(ROOT)))


@every_document
def test_every_command_can_be_typed(document: Path) -> None:
    """A reader would copy a line and read 'unknown flag', 'no such file' or 'no rule to make target'."""
    for words in commands(document):
        fault = judge(words)
        assert not fault, f"{' '.join(words)}: {fault}"


def judge(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing is."""
    program, rest = words[0], words[1:]
    if program in SYSTEM:
        return ""
    if re.fullmatch(r"(\.(venv|tools)/bin/)?python3?", program):
        return judge_python(rest)
    judges = {
        "docker": judge_docker,
        "make": judge_make,
        "pip": judge_pip,
        "pytest": judge_pytest,
        "ssh": judge_ssh,
        "uv": lambda rest: judge_script(rest[1:]) if rest[1:] else "",
        "uvicorn": lambda rest: "",
    }
    return judges[program](rest) if program in judges else judge_script(words)


def judge_python(words: list[str]) -> str:
    if words[:1] != ["-m"]:
        return judge_script(words)
    module, rest = words[1], words[2:]
    if module == "fgpipe":
        return judge_fgpipe(rest)
    if module == "pytest":
        return judge_pytest(rest)
    return "" if importlib.util.find_spec(module) else f"no module {module}"


def judge_fgpipe(words: list[str]) -> str:
    # -m makes a sweep of any command, before anything else is read.
    words = [word for word in words if not re.fullmatch(r"\[.*\]|ELLIPSIS|PATH|FOLDER|-m", word)]
    if not words or words[0] in NOT_YET or words == ["--help"]:
        return ""
    if words[0] not in cli.COMMANDS:
        return "no such command"
    parsed, rest = cli._parsers()[0].parse_known_args(words)
    if flags := [word for word in rest if word.startswith("-")]:
        return f"no flags {flags}"
    if words[0] in ("plan", "download"):
        return ""
    own = {"shrink": {"r", "out"}}.get(words[0], set())
    known = {key for key, _, _ in keys(Config)} | {"task", "model", "server", "experiment"} | own
    given = [word.partition("=")[0] for word in parsed.overrides if "=" in word]
    return f"no keys {sorted(set(given) - known)}" if set(given) - known else ""


def judge_docker(words: list[str]) -> str:
    table, place = DOCKER, ROOT
    if words[:1] == ["compose"]:
        table, words, place = COMPOSE, words[1:], SERVE
        while words[:1] in (["-f"], ["--file"]):
            if not (place / words[1]).exists():
                return f"no file {words[1]} in serve/"
            words = words[2:]
        if not words:
            return ""
    if not words or words[0] not in table:
        return f"no subcommand {words[:1]} that is known here"
    flags = [word.partition("=")[0] for word in words[1:] if word.startswith("-") and table is COMPOSE]
    if unknown := set(flags) - table[words[0]]:
        return f"no flags {unknown}"
    if table is COMPOSE:
        plain = [word for before, word in pairwise(words) if before not in VALUED]
        if unknown := {word for word in plain if not word.startswith("-")} - services():
            return f"no services {unknown}"
    for name in re.findall(r"\bfgpipe-([a-z-]+)-1\b", " ".join(words)):
        if name not in services():
            return f"no service {name}"
    return ""


@cache
def services() -> set[str]:
    return {name for file in SERVE.glob("compose*.yaml") for name in yaml.safe_load(file.read_text())["services"]}


def judge_make(words: list[str]) -> str:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^([a-z-]+):", text))
    variables = set(re.findall(r"(?m)^([A-Z]+) *\?=", text))
    for word in words:
        name, is_variable, _ = word.partition("=")
        if name not in (variables if is_variable else targets):
            return f"no target or variable {name}"
    return ""


def judge_pip(words: list[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for word in words for part in re.findall(r"\[(.*?)\]", word) for name in part.split(",")}
    return f"no extras {named - set(extras)}" if named - set(extras) else ""


def judge_pytest(words: list[str]) -> str:
    files = [ROOT / word for word in words if word.startswith("tests")]
    if missing := [file for file in files if not file.exists()]:
        return f"no {missing}"
    if "-k" in words and words[words.index("-k") + 1] not in "".join(file.read_text() for file in files):
        return "no test of that name"
    return ""


def judge_ssh(words: list[str]) -> str:
    """What a shell in the sidecar is asked to run; its image links our scripts among its programs."""
    host, *asked = (word for word in words if word != "-t")
    if not host.endswith("@fgpipe"):
        return "no such machine"
    image = (SERVE / "sidecar/Dockerfile").read_text()
    links = re.findall(r"ln -s /srv/fgpipe/checkout/(\S+) /usr/local/bin/(\S+)", image)
    scripts = {name: script for script, name in links}
    return judge([scripts.get(asked[0], asked[0]), *asked[1:]]) if asked else ""


def judge_script(words: list[str]) -> str:
    """A file of this repository, and its flags."""
    file = ROOT / words[0]
    if not file.is_file():
        return "no such program or file"
    flags = {word.partition("=")[0] for word in words[1:] if re.match("--?[a-z]", word)}
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", described(file)))
    return f"no flags {flags - known}" if flags - known else ""


@cache
def described(file: Path) -> str:
    """A script's own help; its text, where it has none."""
    text = file.read_text()
    if "argparse" not in text:
        return text if file.suffix == ".sh" else ""
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documents_have_commands() -> None:
    """The test above would pass if it found none."""
    assert len(list(commands(README))) > 25
    assert len(list(commands(GUIDE))) > 20
    assert len(list(commands(STACK))) > 3


@pytest.mark.parametrize(
    "line",
    [
        ["docker", "compose", "upp", "--detach"],
        ["docker", "compose", "up", "--detatch"],
        ["docker", "compose", "-f", "compose.many.yaml", "up"],
        ["docker", "compose", "logs", "sevrer"],
        ["docker", "logs", "fgpipe-snyc-1"],
        ["make", "tols"],
        ["make", "publish", "ADAPTR=sql"],
        ["pip", "install", "-e", ".[qlra]"],
        ["python", "-m", "fgpipe", "serv"],
        ["python", "-m", "fgpipe", "serve", "--prnt"],
        ["python", "-m", "fgpipe", "serve", "server.replcas=2"],
        ["python", "-m", "fgpipe.models.tiny.pretrian"],
        ["python", "-m", "pytest", "tests/server/test_gatway.py"],
        ["python", "-m", "pytest", "tests/server/test_hot_publish.py", "-k", "fifti"],
        ["python", "benchmarks/gateway.py", "--round", "2", "--requsts", "3"],
        ["python", "benchmarks/gatway.py"],
        ["uv", "run", "serve/test_connection.py", "--adress", "x"],
        ["serve/update.sh", "--everthing"],
        ["serve/psuh.sh", "sql"],
        ["ssh", "root@fgpipe", "updat"],
        ["ssh", "root@fgpipe", "update", "--evrything"],
    ],
    ids=" ".join,
)
def test_a_slip_of_the_pen_is_seen(line: list[str]) -> None:
    """The documents could say anything, and their test would go on passing."""
    assert judge(line)
