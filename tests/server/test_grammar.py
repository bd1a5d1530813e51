"""The grammar of calls, held against xgrammar, which vLLM masks the model's tokens with."""

from __future__ import annotations

import json
import warnings
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_random
from fgpipe import resources
from fgpipe.functiongemma import ToolCall, parse_output, render_call, tokens
from fgpipe.functiongemma.fit import FittedCall, declared_parameters, fit_call
from fgpipe.functiongemma.grammar import Limits, ToolGrammar, tool_grammar
from tiny_server import chat_tools
from tool_schemas import Case, cases, misfit_values

# Kept out of tests/unit: xgrammar comes with vLLM.
pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and triton warn of their own deprecations while they are imported
    import xgrammar

PING = ToolCall("ping", {})
LOUDER = ToolCall("audio.set-volume", {"level": 5, "mute": True, "options": {"steps": [1, 2.5]}})


@cache
def text_tokenizer() -> Any:
    return tiny_random.tokenizer()


@cache
def compiler() -> Any:
    information = xgrammar.TokenizerInfo.from_huggingface(text_tokenizer(), vocab_size=tiny_random.SHAPE.vocab_size)
    return xgrammar.GrammarCompiler(information)


def made(tools: list[Any], **options: Any) -> ToolGrammar:
    grammar = tool_grammar(tools, **{"must_call": True, **options})
    assert grammar is not None
    return grammar


def matcher(grammar: ToolGrammar) -> Any:
    compiled = compiler().compile_structural_tag(json.dumps(grammar.structural_tag()))
    return xgrammar.GrammarMatcher(compiled, override_stop_tokens=list(tokens.STOP_TOKEN_IDS))


def accepts(grammar: ToolGrammar, text: str) -> bool:
    """Whether the model could say `text`, token by token, and then stop."""
    matching = matcher(grammar)
    ids = text_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return all(matching.accept_token(token) for token in ids) and matching.is_completed()


@pytest.mark.parametrize("text", ["\x7f0", "a\x7f\x7ff", "\x01f", "\x850", "\u00e90", "\\x7f"])
def test_odd_characters_before_hexadecimal_digits_are_read_as_themselves(text: str) -> None:
    """An escape that goes on as long as there are digits would make another character of them."""
    properties = {"code": {"type": "string", "enum": [text]}}
    parameters = {"type": "object", "properties": properties, "required": ["code"]}
    grammar = made([{"type": "function", "function": {"name": "say", "description": "Says", "parameters": parameters}}])
    assert accepts(grammar, render_call(ToolCall(name="say", arguments={"code": text})))
    assert not accepts(grammar, render_call(ToolCall(name="say", arguments={"code": f"{text}0"})))


@given(cases())
@settings(max_examples=300, deadline=None)
def test_a_call_that_fits_its_schema_can_be_said_and_a_spoilt_one_cannot(case: Case) -> None:
    """The model would be kept from a right answer, or let into one that the tool refuses."""
    grammar = made([case.tool])
    assert accepts(grammar, render_call(case.call))
    declared = declared_parameters([case.tool])
    assert fit_call(case.call, declared).violations == []
    for call in case.misfits:
        assert not accepts(grammar, render_call(call)), call
        assert fit_call(call, declared).violations, call


