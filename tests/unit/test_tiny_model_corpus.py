"""The corpus of the tiny model: what it may not contain, and that what trains is what the format says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fgpipe.functiongemma import parse, render, segments
from fgpipe.models.tiny import corpus, tiny_model_path
from fgpipe.models.tiny.batches import LONGEST_ROW, PROMPT_WEIGHT, Encoder, pack
from fgpipe.models.tiny.scoring import prompt_and_answer, wilson

DATA = Path(__file__).resolve().parents[2] / "data"


def rows(count: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [corpus.row(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def shipped() -> list[dict]:
    files = [DATA / task / "rows.jsonl" for task in ("sql", "email", "math")]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_corpus_holds_no_shipped_tool_and_no_forbidden_text(shipped):
    """The base model would know the tasks beforehand, and the gain of fine-tuning would be a show."""
    names = {tool["function"]["name"] for row in shipped for tool in row["tools"]}
    assert names
    for row in rows(3000):
        assert not corpus.FORBIDDEN.search(render(row["messages"], row["tools"]))
        assert names.isdisjoint(tool["function"]["name"] for tool in row["tools"])


def test_corpus_holds_no_shipped_request(shipped):
    """As above: no request of a task may have been pretrained on."""

    def requests(found: list[dict]) -> set[str]:
        return {m["content"].casefold() for row in found for m in row["messages"] if m["role"] == "user"}

    asked_for_functions = requests([row for row in shipped if row["messages"][-1].get("tool_calls")])
    assert asked_for_functions.isdisjoint(requests(rows(3000, seed=1)))


@pytest.mark.parametrize("skill", corpus.SKILLS)
def test_calls_name_declared_tools_and_give_what_they_require(skill):
    """The model would learn to call functions that nobody declared, or to leave required arguments out."""
    rng = random.Random(skill)
    for row in (corpus.SKILLS[skill][1](rng) for _ in range(150)):
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        assert len(schemas) == len(row["tools"])
        for call in (c["function"] for m in row["messages"] for c in m.get("tool_calls", ())):
            schema = schemas[call["name"]]
            assert set(schema.get("required", ())) <= set(call["arguments"]) <= set(schema.get("properties", {}))


@pytest.mark.parametrize("skill", corpus.SKILLS)
def test_what_is_trained_parses_back_to_the_calls(skill):
    """The model would be trained on text that fgpipe's own parser reads otherwise."""
    rng = random.Random(f"{skill}-parse")
    for row in (corpus.SKILLS[skill][1](rng) for _ in range(100)):
        trained = "".join(segment.text for segment in segments(row["messages"], row["tools"]) if segment.trained)
        given = [(call.name, call.arguments) for call in parse(trained)]
        wanted = [c["function"] for m in row["messages"] for c in m.get("tool_calls", ())]
        assert given == [(call["name"], call["arguments"]) for call in wanted]


def test_stream_is_the_same_for_a_seed_whatever_the_hash_seed():
    """A rebuild would train on another corpus than the one that was scored."""
    import subprocess
    import sys

    script = (
        "import hashlib, json, random; from fgpipe.models.tiny import corpus; rng = random.Random(7);"
        "print(hashlib.sha256(json.dumps([corpus.row(rng) for _ in range(300)]).encode()).hexdigest())"
    )
    source = str(DATA.parent / "src")
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": source, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


@pytest.fixture(scope="module")
def encoder():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model_path() / "tokenizer.json"))
    return tokenizer, Encoder(tokenizer)


def test_remembered_pieces_encode_as_the_tokenizer_does(encoder):
    """The model would be pretrained on other tokens than it is used with."""
    tokenizer, fast = encoder
    for row in rows(200, seed=2):
        text = render(row["messages"], row["tools"])
        assert fast.row(row)[0] == tokenizer.encode(text, add_special_tokens=False).ids


def test_batches_predict_the_next_token_of_their_own_row(encoder):
    """Rows packed side by side would be taught to continue into each other."""
    import numpy

    _, fast = encoder
    encoded = [fast.row(row) for row in rows(40, seed=3)]
    encoded = [row for row in encoded if len(row[0]) <= LONGEST_ROW]
    batch = pack(iter(encoded), 4 * LONGEST_ROW)
    ends = list(dict.fromkeys(batch.bounds.tolist()))
    for start, end, (ids, weights) in zip(ends[:-2], ends[1:-1], encoded, strict=False):
        assert batch.ids[start:end].tolist() == ids
        assert batch.position[start:end].tolist() == list(range(len(ids)))
        assert batch.targets[start : end - 1].tolist() == ids[1:]
        assert numpy.allclose(batch.weights[start : end - 1], weights[1:], atol=1e-3)
        assert batch.weights[end - 1] == 0
    assert not batch.weights[ends[-2] :].any()
    assert set(numpy.unique(batch.weights)) <= set(numpy.array([0, PROMPT_WEIGHT, 1], numpy.float16))


def test_answer_is_the_last_thing_the_model_must_produce():
    """Scores of the card would count text that the prompt already shows."""
    for row in rows(100, seed=4):
        prompt, answer = prompt_and_answer(row)
        assert render(row["messages"], row["tools"]).startswith(prompt + answer)
        assert answer.endswith(("<start_function_response>", "<end_of_turn>"))


def test_wilson_interval_against_published_values():
    """Intervals of the card would promise more than was measured (values: Newcombe 1998, method 3)."""
    assert wilson(81, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert wilson(0, 20) == pytest.approx((0.0, 16.11), abs=0.01)


def test_network_of_the_pretraining_is_the_model_of_transformers():
    """The weights would be trained under one arithmetic and used under another."""
    import torch

    from fgpipe.models.tiny.network import Shape, initial, logits, to_transformers

    shape = Shape(hidden=64, intermediate=96, layers=3, heads=2, head=32, vocabulary=300, window=16, full_every=3)
    weights = {name: value.detach() for name, value in initial(shape, seed=0, device="cpu").items()}
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        if "norm" in name:
            value.normal_(std=0.3, generator=generator)
    model = to_transformers(weights, shape)
    sizes = [40, 7, 25]
    ids = torch.randint(0, 300, (sum(sizes),), generator=generator)
    bounds = torch.tensor([0, 40, 47, 72], dtype=torch.int32)
    position = torch.cat([torch.arange(size) for size in sizes])
    with torch.no_grad():
        packed = logits(weights, shape, ids, position, bounds, 40, torch.float32)
        apart = torch.cat([model(input_ids=row[None]).logits[0] for row in ids.split(sizes)])
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)
