"""Rules on the weights: each tensor's name, shape, type and values, against the base and `adapter_config.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe.validation.contract import PARENTS, Contract
from fgpipe.validation.patterns import PatternError, PatternValues
from fgpipe.validation.report import Finding, failed, judged, passed, warned
from fgpipe.validation.targets import targeted
from fgpipe.validation.weights import FLOATING, LARGEST_SERVED, SMALLEST_SERVED, Tensor, read_tensor

TENSOR_RULES = (
    *("size", "tensor_names", "modules", "layers", "pairs", "dtype", "shapes", "ranks", "finite", "effect"),
    "coverage",
)
"""Names of these rules, in their order."""

PREFIX = "base_model.model."
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight", re.ASCII)
_BLOCK = re.compile(r"model\.layers\.(?P<layer>0|[1-9][0-9]*)\.(?P<parent>[a-z_]+)\.(?P<leaf>[a-z_]+)", re.ASCII)

DAMAGED = "the weights do not fit the configuration: save the adapter again with PEFT's save_pretrained"


@dataclass(frozen=True)
class Named:
    """The tensors sorted by what their names say."""

    pairs: Mapping[str, Mapping[str, Tensor]]
    """Module -> side "A" or "B" -> tensor; modules of the base only."""
    strange: Sequence[str]
    """Names not of the form PEFT writes for a LoRA on a linear layer."""
    foreign: Sequence[str]
    """Modules this base does not have in any layer."""
    beyond: Sequence[str]
    """Modules in a layer this base does not have."""


def sort_names(tensors: Mapping[str, Tensor], contract: Contract) -> Named:
    """What the names of `tensors` mean to `contract`'s base."""
    known = set(contract.module_names())
    pairs: dict[str, dict[str, Tensor]] = {}
    strange: list[str] = []
    foreign: dict[str, None] = {}
    beyond: dict[str, None] = {}
    for name, tensor in sorted(tensors.items()):
        found = _NAME.fullmatch(name)
        if found is None:
            strange.append(name)
        elif found["module"] in known:
            pairs.setdefault(found["module"], {})[found["side"]] = tensor
        else:
            block = _BLOCK.fullmatch(found["module"])
            exists_elsewhere = (
                block and PARENTS.get(block["leaf"]) == block["parent"] and block["leaf"] in contract.shapes
            )
            (beyond if exists_elsewhere else foreign)[found["module"]] = None
    return Named(pairs, strange, list(foreign), list(beyond))


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, contract: Contract
) -> Iterator[Finding]:
    """One finding a rule, in a fixed order.

    Args:
        config: `adapter_config.json` if it passed the rule `fields`; without it `ranks` and `coverage` are left out.
    """
    size = path.stat().st_size
    rank = max([contract.max_lora_rank, *([min(config["r"], 512)] if config else [])])
    limit = contract.largest_bytes(rank)
    fits = size <= limit
    yield judged(
        "size",
        [] if fits else [f"got {size / 2**20:.1f} MiB, expected at most {limit / 2**20:.1f} MiB"],
        f"{size / 2**20:.2f} MiB, {len(tensors)} tensors",
        "is it a merged or fully trained model instead of an adapter?",
    )
    named = sort_names(tensors, contract)
    yield _tensor_names(named, tensors)
    # vLLM serves the base, silently, for a module it does not find.
    yield judged("modules", named.foreign, "all are linear layers of the base", _expected_modules(contract))
    layers = f"the base has layers 0 to {contract.layers - 1}: is it an adapter of a larger model?"
    yield judged("layers", named.beyond, f"all within the base's {contract.layers} layers", layers)
    single = [f"{m}: only lora_{next(iter(sides))}" for m, sides in named.pairs.items() if len(sides) == 1]
    yield judged("pairs", single, f"{len(named.pairs)} modules, each with lora_A and lora_B", DAMAGED)
    odd = [f"{name}: {tensor.dtype}" for name, tensor in sorted(tensors.items()) if tensor.dtype not in FLOATING]
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors.values()})) or "none"
    # vLLM loads whole numbers without a word and answers as the base.
    yield judged("dtype", odd, dtypes, f"expected {', '.join(FLOATING)}: save the adapter in a floating type")
    yield _shapes(named, contract)
    if config is not None:
        yield _ranks(named, config)
    if fits:
        yield from _values(path, named)
    if config is not None:
        yield _coverage(named, config, contract)


