"""Conversations in the template's shape before vLLM applies it, so that the server reads them as training did.

vLLM's own preparation keeps a tool's JSON as text, turns arguments that are no object into {}, and cannot name the
function a result belongs to; the model would then be asked in a form it never saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.inputs.preprocess import parse_dec_only_prompt

from fgpipe.errors import FormatError
from fgpipe.functiongemma import from_openai

_TEXT_PARTS = ("text", "input_text", "output_text")


class FunctionGemmaRenderer(HfRenderer):  # type: ignore[misc]
    """VLLM's renderer for models of transformers, with `from_openai` before the template; text only."""

    def render_messages(self, messages: Sequence[Any], params: Any) -> tuple[list[dict[str, Any]], Any]:
        """The conversation and its prompt."""
        conversation = _converted(messages)
        words = params.get_apply_chat_template_kwargs()
        text = safe_apply_chat_template(self.model_config, self.get_tokenizer(), conversation, **words)
        return conversation, parse_dec_only_prompt(text)

    async def render_messages_async(self, messages: Sequence[Any], params: Any) -> tuple[list[dict[str, Any]], Any]:
        """The same, without blocking the server."""
        conversation = _converted(messages)
        words = params.get_apply_chat_template_kwargs()
        applied = self._apply_chat_template_async(self.model_config, self.get_tokenizer(), conversation, **words)
        return conversation, parse_dec_only_prompt(await self._render_with_timeout(applied))


def _converted(messages: Sequence[Any]) -> list[dict[str, Any]]:
    try:
        return from_openai([_with_text_parts(_plain(message)) for message in messages])
    except FormatError as error:
        raise VLLMValidationError(error.message, parameter="messages") from error


def _with_text_parts(message: Any) -> Any:
    """`message` with the responses API's kinds of text as the chat API's."""
    if not isinstance(message, dict) or not isinstance(content := message.get("content"), list):
        return message
    parts = [
        {**part, "type": "text"} if isinstance(part, dict) and part.get("type") in _TEXT_PARTS else part
        for part in content
    ]
    return {**message, "content": parts}


def _plain(value: Any) -> Any:
    """`value` as plain lists and dicts: vLLM's requests hold models, and lists that are checked only when walked."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(entry) for entry in value]
    return value
