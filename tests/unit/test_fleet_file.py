"""The file of a fleet: what it may hold, and what is said of what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgpipe.cli import main
from fgpipe.config import Config
from fgpipe.errors import ConfigError, PublishError
from fgpipe.fleet import EXAMPLE, read_fleet


def write(folder: Path, text: str) -> Path:
    (folder / "adapters.yaml").write_text(text)
    return folder / "adapters.yaml"


def test_each_adapter_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    """Own words are stronger than common ones, and those of the command line stronger than both."""
    text = "common: model=tiny lora.r=8 seed=1\nadapters:\n  sql: task=sql\n  short: task=sql lora.r=4 seed=2\n"
    sql, short = read_fleet(write(tmp_path, text), ["seed=3"])
    assert (sql.config.lora.r, short.config.lora.r) == (8, 4)
    assert (sql.config.seed, short.config.seed) == (3, 3)
    assert (sql.config.adapter_name, short.config.adapter_name) == ("sql", "short")
    assert str(sql.config.run_folder) == "runs/sql-tiny"
    assert str(short.config.run_folder) == "runs/short-tiny"


def test_words_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    """A sentence has spaces."""
    text = "adapters:\n  sql: task=sql 'task.instruction=Only read.'\n"
    (sql,) = read_fleet(write(tmp_path, text), [])
    assert sql.config.task.instruction == "Only read."


def test_an_adapter_alone_and_in_a_fleet_is_the_same_run(tmp_path: Path) -> None:
    """So that what one has trained the other finds up to date."""
    from fgpipe.compose import compose
    from fgpipe.training import stage

    (sql,) = read_fleet(write(tmp_path, "adapters:\n  sql: task=sql model=tiny\n"), [])
    alone = compose(["task=sql", "model=tiny"])
    assert sql.config.run_folder == alone.run_folder
    one, other = (stage.train_config(each.model, each.lora, each.train, seed=each.seed) for each in (sql.config, alone))
    assert one == other


def test_two_adapters_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Each would overwrite what the other has made, and one of them would be published as both."""
    text = "common: model=tiny paths.run=runs/shared\nadapters:\n  sql: task=sql\n  email: task=email\n"
    with pytest.raises(ConfigError, match=r"email: got paths\.run=runs/shared, where sql is made"):
        read_fleet(write(tmp_path, text), [])


def test_a_name_of_another_base_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Publishing would refuse it in the end, an hour later."""

    def refuse(config: Config) -> None:
        raise PublishError("sql: got another base")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("rows were made")

    monkeypatch.setattr("fgpipe.releasing.require_base", refuse)
    monkeypatch.setattr("fgpipe.pipeline.format_dataset", never)
    assert main(["fleet", str(write(tmp_path, "adapters:\n  sql: task=sql model=tiny\n"))]) == 2
    assert "sql failed: sql: got another base" in capsys.readouterr().out


def test_the_example_in_the_hint_is_right(tmp_path: Path) -> None:
    """People copy it."""
    assert [entry.name for entry in read_fleet(write(tmp_path, EXAMPLE), [])] == ["sql", "short"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without adapters"),
        ("adapters: {}", "without adapters"),
        ("adapters: [sql]", "without adapters"),
        ("adapters:\n  sql: task=sql\n  sql: task=email\n", "duplicate key sql"),
        ("adapters: {SQL: task=sql}", "got 'SQL' as an adapter's name"),
        ("adapters: {'../x': task=sql}", "got '../x' as an adapter's name"),
        ("adapters: {sql: {task: sql}}", "sql: got {'task': 'sql'}, expected words"),
        ('adapters: {sql: "task=sql \'seed=1"}', "No closing quotation"),
        ("models: 1\nadapters: {sql: task=sql}", "got models, expected adapters"),
        ("adapters: {sql: task=sql lora.rr=4, email: task=email train.epochs=-1}", "sql: lora.rr: got an unknown key"),
        ("adapters: {sql: task=sql lora.rr=4, email: task=email train.epochs=-1}", "email: train.epochs: got -1"),
        ("adapters: {sql: task=sql model=tiny, email: task=email}", "a fleet shares its base"),
        ("adapters: {a: task=sql publish.name=x, b: task=sql publish.name=x}", "publish.name=x a second time"),
        ("adapters: [", "adapters.yaml"),
    ],
)
def test_mistakes_are_named(text: str, said: str, tmp_path: Path) -> None:
    """All of a file's mistakes before anything is trained."""
    with pytest.raises(ConfigError) as caught:
        read_fleet(write(tmp_path, text), [])
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("words", [[], ["a.yaml", "b.yaml"], ["nowhere.yaml"]])
def test_the_command_says_what_it_wants(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and status 2."""
    monkeypatch.chdir(tmp_path)
    assert main(["fleet", *words]) == 2
    assert capsys.readouterr().err.startswith("fgpipe: ")
    assert not list(tmp_path.iterdir())
