"""Tensors of a safetensors file, read with numpy alone: bfloat16 too, which numpy does not know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

FLOATING = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""Floating types PEFT writes, by safetensors' names, and how numpy reads their bytes."""

LARGEST_SERVED = 3.3895313892515355e38
"""Largest bfloat16; a finite float64 above it is infinite once the server has cast it."""


class DamagedFileErrorError(Exception):
    """The file is not whole or not safetensors; the text says how."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


def read_header(path: Path) -> dict[str, Tensor]:
    """Every tensor in `path` by name; no weight is read.

    Raises:
        DamagedFileErrorError: truncated, with holes, or not safetensors.
    """
    # The library the server uses decides whether the file is whole; only then is its header worth reading here.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy"):
            pass
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header: dict[str, Any] = json.loads(handle.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DamagedFileErrorError(" ".join(str(error).split()) or type(error).__name__) from error
    header.pop("__metadata__", None)
    return {
        name: Tensor(name, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def read_tensor(path: Path, tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """The values of a floating `tensor`, of its shape; sixteen-bit types come widened to float32."""
    import numpy

    flat = numpy.fromfile(path, dtype=FLOATING[tensor.dtype], count=tensor.size, offset=tensor.offset)
    if tensor.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        flat = (flat.astype(numpy.uint32) << 16).view(numpy.float32)
    elif tensor.dtype == "F16":
        flat = flat.astype(numpy.float32)
    return flat.reshape(tensor.shape)
