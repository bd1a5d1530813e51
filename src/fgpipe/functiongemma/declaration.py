"""Function declarations, written as FunctionGemma reads them in the developer turn.

The model's own template drops or damages some schemas without a word. Keys it merely leaves out (`default`, `minimum`,
`nullable`, an enum of a number...) are left out here too; whatever would make a property vanish or appear from nowhere
is refused. `schema.lint` reports both kinds, `schema.normalise` mends what it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.values import function_name, kind, quoted, sorted_items, unescaped, unfit, write_value

RESERVED_PROPERTY_NAMES = frozenset({"description", "type", "properties", "required", "nullable"})
"""Names the format keeps for itself: a property called so vanishes from the declaration."""


def render_declaration(tool: Mapping[str, Any]) -> str:
    """`tool` as the developer turn declares it, from `<start_function_declaration>` to its end token.

    Args:
        tool: `{"type": "function", "function": {"name", "description", "parameters": JSON schema}}`.

    Raises:
        FormatError: the declaration would lose or invent a property; paths start at `tool`.
    """
    return write_declaration(tool, "tool")


def write_declaration(tool: object, path: str) -> str:
    """A declaration at a known place of a tool list; see `render_declaration`."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        got = f"{kind(tool)} without a function object" if isinstance(tool, Mapping) else kind(tool)
        raise unfit(path, got, '{"type": "function", "function": {...}}', "schema.normalise wraps bare functions")
    path = f"{path}.function"
    name = function_name(function.get("name"), f"{path}.name")
    description = quoted(_text(function, "description"), f"{path}.description")
    try:
        parameters = _write_parameters(function.get("parameters"), f"{path}.parameters")
    except RecursionError as error:
        raise unfit(f"{path}.parameters", "endless nesting", "a schema of few levels", "flatten the schema") from error
    body = f"declaration:{name}{{description:{description}{parameters}}}"
    return f"{tokens.START_DECLARATION}{body}{tokens.END_DECLARATION}"


def _write_parameters(parameters: object, path: str) -> str:
    if not isinstance(parameters, Mapping | None):
        raise unfit(path, kind(parameters), "a JSON schema object", "schema.normalise repairs flat parameter lists")
    if not parameters:
        return ""
    if not parameters.get("type"):
        hint = 'add "type": "object" (schema.normalise does)'
        raise unfit(f"{path}.type", "nothing" if "type" not in parameters else repr(parameters["type"]), "a type", hint)
    parts = []
    if parameters.get("properties"):
        parts.append(f"properties:{{{_write_properties(parameters['properties'], f'{path}.properties')}}}")
    if parameters.get("required"):
        parts.append(f"required:{_write_required(parameters['required'], f'{path}.required')}")
    parts.append(f"type:{_write_type(parameters, path)}")
    return f",parameters:{{{','.join(parts)}}}"


def _write_properties(properties: object, path: str) -> str:
    if not isinstance(properties, Mapping):
        raise unfit(path, kind(properties), "an object of property schemas", "map each property's name to its schema")
    written = []
    for name, schema in sorted_items(properties, path):
        inner = f"{path}.{name}"
        if name in RESERVED_PROPERTY_NAMES:
            raise unfit(
                inner,
                f"a property called {name!r}",
                "another name",
                "the format keeps this name for itself and would drop the property: rename it in tools and calls",
            )
        written.append(f"{unescaped(name, inner)}:{_write_property(schema, inner)}")
    return ",".join(written)


def _write_property(schema: object, path: str) -> str:
    if not isinstance(schema, Mapping):
        raise unfit(path, kind(schema), "a JSON schema object", 'describe it, as in {"type": "string"}')
    parts = [f"description:{quoted(_text(schema, 'description'), f'{path}.description')}"]
    match _text(schema, "type").upper():
        case "STRING" if schema.get("enum"):
            parts.append(f"enum:{write_value(schema['enum'], f'{path}.enum', 'schema')}")
        case "OBJECT":
            parts.append(f"properties:{{{_write_object_properties(schema, path)}}}")
            if schema.get("required"):
                parts.append(f"required:{_write_required(schema['required'], f'{path}.required')}")
        case "ARRAY" if isinstance(schema.get("items"), Mapping) and schema["items"]:
            parts.append(f"items:{{{_write_items(schema['items'], f'{path}.items')}}}")
    parts.append(f"type:{_write_type(schema, path)}")
    return f"{{{','.join(parts)}}}"


def _write_object_properties(schema: Mapping[str, Any], path: str) -> str:
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        return _write_properties(properties, f"{path}.properties")
    # Without `properties` the model's template takes the schema's other keys for properties.
    unknown = sorted(set(schema) - RESERVED_PROPERTY_NAMES)
    if unknown:
        hint = 'add "properties": {} (schema.normalise does); the format would show these keys as properties'
        raise unfit(path, f"an object without properties but with {', '.join(unknown)}", "properties", hint)
    return ""


def _write_items(items: Mapping[str, Any], path: str) -> str:
    written = []
    for key, value in sorted_items(items, path):
        inner = f"{path}.{key}"
        if value is None:
            continue
        if key == "properties":
            text = f"{{{_write_properties(value, inner) if isinstance(value, Mapping) else ''}}}"
        elif key == "required":
            text = _write_required(value, inner)
        elif key == "type":
            upper = [str(entry).upper() for entry in value] if isinstance(value, list) else str(value).upper()
            text = write_value(upper, inner, "schema")
        else:
            text = write_value(value, inner, "schema")
        written.append(f"{unescaped(key, inner)}:{text}")
    return ",".join(written)


def _write_required(required: object, path: str) -> str:
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise unfit(path, repr(required), "a list of property names", 'give names, as in ["city"], or drop the key')
    return f"[{','.join(quoted(name, path) for name in required)}]"


def _write_type(schema: Mapping[str, Any], path: str) -> str:
    return quoted(_text(schema, "type").upper(), f"{path}.type")


def _text(schema: Mapping[str, Any], key: str) -> str:
    """What Jinja prints for `schema[key]`: nothing when absent, else `str()`, so null becomes `None`."""
    return str(schema[key]) if key in schema else ""
