"""The shipped tiny model: what every part of fgpipe relies on when it loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgpipe.functiongemma import SPECIAL_TOKEN_IDS, STOP_TOKEN_IDS, render
from fgpipe.models.tiny import tiny_model_path
from fgpipe.models.tiny.scoring import generate, load

LARGEST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def loaded(monkeypatch_module):
    monkeypatch_module.setenv("HF_HUB_OFFLINE", "1")
    return load(str(tiny_model_path()))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_weights_are_small_and_bfloat16():
    """A clone of the repository would grow, or a GPU would train in another precision than the card says."""
    from safetensors import safe_open

    file = tiny_model_path() / "model.safetensors"
    assert file.stat().st_size <= LARGEST_BYTES
    with safe_open(file, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118


def test_model_stops_where_functiongemma_stops(loaded):
    """Generation would run on after a call, or sample instead of answering the same each time."""
    model, _ = loaded
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert set(model.generation_config.eos_token_id) == set(STOP_TOKEN_IDS)
    assert not model.generation_config.do_sample


def test_special_tokens_have_functiongemmas_ids(loaded):
    """Anything that knows FunctionGemma's ids (masks, stops, vLLM's settings) would be wrong on the tiny model."""
    _, tokenizer = loaded
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKEN_IDS} == dict(SPECIAL_TOKEN_IDS)
    assert tokenizer("\n", add_special_tokens=False).input_ids == [107]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)


def test_only_functiongemmas_special_tokens_vanish_from_decoded_text(loaded):
    """The server would strip the marks that the tool parser needs, or leave turn marks in the answers."""
    _, tokenizer = loaded
    text = "<start_of_turn><start_function_call>call:f{a:<escape>b<escape>}<end_function_call><start_function_response>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    kept = "<start_function_call>call:f{a:<escape>b<escape>}<end_function_call>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == kept


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tokenizer_loses_nothing(loaded, text):
    """A name, a code or an emoji of a request would reach the call changed."""
    _, tokenizer = loaded
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@given(word=st.from_regex(r"[A-Z]?[a-z]{1,12}", fullmatch=True))
def test_a_space_changes_only_the_first_piece_of_a_word(loaded, word):
    """Words would be cut otherwise after a space, and copying them out of a request would be harder to learn."""
    _, tokenizer = loaded
    pieces = tokenizer.tokenize(word)
    spaced = tokenizer.tokenize(f" {word}")
    assert spaced[-len(pieces) + 1 :] == pieces[1:] or len(pieces) == 1
    assert spaced in ([f"Ġ{pieces[0]}", *pieces[1:]], ["Ġ", *pieces])


def test_template_is_fgpipes():
    """Serving renders with the folder's template: training and serving would see different prompts."""
    import fgpipe.functiongemma

    own = Path(fgpipe.functiongemma.__file__).with_name("template.jinja")
    assert (tiny_model_path() / "chat_template.jinja").read_bytes() == own.read_bytes()


def test_model_calls_a_function_it_has_never_seen(loaded):
    """The demonstration would start from a model that cannot call functions at all."""
    tool = {
        "type": "function",
        "function": {
            "name": "book_table",
            "description": "Book a table.",
            "parameters": {
                "type": "object",
                "properties": {
                    "guests": {"type": "integer", "description": "How many guests"},
                    "name": {"type": "string", "description": "The name"},
                },
                "required": ["guests", "name"],
            },
        },
    }
    messages = [
        {"role": "developer", "content": "You are a model that can do function calling with the following functions"},
        {"role": "user", "content": "Please book a table, name Zarvik, 7 guests."},
    ]
    prompt = render(messages, [tool], add_generation_prompt=True)
    (answer,) = generate(*loaded, [prompt])
    assert answer == (
        "<start_function_call>call:book_table{guests:7,name:<escape>Zarvik<escape>}<end_function_call>"
        "<start_function_response>"
    )


def test_shape_fits_the_configuration_of_the_model_group():
    """`model=tiny` declares its shape for checks without weights: they would check against another model."""
    import yaml

    folder = tiny_model_path()
    config = json.loads((folder / "config.json").read_text())
    declared = yaml.safe_load((folder.parents[1] / "conf" / "model" / "tiny.yaml").read_text())["model"]["shape"]
    assert {key: config[key] for key in declared} == declared
