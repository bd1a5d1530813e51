"""What is compared by `serving.py`: a base, adapters, and the ways to serve them.

A *way* is an address with what is behind it: one plain vLLM, one fgpipe server, or several behind the gateway.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import ROOT, free_port
from gateway import _ready as answers

from fgpipe import resources
from fgpipe.compose import compose
from fgpipe.config import Config, ModelConfig, ModelShape
from fgpipe.functiongemma import tokens
from fgpipe.serving import VllmServer, gpus, installed_build
from fgpipe.serving.memory import GIB
from fgpipe.serving.shapes import read_shape

TUNED_VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"

PLAIN = {
    "plain": ("--max-num-seqs", "256"),
    "plain-default": (),
    "plain-api4": ("--max-num-seqs", "256", "--api-server-count", "4"),
}
"""vLLM alone: as many sequences as fgpipe's server has, vLLM's own number, and with four processes for HTTP."""

ENGINES = ("engine", "engine-default", "engine-tuned")
"""One fgpipe server, asked directly: as it comes, with vLLM's LoRA kernel settings, with those of --tuned."""

GPU_SHARE = 0.86
"""Of the GPU for all ways together."""

ENGINE_GIB = 3.2
"""Of an engine beside its KV cache, CUDA context included: 1.9 GiB were measured without the context, and the tensors
that exist only while it starts come on top."""

MOST_KV_GIB = 24
"""More KV cache than any load here fills."""


@dataclass
class Way:
    """One way to serve, running or not."""

    name: str
    servers: list[VllmServer]
    behind_gateway: bool = False
    url: str = ""
    problem: str = ""
    """Why it does not run."""
    gateway_pid: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def sessions(self) -> dict[str, list[int]]:
        """Process groups whose CPU time counts, by part."""
        servers = [server.process.pid for server in self.servers if server.process is not None]
        return {"servers": servers, "gateway": [self.gateway_pid] if self.gateway_pid else []}


def names_known(part: str) -> bool:
    """Whether `part` names a way."""
    return part in PLAIN or part in ENGINES or replica_count(part) is not None


def replica_count(part: str) -> int | None:
    """N of `replicasN`."""
    number = part.removeprefix("replicas")
    return int(number) if part != number and number.isdigit() and int(number) else None


# --- base and adapters


def make_base(folder: Path, kind: str) -> ModelConfig:
    """The base to serve: the shipped tiny model, or FunctionGemma's exact shape with random weights, made in `folder`.

    Speed does not depend on the weights' values. The tokenizer splits words at spaces and has FunctionGemma's control
    tokens at their ids.
    """
    if kind == "tiny":
        return compose(["model=tiny"]).model
    path = folder / "functiongemma-shape"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        _write_base(path)
        (path / "done").touch()
    return ModelConfig(name="functiongemma-shape", id="random/functiongemma-270m-shape", path=str(path))


def _write_base(path: Path) -> None:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    shape = ModelShape()
    config = Gemma3TextConfig(
        **shape.model_dump(), sliding_window=512, query_pre_attn_scalar=256, max_position_embeddings=32768
    )
    config.architectures = ["Gemma3ForCausalLM"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Gemma3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = list(tokens.STOP_TOKEN_IDS)
    model.save_pretrained(path)
    _write_tokenizer(path, shape.vocab_size)


def _write_tokenizer(path: Path, size: int) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = {id_: text for text, id_ in tokens.SPECIAL_TOKEN_IDS.items()}
    words = {control.get(id_, f"t{id_}"): id_ for id_ in range(size)}
    built = Tokenizer(models.WordLevel(words, unk_token=tokens.UNK))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    flags = tokens.SPECIAL_FLAGS
    built.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in flags if flags[text]])
    built.add_tokens([AddedToken(text, special=False, normalized=False) for text in flags if not flags[text]])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token=tokens.PAD,
        eos_token=tokens.EOS,
        bos_token=tokens.BOS,
        unk_token=tokens.UNK,
        model_max_length=32768,
    )
    whole.chat_template = (resources.PACKAGE / "functiongemma" / "template.jinja").read_text()
    whole.save_pretrained(path)


