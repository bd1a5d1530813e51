"""Times vLLM's LoRA kernels on this machine's GPU, and compares what they compute; the inputs are random.

A launch is timed inside a CUDA graph, as vLLM replays it. The graph goes over several copies of the weights, more than
the GPU's cache holds: in a forward pass every layer's adapters come from memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from types import ModuleType
from typing import Any

from fgpipe.serving.kernels import Choice, Product, Settings, Timing, candidates, choose

ROUNDS = 7
"""Measurements of the default and of each finalist, in turns."""

FINALISTS = 3

COLD_BYTES = 128 * 2**20
"""Of weights that a graph goes over: twice the cache of a large GPU (H200: 50 MiB)."""

MOST_COPIES = 96
"""Launches in a graph; of narrow layers with few slots, even so many stay in the cache."""

TIMED_US = 4000
"""A measurement replays the graph until about this has gone by."""

BASE_ROWS = 0.1
"""Share of rows that belong to no adapter: their results must stay as they are."""

SHRINK_TOLERANCE = 1e-4
"""Of the largest result. Float32 sums of the same bfloat16 products in another order differ by about 1e-6 of it."""

EXPAND_TOLERANCE = 2**-7
"""Of each result: two steps of bfloat16, in which it is rounded once."""

Capture = Callable[[Sequence[Callable[[], None]]], Callable[[], float]]
"""Takes calls, gives a function that runs them all and says how many microseconds one took."""


@dataclass
class Kernels:
    """vLLM's kernels, whose look-up of settings is replaced while something else is tried."""

    shrink: ModuleType
    expand: ModuleType
    utils: ModuleType
    metadata: Any

    def use(self, product: Product, settings: Settings | None) -> None:
        """Launch with `settings` from now on; None: with vLLM's own."""
        lookup = self.utils.get_lora_op_configs if settings is None else lambda *_, **__: dict(settings)
        module: Any = self.shrink if product.kind == "shrink" else self.expand
        module.get_lora_op_configs = lookup

    def default(self, product: Product, max_loras: int, rows: int) -> dict[str, int | None]:
        """VLLM's own settings."""
        found: dict[str, int | None] = self.utils.get_lora_op_configs(
            product.kind,
            max_loras=max_loras + 1,
            batch=rows,
            hidden_size=product.inner if product.kind == "shrink" else max(product.outers),
            rank=product.outers[0] if product.kind == "shrink" else product.inner,
            num_slices=product.slices,
            add_inputs=None if product.kind == "shrink" else True,
        )
        return found


def load() -> Kernels:
    """Import them; takes seconds. The environment must not name a folder of settings, or they would be the default."""
    from vllm.lora.ops.triton_ops import lora_expand_op, lora_shrink_op, utils
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

    return Kernels(lora_shrink_op, lora_expand_op, utils, LoRAKernelMeta)


