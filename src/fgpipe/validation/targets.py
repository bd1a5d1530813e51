"""Which modules of the base a PEFT configuration means: PEFT's own matching rules, on names alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

EMBEDDINGS = ("model.embed_tokens", "lm_head")
"""Both ends of the model: one tied matrix, which vLLM cannot serve a LoRA on."""

LONGEST_PATTERN = 2000
MOST_REPEATS = 6


class PatternError(ValueError):
    """A setting that names modules cannot be understood; the text says got and expected."""


def compiled(pattern: object) -> re.Pattern[str]:
    """`pattern` as a regular expression that cannot run for ever.

    Adapters come from strangers, and Python's matcher takes exponential time on a repeated group, so these are refused;
    names have about 40 characters, which bounds the rest.

    Raises:
        PatternError: not a string, not a regular expression, or one that may not end.
    """
    if not isinstance(pattern, str):
        raise PatternError(f"got {pattern!r:.80}, expected a module name or a regular expression")
    repeats = len(re.findall(r"(?<!\\)[*+]|\{\d*,\}", pattern))
    if len(pattern) > LONGEST_PATTERN or repeats > MOST_REPEATS or re.search(r"(?<!\\)\)\s*[*+{]", pattern):
        raise PatternError(
            f"got the pattern {pattern!r:.80}, expected one without repeated groups and long repetitions"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"got {pattern!r:.80}, expected a regular expression ({error})") from error


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
    return {name for name in names if _is_target(config, name) and not _is_excluded(config, name)}


def _is_target(config: Mapping[str, Any], name: str) -> bool:
    targets = config["target_modules"]
    if isinstance(targets, str):
        if targets.lower() == "all-linear":
            return name not in EMBEDDINGS
        return compiled(targets).fullmatch(name) is not None
    entries = listed("target_modules", targets)
    if name in entries:
        return True
    return _ends_with_any(name, entries) and _in_chosen_layers(config, name)


def _is_excluded(config: Mapping[str, Any], name: str) -> bool:
    excluded = config.get("exclude_modules")
    if not excluded:
        return False
    if isinstance(excluded, str):
        return compiled(excluded).fullmatch(name) is not None
    entries = listed("exclude_modules", excluded)
    return name in entries or _ends_with_any(name, entries)


def _in_chosen_layers(config: Mapping[str, Any], name: str) -> bool:
    chosen = config.get("layers_to_transform")
    if chosen is None or chosen == []:
        return True
    numbers = [chosen] if isinstance(chosen, int) else chosen
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise PatternError(f"layers_to_transform: got {chosen!r:.80}, expected layer numbers")
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else listed("layers_pattern", patterns):
        found = compiled(rf".*\.{pattern}\.(\d+)\.").match(name)
        if found:
            return int(found.group(found.re.groups)) in numbers
    return False


def _ends_with_any(name: str, entries: Iterable[str]) -> bool:
    return any(name.endswith(f".{entry}") for entry in entries)


def by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """What `rank_pattern` or `alpha_pattern` says of module `name`: the first key that matches its end, else `default`.

    Raises:
        PatternError: a key is no usable regular expression.
    """
    for key, value in (patterns or {}).items():
        compiled(key)
        if compiled(rf"(?:.*\.)?(?:{key})$").match(name):
            return value
    return default