def test_the_shipped_models_tokens_spell_the_same_grammar() -> None:
    """Tokens of several letters, as real vocabularies have them, would not fit between the control tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resources.folder("data") / "tiny")
    information = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiled = xgrammar.GrammarCompiler(information).compile_structural_tag(
        json.dumps(made(chat_tools()).structural_tag())
    )
    for call, accepted in ((LOUDER, True), (ToolCall("ping", {"level": 5}), False)):
        matching = xgrammar.GrammarMatcher(compiled, override_stop_tokens=list(tokens.STOP_TOKEN_IDS))
        ids = tokenizer(render_call(call) + tokens.START_RESPONSE, add_special_tokens=False)["input_ids"]
        assert all(matching.accept_token(token) for token in ids) is accepted
        assert matching.is_terminated() is accepted


@given(misfit_values())
@settings(max_examples=200, deadline=None)
def test_a_value_that_does_not_fit_cannot_be_said(made_up: tuple[dict[str, Any], Any]) -> None:
    """A string would arrive where the tool computes with a number, or an unknown choice where it looks one up."""
    schema, value = made_up
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": parameters}}
    assert not accepts(made([tool]), render_call(ToolCall("f", {"a": value})))


@given(cases(), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_a_model_says_under_the_grammar_is_a_valid_call(case: Case, random: Random, must_call: bool) -> None:
    """A model that knows nothing would still find a way to an invalid call, or never come to an end."""
    grammar = made([case.tool], must_call=must_call, limits=Limits(calls=3, string_tokens=6, items=3))
    text = said_at_random(grammar, random)
    output = parse_output(text)
    assert output.problems == []
    assert len(output.calls) == text.count(tokens.START_CALL) >= must_call
    declared = declared_parameters([case.tool])
    for call in output.calls:
        assert fit_call(call, declared) == FittedCall(call)


def said_at_random(grammar: ToolGrammar, random: Random) -> str:
    """What a model says that takes any token the grammar allows, and rather ends things than goes on."""
    matching = matcher(grammar)
    size = tiny_random.SHAPE.vocab_size
    bitmask = xgrammar.allocate_token_bitmask(1, size)
    said: list[int] = []
    while not matching.is_terminated():
        matching.fill_next_token_bitmask(bitmask)
        allowed = [id_ for id_ in range(size) if bitmask[0, id_ // 32] >> (id_ % 32) & 1]
        control = [id_ for id_ in allowed if id_ in tokens.SPECIAL_TOKEN_IDS.values()]
        said.append(random.choice(control if control and random.random() < 0.3 else allowed))
        assert matching.accept_token(said[-1])
        assert len(said) < 5000
    return str(text_tokenizer().decode(said))


def test_answers_with_and_without_calls() -> None:
    """Tools would force a call on every question, or a forced call could be evaded with prose."""
    auto, required = made(chat_tools(), must_call=False), made(chat_tools())
    call, both = render_call(PING), render_call(LOUDER) + render_call(PING)
    for text in ("I cannot do that: 1 < 2.", ""):
        assert accepts(auto, text)
        assert not accepts(required, text)
    for text in (call, both):
        assert accepts(auto, text)
        assert accepts(auto, f"Sure. {text}")
        assert accepts(required, text)
        assert not accepts(required, f"Sure. {text}")
        assert not accepts(auto, f"{text} Done.")
    assert accepts(made(chat_tools(), one_call=True), call)
    assert not accepts(made(chat_tools(), one_call=True), both)


@pytest.mark.parametrize("stop", tokens.STOP_TEXTS)
@pytest.mark.parametrize("must_call", [True, False])
def test_every_stop_ends_an_answer_and_none_a_call(stop: str, must_call: bool) -> None:
    """A finished answer could not stop, or an unfinished call could."""
    grammar = made(chat_tools(), must_call=must_call)
    ids = text_tokenizer()(render_call(LOUDER) + stop, add_special_tokens=False)["input_ids"]
    matching = matcher(grammar)
    for place, token in enumerate(ids[:-1]):
        if place or must_call:
            assert not matching.fork().accept_token(ids[-1])
        assert matching.accept_token(token)
    assert matching.accept_token(ids[-1])
    assert matching.is_terminated()


@pytest.mark.parametrize(
    "text",
    [
        "call:ping{}",
        "<start_function_call>call:pong{}<end_function_call>",
        "<start_function_call>call:ping{level:5}<end_function_call>",
        "<start_function_call>call:audio.set-volume{}<end_function_call>",
        "<start_function_call>call:audio.set-volume{mute:true,level:5}<end_function_call>",
        "<start_function_call>call:audio.set-volume{level:5,level:5}<end_function_call>",
        "<start_function_call>call:audio.set-volume{level: 5}<end_function_call>",
        "<start_function_call>call:audio.set-volume{level:05}<end_function_call>",
        "<start_function_call>call:audio.set-volume{label:<escape>a<end_of_turn><escape>,level:5}<end_function_call>",
        "<start_function_call>call:ping{}<end_function_call><start_function_response>response:ping{}",
    ],
)
def test_what_the_model_was_not_trained_on_cannot_be_said(text: str) -> None:
    """Undeclared functions and keys, another order, a key twice, a control token in a string would get through."""
    assert not accepts(made(chat_tools()), text)


def test_a_control_token_spelt_out_is_not_one() -> None:
    """A call would be read that the model never meant as one."""
    letters = text_tokenizer()("<")["input_ids"][-1:]
    for grammar, begun in ((made(chat_tools(), must_call=False), ""), (made([NOTE]), "call:note{text:<escape>")):
        matching = matcher(grammar)
        spelt = "<escape>" if begun else "<start_function_call>"
        ids = [tokens.SPECIAL_TOKEN_IDS[tokens.START_CALL]] if begun else []
        ids += text_tokenizer()(begun, add_special_tokens=False)["input_ids"] if begun else []
        assert all(matching.accept_token(token) for token in ids)
        assert all(matching.accept_token(token) for token in letters)
        rest = [text_tokenizer()(letter, add_special_tokens=False)["input_ids"][0] for letter in spelt[1:]]
        assert not all(matching.accept_token(token) for token in rest)


NOTE = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Writes it down",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "told"),
    [
        ({"type": "string", "pattern": "^a"}, "xyz", 5, "pattern not enforced"),
        ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, ["a"], "a", ""),
        ({"type": ["string", "integer"]}, 5, 2.5, ""),
        ({"$ref": "#/$defs/node"}, {"next": {"next": None}}, None, "any value is accepted"),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, {"a": [1]}, None, "any value is accepted"),
        ({"type": "object"}, {"x": {"y": [1, "2", None]}}, 5, ""),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": 1, "z": 2}, {"x": "1"}, ""),
        ({"type": "object", "additionalProperties": False}, {}, {"x": 1}, ""),
        ({"type": "string", "format": "date"}, "today", 5, "format not enforced"),
        ({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["y"]}, {"x": 1}, {"y": 1}, "'y' is"),
        ({"type": "array"}, [1, "a", {"b": 2}], "a", "any value is accepted"),
        ({"type": "integer", "minimum": 0, "maximum": 10**6}, 10**7, "5", "minimum and maximum"),
        ({"type": "string", "enum": ["a", "b<end_of_turn>"]}, "a", "b<end_of_turn>", "left out"),
        ({}, [1, {"a": "b"}], None, "any value is accepted"),
    ],
    ids=json.dumps,
)
def test_what_a_grammar_cannot_say_is_left_wide_and_told(schema: Any, good: Any, bad: Any, told: str) -> None:
    """A tool with an unusual schema could not be called at all, or nobody would know what is not checked."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": {"node": node}}
    grammar = made([{"type": "function", "function": {"name": "f", "description": "", "parameters": parameters}}])
    assert accepts(grammar, render_call(ToolCall("f", {"a": good})))
    assert bad is None or not accepts(grammar, render_call(ToolCall("f", {"a": bad})))
    assert told in " ".join(grammar.unenforced)
    assert bool(grammar.unenforced) == bool(told)