class Case:
    """One product with random inputs: `calls` for every copy of the weights, and what they compute."""

    def __init__(self, kernels: Kernels, product: Product, *, max_loras: int, rows: int, device: str = "cuda") -> None:
        import torch

        self.kernels, self.product = kernels, product
        # vLLM remembers tables of pointers by address, and addresses are used again.
        kernels.utils._LORA_A_PTR_DICT.clear()
        kernels.utils._LORA_B_PTR_DICT.clear()
        make: dict[str, Any] = {"device": device, "generator": torch.Generator(device).manual_seed(rows)}
        half = {**make, "dtype": torch.bfloat16}
        adapters = torch.randint(0, max_loras, (rows,), dtype=torch.int32, **make)
        if rows > 1:
            adapters[torch.rand(rows, **make) < BASE_ROWS] = -1
            adapters[0] = 0
        meta = kernels.metadata.make(max_loras, rows, device)
        meta.prepare_tensors(adapters)
        self.words = meta.meta_args(rows, False)
        copies = min(MOST_COPIES, ceil(COLD_BYTES / (2 * max_loras * product.inner * sum(product.outers))))
        sizes = [(max_loras, 1, outer, product.inner) for outer in product.outers]
        self.weights = [tuple(torch.randn(*size, **half) for size in sizes) for _ in range(copies)]
        if product.kind == "shrink":
            self.inputs = torch.randn(rows, product.inner, **half)
            self.start = torch.zeros(product.slices, rows, product.outers[0], device=device)
        else:
            self.inputs = torch.randn(product.slices, rows, product.inner, **make)
            self.start = torch.randn(rows, sum(product.outers), **half)
        self.output = self.start.clone()
        kernels.use(product, None)
        for call in self.calls():  # makes vLLM's tables of pointers, so that a graph holds nothing but launches
            call()

    def call(self, copy: int) -> None:
        """Launch once, with what `kernels` is set to use."""
        weights = self.weights[copy]
        if self.product.kind == "shrink":
            self.kernels.shrink._lora_shrink(self.inputs, weights, self.output, *self.words, 1.0)
        else:
            self.kernels.expand._lora_expand(
                self.inputs, weights, self.output, *self.words, offset_start=0, add_inputs=True
            )

    def calls(self) -> list[Callable[[], None]]:
        """A launch for each copy."""

        def launch(copy: int) -> Callable[[], None]:
            return lambda: self.call(copy)

        return [launch(copy) for copy in range(len(self.weights))]

    def result(self, settings: Settings | None) -> Any:
        """What the kernel computes with `settings` on the first copy."""
        self.kernels.use(self.product, settings)
        self.output.copy_(self.start)
        self.call(0)
        return self.output.clone()

    def agrees(self, result: Any, expected: Any) -> bool:
        """Whether two results are equal within the stated tolerance."""
        import torch

        if not torch.isfinite(result).all():
            return False
        result, expected = result.float(), expected.float()
        difference = (result - expected).abs()
        if self.product.kind == "shrink":
            return bool(difference.max() <= SHRINK_TOLERANCE * expected.abs().max())
        # Where the sum nearly cancels, a step is one of the larger of the two that were added.
        size = torch.maximum(expected.abs(), (expected - self.start.float()).abs())
        return bool((difference <= EXPAND_TOLERANCE * size + 1e-6).all())


def capture_graph(calls: Sequence[Callable[[], None]]) -> Callable[[], float]:
    """A CUDA graph of `calls`; the function replays it and gives microseconds a call."""
    import torch

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replay(times: int) -> float:
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1000 / times / len(calls)

    graph.replay()
    replay(1)
    times = max(1, min(200, round(TIMED_US / max(1.0, replay(2) * len(calls)))))
    return lambda: replay(times)


def search(
    kernels: Kernels,
    product: Product,
    *,
    max_loras: int,
    rows: int,
    until: float,
    capture: Capture = capture_graph,
    device: str = "cuda",
) -> Choice | None:
    """Find the best settings for one product and number of rows; None if `until` (`time.monotonic`) comes first."""
    from triton.errors import TritonError

    case = Case(kernels, product, max_loras=max_loras, rows=rows, device=device)
    default = kernels.default(product, max_loras, rows)
    expected = case.result(None)
    found: list[tuple[float, dict[str, int | None]]] = []
    refused = 0
    wanted = candidates(product, rows)
    for settings in wanted:
        if time.monotonic() > until:
            return None
        timed = None
        with suppress(TritonError):  # it does not compile, or asks for more of the chip than there is
            if case.agrees(case.result(settings), expected):
                timed = capture(case.calls())
        if timed is None:
            refused += 1
        else:
            found.append((timed(), settings))
    best = [settings for _, settings in sorted(found, key=lambda entry: entry[0])[:FINALISTS]]
    timings = _in_turns(case, [default, *best], capture)
    kernels.use(product, None)
    return Choice(product, max_loras, rows, timings[0], choose(timings[0], timings[1:]), len(found), refused)


def _in_turns(case: Case, finalists: Sequence[Settings], capture: Capture) -> list[Timing]:
    """Measure all of `finalists` in turns, in an order that turns round."""
    timed = []
    for settings in finalists:
        case.kernels.use(case.product, settings)
        timed.append(capture(case.calls()))
    measured: list[list[float]] = [[] for _ in finalists]
    for number in range(ROUNDS):
        places = range(len(finalists))
        for place in places if number % 2 else reversed(places):
            measured[place].append(timed[place]())
    return [Timing(settings, tuple(us)) for settings, us in zip(finalists, measured, strict=True)]
