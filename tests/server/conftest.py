"""One real vLLM server for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tiny_random
from fgpipe import resources
from fgpipe.config import ServerConfig
from fgpipe.serving import VllmServer
from tiny_server import SHAPE, Served, free_port


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server, started without any adapter; red and blue are published once it runs."""
    folder = tmp_path_factory.mktemp("served")
    template = (resources.PACKAGE / "functiongemma" / "template.jinja").read_text()
    model = tiny_random.save(folder / "base", shape=SHAPE, chat_template=template)
    config = ServerConfig(port=free_port(), max_model_len_tokens=2048, max_num_seqs=64, max_lora_rank=8, max_loras=4)
    server = VllmServer(model, config, adapters=folder / "adapters", log=folder / "vllm.log")
    with server:
        running = Served(server, model, folder / "adapters", folder / "workshop")
        running.publish("red", 1)
        running.publish("blue", 2)
        yield running
