"""Which modules a configuration means: as PEFT would choose, and never a hang whatever the pattern."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapter_folders import CONTRACT, settings, statuses, write
from fgpipe.config import LINEAR_MODULES
from fgpipe.validation.patterns import Pattern, PatternError
from fgpipe.validation.targets import by_pattern, targeted


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["self_attn.q_proj"], "layers_to_transform": 1},
        {
            "target_modules": ["q_proj", "up_proj"],
            "layers_to_transform": [0, 2],
            "layers_pattern": ["blocks", "layers"],
        },
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "blocks"},
        {"target_modules": ["proj"]},
        {"target_modules": ["model.layers.0.mlp.up_proj", "o_proj"], "layers_to_transform": [2]},
        {"target_modules": r".*layers\.[01]\..*_proj", "exclude_modules": r".*mlp.*"},
        {"target_modules": list(LINEAR_MODULES), "exclude_modules": ["model.layers.0.mlp.up_proj", "k_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "model.layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "l.*s"},
        {"target_modules": r"^(?!.*mlp).*layers\.(0|2).*(?:q_proj|o_proj)$"},
        {
            "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|"
            r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))"
        },
    ],
)
def test_targets_are_those_peft_would_choose(config: dict[str, Any]) -> None:
    """Coverage would be judged by rules PEFT does not follow: good adapters refused, half ones published."""
    tuners = pytest.importorskip("peft.tuners.tuners_utils")
    from peft import LoraConfig

    names = [*CONTRACT.module_names(), "model.embed_tokens", "lm_head"]
    theirs = {name for name in names if tuners.check_target_module_exists(LoraConfig(**config), name)}
    assert targeted(config, names) == theirs


@pytest.mark.parametrize(
    "key", ["q_proj", "layers.1.self_attn.q_proj", "proj", r".*\.mlp\..*", "(q|k)_proj", "^model.*o_proj"]
)
def test_patterns_match_as_peft_matches(key: str) -> None:
    """An adapter with a rank pattern would be compared with the wrong rank."""
    other = pytest.importorskip("peft.utils.other")
    for name in CONTRACT.module_names():
        assert by_pattern({key: 7}, name, 4) == (7 if other.get_pattern_key([key], name) == key else 4)


HOSTILE = [
    r"(.*)*x",
    ".*" * 9 + "x",
    ".?" * 50 + "x",
    "(.|.)" * 30 + "x",
    r"((.{1,99}){1,99}){1,99}x",
    "(" * 900 + ")" * 900,
]


@pytest.mark.parametrize("pattern", [*HOSTILE, "x" * 3000, "[", r"(.)\1", r"(?i:m).*", 5])
def test_endless_and_broken_patterns_are_refused(pattern: Any) -> None:
    """A hostile adapter would hang whoever publishes it, or the server."""
    with pytest.raises(PatternError):
        [Pattern(pattern).fullmatch(name) for name in CONTRACT.module_names()]


@pytest.mark.parametrize("setting", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
@pytest.mark.parametrize("pattern", HOSTILE[:2])
def test_a_hostile_pattern_is_a_verdict_in_every_setting(tmp_path: Path, setting: str, pattern: str) -> None:
    """One setting would have been forgotten, and validation hang on it."""
    value: Any = {pattern: 4} if setting == "rank_pattern" else [pattern] if setting == "layers_pattern" else pattern
    write(
        tmp_path,
        config=settings(**{"layers_to_transform": [0] if setting == "layers_pattern" else None, setting: value}),
    )
    assert statuses(tmp_path, "fail") >= {"fields" if setting == "rank_pattern" else "targets"}


ATOMS = (
    "a",
    ".",
    r"\.",
    "q_proj",
    "[a-z_]",
    "[^.]",
    r"\d",
    r"[\w.]",
    "layers",
    "(q|k|down)",
    "(?:self_attn|mlp)",
    "_",
    "",
)
AROUND = (r"\b", "^", "$", "(?=s)", "(?!m)", "(?<=p)", r"\B")
OFTEN = ("", "", "", "*", "+", "?", "*?", "+?", "{0,3}", "{2}", "??", "{2,}")


@hypothesis_settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(ATOMS), st.sampled_from(OFTEN)) | st.tuples(st.sampled_from(AROUND)), max_size=6
    ),
    name=st.sampled_from(sorted(CONTRACT.module_names())),
    start=st.sampled_from(["", ".*", "(?i)MODEL", ".*?"]),
)
def test_patterns_match_what_python_matches(parts: list[tuple[str, ...]], name: str, start: str) -> None:
    """A regular expression in `target_modules` would mean other modules here than in PEFT."""
    pattern = start + "".join("".join(part) for part in parts)
    try:
        expected = re.fullmatch(pattern, name) is not None
    except re.error:
        with pytest.raises(PatternError):
            Pattern(pattern)
        return
    try:
        found = Pattern(pattern).fullmatch(name)
    except PatternError:  # takes too long
        assume(len(parts) < 3)
        raise
    assert found == expected
