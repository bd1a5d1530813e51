"""Rules on rank and scale: `r`, `lora_alpha`, their patterns, and the types of what the other rules read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fgpipe.validation.contract import Contract, smallest_legal_rank
from fgpipe.validation.patterns import PatternError, PatternValues
from fgpipe.validation.report import Finding, failed, judged, passed, quoted, warned

Settings = Mapping[str, Any]

PATTERNS = ("rank_pattern", "alpha_pattern")
LARGEST_ALPHA = 1e9


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float)


def _is_rank(value: object) -> bool:
    return _is_integer(value) and isinstance(value, int) and value > 0


def _names_modules(value: object) -> bool:
    return bool(value) and (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    )


REQUIRED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_number, "a number"),
    "target_modules": (_names_modules, "module names or a regular expression"),
}
OPTIONAL: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rank_pattern": (
        lambda value: isinstance(value, dict) and all(map(_is_rank, value.values())),
        "whole numbers above 0 by module",
    ),
    "alpha_pattern": (
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
        "numbers by module",
    ),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
}
"""Setting -> what it accepts besides null, and how to say so."""


def fields(config: Settings, modules: Iterable[str]) -> Finding:
    """Rule `fields`: settings that are required, and the types of those that other rules read.

    Args:
        modules: names on which the patterns are tried, so that later rules can rely on them.
    """
    wrong = [f"{name} is missing" for name in REQUIRED if name not in config]
    for name, (accepts, expected) in {**REQUIRED, **OPTIONAL}.items():
        value = config.get(name)
        if name in config and not (accepts(value) or (name in OPTIONAL and value is None)):
            wrong.append(f"{name}: got {quoted(value)}, expected {expected}")
    names = list(modules)
    for name in PATTERNS:
        if isinstance(config.get(name), dict):
            try:
                values = PatternValues(config[name])
                for module in names:
                    values.get(module, None)
            except PatternError as error:
                wrong.append(f"{name}: {error}")
    given = "" if wrong else f"r={quoted(config['r'])}, lora_alpha={quoted(config['lora_alpha'])}, target_modules given"
    return judged("fields", wrong, given, "save the adapter again with PEFT's save_pretrained")


def highest_rank(config: Settings) -> int:
    """The largest rank any module may have, as vLLM counts; `config` has passed the rule `fields`."""
    ranks: list[int] = [config["r"], *(config.get("rank_pattern") or {}).values()]
    return max(ranks)


def rank(config: Settings, contract: Contract, *, folder: Path) -> Finding:
    """Rule `rank`: no more than the server serves."""
    got, limit = highest_rank(config), contract.max_lora_rank
    where = "r" if got == config["r"] else "rank_pattern"
    if got <= limit:
        return passed("rank", f"{got}, server.max_lora_rank is {limit}")
    legal = smallest_legal_rank(got)
    raised = f", or serve with server.max_lora_rank={legal} (costs speed for every adapter)" if legal else ""
    return failed(
        "rank",
        f"{where}: got {quoted(got)}, expected at most server.max_lora_rank ({limit})",
        f"python -m fgpipe shrink {shlex.quote(str(folder))} r={limit}, or train with lora.r={limit}{raised}",
    )


def server_rank(config: Settings, contract: Contract) -> Finding:
    """Rule `server_rank`: the server's limit is no higher than needed."""
    needed = smallest_legal_rank(highest_rank(config))
    if needed is None or needed >= contract.max_lora_rank:
        return passed(
            "server_rank", f"server.max_lora_rank={contract.max_lora_rank} is no larger than this adapter needs"
        )
    # https://github.com/vllm-project/vllm/issues/22782
    return warned(
        "server_rank",
        f"got server.max_lora_rank={contract.max_lora_rank}, this adapter needs {needed}; more slows every adapter",
        f"if no other adapter needs more: server.max_lora_rank={needed}",
    )


def alpha(config: Settings, modules: Iterable[str]) -> Finding:
    """Rule `alpha`: the scale is a finite number other than zero.

    Args:
        modules: names of the modules with a LoRA; if no scale of theirs differs from zero, the adapter is the base.
    """
    named = {"lora_alpha": config["lora_alpha"], **(config.get("alpha_pattern") or {})}
    for name, value in named.items():
        if not -LARGEST_ALPHA <= value <= LARGEST_ALPHA:  # NaN too
            hint = "train the adapter again with a common lora_alpha; 2 * r is usual"
            expected = "expected a finite number of common size"
            return failed("alpha", f"{name[:80]}: got {quoted(value)}, {expected}", hint)
    values = PatternValues(config.get("alpha_pattern"))
    used = [values.get(module, config["lora_alpha"]) for module in modules]
    if not any(used or named.values()):
        hint = "set lora_alpha; 2 * r is usual"
        return failed("alpha", "got lora_alpha 0, expected above 0: the adapter would be the base", hint)
    if any(value <= 0 for value in named.values()):
        return warned(
            "alpha", f"got {quoted(named)}, expected above 0", "was it meant to subtract what was learned, or nothing?"
        )
    return passed(
        "alpha", f"{quoted(config['lora_alpha'])}, scaled by {'sqrt(r)' if config.get('use_rslora') else 'r'}"
    )
