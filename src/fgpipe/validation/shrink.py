"""An adapter at a lower rank: of every module's update, the part of rank r that is nearest to it.

The update scale * B @ A is never formed: with B = Q_b R_b and A^T = Q_a R_a its singular values are those of the small
matrix scale * R_b R_a^T, and the nearest matrix of rank r keeps the r largest of them (Eckart and Young, 1936).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe import store
from fgpipe.errors import ValidationError
from fgpipe.validation.contract import Contract
from fgpipe.validation.files import CONFIG_FILE, WEIGHTS_FILE
from fgpipe.validation.patterns import PatternValues
from fgpipe.validation.report import failures
from fgpipe.validation.static import validate
from fgpipe.validation.tensors import PREFIX, sort_names
from fgpipe.validation.weights import Tensor, read_header, read_tensor, rounded, write_tensors

if TYPE_CHECKING:
    import numpy
    from rich.table import Table

    Array = numpy.ndarray[Any, Any]

LARGE_ERROR = 0.1
"""Relative error above which a hint names the rank that would lose less."""


@dataclass(frozen=True)
class ShrunkModule:
    """What became of one module's update."""

    module: str
    rank_before: int
    rank: int
    """Rank that is left; modules that had no more than the wanted one keep theirs."""
    error: float
    """Frobenius norm of what was lost, as a fraction of the update's; rounding to the file's type included."""


@dataclass(frozen=True)
class Shrunk:
    """A shrunk adapter on disk, and what was lost of it."""

    path: Path
    r: int
    error: float
    """As of a module, over all modules together."""
    modules: tuple[ShrunkModule, ...]
    hint: str
    """What to do if much was lost; empty otherwise."""

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Update:
    """The factors of one module before and after: scale * b @ a, and new_b @ new_a as they are on disk."""

    a: Array
    b: Array
    scale: float
    new_a: Array
    new_b: Array
    singular_values: Array


