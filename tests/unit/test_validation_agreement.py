"""Static validation against vLLM's own loader: what passes here loads there, with the scale PEFT would use."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest

from adapter_cases import DAMAGED, SOUND
from adapter_damage import damage
from adapter_folders import CONTRACT, products, write
from fgpipe.config import LINEAR_MODULES
from fgpipe.validation.report import failures
from fgpipe.validation.static import validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def load() -> Any:
    """VLLM's loading of a folder, up to the point where weights go to the device."""
    pytest.importorskip("vllm", exc_type=ImportError)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's imports warn of what other packages do
        from vllm.config.lora import LoRAConfig
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

    def load_folder(folder: Path) -> Any:
        helper = PEFTHelper.from_local_dir(str(folder), 4096)
        helper.validate_legal(LoRAConfig(max_lora_rank=CONTRACT.max_lora_rank, max_loras=1))
        return LoRAModel.from_local_checkpoint(
            str(folder), set(LINEAR_MODULES), helper, lora_model_id=1, device="cpu", dtype=torch.float32
        )

    return load_folder


def test_sound_adapters_load_with_the_product_peft_computes(tmp_path: Path, load: Any) -> None:
    """A good adapter would be refused by the server, or be served at another strength."""
    for case, changes in SOUND.items():
        folder = write(tmp_path / case, **changes)
        loaded = load(folder)
        expected = products(folder)
        assert loaded.loras.keys() == expected.keys(), case
        for module, update in expected.items():
            served = loaded.loras[module]
            numpy.testing.assert_allclose(
                served.scaling * (served.lora_b @ served.lora_a), update, rtol=1e-4, atol=1e-4
            )


def test_what_the_server_refuses_is_refused_here(tmp_path: Path, load: Any) -> None:
    """An adapter would pass, be published, and every request for it fail."""
    refused = 0
    for case, (_, changes) in DAMAGED.items():
        folder = write(tmp_path / case, **changes)
        try:
            load(folder)
        except Exception:
            refused += 1
            assert failures(validate(folder, CONTRACT)), case
    assert refused > 20

    rng, outside, folder = random.Random(7), write(tmp_path / "outside"), tmp_path / "damaged"
    loaded = 0
    for _ in range(2000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        damage(folder, outside, rng)
        if not failures(validate(folder, CONTRACT)):
            load(folder)
            loaded += 1
    assert loaded > 50
