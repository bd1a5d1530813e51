from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgpipe import resources
from fgpipe.cli import main
from fgpipe.compose import compose
from fgpipe.config import ModelConfig, ModelShape, ServerConfig
from fgpipe.serving import gpus, kernels, tuned
from fgpipe.serving.kernels import Choice, Product, Timing

GPU = "NVIDIA H100 80GB HBM3"

PRODUCTS = kernels.products(ModelShape(), 32)

SERVER = ServerConfig(max_loras=20, max_lora_rank=32)


def choices(max_loras: int = 20, *, width: int = 64) -> list[Choice]:
    """One for every product and number of rows, each recognisable by its settings."""
    found = []
    for product in PRODUCTS:
        for rows in kernels.ROWS:
            timing = Timing({"block_m": 16, "block_n": width, "num_stages": rows}, (2.0, 2.1))
            found.append(Choice(product, max_loras, rows, Timing({"block_m": 32}, (4.0, 4.1)), timing, tried=3))
    return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU, where nothing is shipped; the folder in which commands run."""
    monkeypatch.setattr(gpus, "found_gpus", lambda: [gpus.FoundGpu(GPU, 80 * 2**30, 0, "580")])
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path / "shipped" / name)
    monkeypatch.delenv(tuned.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, max_loras: int = 20, *, vllm: str = "0.32.0", rank: int = 32, gpu: str = GPU) -> None:
    about = tuned.scope(ModelConfig(), max_lora_rank=rank, gpu=gpu, vllm=vllm)
    tuned.write(choices(max_loras), about, folder, measured={"date": "2026-11-26"})


def found(server: ServerConfig = SERVER, *, vllm: str = "0.32.0", model: ModelConfig | None = None) -> tuned.Found:
    return tuned.find(model or ModelConfig(), server, vllm=vllm)


def test_functiongemma_has_four_groups_of_layers() -> None:
    """A kernel of the forward pass would never be measured, or vLLM would find no entry and end with a KeyError."""
    assert {(product.kind, *product.key): product.layers for product in PRODUCTS} == {
        ("shrink", "3", "640", "32"): 18,
        ("shrink", "1", "1024", "32"): 18,
        ("shrink", "2", "640", "32"): 18,
        ("shrink", "1", "2048", "32"): 18,
        ("expand", "3", "32", "1024"): 18,
        ("expand", "1", "32", "640"): 36,  # o_proj and down_proj are alike from the rank on
        ("expand", "2", "32", "2048"): 18,
    }


@given(st.sampled_from(["shrink", "expand"]), st.integers(8, 4096), st.integers(1, 3), st.integers(1, 8192))
def test_candidates_cut_nothing_into_empty_pieces(kind: kernels.Kind, inner: int, slices: int, rows: int) -> None:
    """The search would spend its time on launches that do nothing, or on one launch twice, or have nothing to try."""
    outer = 32 if kind == "shrink" else 640
    product = Product(kind, max(inner, 64) if kind == "shrink" else min(inner, 256), (outer,) * slices, 18)
    tried = kernels.candidates(product, rows)
    assert tried
    assert len({json.dumps(settings) for settings in tried}) == len(tried)
    for settings in tried:
        depth, height, width = (settings[name] or 0 for name in ("block_k", "block_m", "block_n"))
        assert min(depth, height, width) >= kernels.SMALLEST_BLOCK
        assert width < 2 * max(outer, kernels.SMALLEST_BLOCK)
        if kind == "shrink":
            assert depth * (settings["split_k"] or 0) <= product.inner


US = st.lists(st.floats(1, 1000), min_size=1, max_size=7).map(tuple)


@given(US, st.lists(US, max_size=4))
def test_only_what_wins_by_more_than_the_spread_is_chosen(default_us: tuple[float], others: list[tuple[float]]) -> None:
    """Noise would be shipped as a gain, or a clear winner left out."""
    default = Timing({"block_m": 0}, default_us)
    timings = [Timing({"block_m": number + 1}, us) for number, us in enumerate(others)]
    chosen = kernels.choose(default, timings)

    def wins(timing: Timing) -> bool:
        return default.middle_us - timing.middle_us > max(default.spread_us, timing.spread_us)

    if chosen is default:
        assert not any(wins(timing) for timing in timings)
    else:
        assert wins(chosen)
        assert all(chosen.middle_us <= timing.middle_us for timing in timings if wins(timing))


def test_the_sum_over_a_forward_pass_counts_every_layer() -> None:
    """`tune` would promise a gain that is not the model's."""
    assert kernels.forward_us(choices())[20, 64] == pytest.approx((4.05 * 144, 2.05 * 144))