def make_adapters(folder: Path, model: ModelConfig, count: int) -> list[str]:
    """Publish `count` random adapters of all seven layers in `folder`, of rank 32 and 16 in turns; their names."""
    shape = read_shape(resources.resolve(str(model.path))).sizes
    names = [f"a{number:02d}" for number in range(count)]
    for number, name in enumerate(names):
        channel = folder / name / "channel.json"
        if not channel.exists():
            _write_version(folder / name / "v0001", model, shape, rank=(32, 16)[number % 2], seed=number)
            channel.write_text(json.dumps({"current": "v0001", "previous": None, "aliases": {}, "last": 1}))
    return names


def _write_version(version: Path, model: ModelConfig, shape: ModelShape, *, rank: int, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.num_hidden_layers):
        for module, (inner, outer) in shape.linear_shapes().items():
            block = "self_attn" if module[0] in "qkvo" else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{block}.{module}"
            for part, size in (("lora_A", (rank, inner)), ("lora_B", (outer, rank))):
                tensors[f"{stem}.{part}.weight"] = (torch.randn(size, generator=generator) * 0.02).bfloat16()
    version.mkdir(parents=True, exist_ok=True)
    save_file(tensors, version / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.id,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(shape.linear_shapes()),
    }
    (version / "adapter_config.json").write_text(json.dumps(settings))
    files = {path.name: {"bytes": path.stat().st_size} for path in version.iterdir()}
    manifest = {"base": {"id": model.id}, "created": "", "files": files, "scores": {}}
    (version / "manifest.json").write_text(json.dumps(manifest))


# --- ways


@dataclass(frozen=True)
class Bench:
    """What all ways have in common."""

    model: ModelConfig
    adapters: Path
    names: Sequence[str]
    logs: Path
    words: tuple[str, ...]
    """Settings of servers and gateway, from the command line."""
    most_clients: int
    tuned: Path | None = None

    def config(self, *words: str) -> Config:
        """The configuration of one server."""
        slots = max(1, len(self.names))
        common = (f"server.max_loras={slots}", f"server.max_cpu_loras={max(32, slots)}", "server.max_lora_rank=32")
        length = "server.max_model_len_tokens=2048"
        return compose([*common, length, *self.words, f"server.port={free_port()}", *words])


def ways(bench: Bench, parts: Sequence[str], *, timeout_s: float) -> list[Way]:
    """The ways that `parts` name, not started. Each gets the same share of the GPU, its engines in equal parts."""
    found = []
    for part in parts:
        engines = replica_count(part) or 1
        budget = _kv_bytes(GPU_SHARE / len(parts) / engines)
        made = [_server(bench, part, place, budget, timeout_s) for place in range(engines)]
        found.append(Way(part, made, behind_gateway=replica_count(part) is not None))
    return found


def _kv_bytes(share: float) -> int | None:
    """KV cache of an engine that may have `share` of the GPU; None for the CPU build."""
    if installed_build() == "cpu":
        return None
    total = gpus.found_gpus()[0].total_bytes
    left = share * total - ENGINE_GIB * GIB
    if left < GIB:
        raise SystemExit(f"serving: got {share:.3f} of the GPU an engine, expected {ENGINE_GIB + 1} GiB: fewer --parts")
    return int(min(left, MOST_KV_GIB * GIB))


def _server(bench: Bench, part: str, place: int, kv_bytes: int | None, timeout_s: float) -> VllmServer:
    words = [f"server.start_timeout_s={max(1, timeout_s):.0f}"]
    if kv_bytes is not None:
        share = (kv_bytes + ENGINE_GIB * GIB) / gpus.found_gpus()[0].total_bytes
        words.append(f"server.gpu_memory_utilization={share:.3f}")
    config = bench.config(*words)
    server = VllmServer(bench.model, config.server, adapters=bench.adapters, log=bench.logs / f"{part}-{place}.log")
    if part in PLAIN:
        server.command, server.variables = plain_command(bench, config, PLAIN[part])
    if part == "engine-default":
        server.variables[TUNED_VARIABLE] = ""
    if part == "engine-tuned":
        server.variables[TUNED_VARIABLE] = str(bench.tuned)
    if kv_bytes is not None:
        # By its size: engines that start together would count each other's memory as their own while they profile.
        server.command += ["--kv-cache-memory-bytes", str(kv_bytes)]
    return server


