"""A route that swaps the version behind an adapter's name while vLLM serves it.

vLLM's own way, unload and let the next request resolve the name anew, fails requests that are between its two looks at
the name, and leaves the name dark when the new version cannot be loaded. Here the new version is in the engine before
the name changes hands, in one assignment.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from vllm.logger import init_logger
from vllm.lora.resolver import LoRAResolverRegistry

from fgpipe.vllm_plugin import NAME, REFRESH_PATH

logger = init_logger("vllm.fgpipe.endpoint")


class RefreshEndpoint:
    """vLLM's `EndpointPlugin`: adds REFRESH_PATH to the server."""

    name = NAME
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route."""
        app.add_api_route(REFRESH_PATH, refresh, methods=["POST"])

    async def init_state(self, engine_client: object, state: object, args: object) -> None:
        """Nothing: the route finds all it needs in the server's own state."""


async def refresh(raw_request: Request) -> JSONResponse:
    """`{"name", "path"}` of the version that answers now; 400 with vLLM's error shape if there is none."""
    try:
        name = (await raw_request.json())["name"]
    except (ValueError, KeyError, TypeError):
        return _refusal('got no name, expected {"name": "<adapter>"}')
    if not isinstance(name, str):
        return _refusal(f"name: got {type(name).__name__}, expected the name of an adapter")
    try:
        path = await take_up(raw_request.app.state.openai_serving_models, name)
    except Exception as error:
        # Whatever the engine found wrong with the files: the old version still answers.
        logger.exception("%s could not be taken up", name)
        return _refusal(f"{name}: its current version cannot be loaded ({error}); the version before it still answers")
    return JSONResponse({"name": name, "path": path}) if path else _refusal(f"{name}: no such adapter is published")


async def take_up(models: Any, name: str) -> str | None:
    """Load what the resolver finds for `name` now and let it answer; its folder, or None if there is no such adapter.

    Args:
        models: vLLM's `OpenAIServingModels`; what is done to it is what its own `resolve_lora` does.
    """
    async with models.lora_resolver_lock[name]:
        wanted = await LoRAResolverRegistry.get_resolver(NAME).resolve_lora(models.model_config.model, name)
        if wanted is None:
            return None
        serving = models.lora_requests.get(name)
        if serving is None or serving.lora_path != wanted.lora_path:
            # A new id, so that requests in flight keep their weights.
            wanted.lora_int_id = models.lora_id_counter.inc(1)
            await models.engine_client.add_lora(wanted)
            models.lora_requests[name] = wanted
        return str(wanted.lora_path)


def _refusal(message: str) -> JSONResponse:
    status = HTTPStatus.BAD_REQUEST
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status_code=status)
