"""The command `tune`: measures settings of vLLM's LoRA kernels on this GPU, for one base, rank and number of slots."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgpipe.config import Config
from fgpipe.errors import ConfigError, ServeError
from fgpipe.progress import say
from fgpipe.serving import gpus, kernels, tuned
from fgpipe.serving.command import installed_build, installed_version
from fgpipe.serving.kernels import Choice, Product, Timing

if TYPE_CHECKING:
    from fgpipe.serving.kernel_timing import Kernels

BUSY_BYTES = 2**30
"""In use on the GPU by others: then something may be computing there, and times mean little."""

WRITING_S = 10.0
"""Kept of the time limit for what comes after the last measurement."""


def tune(config: Config, *, limit_s: float, as_json: bool) -> None:
    """Measure, write the winners to `server.tuned_kernels`, and print what they save.

    Raises:
        ConfigError: the time limit is too short to measure anything.
        ServeError: there is no GPU, or no vLLM for one.
    """
    began = time.monotonic()
    gpu, version = _require_gpu(), installed_version()
    if limit_s <= 2 * WRITING_S:
        raise ConfigError(f"--limit-s: got {limit_s:g}, expected more than {2 * WRITING_S:g} seconds")
    if gpu.used_bytes > BUSY_BYTES:
        say(f"warning: {gpu.used_bytes / 2**30:.1f} GiB of the GPU are in use; whatever runs there spoils the times")
    server = config.server
    about = tuned.scope(config.model, max_lora_rank=server.max_lora_rank, gpu=gpu.name, vllm=version)
    products = kernels.products(tuned.shape_of(config.model), server.max_lora_rank)
    os.environ.pop(tuned.VARIABLE, None)  # what it names would be taken for vLLM's own settings
    say(f"{gpu.name}, vLLM {version}, {server.max_loras} slots of rank {server.max_lora_rank}: {len(products)} kernels")
    choices = measure(products, max_loras=server.max_loras, until=began + limit_s - WRITING_S)
    if not any(choice.tried for choice in choices):
        raise ServeError("tune: got no measurement, expected at least one", hint=f"--limit-s={4 * limit_s:.0f}")
    out = Path(server.tuned_kernels)
    measured = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "driver": gpu.driver, **_versions()}
    files = tuned.write(choices, about, out, measured=measured)
    rows = report(choices)
    if as_json:
        print(json.dumps({"folder": str(out.absolute()), **about.as_json(), "rows": rows}, indent=2))
        return
    print("\n".join(render(rows)))
    print(f"written: {', '.join(path.name for path in files)} in {out.absolute()}")
    if out.absolute() == Path(Config().server.tuned_kernels).absolute():
        say("`python -m fgpipe serve` from this folder uses them by itself")
    else:
        say(f"`python -m fgpipe serve server.tuned_kernels={out}` uses them")


def measure(products: Sequence[Product], *, max_loras: int, until: float) -> list[Choice]:
    """A choice for every product and number of rows; vLLM's own settings where time ran out."""
    from fgpipe.serving import kernel_timing

    loaded = kernel_timing.load()
    choices = []
    for rows in kernels.ROWS:
        for product in products:
            found = None
            if time.monotonic() < until:
                found = kernel_timing.search(loaded, product, max_loras=max_loras, rows=rows, until=until)
            choices.append(found or _unmeasured(loaded, product, max_loras, rows))
        if any(choice.tried for choice in choices if choice.rows == rows):
            ((before, after),) = kernels.forward_us(choice for choice in choices if choice.rows == rows).values()
            say(f"{rows:5} rows: {before:7,.0f} us a forward pass with vLLM's settings, {after:7,.0f} with the chosen")
    return choices


def _unmeasured(loaded: Kernels, product: Product, max_loras: int, rows: int) -> Choice:
    default = Timing(loaded.default(product, max_loras, rows), (0.0,))
    return Choice(product, max_loras, rows, default, default)


def report(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """A row a number of rows: microseconds of all LoRA kernels in a forward pass, and how many got other settings."""
    found = []
    for (_, rows), (before, after) in kernels.forward_us(choices).items():
        here = [choice for choice in choices if choice.rows == rows]
        changed = sum(choice.chosen is not choice.default for choice in here)
        whole = all(choice.tried for choice in here)
        figures = {"default_us": round(before, 1), "chosen_us": round(after, 1)} if whole else {}
        refused = sum(choice.refused for choice in here)
        found.append({"rows": rows, **figures, "changed": changed, "kernels": len(here), "refused": refused})
    return found


def render(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The report as text."""
    lines = [f"{'rows':>6}{'vLLM us':>12}{'chosen us':>12}{'ratio':>8}{'kernels changed':>18}{'refused':>9}"]
    for row in rows:
        if "default_us" not in row:
            lines.append(f"{row['rows']:6}   not measured in this time: vLLM's own settings, or part of them")
            continue
        ratio = row["default_us"] / row["chosen_us"]
        changed = f"{row['changed']} of {row['kernels']}"
        lines.append(
            f"{row['rows']:6}{row['default_us']:12,.0f}{row['chosen_us']:12,.0f}{ratio:7.2f}x{changed:>18}{row['refused']:9}"
        )
    return lines


def _require_gpu() -> gpus.FoundGpu:
    found = gpus.found_gpus()
    if not found:
        raise ServeError(
            "tune: got no GPU on this machine, expected one with vLLM's GPU build",
            hint="measure on the machine that serves; without it vLLM's own settings are used",
        )
    if installed_build() != "gpu":
        raise ServeError("tune: got vLLM's CPU build, expected its GPU build", hint="pip install vllm")
    return found[0]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "triton")}
