"""The capacity planner against vLLM: what it reckons, and what vLLM's engine really holds and logs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vllm_allocation
from fgpipe import resources
from fgpipe.serving import memory, shapes
from fgpipe.serving.memory import GIB, EngineMemory, EngineSettings, engine_memory
from tiny_server import Served

pytestmark = pytest.mark.server

SMALL: dict[str, Any] = {
    "vocab_size": 400,  # no multiple of 64, to which vLLM pads
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
GEMMA: dict[str, Any] = {
    **SMALL,
    "num_hidden_layers": 5,
    "head_dim": 32,
    "sliding_window": 256,
    "query_pre_attn_scalar": 32,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}

BASES: dict[str, dict[str, Any]] = {
    "gemma2": {**GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"},
    "gemma2, nine": {
        **GEMMA,
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "num_hidden_layers": 9,  # five and four layers: one group of each kind, the smaller one padded
    },
    "llama": {**SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False},
    "qwen2": {**SMALL, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**SMALL, "head_dim": 32, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "mistral": {**SMALL, "sliding_window": 256, "architectures": ["MistralForCausalLM"], "model_type": "mistral"},
}

LORA = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 8}

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"max_model_len": 4096, "max_num_seqs": 256, "enable_lora": True, "max_loras": 8, "max_lora_rank": 32},
    "tiny, short": {"max_model_len": 512, "max_num_seqs": 2, **LORA},
    "tiny, odd": {"max_model_len": 3001, "max_num_seqs": 7, **LORA, "lora_target_modules": ["k_proj", "down_proj"]},
    "gemma2": {"max_model_len": 4096, "max_num_seqs": 8},
    "gemma2, nine": {"max_model_len": 3000, "max_num_seqs": 1},
    "llama": {"max_model_len": 2048, "max_num_seqs": 8, **LORA},
    "qwen2": {"max_model_len": 1024, "max_num_seqs": 8, **LORA, "lora_target_modules": ["q_proj", "down_proj"]},
    "qwen3": {"max_model_len": 2048, "max_num_seqs": 8, **LORA},
    "mistral": {"max_model_len": 4096, "max_num_seqs": 1, **LORA},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    for name, config in BASES.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    return {case: root / case if case in BASES else resources.folder("data") / "tiny" for case in CASES}


@pytest.fixture(scope="module")
def measured(folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What vLLM allocated in each case; a process of its own, as its engines change the process that they run in."""
    cases = [{"model": str(folders[case]), **arguments} for case, arguments in CASES.items()]
    done = subprocess.run(
        [sys.executable, vllm_allocation.__file__, json.dumps(cases)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


def planned(folder: Path, arguments: dict[str, Any]) -> tuple[EngineMemory, EngineSettings]:
    length, seqs = arguments["max_model_len"], arguments["max_num_seqs"]
    tokens = memory.batched_tokens(
        max_num_seqs=seqs, max_model_len_tokens=length, chunked_prefill=True, total_bytes=None
    )
    modules = arguments.get("lora_target_modules")
    settings = EngineSettings(
        length,
        seqs,
        tokens,
        element_bytes=4,
        max_loras=arguments.get("max_loras", 0),
        max_lora_rank=arguments.get("max_lora_rank", 16),
        lora_modules=tuple(modules) if modules else None,
        cpu=True,
    )
    return engine_memory(shapes.read_shape(folder), settings), settings


@pytest.mark.parametrize("case", CASES)
def test_vllm_allocates_what_was_planned(
    case: str, folders: dict[str, Path], measured: dict[str, dict[str, Any]]
) -> None:
    """A server would not start with the planned settings, or hold fewer sequences than promised."""
    plan, settings = planned(folders[case], CASES[case])
    real = measured[case]
    assert (plan.weights, plan.rope, plan.lora) == (real["weights"], real["rope"], real["lora"])
    assert settings.max_num_batched_tokens == real["batched_tokens"]
    assert settings.in_flight_tokens == real["in_flight_tokens"]
    assert plan.kv.tokens(vllm_allocation.KV_BYTES) == real["tokens"]
    assert plan.kv.concurrency(vllm_allocation.KV_BYTES) == real["concurrency"]


def test_a_running_server_logs_what_was_planned(served: Served) -> None:
    """Whoever compares the server's log with the plan would find two different numbers, and trust neither."""
    config = served.server.server
    assert served.model.path is not None
    arguments = {"max_model_len": config.max_model_len_tokens, "max_num_seqs": config.max_num_seqs}
    plan, _ = planned(Path(served.model.path), arguments)
    log = served.server.log.read_text(errors="replace")
    found = re.search(r"CPU KV cache size: ([\d,]+) tokens, Maximum concurrency for 2,048 tokens .*: ([\d.]+)x", log)
    assert found is not None
    kv_bytes = config.cpu_kv_cache_gib * GIB
    assert (f"{plan.kv.tokens(kv_bytes):,}", f"{plan.kv.concurrency(kv_bytes):.2f}") == (found[1], found[2])
