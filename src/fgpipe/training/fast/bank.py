"""The weights of several adapters with their gradients and Adam's moments, side by side on the device.

Adapters of lower rank are padded with zeros. What is padded has a gradient of zero and stays zero, so a narrow adapter
learns beside wide ones as it would alone. Heavy: imports torch; import it only to train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from fgpipe.config import INPUT_GROUPS, LoraConfig, ModelShape

BLOCK_OF = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)


@dataclass(frozen=True)
class Layout:
    """Where in an adapter's flat row of weights each matrix lies; all layers of the model are alike."""

    shape: ModelShape
    rank: int
    """Largest rank; lower ones are padded."""

    def matrices(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(module, "A" or "B") -> shape: A is (rank, in), B is (out, rank); in the order they lie in a layer."""
        linear = self.shape.linear_shapes()
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for group in INPUT_GROUPS:
            found |= {(module, "A"): (self.rank, linear[module][0]) for module in group}
            found |= {(module, "B"): (linear[module][1], self.rank) for module in group}
        return found

    def split_sizes(self) -> list[int]:
        """Cuts a layer's weights into one A a group and one B a module: A, B, B, B, A, B, A, B, B, A, B."""
        sizes = []
        for group in INPUT_GROUPS:
            shapes = [self.matrices()[module, kind] for kind in "AB" for module in group]
            sizes.append(sum(rows * columns for rows, columns in shapes[: len(group)]))
            sizes += [rows * columns for rows, columns in shapes[len(group) :]]
        return sizes

    def layer_size(self) -> int:
        """Weights of one adapter in one layer, padding included."""
        return sum(rows * columns for rows, columns in self.matrices().values())

    def size(self) -> int:
        """Weights of one adapter, padding included."""
        return self.shape.num_hidden_layers * self.layer_size()

    def views(self, flat: Tensor, rank: int) -> dict[str, Tensor]:
        """PEFT's name of each matrix -> its part of `flat` (size,) at `rank`, sharing memory."""
        found, start, matrices = {}, 0, self.matrices()
        for layer in range(self.shape.num_hidden_layers):
            for (module, kind), (rows, columns) in matrices.items():
                matrix = flat[start : start + rows * columns].view(rows, columns)
                start += rows * columns
                found[_name(layer, module, kind)] = matrix[:rank] if kind == "A" else matrix[:, :rank]
        return found


def _name(layer: int, module: str, kind: str) -> str:
    """PEFT's, of A or B."""
    return f"base_model.model.model.layers.{layer}.{BLOCK_OF[module]}.{module}.lora_{kind}.weight"


class Bank:
    """`slots` adapters on `device`. Values, gradients and moments are (slots, layout.size()) in float32."""

    def __init__(self, layout: Layout, slots: int, device: torch.device | str) -> None:
        self.layout = layout
        self.slots = slots
        self.values, self.gradients, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(slots, layout.size(), device=device) for _ in range(4)
        )
        self.scales = torch.zeros(slots, device=device)
        size = layout.layer_size()
        starts = range(0, layout.size(), size)
        self.leaves = [self.values[:, start : start + size].detach().requires_grad_() for start in starts]
        """(slots, layer size) each, sharing memory with `values`."""
        self.leaf_gradients = [self.gradients[:, start : start + size] for start in starts]

    def clear(self, slot: int) -> None:
        """Leave nothing of the adapter in a slot."""
        for flat in (self.values, self.gradients, self.exp_avg, self.exp_avg_sq):
            flat[slot].zero_()

    def seat(self, slot: int, state: Mapping[str, Tensor], lora: LoraConfig) -> None:
        """Put an adapter into a slot: `state` as `initial_state` or `state` returns it."""
        self.clear(slot)
        for prefix, flat in self._kept().items():
            for name, matrix in self.layout.views(flat[slot], lora.r).items():
                if f"{prefix}{name}" in state:
                    matrix.copy_(state[f"{prefix}{name}"])
        self.scales[slot] = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)

    def copy(self, slot: int) -> Copy:
        """Weights and moments of a slot as they are now, on their way to the CPU; it does not wait for the device."""
        kept = self._kept()
        return Copy(self.layout, tuple(kept), fetch([flat[slot] for flat in kept.values()]))

    def state(self, slot: int, lora: LoraConfig) -> dict[str, Tensor]:
        """Weights and moments of a slot, on the CPU: all that another bank needs to go on."""
        return self.copy(slot).state(lora)

    def _kept(self) -> dict[str, Tensor]:
        return {"": self.values, "exp_avg.": self.exp_avg, "exp_avg_sq.": self.exp_avg_sq}


@dataclass(frozen=True)
class Copy:
    """What a slot held at one moment."""

    layout: Layout
    prefixes: tuple[str, ...]
    """What stands before the names of each row of `flats`."""
    flats: Fetched
    """(len(prefixes), layout.size())"""

    def state(self, lora: LoraConfig) -> dict[str, Tensor]:
        """The matrices by PEFT's names; waits until they are there."""
        return {
            f"{prefix}{name}": matrix.contiguous()
            for prefix, flat in zip(self.prefixes, self.flats.read(), strict=True)
            for name, matrix in self.layout.views(flat, lora.r).items()
            if name.split(".")[-3] in lora.target_modules
        }


@dataclass(frozen=True)
class Fetched:
    """A tensor on its way to the CPU."""

    values: Tensor
    arrived: torch.cuda.Event | None
    """When `values` is all there; None: it is."""

    def read(self) -> Tensor:
        """The tensor; waits until it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values


def fetch(rows: Sequence[Tensor]) -> Fetched:
    """Float32 tensors of one shape, one on the other, as they are now; it does not wait for the device."""
    on_gpu = rows[0].is_cuda
    values = _on_the_host(len(rows), *rows[0].shape, pinned=on_gpu)
    for value, row in zip(values, rows, strict=True):
        value.copy_(row, non_blocking=True)
    return Fetched(values, recorded_event() if on_gpu else None)


def _on_the_host(*size: int, pinned: bool) -> Tensor:
    """An empty float32 tensor, in pinned memory if it may have some: a copy to other memory waits for the device."""
    try:
        return torch.empty(size, pin_memory=pinned)
    except RuntimeError:  # under WSL and in containers there may be little of it
        return torch.empty(size)


def recorded_event() -> torch.cuda.Event:
    """An event that is over once the device has done all it was given until now."""
    event = torch.cuda.Event()
    event.record()
    return event


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's weights alone, by PEFT's names."""
    return {name: matrix for name, matrix in state.items() if not name.startswith("exp_avg")}


def initial_state(shape: ModelShape, lora: LoraConfig, *, seed: int) -> dict[str, Tensor]:
    """An untrained adapter, the same that PEFT draws from `seed`: B is zero, A uniform.

    PEFT makes two `nn.Linear` a module, which draw their own weights, and then draws A again.
    """
    source = torch.Generator().manual_seed(seed)
    linear = shape.linear_shapes()
    state: dict[str, Tensor] = {}
    for layer in range(shape.num_hidden_layers):
        for module in (module for module in BLOCK_OF if module in lora.target_modules):
            inputs, outputs = linear[module]
            a, b = torch.empty(lora.r, inputs), torch.empty(outputs, lora.r)
            for matrix in (a, b, a):
                torch.nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=source)
            state |= {_name(layer, module, "A"): a, _name(layer, module, "B"): torch.zeros(outputs, lora.r)}
    return state
