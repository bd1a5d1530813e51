"""Adapters by name: sound ones, and damaged ones with the rules that must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

import adapter_folders
from adapter_folders import MODEL, settings, tensors
from fgpipe.config import LINEAR_MODULES

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
