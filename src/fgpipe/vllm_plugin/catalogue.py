"""Which version answers which model name in this server, and the swap from one to the next without a lost request.

vLLM's own registry gives every name one engine id and tells adapters in a batch apart by their *name* alone
(`LoRARequest.__eq__`). While a name changes hands, a batch holds the old and the new version under one name; vLLM then
takes one of the two for both and its engine dies. So every version is a name of its own in the engine, `sql@v0002`,
with one id for the life of the server, and what clients ask for points to it. Answers carry that name as `model`.
"""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList
from vllm.logger import init_logger
from vllm.lora.request import LoRARequest

from fgpipe import adapters_folder
from fgpipe.errors import PublishError
from fgpipe.vllm_plugin.metrics import load_counters

# Under vLLM's own name: it gives only its own loggers a handler.
logger = init_logger("vllm.fgpipe.catalogue")


class Catalogue:
    """The adapters below `folder` as one server knows them.

    Args:
        models: vLLM's `OpenAIServingModels`.
        folder: the published adapters; a name's pointer is read each time the name is looked up.
    """

    def __init__(self, models: Any, folder: Path) -> None:
        self.models = models
        self.folder = folder
        self.known: dict[tuple[str, str], LoRARequest] = {}
        """Every version this server was ever asked for, by its folder and the digest in its manifest.

        The digest tells a version from another that took its number after somebody had deleted the folder.
        """
        self._turn = asyncio.Lock()

    def install(self) -> None:
        """Let vLLM look names up here; its own way would give one version several ids."""
        self.models.lora_requests = _Present(self.models.lora_requests)
        self.models.resolve_lora = self.resolve_lora
        self.models.show_available_models = self.show_available_models

    async def resolve_lora(self, name: str) -> LoRARequest | ErrorResponse:
        """What vLLM calls for a model name that has no version yet: the version loaded for it, or why there is none."""
        try:
            found = await self.take_up(name, again=False)
        except PublishError as error:
            logger.error("%s cannot be served: %s", name, error)
            return create_error_response(error.message, "BadRequestError", HTTPStatus.BAD_REQUEST)
        if found is None:
            message = f"{name}: got a name that is not published"
            return create_error_response(message, "NotFoundError", HTTPStatus.NOT_FOUND)
        return found

    async def take_up(self, name: str, *, again: bool = True) -> LoRARequest | None:
        """Load the version `name` means now and let it answer; None, and the name forgotten, if it is not published.

        Requests in flight finish on the version they began with.

        Args:
            again: read the pointer even if a version answers already.

        Raises:
            PublishError: the pointer is damaged, or the version cannot be loaded; what answered before still does.
        """
        async with self._turn:
            serving: LoRARequest | None = self.models.lora_requests.get(name)
            if serving is not None and not again:
                return serving
            # In a thread: the folder may be a network drive, and every stream of the server waits for this loop.
            version = await asyncio.to_thread(self._version, name)
            if version is None:
                await self._forget(name)
                return None
            request = self._request(version, await asyncio.to_thread(adapters_folder.content_of, version))
            if serving is not request:
                await self._load(request)
                self.models.lora_requests[name] = request
                logger.info("%s is answered by %s", name, version)
            return request

    async def watch(self, every_s: float) -> None:
        """Take up what the pointers of names in use say, again and again, without being told."""
        faults: dict[str, str] = {}
        while True:
            await asyncio.sleep(every_s)
            for name in list(self.models.lora_requests):
                try:
                    await self.take_up(name)
                    faults.pop(name, None)
                except PublishError as error:
                    if faults.get(name) != error.message:
                        logger.error("%s: %s; what answered before still does", name, error.message)
                    faults[name] = error.message

    async def _forget(self, name: str) -> None:
        """Drop a name that is published no more; a finished trial leaves the engine's memory too."""
        request = self.models.lora_requests.pop(name, None)
        if request is not None and adapters_folder.is_candidate(name.partition("@")[2]):
            await self.models.engine_client.remove_lora(request.lora_int_id)
            self.known = {key: known for key, known in self.known.items() if known is not request}

    def _version(self, name: str) -> Path | None:
        try:
            return adapters_folder.resolve(self.folder, name)
        except OSError as error:
            raise PublishError(f"{name}: {error}") from error

    def _request(self, version: Path, content: str) -> LoRARequest:
        """The one engine request for this folder and content."""
        path = str(version)
        if (path, content) not in self.known:
            name = adapters_folder.full_name(version)
            if any(known == path for known, _ in self.known):
                name += f"+{content[:12] or 'unknown'}"
            self.known[path, content] = LoRARequest(
                lora_name=name, lora_int_id=self.models.lora_id_counter.inc(1), lora_path=path
            )
        return self.known[path, content]

    async def _load(self, request: LoRARequest) -> None:
        try:
            await self.models.engine_client.add_lora(request)
        except Exception as error:
            load_counters().failures.labels(request.lora_name).inc()
            raise PublishError(
                f"{request.lora_name}: got {error}, expected an adapter that vLLM can load",
                hint=f"python -m fgpipe validate {request.lora_path}",
            ) from error
        load_counters().loads.labels(request.lora_name).inc()

    def answers(self) -> dict[str, str]:
        """The version behind every name that clients asked for, such as `{"sql": "sql@v0002"}`."""
        return {name: request.lora_name for name, request in self.models.lora_requests.items()}

    def contents(self) -> dict[str, str]:
        """The digest of every version that answers, by its name in the engine."""
        answering = {request.lora_int_id for request in self.models.lora_requests.values()}
        return {
            request.lora_name: content
            for (_, content), request in self.known.items()
            if request.lora_int_id in answering
        }

    def content(self, request: LoRARequest) -> str:
        """The digest of one version."""
        return next((content for (_, content), known in self.known.items() if known is request), "")

    async def show_available_models(self) -> ModelList:
        """What `/v1/models` lists: the base, every published name, and versions that were asked for by number."""
        listed = await self.models.registry.show_available_models()
        base = self.models.base_model_paths[0].name
        versions = await asyncio.to_thread(self._listed, dict(self.models.lora_requests))
        listed.data.extend(ModelCard(id=name, root=versions[name], parent=base) for name in sorted(versions))
        return listed  # type: ignore[no-any-return]

    def _listed(self, serving: dict[str, LoRARequest]) -> dict[str, str]:
        """Names and folders of what is published or answers; adapters on trial are nobody's business."""
        versions = {
            name: request.lora_path
            for name, request in serving.items()
            if not adapters_folder.is_candidate(name.partition("@")[2])
        }
        for name in adapters_folder.names_in(self.folder):
            try:
                version = self._version(name)
            except PublishError as error:
                logger.error("%s cannot be served: %s", name, error)
                continue
            if version is not None:
                versions.setdefault(name, str(version))
        return versions


class _Present(dict[str, LoRARequest]):
    """vLLM's table of names, without those whose files are gone: loading one inside a batch would end the engine."""

    def __contains__(self, name: object) -> bool:
        request = self.get(name)  # type: ignore[call-overload]
        if request is None:
            return False
        try:
            os.stat(os.path.join(request.lora_path, adapters_folder.ADAPTER_FILES[1]))
        except (FileNotFoundError, NotADirectoryError):
            logger.error("%s: %s is gone; the name is looked up anew", name, request.lora_path)
            del self[name]  # type: ignore[arg-type]
            return False
        except OSError:
            pass  # a drive that hiccups: the weights are most likely in memory
        return True