def shrink(folder: Path, contract: Contract, *, r: int, out: Path) -> Shrunk:
    """Write the PEFT folder `folder`, at rank `r` and with scale 1, to the new folder `out`.

    Types of the weights stay; patterns and rsLoRA go, as their scales are multiplied into lora_B. Modules of a rank
    below the result's are filled up with zeros, as a configuration without patterns has one rank.

    Raises:
        ValidationError: `out` exists, r is no rank the server takes, or something else than its rank is wrong with the
            adapter.
    """
    _require(folder, contract, r=r, out=out)
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_bytes())
    tensors = read_header(folder / WEIGHTS_FILE)
    pairs = sort_names(tensors, contract).pairs
    target = min(r, max(sides["A"].shape[0] for sides in pairs.values()))
    updates: dict[str, _Update] = {}
    arrays: dict[str, tuple[str, Array]] = {}
    for module, sides in pairs.items():
        updates[module] = _shrunk(folder / WEIGHTS_FILE, sides, _scale(config, module), target)
        arrays[f"{PREFIX}{module}.lora_A.weight"] = sides["A"].dtype, updates[module].new_a
        arrays[f"{PREFIX}{module}.lora_B.weight"] = sides["B"].dtype, updates[module].new_b
    plain = {"r": target, "lora_alpha": target, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    try:
        with store.new_folder(out) as scratch:
            store.write_json(scratch / CONFIG_FILE, {**config, **plain})
            write_tensors(scratch / WEIGHTS_FILE, arrays)
            _require_sound(scratch, contract)
    except OSError as error:
        raise ValidationError(f"out: got {error}, expected a folder that can be written", hint="out=FOLDER") from error
    return _report(updates, target, out)


def _require(folder: Path, contract: Contract, *, r: int, out: Path) -> None:
    if not 1 <= r <= contract.max_lora_rank:
        raise ValidationError(
            f"r: got {r}, expected 1 to server.max_lora_rank ({contract.max_lora_rank})",
            hint=f"r={contract.max_lora_rank}, or a higher server.max_lora_rank (costs speed for every adapter)",
        )
    others = [finding for finding in failures(validate(folder, contract)) if finding.rule != "rank"]
    if others:
        broken = "; ".join(f"{finding.rule}: {finding.message}" for finding in others)
        raise ValidationError(
            f"shrink: got an adapter that breaks other rules than rank, expected none ({broken})", hint=others[0].hint
        )
    if os.path.lexists(out):
        raise ValidationError(f"out: got {out}, which exists, expected a new folder", hint="out=ANOTHER, or remove it")


def _require_sound(scratch: Path, contract: Contract) -> None:
    """Raise ValidationError if the new adapter breaks a rule, such as a scale too large for the type of the weights."""
    for finding in failures(validate(scratch, contract)):
        raise ValidationError(f"shrink: {finding.rule}: {finding.message}", hint="save the adapter as float32 first")


def _scale(config: Mapping[str, Any], module: str) -> float:
    """What PEFT and vLLM multiply B @ A of `module` by."""
    rank = PatternValues(config.get("rank_pattern")).get(module, config["r"])
    alpha = PatternValues(config.get("alpha_pattern")).get(module, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _shrunk(path: Path, sides: Mapping[str, Tensor], scale: float, target: int) -> _Update:
    import numpy

    a, b = (read_tensor(path, sides[side]).astype(numpy.float64) for side in "AB")
    q_b, r_b = numpy.linalg.qr(b)
    q_a, r_a = numpy.linalg.qr(a.T)
    u, values, v = numpy.linalg.svd(scale * (r_b @ r_a.T), full_matrices=False)
    rank = a.shape[0]
    if rank <= target:
        # Only the scale moves; what fills up to the common rank is zero.
        new_a = numpy.pad(a, ((0, target - rank), (0, 0)))
        new_b = numpy.pad(scale * b, ((0, 0), (0, target - rank)))
    else:
        # Half of each singular value to either side, so that neither leaves the range of a 16-bit type. Widths below
        # the target (a small base) leave fewer values than that.
        halves = numpy.sqrt(values[:target])
        missing = target - len(halves)
        new_a = numpy.pad(halves[:, None] * (v[:target] @ q_a.T), ((0, missing), (0, 0)))
        new_b = numpy.pad((q_b @ u[:, :target]) * halves, ((0, 0), (0, missing)))
    new_a, new_b = (rounded(new, sides[side].dtype) for new, side in ((new_a, "A"), (new_b, "B")))
    return _Update(a, b, scale, new_a, new_b, values)


def _norm(left: Array, right: Array) -> float:
    """Frobenius norm of left @ right, without forming it."""
    import numpy

    _, upper_left = numpy.linalg.qr(left)
    _, upper_right = numpy.linalg.qr(right.T)
    return float(numpy.linalg.norm(upper_left @ upper_right.T))


def _report(updates: Mapping[str, _Update], target: int, out: Path) -> Shrunk:
    import numpy

    modules: list[ShrunkModule] = []
    lost, whole = [], []
    for module, update in updates.items():
        before = update.scale * update.b
        left = numpy.concatenate([before, -update.new_b], axis=1)
        lost.append(_norm(left, numpy.concatenate([update.a, update.new_a])))
        whole.append(float(numpy.linalg.norm(update.singular_values)))
        rank, same = update.a.shape[0], numpy.array_equal(before, update.new_b[:, : before.shape[1]])
        if rank <= target and same:
            lost[-1] = 0.0  # bit for bit; what the norm gives is rounding of the norm itself
        modules.append(ShrunkModule(module, rank, min(rank, target), lost[-1] / whole[-1] if whole[-1] else 0.0))
    error = math.hypot(*lost) / math.hypot(*whole)
    hint = "" if error <= LARGE_ERROR else _hint([update.singular_values for update in updates.values()], error)
    return Shrunk(out, target, error, tuple(modules), hint)


def _hint(spectra: list[Array], error: float) -> str:
    """Which rank would lose no more than LARGE_ERROR."""
    total = math.fsum(float((values**2).sum()) for values in spectra)
    ranks = range(1, max(map(len, spectra)) + 1)
    needed = next(r for r in ranks if sum(float((v[r:] ** 2).sum()) for v in spectra) <= LARGE_ERROR**2 * total)
    return (
        f"{error:.0%} of the adapter's update is gone: score it before publishing; "
        f"r={needed} would lose at most {LARGE_ERROR:.0%}, training at the lower rank loses less"
    )


def render_shrunk(shrunk: Shrunk) -> Table:
    """A line a module: rank before and after, and the share of the update that was lost."""
    from rich.table import Table
    from rich.text import Text

    caption = f"all modules: {shrunk.error:.3%} lost" + (f"\nhint: {shrunk.hint}" if shrunk.hint else "")
    table = Table(caption=Text(caption), caption_justify="left")
    for column in ("module", "rank before", "rank", "lost"):
        table.add_column(column, justify="left" if column == "module" else "right", no_wrap=True)
    for each in shrunk.modules:
        table.add_row(each.module, str(each.rank_before), str(each.rank), f"{each.error:.3%}")
    return table


def default_out(folder: Path, *, r: int) -> Path:
    """The folder beside `folder` that says the rank: `sql` -> `sql-r16`."""
    whole = Path(os.path.abspath(folder))
    return whole.with_name(f"{whole.name}-r{r}")
