"""Packages that only some features need: found without importing them, and named with the extra that brings them."""

from __future__ import annotations

from importlib.util import find_spec

from fgpipe.errors import FgpipeError

EXTRAS = {
    "aiohttp": "gateway",
    "bitsandbytes": "qlora",
    "fastapi": "gateway",
    "httptools": "gateway",
    "prometheus_client": "gateway",
    "uvicorn": "gateway",
    "uvloop": "gateway",
    "vllm": "serve",
}
"""Module -> the extra of fgpipe that installs it."""


def installed(module: str) -> bool:
    """Whether `module` can be imported; does not import it."""
    return find_spec(module) is not None


def require(module: str, *, purpose: str, error: type[FgpipeError]) -> None:
    """Do nothing if `module` is installed.

    Args:
        purpose: what asked for it, as the user wrote it: "model.quantization=nf4".
        error: kind of error to raise.

    Raises:
        FgpipeError: of kind `error`, naming the command that installs the module.
    """
    if not installed(module):
        extra = EXTRAS.get(module)
        raise error(
            f"{purpose}: got no package {module}, expected it installed",
            hint=f"pip install 'fgpipe[{extra}]'" if extra else f"pip install {module}",
        )
