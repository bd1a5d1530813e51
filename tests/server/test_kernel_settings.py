"""LoRA kernel settings against vLLM itself: its look-up reads our files, its layers are those we measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import vllm_allocation
from fgpipe import resources
from fgpipe.config import ModelConfig, ModelShape
from fgpipe.serving import kernel_timing, kernels, shapes, tuned
from fgpipe.serving.kernels import Choice, Product, Timing

pytestmark = pytest.mark.server

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> kernel_timing.Kernels:
    """VLLM's kernels and look-up, which would read no folder."""
    monkeypatch.delenv(tuned.VARIABLE, raising=False)
    found = kernel_timing.load()
    found.utils.get_lora_op_configs.cache_clear()
    found.utils.load_lora_op_config.cache_clear()
    return found


def test_vllm_looks_up_what_was_chosen(
    loaded: kernel_timing.Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server would run with other settings than those that were measured, or stop with a KeyError."""
    products = kernels.products(ModelShape(), 32)
    choices = []
    for slots in (8, 20):
        for place, product in enumerate(products):
            for rows in kernels.ROWS:
                marked = {**loaded.default(product, slots, rows), "num_stages": 1000 * slots + 100 * place + rows}
                choices.append(Choice(product, slots, rows, Timing({}, (1.0,)), Timing(marked, (1.0,))))
    about = tuned.scope(ModelConfig(), max_lora_rank=32, gpu=GPU, vllm="0.32.0")
    for slots in (8, 20):
        tuned.write([choice for choice in choices if choice.max_loras == slots], about, tmp_path, measured={})
    monkeypatch.setenv(tuned.VARIABLE, str(tmp_path))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: GPU)
    loaded.utils.get_lora_op_configs.cache_clear()
    loaded.utils.load_lora_op_config.cache_clear()
    try:
        for choice in choices:
            read = loaded.default(choice.product, choice.max_loras, choice.rows)
            assert read == choice.chosen.settings
        between = loaded.default(products[0], 20, 110)  # no such row: the nearest
        assert between["num_stages"] == 20_000 + 96 or between["num_stages"] == 20_000 + 128
    finally:
        loaded.utils.get_lora_op_configs.cache_clear()
        loaded.utils.load_lora_op_config.cache_clear()


def test_the_products_are_those_of_vllms_layers() -> None:
    """The search would measure shapes that no forward pass has."""
    case = {"model": str(resources.folder("data") / "tiny"), "max_model_len": 512, "max_num_seqs": 2}
    lora = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 8}
    done = subprocess.run(
        [sys.executable, vllm_allocation.__file__, json.dumps([{**case, **lora}])],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(done.stdout.splitlines()[-1])
    shape = shapes.read_shape(resources.folder("data") / "tiny").sizes
    ours: dict[tuple[str, int, tuple[int, ...]], int] = {}
    for product in kernels.products(shape, 8):
        ours[product.kind, product.inner, product.outers] = product.layers
    theirs: dict[tuple[str, int, tuple[int, ...]], int] = {}
    for module in measured["modules"]:
        rank, (inner, outers) = 8, (module["inner"], tuple(module["outers"]))
        for kind, key in (("shrink", (inner, (rank,) * len(outers))), ("expand", (rank, outers))):
            theirs[kind, *key] = theirs.get((kind, *key), 0) + 1
    assert ours == theirs


PRODUCTS = {
    "shrink": Product("shrink", 64, (32, 32, 32), 2),
    "expand": Product("expand", 32, (64, 48), 2),
}


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("fault", ["none", "wrong", "nan", "untouched rows", "error"])
def test_a_candidate_that_computes_something_else_cannot_win(
    kind: str, fault: str, loaded: kernel_timing.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast and wrong settings would be shipped, and every adapter answer a little wrong.

    VLLM's kernels need a GPU: torch does their work here, and makes its mistake under one candidate, which is quick.
    """
    product, rows = PRODUCTS[kind], 24
    quick = kernels.candidates(product, rows)[3]
    launched: list[Any] = []
    module = loaded.shrink if kind == "shrink" else loaded.expand
    monkeypatch.setattr(module, f"_lora_{kind}", stand_in(module, kind, quick, fault, launched))
    monkeypatch.setattr(module, "get_lora_op_configs", module.get_lora_op_configs)
    capture = lambda calls: timed(calls, launched, quick)  # noqa: E731
    chosen = kernel_timing.search(
        loaded, product, max_loras=3, rows=rows, until=time.monotonic() + 60, capture=capture, device="cpu"
    )
    assert chosen is not None
    assert chosen.tried + chosen.refused == len(kernels.candidates(product, rows))
    if fault == "none":
        assert chosen.chosen.settings == quick
        assert chosen.refused == 0
    else:
        assert chosen.chosen is chosen.default
        assert chosen.refused == 1
    assert module.get_lora_op_configs is loaded.utils.get_lora_op_configs


def stand_in(module: Any, kind: str, quick: Any, fault: str, launched: list[Any]) -> Callable[..., None]:
    import torch
    from triton.errors import TritonError

    def launch(inputs: Any, weights: Any, output: Any, mapping: Any, *words: Any, **more: Any) -> None:
        settings = module.get_lora_op_configs(
            kind, max_loras=4, batch=len(mapping), hidden_size=64, rank=32, num_slices=len(weights)
        )
        launched.append(dict(settings))
        faulty = fault if dict(settings) == quick else "none"
        if faulty == "error":
            raise TritonError("out of resource")
        if kind == "shrink":
            output.zero_()
        place = 0
        for number, weight in enumerate(weights):
            source = inputs if kind == "shrink" else inputs[number]
            width = weight.shape[2]
            target = output[number] if kind == "shrink" else output[:, place : place + width]
            place += width
            for row, adapter in enumerate(mapping.tolist()):
                if adapter >= 0 or faulty == "untouched rows":
                    update = source[row].float() @ weight[adapter, 0].float().T
                    target[row] += (update * (1.05 if faulty == "wrong" else 1)).to(target.dtype)
        if faulty == "nan":
            output.view(-1)[0] = torch.nan

    return launch


def timed(calls: Sequence[Callable[[], None]], launched: list[Any], quick: Any) -> Callable[[], float]:
    """What a launch takes: less under `quick`."""
    for call in calls:
        call()
    settings = launched[-1]
    return lambda: 1.0 if settings == quick else 10.0 + settings["num_stages"] / 100
