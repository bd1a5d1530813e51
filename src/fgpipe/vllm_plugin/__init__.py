"""What fgpipe adds to vLLM: published adapters found by name, new versions taken up, calls read without loss.

vLLM finds `register` and `endpoint` through entry points named `fgpipe`, if its variable VLLM_PLUGINS holds that name.
Nothing here is imported from vLLM before vLLM asks; the other modules do so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgpipe.vllm_plugin.endpoint import RefreshEndpoint

NAME = "fgpipe"
"""Of the entry points, the resolver and the tool parser."""

ADAPTERS_VARIABLE = "FGPIPE_ADAPTERS"
"""The folder of published adapters; without it no adapter is looked for."""

REFRESH_PATH = "/v1/fgpipe/refresh"
"""POST `{"name": "sql"}`: answer it by the version its pointer names now. Below /v1, so the server's key guards it."""


def register() -> None:
    """Tell vLLM of the resolver, the tool parser and the renderer; calling it again changes nothing.

    Entry point of `vllm.general_plugins`: runs in every process of a server.
    """
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tool_parsers import ToolParserManager

    # Not by its `register`, which warns on every start that a name is taken: taking this one is the purpose.
    RENDERER_REGISTRY.renderers["hf"] = ("fgpipe.vllm_plugin.renderer", "FunctionGemmaRenderer")
    ToolParserManager.register_lazy_module(NAME, "fgpipe.vllm_plugin.tool_parser", "FgpipeToolParser")
    folder = os.environ.get(ADAPTERS_VARIABLE)
    if folder and NAME not in LoRAResolverRegistry.get_supported_resolvers():
        from fgpipe.vllm_plugin.resolver import PublishedAdapters

        LoRAResolverRegistry.register_resolver(NAME, PublishedAdapters(Path(folder)))


def endpoint() -> RefreshEndpoint:
    """The route that makes a running server take up a new version. Entry point of `vllm.endpoint_plugins`."""
    from fgpipe.vllm_plugin.endpoint import RefreshEndpoint

    return RefreshEndpoint()
