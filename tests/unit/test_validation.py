"""Static validation: sound adapters pass, each kind of damage fails the rule meant for it and no unrelated one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import adapter_folders
from adapter_cases import DAMAGED, SOUND, zeroed
from adapter_folders import CONTRACT, settings, statuses, tensors, write
from fgpipe.config import LINEAR_MODULES, ModelConfig, ServerConfig
from fgpipe.errors import ValidationError
from fgpipe.validation.contract import contract
from fgpipe.validation.report import (
    Finding,
    findings_from_json,
    findings_json,
    render_findings,
    require_pass,
)
from fgpipe.validation.stage import gate, read_findings, validate_adapter
from fgpipe.validation.static import RULES, validate


@pytest.mark.parametrize("case", SOUND)
def test_sound_adapters_pass(tmp_path: Path, case: str) -> None:
    """A user's good adapter would be refused."""
    write(tmp_path, **SOUND[case])
    assert statuses(tmp_path, "fail") == set()
    assert statuses(tmp_path, "skip") == set()
    assert statuses(tmp_path, "warn") <= {"server_rank"}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_fails_the_rule_meant_for_it_alone(tmp_path: Path, case: str) -> None:
    """A damaged adapter would be published, or its owner be sent after a fault that is not there."""
    rules, changes = DAMAGED[case]
    write(tmp_path, **changes)
    assert statuses(tmp_path, "fail") == rules


@pytest.mark.parametrize("case", [*SOUND, *DAMAGED])
def test_every_rule_is_reported_once_in_the_same_order(tmp_path: Path, case: str) -> None:
    """A rule would be missing from the report, and nobody would know that it was not checked."""
    write(tmp_path, **(SOUND[case] if case in SOUND else DAMAGED[case][1]))
    findings = validate(tmp_path, CONTRACT)
    assert [finding.rule for finding in findings] == list(RULES)
    assert all(finding.message for finding in findings)
    assert all(finding.hint for finding in findings if finding.status == "fail")
    if any(finding.status == "skip" for finding in findings):
        assert any(finding.status == "fail" for finding in findings)


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ({"arrays": zeroed(lambda n: "layers.1." not in n)}, "effect"),
        ({"config": settings(revision="b" * 40)}, "base_revision"),
        ({"config": settings(target_modules=[*LINEAR_MODULES, "c_attn"])}, "targets"),
        ({"config": settings(a_new_kind_of_lora={"x": 1})}, "unknown_settings"),
        ({"config": settings(lora_alpha=-8)}, "alpha"),
        ({"config": settings(lora_alpha=0, alpha_pattern={"q_proj": 8})}, "alpha"),
        ({"config": settings(task_type="SEQ_CLS")}, "task_type"),
        ({"config": settings(r=1), "arrays": tensors(1)}, "server_rank"),
    ],
)
def test_doubtful_adapters_are_named_but_served(tmp_path: Path, case: dict[str, Any], rule: str) -> None:
    """A user would not hear of a setting that costs speed or looks like an accident."""
    write(tmp_path, **case)
    assert rule in statuses(tmp_path, "warn")
    assert statuses(tmp_path, "fail") == set()


@pytest.mark.parametrize("name", ["SQL", "a@b", "nul", "sql.", "", "../sql", "fgpipe/small"])
def test_a_name_the_server_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    """Publishing would fail after training, or the name never be answered."""
    write(tmp_path / "Some Folder")
    findings = validate(tmp_path / "Some Folder", CONTRACT, name=name)
    assert {finding.rule for finding in findings if finding.status == "fail"} == {"name"}
    assert statuses(tmp_path / "Some Folder", "warn") >= {"name"}


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_folder_makes_validation_crash(tmp_path: Path, data: st.DataObject) -> None:
    """A stranger's folder would end in a traceback instead of a verdict."""
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers(-5, 600) | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )
    keys = st.sampled_from([*settings(), "layers_to_transform", "layers_pattern", "exclude_modules", "use_bdlora"])
    config = settings(**data.draw(st.dictionaries(keys, json_values, max_size=4)))
    weights = bytearray(adapter_folders.safetensors_bytes(tensors()))
    for position, byte in data.draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6)):
        weights[position] = byte
    folder = write(tmp_path, config=config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    findings = validate(folder, CONTRACT)
    assert [finding.rule for finding in findings] == list(RULES)
    json.dumps(findings_json(findings))


def test_the_contract_says_what_the_base_is() -> None:
    """Every rule on names and shapes would judge by another model."""
    made = contract(ModelConfig(), ServerConfig(max_lora_rank=16))
    names = list(made.module_names())
    assert len(names) == len(set(names)) == 18 * 7
    assert names[0] == "model.layers.0.self_attn.q_proj"
    assert made.shapes["down_proj"] == (2048, 640)
    assert (made.base_id, made.max_lora_rank) == ("google/functiongemma-270m-it", 16)
    json.dumps(made.as_json())


def test_findings_survive_json_and_become_one_error(tmp_path: Path) -> None:
    """The verdict on disk would differ from the one shown, or a refusal would not say why."""
    findings = validate(write(tmp_path, config=settings(r=64, use_dora=True)), CONTRACT)
    assert findings_from_json(json.loads(json.dumps(findings_json(findings)))) == findings
    with pytest.raises(ValidationError) as caught:
        require_pass(findings, adapter=tmp_path)
    assert "got 64, expected at most server.max_lora_rank (8)" in caught.value.message
    assert "use_dora" in caught.value.message
    assert "server.max_lora_rank=64" in caught.value.hint
    assert render_findings(findings).row_count == len(RULES)
    require_pass([Finding("rank", "warn", "x"), Finding("r", "skip", "y")])


def test_names_from_a_file_are_not_markup(tmp_path: Path) -> None:
    """A tensor called `[red]…` would break the table."""
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(render_findings([Finding("[b]", "fail", "got [/nope] and [red]x[/red]", "do [this]")]))
        text = console.export_text()
    assert "[/nope] and [red]x[/red]" in text
    assert "do [this]" in text


def test_the_stage_keeps_the_verdict_of_a_refused_adapter(tmp_path: Path) -> None:
    """After a refusal nothing would say which rule it was."""
    adapter = write(tmp_path / "adapter", config=settings(r=64))
    verdict = validate_adapter(adapter, CONTRACT, adapter_fingerprint="f", out=tmp_path / "verdict")
    assert verdict.numbers["passed"] is False
    assert read_findings(verdict) == validate(adapter, CONTRACT)
    with pytest.raises(ValidationError):
        gate(CONTRACT)(adapter)
    gate(CONTRACT)(write(tmp_path / "sound"))


@pytest.mark.slow
def test_what_peft_saves_passes(tmp_path: Path) -> None:
    """The adapters fgpipe trains itself would be refused."""
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import torch

    import tiny_random

    model = peft.get_peft_model(
        tiny_random.model(),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(LINEAR_MODULES), task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.peft_config["default"].base_model_name_or_path = "fgpipe/tiny-random"
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = ModelConfig(name="tiny-random", id="fgpipe/tiny-random", shape=tiny_random.SHAPE)
    findings = validate(tmp_path, contract(base, ServerConfig(max_lora_rank=8)))
    assert {finding.rule: finding.message for finding in findings if finding.status != "pass"} == {}
