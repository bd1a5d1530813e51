"""How far a served adapter is from the trained one when it is sound, and when it is damaged: what the limits rest on.

python -m fgpipe train task=sql model=tiny train.max_steps=120     (and the same for task=email)
python benchmarks/parity.py runs/sql-tiny runs/email-tiny float32   (or bfloat16)
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from fgpipe import store, trial
from fgpipe.compose import compose
from fgpipe.serving import VllmServer
from fgpipe.validation import parity

Weights = dict[str, Any]

LAYERS = 7


def layer(name: str) -> int:
    """The block a tensor belongs to."""
    return int(name.split("layers.")[1].split(".")[0])


def only(keep: Callable[[str], bool]) -> Callable[[Weights], Weights]:
    """Damage that loses every tensor `keep` does not want."""
    return lambda weights: {name: array for name, array in weights.items() if keep(name)}


def scaled(factor: float) -> Callable[[Weights], Weights]:
    """Damage that makes every update `factor` times as large."""
    return lambda weights: {name: array * (factor if "lora_B" in name else 1) for name, array in weights.items()}


def shuffled(weights: Weights) -> Weights:
    """Every block with the weights of the next."""
    return {
        name: weights[name.replace(f"layers.{layer(name)}.", f"layers.{(layer(name) + 1) % LAYERS}.")]
        for name in weights
    }


DAMAGE: dict[str, Callable[[Weights], Weights]] = {
    "sound": lambda weights: weights,
    "one-percent": scaled(1.01),
    "ten-percent": scaled(1.1),
    "one-k-proj-lost": only(lambda name: not (layer(name) == 3 and "k_proj" in name)),
    "every-k-proj-lost": only(lambda name: "k_proj" not in name),
    "one-layer-lost": only(lambda name: layer(name) != 3),
    "four-layers-of-seven": only(lambda name: layer(name) < 4),
    "shuffled": shuffled,
    "zeroed": scaled(0),
}


def publish(adapters: Path, name: str, settings: str, weights: Weights) -> None:
    """Weights and settings in the published layout, as the live version of `name`."""
    version = adapters / name / "v0001"
    version.mkdir(parents=True)
    save_file(weights, version / "adapter_model.safetensors", metadata={"format": "pt"})
    (version / "adapter_config.json").write_text(settings)
    (version / "manifest.json").write_text("{}")
    (adapters / name / "channel.json").write_text(json.dumps({"current": "v0001"}))


def main(run: Path, other: Path, dtype: str) -> None:
    """Print a line for the base, and one for each kind of damage."""
    config = compose(["task=sql", "model=tiny", f"model.dtype={dtype}", f"server.port={trial.free_port()}"])
    prompts = parity.choose_prompts(store.read_jsonl(run / "format" / "evaluation.jsonl"), 16)
    known = parity.reference(config.model, run / "train", prompts)
    settings = (run / "train" / "adapter_config.json").read_text()
    with tempfile.TemporaryDirectory() as folder:
        adapters = Path(folder)
        for name, change in DAMAGE.items():
            publish(adapters, name, settings, change(load_file(run / "train" / "adapter_model.safetensors")))
        publish(adapters, "foreign", settings, load_file(other / "train" / "adapter_model.safetensors"))
        with VllmServer(config.model, config.server, adapters=adapters) as server:
            for name in (*DAMAGE, "foreign"):
                found = parity.compare(
                    known, base_url=server.base_url, served=name, served_base=config.model.id, dtype=dtype
                )
                assert found.distances is not None
                drift, bare = found.distances.drift, found.distances.base_drift
                if name == "sound":
                    print(f"{'base':22} mean {bare.mean:.1e} max {bare.max:.1e}, {found.tokens} tokens")
                print(f"{name:22} mean {drift.mean:.1e} max {drift.max:.1e}  {found.verdict}  {found.seconds:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