def test_a_server_takes_the_users_folder_before_the_shipped_one(machine: Path) -> None:
    """Whoever has measured their own GPU would go on with ours; or nobody would get what is shipped."""
    assert found().folder is None
    assert "tune" in found().line
    write(machine / "shipped" / "data" / "tuned")
    assert found().folder == machine / "shipped" / "data" / "tuned"
    write(machine / "tuned")
    assert found().folder == machine / "tuned"
    assert str(machine / "tuned") in found().line
    write(machine / "elsewhere")
    elsewhere = SERVER.model_copy(update={"tuned_kernels": str(machine / "elsewhere")})
    assert found(elsewhere).folder == machine / "elsewhere"


SHIPPED = sorted((resources.folder("data") / "tuned").glob("*_TUNING.json"))


@pytest.mark.parametrize("about", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", ["throughput", "latency"])
def test_what_is_shipped_reaches_the_presets_whole(
    about: Path, preset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server would end with a KeyError at a kernel that is missing, or nobody would get what was measured."""
    facts = json.loads(about.read_text())
    monkeypatch.setattr(gpus, "found_gpus", lambda: [gpus.FoundGpu(facts["gpu"], 80 * 2**30, 0, "580")])
    monkeypatch.delenv(tuned.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    config = compose([f"server={preset}", "model=functiongemma-270m"])
    assert tuned.find(config.model, config.server, vllm=facts["vllm"]).folder == about.parent
    for kind in ("shrink", "expand"):
        tree = json.loads((about.parent / kernels.file_name(facts["gpu"], kind)).read_text())
        for slots in facts["max_loras"]:
            for product in (product for product in PRODUCTS if product.kind == kind):
                count, k, n = product.key
                for rows in kernels.ROWS:
                    assert tree[str(slots + 1)][count][str(rows)][k][n]["block_m"] >= kernels.SMALLEST_BLOCK


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: found(ServerConfig(max_loras=8)), "max_loras 20, not 8"),
        (lambda: found(ServerConfig(max_loras=20, max_lora_rank=64)), "max_lora_rank 32, not 64"),
        (lambda: found(vllm="0.33.0"), "vllm 0.32.0, not 0.33.0"),
        (lambda: found(model=ModelConfig(shape=ModelShape(hidden_size=512))), "another base"),
    ],
)
def test_settings_for_something_else_are_left_alone(machine: Path, other: Callable[[], tuned.Found], said: str) -> None:
    """A server would be slower than without them, or end in vLLM's look-up, and nobody would know why."""
    write(machine / "tuned")
    assert found(vllm="0.32.0+cu130").folder == machine / "tuned"
    assert other().folder is None
    assert said in other().line


def test_the_environment_goes_before_everything(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could switch the settings off, or try others."""
    write(machine / "tuned")
    monkeypatch.setenv(tuned.VARIABLE, "")
    assert found().folder is None


def test_other_numbers_of_slots_are_added_and_other_bases_replace(machine: Path) -> None:
    """Measuring for 8 slots would lose what was found for 20; or settings of two bases would be mixed."""
    write(machine / "tuned", 20)
    write(machine / "tuned", 8)
    assert found().folder == found(ServerConfig(max_loras=8)).folder == machine / "tuned"
    assert set(json.loads((machine / "tuned" / kernels.file_name(GPU, "shrink")).read_text())) == {"9", "21"}
    write(machine / "tuned", 8, rank=16)
    assert found().folder is None
    assert set(json.loads((machine / "tuned" / kernels.file_name(GPU, "expand")).read_text())) == {"9"}
    write(machine / "tuned", 8, gpu="NVIDIA L4")
    assert found(ServerConfig(max_loras=8, max_lora_rank=16)).folder == machine / "tuned"


def test_half_a_folder_is_no_folder(machine: Path) -> None:
    """VLLM would warn and go on with its own settings while the log says that they are measured ones."""
    write(machine / "tuned")
    (machine / "tuned" / kernels.file_name(GPU, "expand")).unlink()
    assert found().folder is None
    assert "is missing" in found().line
    (machine / "tuned" / tuned.about_name(GPU)).write_text("{")
    assert found().folder is None


def test_without_a_gpu_tune_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The user would see a traceback of torch instead of what is missing."""
    monkeypatch.setattr(gpus, "found_gpus", list)
    assert main(["tune"]) == 2
    first, *rest = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("fgpipe: tune: got no GPU")
    assert all(not line or line.startswith("hint:") for line in rest)
