"""Publishing: versions never change, the pointer means what it should, hostile names reach nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import adapter_folders
from adapter_folders import CONTRACT, MODEL, settings
from fgpipe import adapters_folder, config, pipeline, store
from fgpipe.compose import compose
from fgpipe.errors import PublishError, ValidationError
from fgpipe.publishing import registry
from fgpipe.publishing.card import card
from fgpipe.publishing.registry import PublishedVersion
from fgpipe.validation import gate

GOLDEN = Path(__file__).parent.parent / "golden"

SCORE = {"value": 0.9125, "low": 0.85, "high": 0.951, "n": 160}
EXTRA: dict[str, Any] = {
    "base": {"id": MODEL.id, "revision": "a" * 40, "fingerprint": "b" * 64},
    "scores": {
        "rows": 160,
        "base": {"headline": {"value": 0.1, "low": 0.05, "high": 0.15, "n": 160}},
        "adapter": {"headline": SCORE},
    },
    "versions": {"fgpipe": "0.1.0", "peft": "0.21.2"},
    "git": "c" * 40,
}


def publish(root: Path, *, seed: int = 0, name: str = "sql", **changes: Any) -> PublishedVersion:
    folder = adapter_folders.write(root / f"trained-{seed}", config=settings(**changes), seed=seed)
    return registry.publish(folder, name=name, adapters=root / "adapters", check=gate(CONTRACT), manifest_extra=EXTRA)


def publish_of(root: Path, base: str, *, seed: int, change_base: bool = False) -> PublishedVersion:
    """As `publish`, of an adapter that says it was trained on `base`."""
    return registry.publish(
        adapter_folders.write(root / f"trained-{seed}", config=settings(), seed=seed),
        name="sql",
        adapters=root / "adapters",
        check=lambda folder: None,
        manifest_extra={**EXTRA, "base": {**EXTRA["base"], "id": base}},
        change_base=change_base,
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def resolved(root: Path, request: str = "sql") -> str | None:
    found = adapters_folder.resolve(root / "adapters", request)
    return found.name if found else None


def test_a_published_adapter_is_served_with_its_own_bytes(tmp_path: Path) -> None:
    """The server would load something else than what was trained, or nothing."""
    version = publish(tmp_path)
    assert version == PublishedVersion("sql", "v0001", tmp_path / "adapters/sql/v0001", created=True)
    assert adapters_folder.resolve(tmp_path / "adapters", "sql") == version.path
    for file in adapters_folder.ADAPTER_FILES:
        assert (version.path / file).read_bytes() == (tmp_path / "trained-0" / file).read_bytes()
    assert sorted(os.listdir(version.path)) == sorted([*adapters_folder.ADAPTER_FILES, "README.md", "manifest.json"])
    assert sorted(os.listdir(version.path.parent)) == [".lock", "channel.json", "v0001"]
    assert store.read_json(version.path.parent / "channel.json") == {
        "current": "v0001",
        "previous": None,
        "aliases": {},
        "last": 1,
    }


def test_the_manifest_says_where_a_version_comes_from(tmp_path: Path) -> None:
    """Nobody could tell later from which data, code and base a version was made."""
    manifest = store.read_json(publish(tmp_path).path / "manifest.json")
    assert {key: manifest[key] for key in EXTRA} == EXTRA
    assert manifest["parity"] == "not run"
    assert manifest["adapter"]["r"] == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["created"])
    weights = tmp_path / "trained-0/adapter_model.safetensors"
    assert manifest["files"]["adapter_model.safetensors"]["bytes"] == weights.stat().st_size


def test_versions_are_read_only_files(tmp_path: Path) -> None:
    """An editor or a script would change a served version by accident."""
    assert all(file.stat().st_mode & 0o222 == 0 for file in publish(tmp_path).path.iterdir())


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    """Every run of the pipeline would pile up equal versions and empty the server's cache."""
    publish(tmp_path)
    before = snapshot(tmp_path / "adapters")
    again = publish(tmp_path)
    assert (again.version, again.created) == ("v0001", False)
    assert snapshot(tmp_path / "adapters") == before
    reordered = publish(tmp_path, target_modules=list(reversed(config.LINEAR_MODULES)))
    assert (reordered.version, reordered.created) == ("v0001", False)
    assert publish(tmp_path, lora_alpha=9).version == "v0002"


