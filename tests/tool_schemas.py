"""Random tools together with arguments that fit them, and arguments that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fgpipe.functiongemma import ToolCall, tokens
from strategies import FRAGMENTS, function_names

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.lists(st.sampled_from(FRAGMENTS), max_size=5).map("".join),
).filter(lambda text: not any(token in text for token in tokens.SPECIAL_TOKEN_IDS if token != tokens.MULTIMODAL))


@dataclass(frozen=True)
class Property:
    """A schema, values that fit it, and values that do not, whatever the rest of the schema says."""

    schema: dict[str, Any]
    fitting: st.SearchStrategy[Any]
    misfits: tuple[Any, ...]


def _scalars() -> st.SearchStrategy[Property]:
    integers = st.integers(-(10**18), 10**18)
    floats = st.floats(-1e200, 1e200, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-200)
    plain = [
        Property({"type": "string"}, TEXTS, (5, True, None, ["a"])),
        Property({"type": "integer"}, integers, ("5", 2.5, True, None)),
        Property({"type": "number"}, st.one_of(integers, floats), ("5", True, None)),
        Property({"type": "boolean"}, st.booleans(), (1, "true", None)),
        Property({"type": "integer", "minimum": -3, "maximum": 12}, st.integers(-3, 12), (13, -4, "5")),
        Property({"type": "string", "nullable": True}, st.none() | TEXTS, (5, True)),
    ]
    enums = st.lists(TEXTS, min_size=1, max_size=4).map(
        lambda values: Property(
            {"type": "string", "enum": values}, st.sampled_from(values), (f"{max(values, key=len)}x", 5)
        )
    )
    numbers = st.lists(st.integers(-50, 50), min_size=1, max_size=4).map(
        lambda values: Property({"type": "integer", "enum": values}, st.sampled_from(values), (51, "5"))
    )
    return st.one_of(st.sampled_from(plain), enums, numbers)


def _nested(inner: st.SearchStrategy[Property]) -> st.SearchStrategy[Property]:
    arrays = st.builds(
        lambda item, least: Property(
            {"type": "array", "items": item.schema, **({"minItems": least} if least else {}), "maxItems": 4},
            st.lists(item.fitting, min_size=least, max_size=4),
            ([item.misfits[0]] * max(least, 1), "[]", {}),
        ),
        inner,
        st.integers(0, 2),
    )
    return st.one_of(arrays, objects(inner, least=1))


def objects(inner: st.SearchStrategy[Property], *, least: int = 0) -> st.SearchStrategy[Property]:
    """Objects over `inner` with some keys required; the misfits lack a required key, or have one too many."""

    def build(properties: dict[str, Property], optional: set[str]) -> Property:
        required = [name for name in properties if name not in optional]
        schema = {"type": "object", "properties": {name: entry.schema for name, entry in properties.items()}}
        fitting = st.fixed_dictionaries(
            {name: properties[name].fitting for name in required},
            optional={name: entry.fitting for name, entry in properties.items() if name in optional},
        )
        return Property({**schema, "required": required} if required else schema, fitting, ([], "{}"))

    declared = st.dictionaries(NAMES, inner, min_size=least, max_size=4)
    return declared.flatmap(lambda made: st.builds(build, st.just(made), st.sets(st.sampled_from([*made] or [""]))))


def properties() -> st.SearchStrategy[Property]:
    """Any property a grammar can follow in full."""
    return st.recursive(_scalars(), _nested, max_leaves=4)


@dataclass(frozen=True)
class Case:
    """A tool, a call that fits it, and calls that do not."""

    tool: dict[str, Any]
    call: ToolCall
    misfits: list[ToolCall]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A tool with a fitting call, and that call spoilt in each way there is for it."""
    name = draw(function_names())
    declared = draw(objects(properties()))
    arguments = draw(declared.fitting)
    schema = declared.schema
    function = {"name": name, "description": "Does it", "parameters": schema}
    spoilt = [{**arguments, "undeclared-key": 1}]
    spoilt += [{key: value for key, value in arguments.items() if key != name} for name in schema.get("required", ())]
    misfits = [ToolCall(f"{name}x", arguments), *(ToolCall(name, entry) for entry in spoilt)]
    return Case({"type": "function", "function": function}, ToolCall(name, arguments), misfits)


@st.composite
def misfit_values(draw: st.DrawFn) -> tuple[dict[str, Any], Any]:
    """A property's schema, and a value that does not fit it."""
    made = draw(properties())
    return made.schema, draw(st.sampled_from(made.misfits))
