"""Adapters of every kind the truth table judges: sound ones, and each kind of damage, made by code from a sound one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

import adapter_folders
from adapter_folders import Tensors
from fgpipe.config import LINEAR_MODULES, ModelConfig, ServerConfig
from fgpipe.validation.contract import contract
from tiny_server import SHAPE

MODEL = ModelConfig(name="tiny-random", id="fgpipe/tiny-random", shape=SHAPE)
CONTRACT = contract(MODEL, ServerConfig(max_lora_rank=32))
RANK = 8
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

Change = Callable[[Tensors], Mapping[str, numpy.ndarray[Any, Any]]]


def weights(rank: int = RANK, *, seed: int = 1, ranks: Mapping[str, int] | None = None) -> Tensors:
    """Random weights that change the base's answers without flooding them, whatever the rank."""
    return adapter_folders.tensors(rank, seed=seed, ranks=ranks, contract=CONTRACT, spread=0.35 / rank**0.25)


def settings(**changes: Any) -> dict[str, Any]:
    """`adapter_config.json` of the sound adapter of rank 8, changed; a value of `...` takes the setting out."""
    sound = adapter_folders.settings(base_model_name_or_path=MODEL.id, r=RANK, lora_alpha=2 * RANK)
    return {key: value for key, value in {**sound, **changes}.items() if value is not ...}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    sound: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the sound adapter's."""
    arrays: Tensors | None = None
    """Its weights before the damage; None takes those of the sound adapter."""
    change: Change = lambda arrays: arrays
    dtype: str = "F32"
    finish: Callable[[Path], object] = lambda folder: None
    """The last thing done to the folder."""
    original: Tensors | None = None
    """Its weights as trained; None takes those of the sound adapter."""
    replaced: bool = False
    """The damaged files stand where the server reads, the trained ones where we do: no rule on files can see it."""

    def write(self, folder: Path) -> Path:
        """The folder that is served."""
        arrays = self.change(weights() if self.arrays is None else self.arrays)
        adapter_folders.write(folder, config=settings(**self.config), arrays=arrays, dtype=self.dtype)
        self.finish(folder)
        return folder

    def write_trained(self, folder: Path) -> Path:
        """What was trained: the same adapter before it was damaged; of a sound one, the adapter itself."""
        if self.sound:
            return self.write(folder)
        return adapter_folders.write(folder, config=settings(), arrays=self.original or weights())


def layer(name: str) -> int:
    """The block a tensor belongs to."""
    return int(name.split(".layers.")[1].split(".")[0])


def only(keep: Callable[[str], bool]) -> Change:
    return lambda arrays: {name: array for name, array in arrays.items() if keep(name)}


def renamed(old: str, new: str) -> Change:
    return lambda arrays: {name.replace(old, new): array for name, array in arrays.items()}


def mapped(change: Callable[[str, Any], Any]) -> Change:
    return lambda arrays: {name: change(name, array) for name, array in arrays.items()}


def added(**more: tuple[int, ...]) -> Change:
    """Tensors beside the sound ones, by name with `__` for dots."""
    return lambda arrays: {
        **arrays,
        **{
            f"base_model.model.{name.replace('__', '.')}": numpy.full(shape, 0.1, "float32")
            for name, shape in more.items()
        },
    }


def one_value(value: float) -> Change:
    def change(arrays: Tensors) -> Tensors:
        arrays[next(iter(arrays))].flat[3] = value
        return arrays

    return change


def shuffled(arrays: Tensors) -> Tensors:
    """Every block has the weights of the next."""
    count = SHAPE.num_hidden_layers
    return {
        name: arrays[name.replace(f".layers.{layer(name)}.", f".layers.{(layer(name) + 1) % count}.")]
        for name in arrays
    }


def gate_and_up_exchanged(arrays: Tensors) -> Tensors:
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {
        name: arrays[next((name.replace(one, two) for one, two in other.items() if one in name), name)]
        for name in arrays
    }


def pickled(folder: Path, *, alone: bool) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    if alone:
        (folder / WEIGHTS).unlink()


def truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _modules(*names: str) -> dict[str, Any]:
    return {
        "config": {"target_modules": list(names)},
        "change": only(lambda key: any(f".{name}." in key for name in names)),
    }


SOUND = (
    Case("rank 8, all modules", True),
    *(Case(f"rank {r}", True, config={"r": r, "lora_alpha": 2 * r}, arrays=weights(r)) for r in (1, 3, 12, 16, 32)),
    Case("rsLoRA", True, config={"use_rslora": True, "lora_alpha": 4}),
    Case("rank_pattern", True, config={"rank_pattern": {"o_proj": 16}}, arrays=weights(ranks={"o_proj": 16})),
    Case(
        "rank_pattern, packed modules",
        True,
        config={"rank_pattern": {"k_proj": 2}},
        arrays=weights(ranks={"k_proj": 2}),
    ),
    Case("alpha_pattern", True, config={"alpha_pattern": {"q_proj": 40, "up_proj": 4}}),
    Case(
        "layers 0 and 2",
        True,
        config={"layers_to_transform": [0, 2], "layers_pattern": "layers"},
        change=only(lambda key: layer(key) != 1),
    ),
    Case("q and v", True, **_modules("q_proj", "v_proj")),
    Case("k alone", True, **_modules("k_proj")),
    Case("MLP alone", True, **_modules("gate_proj", "up_proj", "down_proj")),
    Case("down_proj alone", True, **_modules("down_proj")),
    Case(
        "modules by expression",
        True,
        config={"target_modules": r".*\.self_attn\.(q|o)_proj"},
        change=only(lambda key: "q_proj" in key or "o_proj" in key),
    ),
    Case("all-linear", True, config={"target_modules": "all-linear"}),
    Case("weights in bfloat16", True, dtype="BF16"),
    Case("weights in float16", True, dtype="F16"),
    Case("weights in float64", True, dtype="F64"),
    Case("dropout in training", True, config={"lora_dropout": 0.1}),
    Case("fractional alpha", True, config={"lora_alpha": 12.5}),
    Case("a pickle beside safetensors", True, finish=lambda folder: pickled(folder, alone=False)),
)

