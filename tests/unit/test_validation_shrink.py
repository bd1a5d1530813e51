"""Shrinking: the nearest adapter of a lower rank, written as one that PEFT and the server read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from adapter_folders import CONTRACT, MODEL, products, settings, statuses, tensors, write
from fgpipe.config import LINEAR_MODULES, ModelConfig, ServerConfig
from fgpipe.errors import ValidationError
from fgpipe.validation.contract import contract
from fgpipe.validation.report import failures
from fgpipe.validation.shrink import default_out, render_shrunk, shrink
from fgpipe.validation.static import validate
from fgpipe.validation.weights import read_header, read_tensor

Array = numpy.ndarray[Any, Any]

ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 12": {"config": settings(r=12), "arrays": tensors(12)},
    "rank 40, wider than the base": {"config": settings(r=40, lora_alpha=5), "arrays": tensors(40)},
    "rslora": {"config": settings(r=12, use_rslora=True), "arrays": tensors(12)},
    "patterns": {
        "config": settings(r=12, rank_pattern={"o_proj": 3, "mlp.*": 9}, alpha_pattern={"layers.1.*": 2.5}),
        "arrays": tensors(12, ranks={"o_proj": 3, "gate_proj": 9, "up_proj": 9, "down_proj": 9}),
    },
    "patterns and rslora": {
        "config": settings(r=12, rank_pattern={"o_proj": 3}, alpha_pattern={"o_proj": -1}, use_rslora=True),
        "arrays": tensors(12, ranks={"o_proj": 3}),
    },
    "bf16": {"config": settings(r=12), "arrays": tensors(12), "dtype": "BF16"},
    "f16": {"config": settings(r=12), "arrays": tensors(12), "dtype": "F16"},
    "f64": {"config": settings(r=12), "arrays": tensors(12), "dtype": "F64"},
}
ROUNDING = {"F64": 1e-14, "F32": 1e-6, "F16": 2e-3, "BF16": 1e-2}


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    changes = ADAPTERS[request.param]
    return write(tmp_path / "wide", **{**changes, "config": {"use_rslora": False, **changes["config"]}})


@pytest.mark.parametrize("folder", ADAPTERS, indirect=True)
def test_a_rank_that_suffices_keeps_every_update(folder: Path, tmp_path: Path) -> None:
    """Shrinking would change an adapter that has nothing to lose."""
    shrunk = shrink(folder, contract(MODEL, ServerConfig(max_lora_rank=64)), r=48, out=tmp_path / "out")
    dtype = next(iter(read_header(folder / "adapter_model.safetensors").values())).dtype
    before, after = products(folder), products(tmp_path / "out")
    assert before.keys() == after.keys()
    for module, update in before.items():
        lost = numpy.linalg.norm(update - after[module]) / numpy.linalg.norm(update)
        assert lost <= ROUNDING[dtype]
    assert shrunk.error <= ROUNDING[dtype]
    assert shrunk.r == max(each.rank_before for each in shrunk.modules)
    assert {tensor.dtype for tensor in read_header(tmp_path / "out/adapter_model.safetensors").values()} == {dtype}


@pytest.mark.parametrize("folder", ADAPTERS, indirect=True)
@pytest.mark.parametrize("r", [1, 8])
def test_what_is_left_is_the_nearest_update_of_that_rank(folder: Path, tmp_path: Path, r: int) -> None:
    """More of the adapter would be lost than need be, or other than is reported."""
    shrunk = shrink(folder, CONTRACT, r=r, out=tmp_path / "out")
    dtype = next(iter(read_header(folder / "adapter_model.safetensors").values())).dtype
    before, after = products(folder), products(tmp_path / "out")
    lost_squares = 0.0
    for each in shrunk.modules:
        update = before[each.module]
        lost = float(numpy.linalg.norm(update - after[each.module]))
        least = float(numpy.linalg.norm(numpy.linalg.svd(update, compute_uv=False)[r:]))
        size = float(numpy.linalg.norm(update))
        assert lost <= least + ROUNDING[dtype] * size
        assert each.error == pytest.approx(lost / size, rel=1e-6, abs=1e-12)
        lost_squares += lost**2
    whole = math.sqrt(sum(float((update**2).sum()) for update in before.values()))
    assert shrunk.error == pytest.approx(math.sqrt(lost_squares) / whole, rel=1e-6)
    assert statuses(tmp_path / "out", "fail") == set()


def test_modules_of_a_low_rank_keep_their_weights(tmp_path: Path) -> None:
    """Modules that fit would be rotated and rounded for nothing."""
    wide = write(
        tmp_path / "wide",
        config=settings(r=12, lora_alpha=24, rank_pattern={"o_proj": 4}, alpha_pattern={"o_proj": 8}),
        arrays=tensors(12, ranks={"o_proj": 4}),
    )
    shrunk = shrink(wide, CONTRACT, r=8, out=tmp_path / "out")
    kept = [each for each in shrunk.modules if each.module.endswith("o_proj")]
    assert [(each.rank_before, each.rank, each.error) for each in kept] == [(4, 4, 0.0)] * 3
    files = [each / "adapter_model.safetensors" for each in (wide, tmp_path / "out")]
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    old, new = (read_tensor(file, read_header(file)[name]) for file in files)
    assert (new[:, :4] == 2 * old).all()
    assert not new[:, 4:].any()


def test_the_configuration_says_one_rank_and_scale_one(tmp_path: Path) -> None:
    """PEFT or vLLM would scale the folded weights again."""
    config = settings(r=12, use_rslora=True, rank_pattern={"o_proj": 4}, alpha_pattern={"o_proj": 8}, note="kept")
    wide = write(tmp_path / "wide", config=config, arrays=tensors(12, ranks={"o_proj": 4}))
    shrink(wide, CONTRACT, r=8, out=tmp_path / "out")
    made = json.loads((tmp_path / "out/adapter_config.json").read_text())
    plain = {"r": 8, "lora_alpha": 8, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    assert made == {**config, **plain}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": settings(r=12, use_dora=True), "arrays": tensors(12)},
        {"config": settings(r=12, base_model_name_or_path="other"), "arrays": tensors(12)},
        {"config": settings(r=12), "arrays": tensors(11)},
        {"config": {}},
    ],
)
def test_what_is_wrong_otherwise_is_not_shrunk(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A broken adapter would come out as one that looks sound."""
    wide = write(tmp_path / "wide", **changes)
    with pytest.raises(ValidationError) as caught:
        shrink(wide, CONTRACT, r=8, out=tmp_path / "out")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["wide"]


