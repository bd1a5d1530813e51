"""Load a base model and its tokenizer from a local folder or the Hugging Face hub.

A hub model is first brought to the local cache by one function, `local_folder`; everything else reads that folder and
never touches the network. Only safetensors are read and no code of a model repository is run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fgpipe import optional, resources, store
from fgpipe.config import ModelConfig, ModelShape
from fgpipe.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Attention = Literal["sdpa", "eager"]

HUB_TIMEOUT_S = 10.0
"""Longest wait for the hub's first answer; it decides between "no access" and a download, so it must be quick."""

DOWNLOADED_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")

TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.jinja", "tokenizer.model")


def device() -> str:
    """Where models run: "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def watch_memory() -> None:
    """Let `peak_bytes` count from here."""
    if device() == "cuda":
        import torch

        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """Most memory that this process's tensors took on the GPU at once since `watch_memory`; None on a CPU."""
    if device() == "cpu":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated())


def dtype_name(model: ModelConfig) -> str:
    """Number format of the frozen weights: "bfloat16" or "float32"; never float16, in which Gemma 3 overflows."""
    import torch

    if model.dtype != "auto":
        return model.dtype
    native = device() == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def model_source(model: ModelConfig) -> str:
    """Local folder of the weights, or the hub id."""
    return str(resources.resolve(model.path)) if model.path is not None else model.id


def model_fingerprint(model: ModelConfig) -> str:
    """What identifies weights and tokenizer: SHA-256 over the files of a local model, `id@commit` of one from the hub.

    Raises:
        ModelError: the folder is unusable, or the hub gives no access.
    """
    if model.path is not None:
        return _digest(_checked(Path(model_source(model))), DOWNLOADED_FILES)
    return f"{model.id}@{_cached_commit(model) or _hub_commit(model)}"


def tokenizer_fingerprint(model: ModelConfig) -> str:
    """What identifies the tokenizer, as `model_fingerprint` does the whole model.

    Raises:
        ModelError: the folder is unusable, or the hub gives no access.
    """
    if model.path is not None:
        return _digest(_checked(Path(model_source(model))), TOKENIZER_FILES)
    return model_fingerprint(model)


def local_folder(model: ModelConfig) -> Path:
    """The folder that holds the model's files, downloaded first if they are on the hub and not in its cache.

    Raises:
        ModelError: no such folder, files missing in it, or the hub gives no access.
    """
    if model.path is not None:
        return _checked(Path(model_source(model)))
    cached = _cached_folder(model)
    if cached is not None:
        return cached
    commit = _hub_commit(model)
    from huggingface_hub import snapshot_download

    try:
        return _checked(Path(snapshot_download(model.id, revision=commit, allow_patterns=list(DOWNLOADED_FILES))))
    except OSError as error:
        raise _no_access(model, str(error)) from error


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, padding on the right.

    Raises:
        ModelError: it cannot be loaded.
    """
    folder = local_folder(model)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"tokenizer of {model.id}: got a folder it cannot be read from ({folder}): {_first_line(error)}",
            hint="model.path must hold tokenizer.json and tokenizer_config.json",
        ) from error


def load_model(model: ModelConfig, *, training: bool, attention: Attention = "sdpa") -> PreTrainedModel:
    """The base in the number format of `dtype_name`, on `device()`, in training or evaluation mode.

    Args:
        model: which base, and how.
        training: dropout on, if the model has any.
        attention: transformers' implementation of it.

    Raises:
        ModelError: it cannot be loaded, its sizes differ from `model.shape`, or nf4 is not possible here.
    """
    quantization = _quantization(model)
    folder = local_folder(model)
    check_shape(folder, model)
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=getattr(torch, dtype_name(model)),
            attn_implementation=attention,
            **quantization,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{model.id}: got files in {folder} that cannot be loaded: {_first_line(error)}",
            hint="model.path must hold config.json and the weights as safetensors",
        ) from error
    if not quantization:
        loaded = loaded.to(device())
    return loaded.train(training)


@contextmanager
def fast_float32() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices on a CPU, where it does so exactly.

    PyTorch hands them to MKL, which leaves AVX-512 unused on AMD: on a Zen 5 core 100 GFLOP/s against oneDNN's 230. The
    only switch to oneDNN also allows it bfloat16 inside, which it uses where the CPU has matrix units for that (AMX);
    one product tells, and where it is rounded everything stays as it is.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    if device() != "cpu" or before != "highest":
        yield
        return
    left, right = torch.linspace(-1, 1, 256 * 512).view(512, 256), torch.linspace(1, 3, 256 * 640).view(256, 640)
    expected = left @ right
    torch.set_float32_matmul_precision("medium")
    try:
        if not torch.allclose(left @ right, expected, rtol=1e-5, atol=1e-2):
            torch.set_float32_matmul_precision(before)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_shape(folder: Path, model: ModelConfig) -> None:
    """Compare `config.json` in `folder` with `model.shape`, from which memory is planned and adapters are validated.

    Raises:
        ModelError: naming every size that differs.
    """
    found: dict[str, Any] = store.read_json(folder / "config.json")
    found = found.get("text_config", found)
    differences = [
        f"model.shape.{name}: got {expected}, expected {found.get(name)} as in {folder / 'config.json'}"
        for name, expected in model.shape.model_dump().items()
        if name in ModelShape.model_fields and found.get(name) != expected
    ]
    if differences:
        raise ModelError("\n".join(differences), hint="set model.shape to the sizes of the base you load")


def _quantization(model: ModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a 4-bit base; empty without quantization."""
    if model.quantization == "none":
        return {}
    if device() != "cuda":
        raise ModelError(
            "model.quantization: got nf4 on a machine without a GPU, expected none",
            hint="model.quantization=none; 4-bit kernels (bitsandbytes) need CUDA",
        )
    optional.require("bitsandbytes", purpose="model.quantization=nf4", error=ModelError)
    import torch
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype_name(model)),
    )
    return {"quantization_config": four_bits, "device_map": {"": 0}}