def test_an_equal_older_version_is_made_live_again(tmp_path: Path) -> None:
    """A publish killed before the pointer moved would leave its version dead for ever."""
    publish(tmp_path)
    publish(tmp_path, seed=1)
    registry.rollback("sql", adapters=tmp_path / "adapters")
    assert resolved(tmp_path) == "v0001"
    again = publish(tmp_path, seed=1)
    assert (again.version, again.created, resolved(tmp_path)) == ("v0002", False, "v0002")


def test_a_damaged_version_is_not_taken_for_an_equal_one(tmp_path: Path) -> None:
    """Publishing the good adapter again would point to the broken copy."""
    version = publish(tmp_path)
    weights = version.path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert publish(tmp_path).version == "v0002"


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    """The server caches by name and path: a second v0002 would be answered from the first one's cache."""
    import shutil

    for seed in range(3):
        publish(tmp_path, seed=seed)
    shutil.rmtree(tmp_path / "adapters/sql/v0003")
    shutil.rmtree(tmp_path / "adapters/sql/v0002")
    assert publish(tmp_path, seed=4).version == "v0004"
    (tmp_path / "adapters/sql/channel.json").unlink()
    (tmp_path / "adapters/sql/v0007").mkdir()
    assert publish(tmp_path, seed=5).version == "v0008"


def test_a_refused_adapter_leaves_no_trace(tmp_path: Path) -> None:
    """An adapter the server cannot load would be published, or leave a folder that looks published."""
    with pytest.raises(ValidationError):
        publish(tmp_path, r=64)
    assert not (tmp_path / "adapters").exists()
    publish(tmp_path)
    before = snapshot(tmp_path / "adapters")
    with pytest.raises(ValidationError):
        publish(tmp_path, r=64)
    assert snapshot(tmp_path / "adapters") == before


def test_the_copy_is_checked_not_only_the_original(tmp_path: Path) -> None:
    """A file changed between the check and the copy would be published unchecked."""
    folder = adapter_folders.write(tmp_path / "trained")
    asked: list[Path] = []

    def check(given: Path) -> None:
        asked.append(given)
        gate(CONTRACT)(given)
        (folder / "adapter_config.json").write_text(json.dumps(settings(r=64)))

    with pytest.raises(ValidationError):
        registry.publish(folder, name="sql", adapters=tmp_path / "adapters", check=check, manifest_extra=EXTRA)
    assert asked[0] == folder
    assert resolved(tmp_path) is None


@pytest.mark.parametrize("name", ["", "SQL", "a/b", "../a", "a..b", "-a", "x" * 65, "con", "lpt1.x", "a.", "a b", "é"])
def test_names_that_cannot_be_served_are_refused(tmp_path: Path, name: str) -> None:
    """A name would escape the folder, or work on Linux and not on the Windows drive it is copied to."""
    with pytest.raises(PublishError, match="name: got"):
        publish(tmp_path, name=name)
    assert not (tmp_path / "adapters").exists()


def test_the_base_keeps_its_own_name(tmp_path: Path) -> None:
    """Requests for the base would be answered by an adapter, or the server refuse to start."""
    folder = adapter_folders.write(tmp_path / "trained")
    with pytest.raises(PublishError, match="base model's own name"):
        registry.publish(
            folder,
            name="small",
            adapters=tmp_path / "adapters",
            check=gate(CONTRACT),
            manifest_extra={**EXTRA, "base": {"id": "small"}},
        )


def test_the_two_name_rules_agree() -> None:
    """The configuration would allow a name that the server's reader refuses."""
    for text in ("sql", "a.b-c_d", "0", "x" * 64, "x" * 65, "A", "", "a..b", ".a", "a/b", "sql\n", "é"):
        assert adapters_folder.is_name(text) == config.is_name(text.rstrip("\n")) or text.endswith("\n")
    assert not adapters_folder.is_name("sql\n")


