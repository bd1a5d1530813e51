"""Every setting of fgpipe: names, units, ranges, defaults and the rules between them. The only place for a default.

YAML files under `conf/` hold differences from these defaults; `fgpipe.compose` puts both together and validates once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What an adapter, task or model may be called: it becomes a folder, a URL part and a model name in vLLM."""

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of a Gemma 3 block; what LoRA may target and vLLM can serve."""

INPUT_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Those of them that read the same input: vLLM merges them, and so does the fast back end of training."""

VLLM_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values vLLM 0.32 accepts for --max-lora-rank."""

MOST_REPLICAS = 64
"""Servers on one machine that anybody may ask for; memory and processors end far below."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DatasetConfig(Section):
    """Where the rows of a task come from."""

    source: str = Field(default="", description="local .jsonl, .json, .csv, .parquet file or folder, or a hub id")
    layout: Literal["messages"] = Field(
        default="messages", description="row shape: `messages` plus `tools`, as OpenAI and TRL write it"
    )
    revision: str | None = Field(
        default=None, description="hub dataset only: the commit to read, 40 hex digits; a hub id without one is refused"
    )
    split: str = Field(default="train", description="hub dataset only: which split to read")
    evaluation_fraction: float = Field(
        default=0.15, gt=0, lt=0.9, description="share of rows held out, by content hash"
    )
    limit: int | None = Field(default=None, ge=1, description="read at most this many rows; for quick trials")


class TaskConfig(Section):
    """What one adapter is for."""

    name: Name = Field(default="custom", description="name of the task and, without publish.name, of the adapter")
    dataset: DatasetConfig = DatasetConfig()
    instruction: str = Field(
        default="",
        description="developer sentence after a row's own developer text, in training, evaluation and serving alike",
    )
    scorer: Literal["exact", "sqlite"] = Field(
        default="exact", description="headline score: typed exact match of all calls, or equal results in sqlite"
    )


class ModelShape(Section):
    """Sizes of a Gemma 3 text model; enough to plan memory and check an adapter without loading anything."""

    vocab_size: int = Field(default=262144, ge=1)
    hidden_size: int = Field(default=640, ge=1)
    intermediate_size: int = Field(default=2048, ge=1)
    num_hidden_layers: int = Field(default=18, ge=1)
    num_attention_heads: int = Field(default=4, ge=1)
    num_key_value_heads: int = Field(default=1, ge=1)
    head_dim: int = Field(default=256, ge=1)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of each of LINEAR_MODULES."""
        query, key = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    def parameters(self) -> int:
        """Number of weights, embeddings (tied to the head) and norms included."""
        linear = sum(i * o for i, o in self.linear_shapes().values())
        norms = 4 * self.hidden_size + 2 * self.head_dim
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * (linear + norms) + self.hidden_size


class ModelConfig(Section):
    """The frozen base that adapters are trained on and served over."""

    name: Name = Field(default="functiongemma-270m", description="short name, part of the run folder")
    id: str = Field(
        default="google/functiongemma-270m-it",
        description="identity of the base: hub id, name in the server, and `base_model_name_or_path` of every adapter",
    )
    path: str | None = Field(default=None, description="local folder with the weights; null takes `id` from the hub")
    revision: str | None = Field(
        default=None, description="hub commit of the base; recorded in every published version"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, float32 on a CPU; float16 overflows in this model"
    )
    quantization: Literal["none", "nf4"] = Field(
        default="none", description="nf4: 4-bit base by bitsandbytes, needs a GPU"
    )
    shape: ModelShape = ModelShape()


class LoraConfig(Section):
    """The adapter, in PEFT's own terms."""

    r: int = Field(default=16, ge=1, description="rank; at most server.max_lora_rank")
    lora_alpha: int = Field(default=32, ge=1, description="scale is lora_alpha / r (with rsLoRA: / sqrt(r))")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in front of A, training only")
    use_rslora: bool = Field(default=False, description="scale by sqrt(r) instead of r")
    target_modules: tuple[str, ...] = Field(default=LINEAR_MODULES, min_length=1, description="linear layers to adapt")

    @field_validator("target_modules")
    @classmethod
    def _only_servable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for module in value:
            if module in ("embed_tokens", "lm_head"):
                raise ValueError(f"got {module}, tied to the other end of the model: vLLM cannot serve it")
            if module not in LINEAR_MODULES:
                raise ValueError(f"got {module}, expected any of {', '.join(LINEAR_MODULES)}")
        return value


