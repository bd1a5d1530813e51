"""Settings as variables: the same names in the schema, `.env.example`, entrypoint and command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fgpipe import cli
from fgpipe.compose import compose
from fgpipe.config import Config
from fgpipe.environment import overrides, variables
from fgpipe.environment_file import example, groups

SERVE = Path(__file__).parents[2] / "serve"


def test_the_example_is_what_the_schema_says() -> None:
    """`.env.example` would miss a new setting, or show a default that is none; `make environment` writes it."""
    assert (SERVE / ".env.example").read_text() == example(compose([]))


def test_every_line_of_the_example_has_a_meaning_and_a_name_of_its_own() -> None:
    """The reader would find a variable twice, or one that nobody explains."""
    entries = [entry for _, found in groups(compose([])) for entry in found]
    names = [name for name, _, _ in entries]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in names)
    assert [name for name, _, meaning in entries if not meaning] == []


def test_the_entrypoint_reads_exactly_the_servers_variables() -> None:
    """A setting in .env would be silently without effect in the container."""
    ours = {variable.name for variable in variables(Config()) if variable.key.split(".")[0] in ("server", "model")}
    # How long others wait for it; what `replicating.container` reads.
    ours -= {"FGPIPE_START_TIMEOUT_S", "FGPIPE_MPS"}
    own = {"FGPIPE_PYTHON", "FGPIPE_PRINT", "FGPIPE_ADAPTERS", "FGPIPE_ADMIN_KEY"}
    read = set(re.findall(r"\$\{?(FGPIPE_[A-Z_]+)", (SERVE / "entrypoint.sh").read_text()))
    assert read - own == ours


def test_every_default_of_the_example_changes_nothing() -> None:
    """Copying `.env.example` unchanged would already be a configuration of its own."""
    lines = [line.partition("=") for line in example(compose([])).splitlines() if not line.startswith("#")]
    words = overrides({name: value for name, _, value in lines})
    assert compose(list(words.values())) == compose([])


@pytest.mark.parametrize(
    ("variable", "value", "key", "expected"),
    [
        ("FGPIPE_MAX_LORAS", "3", "server.max_loras", 3),
        ("FGPIPE_PREFIX_CACHING", "false", "server.prefix_caching", False),
        ("FGPIPE_MAX_NUM_BATCHED_TOKENS", " ", "server.max_num_batched_tokens", None),
        ("FGPIPE_SERVERS", "http://a:1, http://b:2", "publish.servers", ("http://a:1", "http://b:2")),
        ("FGPIPE_MODEL", "/models/it's mine", "model.path", "/models/it's mine"),
        ("FGPIPE_MODEL", "some/base", "model.id", "some/base"),
        ("FGPIPE_ADAPTERS", r"D:\my adapters", "paths.adapters", r"D:\my adapters"),
        ("FGPIPE_MAX_MODEL_LEN_TOKENS", "null", "server.max_model_len_tokens", 4096),
    ],
)
def test_a_variable_is_the_setting_it_names(variable: str, value: str, key: str, expected: object) -> None:
    """A value with a space, a quote or a comma would arrive as another one, or not at all."""
    found: object = compose(list(overrides({variable: value}).values()))
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected


def test_the_command_line_comes_after_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was typed would lose against a variable forgotten long ago; or an error would not say where it is from."""
    monkeypatch.setenv("FGPIPE_MAX_LORAS", "3")
    monkeypatch.setenv("FGPIPE_MAX_NUM_SEQS", "17")
    assert cli.main(["config", "server.max_loras=5"]) == 0
    shown = capsys.readouterr().out
    assert "max_loras: 5" in shown
    assert "max_num_seqs: 17" in shown
    monkeypatch.setenv("FGPIPE_PORT", "eighty")
    assert cli.main(["config"]) == 2
    error = capsys.readouterr().err
    assert "server.port: got 'eighty'" in error
    assert "from the environment: FGPIPE_PORT" in error
