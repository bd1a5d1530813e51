"""Function calls read back from the model's text, losing nothing and inventing nothing."""

from __future__ import annotations

from fgpipe.functiongemma import tokens
from fgpipe.functiongemma.parsed import ParsedOutput
from fgpipe.functiongemma.reader import OutputReader
from fgpipe.functiongemma.values import ToolCall

__all__ = ["OutputReader", "ParsedOutput", "parse", "parse_output"]


def parse(text: str) -> list[ToolCall]:
    """The complete function calls in one model output; `parse(render_call(call)) == [call]`.

    Values between `<escape>` are strings, whatever they look like; bare ones are booleans, null, integers, floats,
    lists or objects. Never raises: see `parse_output` for what was left out.
    """
    return parse_output(text).calls


def parse_output(text: str) -> ParsedOutput:
    """Calls, other text and problems of one model output.

    The output ends at its first stop token outside a string. Text that starts with `<bos>` holds the prompt too: there
    the output is what follows the last turn header or tool response.
    """
    reader = OutputReader()
    reader.feed(text[_output_start(text) :])
    reader.close()
    return reader.output()


def _output_start(text: str) -> int:
    if not text.startswith(tokens.BOS):
        return 0
    openings = (f"{tokens.START_OF_TURN}model\n", tokens.END_RESPONSE)
    return max(text.rfind(opening) + len(opening) if opening in text else 0 for opening in openings)