def _checked(folder: Path) -> Path:
    """`folder`, if it holds a configuration and safetensors."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model.path: got {folder}, expected a folder with config.json and safetensors",
            hint="model.path=null takes model.id from the hub; model=tiny needs no network",
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model.path: got {folder} without safetensors, expected model.safetensors",
            hint="pickled weights (.bin, .pt) are not read: they can run code; convert them first",
        )
    return folder


def _cached_folder(model: ModelConfig) -> Path | None:
    """The finished snapshot in the hub's cache, or None; no network."""
    quiet_hub()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def _cached_commit(model: ModelConfig) -> str | None:
    folder = _cached_folder(model)
    return folder.name if folder is not None else None


def _hub_commit(model: ModelConfig) -> str:
    """The commit that `model.revision` (or the default branch) names, by one request without retries."""
    quiet_hub()
    from httpx import HTTPError
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.is_offline_mode():
        raise _no_access(model, "HF_HUB_OFFLINE is set and the model is not in the cache")
    try:
        url = hf_hub_url(model.id, "config.json", revision=model.revision)
        found = get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S).commit_hash
    except (OSError, HTTPError, ValueError) as error:
        raise _no_access(model, refusal_reason(error)) from error
    if found is None:
        raise _no_access(model, "the hub named no commit")
    return str(found)


def refusal_reason(error: Exception) -> str:
    """Why the hub gave nothing, in a few words."""
    from httpx import TransportError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "it is gated and this machine has no accepted licence and token for it"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such model.revision"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or shows it only with a token"
    if isinstance(error, TransportError):
        return "huggingface.co cannot be reached"
    return _first_line(error)


def _no_access(model: ModelConfig, reason: str) -> ModelError:
    return ModelError(
        f"model {model.id}: got no access ({reason}); accept the licence at https://huggingface.co/{model.id} "
        "and set HF_TOKEN, or take model=tiny"
    )


def _digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 over the files of `folder` that match; read once while they keep their sizes and times."""
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    states = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _digest_once(folder, tuple(states))


@lru_cache(maxsize=8)
def _digest_once(folder: Path, states: tuple[tuple[str, int, int], ...]) -> str:
    return store.digest_files(folder, [name for name, _, _ in states])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def quiet_hub() -> None:
    """Ask the hub's client, before its first import, to report nothing about its use."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
