"""Tensors of a safetensors file, read with numpy alone: bfloat16 too, which numpy does not know."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

FLOATING = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""Floating types PEFT writes, by safetensors' names, and how numpy reads their bytes."""

LARGEST_SERVED = 3.3895313892515355e38
"""Largest bfloat16; a finite float64 above it is infinite once the server has cast it."""

SMALLEST_SERVED = 2.0**-133
"""Smallest bfloat16 above zero; what is smaller is zero once the server has cast it."""

LARGEST_HEADER_BYTES = 16 << 20
"""A header has about 150 bytes a tensor; one that is larger than this was made to keep the reader busy."""

GIT_LFS = b"version https://git-lfs"


class DamagedFileError(Exception):
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
        DamagedFileError: truncated, with holes, or not safetensors.
    """
    # The library the server uses decides whether the file is whole; only then is its header worth reading here.
    from safetensors import SafetensorError, safe_open

    try:
        header = _header_text(path)
        with safe_open(str(path), framework="numpy"):
            pass
        entries: dict[str, Any] = json.loads(header, object_pairs_hook=_without_repeats)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(" ".join(str(error).split()) or type(error).__name__) from error
    entries.pop("__metadata__", None)
    return {
        name: Tensor(name, entry["dtype"], tuple(entry["shape"]), 8 + len(header) + entry["data_offsets"][0])
        for name, entry in entries.items()
    }


def _header_text(path: Path) -> bytes:
    with open(path, "rb") as handle:
        start = handle.read(8)
        if start and GIT_LFS.startswith(start):
            raise DamagedFileError("got a Git LFS pointer, expected the weights: git lfs pull")
        length, size = int.from_bytes(start, "little"), os.fstat(handle.fileno()).st_size
        if 8 + length > size:
            raise DamagedFileError(f"got {size} bytes, expected a header of {length} bytes and the weights")
        if length > LARGEST_HEADER_BYTES:
            raise DamagedFileError(f"got a header of {length} bytes, expected at most {LARGEST_HEADER_BYTES}")
        return handle.read(length)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise DamagedFileError("got a name twice in the header, expected each once")
    return dict(pairs)


def read_tensor(path: Path, tensor: Tensor) -> Array:
    """The values of a floating `tensor`, of its shape; sixteen-bit types come widened to float32.

    Raises:
        DamagedFileError: the file was cut since its header was read.
    """
    import numpy

    raw = numpy.fromfile(path, dtype=FLOATING[tensor.dtype], count=tensor.size, offset=tensor.offset)
    if raw.size != tensor.size:
        raise DamagedFileError(f"{tensor.name}: got {raw.size} values, expected {tensor.size}")
    return _widened(raw, tensor.dtype).reshape(tensor.shape)


def rounded(values: Array, dtype: str) -> Array:
    """`values` as they would come back from a file of type `dtype`."""
    return _widened(_narrowed(values, dtype), dtype)


def write_tensors(path: Path, arrays: Mapping[str, tuple[str, Array]]) -> None:
    """Write a safetensors file of name -> (type, values), each rounded to the nearest number of its type."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    narrowed = {name: _narrowed(values, dtype) for name, (dtype, values) in arrays.items()}
    # Wide types first, so that every tensor begins at a multiple of its size.
    order = sorted(arrays, key=lambda name: (-narrowed[name].itemsize, name))
    end = 0
    for name in order:
        start, end = end, end + narrowed[name].nbytes
        header[name] = {"dtype": arrays[name][0], "shape": narrowed[name].shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            handle.write(narrowed[name].tobytes())


def _widened(raw: Array, dtype: str) -> Array:
    """Numbers as they lie in the file -> float32, or float64 for that type."""
    import numpy

    if dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        return (raw.astype(numpy.uint32) << 16).view(numpy.float32)
    return raw.astype(numpy.float32) if dtype == "F16" else raw


def _narrowed(values: Array, dtype: str) -> Array:
    """The nearest numbers of type `dtype`, ties to even, as they lie in the file; what is too large is infinite."""
    import numpy

    with numpy.errstate(over="ignore", under="ignore"):
        if dtype != "BF16":
            return numpy.ascontiguousarray(values, dtype=FLOATING[dtype])
        bits = numpy.ascontiguousarray(values, dtype="<f4").view("<u4")
    upper: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return upper