def test_rollback_swaps_live_and_previous(tmp_path: Path) -> None:
    """A bad version could not be taken back, or taking it back could not be undone."""
    publish(tmp_path)
    publish(tmp_path, seed=1)
    publish(tmp_path, seed=2)
    adapters = tmp_path / "adapters"
    assert registry.rollback("sql", adapters=adapters).version == "v0002"
    assert registry.rollback("sql", adapters=adapters).version == "v0003"
    assert registry.rollback("sql", adapters=adapters, to="v0001").version == "v0001"
    assert registry.rollback("sql", adapters=adapters, to="v0001").version == "v0001"
    assert store.read_json(adapters / "sql/channel.json")["previous"] == "v0003"
    assert publish(tmp_path, seed=3).version == "v0004"


def test_rollback_to_what_is_not_there_is_refused_with_the_list(tmp_path: Path) -> None:
    """The live adapter would disappear because of a typing mistake."""
    publish(tmp_path)
    adapters = tmp_path / "adapters"
    before = snapshot(adapters)
    for to in ("v0009", "../v0001", "sql", ""):
        with pytest.raises(PublishError) as caught:
            registry.rollback("sql", adapters=adapters, to=to)
        assert "v0001" in caught.value.hint
    with pytest.raises(PublishError, match="no previous version"):
        registry.rollback("sql", adapters=adapters)
    with pytest.raises(PublishError, match="expected one of: sql"):
        registry.rollback("email", adapters=adapters)
    assert snapshot(adapters) == before


def test_rollback_refuses_a_version_whose_bytes_changed(tmp_path: Path) -> None:
    """A rollback in an emergency would make a damaged adapter live."""
    publish(tmp_path)
    publish(tmp_path, seed=1)
    weights = tmp_path / "adapters/sql/v0001/adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PublishError, match="changed after it was published"):
        registry.rollback("sql", adapters=tmp_path / "adapters")
    assert resolved(tmp_path) == "v0002"


def test_a_name_keeps_its_base(tmp_path: Path) -> None:
    """A rehearsal on the small base, then a rollback, would put live what the box's base cannot answer by."""
    publish_of(tmp_path, "fgpipe/tiny", seed=0)
    publish_of(tmp_path, "fgpipe/tiny", seed=1)
    adapters = tmp_path / "adapters"
    before = snapshot(adapters)
    for seed in (0, 2):  # one that was published before, and a new one
        with pytest.raises(PublishError, match="expected one of fgpipe/tiny like sql@v0002") as caught:
            publish_of(tmp_path, "google/functiongemma-270m-it", seed=seed)
        assert "publish.name=" in caught.value.hint
    assert snapshot(adapters) == before
    assert publish_of(tmp_path, "google/functiongemma-270m-it", seed=2, change_base=True).version == "v0003"
    assert registry.base_of("sql", adapters=adapters) == "google/functiongemma-270m-it"
    registry.set_alias("sql", "best", "v0003", adapters=adapters)
    before = snapshot(adapters)
    for to in (None, "v0001"):
        with pytest.raises(PublishError, match="an adapter of fgpipe/tiny") as caught:
            registry.rollback("sql", adapters=adapters, to=to)
        assert "v0003" in caught.value.hint
    with pytest.raises(PublishError, match="an adapter of fgpipe/tiny"):
        registry.set_alias("sql", "small", "v0001", adapters=adapters)
    assert snapshot(adapters) == before
    assert publish_of(tmp_path, "google/functiongemma-270m-it", seed=3).version == "v0004"
    assert registry.rollback("sql", adapters=adapters).version == "v0003"
    back = publish_of(tmp_path, "fgpipe/tiny", seed=1, change_base=True)
    assert (back.version, back.created) == ("v0002", False)
    assert registry.base_of("sql", adapters=adapters) == "fgpipe/tiny"