class TrainConfig(Section):
    """How the adapter is fitted."""

    backend: Literal["auto", "trl", "fast"] = Field(
        default="auto",
        description="trl: any base, dropout, 4-bit; fast: packed rows at a GPU's rate, Gemma 3 only; auto: fast where "
        "it can, on a GPU",
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(default=2, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(
        default=None, ge=1, description="stop after this many optimizer steps; overrides epochs"
    )
    batch_size: int = Field(default=16, ge=1, description="rows a forward pass")
    gradient_accumulation: int = Field(default=1, ge=1, description="forward passes an optimizer step")
    max_length_tokens: int = Field(default=1024, ge=16, description="longer rows are refused, never cut")
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="learning rate after the warm-up"
    )
    warmup_fraction: float = Field(
        default=0.03, ge=0, lt=1, description="share of the steps with a rising learning rate"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, slower")
    evaluate_every_steps: int | None = Field(
        default=None, ge=1, description="steps between two looks at the loss on held-out rows; null: none"
    )
    early_stop_evaluations: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many looks without a lower held-out loss, and keep the adapter of the lowest",
    )
    log_every_steps: int = Field(default=10, ge=1)
    checkpoint_every_steps: int = Field(default=50, ge=1, description="a killed run resumes from the last of these")
    keep_checkpoints: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _stops_by_what_it_sees(self) -> TrainConfig:
        if self.early_stop_evaluations is not None and self.evaluate_every_steps is None:
            raise ValueError(
                f"early_stop_evaluations: got {self.early_stop_evaluations} without train.evaluate_every_steps, "
                "expected both"
            )
        return self


class EvaluateConfig(Section):
    """How an adapter is scored."""

    batch_size: int = Field(default=32, ge=1, description="prompts generated together")
    max_new_tokens: int = Field(default=128, ge=1, description="longest answer")
    limit: int | None = Field(default=None, ge=1, description="score at most this many held-out rows")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    worst_examples: int = Field(default=5, ge=0, description="wrong answers shown")


class ServerConfig(Section):
    """The vLLM server, and so the contract an adapter must meet."""

    vllm_version: str = Field(default="0.32.0", description="version the rules were checked against")
    host: str = Field(default="127.0.0.1", description="address to listen on; loopback unless you say otherwise")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    max_lora_rank: int = Field(default=32, description="largest rank served; larger than needed costs every adapter")
    max_loras: int = Field(default=8, ge=1, description="adapters in one batch; each has a slot on the device")
    max_cpu_loras: int = Field(default=32, ge=1, description="adapters kept in memory; at least max_loras")
    max_num_seqs: int = Field(default=256, ge=1, description="sequences decoded together (continuous batching)")
    max_model_len_tokens: int = Field(default=4096, ge=64, description="longest prompt plus answer")
    prefix_caching: bool = Field(default=True, description="reuse the KV cache of equal prompt beginnings")
    chunked_prefill: bool = Field(default=True, description="cut long prompts into pieces between decode steps")
    max_num_batched_tokens: int | None = Field(default=None, ge=64, description="tokens a step; null: vLLM's choice")
    gpu_memory_utilization: float = Field(
        default=0.5, gt=0, le=1, description="share of the whole GPU, not of what is free"
    )
    cpu_kv_cache_gib: int = Field(default=1, ge=1, description="KV cache of the CPU build, GiB")
    enforce_eager: bool = Field(default=False, description="no CUDA graphs: slow on a GPU, right on a CPU")
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] | Literal["auto"] = Field(
        default=1,
        description="vLLM servers on `port` and those after it, the gateway in front; they share the memory above; "
        f"1 to {MOST_REPLICAS}, or auto: as many as measuring finds",
    )
    mps: bool = Field(
        default=True,
        description="replicas use the GPU side by side, by NVIDIA's multi-process service where there is one",
    )
    watch_s: float = Field(
        default=0, ge=0, description="seconds between two looks of the server itself for new versions; 0: when told"
    )
    tuned_kernels: str = Field(
        default="tuned",
        min_length=1,
        description="LoRA kernel settings of `python -m fgpipe tune`, a folder; where it has none, those shipped count",
    )
    start_timeout_s: float = Field(default=300, gt=0, description="longest wait for the server to become ready")

    @field_validator("replicas", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if value == "auto":
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_REPLICAS:
            raise ValueError(f"got {value!r:.40}, expected a whole number from 1 to {MOST_REPLICAS}, or auto")
        return value

    @model_validator(mode="after")
    def _ports_for_replicas(self) -> ServerConfig:
        if self.replicas != "auto" and self.port + self.replicas - 1 > 65535:
            raise ValueError(f"port: got {self.port} for {self.replicas} replicas, expected room below 65536 for each")
        return self

    @field_validator("max_lora_rank")
    @classmethod
    def _legal_rank(cls, value: int) -> int:
        if value not in VLLM_LORA_RANKS:
            raise ValueError(f"got {value}, expected one of {', '.join(map(str, VLLM_LORA_RANKS))} (vLLM)")
        return value

    @model_validator(mode="after")
    def _room_for_adapters(self) -> ServerConfig:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras: got {self.max_cpu_loras}, expected at least max_loras ({self.max_loras})")
        return self


class PublishConfig(Section):
    """Where finished adapters go, and which servers answer with them."""

    name: Name | None = Field(default=None, description="name of the adapter; null takes task.name")
    change_base: bool = Field(
        default=False, description="let a name mean an adapter of another base than its live version's"
    )
    servers: tuple[str, ...] = Field(
        default=(), description="addresses of the servers to keep in step, http://host:port; none: the one of `server`"
    )
    keep_versions: int = Field(
        default=10, ge=1, description="newest versions kept; live, previous, aliased and loaded ones are never removed"
    )
    parity_prompts: int = Field(
        default=16,
        ge=1,
        le=256,
        description="held-out prompts on which the served adapter must answer as the trained one",
    )

    @field_validator("servers", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"got {value}, expected a list: publish.servers=[{value}]")
        return value

    @field_validator("servers")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _require_addresses(value)


class GatewayConfig(Section):
    """The gateway in front of one or more vLLM servers."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; elsewhere it starts only with client keys"
    )
    port: int = Field(default=8080, ge=1, le=65535)
    upstreams: tuple[str, ...] = Field(
        default=(),
        description="servers behind it, http://host:port each, replicas or models; none: the one of `server`",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that pass answers on; the limits below hold over all of them together",
    )
    max_in_flight: int = Field(default=256, ge=1, description="requests one upstream answers at a time; more wait")
    spill_in_flight: int = Field(
        default=32, ge=1, description="requests at one replica from which its adapters are also answered by others"
    )
    max_queued: int = Field(default=512, ge=0, description="requests that wait for an upstream; more are refused (429)")
    max_wait_s: float = Field(default=10, gt=0, description="longest wait for an upstream before a request is refused")
    max_answers: int = Field(
        default=32, ge=1, description="answers one request may ask for, n times prompts; it is one"
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="largest request; more is refused (413)")
    body_timeout_s: float = Field(default=10, gt=0, description="longest wait for the whole of a request")
    connect_timeout_s: float = Field(default=2, gt=0, description="longest wait for a connection to an upstream")
    first_byte_timeout_s: float = Field(
        default=120,
        gt=0,
        description="longest wait for an upstream to begin its answer; unstreamed ones begin when done",
    )
    total_timeout_s: float = Field(default=600, gt=0, description="longest time from request to the end of its answer")
    health_every_s: float = Field(default=2, gt=0, description="between two looks at upstreams and adapters folder")
    health_timeout_s: float = Field(
        default=5, gt=0, description="an upstream that takes longer to say how it is, is down"
    )

    @field_validator("upstreams")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("got an address twice, expected each once")
        return _require_addresses(value)

    @model_validator(mode="after")
    def _spill_before_full(self) -> GatewayConfig:
        if self.spill_in_flight > self.max_in_flight:
            raise ValueError(
                f"spill_in_flight: got {self.spill_in_flight}, expected at most max_in_flight ({self.max_in_flight})"
            )
        return self


class PathsConfig(Section):
    """Folders, relative to the folder the command runs in."""

    runs: str = Field(default="runs", description="artefacts of the stages, one folder a task and model")
    run: str | None = Field(default=None, description="this run's folder; null: <runs>/<task.name>-<model.name>")
    adapters: str = Field(default="adapters", description="published versions; the folder the server reads")


class Config(Section):
    """The whole configuration of one run."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    server: ServerConfig = ServerConfig()
    publish: PublishConfig = PublishConfig()
    gateway: GatewayConfig = GatewayConfig()
    paths: PathsConfig = PathsConfig()
    seed: int = Field(default=0, ge=0, description="seed of everything random")

    @model_validator(mode="after")
    def _rules_between_sections(self) -> Config:
        if self.lora.r > self.server.max_lora_rank:
            smallest = next((rank for rank in VLLM_LORA_RANKS if rank >= self.lora.r), None)
            more = f" or server.max_lora_rank={smallest} (costs speed for every adapter)" if smallest else ""
            raise ValueError(
                f"lora.r: got {self.lora.r}, expected at most server.max_lora_rank ({self.server.max_lora_rank}); "
                f"set lora.r={self.server.max_lora_rank}{more}"
            )
        if self.train.max_length_tokens > self.server.max_model_len_tokens:
            raise ValueError(
                f"train.max_length_tokens: got {self.train.max_length_tokens}, expected at most "
                f"server.max_model_len_tokens ({self.server.max_model_len_tokens})"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """Where this run's artefacts are."""
        return Path(self.paths.run or f"{self.paths.runs}/{self.task.name}-{self.model.name}")

    @property
    def adapter_name(self) -> str:
        """The name this run publishes under."""
        return self.publish.name or self.task.name


def _require_addresses(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if not re.fullmatch(r"https?://[^/?#\s]+", url):
            raise ValueError(f"got {url}, expected http://host:port, without a path")
    return urls


def is_name(text: str) -> bool:
    """Whether `text` may name an adapter, task or model."""
    return re.fullmatch(NAME_PATTERN, text) is not None and ".." not in text


def keys(section: type[BaseModel], wanted: tuple[str, ...] = (), prefix: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, default as typed on the command line, description) of every setting below the `wanted` prefixes."""
    found: list[tuple[str, str, str]] = []
    for name, field in section.model_fields.items():
        key = prefix + name
        if wanted and not any(f"{key}.".startswith(f"{want}.") or want.startswith(f"{key}.") for want in wanted):
            continue
        if isinstance(field.default, BaseModel):
            found += keys(type(field.default), wanted, f"{key}.")
        else:
            found.append((key, as_typed(field.default), field.description or ""))
    return found


def as_typed(value: object) -> str:
    """A default as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
