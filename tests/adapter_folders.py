"""Small PEFT adapter folders, made with numpy and safetensors alone, for tests of validation and publishing."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from fgpipe.config import LINEAR_MODULES, ModelConfig, ModelShape, ServerConfig
from fgpipe.validation.contract import Contract, contract
from fgpipe.validation.static import validate
from fgpipe.validation.targets import by_pattern
from fgpipe.validation.weights import read_header, read_tensor

SHAPE = ModelShape(
    vocab_size=64,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=8,
)
MODEL = ModelConfig(name="small", id="fgpipe/small", shape=SHAPE, revision="a" * 40)
CONTRACT: Contract = contract(MODEL, ServerConfig(max_lora_rank=8))

NAMES = {"F32": "float32", "F16": "float16", "F64": "float64", "I32": "int32"}

Tensors = dict[str, numpy.ndarray[Any, Any]]


def settings(**changes: Any) -> dict[str, Any]:
    """`adapter_config.json` of a sound adapter of rank 4 on all seven modules."""
    sound: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": MODEL.id,
        "revision": None,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(LINEAR_MODULES),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
    }
    return {**sound, **changes}


def tensors(
    rank: int = 4,
    *,
    seed: int = 0,
    ranks: Mapping[str, int] | None = None,
    contract: Contract = CONTRACT,
    spread: float = 1.0,
) -> Tensors:
    """Random weights for every linear module of the contract's base; `ranks`: other ranks by the name's end."""
    random = numpy.random.default_rng(seed)
    made: Tensors = {}
    for module in contract.module_names():
        inputs, outputs = contract.shapes[module.rsplit(".", 1)[1]]
        r = next((value for end, value in (ranks or {}).items() if module.endswith(end)), rank)
        made[f"base_model.model.{module}.lora_A.weight"] = random.normal(0, spread, size=(r, inputs)).astype("float32")
        made[f"base_model.model.{module}.lora_B.weight"] = random.normal(0, spread, size=(outputs, r)).astype("float32")
    return made


def safetensors_bytes(arrays: Mapping[str, numpy.ndarray[Any, Any]], dtype: str = "F32") -> bytes:
    """A safetensors file with every array as `dtype`; `BF16` keeps the upper half of a float32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, array in arrays.items():
        if dtype == "BF16":
            data = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            data = array.astype(NAMES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def write(
    folder: Path,
    *,
    config: Any = None,
    arrays: Mapping[str, numpy.ndarray[Any, Any]] | None = None,
    dtype: str = "F32",
    seed: int = 0,
) -> Path:
    """An adapter in `folder`: sound where nothing else is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings() if config is None else config))
    weights = safetensors_bytes(tensors(seed=seed) if arrays is None else arrays, dtype)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def statuses(folder: Path, status: str) -> set[str]:
    """The rules that gave the adapter in `folder` this status."""
    return {finding.rule for finding in validate(folder, CONTRACT) if finding.status == status}


def products(folder: Path) -> Tensors:
    """Scale * B @ A of every module, as PEFT would compute it, in float64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    path = folder / "adapter_model.safetensors"
    header = read_header(path)
    found = {}
    for name in header:
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            other = name.replace("lora_A", "lora_B")
            a, b = (read_tensor(path, header[each]).astype("float64") for each in (name, other))
            rank = by_pattern(config.get("rank_pattern"), module, config["r"])
            alpha = by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
            found[module] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank) * (b @ a)
    return found
