"""The transformers engine on a small random model: the batch does not matter, and no failure looks like an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_random
from fgpipe.config import ModelConfig
from fgpipe.engines.hf import HfEngine
from fgpipe.engines.protocol import Engine, GenerationError
from fgpipe.errors import EvaluationError
from fgpipe.functiongemma import STOP_TOKEN_IDS, tokens

PROMPTS = [
    f"<bos><start_of_turn>user\n{word * length}<end_of_turn>\n<start_of_turn>model\n"
    for word, length in [("lamp ", 1), ("on", 30), ("x", 1), ("door? ", 9), ("a b c ", 17), ("x", 1), ("7", 80)]
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig) -> Path:
    """A LoRA folder with weights large enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    wrapped = get_peft_model(
        tiny_random.model(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"])
    )
    draw = torch.Generator().manual_seed(1)
    for name, weights in wrapped.named_parameters():
        if "lora_" in name:
            weights.data = torch.randn(weights.shape, generator=draw)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model: ModelConfig, adapter: Path) -> Iterator[HfEngine]:
    with HfEngine(model, adapter, batch_size=4) as opened:
        yield opened


def texts(engine: Engine, prompts: list[str], max_new_tokens: int = 8) -> list[str]:
    """The texts of the answers."""
    return [answer.text for answer in engine.generate(prompts, max_new_tokens=max_new_tokens)]


def test_answers_do_not_depend_on_the_batch(engine: HfEngine, model: ModelConfig, adapter: Path) -> None:
    """If padding or neighbours leaked into an answer, scores would change with evaluate.batch_size."""
    together = engine.generate(PROMPTS, max_new_tokens=8)
    assert len({answer.text for answer in together}) > 3, (
        "the model answers everything alike: the test would prove nothing"
    )
    alone = [engine.generate([prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    assert alone == together
    assert engine.generate(PROMPTS[::-1], max_new_tokens=8) == together[::-1]
    with HfEngine(model, adapter, batch_size=32) as wider:
        assert wider.generate(PROMPTS, max_new_tokens=8) == together


def test_answers_are_those_of_a_plain_greedy_loop(engine: HfEngine) -> None:
    """The engine must be greedy decoding and nothing else: no sampling, penalties or settings of the model's folder."""
    import torch

    plain, tokenizer = tiny_random.model(), tiny_random.tokenizer()
    for prompt, answer in zip(PROMPTS, engine.base_only().generate(PROMPTS, max_new_tokens=6), strict=True):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        made: list[int] = []
        while len(made) < 6 and not (made and made[-1] in STOP_TOKEN_IDS):
            with torch.no_grad():
                made.append(int(plain(torch.tensor([ids + made])).logits[0, -1].argmax()))
        assert answer.token_ids == made


def test_one_loaded_model_answers_as_base_and_as_adapter(engine: HfEngine, model: ModelConfig) -> None:
    """Base and adapter share one load; if the adapter stayed on, the comparison would be of a thing with itself."""
    with HfEngine(model) as base:
        expected = texts(base, PROMPTS)
    before, tuned, after = (
        texts(engine.base_only(), PROMPTS),
        texts(engine, PROMPTS),
        texts(engine.base_only(), PROMPTS),
    )
    assert before == after == expected
    assert tuned != expected


@pytest.mark.parametrize("stop", STOP_TOKEN_IDS)
def test_generation_ends_at_each_stop(stop: int, model: ModelConfig) -> None:
    """A stop that is missed makes every answer run on to the limit and end in garbage."""
    import torch

    with HfEngine(model) as engine:
        head = torch.nn.Linear(model.shape.hidden_size, model.shape.vocab_size, bias=True)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        head.bias.data[stop] = 1
        engine._model.lm_head = head
        answers = engine.generate(PROMPTS[:2], max_new_tokens=5)
    assert [(answer.text, answer.token_ids, answer.finish_reason) for answer in answers] == [("", [stop], "stop")] * 2


def test_answer_at_the_limit_says_so(engine: HfEngine) -> None:
    """A cut answer may be half a call; the report counts them."""
    for answer in engine.generate(PROMPTS, max_new_tokens=2):
        assert (answer.finish_reason == "length") == (answer.token_ids[-1] not in STOP_TOKEN_IDS)
        assert len(answer.token_ids) <= 2


def test_text_keeps_control_tokens(model: ModelConfig) -> None:
    """Calls consist of control tokens: without them nothing could be parsed."""
    with HfEngine(model) as engine:
        call = f"{tokens.START_CALL}call:f{{a:{tokens.ESCAPE}x y{tokens.ESCAPE}}}{tokens.END_CALL}"
        ids = engine._tokenizer(call, add_special_tokens=False)["input_ids"]
        assert engine._completion([*ids, 50, 0, 0]).text == call
        assert engine._completion([*ids, 50, 0, 0]).token_ids == [*ids, 50]


def test_nan_is_a_failure_that_names_its_prompt(model: ModelConfig) -> None:
    """Broken weights must not be scored as a bad model: greedy search would quietly take token 0."""
    with HfEngine(model, batch_size=2) as engine:
        place = 3
        letters = {token for prompt in PROMPTS[:3] + PROMPTS[4:] for token in engine._tokenizer(prompt)["input_ids"]}
        rare = next(token for token in engine._tokenizer(PROMPTS[place])["input_ids"] if token not in letters)
        engine._model.get_input_embeddings().weight.data[rare] = float("nan")
        engine._model.lm_head.weight = type(engine._model.lm_head.weight)(
            engine._model.lm_head.weight.detach().nan_to_num()
        )
        with pytest.raises(GenerationError, match="NaN") as caught:
            engine.generate(PROMPTS, max_new_tokens=3)
    assert caught.value.places == (place,)


@pytest.mark.parametrize("prompt", ["", "x" * 5000])
def test_prompt_that_does_not_fit_names_its_place(prompt: str, engine: HfEngine) -> None:
    """A prompt longer than the context would be answered from a cut one."""
    with pytest.raises(GenerationError, match="tokens") as caught:
        engine.generate([PROMPTS[0], prompt], max_new_tokens=8)
    assert caught.value.places == (1,)


def test_no_prompts_give_no_answers(engine: HfEngine) -> None:
    """An empty list is not an error of the engine."""
    assert engine.generate([], max_new_tokens=4) == []


def test_adapter_that_does_not_fit_is_refused(model: ModelConfig, adapter: Path, tmp_path: Path) -> None:
    """PEFT only warns of missing tensors and is silent about surplus ones: half an adapter would be scored."""
    from safetensors.torch import load_file, save_file

    with pytest.raises(EvaluationError, match=r"adapter_config\.json"), HfEngine(model, tmp_path):
        pass
    (tmp_path / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    with pytest.raises(EvaluationError, match=r"adapter_model\.safetensors"), HfEngine(model, tmp_path):
        pass
    weights = load_file(adapter / "adapter_model.safetensors")
    partial = {name: tensor for name, tensor in weights.items() if "layers.0." in name}
    save_file(partial, tmp_path / "adapter_model.safetensors")
    with pytest.raises(EvaluationError, match="do not fit"), HfEngine(model, tmp_path):
        pass
    deeper = {name.replace("layers.0.", "layers.7."): tensor.clone() for name, tensor in partial.items()}
    save_file({**weights, **deeper}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(EvaluationError, match="do not fit"), HfEngine(model, tmp_path):
        pass
    save_file(
        {name: tensor[..., :-1].contiguous() for name, tensor in weights.items()},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(EvaluationError, match="do not fit"), HfEngine(model, tmp_path):
        pass
