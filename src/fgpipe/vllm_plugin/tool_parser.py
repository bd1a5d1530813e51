"""FunctionGemma's calls for vLLM's OpenAI server: types kept, nothing dropped, nothing invented."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vllm import envs
from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.logger import init_logger
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers.abstract_tool_parser import ToolParser
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from xgrammar import StructuralTag

from fgpipe.functiongemma import ToolCall as ReadCall
from fgpipe.functiongemma.fit import fit_call
from fgpipe.functiongemma.parse import OutputReader, ParsedOutput
from fgpipe.vllm_plugin.metrics import counters
from fgpipe.vllm_plugin.tool_grammar import request_declares, request_grammar

# Under vLLM's own name: it gives only its own loggers a handler.
logger = init_logger("vllm.fgpipe.tool_parser")

_MOST_LOGGED = 3
"""Lines logged of one kind for one piece of an answer: a broken answer can be wrong thousands of times."""


class FgpipeToolParser(ToolParser):  # type: ignore[misc]
    """One per answer. Complete calls become tool calls; prose, and a call that breaks off, is content as it stands."""

    # The model was never trained on the JSON that vLLM would otherwise force for `required` and named tools.
    supports_required_and_named = False
    # vLLM then gives each piece once, takes our content when there is no call, and calls `finish_streaming`.
    engine_based_streaming = True
    # Any name makes vLLM ask `get_structural_tag`; the level makes it ask for tool_choice "auto" too.
    structural_tag_model = "functiongemma"
    default_tool_strict_level = ToolStrictLevel.PARAMETER

    def __init__(self, tokenizer: Any, tools: list[Any] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._reader = OutputReader()
        self._request: Any = None
        self._sent_calls = 0

    def adjust_request(self, request: Any) -> Any:
        """Keep control tokens in the text, so that where an answer stopped is seen as training wrote it."""
        request = super().adjust_request(request)
        if _may_call(request):
            request.skip_special_tokens = False
        return request

    def get_structural_tag(
        self, request: Any, *, reasoning: bool = False, strict_level: ToolStrictLevel = ToolStrictLevel.PARAMETER
    ) -> StructuralTag | None:
        """The grammar that keeps calls to the declared tools, in the model's own syntax; None for no constraint."""
        if not envs.VLLM_ENFORCE_STRICT_TOOL_CALLING or not _may_call(request):
            return None
        grammar = request_grammar(request, strict_level)
        if grammar is None:
            return None
        if grammar.unenforced:
            counters().unenforced.labels(_model_name(request)).inc()
        return StructuralTag.model_validate(grammar.structural_tag())

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Calls and content of a whole answer."""
        if not _may_call(request):
            return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
        reader = OutputReader()
        reader.feed(model_output)
        reader.close()
        output = reader.output()
        calls = [
            ToolCall(function=FunctionCall(name=call.name, arguments=_json(call))) for call in _fitted(output, request)
        ]
        return ExtractedToolCallInformation(tools_called=bool(calls), tool_calls=calls, content=output.content or None)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """What `delta_text` adds: prose at once, a call when it is complete, None while neither is certain."""
        if not _may_call(request):
            return DeltaMessage(content=delta_text) if delta_text else None
        self._request = request
        self._reader.feed(delta_text)
        return self._unsent()

    def finish_streaming(self) -> DeltaMessage | None:
        """What was held back and is now known to be content, such as a call that was cut off."""
        if self._request is None:
            return None
        self._reader.close()
        return self._unsent()

    def _unsent(self) -> DeltaMessage | None:
        output = self._reader.take()
        calls = _fitted(output, self._request)
        if not output.content and not calls:
            return None
        deltas = [
            DeltaToolCall(
                index=index,
                id=make_tool_call_id(),
                type="function",
                function=DeltaFunctionCall(name=call.name, arguments=_json(call)),
            )
            for index, call in enumerate(calls, start=self._sent_calls)
        ]
        self._sent_calls += len(calls)
        # Only what is set is sent; an empty `tool_calls` or a null `content` would puzzle clients.
        parts: dict[str, Any] = {"content": output.content} if output.content else {}
        return DeltaMessage(**parts, tool_calls=deltas) if deltas else DeltaMessage(**parts)


def _may_call(request: Any) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _model_name(request: Any) -> str:
    return getattr(request, "model", None) or ""


def _json(call: ReadCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False, allow_nan=False)


def _fitted(output: ParsedOutput, request: Any) -> list[ReadCall]:
    """The calls of `output` with their arguments typed as declared; what was wrong is counted and logged."""
    if not output.calls and not output.problems:
        return []
    declared = request_declares(request) if output.calls else {}
    pairs = zip(output.calls, output.literals, strict=True)
    fitted = [fit_call(call, declared, literals) for call, literals in pairs]
    model, counted = _model_name(request), counters()
    repairs = [line for call in fitted for line in call.repairs]
    counted.calls.labels(model).inc(len(fitted))
    # What was read in spite of a problem is text that lacked its quotes.
    counted.repairs.labels(model).inc(len(repairs) + len(output.problems) - output.broken_calls)
    counted.parse_failures.labels(model).inc(output.broken_calls)
    counted.schema_violations.labels(model).inc(sum(bool(call.violations) for call in fitted))
    _log("answered", model, output.problems)
    _log("mended", model, repairs)
    _log("does not fit its schema", model, [line for call in fitted for line in call.violations])
    return [call.call for call in fitted]


def _log(what: str, model: str, lines: list[str]) -> None:
    for line in lines[:_MOST_LOGGED]:
        logger.warning("%s: %s: %s", model, what, line)
    if len(lines) > _MOST_LOGGED:
        logger.warning("%s: %s: and %d more", model, what, len(lines) - _MOST_LOGGED)
