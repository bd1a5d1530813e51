"""The base and the adapters that `serving.py` serves, made here: random weights, on which speed does not depend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fgpipe import resources
from fgpipe.compose import compose
from fgpipe.config import ModelConfig, ModelShape
from fgpipe.functiongemma import tokens
from fgpipe.serving.shapes import read_shape


def make_base(folder: Path, kind: str) -> ModelConfig:
    """The base to serve: the shipped tiny model, or FunctionGemma's exact shape with random weights, made in `folder`.

    Speed does not depend on the weights' values. The tokenizer splits words at spaces and has FunctionGemma's control
    tokens at their ids.
    """
    if kind == "tiny":
        return compose(["model=tiny"]).model
    path = folder / "functiongemma-shape"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        _write_base(path)
        (path / "done").touch()
    return ModelConfig(name="functiongemma-shape", id="random/functiongemma-270m-shape", path=str(path))


def _write_base(path: Path) -> None:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    shape = ModelShape()
    config = Gemma3TextConfig(
        **shape.model_dump(), sliding_window=512, query_pre_attn_scalar=256, max_position_embeddings=32768
    )
    config.architectures = ["Gemma3ForCausalLM"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Gemma3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = list(tokens.STOP_TOKEN_IDS)
    model.save_pretrained(path)
    _write_tokenizer(path, shape.vocab_size)


def _write_tokenizer(path: Path, size: int) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = {id_: text for text, id_ in tokens.SPECIAL_TOKEN_IDS.items()}
    words = {control.get(id_, f"t{id_}"): id_ for id_ in range(size)}
    built = Tokenizer(models.WordLevel(words, unk_token=tokens.UNK))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    flags = tokens.SPECIAL_FLAGS
    built.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in flags if flags[text]])
    built.add_tokens([AddedToken(text, special=False, normalized=False) for text in flags if not flags[text]])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token=tokens.PAD,
        eos_token=tokens.EOS,
        bos_token=tokens.BOS,
        unk_token=tokens.UNK,
        model_max_length=32768,
    )
    whole.chat_template = (resources.PACKAGE / "functiongemma" / "template.jinja").read_text()
    whole.save_pretrained(path)


def make_adapters(folder: Path, model: ModelConfig, count: int) -> list[str]:
    """Publish `count` random adapters of all seven layers in `folder`, of rank 32 and 16 in turns; their names."""
    shape = read_shape(resources.resolve(str(model.path))).sizes
    names = [f"a{number:02d}" for number in range(count)]
    for number, name in enumerate(names):
        channel = folder / name / "channel.json"
        if not channel.exists():
            _write_version(folder / name / "v0001", model, shape, rank=(32, 16)[number % 2], seed=number)
            channel.write_text(json.dumps({"current": "v0001", "previous": None, "aliases": {}, "last": 1}))
    return names


def _write_version(version: Path, model: ModelConfig, shape: ModelShape, *, rank: int, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.num_hidden_layers):
        for module, (inner, outer) in shape.linear_shapes().items():
            block = "self_attn" if module[0] in "qkvo" else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{block}.{module}"
            for part, size in (("lora_A", (rank, inner)), ("lora_B", (outer, rank))):
                tensors[f"{stem}.{part}.weight"] = (torch.randn(size, generator=generator) * 0.02).bfloat16()
    version.mkdir(parents=True, exist_ok=True)
    save_file(tensors, version / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.id,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(shape.linear_shapes()),
    }
    (version / "adapter_config.json").write_text(json.dumps(settings))
    files = {path.name: {"bytes": path.stat().st_size} for path in version.iterdir()}
    manifest = {"base": {"id": model.id}, "created": "", "files": files, "scores": {}}
    (version / "manifest.json").write_text(json.dumps(manifest))
