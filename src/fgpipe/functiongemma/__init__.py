"""FunctionGemma's format, defined once: text from conversations, calls from text, and what of it is trained."""

from __future__ import annotations

from fgpipe.functiongemma.conversation import from_openai
from fgpipe.functiongemma.declaration import render_declaration
from fgpipe.functiongemma.parse import ParsedOutput, parse, parse_output
from fgpipe.functiongemma.render import Segment, render, segments
from fgpipe.functiongemma.tokens import SPECIAL_TOKEN_IDS, STOP_TOKEN_IDS
from fgpipe.functiongemma.values import ToolCall, render_call, render_response

__all__ = [
    "SPECIAL_TOKEN_IDS",
    "STOP_TOKEN_IDS",
    "ParsedOutput",
    "Segment",
    "ToolCall",
    "from_openai",
    "parse",
    "parse_output",
    "render",
    "render_call",
    "render_declaration",
    "render_response",
    "segments",
]
