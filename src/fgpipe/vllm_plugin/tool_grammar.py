"""The grammar that a request's tools and `tool_choice` ask for, as vLLM passes it to xgrammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vllm.logger import init_logger
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

from fgpipe.functiongemma.fit import declared_parameters
from fgpipe.functiongemma.grammar import ToolGrammar, tool_grammar

# Under vLLM's own name: it gives only its own loggers a handler.
logger = init_logger("vllm.fgpipe.tool_grammar")

_KEPT = 256
"""Tool lists remembered: clients send the same one with every request."""


def request_grammar(request: Any, strict_level: ToolStrictLevel) -> ToolGrammar | None:
    """The grammar of the answer to `request`, or None when it is not to be constrained.

    A tool with `"strict": false` may be called with any arguments, as any tool may whose `strict` is not true when the
    operator set `--tool-strict-level function`. With such tools only, an answer is left alone if nothing obliges it to
    call, or if the request brings a constraint of its own.
    """
    tools = [plain_tool(tool) for tool in request.tools or ()]
    named = _named(request.tool_choice)
    if named is not None:
        tools = [tool for tool in tools if tool["function"].get("name") == named]
    everywhere = strict_level >= ToolStrictLevel.PARAMETER
    free = [str(function.get("name")) for tool in tools if not _is_strict(function := tool["function"], everywhere)]
    must_call = request.tool_choice != "auto"
    one_call = request.parallel_tool_calls is False
    if len(free) == len(tools) and (request.extract_structured_outputs() or not (must_call or one_call)):
        return None
    return _grammar(_text(tools), must_call, one_call, tuple(free))


def request_declares(request: Any) -> dict[str, Any]:
    """Name of each function of `request` -> its parameters, as `fit_call` reads them."""
    return _declared(_text([plain_tool(tool) for tool in request.tools or ()]))


def plain_tool(tool: Any) -> dict[str, Any]:
    """A tool of a chat or a responses request in the chat's shape."""
    given: dict[str, Any] = tool if isinstance(tool, dict) else tool.model_dump(mode="json", exclude_none=True)
    function = given["function"] if isinstance(given.get("function"), dict) else given
    return {"type": "function", "function": {key: value for key, value in function.items() if key != "type"}}


def _named(choice: Any) -> str | None:
    if choice is None or isinstance(choice, str):
        return None
    return str(getattr(choice, "function", choice).name)


def _is_strict(function: dict[str, Any], everywhere: bool) -> bool:
    strict = function.get("strict")
    return strict is True or (everywhere and strict is not False)


def _text(tools: Sequence[dict[str, Any]]) -> str:
    return json.dumps(tools)


@lru_cache(_KEPT)
def _grammar(tools: str, must_call: bool, one_call: bool, free: tuple[str, ...]) -> ToolGrammar | None:
    made = tool_grammar(json.loads(tools), must_call=must_call, one_call=one_call, free_arguments=free)
    for line in ["none of the tools can be called"] if made is None else made.unenforced:
        logger.warning("calls are not constrained in full: %.300s", line)
    return made


@lru_cache(_KEPT)
def _declared(tools: str) -> dict[str, Any]:
    return declared_parameters(json.loads(tools))