def test_a_taken_name_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """An hour of training would end in a refusal that could have come first."""
    publish_of(tmp_path, "google/functiongemma-270m-it", seed=0)
    words = ["task=sql", "model=tiny", f"paths.adapters={tmp_path}/adapters", f"paths.runs={tmp_path}/runs"]
    for begin in (pipeline.publish, pipeline.run_all):
        with pytest.raises(PublishError, match="got an adapter of fgpipe/tiny"):
            begin(compose(words))  # type: ignore[operator]
    assert not (tmp_path / "runs").exists()


def test_a_damaged_pointer_is_named_and_can_be_mended(tmp_path: Path) -> None:
    """One torn file would take an adapter off the server with no way back but editing JSON."""
    publish(tmp_path)
    publish(tmp_path, seed=1)
    adapters = tmp_path / "adapters"
    for text in ("", "{", "[]", '{"current": "../../etc"}', '{"current": 1}', '{"aliases": {"a": null}}', "[" * 100000):
        (adapters / "sql/channel.json").write_text(text)
        with pytest.raises(PublishError) as caught:
            adapters_folder.resolve(adapters, "sql")
        assert "rollback sql@v0001" in caught.value.hint
        assert resolved(tmp_path, "sql@v0001") == "v0001"
        with pytest.raises(PublishError):
            publish(tmp_path, seed=2)
        assert all("channel.json" in entry.problem for entry in registry.versions(adapters))
    assert registry.rollback("sql", adapters=adapters, to="v0002").version == "v0002"
    assert publish(tmp_path, seed=2).version == "v0003"


def test_aliases_name_versions(tmp_path: Path) -> None:
    """`sql@best` would answer by another version than the one it was given to."""
    publish(tmp_path)
    publish(tmp_path, seed=1)
    adapters = tmp_path / "adapters"
    registry.set_alias("sql", "best", "v0001", adapters=adapters)
    assert (resolved(tmp_path, "sql@best"), resolved(tmp_path)) == ("v0001", "v0002")
    publish(tmp_path, seed=2)
    assert resolved(tmp_path, "sql@best") == "v0001"
    assert registry.rollback("sql", adapters=adapters, to="best").version == "v0001"
    registry.set_alias("sql", "best", None, adapters=adapters)
    assert resolved(tmp_path, "sql@best") is None
    for alias, version in (("v0001", "v0001"), ("v2", "v0001"), ("A", "v0001"), ("best", "v0009"), ("best", "best")):
        with pytest.raises(PublishError):
            registry.set_alias("sql", alias, version, adapters=adapters)


def test_versions_lists_everything_and_hides_nothing_damaged(tmp_path: Path) -> None:
    """`python -m fgpipe adapters` would not show which version answers, or fail because one folder is broken."""
    adapters = tmp_path / "adapters"
    assert registry.versions(adapters) == []
    publish(tmp_path)
    publish(tmp_path, seed=1)
    publish(tmp_path, name="email")
    registry.set_alias("sql", "best", "v0001", adapters=adapters)
    (adapters / "notes").mkdir()
    (adapters / "sql/v0009").mkdir()
    (adapters / "README.md").write_text("mine")
    entries = registry.versions(adapters)
    shown = [(entry.name, entry.version, entry.live, entry.aliases) for entry in entries]
    assert shown == [("email", "v0001", True, ()), ("sql", "v0002", True, ()), ("sql", "v0001", False, ("best",))]
    assert all(entry.headline == SCORE and entry.base == MODEL.id and not entry.problem for entry in entries)
    json.dumps([registry.entry_json(entry) for entry in entries])
    manifest = adapters / "sql/v0001/manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert [bool(entry.problem) for entry in registry.versions(adapters)] == [False, False, True]


def test_the_table_shows_the_score_with_its_interval(tmp_path: Path) -> None:
    """A score without its uncertainty would decide between versions."""
    from rich.console import Console

    publish(tmp_path)
    with open(os.devnull, "w") as nowhere:
        console = Console(width=200, record=True, file=nowhere)
        console.print(registry.render_versions(registry.versions(tmp_path / "adapters")))
        text = console.export_text()
    assert "91.2% (85.0% to 95.1%)" in text
    assert "live" in text
    assert registry.render_versions([]).caption is not None


