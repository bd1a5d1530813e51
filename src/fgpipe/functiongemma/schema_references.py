"""`$ref` and alternatives inside a schema node, merged into it where one schema says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgpipe.functiongemma.schema_issues import Notes

_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
_NULL_TYPES = ("null", "NULL", "None", "NoneType")


def merge_references(node: dict[str, Any], path: str, notes: Notes) -> dict[str, Any]:
    """`node` with its reference and its only real alternative written into it; what cannot be is noted and left."""
    while True:
        merged = _merge_reference(node, path, notes) or _merge_alternatives(node, path, notes)
        if merged is None:
            return node
        node = merged


def _merge_reference(node: dict[str, Any], path: str, notes: Notes) -> dict[str, Any] | None:
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return None
    target = _target(reference, notes.root)
    if target is None:
        notes.left(f"{path}.$ref", f"{reference!r} leads nowhere", "write the schema in its place")
    elif _reaches(reference, reference, notes.root, set()):
        notes.left(f"{path}.$ref", f"{reference!r} contains itself", "write out as many levels as are needed")
    else:
        notes.repaired(f"{path}.$ref", f"a reference to {reference!r}", "write the schema in its place")
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return None


def _merge_alternatives(node: dict[str, Any], path: str, notes: Notes) -> dict[str, Any] | None:
    for key in _ALTERNATIVES:
        branches = node.get(key)
        if not isinstance(branches, list) or not all(isinstance(branch, Mapping) for branch in branches):
            continue
        rest = {name: value for name, value in node.items() if name != key}
        values = [branch for branch in branches if branch.get("type") not in _NULL_TYPES]
        nullable = {"nullable": True} if len(values) < len(branches) else {}
        if len(values) == 1 and (key != "allOf" or not nullable):
            notes.repaired(f"{path}.{key}", "one real alternative", "write its schema in place of the list")
            return {**values[0], **rest, **nullable}
        if key != "allOf" and len(values) > 1 and all(set(branch) == {"type"} for branch in values):
            types = [branch["type"] for branch in values]
            if "type" not in rest and all(isinstance(name, str) for name in types):
                notes.repaired(f"{path}.{key}", "alternatives that are types only", "write them as a list of types")
                return {**rest, **nullable, "type": types}
        notes.left(f"{path}.{key}", "alternatives, which the format drops", "choose one, or declare several functions")
    return None


def _target(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not reference.startswith("#/"):
        return None
    found: object = root
    for part in reference[2:].split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _reaches(start: str, goal: str, root: Mapping[str, Any], seen: set[str]) -> bool:
    """Whether the schema behind `start` refers to `goal`, directly or through other references."""
    for reference in _references(_target(start, root)):
        if reference == goal:
            return True
        if reference not in seen:
            seen.add(reference)
            if _reaches(reference, goal, root, seen):
                return True
    return False


def _references(value: object) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for entry in value.values() for reference in _references(entry)]
    return [reference for entry in value for reference in _references(entry)] if isinstance(value, list) else []
