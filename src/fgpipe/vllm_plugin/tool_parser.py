"""FunctionGemma's calls for vLLM's OpenAI server: types kept, nothing dropped, nothing invented."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

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

from fgpipe.functiongemma import ToolCall as ReadCall
from fgpipe.functiongemma.parse import OutputReader, ParsedOutput

# Under vLLM's own name: it gives only its own loggers a handler.
logger = init_logger("vllm.fgpipe.tool_parser")


class FgpipeToolParser(ToolParser):  # type: ignore[misc]
    """One per answer. Complete calls become tool calls; prose, and a call that breaks off, is content as it stands."""

    # The model was never trained on the JSON that vLLM would otherwise force for `required` and named tools.
    supports_required_and_named = False
    # vLLM then gives each piece once, takes our content when there is no call, and calls `finish_streaming`.
    engine_based_streaming = True

    def __init__(self, tokenizer: Any, tools: list[Any] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._reader = OutputReader()
        self._sent_calls = 0
        self._sent_characters = 0

    def adjust_request(self, request: Any) -> Any:
        """Keep control tokens in the text, so that where an answer stopped is seen as training wrote it."""
        request = super().adjust_request(request)
        if _may_call(request):
            request.skip_special_tokens = False
        return request

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Calls and content of a whole answer."""
        if not _may_call(request):
            return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
        reader = OutputReader()
        reader.feed(model_output)
        reader.close()
        output = reader.output()
        _warn(output)
        calls = [ToolCall(function=FunctionCall(name=call.name, arguments=_json(call))) for call in output.calls]
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
        self._reader.feed(delta_text)
        return self._unsent()

    def finish_streaming(self) -> DeltaMessage | None:
        """What was held back and is now known to be content, such as a call that was cut off."""
        self._reader.close()
        _warn(self._reader.output())
        return self._unsent()

    def _unsent(self) -> DeltaMessage | None:
        output = self._reader.output()
        content, calls = output.content[self._sent_characters :], output.calls[self._sent_calls :]
        if not content and not calls:
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
        self._sent_characters += len(content)
        self._sent_calls += len(calls)
        # Only what is set is sent; an empty `tool_calls` or a null `content` would puzzle clients.
        parts: dict[str, Any] = {"content": content} if content else {}
        return DeltaMessage(**parts, tool_calls=deltas) if deltas else DeltaMessage(**parts)


def _may_call(request: Any) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _json(call: ReadCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False, allow_nan=False)


def _warn(output: ParsedOutput) -> None:
    for problem in output.problems:
        logger.warning("%s", problem)
