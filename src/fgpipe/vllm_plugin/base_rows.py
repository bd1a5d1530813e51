"""vLLM's CPU build answers the base by an adapter when all slots are taken; this mends it.

Rows of a batch that use no adapter have slot -1. vLLM's CPU kernels index the slots with it, which in torch is the last
one (https://github.com/vllm-project/vllm/pull/48421); while that slot is empty, nothing shows. Its GPU kernels skip
such rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Kernel = Callable[..., None]

KERNELS = {"sgmv_shrink": "bgmv_shrink", "sgmv_expand": "bgmv_expand", "sgmv_expand_slice": "bgmv_expand_slice"}
"""vLLM's kernels that are told a slot for each sequence -> those told one for each row."""


def mend() -> None:
    """Let rows without an adapter pass the CPU kernels untouched; calling it again changes nothing."""
    from vllm.lora.punica_wrapper import punica_cpu

    for by_sequence, by_row in KERNELS.items():
        kernel = getattr(punica_cpu, by_sequence)
        if not hasattr(kernel, "passes_base_rows"):
            setattr(punica_cpu, by_sequence, _passing_base_rows(kernel, getattr(punica_cpu, by_row)))


def _passing_base_rows(by_sequence: Kernel, by_row: Kernel) -> Kernel:
    def kernel(inputs: Any, weights: Any, output: Any, starts: Any, lengths: Any, slots: Any, *rest: Any) -> None:
        import torch

        slot_of_row = torch.repeat_interleave(slots, lengths)
        adapted = slot_of_row >= 0
        if bool(adapted.all()):
            by_sequence(inputs, weights, output, starts, lengths, slots, *rest)
            return
        _batches, _longest, _tokens, *options = rest
        part = output[adapted]
        by_row(inputs[adapted], weights, part, slot_of_row[adapted], *options)
        output[adapted] = part

    kernel.passes_base_rows = True  # type: ignore[attr-defined]
    return kernel
