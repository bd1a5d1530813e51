"""Which modules of the base a PEFT configuration means: PEFT's own matching rules, on names alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fgpipe.validation.patterns import Pattern, PatternError, PatternValues, Steps

EMBEDDINGS = ("model.embed_tokens", "lm_head")
"""Both ends of the model: one tied matrix, which vLLM cannot serve a LoRA on."""

Chooser = Callable[[str], bool]


def listed(setting: str, value: object) -> list[str]:
    """`value` as a list of names.

    Raises:
        PatternError: it is anything else.
    """
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise PatternError(f"{setting}: got {value!r:.80}, expected a list of names")
    return value


def targeted(config: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Those of `names` that PEFT would put a LoRA on, given `adapter_config.json`.

    Raises:
        PatternError: a setting that names modules cannot be understood.
    """
    is_target, is_excluded = _target_chooser(config), _excluded_chooser(config)
    return {name for name in names if is_target(name) and not is_excluded(name)}


def endings(name: str) -> set[str]:
    """`name` and what follows each of its dots: what an entry of `target_modules` may say to mean it."""
    return {name, *(name[dot.end() :] for dot in re.finditer(r"\.", name))}


def by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """What `rank_pattern` or `alpha_pattern` says of module `name`: the first key that matches its end, else `default`.

    Raises:
        PatternError: a key is no usable regular expression.
    """
    return PatternValues(patterns).get(name, default)


def _target_chooser(config: Mapping[str, Any]) -> Chooser:
    targets = config["target_modules"]
    if isinstance(targets, str):
        for setting in ("layers_to_transform", "layers_pattern"):
            if config.get(setting) is not None:
                raise PatternError(f"{setting}: got it beside a regular expression, which PEFT refuses to load")
        if targets.lower() == "all-linear":
            return lambda name: name not in EMBEDDINGS
        return Pattern(targets).fullmatch
    entries = frozenset(listed("target_modules", targets))
    in_layers = _layer_chooser(config)
    return lambda name: name in entries or (not entries.isdisjoint(endings(name)) and in_layers(name))


def _excluded_chooser(config: Mapping[str, Any]) -> Chooser:
    excluded = config.get("exclude_modules")
    if not excluded:
        return lambda name: False
    if isinstance(excluded, str):
        return Pattern(excluded).fullmatch
    entries = frozenset(listed("exclude_modules", excluded))
    return lambda name: not entries.isdisjoint(endings(name))


def _layer_chooser(config: Mapping[str, Any]) -> Chooser:
    chosen = config.get("layers_to_transform")
    if chosen is None and config.get("layers_pattern"):
        raise PatternError("layers_pattern: got it without layers_to_transform, which PEFT refuses to load")
    if chosen is None or chosen == []:
        return lambda name: True
    numbers = [chosen] if isinstance(chosen, int) else chosen
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise PatternError(f"layers_to_transform: got {chosen!r:.80}, expected layer numbers")
    patterns = config.get("layers_pattern") or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else listed("layers_pattern", patterns)
    if len(patterns) > 100:
        raise PatternError(f"layers_pattern: got {len(patterns)} patterns, expected at most 100")
    wanted, steps = frozenset(numbers), Steps()
    # Each is understood by itself first, so that it cannot close the group it is put into.
    tried = [Pattern(rf"(?:.*\.)?(?:{p})\.\d+\..*", steps=steps) for p in patterns if Pattern(p)]
    return lambda name: any(pattern.fullmatch(name) for pattern in tried) and _layer(name) in wanted


def _layer(name: str) -> int | None:
    """The one number among the parts of `name`, such as 3 in `model.layers.3.mlp.up_proj`."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
