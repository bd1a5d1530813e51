"""`-m`: one command over every combination of comma-separated values, each job in a folder of its own."""

from __future__ import annotations

import os
import sys
from typing import Any

from fgpipe import compose
from fgpipe.errors import ConfigError

STAGES = ("load", "format", "train", "evaluate", "validate", "publish", "run")


def run(words: list[str]) -> int:
    """Run `words`, such as ["train", "task=sql,email", "lora.r=8,16"], through Hydra's multirun.

    Raises:
        ConfigError: the command cannot be swept.
    """
    if not words or words[0] not in STAGES:
        got = words[0] if words else "nothing"
        hint = "python -m fgpipe train -m lora.r=8,16"
        raise ConfigError(f"-m: got {got}, expected one of {', '.join(STAGES)}", hint=hint)
    compose.check_options(words[1:])
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    compose.register_defaults()

    def job(tree: DictConfig) -> None:
        _job(words[0], OmegaConf.to_container(tree, resolve=True))

    overrides = [compose.forced(word) for word in words[1:]]
    quiet = ["hydra.job_logging.root.level=WARNING", "hydra.sweep.dir=${paths.runs}/sweeps/${now:%Y-%m-%d_%H-%M-%S}"]
    if found := compose.search_path():
        quiet.append(f"hydra.searchpath=[{','.join(found)}]")
    sys.argv = ["fgpipe", "--multirun", *quiet, *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as they are, instead of Hydra's exit status 1
    try:
        hydra.main(version_base="1.3", config_path=str(compose.config_folder()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.composition_error(error) from error
    return 0


def _job(stage: str, tree: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    from fgpipe import pipeline

    folder = HydraConfig.get().runtime.output_dir
    if not tree["paths"]["run"]:
        tree["paths"]["run"] = folder
    config = compose.validate(tree)
    if stage == "run":
        pipeline.run_all(config)
    else:
        pipeline.run_stage(stage, config)
