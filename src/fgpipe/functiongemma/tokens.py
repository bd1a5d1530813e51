"""FunctionGemma's control tokens: their text, ids and flags, and where generation stops.

Source: the tokenizer and generation config published with `google/functiongemma-270m-it`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PAD = "<pad>"
EOS = "<eos>"
BOS = "<bos>"
UNK = "<unk>"
MASK = "<mask>"
MULTIMODAL = "[multimodal]"
START_DECLARATION = "<start_function_declaration>"
END_DECLARATION = "<end_function_declaration>"
START_CALL = "<start_function_call>"
END_CALL = "<end_function_call>"
START_RESPONSE = "<start_function_response>"
END_RESPONSE = "<end_function_response>"
ESCAPE = "<escape>"
START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
SOFT_IMAGE = "<image_soft_token>"
END_OF_IMAGE = "<end_of_image>"

SPECIAL_TOKEN_IDS: Mapping[str, int] = MappingProxyType(
    {
        PAD: 0,
        EOS: 1,
        BOS: 2,
        UNK: 3,
        MASK: 4,
        MULTIMODAL: 5,
        START_DECLARATION: 46,
        END_DECLARATION: 47,
        START_CALL: 48,
        END_CALL: 49,
        START_RESPONSE: 50,
        END_RESPONSE: 51,
        ESCAPE: 52,
        START_OF_TURN: 105,
        END_OF_TURN: 106,
    }
)
"""Text of every control token that has a row in the embedding table -> its id."""

SPECIAL_FLAGS: Mapping[str, bool] = MappingProxyType(
    {token: token in {PAD, EOS, BOS, UNK, START_RESPONSE, START_OF_TURN, END_OF_TURN} for token in SPECIAL_TOKEN_IDS}
)
"""Whether the tokenizer flags a control token `special`: `skip_special_tokens=True` hides only those."""

UNUSED_TOKEN_IDS: Mapping[str, int] = MappingProxyType({f"<unused{index}>": 6 + index for index in range(40)})
"""Placeholders the tokenizer reserves between the control tokens."""

IMAGE_TOKEN_IDS: Mapping[str, int] = MappingProxyType({SOFT_IMAGE: 262_144, END_OF_IMAGE: 262_145})
"""Inherited image tokens: in the tokenizer, but beyond the embedding table, so never to be fed to the model."""

NEWLINE_TOKEN_ID = 107
ROW_VOCABULARY_SIZE = 262_144
"""Rows of the embedding table (`vocab_size`); the tokenizer has two entries more, the image tokens."""
TOKENIZER_VOCABULARY_SIZE = 262_146

STOP_TOKEN_IDS: tuple[int, ...] = (1, 50, 106)
"""Ids that end a generation: `<eos>`, `<start_function_response>` after calls, `<end_of_turn>` after prose."""
STOP_TEXTS: tuple[str, ...] = (EOS, START_RESPONSE, END_OF_TURN)
"""The stops as text, in the order of `STOP_TOKEN_IDS`."""

TRIGGER_SENTENCE = "You are a model that can do function calling with the following functions"
"""The developer sentence FunctionGemma was trained with. Nothing here ever inserts it: the caller supplies the
developer message, so that training, evaluation and serving read the same one."""
