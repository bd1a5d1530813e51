"""Rules on `adapter_config.json`: what vLLM refuses, and what it ignores although the answers depend on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fgpipe.config import LINEAR_MODULES
from fgpipe.validation.contract import Contract, smallest_legal_rank
from fgpipe.validation.report import Finding
from fgpipe.validation.targets import EMBEDDINGS, PatternError, compiled, targeted

Settings = Mapping[str, Any]

RETRAIN = "train the adapter again without it, as plain LoRA"

HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Named initialisations that leave the base as it is; the others change the base, and the server has the old one."""

ABSENT_OR_FALSE: Mapping[str, tuple[str, str]] = {
    "use_dora": ("DoRA, which vLLM does not implement", RETRAIN),
    "lora_bias": ("a bias on lora_B, which vLLM does not implement", RETRAIN),
    "alora_invocation_tokens": ("activated LoRA (aLoRA), which vLLM does not implement", RETRAIN),
    "layer_replication": ("a base with repeated layers, which vLLM does not build", RETRAIN),
    "trainable_token_indices": (
        "trained token embeddings, which vLLM cannot load",
        "train without new or changed tokens",
    ),
    "target_parameters": ("LoRA on bare parameters, which this base does not have", RETRAIN),
    "use_bdlora": ("block-diagonal LoRA, which vLLM does not implement", RETRAIN),
    "use_qalora": ("QA-LoRA, which vLLM does not implement", RETRAIN),
    "arrow_config": ("Arrow routing, which vLLM ignores: other answers than in training", RETRAIN),
    "kasa_config": ("KaSA, which vLLM ignores: other answers than in training", RETRAIN),
    "monteclora_config": ("MonteCLoRA, which vLLM ignores: other answers than in training", RETRAIN),
}
"""PEFT settings that must be absent, null, false or empty: what they ask for, and what to do."""

# fmt: off
KNOWN = frozenset((
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "target_parameters", "task_type", "trainable_token_indices",
    "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
))
# fmt: on
"""Every setting of PEFT 0.21 for LoRA."""


def _passed(rule: str, message: str) -> Finding:
    return Finding(rule, "pass", message)


def _failed(rule: str, message: str, hint: str = "") -> Finding:
    return Finding(rule, "fail", message, hint)


def check_settings(config: Settings, contract: Contract) -> Iterator[Finding]:
    """One finding a rule, in a fixed order; rules on `r`, `lora_alpha`, `target_modules` only if `fields` passes."""
    yield _peft_type(config)
    fields = _fields(config)
    yield fields
    if fields.status == "pass":
        yield _rank(config, contract)
        yield _alpha(config)
    for setting, (what, hint) in ABSENT_OR_FALSE.items():
        value = config.get(setting)
        if value:
            yield _failed(setting, f"got {_short(value)}, expected it absent: it means {what}", hint)
        else:
            yield _passed(setting, "not used")
    yield _bias(config)
    yield _init_lora_weights(config)
    yield _modules_to_save(config)
    yield _unknown_settings(config)
    if fields.status == "pass":
        yield _targets(config, contract)
    yield _base_id(config, contract)
    yield _base_revision(config, contract)
    if fields.status == "pass":
        yield _server_rank(config, contract)


SETTINGS_RULES = (
    *("peft_type", "fields", "rank", "alpha", *ABSENT_OR_FALSE, "bias", "init_lora_weights", "modules_to_save"),
    *("unknown_settings", "targets", "base_id", "base_revision", "server_rank"),
)
"""Names of these rules, in their order."""


def _peft_type(config: Settings) -> Finding:
    got = config.get("peft_type")
    if got == "LORA":
        return _passed("peft_type", "LORA")
    # vLLM does not look: it serves whatever LoRA-shaped tensors it finds.
    return _failed("peft_type", f"got {_short(got)}, expected LORA", "only LoRA adapters can be served together")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float)


