"""What several unit tests start from."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


@pytest.fixture(scope="module")
def request_memory() -> Any:
    """The function with which vLLM decides, when an engine starts, whether its share is free."""
    pytest.importorskip("vllm", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and its dependencies while vLLM is imported
        from vllm.v1.worker.utils import request_memory
    return request_memory