def plain_command(bench: Bench, config: Config, more: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line of vLLM itself, and variables: no plugin, adapters named one by one."""
    build, server, model = installed_build(), config.server, bench.model
    where = str(resources.resolve(str(model.path)).absolute())
    command = [sys.executable, "-m"]
    command += ["vllm.entrypoints.cli.main", "serve", where] if build == "gpu" else [API_SERVER, "--model", where]
    command += ["--served-model-name", model.id, "--host", server.host, "--port", str(server.port)]
    command += ["--max-model-len", str(server.max_model_len_tokens), "--enable-lora"]
    command += ["--dtype", "bfloat16" if build == "gpu" else "float32"]
    command += ["--max-loras", str(server.max_loras), "--max-lora-rank", str(server.max_lora_rank)]
    command += ["--max-cpu-loras", str(server.max_cpu_loras)]
    command += (
        ["--gpu-memory-utilization", str(server.gpu_memory_utilization)] if build == "gpu" else ["--enforce-eager"]
    )
    command += [*more, "--lora-modules", *(f"{name}={bench.adapters / name / 'v0001'}" for name in bench.names)]
    variables = {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if build == "cpu":
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(server.cpu_kv_cache_gib)
    return command, variables


API_SERVER = "vllm.entrypoints.openai.api_server"


@contextmanager
def running(bench: Bench, wanted: Sequence[Way]) -> Iterator[list[Way]]:
    """Start all servers together, then the gateways; yields those that run, and says why others do not."""
    from fgpipe.errors import FgpipeError

    with ExitStack() as stack:
        for way in wanted:
            try:
                for server in way.servers:
                    stack.callback(server.stop)
                    server.start()
            except FgpipeError as error:
                way.problem = error.message
        began = time.monotonic()
        for way in wanted:
            try:
                for server in [] if way.problem else way.servers:
                    server.wait_ready()
                way.url = way.servers[0].base_url
                way.extra["start_s"] = round(time.monotonic() - began, 1)
                if way.behind_gateway and not way.problem:
                    way.url, way.gateway_pid = stack.enter_context(_gateway(bench, way))
            except FgpipeError as error:
                way.problem = error.message
            if way.problem:
                print(f"{way.name} does not run: {way.problem}", file=sys.stderr)
                for server in way.servers:
                    server.stop()
        stack.callback(_end_together, wanted)
        yield [way for way in wanted if not way.problem]


def _end_together(wanted: Sequence[Way]) -> None:
    """Ask all servers to end, so that each has done so when it is waited for."""
    for process in [server.process for way in wanted for server in way.servers]:
        if process is not None and process.poll() is None:
            process.terminate()


@contextmanager
def _gateway(bench: Bench, way: Way) -> Iterator[tuple[str, int]]:
    """The gateway in front of the servers of `way`, as the command starts it: address and process id.

    It may hold all clients there are: vLLM is never asked for more than `max_in_flight`, the rest waits in the queue.
    """
    from fgpipe.errors import ServeError

    port, log = free_port(), bench.logs / f"{way.name}-gateway.log"
    words = [
        f"gateway.upstreams=[{','.join(server.base_url for server in way.servers)}]",
        f"gateway.port={port}",
        f"paths.adapters={bench.adapters}",
        f"gateway.max_queued={2 * bench.most_clients}",
        "gateway.max_wait_s=120",
        *(word for word in bench.words if word.startswith("gateway.")),
    ]
    with open(log, "wb") as sink:
        command = [sys.executable, "-m", "fgpipe", "gateway", *words]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/ready"):
            if process.poll() is not None or time.monotonic() > until:
                raise ServeError(f"the gateway did not start: {log.read_text()[-500:]}")
            time.sleep(0.2)
        _until_all_healthy(log, len(way.servers))
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _until_all_healthy(log: Path, count: int) -> None:
    """Wait until the gateway has said of each upstream that it serves."""
    until = time.monotonic() + 30
    while log.read_text().count(": serves ") < count and time.monotonic() < until:
        time.sleep(0.2)


os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
