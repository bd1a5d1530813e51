"""Routes for whoever administers the server: take up a new version, say which versions answer and what memory they use.

vLLM's own way to a new version, unload and let the next request resolve the name anew, fails requests that are between
its two looks at the name, and leaves the name dark when the new version cannot be loaded. Here the new version is in
the engine before the name changes hands, in one assignment.
"""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fgpipe.errors import PublishError
from fgpipe.keys import refusal_to_listen
from fgpipe.vllm_plugin import ADAPTERS_VARIABLE, NAME, PORTS_VARIABLE, REFRESH_PATH, STATUS_PATH, WATCH_VARIABLE
from fgpipe.vllm_plugin.catalogue import Catalogue


class AdminEndpoint:
    """vLLM's `EndpointPlugin`: installs the catalogue, adds REFRESH_PATH and STATUS_PATH."""

    name = NAME
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes."""
        app.add_api_route(REFRESH_PATH, refresh, methods=["POST"])
        app.add_api_route(STATUS_PATH, status, methods=["GET"])

    async def init_state(self, engine_client: object, state: Any, args: Any) -> None:
        """Let vLLM find names through the catalogue; end the start of a server that anyone could administer.

        Nothing happens to a server that is told of no adapters folder: it may be another's, that merely finds us here.
        """
        folder = os.environ.get(ADAPTERS_VARIABLE)
        if not folder:
            return
        if reason := refusal_to_listen(args.host):
            raise RuntimeError(f"{reason}; or --host 127.0.0.1")
        catalogue = Catalogue(state.openai_serving_models, Path(folder))
        catalogue.install()
        state.fgpipe_catalogue = catalogue
        if seconds := float(os.environ.get(WATCH_VARIABLE) or 0):
            # Kept in the state: a task that nobody holds may be collected.
            state.fgpipe_watch = asyncio.create_task(catalogue.watch(seconds))


async def refresh(raw_request: Request) -> JSONResponse:
    """`{"name": "sql"}` -> `{"name", "version": "sql@v0002", "content"}` of what answers from now on; null for nobody.

    409 if its version cannot be loaded: what answered before still does.
    """
    try:
        name = (await raw_request.json())["name"]
    except (ValueError, KeyError, TypeError):
        return _refusal('got no name, expected {"name": "<adapter>"}', HTTPStatus.BAD_REQUEST)
    if not isinstance(name, str):
        return _refusal(f"name: got {type(name).__name__}, expected the name of an adapter", HTTPStatus.BAD_REQUEST)
    catalogue = _catalogue(raw_request)
    if catalogue is None:
        return _no_folder()
    try:
        found = await catalogue.take_up(name)
    except PublishError as error:
        return _refusal(f"{error.message}; what answered before still does", HTTPStatus.CONFLICT)
    content = catalogue.content(found) if found else ""
    return JSONResponse({"name": name, "version": found.lora_name if found else None, "content": content})


async def status(raw_request: Request) -> JSONResponse:
    """Which version answers every name asked for so far, and where the adapters' weights are.

    `slots` lists what is on the device, `memory` what is in memory, `evicted` what was loaded and had to make room;
    `ports` are those of the servers that were started together with this one.
    """
    catalogue = _catalogue(raw_request)
    if catalogue is None:
        return _no_folder()
    engine = catalogue.models.engine_client
    held = (await engine.collective_rpc("fgpipe_adapter_slots"))[0]
    kv_cache_bytes = (await engine.collective_rpc("fgpipe_kv_cache_bytes"))[0]
    names = {request.lora_int_id: request.lora_name for request in catalogue.known.values()}
    limits = engine.vllm_config.lora_config
    return JSONResponse(
        {
            "base": catalogue.models.base_model_paths[0].name,
            "dtype": str(engine.vllm_config.model_config.dtype).removeprefix("torch."),
            "answers": catalogue.answers(),
            "contents": catalogue.contents(),
            "max_loras": limits.max_loras,
            "max_cpu_loras": limits.max_cpu_loras,
            "slots": _named(held["slots"], names),
            "memory": _named(held["memory"], names),
            "evicted": _named(sorted(set(names) - set(held["memory"])), names),
            "kv_cache_bytes": kv_cache_bytes,
            "ports": [int(port) for port in os.environ.get(PORTS_VARIABLE, "").split(",") if port],
        }
    )


def _named(ids: list[int], names: dict[int, str]) -> list[str]:
    # Ids without a name are vLLM's own dummies of the warm-up.
    return [names[id_] for id_ in ids if id_ in names]


def _catalogue(raw_request: Request) -> Catalogue | None:
    return getattr(raw_request.app.state, "fgpipe_catalogue", None)


def _no_folder() -> JSONResponse:
    return _refusal(f"got no {ADAPTERS_VARIABLE} when this server was started, expected a folder", HTTPStatus.CONFLICT)


def _refusal(message: str, status: HTTPStatus) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status_code=status)
