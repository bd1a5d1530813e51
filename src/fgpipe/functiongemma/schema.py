"""Tool schemas as people write them, turned into ones the format can show in full, and what it still cannot show."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fgpipe.errors import FormatError
from fgpipe.functiongemma.python_types import read_type
from fgpipe.functiongemma.schema_issues import Notes, SchemaIssue
from fgpipe.functiongemma.schema_nodes import normalise_node, without_nulls
from fgpipe.functiongemma.values import function_name, kind, unfit

__all__ = ["SchemaIssue", "lint", "normalise"]


def normalise(tools: Sequence[Any] | None) -> tuple[list[dict[str, Any]], list[SchemaIssue]]:
    """`tools` as plain JSON schema that the format shows without loss where it can, and every issue found.

    Mended: Python type names, type lists with null, missing types, `anyOf` with null, local `$ref`, flat parameter
    maps, bare functions, null fillers, enums on the wrong type. Reported and left: reserved property names, real
    alternatives, recursive references, keywords the format has no place for. `tools` itself is not changed, and
    normalising twice changes nothing more.

    Raises:
        FormatError: a tool is no object, or its schema is nested endlessly.
    """
    issues: list[SchemaIssue] = []
    try:
        return [_tool(tool, f"tools[{index}]", issues) for index, tool in enumerate(tools or ())], issues
    except RecursionError as error:
        raise unfit("tools", "endless nesting", "schemas of few levels", "flatten the schema") from error


def lint(tools: Sequence[Any] | None) -> list[SchemaIssue]:
    """Everything in `tools` that the format cannot show as written; `repaired` tells what `normalise` mends.

    Raises:
        FormatError: as `normalise`.
    """
    return normalise(tools)[1]


def _tool(tool: object, path: str, issues: list[SchemaIssue]) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise unfit(path, kind(tool), "a tool object", 'as in {"type": "function", "function": {"name": ...}}')
    notes = Notes(issues, {})
    result = dict(tool)
    if not isinstance(result.get("function"), Mapping):
        notes.repaired(path, "a bare function", 'write {"type": "function", "function": {...}}')
        result = {"function": {key: tool[key] for key in tool if key not in ("type", "function")}}
    elif result.get("type") != "function":
        notes.repaired(f"{path}.type", "not 'function'", 'write "type": "function"')
    function = without_nulls(result.pop("function"), f"{path}.function", notes)
    try:
        function_name(function.get("name"), f"{path}.function.name")
    except FormatError as error:
        notes.left(f"{path}.function.name", error.message, error.hint)
    parameters = function.pop("parameters", None)
    result = copy.deepcopy({**result, "type": "function", "function": function})
    if parameters is not None:
        result["function"]["parameters"] = _parameters(parameters, f"{path}.function.parameters", issues)
    return result


def _parameters(parameters: object, path: str, issues: list[SchemaIssue]) -> Any:
    if not isinstance(parameters, Mapping):
        hint = 'give a JSON schema: {"type": "object", "properties": {...}}'
        issues.append(SchemaIssue(path, f"{kind(parameters)} for a schema", False, hint))
        return copy.deepcopy(parameters)
    notes = Notes(issues, parameters)
    parameters = without_nulls(parameters, path, notes)
    if not parameters:
        return {}
    if _is_flat(parameters):
        notes.repaired(path, "a flat map of parameters", 'write {"type": "object", "properties": {...}}')
        parameters = _from_flat(_without_definitions(parameters))
    result = normalise_node(parameters, path, notes, default_type="object")
    shown = _without_definitions(result)
    return result if _mentions_reference(shown) else shown


def _is_flat(parameters: Mapping[str, Any]) -> bool:
    """Whether `parameters` maps names straight to parameters; any of them may itself be called `type`."""
    entries = _without_definitions(parameters)
    if isinstance(entries.get("type"), str):
        return len(entries) > 1 and entries["type"] != "object" and all(map(_is_type_name, entries.values()))
    properties = entries.get("properties")
    if isinstance(properties, Mapping) and all(isinstance(schema, Mapping) for schema in properties.values()):
        return False
    if any(str(key).startswith("$") or key in ("anyOf", "oneOf", "allOf") for key in entries):
        return False
    return bool(entries) and all(isinstance(value, Mapping) or _is_type_name(value) for value in entries.values())


def _without_definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}


def _is_type_name(value: object) -> bool:
    return isinstance(value, str) and read_type(value) is not None


def _from_flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: {"type": value} if isinstance(value, str) else value for name, value in parameters.items()}
    required = [name for name, schema in properties.items() if not _is_optional(schema)]
    stripped = {
        name: {key: value for key, value in schema.items() if key != "required" or not isinstance(value, bool)}
        for name, schema in properties.items()
    }
    return {"type": "object", "properties": stripped, **({"required": required} if required else {})}


def _is_optional(schema: Mapping[str, Any]) -> bool:
    if isinstance(schema.get("required"), bool):
        return not schema["required"]
    reading = read_type(schema["type"]) if isinstance(schema.get("type"), str) else None
    return "default" in schema or (reading is not None and reading.optional)


def _mentions_reference(value: object) -> bool:
    if isinstance(value, Mapping):
        return "$ref" in value or any(map(_mentions_reference, value.values()))
    return isinstance(value, list) and any(map(_mentions_reference, value))