def test_arguments_left_free_are_still_one_object() -> None:
    """A tool that is not to be strict could not be called with what it did not declare, or its call not be read."""
    grammar = made(chat_tools(), free_arguments=["ping"])
    assert accepts(grammar, render_call(ToolCall("ping", {"any": [1, {"b": "c"}], "Thing": None})))
    assert not accepts(grammar, "<start_function_call>call:ping{any}<end_function_call>")
    assert not accepts(grammar, render_call(ToolCall("audio.set-volume", {"any": 1})))


def test_tools_that_cannot_be_called_give_no_grammar() -> None:
    """The server would fail on a tool list that it could have answered without a grammar."""
    assert tool_grammar([{"type": "function", "function": {"name": "a{b"}}], must_call=True) is None
    assert tool_grammar([], must_call=True) is None
    grammar = made([{"type": "function", "function": {"name": "a{b"}}, NOTE])
    assert "a{b" in grammar.unenforced[0]


def test_many_large_tools_compile_quickly_enough() -> None:
    """The first request with a long tool list would hold up the server."""
    wide = {f"key_{number}": {"type": "array", "items": {"type": "string"}} for number in range(40)}
    parameters = {"type": "object", "properties": wide, "required": []}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "description": "", "parameters": parameters}}
        for number in range(64)
    ]
    arguments = {f"key_{number}": ["a", "b"] for number in range(0, 40, 3)}
    assert accepts(made(tools), render_call(ToolCall("f63", arguments)))
