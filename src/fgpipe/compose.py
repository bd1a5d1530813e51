"""From `key=value` words to one validated `Config`: Hydra composes the YAML files, pydantic judges the result once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fgpipe import resources
from fgpipe.config import Config
from fgpipe.errors import ConfigError

DEFAULTS_NODE = "defaults"
"""Name under which Hydra finds the schema's defaults; conf/config.yaml starts from it."""


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that `overrides` ask for, such as ["task=sql", "model=tiny", "lora.r=8"].

    Raises:
        ConfigError: every unknown key, bad value and broken rule, a line each.
    """
    return validate(_hydra_tree(overrides))


def read_yaml(path: Path, *, expected: str) -> Any:
    """What a user's YAML file holds, as plain data; a key given twice is refused.

    Args:
        expected: what should be in it, for the message.

    Raises:
        ConfigError: it cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # PyYAML's own error comes through OmegaConf; PyYAML has no types.
    yaml_error: type[Exception] = import_module("yaml").YAMLError
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, OmegaConfBaseException, ValueError, yaml_error) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: {reason}", hint=f"expected a YAML file with {expected}") from None


def register_defaults() -> None:
    """Tell Hydra the schema's defaults, as plain data (frozen pydantic models cannot be Hydra schemas)."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=DEFAULTS_NODE, node=Config().model_dump(mode="json"))


def config_folder() -> Path:
    """The folder of fgpipe's own YAML files."""
    return resources.folder("conf")


def search_path() -> list[str]:
    """Further folders of YAML files: `conf/` where the command runs, so that own tasks need no change of fgpipe."""
    own = Path("conf").resolve()
    return [f"file://{own}"] if own.is_dir() and own != config_folder() else []


def _hydra_tree(overrides: Sequence[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    check_options(overrides)
    words = [forced(word) for word in overrides]
    if found := search_path():
        words.append(f"hydra.searchpath=[{','.join(found)}]")
    register_defaults()
    try:
        with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
            tree = hydra_compose(config_name="config", overrides=words)
        return OmegaConf.to_container(tree, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(error) from error


def forced(word: str) -> str:
    """`word` so that Hydra takes also an unknown key; the schema then names it, with all other mistakes."""
    key, separator, _ = word.partition("=")
    if not separator:
        raise ConfigError(f"argument: got {word!r}, expected key=value", hint="for example task=sql model=tiny")
    return word if key in groups() or not re.match(r"[A-Za-z_]", word) else f"++{word}"


def groups() -> dict[str, list[str]]:
    """Config groups and their options, from fgpipe's folder and the user's `conf/`."""
    found: dict[str, list[str]] = {}
    for folder in {config_folder(), Path("conf").resolve()}:
        for file in sorted(folder.glob("*/*.yaml")):
            found.setdefault(file.parent.name, []).append(file.stem)
    return found


def check_options(overrides: Sequence[str]) -> None:
    """Refuse a group's option that has no file; values may be comma-separated lists, as a sweep has them.

    Raises:
        ConfigError: naming the first such option.
    """
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        options = groups().get(key)
        unknown = [one for one in value.split(",") if options and one not in options and one != "null"]
        if options and unknown:
            raise ConfigError(
                f"{key}: got {unknown[0]}, expected one of {', '.join(options)}{_did_you_mean(unknown[0], options)}",
                hint=f"each is a file in conf/{key}/; add your own there",
            )


def composition_error(error: Exception) -> ConfigError:
    """What Hydra complained of, in a line."""
    first = str(error).strip().splitlines()[0]
    return ConfigError(f"configuration: {first}", hint="python -m fgpipe config task=sql prints a whole configuration")


def validate(tree: Any) -> Config:
    """`tree` as a Config.

    Raises:
        ConfigError: all faults at once, each with its dotted path.
    """
    lines: list[str] = []
    while True:
        try:
            config = Config.model_validate(tree)
            break
        except ValidationError as error:
            faults = error.errors()
        lines += [_fault(fault) for fault in faults]
        places = [fault["loc"] for fault in faults if fault["loc"]]
        if not places:
            break
        for place in places:  # rules between sections are only checked once every value is legal
            _forget(tree, place)
    if lines:
        raise ConfigError("\n".join(lines), hint="python -m fgpipe config prints every key with its value")
    return config


def _forget(tree: Any, place: Sequence[Any]) -> None:
    """Remove the value at `place`, or the nearest part of the tree above it, so that its default stands in."""
    for depth, part in enumerate(place):
        last = depth == len(place) - 1
        if last or not isinstance(tree[part], dict) or place[depth + 1] not in tree[part]:
            del tree[part]
            return
        tree = tree[part]


def _fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        guess = _did_you_mean(str(fault["loc"][-1]), known)
        return f"{path}: got an unknown key, expected one of {', '.join(known)}{guess}"
    message = re.sub(r"^Value error, ", "", fault["msg"])
    if fault["type"] == "value_error":
        return f"{path}: {message}" if path and not message.startswith(path) else message
    expected = message.removeprefix("Input should be ").replace("Input should", "a value that should")
    return f"{path}: got {fault['input']!r}, expected {expected[:1].lower()}{expected[1:]}"


def _keys(path: Iterable[Any]) -> list[str]:
    model: Any = Config
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _did_you_mean(got: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(got, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