def test_links_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    """Whoever may write one adapter's folder would make the server read any file of the machine."""
    version = publish(tmp_path)
    adapters = tmp_path / "adapters"
    (adapters / "link").symlink_to(tmp_path / "adapters/sql")
    assert resolved(tmp_path, "link") is None
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in os.listdir(version.path):
        (outside / name).write_bytes((version.path / name).read_bytes())
    (adapters / "sql/v0002").symlink_to(outside)
    assert resolved(tmp_path, "sql@v0002") is None
    (adapters / "sql/v0003").mkdir()
    for name in os.listdir(outside):
        (adapters / "sql/v0003" / name).symlink_to(outside / name)
    assert resolved(tmp_path, "sql@v0003") is None
    (adapters / "email").mkdir()
    (adapters / "email/channel.json").symlink_to(adapters / "sql/channel.json")
    with pytest.raises(PublishError, match="got a link"):
        adapters_folder.resolve(adapters, "email")
    (tmp_path / "other").symlink_to(adapters)
    assert adapters_folder.resolve(tmp_path / "other", "sql") == version.path


HOSTILE = [
    *("../sql", "/etc", "sql/../sql", "sql@", "@", "@v0001", "", ".", "..", "sql@v1", "sql@v00001", "sql@v0000", "SQL"),
    *("sql@../v0001", "sql@v0001/", "sql\0", "sql@v0001\n", "sql@v٠٠٠١", "sql@@v0001", "sql@channel.json", "a" * 5000),
]


@pytest.mark.parametrize("request_name", HOSTILE)
def test_hostile_requests_find_nothing(tmp_path: Path, request_name: str) -> None:
    """A client's model name would read outside the folder or crash the server."""
    publish(tmp_path)
    assert adapters_folder.resolve(tmp_path / "adapters", request_name) is None


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_name=st.text(max_size=30) | st.from_regex(r"(sql|\.\.|/|@|v0001|v0002|[a-z]){0,6}", fullmatch=True))
def test_whatever_is_asked_the_answer_is_inside(tmp_path: Path, request_name: str) -> None:
    """Some spelling of a model name would lead out of the adapters folder."""
    if not (tmp_path / "adapters").exists():
        publish(tmp_path)
    found = adapters_folder.resolve(tmp_path / "adapters", request_name)
    assert found in (None, tmp_path / "adapters/sql/v0001")


def test_a_pointer_to_a_deleted_version_is_an_error_not_another_version(tmp_path: Path) -> None:
    """Somebody deletes a folder, and clients get answers of a version nobody chose."""
    import shutil

    publish(tmp_path)
    version = publish(tmp_path, seed=1)
    shutil.rmtree(version.path)
    with pytest.raises(PublishError) as caught:
        adapters_folder.resolve(tmp_path / "adapters", "sql")
    assert "rollback sql@v0001" in caught.value.hint
    assert any(entry.live and entry.problem for entry in registry.versions(tmp_path / "adapters"))


