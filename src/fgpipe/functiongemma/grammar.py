"""What the model may say when tools are given, as a grammar in FunctionGemma's own syntax.

The grammar is EBNF as xgrammar reads it, and names control tokens by id: a `<start_function_call>` spelt out in letters
is not one. Training sorts keys regardless of case, so calls are accepted in that order only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fgpipe.errors import FormatError
from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.grammar_rules import Limits, Rules, control, free_text, literal
from fgpipe.functiongemma.schema import normalise
from fgpipe.functiongemma.values import function_name

__all__ = ["Limits", "ToolGrammar", "tool_grammar"]


@dataclass(frozen=True)
class ToolGrammar:
    """The grammar as `ebnf` text, and what of the schemas it does not enforce, one line each."""

    ebnf: str
    unenforced: list[str]

    def structural_tag(self) -> dict[str, Any]:
        """The grammar as an xgrammar structural tag, in plain JSON."""
        return {"type": "structural_tag", "format": {"type": "grammar", "grammar": self.ebnf}}


def tool_grammar(
    tools: Sequence[Any],
    *,
    must_call: bool,
    one_call: bool = False,
    free_arguments: Collection[str] = (),
    limits: Limits | None = None,
) -> ToolGrammar | None:
    """The grammar of an answer that may call `tools`, or None when none of them can be called in this format.

    A call names a declared function; its arguments hold declared keys only, each once and in order, the required ones
    always; values have their declared type, enums are exact, strings hold no control token. Where a schema says what a
    grammar cannot (a pattern, a recursive reference...) the wider form is accepted and `unenforced` tells.

    Args:
        must_call: the answer is one or more calls and nothing else; otherwise it is text, then perhaps calls.
        one_call: at most one call.
        free_arguments: functions whose arguments may be any object.
        limits: sizes that keep an answer from running on for ever.
    """
    limits = limits or Limits()
    rules = Rules(limits)
    try:
        normalised = normalise(tools)[0]
        functions = [body for tool in normalised if (body := _function(tool["function"], rules, free_arguments))]
    except (FormatError, RecursionError):
        return None
    if not functions:
        return None
    calls = "call" if one_call else f"call{{1,{limits.calls}}}"
    lines = [
        f"root ::= {calls}" if must_call else f'root ::= prose ("" | {calls})',
        f"call ::= {control(tokens.START_CALL)} {literal('call:')} function {control(tokens.END_CALL)}",
        f"function ::= {' | '.join(functions)}",
    ]
    if not must_call:
        lines.append(f"prose ::= {free_text()}")
    return ToolGrammar("\n".join([*lines, *rules.lines()]) + "\n", rules.unenforced)


def _function(function: dict[str, Any], rules: Rules, free_arguments: Collection[str]) -> str:
    """`NAME{...}` of one function; empty when no call to it could be read back."""
    name = function.get("name")
    try:
        function_name(name, "name")
    except FormatError:
        rules.unenforced.append(f"{name!r}: such a name cannot be called, so this function is left out")
        return ""
    if name in free_arguments:
        return f"{literal(str(name))} {rules.any_object(0)}"
    parameters = function.get("parameters") or {}
    return f"{literal(str(name))} {rules.object_(parameters, str(name), 0)}"
