"""Loading a base: what is read, what is refused, and that nothing local needs a network."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError

import tiny_random
from fgpipe import optional
from fgpipe.config import ModelConfig, ModelShape
from fgpipe.errors import ModelError
from fgpipe.models import base


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def copy(saved: ModelConfig, tmp_path: Path) -> ModelConfig:
    """The same model in a folder that a test may change."""
    assert saved.path is not None
    shutil.copytree(saved.path, tmp_path / "copy")
    return saved.model_copy(update={"path": str(tmp_path / "copy")})


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub model is in the cache, and the hub is not asked for real."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_local_model_needs_no_network(saved: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise model=tiny would hang or fail on a machine without internet."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tokenizer, model = base.load_tokenizer(saved), base.load_model(saved, training=False)
    assert tokenizer.convert_tokens_to_ids("<start_function_response>") == 50
    assert not model.training
    assert model.dtype == torch.float32


def test_numbers_are_never_float16(saved: ModelConfig) -> None:
    """Float16 overflows in Gemma 3 and gives NaN."""
    for dtype in ("auto", "bfloat16", "float32"):
        assert base.dtype_name(saved.model_copy(update={"dtype": dtype})) in ("bfloat16", "float32")
    with pytest.raises(ValueError, match="float16"):
        ModelConfig(dtype="float16")  # type: ignore[arg-type]


def test_fingerprint_follows_weights_and_tokenizer(copy: ModelConfig) -> None:
    """Otherwise an adapter would be taken as up to date although its base was replaced."""
    assert copy.path is not None
    before, tokenizer_before = base.model_fingerprint(copy), base.tokenizer_fingerprint(copy)
    weights = Path(copy.path) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert base.model_fingerprint(copy) != before
    assert base.tokenizer_fingerprint(copy) == tokenizer_before
    settings = Path(copy.path) / "tokenizer_config.json"
    settings.write_text(settings.read_text() + "\n")
    assert base.tokenizer_fingerprint(copy) != tokenizer_before


def test_other_sizes_than_configured_are_all_named(saved: ModelConfig) -> None:
    """Otherwise memory would be planned and adapters validated for another model than the one trained on."""
    wrong = saved.model_copy(update={"shape": tiny_random.SHAPE.model_copy(update={"hidden_size": 64, "head_dim": 8})})
    with pytest.raises(ModelError) as caught:
        base.load_model(wrong, training=False)
    assert "model.shape.hidden_size: got 64, expected 32" in caught.value.message
    assert "model.shape.head_dim: got 8, expected 16" in caught.value.message


def test_missing_folder_and_pickled_weights_are_refused(copy: ModelConfig, tmp_path: Path) -> None:
    """Pickled weights can run code; a missing folder must not be looked up on the hub by its name."""
    with pytest.raises(ModelError, match="expected a folder with config"):
        base.load_model(copy.model_copy(update={"path": str(tmp_path / "nowhere")}), training=False)
    assert copy.path is not None
    (Path(copy.path) / "model.safetensors").rename(Path(copy.path) / "pytorch_model.bin")
    with pytest.raises(ModelError, match="without safetensors"):
        base.load_model(copy, training=False)


def _gated(url: str, **_: object) -> None:
    raise GatedRepoError("401", response=httpx.Response(401, request=httpx.Request("HEAD", url)))


def _unreachable(url: str, **_: object) -> None:
    raise httpx.ConnectError("no route to host")


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("answer", [_gated, _unreachable])
def test_no_access_is_one_line_with_both_ways_out(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first-time user must learn what to do from the line, not from a traceback after minutes of retries."""
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    for attempt in (base.model_fingerprint, base.load_tokenizer, base.local_folder):
        with pytest.raises(ModelError) as caught:
            attempt(ModelConfig())
        line = str(caught.value)
        assert "\n" not in line
        assert "https://huggingface.co/google/functiongemma-270m-it" in line
        assert "HF_TOKEN" in line
        assert "model=tiny" in line


def test_four_bits_without_gpu_are_refused_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the user would get an error of a CUDA library, after a download."""
    monkeypatch.setattr(base, "device", lambda: "cpu")
    with pytest.raises(ModelError, match="got nf4 on a machine without a GPU") as caught:
        base.load_model(ModelConfig(quantization="nf4"), training=True)
    assert "model.quantization=none" in caught.value.hint


def test_missing_package_names_its_extra() -> None:
    """The user needs the command that installs it."""
    assert optional.installed("torch")
    with pytest.raises(ModelError, match="got no package no_such_module, expected it installed"):
        optional.require("no_such_module", purpose="x", error=ModelError)


def test_fast_float32_is_exact_and_leaves_no_trace() -> None:
    """Faster products must not cost accuracy, nor change what other code in the process computes."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(300, 256, generator=generator), torch.randn(256, 128, generator=generator)
    with base.fast_float32():
        product = left @ right
    assert torch.get_float32_matmul_precision() == "highest"
    exact = left.double() @ right.double()
    assert ((product - exact).norm() / exact.norm()).item() < 1e-6


def test_shape_of_the_fixture_is_what_it_says(saved: ModelConfig) -> None:
    """`ModelShape.parameters` plans memory; a wrong count would mislead every plan."""
    model = base.load_model(saved, training=False)
    assert sum(weight.numel() for weight in model.parameters()) == saved.shape.parameters()
    assert ModelShape().parameters() == 268_098_176