def test_a_scale_the_type_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    """Infinite weights would be written and found out by the server."""
    wide = write(
        tmp_path / "wide",
        config=settings(r=12, rank_pattern={"o_proj": 4}, alpha_pattern={"o_proj": 1e8}),
        arrays=tensors(12, ranks={"o_proj": 4}),
        dtype="F16",
    )
    with pytest.raises(ValidationError, match="finite"):
        shrink(wide, CONTRACT, r=8, out=tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["wide"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A user's folder would be replaced by a shrunk copy."""
    wide = write(tmp_path / "wide", **ADAPTERS["rank 12"])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValidationError, match="exists"):
        shrink(wide, CONTRACT, r=8, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_large_loss_names_the_rank_that_loses_less(tmp_path: Path) -> None:
    """Nobody would notice that most of the adapter is gone."""
    wide = write(tmp_path / "wide", **ADAPTERS["rank 12"])
    shrunk = shrink(wide, CONTRACT, r=2, out=tmp_path / "out")
    assert shrunk.error > 0.5
    better = int(shrunk.hint.partition("r=")[2].partition(" ")[0])
    raised = contract(MODEL, ServerConfig(max_lora_rank=64))
    assert shrink(wide, raised, r=better, out=tmp_path / "better").error <= 0.1
    assert shrink(wide, raised, r=better - 1, out=tmp_path / "worse").error > 0.1
    assert render_shrunk(shrunk).row_count == 21
    json.dumps(shrunk.as_json())
    assert default_out(Path("a/../b"), r=16) == Path.cwd() / "b-r16"


def fgpipe(*words: str) -> subprocess.CompletedProcess[str]:
    shape = {**MODEL.shape.model_dump()}
    model = ["model=tiny", f"model.id={MODEL.id}", *(f"model.shape.{key}={value}" for key, value in shape.items())]
    command = [sys.executable, "-m", "fgpipe", "shrink", *words, *model, "server.max_lora_rank=8", "lora.r=8"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_command_writes_beside_and_the_rank_rule_names_it(tmp_path: Path) -> None:
    """The command in the hint would not be one that works."""
    wide = write(tmp_path / "wide", **ADAPTERS["rank 12"])
    hint = next(finding.hint for finding in validate(wide, CONTRACT) if finding.rule == "rank")
    words = hint.partition("python -m fgpipe shrink ")[2].partition(",")[0].split()
    done = fgpipe(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(tmp_path / "wide-r8")
    assert statuses(tmp_path / "wide-r8", "fail") == set()
    again = fgpipe(*words)
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    for bad in ([], ["r=0"], ["r=-1"], ["r=x"], ["r=9"], ["r=1.5"], ["r=8", "another"], ["r=8", "out="]):
        refused = fgpipe(str(wide), *bad)
        assert refused.returncode == 2, bad
        assert refused.stderr.startswith("fgpipe: ")
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"o_proj": 3}}])
def test_peft_answers_as_before_up_to_the_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The shrunk adapter would load and answer as another."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import tiny_random

    lora = peft.LoraConfig(r=24, lora_alpha=24, target_modules=list(LINEAR_MODULES), task_type="CAUSAL_LM", **changes)
    model = peft.get_peft_model(tiny_random.model(), lora)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # six directions and a whisper of others, so that rank 16 loses little
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.data[:, 6:] *= 1e-4
    model.peft_config["default"].base_model_name_or_path = "fgpipe/tiny-random"
    model.save_pretrained(tmp_path / "wide", save_embedding_layers=False)
    base = ModelConfig(name="tiny-random", id="fgpipe/tiny-random", shape=tiny_random.SHAPE)
    limits = contract(base, ServerConfig(max_lora_rank=16))
    assert {finding.rule for finding in failures(validate(tmp_path / "wide", limits))} == {"rank"}
    shrunk = shrink(tmp_path / "wide", limits, r=16, out=tmp_path / "out")
    assert failures(validate(tmp_path / "out", limits)) == []
    tokens = torch.arange(1, 33).view(1, -1)
    with torch.no_grad():
        plain = tiny_random.model()(tokens).logits
        wide, small = (
            peft.PeftModel.from_pretrained(tiny_random.model(), str(tmp_path / each)).eval()(tokens).logits
            for each in ("wide", "out")
        )
    moved = (wide - plain).norm()
    assert moved > 0.1 * plain.norm()
    assert 0 < shrunk.error < 1e-3
    assert (wide - small).norm() / moved < 10 * shrunk.error