REFUSED_SETTINGS = (
    Case("rank 64, above the limit", config={"r": 64}, arrays=weights(64)),
    Case("rank_pattern above the limit", config={"rank_pattern": {"o_proj": 64}}, arrays=weights(ranks={"o_proj": 64})),
    Case("DoRA", config={"use_dora": True}),
    Case("bias", config={"bias": "all"}),
    Case("bias on lora_B", config={"lora_bias": True}),
    Case("PiSSA", config={"init_lora_weights": "pissa"}),
    Case("OLoRA", config={"init_lora_weights": "olora"}),
    Case("activated LoRA", config={"alora_invocation_tokens": [1, 2]}),
    Case("layer replication", config={"layer_replication": [[0, 3], [1, 3]]}),
    Case("modules_to_save", config={"modules_to_save": ["embed_tokens"]}),
    Case("r missing", config={"r": ...}),
    Case("lora_alpha missing", config={"lora_alpha": ...}),
    Case("target_modules missing", config={"target_modules": ...}),
    Case("settings cut off", finish=lambda folder: (folder / CONFIG).write_text('{"r": 8,')),
    Case("settings of IA3", config={"peft_type": "IA3"}),
    Case("another base's id", config={"base_model_name_or_path": "fgpipe/other"}),
    Case("r other than the weights'", config={"r": 4}),
    Case("trained token embeddings", config={"trainable_token_indices": [5]}),
)

SIGNS = {name: numpy.sign(array) for name, array in weights().items()}

DAMAGED_WEIGHTS = (
    Case(
        "LoRA on embed_tokens",
        config={"target_modules": [*LINEAR_MODULES, "embed_tokens"]},
        change=added(model__embed_tokens__lora_embedding_A=(8, 384), model__embed_tokens__lora_embedding_B=(64, 8)),
    ),
    Case(
        "LoRA on lm_head",
        config={"target_modules": [*LINEAR_MODULES, "lm_head"]},
        change=added(lm_head__lora_A__weight=(8, 64), lm_head__lora_B__weight=(384, 8)),
    ),
    Case("a whole head beside", change=added(lm_head__weight=(384, 64))),
    Case("weights cut off", finish=truncated),
    Case("no weights file", finish=lambda folder: (folder / WEIGHTS).unlink()),
    Case("an empty weights file", change=lambda arrays: {}),
    Case("pickle alone", finish=lambda folder: pickled(folder, alone=True)),
    Case("unknown module", change=renamed("q_proj", "z_proj")),
    Case(
        "too wide",
        change=mapped(
            lambda key, array: numpy.pad(array, ((0, 0), (0, 8))) if key.endswith("q_proj.lora_A.weight") else array
        ),
    ),
    Case(
        "too narrow",
        change=mapped(lambda key, array: array[:, :-8] if key.endswith("q_proj.lora_A.weight") else array),
    ),
    Case("a B missing", change=only(lambda key: not key.endswith("layers.1.self_attn.q_proj.lora_B.weight"))),
    Case("an A missing", change=only(lambda key: not key.endswith("layers.1.self_attn.q_proj.lora_A.weight"))),
    Case("keys of another library", change=renamed("base_model.model.model.layers", "transformer.h")),
    Case("keys of the multimodal model", change=renamed("model.model.layers", "model.model.language_model.layers")),
    Case("keys without PEFT's prefix", change=renamed("base_model.model.", "")),
    Case("keys with an adapter's name", change=renamed(".weight", ".default.weight")),
    Case("integer weights", arrays=SIGNS, dtype="I32", original=SIGNS),
    Case("small weights as integers", dtype="I32"),
    Case("every B zero", change=mapped(lambda key, array: array * ("lora_A" in key))),
    Case(
        "layers the base does not have, beside its own",
        change=lambda arrays: {**arrays, **renamed("layers.2.", "layers.7.")(arrays)},
    ),
)

REPLACED = (
    Case("served: every B zero", change=mapped(lambda key, array: array * ("lora_A" in key)), replaced=True),
    Case("served: layers shuffled", change=shuffled, replaced=True),
    Case("served: another task's adapter", arrays=weights(seed=2), replaced=True),
    Case("served: some layers only", change=only(lambda key: layer(key) == 0), replaced=True),
    Case("served: some modules only", change=only(lambda key: "self_attn" in key), replaced=True),
    Case("served: gate and up exchanged", change=gate_and_up_exchanged, replaced=True),
    Case("served: alpha 10 % larger", config={"lora_alpha": 2.2 * RANK}, replaced=True),
    Case("served: rsLoRA's scale", config={"use_rslora": True}, replaced=True),
    Case("served: weights 1 % larger", change=mapped(lambda key, array: array * 1.01), replaced=True),
    Case(
        "served: keys of another library",
        change=renamed("base_model.model.model.layers", "transformer.h"),
        replaced=True,
    ),
)

NOT_FINITE = (
    Case("a NaN", change=one_value(float("nan"))),
    Case("an infinity", change=one_value(float("inf"))),
    Case("served: a NaN", change=one_value(float("nan")), replaced=True),
)
"""Last: on the CPU build they were seen to make the next requests NaN as well, whoever is asked."""

CASES = (*SOUND, *REFUSED_SETTINGS, *DAMAGED_WEIGHTS, *REPLACED, *NOT_FINITE)
