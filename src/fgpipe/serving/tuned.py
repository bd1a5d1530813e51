"""Measured settings of vLLM's LoRA kernels: the folders they are in, and which one a server gets.

A folder holds, for each GPU, the files that vLLM reads (`kernels.file_name`) and one that says what they were measured
for: base, rank, slots, version of vLLM. A server uses them only for that: elsewhere they might be slower than vLLM's
own. The user's folder goes before the one shipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe import resources, store
from fgpipe.config import ModelConfig, ModelShape, ServerConfig
from fgpipe.errors import ConfigError
from fgpipe.serving import gpus, kernels, shapes
from fgpipe.serving.kernels import Choice

VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"
"""Where vLLM looks; one that is in the environment already is left alone, also an empty one."""


@dataclass(frozen=True)
class Scope:
    """What settings were measured for, beside the number of slots."""

    gpu: str
    vllm: str
    """Version, without what stands behind a `+`."""
    max_lora_rank: int
    linear_shapes: Mapping[str, Sequence[int]]
    """(in, out) of each linear layer of the base."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        sizes = {name: list(size) for name, size in self.linear_shapes.items()}
        return {"gpu": self.gpu, "vllm": self.vllm, "max_lora_rank": self.max_lora_rank, "linear_shapes": sizes}

    def difference(self, found: Mapping[str, Any]) -> str:
        """What in `found`, which stood in a file, is other than here; "" if nothing is."""
        for key, value in self.as_json().items():
            if found.get(key) != value:
                return "another base" if key == "linear_shapes" else f"{key} {found.get(key)}, not {value}"
        return ""


@dataclass(frozen=True)
class Found:
    """The folder that a server gets, if any, and a line that says why; no line where there is no GPU."""

    folder: Path | None
    line: str


def scope(model: ModelConfig, *, max_lora_rank: int, gpu: str, vllm: str) -> Scope:
    """What a server of `model` on `gpu` needs settings for."""
    return Scope(gpu, vllm.partition("+")[0], max_lora_rank, shape_of(model).linear_shapes())


def shape_of(model: ModelConfig) -> ModelShape:
    """Sizes of `model`: from its folder, or as configured for one on the hub."""
    if model.path is None:
        return model.shape
    try:
        return shapes.read_shape(resources.resolve(model.path)).sizes
    except ConfigError:
        return model.shape


def find(model: ModelConfig, server: ServerConfig, *, vllm: str) -> Found:
    """The folder for `server` on this machine's first GPU."""
    if VARIABLE in os.environ:
        return Found(None, f"LoRA kernels: settings from {VARIABLE}, as the environment says")
    gpu = next((gpu.name for gpu in gpus.found_gpus()), None)
    if gpu is None:
        return Found(None, "")
    wanted = scope(model, max_lora_rank=server.max_lora_rank, gpu=gpu, vllm=vllm)
    own, shipped = Path(server.tuned_kernels).absolute(), resources.folder("data") / "tuned"
    reasons = []
    for folder in (own, shipped):
        reason = _misfit(folder, wanted, server.max_loras)
        if not reason:
            return Found(folder, f"LoRA kernels: settings measured for {gpu}, {folder}")
        reasons.append(reason)
    # Of two reasons the more telling one: that of a folder which has something for this GPU.
    reason = next((reason for reason in reasons if reason != NOTHING), NOTHING)
    return Found(None, f"LoRA kernels: vLLM's own settings ({reason}; python -m fgpipe tune measures this one)")


NOTHING = "none were measured for this GPU"


def _misfit(folder: Path, wanted: Scope, max_loras: int) -> str:
    """Why what is in `folder` is not for this server; "" if it is."""
    try:
        found = store.read_json(folder / about_name(wanted.gpu))
        slots = list(found["max_loras"])
    except FileNotFoundError:
        return NOTHING
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / about_name(wanted.gpu)}: {error!r}"
    if difference := wanted.difference(found):
        return f"measured for {difference}"
    if max_loras not in slots:
        return f"measured for max_loras {', '.join(map(str, slots))}, not {max_loras}"
    files = [kernels.file_name(wanted.gpu, kind) for kind in ("shrink", "expand")]
    missing = [file for file in files if not (folder / file).is_file()]
    return f"{folder}: {', '.join(missing)} is missing" if missing else ""


def digest(folder: Path) -> str:
    """Of the settings in `folder`, for all GPUs: another one after they were measured anew."""
    return store.digest_files(folder, sorted(path.name for path in folder.glob("*.json")))


def about_name(gpu: str) -> str:
    """The file that says what the settings of `gpu` were measured for."""
    return f"{kernels.device_name(gpu)}_TUNING.json"


def write(choices: Iterable[Choice], about: Scope, out: Path, *, measured: Mapping[str, Any]) -> list[Path]:
    """Write what was found for one number of slots to `out`; what it has for other numbers stays if all else is alike.

    Args:
        measured: date and versions, for people.
    """
    chosen = list(choices)
    slots = sorted({choice.max_loras for choice in chosen})
    earlier = _earlier(out, about)
    out.mkdir(parents=True, exist_ok=True)
    # First, so that files torn apart by a crash are never taken for whole: it comes back last.
    path = out / about_name(about.gpu)
    path.unlink(missing_ok=True)
    written = []
    for kind in ("shrink", "expand"):
        file = out / kernels.file_name(about.gpu, kind)
        old = store.read_json(file) if earlier else {}
        store.write_json(file, {**old, **kernels.tree(chosen, kind)})
        written.append(file)
    entry = {**measured, "results": [_result(choice) for choice in chosen]}
    entries = {**earlier.get("measured", {}), **dict.fromkeys(map(str, slots), entry)}
    all_slots = sorted({*earlier.get("max_loras", []), *slots})
    store.write_json(path, {**about.as_json(), "max_loras": all_slots, "measured": entries})
    return [*written, path]


def main() -> None:
    """For `serve/entrypoint.sh`: print the folder for a model, slots, rank and the user's folder; nothing for none."""
    from fgpipe.serving.command import installed_version

    where, slots, rank, folder = sys.argv[1:5]
    model = ModelConfig(path=where) if Path(where).is_dir() else ModelConfig(id=where)
    server = ServerConfig(
        max_loras=int(slots), max_cpu_loras=max(32, int(slots)), max_lora_rank=int(rank), tuned_kernels=folder
    )
    found = find(model, server, vllm=installed_version())
    if found.line:
        print(f"fgpipe: {found.line}", file=sys.stderr)
    print(found.folder or "")


def _earlier(out: Path, about: Scope) -> dict[str, Any]:
    """What `out` says that it was measured for, if that differs by nothing but slots; else nothing."""
    try:
        found = store.read_json(out / about_name(about.gpu))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and not about.difference(found) else {}


def _result(choice: Choice) -> dict[str, Any]:
    product = choice.product
    return {
        "kernel": product.kind,
        "k": product.inner,
        "n": list(product.outers),
        "rows": choice.rows,
        "default_us": round(choice.default.middle_us, 2),
        "default_spread_us": round(choice.default.spread_us, 2),
        "chosen_us": round(choice.chosen.middle_us, 2),
        "chosen_spread_us": round(choice.chosen.spread_us, 2),
        "own": choice.chosen is choice.default,
        "tried": choice.tried,
        "refused": choice.refused,
    }
