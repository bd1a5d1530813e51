"""A real vLLM server over a random base, with adapters that change its answers: what the server tests talk to."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_random
from fgpipe.config import LINEAR_MODULES, ModelConfig, ModelShape
from fgpipe.engines.http import HttpEngine
from fgpipe.errors import ServeError
from fgpipe.serving import VllmServer
from fgpipe.serving.process import require_free_port

# Wider than the other tests' model: vLLM's CPU attention starts at 32 a head, and its answers should vary.
SHAPE = ModelShape(
    vocab_size=384,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
)


@dataclass(frozen=True)
class Served:
    """A running server, and what it serves."""

    server: VllmServer
    model: ModelConfig
    adapters: Path
    workshop: Path
    """Where adapters are made before they are published."""

    def answer(self, name: str, prompt: str, *, tokens: int = 12) -> list[int]:
        """Ids of the greedy answer by the base or adapter `name`."""
        return HttpEngine(self.server.base_url, name).generate([prompt], max_new_tokens=tokens)[0].token_ids

    def expected(self, adapter: Path | None, prompt: str, *, tokens: int = 12) -> list[int]:
        """Ids of the greedy answer by transformers + PEFT."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.model.path, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(adapter)) if adapter else base
        ids = tiny_random.tokenizer()(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            generated = model.eval().generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
            )
        return [int(token) for token in generated[0, ids.shape[1] :]]

    def make(self, seed: int) -> Path:
        """A LoRA folder with weights from `seed`, large enough to change every answer."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = self.workshop / str(seed)
        if not folder.exists():
            base = AutoModelForCausalLM.from_pretrained(self.model.path, dtype=torch.float32)
            config = LoraConfig(r=4, lora_alpha=8, target_modules=list(LINEAR_MODULES), task_type="CAUSAL_LM")
            model = get_peft_model(base, config)
            generator = torch.Generator().manual_seed(seed)
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.data.normal_(0, 0.2, generator=generator)
            model.save_pretrained(folder)
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": self.model.id}))
        return folder

    def publish(self, name: str, seed: int) -> Path:
        """Make the adapter of `seed` the live version of `name`; the version's folder."""
        versions = sorted(path.name for path in (self.adapters / name).glob("v*"))
        version = f"v{len(versions) + 1:04d}"
        target = self.adapters / name / version
        shutil.copytree(self.make(seed), target)
        (target / "manifest.json").write_text("{}")
        self.point(name, version)
        return target

    def point(self, name: str, version: str) -> None:
        """Move the pointer of `name`."""
        pointer = {"current": version, "previous": None, "aliases": {"first": "v0001"}}
        (self.adapters / name / "channel.json").write_text(json.dumps(pointer))


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of `count` ports in a row at which nobody listens, below those that clients are given by the system."""
    while True:
        first = random.randrange(20000, 32000)
        try:
            for place in range(count):
                require_free_port("127.0.0.1", first + place)
        except ServeError:
            continue
        return first


def gone(pid: int) -> bool:
    """Whether `pid` ended; waits a moment for init to bury it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def free_tools() -> list[dict[str, Any]]:
    """`chat_tools` whose calls the server's grammar does not hold to the schema."""
    return [{**tool, "function": {**tool["function"], "strict": False}} for tool in chat_tools()]


def chat_tools() -> list[dict[str, Any]]:
    """Tools with what vLLM's stock parser loses: dots and dashes in the name, types, nesting, no arguments at all."""
    properties = {
        "level": {"type": "integer", "description": "0 to 10"},
        "mute": {"type": "boolean", "description": "Silence it"},
        "label": {"type": "string", "description": "Shown name"},
        "options": {
            "type": "object",
            "description": "More",
            "properties": {"steps": {"type": "array", "description": "s", "items": {"type": "number"}}},
        },
    }
    parameters = {"type": "object", "properties": properties, "required": ["level"]}
    return [
        {
            "type": "function",
            "function": {"name": "audio.set-volume", "description": "Sets the volume", "parameters": parameters},
        },
        {
            "type": "function",
            "function": {
                "name": "ping",
                "description": "Says hello",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]
