"""A call held against the function's declared schema: types mended where the meaning is certain, the rest named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fgpipe.errors import FormatError
from fgpipe.functiongemma.parsed import Path
from fgpipe.functiongemma.schema import normalise
from fgpipe.functiongemma.values import ToolCall, kind

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")
_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
_LARGEST_EXACT = 2**53  # beyond it a float no longer says which integer was meant


@dataclass(frozen=True)
class FittedCall:
    """A `call` with its arguments typed as declared, the `repairs` that took, and the `violations` that are left."""

    call: ToolCall
    repairs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def declared_parameters(tools: Sequence[Any] | None) -> dict[str, Any]:
    """Name of each function in `tools` -> its parameters as plain JSON schema; {} when they are beyond reading."""
    try:
        normalised = normalise(tools)[0]
    except FormatError:
        return {}
    return {str(tool["function"].get("name")): tool["function"].get("parameters", {}) for tool in normalised}


def fit_call(call: ToolCall, declared: Mapping[str, Any], literals: Mapping[Path, str] | None = None) -> FittedCall:
    """`call` with each argument of the type its schema declares, wherever only one value can be meant.

    Mended: an unquoted number or boolean where a string is declared, as it was written; a quoted integer, number or
    boolean where that type is declared; an integral float where an integer is. An integer where a number is declared
    stays. Nothing else is changed, no argument is added or left out, and what does not fit is named.

    Args:
        declared: as `declared_parameters` gives it.
        literals: how numbers were written, if not as Python writes them; see `ParsedOutput.literals`.
    """
    if call.name not in declared:
        return FittedCall(call, [], [f"{call.name}: no function of that name is declared"])
    fitting = _Fitting(literals or {}, [], [])
    arguments = fitting.object_(call.arguments, declared[call.name] or {}, ())
    label = [f"{call.name}.{text}" for text in fitting.repairs], [f"{call.name}.{text}" for text in fitting.violations]
    return FittedCall(ToolCall(call.name, arguments), *label)


def schema_types(schema: Mapping[str, Any]) -> list[str]:
    """The types that `schema` allows; none when it does not say."""
    given = schema.get("type")
    types = given if isinstance(given, list) else [given] if given else []
    return [str(name) for name in types]


def allows_null(schema: Mapping[str, Any]) -> bool:
    """Whether null is a value of `schema`."""
    return bool(schema.get("nullable")) or "null" in schema_types(schema)


def allows_any_key(schema: Mapping[str, Any], *, outermost: bool) -> bool:
    """Whether an object of `schema` may hold keys of any name: one inside the arguments that declares none."""
    return not outermost and not schema.get("properties") and schema.get("additionalProperties") is not False


@dataclass(frozen=True)
class _Fitting:
    literals: Mapping[Path, str]
    repairs: list[str]
    violations: list[str]

    def object_(self, value: Mapping[str, Any], schema: Mapping[str, Any], path: Path) -> dict[str, Any]:
        properties = schema.get("properties") if isinstance(schema.get("properties"), Mapping) else None
        any_key = allows_any_key(schema, outermost=not path)
        extra = schema.get("additionalProperties")
        fitted = {}
        for key, entry in value.items():
            inner = (*path, key)
            if properties and key in properties:
                fitted[key] = self.value(entry, properties[key], inner)
            elif any_key:
                fitted[key] = self.value(entry, extra if isinstance(extra, Mapping) else {}, inner)
            else:
                fitted[key] = entry
                self.violations.append(f"{_shown(inner)}: not declared")
        required = schema.get("required")
        for name in required if isinstance(required, list) else []:
            if name not in value:
                self.violations.append(f"{_shown((*path, name))}: required, but missing")
        return fitted

    def value(self, value: Any, schema: object, path: Path) -> Any:
        if not isinstance(schema, Mapping) or (value is None and allows_null(schema)):
            return value
        types = schema_types(schema)
        if types and not any(_is_a(value, name) for name in types):
            mended = self._mend(value, types, path)
            if mended is None:
                self.violations.append(f"{_shown(path)}: got {kind(value)}, expected {' or '.join(types)}")
                return value
            self.repairs.append(f"{_shown(path)}: {kind(value)} taken for {' or '.join(types)}")
            value = mended
        if isinstance(value, dict):
            value = self.object_(value, schema, path)
        elif isinstance(value, list):
            items = schema.get("items")
            value = [self.value(entry, items, (*path, index)) for index, entry in enumerate(value)]
        allowed = schema.get("enum")
        if isinstance(allowed, list) and not any(_same(value, entry) for entry in allowed):
            self.violations.append(f"{_shown(path)}: not one of the declared values")
        return value

    def _mend(self, value: Any, types: list[str], path: Path) -> Any:
        """`value` as the one type it can be meant for, or None."""
        if isinstance(value, bool | int | float) and "string" in types:
            return self.literals.get(path) or (str(value).lower() if isinstance(value, bool) else repr(value))
        if isinstance(value, float) and "integer" in types and value.is_integer() and abs(value) <= _LARGEST_EXACT:
            return int(value)
        if not isinstance(value, str) or len(types) != 1:
            return None
        if types == ["boolean"]:
            return _BOOLEANS.get(value)
        if types[0] in ("integer", "number") and _INTEGER.fullmatch(value):
            return int(value)
        return float(value) if types == ["number"] and _NUMBER.fullmatch(value) else None


def _is_a(value: object, name: str) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int
        case "number":
            return type(value) in (int, float)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
    return True  # a type nobody knows forbids nothing


def _same(value: object, declared: object) -> bool:
    numbers = type(value) in (int, float) and type(declared) in (int, float)
    return value == declared and (numbers or type(value) is type(declared))


def _shown(path: Path) -> str:
    """`path` for a message, at most 80 characters of it: keys are the model's own text."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    return text if len(text) <= 80 else f"{text[:80]}..."
