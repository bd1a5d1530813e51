"""One schema node and those below it, normalised for the format; see `schema.normalise`."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from fgpipe.functiongemma.declaration import RESERVED_PROPERTY_NAMES
from fgpipe.functiongemma.python_types import JSON_TYPES, read_type
from fgpipe.functiongemma.schema_issues import Notes
from fgpipe.functiongemma.schema_references import merge_references
from fgpipe.functiongemma.values import KEY_STRUCTURE, kind

_SHOWN_KEYS = {"string": {"enum"}, "object": {"properties", "required"}, "array": {"items"}}
# Reported where they are read; the others the format drops without a word.
_HANDLED_KEYS = {"description", "type", "enum", "$ref", "$defs", "definitions", "anyOf", "oneOf", "allOf"}
# Null means something here; anywhere else it is a filler, usually Arrow's for a key that other rows have.
_MEANINGFUL_NULLS = {"default", "const", "example"}


def normalise_node(
    schema: Mapping[str, Any], path: str, notes: Notes, *, in_items: bool = False, default_type: str = ""
) -> dict[str, Any]:
    """`schema` and everything below it, normalised.

    Args:
        in_items: the node describes an array's elements, of which the format shows every key.
        default_type: the type when the node neither names nor implies one.
    """
    node = without_nulls(schema, path, notes)
    node = without_nulls(merge_references(node, path, notes), path, notes)
    node = _with_type(node, path, notes, default_type)
    node = _with_enum(node, path, notes, in_items=in_items)
    if node.get("type") == "object":
        node = _object(node, path, notes, in_items=in_items)
    elif node.get("type") == "array":
        node = _array(node, path, notes)
    if not in_items:
        _note_dropped_keys(node, path, notes)
    return copy.deepcopy(node)


def without_nulls(schema: Mapping[str, Any], path: str, notes: Notes) -> dict[str, Any]:
    """`schema` without keys that are null only because some table needed a value there."""
    fillers = [key for key, value in schema.items() if value is None and key not in _MEANINGFUL_NULLS]
    if fillers:
        notes.repaired(path, f"null for {', '.join(map(str, fillers))}", "leave the keys out")
    return {key: value for key, value in schema.items() if key not in fillers}


def _with_type(node: dict[str, Any], path: str, notes: Notes, default: str) -> dict[str, Any]:
    path, given = f"{path}.type", node.get("type")
    if not given:
        inferred = default or _inferred_type(node)
        if inferred:
            notes.repaired(path, "no type", f'write "type": "{inferred}"')
            return {**node, "type": inferred}
        if not any(key in node for key in ("$ref", "anyOf", "oneOf", "allOf")):
            notes.left(path, "no type", "say which type the value has")
        return node
    if isinstance(given, str) and given in JSON_TYPES:
        return node
    fragment = _read_types(given if isinstance(given, list) else [given])
    if not fragment:
        hint = f"write one of {', '.join(sorted(JSON_TYPES - {'null'}))}"
        notes.left(path, f"{json.dumps(given, default=repr)} for a type", hint)
        return node
    notes.repaired(path, f"{json.dumps(given)} for a type", f"write {json.dumps(fragment)}")
    return {**node, **{key: value for key, value in fragment.items() if key in ("type", "nullable") or key not in node}}


def _inferred_type(node: Mapping[str, Any]) -> str:
    if isinstance(node.get("properties"), Mapping):
        return "object"
    if "items" in node:
        return "array"
    values = node["enum"] if isinstance(node.get("enum"), list) else [node["const"]] if "const" in node else []
    kinds = {type(value) for value in values if value is not None}
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    if len(kinds) == 1:
        return names.get(kinds.pop(), "")
    return "number" if kinds == {int, float} else ""


def _read_types(given: list[Any]) -> dict[str, Any]:
    """The one schema fragment that all of `given` amount to; empty when there is none."""
    readings = [read_type(name) if isinstance(name, str) else None for name in given]
    fragments = [reading.schema for reading in readings if reading is not None and reading.schema]
    if len(fragments) != len(readings):
        return {}
    values = [fragment for fragment in fragments if fragment != {"type": "null"}]
    if all(fragment in ({"type": "integer"}, {"type": "number"}) for fragment in values) and len(values) > 1:
        values = [{"type": "number"}] if {"type": "number"} in values else values[:1]
    if not values or any(fragment != values[0] for fragment in values):
        return {}
    return values[0] | ({"nullable": True} if len(values) < len(fragments) and {"type": "null"} in fragments else {})


def _with_enum(node: dict[str, Any], path: str, notes: Notes, *, in_items: bool) -> dict[str, Any]:
    path = f"{path}.enum"
    if node.get("const") is not None and "enum" not in node:
        notes.repaired(path, "const", "write it as an enum of one value")
        node = {**{key: value for key, value in node.items() if key != "const"}, "enum": [node["const"]]}
    if "enum" not in node:
        return node
    values = node["enum"]
    if not isinstance(values, list) or not [value for value in values if value is not None]:
        notes.left(path, f"{kind(values) if values else 'nothing'} to choose from", "list the values, or drop the key")
        return node
    if None in values:
        notes.repaired(path, "null among the values", 'write "nullable": true')
        values = [value for value in values if value is not None]
        node = {**node, "enum": values, "nullable": True}
    wanted = [_as_type(value, node.get("type")) for value in values]
    if None in wanted:
        notes.left(path, f"values that are not of type {node.get('type')!r}", "make the values and the type agree")
        return node
    if [*map(repr, wanted)] != [*map(repr, values)]:
        notes.repaired(path, f"values that are not of type {node['type']!r}", f"write {json.dumps(wanted)}")
        node = {**node, "enum": wanted}
    return node if in_items or node["type"] == "string" else _with_values_described(node, path, notes)


def _as_type(value: object, wanted: object) -> object | None:
    """`value` as JSON type `wanted` if that keeps its meaning, else None."""
    if wanted == "string":
        scalar = isinstance(value, str | bool | int | float)
        return value if isinstance(value, str) else json.dumps(value) if scalar else None
    if wanted == "boolean":
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if wanted in ("integer", "number"):
        try:
            read = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return None
        return read if type(read) is int or (type(read) is float and wanted == "number") else None
    return None


def _with_values_described(node: dict[str, Any], path: str, notes: Notes) -> dict[str, Any]:
    """The values of an enum that the format does not show, told in the description instead."""
    if node["type"] == "boolean" and len(set(node["enum"])) == 2:
        return node
    sentence = f"One of: {', '.join(json.dumps(value) for value in node['enum'])}."
    description = str(node.get("description", ""))
    if description.endswith(sentence):
        return node
    notes.repaired(
        path, f"an enum on type {node['type']!r}, which the format drops", "tell the values in the description"
    )
    return {**node, "description": f"{description.rstrip()} {sentence}".lstrip()}


def _object(node: dict[str, Any], path: str, notes: Notes, *, in_items: bool) -> dict[str, Any]:
    properties = node.get("properties")
    if properties and not isinstance(properties, Mapping):
        notes.left(f"{path}.properties", f"{kind(properties)} for properties", "map each property's name to its schema")
        return node
    if not isinstance(properties, Mapping):
        if not in_items and set(node) - RESERVED_PROPERTY_NAMES - {"$defs", "definitions"}:
            notes.repaired(path, "an object without properties", 'write "properties": {}')
            return {**_with_required(node, {}, [], path, notes), "properties": {}}
        return _with_required(node, {}, [], path, notes)
    normalised: dict[str, Any] = {}
    flagged: list[str] = []
    for name, schema in properties.items():
        inner = f"{path}.properties.{name}"
        if schema is None:
            notes.repaired(inner, "null for a property", "leave the property out")
            continue
        _note_name(name, inner, notes)
        if isinstance(schema, Mapping) and isinstance(schema.get("required"), bool):
            notes.repaired(f"{inner}.required", "a boolean", "list the name in the object's own required")
            flagged += [name] if schema["required"] else []
            schema = {key: value for key, value in schema.items() if key != "required"}
        normalised[name] = _below(schema, inner, notes, in_items=False)
    return _with_required({**node, "properties": normalised}, normalised, flagged, path, notes)


def _note_name(name: object, path: str, notes: Notes) -> None:
    if name in RESERVED_PROPERTY_NAMES:
        hint = "rename it in tools, calls and whatever executes them: the format drops it from the declaration"
        notes.left(path, f"a property called {name!r}, which the format keeps for itself", hint)
    elif not isinstance(name, str) or any(character in name for character in KEY_STRUCTURE):
        notes.left(path, f"a property called {name!r}, which cannot be read back from a call", "rename it")


def _with_required(
    node: dict[str, Any], properties: Mapping[str, Any], flagged: list[str], path: str, notes: Notes
) -> dict[str, Any]:
    path, required = f"{path}.required", node.get("required", [])
    if isinstance(required, bool):
        notes.repaired(path, "a boolean", "list the names of the required properties")
        required = []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        notes.left(path, f"{json.dumps(required, default=repr)} for names", "list the names of the required properties")
        return node
    unknown = [name for name in required if name not in properties]
    if unknown:
        notes.left(path, f"{', '.join(unknown)} required but not declared", "declare the properties or drop the names")
    required = [*required, *(name for name in flagged if name not in required)]
    without = {key: value for key, value in node.items() if key != "required"}
    return {**without, "required": required} if required or node.get("required") == [] else without


def _array(node: dict[str, Any], path: str, notes: Notes) -> dict[str, Any]:
    items, path = node.get("items"), f"{path}.items"
    if isinstance(items, list) and any(items) and all(item == items[0] for item in items) and items[0] is not True:
        notes.repaired(path, "a list of equal schemas", "write the schema once")
        items = items[0]
    if not items or items is True:
        notes.left(path, "nothing said about the elements", 'say what they are, as in "items": {"type": "string"}')
        return node
    return {**node, "items": _below(items, path, notes, in_items=True)}


def _below(schema: object, path: str, notes: Notes, *, in_items: bool) -> Any:
    if isinstance(schema, str) and read_type(schema) is not None:
        notes.repaired(path, f"the type name {schema!r} for a schema", "write a schema object")
        schema = {"type": schema}
    if schema is True:
        notes.repaired(path, "true for a schema", "write a schema object")
        schema = {}
    if isinstance(schema, Mapping):
        return normalise_node(schema, path, notes, in_items=in_items)
    notes.left(path, f"{kind(schema)} for a schema", 'write a schema object, as in {"type": "string"}')
    return copy.deepcopy(schema)


def _note_dropped_keys(node: Mapping[str, Any], path: str, notes: Notes) -> None:
    shown = _SHOWN_KEYS.get(str(node.get("type")), set()) | _HANDLED_KEYS
    # False says what the format says anyway: nothing else is allowed, null is not.
    dropped = [str(key) for key, value in node.items() if key not in shown and value is not False]
    if dropped:
        hint = "the model never sees them: tell it in the description where it matters"
        notes.left(path, f"dropped by the format: {', '.join(dropped)}", hint)
