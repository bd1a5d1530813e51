"""Settings of vLLM's LoRA kernels: which products a base has, what may be tried, what wins, and the files vLLM reads.

An adapter's update of a group of merged layers is two Triton kernels: *shrink* multiplies rows by A, down to the rank,
*expand* multiplies by B and adds to the layer's output. vLLM 0.32 looks their launch settings up by
`config[max_loras + 1][slices][rows][k][n]`, taking the nearest number where one is missing, except for `slices`, which
must be there (`triton_ops/utils.py`). Pure functions; `kernel_timing` measures, `tuned` finds what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from fgpipe.config import INPUT_GROUPS, ModelShape

Settings = Mapping[str, int | None]
"""Launch settings of one kernel, with vLLM's names."""

Kind = Literal["shrink", "expand"]

ROWS = (64, 32, 128, 256, 16, 8, 96, 192, 512, 1, 384, 1024, 2048, 4096, 8192)
"""Rows in a batch, those that decoding has first: a search that runs out of time has looked at what matters most."""

SMALLEST_BLOCK = 16
"""Triton's matrix product takes no smaller side."""


@dataclass(frozen=True)
class Product:
    """One kernel over one group of merged layers.

    Attributes:
        inner: what is summed over: the layers' input width (shrink), or the rank (expand).
        outers: widths of the results, one a merged layer: the rank (shrink), or the layers' output widths (expand).
        layers: how many times a forward pass does it.
    """

    kind: Kind
    inner: int
    outers: tuple[int, ...]
    layers: int

    @property
    def slices(self) -> int:
        """Layers that are merged."""
        return len(self.outers)

    @property
    def key(self) -> tuple[str, str, str]:
        """(slices, k, n) as the files name it; products of equal key share their settings."""
        return str(self.slices), str(self.inner), str(max(self.outers))


def products(shape: ModelShape, rank: int) -> list[Product]:
    """The distinct kernels that adapters in slots of `rank` run on a base of `shape`."""
    sizes = shape.linear_shapes()
    found: dict[tuple[Any, ...], Product] = {}
    for group in INPUT_GROUPS:
        outers = tuple(sizes[module][1] for module in group)
        inner = sizes[group[0]][0]
        for product in (
            Product("shrink", inner, (rank,) * len(group), shape.num_hidden_layers),
            Product("expand", rank, outers, shape.num_hidden_layers),
        ):
            same = found.get((product.kind, *product.key))
            layers = product.layers + (same.layers if same else 0)
            found[product.kind, *product.key] = Product(product.kind, product.inner, product.outers, layers)
    return list(found.values())


def candidates(product: Product, rows: int) -> list[dict[str, int | None]]:
    """Settings worth trying. Blocks are no larger than what they cut, and every split of k has something to sum."""
    heights = (16, 32, 64, 128) if rows >= 256 else (16, 32)
    if product.kind == "shrink":
        return [
            _settings(height, width, depth, split_k=split, group_size_m=8, num_stages=2 if depth == 256 else 3)
            for height in heights[:3]
            for width in (16, 32)
            if width <= _block(max(product.outers))
            for depth in (64, 128, 256)
            for split in (1, 2, 4, 5, 8, 16)
            if depth * split <= product.inner and (split != 5 or product.inner % (depth * split) == 0)
        ]
    return [
        _settings(height, width, min(32, _block(product.inner)), num_stages=2, num_warps=warps)
        for height in heights
        for width in (32, 64, 128, 256)
        if width <= _block(max(product.outers))
        for warps in (2, 4, 8)
    ]


def _settings(height: int, width: int, depth: int, **more: int) -> dict[str, int | None]:
    blocks = {"block_m": height, "block_n": width, "block_k": depth}
    return {**blocks, "num_warps": 4, "num_ctas": 1, **more, "max_nreg": None}


def _block(size: int) -> int:
    """The smallest block that covers `size`."""
    return max(SMALLEST_BLOCK, 1 << (size - 1).bit_length())


@dataclass(frozen=True)
class Timing:
    """One kernel launch with given settings, measured several times: microseconds."""

    settings: Settings
    us: tuple[float, ...]

    @property
    def middle_us(self) -> float:
        """Median."""
        return median(self.us)

    @property
    def spread_us(self) -> float:
        """Largest less smallest."""
        return max(self.us) - min(self.us)


def choose(default: Timing, others: Sequence[Timing]) -> Timing:
    """The fastest of `others` that beats `default` by more than either of the two was seen to vary, else `default`."""
    better = [
        other for other in others if default.middle_us - other.middle_us > max(default.spread_us, other.spread_us)
    ]
    return min(better, key=lambda timing: timing.middle_us, default=default)


@dataclass(frozen=True)
class Choice:
    """What was found for one product, number of slots and number of rows."""

    product: Product
    max_loras: int
    rows: int
    default: Timing
    chosen: Timing
    tried: int = 0
    """Candidates that ran and agreed with the default."""
    refused: int = 0
    """Candidates that did not compile, or whose result was another."""


def device_name(gpu: str) -> str:
    """A GPU's name as vLLM writes it in file names."""
    return gpu.replace(" ", "_").replace("-", "_")


def file_name(gpu: str, kind: Kind) -> str:
    """The file in which vLLM looks for a kernel's settings.

    It has a second file for expand kernels that write instead of add; only VLLM_LORA_ENABLE_DUAL_STREAM asks for it.
    """
    return f"{device_name(gpu)}_{kind.upper()}{'_TRUE' if kind == 'expand' else ''}.json"


def tree(choices: Iterable[Choice], kind: Kind) -> dict[str, Any]:
    """What stands in that file: `[max_loras + 1][slices][rows][k][n]`, keys as text."""
    found: dict[str, Any] = {}
    for choice in sorted(choices, key=lambda choice: (choice.max_loras, choice.product.slices, choice.rows)):
        if choice.product.kind == kind:
            slices, k, n = choice.product.key
            by_rows = found.setdefault(str(choice.max_loras + 1), {}).setdefault(slices, {})
            by_rows.setdefault(str(choice.rows), {}).setdefault(k, {})[n] = dict(choice.chosen.settings)
    return found


def forward_us(choices: Iterable[Choice]) -> dict[tuple[int, int], tuple[float, float]]:
    """(slots, rows) -> microseconds of all LoRA kernels in a forward pass: with vLLM's settings, with those chosen."""
    sums: dict[tuple[int, int], tuple[float, float]] = {}
    for choice in choices:
        before, after = sums.get((choice.max_loras, choice.rows), (0.0, 0.0))
        layers = choice.product.layers
        sums[choice.max_loras, choice.rows] = (
            before + layers * choice.default.middle_us,
            after + layers * choice.chosen.middle_us,
        )
    return dict(sorted(sums.items()))
