"""How each kind of file is read: rows as they stand in it, each with the place it came from.

JSONL and JSON never pass through Arrow: merging the rows' schemas there fills missing keys with None and turns dates
into timestamps, and a model trained on that learns phantom arguments.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fgpipe.errors import DataError


@dataclass(frozen=True)
class SourceRow:
    """One row, unconverted; `place` is what an error message calls it, such as `rows.jsonl:12`."""

    place: str
    value: dict[str, Any]


def suffix(name: str) -> str:
    """The lower-case ending of a file name, with its dot."""
    return Path(name).suffix.lower()


def known_files() -> str:
    """The kinds of file that can be read, for messages."""
    return ", ".join(READERS)


def reader_of(name: str) -> Callable[[Path, str], Iterator[SourceRow]]:
    """The function that reads files named like `name`."""
    if suffix(name) not in READERS:
        raise DataError(f"{name}: got a {suffix(name) or 'suffixless'} file, expected {known_files()}")
    return READERS[suffix(name)]


def read_file(path: Path, name: str) -> Iterator[SourceRow]:
    """The rows of one file; errors call it `name`."""
    try:
        yield from reader_of(name)(path, name)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: got bytes that are not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from error


def decode_json(text: str, place: str) -> Any:
    """The value of JSON `text`.

    Raises:
        DataError: it is not JSON, or holds a number that JSON cannot: NaN, an infinity, 1e999.
    """
    try:
        return json.loads(text, parse_constant=refuse_number, parse_float=finite)
    except RecursionError as error:
        raise DataError(f"{place}: got JSON nested too deeply to read") from error
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise DataError(f"{place}: got invalid JSON ({error.msg} at {where}), expected a JSON value") from error
    except ValueError as error:
        raise DataError(f"{place}: got invalid JSON ({error}), expected a JSON value") from error


def finite(text: str) -> float:
    """The number `text`, unless it is too large for one."""
    number = float(text)
    return number if math.isfinite(number) else refuse_number(text)


def refuse_number(text: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python would read and could not write again."""
    raise ValueError(f"{text} is not a JSON number")


def row_at(value: Any, place: str) -> SourceRow:
    """`value` as a row, if it is an object."""
    if not isinstance(value, dict):
        raise DataError(f"{place}: got {type(value).__name__}, expected an object with `messages` and `tools`")
    return SourceRow(place, value)


def read_jsonl(path: Path, name: str) -> Iterator[SourceRow]:
    """One JSON object a line. Lines end at a line feed alone, since JSON text may hold U+2028 and the like."""
    with open(path, encoding="utf-8-sig", newline="\n") as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                place = f"{name}:{number}"
                yield row_at(decode_json(line, place), place)


def read_json(path: Path, name: str) -> Iterator[SourceRow]:
    """A list of objects; or one object a line, which many `.json` files on the hub hold."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("{") and is_json(text.lstrip().split("\n", 1)[0]):
        yield from read_jsonl(path, name)
        return
    value = decode_json(text, name)
    if not isinstance(value, list):
        raise DataError(f"{name}: got {type(value).__name__}, expected a list of rows")
    for number, element in enumerate(value, start=1):
        place = f"{name} row {number}"
        yield row_at(element, place)


def is_json(text: str) -> bool:
    """Whether `text` alone is a JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_csv(path: Path, name: str) -> Iterator[SourceRow]:
    """One row a record; cells stay text (a layout decodes those that hold JSON), empty cells are left out."""
    with open(path, encoding="utf-8-sig", newline="") as handle:
        yield from csv_rows(csv.reader(handle, strict=True), name)


def csv_rows(reader: Any, name: str) -> Iterator[SourceRow]:
    """Rows of a csv reader, checked for a header and equal widths."""
    # csv refuses cells over 128 KiB unless told; a conversation can be longer.
    before = csv.field_size_limit(sys.maxsize)
    try:
        header = next(reader, None)
        if not header or len(set(header)) < len(header):
            raise DataError(f"{name}:1: got {header or 'nothing'}, expected a header of distinct column names")
        for cells in reader:
            place = f"{name}:{reader.line_num}"
            if cells and len(cells) != len(header):
                hint = "quote cells that hold commas"
                raise DataError(f"{place}: got {len(cells)} cells, expected {len(header)}", hint=hint)
            if cells:
                yield SourceRow(place, {key: cell for key, cell in zip(header, cells, strict=True) if cell != ""})
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: got malformed CSV ({error})") from error
    finally:
        csv.field_size_limit(before)


def read_parquet(path: Path, name: str) -> Iterator[SourceRow]:
    """One row a record, with the None that Arrow filled in for missing keys taken out again."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                place = f"{name} row {number}"
                yield SourceRow(place, without_padding(value, place))
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def without_padding(value: Any, place: str, path: str = "") -> Any:
    """`value` without the keys of structs that hold None; a struct of Nones becomes {}, as it was before Arrow.

    A None inside a list stays: Arrow does not pad lists.

    Raises:
        DataError: a value has a type JSON lacks, such as the timestamp Arrow makes of date strings; names its path.
    """
    if isinstance(value, dict):
        start = f"{path}." if path else ""
        children = {key: without_padding(child, place, start + key) for key, child in value.items()}
        return {key: child for key, child in children.items() if child is not None}
    if isinstance(value, list):
        return [without_padding(child, place, f"{path}[{index}]") for index, child in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise DataError(
        f"{place}: {path}: got a {type(value).__name__} ({value}), expected text, a finite number or a boolean",
        hint="Arrow turns date strings into timestamps: use the dataset's JSONL, or store the column as JSON text",
    )


READERS: dict[str, Callable[[Path, str], Iterator[SourceRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""How each kind of file is read, by its ending."""
