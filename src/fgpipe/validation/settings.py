"""Rules on `adapter_config.json`: what vLLM refuses, and what it ignores although the answers depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fgpipe.config import LINEAR_MODULES
from fgpipe.validation import scaling
from fgpipe.validation.contract import Contract
from fgpipe.validation.patterns import PatternError
from fgpipe.validation.report import Finding, failed, judged, passed, quoted, warned
from fgpipe.validation.scaling import Settings
from fgpipe.validation.targets import EMBEDDINGS, endings, targeted

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


SETTINGS_RULES = (
    *("peft_type", "task_type", "fields", "rank", "alpha", *ABSENT_OR_FALSE, "bias", "init_lora_weights"),
    *("modules_to_save", "unknown_settings", "targets", "base_id", "base_revision", "server_rank"),
)
"""Names of these rules, in their order."""


def check_settings(config: Settings, contract: Contract, *, folder: Path) -> Iterator[Finding]:
    """One finding a rule; those on `r`, `lora_alpha` and `target_modules` only if the rule `fields` passes."""
    yield _peft_type(config)
    yield _task_type(config)
    for setting, (what, hint) in ABSENT_OR_FALSE.items():
        wrong = [f"got {quoted(config[setting])}, expected it absent: it means {what}"] if config.get(setting) else []
        yield judged(setting, wrong, "not used", hint)
    yield _bias(config)
    yield _init_lora_weights(config)
    yield _modules_to_save(config)
    yield _unknown_settings(config)
    yield _base_id(config, contract)
    yield _base_revision(config, contract)
    fields = scaling.fields(config, contract.module_names())
    yield fields
    if fields.status == "pass":
        yield scaling.rank(config, contract, folder=folder)
        yield scaling.server_rank(config, contract)
        yield from _targets_and_alpha(config, contract)


def _peft_type(config: Settings) -> Finding:
    got = config.get("peft_type")
    if got == "LORA":
        return passed("peft_type", "LORA")
    # vLLM does not look: it serves whatever LoRA-shaped tensors it finds.
    return failed("peft_type", f"got {quoted(got)}, expected LORA", "only LoRA adapters can be served together")


def _task_type(config: Settings) -> Finding:
    got = config.get("task_type")
    if got in (None, "CAUSAL_LM"):
        return passed("task_type", str(got or "none given"))
    # vLLM does not look, and generates text whatever the adapter was for.
    return warned(
        "task_type", f"got {quoted(got)}, expected CAUSAL_LM", "was it trained to call functions? if so, correct it"
    )


def _bias(config: Settings) -> Finding:
    got = config.get("bias", "none")
    if got == "none":
        return passed("bias", "none")
    return failed("bias", f"got {quoted(got)}, expected none: vLLM serves no trained biases", RETRAIN)


def _init_lora_weights(config: Settings) -> Finding:
    got = config.get("init_lora_weights", True)
    if not isinstance(got, str) or got.lower() in HARMLESS_INITS:
        return passed("init_lora_weights", f"{quoted(got)}: leaves the base as it is")
    return failed(
        "init_lora_weights",
        f"got {quoted(got)}, which changes the base when PEFT loads the adapter; the server's base is unchanged",
        "convert it (save_pretrained with path_initial_model_for_weight_conversion), or train anew",
    )


def _modules_to_save(config: Settings) -> Finding:
    got = config.get("modules_to_save")
    # PEFT lists these two for classifiers by itself; without tensors of theirs they mean nothing here. As text, vLLM
    # takes a name apart into letters and refuses it.
    full = [name for name in got if name not in ("classifier", "score")] if isinstance(got, list) else got
    wrong = [f"got {quoted(full)}, expected none: vLLM loads no fully trained modules"] if full else []
    return judged("modules_to_save", wrong, "not used", RETRAIN)


def _unknown_settings(config: Settings) -> Finding:
    unknown = sorted(name for name, value in config.items() if name not in KNOWN and value)
    if not unknown:
        return passed("unknown_settings", "none")
    return warned(
        "unknown_settings",
        f"got {quoted(unknown)}, which PEFT 0.21 does not have; vLLM ignores them",
        "compare answers of the served adapter with the trained one",
    )


def _targets_and_alpha(config: Settings, contract: Contract) -> Iterator[Finding]:
    names = list(contract.module_names())
    try:
        found, ends = targeted(config, names), sorted(targeted(config, EMBEDDINGS))
    except PatternError as error:
        yield failed("targets", str(error), "name the modules: " + ", ".join(LINEAR_MODULES))
        yield scaling.alpha(config, ())
    else:
        yield _targets(config, contract, found, ends)
        yield scaling.alpha(config, found)


def _targets(config: Settings, contract: Contract, found: set[str], ends: list[str]) -> Finding:
    entries = config["target_modules"]
    if ends:
        return failed(
            "targets",
            f"got {', '.join(ends)}, expected linear layers: the ends share a matrix vLLM serves no LoRA on",
            "train with target_modules among " + ", ".join(LINEAR_MODULES),
        )
    if not found:
        return failed(
            "targets",
            f"got {quoted(entries)}, which names no module of {contract.base_id}",
            f"is it an adapter of another base? expected any of {', '.join(contract.shapes)}",
        )
    meant = set().union(*map(endings, contract.module_names()))
    idle = [] if isinstance(entries, str) else [entry for entry in entries if entry not in meant]
    if idle:
        hint = "harmless if the base has none; was another base meant?"
        return warned("targets", f"got {quoted(idle)}, which {contract.base_id} does not have; no effect", hint)
    kinds = [module for module in contract.shapes if any(name.endswith(f".{module}") for name in found)]
    return passed("targets", f"{len(found)} modules: {', '.join(kinds)}")


def _base_id(config: Settings, contract: Contract) -> Finding:
    got = config.get("base_model_name_or_path")
    if got == contract.base_id:
        return passed("base_id", contract.base_id)
    # vLLM never compares it and would answer with a mixture of two models.
    return failed(
        "base_id",
        f"base_model_name_or_path: got {quoted(got)}, expected {contract.base_id!r}",
        f"train on {contract.base_id}; if it was, under another name or path, correct the line in adapter_config.json",
    )


def _base_revision(config: Settings, contract: Contract) -> Finding:
    got = config.get("revision")
    if not got or not contract.base_revision or got == contract.base_revision:
        return passed("base_revision", str(got or contract.base_revision or "none recorded"))
    return warned(
        "base_revision",
        f"got {quoted(got)}, the server's base is at {contract.base_revision}",
        "compare answers of the served adapter with the trained one, or serve the revision it was trained on",
    )