def _fields(config: Settings) -> Finding:
    """Required settings, and the types of those other rules read."""
    wanted: dict[str, tuple[Callable[[Any], bool], str]] = {
        "r": (lambda v: _is_integer(v) and v > 0, "a whole number above 0"),
        "lora_alpha": (_is_number, "a number"),
        "target_modules": (_names_modules, "module names or a regular expression"),
    }
    optional: dict[str, tuple[Callable[[Any], bool], str]] = {
        "rank_pattern": (
            lambda v: isinstance(v, dict) and all(_is_integer(rank) and rank > 0 for rank in v.values()),
            "whole numbers above 0 by module",
        ),
        "alpha_pattern": (lambda v: isinstance(v, dict) and all(map(_is_number, v.values())), "numbers by module"),
    }
    wrong = [f"{name} is missing" for name in wanted if name not in config]
    for name, (accepts, expected) in {**wanted, **optional}.items():
        value = config.get(name)
        if name in config and not (accepts(value) or (name in optional and value is None)):
            wrong.append(f"{name}: got {_short(value)}, expected {expected}")
    for name in ("rank_pattern", "alpha_pattern"):
        for key in config[name] if isinstance(config.get(name), dict) else ():
            try:
                compiled(key)
            except PatternError as error:
                wrong.append(f"{name}: {error}")
    if wrong:
        return _failed("fields", "; ".join(wrong), "save the adapter again with PEFT's save_pretrained")
    return _passed("fields", f"r={config['r']}, lora_alpha={config['lora_alpha']}, target_modules given")


def _names_modules(value: object) -> bool:
    return bool(value) and (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )


def highest_rank(config: Settings) -> int:
    """The largest rank any module may have; `config` has passed the rule `fields`."""
    ranks: list[int] = [config["r"], *(config.get("rank_pattern") or {}).values()]
    return max(ranks)


def _rank(config: Settings, contract: Contract) -> Finding:
    rank, limit = highest_rank(config), contract.max_lora_rank
    where = "r" if rank == config["r"] else "rank_pattern"
    if rank <= limit:
        return _passed("rank", f"{rank}, server.max_lora_rank is {limit}")
    legal = smallest_legal_rank(rank)
    raised = f", or serve with server.max_lora_rank={legal} (costs speed for every adapter)" if legal else ""
    return _failed(
        "rank",
        f"{where}: got {rank}, expected at most server.max_lora_rank ({limit})",
        f"train with lora.r={limit}, or shrink the adapter to r={limit}{raised}",
    )


def _server_rank(config: Settings, contract: Contract) -> Finding:
    needed = smallest_legal_rank(highest_rank(config))
    if needed is None or needed >= contract.max_lora_rank:
        return _passed(
            "server_rank", f"server.max_lora_rank={contract.max_lora_rank} is no larger than this adapter needs"
        )
    # https://github.com/vllm-project/vllm/issues/22782
    return Finding(
        "server_rank",
        "warn",
        f"got server.max_lora_rank={contract.max_lora_rank}, this adapter needs {needed}; more slows every adapter",
        f"if no other adapter needs more: server.max_lora_rank={needed}",
    )


def _alpha(config: Settings) -> Finding:
    values = {"lora_alpha": config["lora_alpha"], **(config.get("alpha_pattern") or {})}
    for name, value in values.items():
        if not math.isfinite(value) or abs(value) > 1e9:
            return _failed("alpha", f"{name}: got {value}, expected a finite number of common size", RETRAIN)
    if not any(values.values()):
        return _failed(
            "alpha",
            "got lora_alpha 0, expected above 0: the adapter would be the base",
            "set lora_alpha; 2 * r is usual",
        )
    if any(value <= 0 for value in values.values()):
        return Finding(
            "alpha", "warn", f"got {_short(values)}, expected above 0", "was it meant to subtract what was learned?"
        )
    scaling = "sqrt(r)" if config.get("use_rslora") else "r"
    return _passed("alpha", f"{config['lora_alpha']}, scaled by {scaling}")


