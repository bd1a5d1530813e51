"""docs/config.md: every setting with default, range and meaning, written from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fgpipe.config import Config, as_typed

HEAD = """# Configuration

Every setting, as typed on the command line (`key=value`) or nested in YAML. Written by `make docs` from
`src/fgpipe/config.py`, which is the only place for a default. Files under `conf/` change some of them:
`python -m fgpipe config task=sql model=tiny` prints what holds in the end. A rule between two settings is told when it
is broken.
"""

BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} of them"}
"""Constraints of pydantic's fields, as one reads them."""

TITLES = {"Config": "Of the whole run", "PlannedModel": "A file for `plan models=FILE`: a list under `models:`"}

NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def markdown() -> str:
    """The text of docs/config.md."""
    from fgpipe.planned_models import PlannedModel

    parts = [HEAD]
    for section, title, rows in [*_sections(Config, ""), *_sections(PlannedModel, "")]:
        parts.append(
            f"\n## {section}\n\n{title}\n\n| key | default | values | meaning |\n|---|---|---|---|\n" + "".join(rows)
        )
    return "".join(parts)


def _sections(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, list[str]]]:
    """(name, what it is, table rows) of the section and of those inside it."""
    rows, inner = [], []
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            inner.append((type(field.default), f"{prefix}{name}."))
        else:
            rows.append(_row(prefix + name, field))
    if rows:
        title = prefix.rstrip(".") or TITLES.get(section.__name__, section.__name__)
        yield title, (section.__doc__ or "").partition("\n")[0], rows
    for kind, place in inner:
        yield from _sections(kind, place)


def _row(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{typed}`" if (typed := as_typed(field.default)) else ""
    cells = (f"`{key}`", default, _values(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _values(field: FieldInfo) -> str:
    bounds = [text.format(value) for name, text in BOUNDS.items() if (value := _bound(field, name)) is not None]
    return ", ".join([_type(field.annotation), *bounds])


def _bound(field: FieldInfo, name: str) -> Any:
    return next((found for part in field.metadata if (found := getattr(part, name, None)) is not None), None)


def _type(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inside)
    if origin is tuple:
        return f"list of {_type(inside[0])}"
    if origin in (Union, UnionType):
        return " or ".join("`null`" if part is type(None) else _type(part) for part in inside)
    if origin is not None:  # Annotated
        return _type(inside[0])
    return NAMES.get(annotation, str(annotation))
