"""Static validation: sound adapters pass, each kind of damage fails the rule meant for it and no unrelated one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import adapter_folders
from adapter_folders import CONTRACT, MODEL, settings, statuses, tensors, write
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

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def renamed(change: Callable[[str], str]) -> adapter_folders.Tensors:
    return {change(name): array for name, array in tensors().items()}


def with_value(name: str, value: float) -> adapter_folders.Tensors:
    arrays = tensors()
    arrays[name].flat[3] = value
    return arrays


def zeroed(keep: Callable[[str], bool]) -> adapter_folders.Tensors:
    return {name: array if keep(name) else numpy.zeros_like(array) for name, array in tensors().items()}


def only(keep: Callable[[str], bool]) -> adapter_folders.Tensors:
    return {name: array for name, array in tensors().items() if keep(name)}


SOUND: dict[str, dict[str, Any]] = {
    "seven modules": {},
    "bf16": {"dtype": "BF16"},
    "f16": {"dtype": "F16"},
    "f64": {"dtype": "F64"},
    "rank at the limit": {"config": settings(r=8), "arrays": tensors(8)},
    "rank 3": {"config": settings(r=3), "arrays": tensors(3)},
    "rslora": {"config": settings(use_rslora=True)},
    "rank pattern": {"config": settings(rank_pattern={"o_proj": 7}), "arrays": tensors(ranks={"o_proj": 7})},
    "alpha pattern": {"config": settings(alpha_pattern={"q_proj": 3.5})},
    "null patterns": {"config": settings(rank_pattern=None, alpha_pattern=None)},
    "two modules": {
        "config": settings(target_modules=["q_proj", "down_proj"]),
        "arrays": only(lambda n: "q_proj" in n or "down_proj" in n),
    },
    "regular expression": {
        "config": settings(target_modules=r".*\.self_attn\.(q|v)_proj"),
        "arrays": only(lambda n: "q_proj" in n or "v_proj" in n),
    },
    "all-linear": {"config": settings(target_modules="all-linear")},
    "chosen layers": {
        "config": settings(layers_to_transform=[0, 2], layers_pattern="layers"),
        "arrays": only(lambda n: "layers.1." not in n),
    },
    "excluded": {"config": settings(exclude_modules=["mlp.up_proj"]), "arrays": only(lambda n: "up_proj" not in n)},
    "full names": {
        "config": settings(target_modules=["model.layers.1.mlp.up_proj"]),
        "arrays": only(lambda n: "layers.1.mlp.up_proj" in n),
    },
    "gaussian": {"config": settings(init_lora_weights="gaussian")},
    "classifier names without tensors": {"config": settings(modules_to_save=["classifier", "score"])},
    "only what vLLM needs": {
        "config": {
            "peft_type": "LORA",
            "r": 4,
            "lora_alpha": 8,
            "target_modules": list(LINEAR_MODULES),
            "base_model_name_or_path": MODEL.id,
        }
    },
}

DAMAGED: dict[str, tuple[set[str], dict[str, Any]]] = {
    "json list": ({"config_json"}, {"config": [1, 2]}),
    "ia3": ({"peft_type"}, {"config": settings(peft_type="IA3")}),
    "no peft_type": ({"peft_type"}, {"config": settings(peft_type=None)}),
    "r as text": ({"fields"}, {"config": settings(r="4")}),
    "r as fraction": ({"fields"}, {"config": settings(r=4.0)}),
    "r true": ({"fields"}, {"config": settings(r=True)}),
    "r zero": ({"fields"}, {"config": settings(r=0)}),
    "alpha as text": ({"fields"}, {"config": settings(lora_alpha="8")}),
    "no targets": ({"fields"}, {"config": settings(target_modules=[])}),
    "targets null": ({"fields"}, {"config": settings(target_modules=None)}),
    "rank pattern of text": ({"fields"}, {"config": settings(rank_pattern={"q_proj": "4"})}),
    "rank pattern broken": ({"fields"}, {"config": settings(rank_pattern={"q_proj[": 4})}),
    "rank too high": ({"rank"}, {"config": settings(r=9), "arrays": tensors(9)}),
    "rank pattern too high": (
        {"rank"},
        {"config": settings(rank_pattern={"o_proj": 16}), "arrays": tensors(ranks={"o_proj": 16})},
    ),
    "rslora as text": ({"fields"}, {"config": settings(use_rslora="yes")}),
    "rank pattern too high for a float": (
        {"rank", "ranks"},
        {"config": settings(rank_pattern={"o_proj": 10**400})},
    ),
    "alpha too high for a float": ({"alpha"}, {"config": settings(lora_alpha=10**400)}),
    "every alpha of the pattern zero": ({"alpha"}, {"config": settings(alpha_pattern={"proj": 0, ".*_proj": 0})}),
    "alpha zero": ({"alpha"}, {"config": settings(lora_alpha=0)}),
    "alpha nan": ({"alpha"}, {"config": settings(lora_alpha=float("nan"))}),
    "dora": ({"use_dora"}, {"config": settings(use_dora=True)}),
    "dora with its tensors": (
        {"use_dora", "tensor_names"},
        {
            "config": settings(use_dora=True),
            "arrays": {**tensors(), f"{Q0}.lora_magnitude_vector.weight": numpy.ones(32, "float32")},
        },
    ),
    "lora_bias": ({"lora_bias"}, {"config": settings(lora_bias=True)}),
    "bias": ({"bias"}, {"config": settings(bias="all")}),
    "bias null": ({"bias"}, {"config": settings(bias=None)}),
    "pissa": ({"init_lora_weights"}, {"config": settings(init_lora_weights="pissa_niter_4")}),
    "olora": ({"init_lora_weights"}, {"config": settings(init_lora_weights="olora")}),
    "corda": ({"init_lora_weights"}, {"config": settings(init_lora_weights="corda")}),
    "loftq": ({"init_lora_weights"}, {"config": settings(init_lora_weights="loftq")}),
    "alora": ({"alora_invocation_tokens"}, {"config": settings(alora_invocation_tokens=[1, 2])}),
    "layer replication": ({"layer_replication"}, {"config": settings(layer_replication=[[0, 2], [1, 3]])}),
    "modules to save": ({"modules_to_save"}, {"config": settings(modules_to_save=["lm_head"])}),
    "modules to save as text": ({"modules_to_save"}, {"config": settings(modules_to_save="score")}),
    "trained tokens": ({"trainable_token_indices"}, {"config": settings(trainable_token_indices=[5])}),
    "kasa": ({"kasa_config"}, {"config": settings(kasa_config={"beta": 1e-4})}),
    "embedding target": (
        {"targets"},
        {"config": settings(target_modules=[*LINEAR_MODULES, "embed_tokens"])},
    ),
    "embedding target with tensors": (
        {"targets", "tensor_names"},
        {
            "config": settings(target_modules=[*LINEAR_MODULES, "embed_tokens"]),
            "arrays": {
                **tensors(),
                "base_model.model.model.embed_tokens.lora_embedding_A": numpy.ones((4, 64), "float32"),
                "base_model.model.model.embed_tokens.lora_embedding_B": numpy.ones((24, 4), "float32"),
            },
        },
    ),
    "head target": (
        {"targets", "modules"},
        {
            "config": settings(target_modules=[*LINEAR_MODULES, "lm_head"]),
            "arrays": {
                **tensors(),
                "base_model.model.lm_head.lora_A.weight": numpy.ones((4, 24), "float32"),
                "base_model.model.lm_head.lora_B.weight": numpy.ones((64, 4), "float32"),
            },
        },
    ),
    "layers beside an expression": (
        {"targets"},
        {"config": settings(target_modules=".*_proj", layers_to_transform=[0])},
    ),
    "layers pattern alone": ({"targets"}, {"config": settings(layers_pattern="layers")}),
    "layers as text": ({"targets"}, {"config": settings(layers_to_transform=["0"])}),
    "foreign targets": ({"targets", "coverage"}, {"config": settings(target_modules=["c_attn"])}),
    "broken expression": ({"targets"}, {"config": settings(target_modules="(q_proj")}),
    "endless expression": ({"targets"}, {"config": settings(target_modules=r"(.+)+\.q_proj")}),
    "other base": ({"base_id"}, {"config": settings(base_model_name_or_path="google/gemma-3-1b-it")}),
    "no base": ({"base_id"}, {"config": settings(base_model_name_or_path=None)}),
    "no tensors": ({"tensor_names", "coverage"}, {"arrays": {}}),
    "foreign prefix": (
        {"modules", "coverage"},
        {"arrays": renamed(lambda n: n.replace("model.model.layers", "model.language_model.layers"))},
    ),
    "no prefix": ({"tensor_names", "coverage"}, {"arrays": renamed(lambda n: n.removeprefix("base_model.model."))}),
    "named adapter": (
        {"tensor_names", "coverage"},
        {"arrays": renamed(lambda n: n.replace(".weight", ".default.weight"))},
    ),
    "one strange tensor": (
        {"tensor_names"},
        {"arrays": {**tensors(), "base_model.model.score.weight": numpy.ones((2, 24), "float32")}},
    ),
    "prefix twice": (
        {"modules", "coverage"},
        {"arrays": renamed(lambda n: n.replace("base_model.model.", "base_model.model.base_model.model."))},
    ),
    "an embedding saved along": (
        {"tensor_names"},
        {"arrays": {**tensors(), "base_model.model.model.embed_tokens.weight": numpy.ones((64, 24), "float32")}},
    ),
    "wrong parent": (
        {"modules", "coverage"},
        {"arrays": renamed(lambda n: n.replace("self_attn.q_proj", "mlp.q_proj"))},
    ),
    "layers beyond": (
        {"layers"},
        {
            "arrays": {
                **tensors(),
                **renamed(lambda n: n.replace("layers.2.", "layers.7.")),
            }
        },
    ),
    "only layers beyond": (
        {"layers", "coverage"},
        {"arrays": renamed(lambda n: n.replace("layers.", "layers.1"))},
    ),
    "missing B": ({"pairs"}, {"arrays": only(lambda n: n != f"{Q0}.lora_B.weight")}),
    "whole numbers": ({"dtype"}, {"dtype": "I32"}),
    "wrong width": (
        {"shapes"},
        {"arrays": {**tensors(), f"{Q0}.lora_A.weight": numpy.ones((4, 25), "float32")}},
    ),
    "sides swapped": (
        {"shapes", "ranks"},
        {"arrays": {name: array.T for name, array in tensors().items()}},
    ),
    "three axes": (
        {"shapes"},
        {"arrays": {**tensors(), f"{Q0}.lora_A.weight": numpy.ones((4, 24, 1), "float32")}},
    ),
    "other rank than configured": ({"ranks"}, {"arrays": tensors(2)}),
    "rank pattern not followed": ({"ranks"}, {"config": settings(rank_pattern={"o_proj": 2})}),
    "nan": ({"finite"}, {"arrays": with_value(f"{Q0}.lora_A.weight", numpy.nan)}),
    "nan in bf16": ({"finite"}, {"arrays": with_value(f"{Q0}.lora_A.weight", numpy.nan), "dtype": "BF16"}),
    "infinity": ({"finite"}, {"arrays": with_value(f"{Q0}.lora_B.weight", -numpy.inf)}),
    "too large for the server": (
        {"finite"},
        {"arrays": {name: array.astype("float64") * 1e300 for name, array in tensors().items()}, "dtype": "F64"},
    ),
    "zero once the server has cast it": (
        {"effect"},
        {"arrays": {name: array.astype("float64") * 1e-300 for name, array in tensors().items()}, "dtype": "F64"},
    ),
    "all B zero": ({"effect"}, {"arrays": zeroed(lambda n: "lora_A" in n)}),
    "all A zero": ({"effect"}, {"arrays": zeroed(lambda n: "lora_B" in n)}),
    "layer lost": ({"coverage"}, {"arrays": only(lambda n: "layers.1." not in n)}),
    "module lost": ({"coverage"}, {"arrays": only(lambda n: "up_proj" not in n)}),
    "module not targeted": ({"coverage"}, {"config": settings(target_modules=["q_proj"])}),
}


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
