"""Grammar rules for values of a JSON schema, as calls write them; see `grammar.tool_grammar`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.fit import allows_any_key, allows_null, schema_types
from fgpipe.functiongemma.values import KEY_STRUCTURE, sorted_items, write_value

_UNENFORCED = frozenset(
    {
        *("pattern", "format", "minLength", "maxLength", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"),
        *("uniqueItems", "contains", "prefixItems", "patternProperties", "propertyNames", "minProperties"),
        *("maxProperties", "dependentRequired", "dependentSchemas", "not", "if"),
    }
)
_ALTERNATIVES = ("anyOf", "oneOf")
_RANGE = ("minimum", "maximum")
_MOST_LISTED = 256
"""An integer range of at most so many values is written out."""

_CONTROL_TEXTS = [text for text in tokens.SPECIAL_TOKEN_IDS if text != tokens.MULTIMODAL]

_SCALARS = {
    "integer": '"0" | "-"? [1-9] [0-9]{0,18}',
    # Never so large that it would read back as infinite.
    "number": (
        '"-"? ("0" | [1-9] [0-9]{0,18}) ("." [0-9]{1,20})?'
        ' | "-"? [1-9] ("." [0-9]{1,20})? "e" ([+-] [0-9] [0-9] | [+-] [12] [0-9] [0-9])'
    ),
    "boolean": '"true" | "false"',
    "null": '"None"',
    "key": r"[A-Za-z_] [A-Za-z0-9_.-]*",
}


@dataclass(frozen=True)
class Limits:
    """Sizes beyond which the grammar lets nothing grow, so that every answer ends."""

    calls: int = 16
    string_tokens: int = 512
    items: int = 64
    free_keys: int = 16
    """Entries of an object that declares no properties; nothing keeps such keys from repeating."""
    depth: int = 16
    """Nesting up to which schemas are followed."""
    free_depth: int = 3
    """Nesting of values about which the schema says nothing."""


def control(token: str) -> str:
    """The control token itself, by its id."""
    return f"Token({tokens.SPECIAL_TOKEN_IDS[token]})"


def literal(text: str) -> str:
    """`text` and nothing else."""
    # JSON's quoting but for characters beyond the BMP, which it would write as two.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def free_text() -> str:
    """Text of any length that holds no control token, neither as a token nor spelt out."""
    excluded = ", ".join(map(literal, _CONTROL_TEXTS))
    return f"TagDispatch(loop_after_dispatch=false, excludes=({excluded}))"


class Rules:
    """Rules made so far, each body once; `unenforced` names what the schemas say and the rules do not."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.unenforced: list[str] = []
        self._names: dict[tuple[str, str], str] = {}  # body and attributes -> rule name

    def lines(self) -> list[str]:
        """The rules as text."""
        return [f"{name}{attributes} ::= {body}" for (body, attributes), name in self._names.items()]

    def object_(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        """An object with the declared keys of `schema`, in training's order."""
        self._note_unenforced(schema, path)
        if depth >= self.limits.depth:
            self.unenforced.append(f"{path}: nested deeper than {self.limits.depth}, any object is accepted")
            return self.any_object(self.limits.free_depth)
        if allows_any_key(schema, outermost=depth == 0):
            extra = schema.get("additionalProperties")
            entry = self.value(extra, f"{path}.*", depth + 1) if isinstance(extra, Mapping) and extra else None
            return self._free_object(entry, 0)
        declared = schema["properties"] if isinstance(schema.get("properties"), Mapping) else {}
        required = schema["required"] if isinstance(schema.get("required"), list) else []
        self.unenforced += [
            f"{path}: {name!r} is required but not declared" for name in required if name not in declared
        ]
        members = []
        for key, entry in sorted_items(declared, path):
            if any(character in key for character in KEY_STRUCTURE) or any(text in key for text in _CONTROL_TEXTS):
                self.unenforced.append(f"{path}.{key}: such a key cannot be read back, so it is left out")
                continue
            member = f"{literal(f'{key}:')} {self.value(entry, f'{path}.{key}', depth + 1)}"
            members.append((self._rule(member), key in required))
        return self._rule(f'"{{" {self._members(members)} "}}"')

    def value(self, schema: object, path: str, depth: int) -> str:
        """A value of `schema`."""
        if not isinstance(schema, Mapping) or "$ref" in schema or "allOf" in schema:
            self.unenforced.append(f"{path}: no schema a grammar can follow, any value is accepted")
            return self._any_value(0)
        for key in _ALTERNATIVES:
            branches = schema.get(key)
            if isinstance(branches, list) and branches:
                forms = [self.value(branch, f"{path}.{key}[{index}]", depth) for index, branch in enumerate(branches)]
                return self._rule(" | ".join(dict.fromkeys(forms)))
        null = [self._scalar("null")] if allows_null(schema) else []
        if isinstance(schema.get("enum"), list) and (values := self._enum(schema["enum"], path)):
            return self._rule(" | ".join(dict.fromkeys([*values, *null])))
        types = [name for name in schema_types(schema) if name != "null"]
        if not types and not null:
            self.unenforced.append(f"{path}: no type, any value is accepted")
            return self._any_value(0)
        return self._rule(
            " | ".join(dict.fromkeys([*(self._typed(schema, name, path, depth) for name in types), *null]))
        )

    def any_object(self, depth: int) -> str:
        """An object about which nothing is known."""
        return self._free_object(None, depth)

    def _typed(self, schema: Mapping[str, Any], name: str, path: str, depth: int) -> str:
        if name == "object":
            return self.object_(schema, path, depth)
        self._note_unenforced(schema, path)
        if name == "string":
            return self._string()
        if name == "array":
            return self._array(schema, path, depth)
        if name in ("integer", "number"):
            return self._number(schema, name, path)
        if name in _SCALARS and name != "key":
            return self._scalar(name)
        self.unenforced.append(f"{path}: the type {name!r} is not known, any value is accepted")
        return self._any_value(0)

    def _number(self, schema: Mapping[str, Any], name: str, path: str) -> str:
        low, high = (schema.get(key) for key in _RANGE)
        if name == "integer" and type(low) is int and type(high) is int and 0 <= high - low < _MOST_LISTED:
            return self._rule(" | ".join(literal(str(number)) for number in range(low, high + 1)))
        if low is not None or high is not None:
            self.unenforced.append(f"{path}: minimum and maximum are not enforced")
        return self._scalar(name)

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        items = schema.get("items")
        if depth >= self.limits.depth or not isinstance(items, Mapping) or not items:
            self.unenforced.append(f"{path}[]: no schema a grammar can follow, any value is accepted")
            item = self._any_value(1)
        else:
            item = self.value(items, f"{path}[]", depth + 1)
        least, most = (
            size if type(size) is int and size >= 0 else None for size in map(schema.get, ("minItems", "maxItems"))
        )
        return self._list(item, least or 0, self.limits.items if most is None else min(most, self.limits.items))

    def _list(self, item: str, least: int, most: int) -> str:
        if most <= 0:
            return self._rule('"[]"')
        filled = f'{item} ("," {item}){{{max(least - 1, 0)},{max(most, least) - 1}}}'
        return self._rule(f'"[" {filled} "]"' if least else f'"[" ("" | {filled}) "]"')

    def _enum(self, values: list[Any], path: str) -> list[str]:
        forms = []
        for value in values:
            if isinstance(value, str) and any(text in value for text in _CONTROL_TEXTS):
                self.unenforced.append(f"{path}: a declared value holds a control token, so it is left out")
            elif isinstance(value, str):
                forms.append(self._rule(" ".join([control(tokens.ESCAPE), literal(value), control(tokens.ESCAPE)])))
            elif isinstance(value, bool | int | float) or value is None:
                forms.append(literal(write_value(value, path, "call")))
            else:
                self.unenforced.append(f"{path}: a declared value is no scalar, so the type alone is enforced")
                return []
        return forms

    def _string(self) -> str:
        # Counted in tokens: a bound in characters takes seconds to compile for a vocabulary of FunctionGemma's size.
        text = self._rule(free_text(), attributes=f"[max_tokens={self.limits.string_tokens}]")
        return self._rule(f"{control(tokens.ESCAPE)} {text} {control(tokens.ESCAPE)}")

    def _scalar(self, name: str) -> str:
        return self._rule(_SCALARS[name])

    def _any_value(self, depth: int) -> str:
        forms = [self._string(), *map(self._scalar, ("number", "boolean", "null"))]
        if depth < self.limits.free_depth:
            forms += [self.any_object(depth + 1), self._list(self._any_value(depth + 1), 0, self.limits.items)]
        return self._rule(" | ".join(forms))

    def _free_object(self, entry: str | None, depth: int) -> str:
        entry = entry or self._any_value(depth)
        member = self._rule(f'{self._scalar("key")} ":" {entry}')
        return self._rule(f'"{{" ("" | {member} ("," {member}){{0,{self.limits.free_keys - 1}}}) "}}"')

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """`members`, each (form, required), with commas between those that are there."""
        first, later = '""', '""'
        for form, required in reversed(members):
            first, later = (
                self._rule(f"{form} {later}" if required else f"{form} {later} | {first}"),
                self._rule(f'"," {form} {later}' if required else f'"," {form} {later} | {later}'),
            )
        return first

    def _note_unenforced(self, schema: Mapping[str, Any], path: str) -> None:
        found = sorted(key for key in schema if key in _UNENFORCED and schema[key] not in (None, False))
        if found:
            self.unenforced.append(f"{path}: {', '.join(found)} not enforced")

    def _rule(self, body: str, *, attributes: str = "") -> str:
        """The name of the rule with this body, made if there is none."""
        return self._names.setdefault((body, attributes), f"r{len(self._names)}")