def _bias(config: Settings) -> Finding:
    got = config.get("bias", "none")
    if got == "none":
        return _passed("bias", "none")
    return _failed("bias", f"got {_short(got)}, expected none: vLLM serves no trained biases", RETRAIN)


def _init_lora_weights(config: Settings) -> Finding:
    got = config.get("init_lora_weights", True)
    if not isinstance(got, str) or got.lower() in HARMLESS_INITS:
        return _passed("init_lora_weights", f"{got}: leaves the base as it is")
    return _failed(
        "init_lora_weights",
        f"got {_short(got)}, which changes the base when PEFT loads the adapter; the server's base is unchanged",
        "convert it (save_pretrained with path_initial_model_for_weight_conversion), or train anew",
    )


def _modules_to_save(config: Settings) -> Finding:
    got = config.get("modules_to_save")
    names = got if isinstance(got, list) else [got] if got else []
    # PEFT lists these two for classifiers by itself; without tensors of theirs they mean nothing here.
    full = [name for name in names if name not in ("classifier", "score")]
    if not full:
        return _passed("modules_to_save", "not used")
    return _failed(
        "modules_to_save", f"got {_short(full)}, expected none: vLLM loads no fully trained modules", RETRAIN
    )


def _unknown_settings(config: Settings) -> Finding:
    unknown = sorted(name for name, value in config.items() if name not in KNOWN and value)
    if not unknown:
        return _passed("unknown_settings", "none")
    return Finding(
        "unknown_settings",
        "warn",
        f"got {_short(unknown)}, which PEFT 0.21 does not have; vLLM ignores them",
        "compare answers of the served adapter with the trained one",
    )


def _targets(config: Settings, contract: Contract) -> Finding:
    try:
        found = targeted(config, contract.module_names())
        ends = sorted(targeted(config, EMBEDDINGS))
    except PatternError as error:
        return _failed("targets", str(error), "name the modules: " + ", ".join(LINEAR_MODULES))
    if ends:
        return _failed(
            "targets",
            f"got {', '.join(ends)}, expected linear layers: the ends share a matrix vLLM serves no LoRA on",
            "train with target_modules among " + ", ".join(LINEAR_MODULES),
        )
    if not found:
        return _failed(
            "targets",
            f"got {_short(config['target_modules'])}, which names no module of {contract.base_id}",
            f"is it an adapter of another base? expected any of {', '.join(contract.shapes)}",
        )
    entries = config["target_modules"]
    idle = (
        []
        if isinstance(entries, str)
        else [e for e in entries if not targeted({"target_modules": [e]}, contract.module_names())]
    )
    if idle:
        return Finding("targets", "warn", f"got {_short(idle)}, which {contract.base_id} does not have; no effect", "")
    return _passed("targets", f"{len(found)} modules: {', '.join(m for m in contract.shapes if _any_ends(found, m))}")


def _any_ends(found: set[str], module: str) -> bool:
    return any(name.endswith(f".{module}") for name in found)


def _base_id(config: Settings, contract: Contract) -> Finding:
    got = config.get("base_model_name_or_path")
    if got == contract.base_id:
        return _passed("base_id", contract.base_id)
    # vLLM never compares it and would answer with a mixture of two models.
    return _failed(
        "base_id",
        f"base_model_name_or_path: got {_short(got)}, expected {contract.base_id!r}",
        f"train on {contract.base_id}; if it was, under another name or path, correct the line in adapter_config.json",
    )


def _base_revision(config: Settings, contract: Contract) -> Finding:
    got = config.get("revision")
    if not got or not contract.base_revision or got == contract.base_revision:
        return _passed("base_revision", str(got or contract.base_revision or "none recorded"))
    return Finding(
        "base_revision",
        "warn",
        f"got {_short(got)}, the server's base is at {contract.base_revision}",
        "compare answers of the served adapter with the trained one, or serve the revision it was trained on",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"