def _expected_modules(contract: Contract) -> str:
    return f"expected {', '.join(contract.shapes)} in model.layers.N: is it an adapter of another base?"


def _tensor_names(named: Named, tensors: Mapping[str, Tensor]) -> Finding:
    if not tensors:
        return failed("tensor_names", "got no tensor at all, expected lora_A and lora_B of some modules", DAMAGED)
    expected = f"expected {PREFIX}<module>.lora_A.weight and lora_B.weight: save the adapter with save_pretrained"
    if any("embed_tokens" in name or "lm_head" in name for name in named.strange):
        expected = (
            "vLLM loads no embeddings: save the adapter with save_pretrained(folder, save_embedding_layers=False)"
        )
    return judged("tensor_names", [f"got {name}" for name in named.strange], "all as PEFT writes them", expected)


def _shapes(named: Named, contract: Contract) -> Finding:
    wrong = []
    for module, sides in named.pairs.items():
        inputs, outputs = contract.shapes[module.rsplit(".", 1)[1]]
        for side, tensor in sides.items():
            axis, width = (1, inputs) if side == "A" else (0, outputs)
            if len(tensor.shape) != 2 or tensor.shape[axis] != width:
                expected = f"[r, {inputs}]" if side == "A" else f"[{outputs}, r]"
                wrong.append(f"{module} lora_{side}: got {list(tensor.shape)}, expected {expected}")
    return judged("shapes", wrong, "all fit the base", f"is it an adapter of another base than {contract.base_id}?")


def _ranks(named: Named, config: Mapping[str, Any]) -> Finding:
    """The inner width of each pair is the rank the configuration gives its module; vLLM does not compare."""
    wrong = []
    values = PatternValues(config.get("rank_pattern"))
    for module, sides in named.pairs.items():
        rank = values.get(module, config["r"])
        for side, tensor in sides.items():
            inner = tensor.shape[0 if side == "A" else 1] if len(tensor.shape) == 2 else None
            if inner is not None and inner != rank:
                wrong.append(f"{module} lora_{side}: got rank {inner}, expected {rank} as adapter_config.json says")
    return judged("ranks", wrong, "all as adapter_config.json says", DAMAGED)


def _values(path: Path, named: Named) -> Iterator[Finding]:
    """Rules `finite` and `effect`; every tensor is read once, one at a time."""
    import numpy

    broken: list[str] = []
    idle: list[str] = []
    for module, sides in named.pairs.items():
        zero = False
        for side, tensor in sides.items():
            if tensor.dtype not in FLOATING:
                continue
            values = read_tensor(path, tensor)
            sizes = numpy.abs(values)
            bad = int(values.size - numpy.count_nonzero(sizes <= LARGEST_SERVED))
            if bad:
                broken.append(f"{module} lora_{side}: {bad} of {values.size} are NaN or infinite")
            zero = zero or not (bad or (sizes >= SMALLEST_SERVED).any())
        if zero:
            idle.append(module)
    # vLLM loads these; then every request fails.
    yield judged(
        "finite",
        broken,
        "no NaN, no infinity",
        "training diverged: lower train.learning_rate, take an earlier checkpoint",
    )
    yield _effect(idle, of=len(named.pairs))


def _effect(idle: Sequence[str], *, of: int) -> Finding:
    if of and len(idle) == of:
        hint = "was it saved before training? lora_B starts at zero"
        return failed("effect", "got zero in lora_A or lora_B of every module: the adapter is the base", hint)
    if idle:
        some = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
        hint = "frozen on purpose? otherwise part of the adapter was lost"
        return warned("effect", f"got zero weights in {len(idle)} of {of} modules: {some}", hint)
    return passed("effect", "no module is zero")


def _coverage(named: Named, config: Mapping[str, Any], contract: Contract) -> Finding:
    """Exactly the modules the configuration targets have weights; PEFT and vLLM disagree about the others."""
    try:
        expected = targeted(config, contract.module_names())
    except PatternError as error:
        return Finding("coverage", "skip", f"not checked: {error}")
    wrong = []
    missing, extra = sorted(expected - named.pairs.keys()), sorted(named.pairs.keys() - expected)
    if missing:
        wrong.append(f"got no weights for {len(missing)} of {len(expected)} targeted modules: {', '.join(missing[:3])}")
    if extra:
        wrong.append(f"got weights for {len(extra)} modules that are not targeted: {', '.join(extra[:3])}")
    return judged("coverage", wrong, f"all {len(expected)} targeted modules have weights, no other has", DAMAGED)
