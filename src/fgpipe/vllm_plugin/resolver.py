"""A model name vLLM does not know -> the folder of a published adapter's version."""

from __future__ import annotations

from pathlib import Path

from vllm.logger import init_logger
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from fgpipe import adapters_folder
from fgpipe.errors import PublishError

# Under vLLM's own name: it gives only its own loggers a handler.
logger = init_logger("vllm.fgpipe.resolver")


class PublishedAdapters(LoRAResolver):  # type: ignore[misc]
    """Finds `name`, `name@vNNNN` and `name@alias` below `folder`, reading the pointer each time it is asked.

    vLLM asks once for a name and keeps the answer until that name is unloaded. The path it gets is the version's own
    folder, never the pointer, because vLLM's prefix cache takes equal paths for equal weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter to load for `lora_name`; None, which clients see as 404, if there is none of that name."""
        try:
            version = adapters_folder.resolve(self.folder, lora_name)
        except (PublishError, OSError) as error:
            logger.error("%s cannot be served: %s", lora_name, error)
            return None
        if version is None:
            return None
        logger.info("%s is answered by %s", lora_name, version)
        # vLLM replaces the id by one of its own.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(version))
