"""The configuration: composed by Hydra, judged once, every fault at once."""

from __future__ import annotations

import pytest

from fgpipe import config_reference, resources
from fgpipe.compose import compose, groups
from fgpipe.config import LINEAR_MODULES, Config, ModelShape, is_name, keys
from fgpipe.errors import ConfigError


def fault(*overrides: str) -> str:
    """What composing `overrides` complains of."""
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


def test_every_shipped_option_composes() -> None:
    """A broken YAML file under conf/ would only be found by the user who picks it."""
    for group, options in groups().items():
        for option in options:
            compose([f"{'+' if group == 'experiment' else ''}{group}={option}".lstrip("+")])


def test_the_reference_is_the_schemas_own() -> None:
    """docs/config.md would name settings that are gone, or other defaults than those that hold."""
    text = config_reference.markdown()
    written = resources.PACKAGE.parent.parent / "docs" / "config.md"
    assert written.read_text(encoding="utf-8") == text, "make docs"
    for key, default, _ in keys(Config):
        assert f"| `{key}` | " in text
        assert f"`{default}`" in text or not default


def test_later_groups_win_and_own_words_win_over_all() -> None:
    """A value typed on the command line would be ignored in favour of a file."""
    assert compose(["model=tiny"]).train.learning_rate != Config().train.learning_rate
    assert compose(["model=tiny", "experiment=quick"]).train.max_steps == 20
    assert compose(["train.max_steps=7", "experiment=quick", "model=tiny"]).train.max_steps == 7


def test_all_faults_are_reported_together() -> None:
    """Mending a configuration would take one run per mistake."""
    text = fault("task=sql", "train.learning_rte=1", "train.epochs=-1", "lora.r=64", "nonsense=2", "server.port=0")
    for part in ("train.learning_rte", "did you mean learning_rate?", "train.epochs: got -1", "lora.r: got 64"):
        assert part in text
    assert "nonsense" in text
    assert "server.port: got 0" in text


def test_rank_above_the_servers_is_refused_naming_both_settings() -> None:
    """An adapter would be trained that the server cannot load."""
    text = fault("lora.r=64")
    assert "server.max_lora_rank (32)" in text
    assert "server.max_lora_rank=64" in text
    assert compose(["lora.r=64", "server.max_lora_rank=64"]).lora.r == 64


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens", "qkv_proj"])
def test_targets_that_cannot_be_served_are_refused(module: str) -> None:
    """The server would silently serve something else than what was trained."""
    assert module in fault(f"lora.target_modules=[q_proj,{module}]")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("task=sqll", "did you mean sql?"),
        ("model=tinny", "did you mean tiny?"),
        ("tsk=sql", "did you mean task?"),
        ("server.max_lora_rank=33", "expected one of 1, 8, 16, 32"),
        ("server.max_cpu_loras=1", "expected at least max_loras"),
        ("train.learning_rate=fast", "train.learning_rate: got 'fast'"),
        ("train.max_length_tokens=100000", "server.max_model_len_tokens"),
        ("task.name=../../etc", "task.name"),
        ("just-a-word", "expected key=value"),
        ("train.epochs=[1", "configuration"),
        ("seed=.nan", "seed"),
        ("train.learning_rate=.inf", "train.learning_rate"),
    ],
)
def test_one_mistake_is_named(word: str, part: str) -> None:
    """The user would have to guess what is wrong."""
    assert part in fault(word)


def test_scientific_notation_is_a_number() -> None:
    """1e-3 would be read as text, as PyYAML alone does."""
    assert compose(["train.learning_rate=1e-3"]).train.learning_rate == 1e-3


def test_configuration_cannot_be_changed_after_it_was_judged() -> None:
    """A stage could run with values that were never checked."""
    with pytest.raises(Exception, match="frozen"):
        Config().lora.r = 512  # type: ignore[misc]


def test_shape_arithmetic_is_functiongemmas() -> None:
    """Memory plans and adapter checks would be wrong; figures: FunctionGemma 270M and its LoRA at rank 16."""
    shape = ModelShape()
    assert shape.parameters() == 268_098_176
    rank = 16
    assert shape.num_hidden_layers * sum(rank * (i + o) for i, o in shape.linear_shapes().values()) == 3_796_992
    assert tuple(shape.linear_shapes()) == LINEAR_MODULES


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "A", "a..b", "a" * 65, "a b", "a@v1", "sql\n"])
def test_names_that_could_leave_the_folder_are_no_names(name: str) -> None:
    """An adapter called ../x would be written outside the adapters folder."""
    assert not is_name(name)


def test_every_key_has_a_default_and_help_lists_it() -> None:
    """`--help` would leave out settings."""
    listed = {key for key, _, _ in keys(Config)}
    assert {"task.dataset.source", "lora.r", "train.learning_rate", "server.max_num_seqs", "seed"} <= listed


def test_own_conf_folder_is_found(tmp_path, monkeypatch) -> None:
    """A user could not add a task without changing fgpipe."""
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "conf/task/tickets.yaml").write_text("name: tickets\ndataset:\n  source: tickets.jsonl\n")
    monkeypatch.chdir(tmp_path)
    assert compose(["task=tickets"]).task.dataset.source == "tickets.jsonl"
    assert compose(["task=sql"]).task.name == "sql"
