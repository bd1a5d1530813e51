"""Sizes of a base as the memory planner needs them, read from its `config.json`; no weights, no transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgpipe.config import ModelShape
from fgpipe.errors import ConfigError

VOCABULARY_MULTIPLE = 64
"""vLLM pads its embedding table to this many rows (`DEFAULT_VOCAB_PADDING_SIZE`)."""

SLIDING, FULL = "sliding_attention", "full_attention"

FULL_ATTENTION_EVERY = {"Gemma2ForCausalLM": 2, "Gemma3ForCausalLM": 6}
"""Where config.json does not say it, one layer of so many looks back without limit (transformers' defaults)."""


@dataclass(frozen=True)
class Family:
    """What an architecture has beside the seven linear layers of a block."""

    norms: int
    """Vectors of hidden_size in a block."""
    head_norms: bool = False
    """Whether queries and keys are normalised, one vector of head_dim each."""
    biases: bool = False
    """Whether q, k and v have a bias."""
    embedding_slots: bool = False
    """Whether vLLM gives adapters slots over embed_tokens and lm_head too (its `embedding_modules`)."""


FAMILIES: Mapping[str, Family] = {
    "Gemma2ForCausalLM": Family(norms=4),
    "Gemma3ForCausalLM": Family(norms=4, head_norms=True),
    "LlamaForCausalLM": Family(norms=2, embedding_slots=True),
    "MistralForCausalLM": Family(norms=2),
    "Qwen2ForCausalLM": Family(norms=2, biases=True),
    "Qwen3ForCausalLM": Family(norms=2, head_norms=True, embedding_slots=True),
}
"""The dense decoders that are planned, by the name in config.json; read from vLLM 0.32's model files."""

LINEAR_BYTES: Mapping[str, float] = {"fp8": 1.0, "int8": 1.0, "int4": 0.5 + 2.5 / 128}
"""Bytes a weight of a quantised linear layer; int4 has two bytes of scale and half a byte of zero for each 128 of them
(AWQ, GPTQ)."""


@dataclass(frozen=True)
class BaseShape:
    """A dense decoder-only base."""

    family: Family
    sizes: ModelShape
    windows_tokens: tuple[int | None, ...]
    """For each layer how far it looks back; None: over everything."""
    max_position_embeddings: int
    rope_tables: int
    """Tables of cosines and sines that vLLM keeps: one, or one for each kind of attention (Gemma 3)."""
    tied_embeddings: bool
    quantization: str = "none"

    def linear_weights(self) -> int:
        """Number of weights in the linear layers of all blocks."""
        return self.sizes.num_hidden_layers * sum(i * o for i, o in self.sizes.linear_shapes().values())

    def other_weights(self) -> int:
        """Number of weights elsewhere: embeddings (padded), head if it is not tied, norms, biases."""
        sizes, family = self.sizes, self.family
        rows = -(-sizes.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        layer = family.norms * sizes.hidden_size + (2 * sizes.head_dim if family.head_norms else 0)
        if family.biases:
            layer += (sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * sizes.head_dim
        embeddings = rows * sizes.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + sizes.num_hidden_layers * layer + sizes.hidden_size


def functiongemma(sizes: ModelShape) -> BaseShape:
    """The default base, whose gated config.json need not be at hand: five layers of six look back 512 tokens.

    Raises:
        ConfigError: `sizes` are another model's.
    """
    if sizes != ModelShape():
        raise ConfigError(
            "plan: got sizes that are not FunctionGemma's and no config.json, expected the base's own",
            hint="config=FOLDER with its config.json, or model.path=FOLDER; python -m fgpipe download fetches one",
        )
    windows = tuple(None if layer % 6 == 5 else 512 for layer in range(sizes.num_hidden_layers))
    return BaseShape(FAMILIES["Gemma3ForCausalLM"], sizes, windows, 32768, rope_tables=2, tied_embeddings=True)


def read_shape(path: Path, *, quantization: str | None = None) -> BaseShape:
    """The base whose `config.json` is `path`, or in the folder `path`.

    Args:
        quantization: a name in LINEAR_BYTES or "none", instead of what the file says.

    Raises:
        ConfigError: it cannot be read, or is no base that can be planned; says what is missing.
    """
    found, where = read_file(path)
    return shape_of(found, where=where, quantization=quantization)


def read_file(path: Path) -> tuple[dict[str, Any], str]:
    """The content of the `config.json` that is `path`, or in the folder `path`, and where it stood.

    Raises:
        ConfigError: it cannot be read.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: {error}", hint="expected a model's config.json, or the folder that holds it"
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: got {type(found).__name__}, expected a JSON object")
    return found, str(file)


def shape_of(found: Mapping[str, Any], *, where: str, quantization: str | None = None) -> BaseShape:
    """The base that the content of a config.json describes; `where` it stood is for messages.

    Raises:
        ConfigError: as `read_shape`.
    """
    architecture = (found.get("architectures") or ["none"])[0]
    if architecture not in FAMILIES:
        raise ConfigError(
            f"{where}: got architecture {architecture}, expected one of {', '.join(FAMILIES)}",
            hint="only dense decoders can be planned: experts, vision towers and state spaces allocate otherwise",
        )
    needed = set(ModelShape.model_fields) - {"head_dim", "num_key_value_heads"} | {"max_position_embeddings"}
    if missing := sorted(name for name in needed if not _is_size(found.get(name))):
        raise ConfigError(f"{where}: got no {', '.join(missing)}, expected whole numbers above 0")
    heads = found["num_attention_heads"]
    sizes = ModelShape(
        **{name: found[name] for name in needed if name in ModelShape.model_fields},
        num_key_value_heads=found.get("num_key_value_heads") or heads,
        head_dim=found.get("head_dim") or found["hidden_size"] // heads,
    )
    gemma = architecture.startswith("Gemma")
    return BaseShape(
        FAMILIES[architecture],
        sizes,
        _windows(found, sizes.num_hidden_layers, where=where),
        found["max_position_embeddings"],
        rope_tables=2 if architecture == "Gemma3ForCausalLM" else 1,
        tied_embeddings=bool(found.get("tie_word_embeddings", gemma)),
        quantization=quantization or _quantization(found.get("quantization_config"), where=where),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _windows(found: Mapping[str, Any], layers: int, *, where: str) -> tuple[int | None, ...]:
    """How far each layer looks back: from layer_types, a pattern, or one window for all."""
    window = found.get("sliding_window")
    if not _is_size(window) or found.get("use_sliding_window") is False:
        return (None,) * layers
    pattern = found.get("_sliding_window_pattern") or found.get("sliding_window_pattern")
    kinds = found.get("layer_types")
    if kinds is None:
        default = FULL_ATTENTION_EVERY.get(found["architectures"][0], layers + 1)
        every: int = pattern if pattern is not None and _is_size(pattern) else default
        kinds = [FULL if layer % every == every - 1 else SLIDING for layer in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
        raise ConfigError(f"{where}: layer_types: got {kinds!r:.80}, expected {layers} of {SLIDING}, {FULL}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _quantization(found: Mapping[str, Any] | None, *, where: str) -> str:
    """Which of LINEAR_BYTES the weights on disk are in; "none" if they are not quantised."""
    if not found:
        return "none"
    method, bits = str(found.get("quant_method")), found.get("bits", found.get("w_bit"))
    known = {("fp8", None): "fp8", ("awq", 4): "int4", ("gptq", 4): "int4", ("gptq", 8): "int8"}
    if (method, bits) not in known:
        raise ConfigError(
            f"{where}: quantization_config: got {method} with {bits} bits, expected {', '.join(LINEAR_BYTES)}",
            hint="state it in the models file: quantization: int4",
        )
    return known[method, bits]
