"""The capacity planner as arithmetic: vLLM's meaning of a share, an H200's figures, refusals, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.cli import main
from fgpipe.config import VLLM_LORA_RANKS, ModelShape
from fgpipe.errors import ConfigError, ServeError
from fgpipe.serving import memory, planner, shapes
from fgpipe.serving.memory import GIB, EngineSettings, engine_memory
from fgpipe.serving.planner import Gpu, Model, share_gpu
from qwen import QWEN

FUNCTIONGEMMA = shapes.functiongemma(ModelShape())

H200 = EngineSettings(max_model_len_tokens=2048, max_num_seqs=256, max_num_batched_tokens=16384, element_bytes=2)
"""How the engines whose memory was measured on an H200 were started (vLLM 0.26.0, docs/results.md)."""


def model(name: str, *, seqs: int = 64, length: int = 4096, priority: float = 1, config: Any = None) -> Model:
    shape = shapes.shape_of(config or QWEN, where=name)
    return Model(name, f"/models/{name}", shape, EngineSettings(length, seqs, 2048, 2), priority)


@pytest.mark.parametrize(("slots", "weights_gib", "graphs_gib"), [(0, 0.53, 0.28), (20, 0.82, 0.48), (4, 0.59, 0.48)])
def test_plan_agrees_with_what_an_h200_allocated(slots: int, weights_gib: float, graphs_gib: float) -> None:
    """A plan for a real GPU would promise memory that is not there, or leave memory unused."""
    measured = engine_memory(FUNCTIONGEMMA, replace(H200, max_loras=slots, max_lora_rank=32))
    near = lambda value: pytest.approx(value, rel=0.05)  # noqa: E731
    assert (measured.weights + measured.rope + measured.lora) / GIB == near(weights_gib)
    assert measured.graphs / GIB == near(graphs_gib)
    assert measured.activations / GIB == near(0.35)
    assert measured.kv.bytes_per_token == 18 * 1024
    plan = planner.plan_gpu(
        Model("h200", "x", FUNCTIONGEMMA, replace(H200, max_loras=slots, max_lora_rank=32)),
        Gpu("h200", 143771 * 2**20),
        utilization=0.3,
    )
    assert plan.kv_bytes / GIB == near(40.5)


def test_plan_agrees_with_what_the_pinned_vllm_allocated_on_an_h100() -> None:
    """The same, for the version that is served with; docs/results.md has the figures."""
    near = lambda value: pytest.approx(value, rel=0.05)  # noqa: E731
    settings = replace(H200, max_num_batched_tokens=8192, max_loras=20, max_lora_rank=32)
    measured = engine_memory(FUNCTIONGEMMA, settings)
    assert (measured.weights + measured.rope + measured.lora) / GIB == near(0.82)
    assert measured.graphs / GIB == near(0.47)
    assert measured.activations / GIB == pytest.approx(0.28, abs=0.02)
    assert measured.fixed / GIB == near(2.13)
    plan = planner.plan_gpu(Model("h100", "x", FUNCTIONGEMMA, settings), Gpu("h100", 81559 * 2**20), utilization=0.5)
    assert plan.kv_bytes / GIB == near(37.46)
    assert plan.tokens == near(2_168_058)


def start(request_memory: Any, plans: list[planner.EnginePlan], gpu: Gpu) -> None:
    """Start the engines one after another as vLLM does, on a GPU that is as full as the plan says.

    Raises:
        ValueError: vLLM's own refusal.
    """
    free = gpu.total_bytes - gpu.reserved_bytes
    for plan in plans:
        free -= memory.CONTEXT_BYTES
        snapshot: Any = SimpleNamespace(total_memory=gpu.total_bytes, free_memory=free, device_="cuda:0")
        asked: Any = SimpleNamespace(gpu_memory_utilization=plan.utilization)
        free -= request_memory(snapshot, asked)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.sampled_from([1024, 4096, 16384]), st.floats(0.5, 4)), min_size=1, max_size=4
    ),
    st.integers(4, 150),
)
def test_vllm_itself_would_start_every_plan(
    request_memory: Any, wanted: list[tuple[int, int, float]], total_gib: int
) -> None:
    """A plan would be printed with which the second or third container refuses to start."""
    gpu = Gpu("any", total_gib * GIB)
    models = [
        model(f"m{place}", seqs=seqs, length=length, priority=priority)
        for place, (seqs, length, priority) in enumerate(wanted)
    ]
    least = sum(gpu.shares_for(planner.least_bytes(engine_memory(one.shape, one.settings))) for one in models)
    if least > gpu.free_shares(len(models)):
        with pytest.raises(ServeError, match="expected at most"):
            share_gpu(models, gpu)
        return
    plans = share_gpu(models, gpu)
    start(request_memory, plans, gpu)
    assert [plan.shares for plan in plans] == sorted(plan.shares for plan in plans)
    for plan in plans:
        assert plan.kv_bytes >= plan.memory.kv.least_bytes()
        assert plan.utilization * gpu.seen_bytes == pytest.approx(plan.memory.fixed + plan.kv_bytes, rel=1e-6)


def test_a_share_is_of_the_whole_gpu_not_of_what_is_free(request_memory: Any) -> None:
    """The common mistake, half of the GPU and then "half of the rest" as 0.5, must be what vLLM refuses."""
    gpu = Gpu("any", 24 * GIB)
    small, large = share_gpu([model("a"), model("b")], gpu)
    with pytest.raises(ValueError, match="less than desired GPU memory utilization"):
        start(request_memory, [replace(small, shares=500), replace(large, shares=500)], gpu)
    assert small.utilization + large.utilization < 1 - (gpu.reserved_bytes + 2 * memory.CONTEXT_BYTES) / gpu.total_bytes


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 400), st.floats(0.1, 9)), min_size=1, max_size=5),
)
def test_shares_stay_between_least_and_most_and_are_used_up(free: int, wanted: list[tuple[int, int, float]]) -> None:
    """An engine would get less than it needs, or memory would stay unused while another could hold more."""
    least = [low for low, _, _ in wanted]
    most = [low + more for low, more, _ in wanted]
    if sum(least) > free:
        return
    shares = planner.share_out(free, least=least, most=most, weights=[weight for _, _, weight in wanted])
    assert all(low <= share <= high for low, share, high in zip(least, shares, most, strict=True))
    assert sum(shares) == min(free, sum(most))


def test_priority_buys_kv_cache() -> None:
    """The model that answers most would be squeezed as hard as one that is hardly used."""
    plans = {
        plan.model.name: plan for plan in share_gpu([model("often", priority=3), model("rare")], Gpu("g", 16 * GIB))
    }
    assert plans["often"].kv_bytes > 2 * plans["rare"].kv_bytes


def test_memory_grows_with_every_setting() -> None:
    """Somebody who lowers a setting to make a plan fit would get one that needs more."""
    start = EngineSettings(4096, 64, 2048, 2, max_loras=4, max_lora_rank=16)
    least = planner.least_bytes(engine_memory(FUNCTIONGEMMA, start), 8)
    for change in (
        {"max_model_len_tokens": 8192},
        {"max_num_seqs": 256},
        {"max_num_batched_tokens": 8192},
        {"element_bytes": 4},
        {"max_loras": 5},
        {"max_lora_rank": 32},
    ):
        assert planner.least_bytes(engine_memory(FUNCTIONGEMMA, replace(start, **change)), 8) > least, change


def test_the_smallest_rank_is_one_vllm_takes() -> None:
    """The hint would name a rank with which vLLM does not start."""
    for rank in range(1, 513):
        smallest = memory.smallest_rank(rank)
        assert smallest in VLLM_LORA_RANKS
        assert smallest == min(legal for legal in VLLM_LORA_RANKS if legal >= rank)
    assert memory.smallest_rank(513) is None


def test_quantised_weights_shrink_the_linear_layers_only() -> None:
    """A model whose embeddings are most of it would be planned too small."""
    plain = shapes.shape_of(QWEN, where="x")
    packed = shapes.shape_of({**QWEN, "quantization_config": {"quant_method": "awq", "bits": 4}}, where="x")
    start_with = EngineSettings(4096, 64, 2048, 2)
    saved = memory.weight_bytes(plain, start_with) - memory.weight_bytes(packed, start_with)
    assert saved == pytest.approx(plain.linear_weights() * (2 - 0.5195), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "got architecture MixtralForCausalLM, expected one of Gemma2"),
        ({"architectures": None}, "got architecture none"),
        ({"hidden_size": None, "vocab_size": 0}, "got no hidden_size, vocab_size, expected whole numbers"),
        ({"sliding_window": 64, "layer_types": ["chunked_attention"] * 28}, "layer_types: got"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quantization_config: got aqlm"),
    ],
)
def test_bases_that_cannot_be_planned_are_refused_with_what_is_missing(change: dict[str, Any], message: str) -> None:
    """A wrong plan for an unknown architecture is worse than none."""
    with pytest.raises(ConfigError) as caught:
        shapes.shape_of({**QWEN, **change}, where="config.json")
    assert message in caught.value.message


def test_the_words_of_the_command_line_plan_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` would not say what it is for: shares, parts, sequences."""
    assert main(["plan", "gpu.memory_gib=24", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    (only,) = plan["models"]
    assert only["gpu_memory_utilization"] == 0.5
    assert only["kv_bytes_per_token"] == 18 * 1024
    assert sum(only["bytes"].values()) == pytest.approx(0.5 * 0.98 * 24 * GIB, rel=1e-6)
    assert main(["plan", "gpu=h100"]) == 0
    shown = capsys.readouterr().out
    for word in ("adapter slots", "KV cache", "cuda graphs", "full-length sequences"):
        assert word in shown


def test_a_plan_without_a_gpu_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that plans for vLLM's CPU build would get a traceback instead of figures."""
    assert main(["plan", "gpu=cpu", "model=tiny", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["models"][0]["bytes"]["kv_cache"] == GIB
    assert plan["free_shares_left"] == 0


def test_env_lines_are_the_settings_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody would copy settings that are not those that were planned."""
    assert main(["plan", "gpu.memory_gib=24", "server.max_loras=12", "--env"]) == 0
    lines = dict(line.split("=") for line in capsys.readouterr().out.splitlines())
    assert lines["FGPIPE_MAX_LORAS"] == "12"
    assert lines["FGPIPE_GPU_MEMORY_UTILIZATION"] == "0.500"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpu=gtx1"], "gpu: got gtx1, expected cpu, rtx3060"),
        (["gpu.memory_gib=lots"], "gpu.memory_gib: got 'lots'"),
        (["gpu.memory_gib=24", "server.gpu_memory_utilization=0.98"], "expected 0.086 to 0.937"),
        (["gpu.memory_gib=24", "server.gpu_memory_utilization=0.01"], "expected 0.086 to 0.937"),
        (["gpu.memory_gib=24", "lora_modules=[q_proj,lm_head]"], "lora_modules: got ['lm_head']"),
        (["gpu.memory_gib=2"], "got 1 model that need"),
        (["gpu.memory_gib=24", "config=nowhere"], "nowhere"),
        (["gpu.memory_gib=24", "model.shape.hidden_size=64"], "no config.json"),
        (["gpu.memory_gib=24", "models=nowhere.yaml"], "nowhere.yaml"),
        (["gpu=cpu", "models=nowhere.yaml"], "models: got no GPU"),
        (["gpu=cpu", "server.max_model_len_tokens=200000"], "server.cpu_kv_cache_gib: got 1.00"),
    ],
)
def test_mistakes_are_told_with_exit_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user would get a traceback, or a plan that cannot work."""
    assert main(["plan", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("models: 5", ["got no list of models"]),
        ("{", ["expected a YAML file"]),
        (
            "models: [{name: a}, {name: B, config: x, max_num_seq: 3}]",
            ["models.0: got neither config nor id", "models.1.name", "max_num_seq"],
        ),
        ("models: [{name: a, config: ., port: 81}, {name: a, config: ., port: 81}]", ["got a twice", "got 81 twice"]),
    ],
)
def test_faults_of_a_models_file_are_all_named(
    text: str, messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user would mend one mistake, run again, and find the next."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    (tmp_path / "models.yaml").write_text(text)
    assert main(["plan", f"models={tmp_path / 'models.yaml'}", "gpu.memory_gib=24"]) == 2
    shown = capsys.readouterr().err
    for message in messages:
        assert message in shown


def test_models_that_cannot_share_a_gpu_are_refused_with_the_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third container would die after minutes, with a message about the second."""
    (tmp_path / "config.json").write_text(json.dumps({**QWEN, "num_hidden_layers": 280, "hidden_size": 4096}))
    rows = "".join(f"  - {{name: m{place}, config: .}}\n" for place in range(3))
    (tmp_path / "models.yaml").write_text(f"models:\n{rows}")
    assert main(["plan", f"models={tmp_path / 'models.yaml'}", "gpu=rtx4090"]) == 2
    shown = capsys.readouterr().err
    assert "rtx4090: got 3 models that need" in shown
    assert shown.count("weights ") == 3
    assert "3 CUDA contexts 1.50" in shown
