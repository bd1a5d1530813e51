"""The command `download`: its words, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fgpipe.errors import ConfigError
from fgpipe.models import download as models

OPTIONS = ("to", "link")
"""The command's own words."""


def download(requests: Sequence[str], options: Mapping[str, str], *, as_json: bool) -> None:
    """Fetch every model of `requests` into the folder `to`, and print where each is.

    Raises:
        ConfigError: a word that cannot be understood.
        ModelError: as `fgpipe.models.download.download`.
    """
    if not requests:
        raise ConfigError("download: got no model, expected one or more ids", hint=models.EXAMPLE)
    if not options.get("to"):
        raise ConfigError("to: got nothing, expected the folder for the models", hint=models.EXAMPLE)
    link = options.get("link", "false")
    if link not in ("true", "false"):
        raise ConfigError(f"link: got {link}, expected true or false", hint=models.EXAMPLE)
    found = models.download(requests, to=Path(options["to"]).expanduser(), link=link == "true")
    if as_json:
        print(json.dumps([{**asdict(model), "path": str(model.path)} for model in found], indent=2))
        return
    for model in found:
        print(f"{model.id}@{model.commit}: {model.path}  {model.size_bytes / 2**30:.2f} GiB")
    print(f"to use one: model.path={found[0].path} model.id={found[0].id} model.revision={found[0].commit}")