def test_publishers_at_the_same_time_take_turns(tmp_path: Path) -> None:
    """Two machines' pipelines would give one number twice, or one of two versions would never be seen."""
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for seed in range(first, first + 3):
                publish(tmp_path, seed=seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    entries = registry.versions(tmp_path / "adapters")
    assert [entry.version for entry in entries] == [f"v{number:04d}" for number in range(12, 0, -1)]
    assert [entry.live for entry in entries] == [True] + 11 * [False]
    contents = {(tmp_path / "adapters/sql" / e.version / "adapter_model.safetensors").read_bytes() for e in entries}
    assert len(contents) == 12


def test_processes_at_the_same_time_take_turns(tmp_path: Path) -> None:
    """The same between processes, where only the lock file stands between them."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom test_publishing import publish\n"
        "for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 3): publish(Path(sys.argv[1]), seed=seed)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(10 * number)], env=environment)
        for number in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    assert [entry.version for entry in registry.versions(tmp_path / "adapters")][:1] == ["v0006"]


def test_the_reader_is_light(tmp_path: Path) -> None:
    """The server's process would load pydantic, numpy or torch's friends only to read a pointer."""
    publish(tmp_path)
    program = (
        "import sys\nfrom pathlib import Path\nfrom fgpipe import adapters_folder\n"
        f"assert adapters_folder.resolve(Path({str(tmp_path / 'adapters')!r}), 'sql').name == 'v0001'\n"
        "heavy = {'pydantic', 'numpy', 'torch', 'rich', 'safetensors', 'fgpipe.config'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})


MANIFEST: dict[str, Any] = {
    **EXTRA,
    "name": "sql",
    "version": "v0002",
    "created": "2026-11-21T02:00:00Z",
    "content": "d" * 64,
    "files": {},
    "parity": "not run",
    "adapter": {"r": 12, "lora_alpha": 24, "rank_pattern": {}},
    "instruction": "Answer with one query.\nUse SQLite.",
    "task": {"name": "sql", "dataset": {"source": "data/sql/rows.jsonl"}},
    "config": {
        "lora": {"r": 12, "lora_alpha": 24, "target_modules": ["q_proj", "v_proj"]},
        "train": {"learning_rate": 2e-4, "epochs": 2.0, "max_steps": None},
        "evaluate": {"confidence": 0.9},
    },
    "data": {"dataset": "e" * 64, "rows": 1200},
    "training": {"loss": 0.031, "note": "a|b"},
}


def test_the_card_reads_as_before() -> None:
    """A reader would not find what the adapter is for, how good it is, or how to serve it."""
    golden = GOLDEN / "card.md"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(card(MANIFEST), encoding="utf-8")
    assert card(MANIFEST) == golden.read_text(encoding="utf-8")


def test_the_card_needs_little() -> None:
    """An adapter from elsewhere, without scores or configuration, could not be published."""
    keys = ("name", "version", "created", "content", "parity", "adapter", "versions")
    text = card({**{key: MANIFEST[key] for key in keys}, "base": {"id": "a: [b] # c"}})
    assert "Not scored." in text
    assert text.startswith('---\nbase_model: "a: [b] # c"\n')


class Registry(RuleBasedStateMachine):
    """Random publishes, rollbacks and aliases against a model of what they mean."""

    published = Bundle("published")

    @initialize()
    def start(self) -> None:
        import tempfile

        self.temporary = tempfile.TemporaryDirectory()
        self.root = Path(self.temporary.name).resolve()
        self.versions: list[int] = []
        self.live: str | None = None
        self.previous: str | None = None
        self.bytes: dict[str, dict[str, bytes]] = {}

    def moved(self, version: str) -> None:
        if version != self.live:
            self.live, self.previous = version, self.live

    @rule(target=published, seed=st.integers(0, 4))
    def publish(self, seed: int) -> str:
        version = publish(self.root, seed=seed)
        assert version.created == (seed not in self.versions)
        if version.created:
            self.versions.append(seed)
            self.bytes[version.version] = snapshot(version.path)
        assert version.version == adapters_folder.version_name(self.versions.index(seed) + 1)
        self.moved(version.version)
        return version.version

    @rule(version=published)
    def rollback_to(self, version: str) -> None:
        registry.rollback("sql", adapters=self.root / "adapters", to=version)
        self.moved(version)

    @rule()
    def rollback(self) -> None:
        if self.previous is None:
            with pytest.raises(PublishError):
                registry.rollback("sql", adapters=self.root / "adapters")
        else:
            assert registry.rollback("sql", adapters=self.root / "adapters").version == self.previous
            self.moved(self.previous)

    @invariant()
    def the_folder_is_what_it_should_be(self) -> None:
        if not hasattr(self, "root"):
            return
        assert resolved(self.root) == self.live
        for version, content in self.bytes.items():
            assert snapshot(self.root / "adapters/sql" / version) == content

    def teardown(self) -> None:
        self.temporary.cleanup()


TestRegistry = Registry.TestCase
TestRegistry.settings = hypothesis_settings(max_examples=15, stateful_step_count=12, deadline=None)
