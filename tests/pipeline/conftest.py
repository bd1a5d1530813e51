"""What several tests of training start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tiny_random
from fgpipe.config import ModelConfig


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other far longer than these products take."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_random.save(tmp_path_factory.mktemp("base") / "model")
