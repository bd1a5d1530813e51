"""Python's way of naming types, as function-calling datasets write it, read as JSON schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JSON_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})

_NAMES = {
    **{name: name for name in JSON_TYPES},
    **dict.fromkeys(("str", "text", "char"), "string"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "double", "decimal"), "number"),
    "bool": "boolean",
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "sequence", "iterable", "arraylist"), "array"),
    **dict.fromkeys(("dict", "mapping", "hashmap"), "object"),
    **dict.fromkeys(("none", "nonetype"), "null"),
}
_ANY = frozenset({"any", "typing.any"})
_MAX_BRACKETS = 16


@dataclass(frozen=True)
class TypeReading:
    """What a type name says: a schema fragment (empty for any value), and whether the value may be left out."""

    schema: dict[str, Any]
    optional: bool = False


def read_type(text: str) -> TypeReading | None:
    """The meaning of `text`, such as `int`, `List[str]`, `str, optional`, `Optional[int]` or `int | None`.

    Returns:
        None when the name is unknown or stands for several types at once.
    """
    if text.count("[") > _MAX_BRACKETS:
        return None
    name, *qualifiers = _split(text, ",")
    if not all(qualifier.lower().startswith(("optional", "default", "required")) for qualifier in qualifiers):
        return None
    schema = _schema(name)
    if schema is None:
        return None
    optional = any(qualifier.lower().startswith(("optional", "default")) for qualifier in qualifiers)
    return TypeReading(schema, optional or name.removeprefix("typing.").startswith("Optional["))


def _schema(text: str) -> dict[str, Any] | None:
    text = text.strip().removeprefix("typing.")
    alternatives = _split(text, "|")
    if len(alternatives) > 1:
        return _union(alternatives)
    head, bracket, rest = text.partition("[")
    if not bracket:
        return _named(head)
    if not rest.endswith("]"):
        return None
    return _generic(head.strip().lower(), _split(rest[:-1], ","))


def _named(name: str) -> dict[str, Any] | None:
    name = name.strip().lower()
    if name in _ANY:
        return {}
    return {"type": _NAMES[name]} if name in _NAMES else None


def _generic(head: str, arguments: list[str]) -> dict[str, Any] | None:
    if head == "optional" and len(arguments) == 1:
        return _union([*arguments, "None"])
    if head == "union":
        return _union(arguments)
    if head == "literal":
        values = [name[1:-1] for name in arguments if len(name) > 1 and name[0] in "'\"" and name[-1] == name[0]]
        return {"type": "string", "enum": values} if values and len(values) == len(arguments) else None
    outer = _named(head)
    if outer == {"type": "array"}:
        inner = [_schema(argument) for argument in arguments if argument != "..."]
        same = bool(inner) and all(schema == inner[0] for schema in inner)
        return None if None in inner else outer | ({"items": inner[0]} if same and inner[0] else {})
    if outer == {"type": "object"} and len(arguments) == 2:
        entry = _schema(arguments[1])
        return None if entry is None else outer | ({"additionalProperties": entry} if entry else {})
    return None


def _union(alternatives: list[str]) -> dict[str, Any] | None:
    schemas = [_schema(alternative) for alternative in alternatives]
    if None in schemas:
        return None
    values = [schema for schema in schemas if schema is not None and schema != {"type": "null"}]
    nullable = {"nullable": True} if len(values) < len(schemas) else {}
    if not values or any(schema != values[0] for schema in values):
        return None
    return values[0] | nullable


def _split(text: str, separator: str) -> list[str]:
    """Parts of `text` between the separators that stand outside brackets, without surrounding spaces."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
