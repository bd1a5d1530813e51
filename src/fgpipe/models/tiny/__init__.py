"""The tiny model: a few million parameters that call functions in general, so that the whole line runs anywhere."""

from __future__ import annotations

from pathlib import Path

from fgpipe.errors import ModelError

DESCRIPTION = "A Gemma 3 of 5.8 million parameters, pretrained from nothing on a synthetic function-calling corpus"


def tiny_model_path() -> Path:
    """The folder of the tiny model: `data/tiny` of a checkout, or the package's copy when installed from a wheel.

    Raises:
        ModelError: neither folder holds the weights.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package.parents[1] / "data" / "tiny", package / "_data" / "tiny"):
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelError(
        "tiny model: got no model.safetensors in data/tiny or in the installed package, expected its weights",
        hint="reinstall fgpipe, or rebuild it on a GPU: python -m fgpipe.models.tiny.pretrain --out data/tiny",
    )
