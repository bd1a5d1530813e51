"""What fgpipe adds to vLLM: published adapters found by name, new versions taken up, calls read without loss.

vLLM finds `register` and `endpoint` through entry points named `fgpipe`, if its variable VLLM_PLUGINS holds that name.
Nothing here is imported from vLLM before vLLM asks; the other modules do so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgpipe.vllm_plugin.endpoint import AdminEndpoint

NAME = "fgpipe"
"""Of the entry points and of the tool parser."""

ADAPTERS_VARIABLE = "FGPIPE_ADAPTERS"
"""The folder of published adapters; without it no adapter is looked for."""

WATCH_VARIABLE = "FGPIPE_WATCH_S"
"""Seconds between two looks of the server itself at the pointers of names in use; unset or 0: it waits to be told."""

PORTS_VARIABLE = "FGPIPE_REPLICA_PORTS"
"""Ports of all servers that were started together with this one, its own included; separated by commas."""

ADMIN_PREFIX = "/fgpipe"
"""What stands below it asks for the administration key, if the server has one."""

REFRESH_PATH = f"{ADMIN_PREFIX}/refresh"
"""POST `{"name": "sql"}`: answer it by the version its pointer names now."""

STATUS_PATH = f"{ADMIN_PREFIX}/status"
"""GET: which versions answer, and what memory they use."""

WORKER_EXTENSION = "fgpipe.vllm_plugin.worker.AdapterSlots"
"""For vLLM's --worker-extension-cls: what STATUS_PATH asks in the worker."""

GUARD = "fgpipe.vllm_plugin.access.Access"
"""For vLLM's --middleware: a server that cannot load its guard does not start."""


def register() -> None:
    """Tell vLLM of the tool parser and the renderer, mend its CPU build; calling it again changes nothing.

    Entry point of `vllm.general_plugins`: runs in every process of a server. One that is told of no adapters folder may
    be a server of another model that merely finds us in its environment: its conversations are left alone.
    """
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.register_lazy_module(NAME, "fgpipe.vllm_plugin.tool_parser", "FgpipeToolParser")
    if os.environ.get(ADAPTERS_VARIABLE):
        from vllm.renderers.registry import RENDERER_REGISTRY

        from fgpipe.vllm_plugin import base_rows

        # Not by its `register`, which warns on every start that a name is taken: taking this one is the purpose.
        RENDERER_REGISTRY.renderers["hf"] = ("fgpipe.vllm_plugin.renderer", "FunctionGemmaRenderer")
        base_rows.mend()


def endpoint() -> AdminEndpoint:
    """Catalogue and administration routes of a server. Entry point of `vllm.endpoint_plugins`."""
    from fgpipe.vllm_plugin.endpoint import AdminEndpoint

    return AdminEndpoint()
