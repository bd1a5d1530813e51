"""`serve/.env.example`: every variable that the containers read, with default and meaning, from the schema.

What no section of the configuration has (folders of the host, network, keys, monitoring, further models) stands here.
`make environment` writes the file; a test holds it, the compose files and the entrypoint to the same names.
"""

from __future__ import annotations

from collections.abc import Iterator

from fgpipe.config import MOST_REPLICAS, Config
from fgpipe.environment import SECTIONS, SINGLE, variables

Entry = tuple[str, str, str]
"""(variable, default, meaning)"""

SET_BY_COMPOSE = (SINGLE["paths.adapters"], SINGLE["publish.servers"])
"""Settings that have one right value inside the containers."""

COMPOSE: tuple[Entry, ...] = (
    ("COMPOSE_PROJECT_NAME", "fgpipe", "name of the stack; containers and volumes begin with it"),
    (
        "COMPOSE_FILE",
        "compose.yaml",
        "several full models instead: compose.multimodel.yaml; either with monitoring: …:compose.monitoring.yaml",
    ),
    ("COMPOSE_PROFILES", "", "three: also the third model of compose.multimodel.yaml; gpu: also the DCGM exporter"),
    ("COMPOSE_PATH_SEPARATOR", ":", "between the files above, on Windows too"),
)

FOLDERS: tuple[Entry, ...] = (
    ("FGPIPE_MODELS_DIR", "/srv/fgpipe/models", "base models, one folder each; inside the containers /models"),
    ("FGPIPE_ADAPTERS_DIR", "/srv/fgpipe/adapters", "published adapters; inside the containers /adapters"),
    ("HF_CACHE_DIR", "/srv/fgpipe/cache/huggingface", "what is downloaded from the hub (HF_HOME)"),
    ("VLLM_CACHE_DIR", "/srv/fgpipe/cache/vllm", "compiled graphs and kernels (VLLM_CACHE_ROOT)"),
    ("FGPIPE_SECRETS_DIR", "/srv/fgpipe/secrets", "files with keys; inside the containers /secrets"),
    ("FGPIPE_CHECKOUT_DIR", "/srv/fgpipe/checkout", "this repository, which update.sh pulls and builds"),
    ("FGPIPE_USER", "1000:1000", "user:group that owns these folders, and that the containers run as"),
)

NETWORK: tuple[Entry, ...] = (
    ("TS_HOSTNAME", "fgpipe", "the box's name in the tailnet: http://fgpipe:8080"),
    ("TS_AUTHKEY", "", "Tailscale auth key, or file:/secrets/tailscale; needed once, the login is kept on a volume"),
    ("TS_EXTRA_ARGS", "--ssh", "further words for `tailscale up`; --ssh is the way to update.sh"),
    ("TS_LOGIN_ONCE", "true", "keep the login that the volume has; false logs in again at every start"),
)

KEYS: tuple[Entry, ...] = (
    ("FGPIPE_GATEWAY_KEYS", "", "keys of the gateway's clients, comma-separated; without any it stays on the loopback"),
    ("FGPIPE_GATEWAY_KEYS_FILE", "", "the same as a file, such as /secrets/gateway-keys, a key a line"),
    ("VLLM_API_KEY", "", "the server's key; it listens on the loopback only, so it may stay empty"),
    ("FGPIPE_ADMIN_KEY", "", "the server's key for taking up new versions; another than VLLM_API_KEY"),
    ("HF_TOKEN", "", "hub token; needed for the gated base if it is not in FGPIPE_MODELS_DIR"),
    ("LOGFIRE_TOKEN", "", "sends the gateway's traces to Pydantic Logfire; empty: off"),
    ("LOGFIRE_BASE_URL", "", "a Logfire of your own; empty: the one of the region that the token names"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "sends the gateway's traces to an OpenTelemetry collector; empty: off"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "", "what that collector wants to see, name=value with commas between; a key often"),
)

CONTAINER: tuple[Entry, ...] = (
    ("SERVER_SHM_SIZE", "2gb", "shared memory of the server's processes"),
    ("VLLM_LOGGING_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR"),
    ("LOG_MAX_SIZE", "20m", "a container's log is rotated at this size; five are kept"),
)

MONITORING: tuple[Entry, ...] = (
    ("PROMETHEUS_PORT", "9090", "on the loopback"),
    ("PROMETHEUS_RETENTION", "30d", "how long figures are kept"),
    ("PROMETHEUS_RETENTION_SIZE", "8GB", "and how much of them at most"),
    ("PROMETHEUS_SCRAPE_INTERVAL_S", "15", "seconds between two looks"),
    ("GRAFANA_HOST", "127.0.0.1", "0.0.0.0 opens it to the tailnet; refused without a password"),
    ("GRAFANA_PORT", "3000", "http://fgpipe:3000"),
    ("GRAFANA_ADMIN_PASSWORD", "", "of the user admin, set when Grafana first starts"),
    ("NODE_EXPORTER_PORT", "9100", "on the loopback"),
    ("CADVISOR_PORT", "8081", "on the loopback"),
    ("DCGM_EXPORTER_PORT", "9400", "on the loopback"),
)

MODEL_PORTS = {"A": 8001, "B": 8002, "C": 8003}
"""Of each of several full models, in the order in which they start."""

MODEL_LENGTH_TOKENS, MODEL_SEQUENCES = 8192, 32
"""Context and sequences of each."""

MEANINGS = {
    "FGPIPE_REPLICAS": "vLLM servers on `port` and those after it, the gateway in front; they share the memory above; "
    f"1 to {MOST_REPLICAS}; `auto` is for `python -m fgpipe serve` alone"
}
"""What is said of a setting otherwise than in the configuration."""


def example(config: Config) -> str:
    """The text of `serve/.env.example`.

    Args:
        config: where the defaults of the settings are from.
    """
    lines = [
        "# Copy to .env beside compose.yaml and change what differs. `make environment` writes it: every variable",
        "# with its default. An empty value means the default. docs/SETUP_GUIDE.md says how Windows paths are written.",
    ]
    for title, entries in groups(config):
        lines += ["", f"# --- {title}"]
        for name, default, meaning in entries:
            lines += [f"# {meaning}" if meaning else "#", f"{name}={default}"]
    return "\n".join(lines) + "\n"


def groups(config: Config) -> Iterator[tuple[str, list[Entry]]]:
    """Title and variables of each part of the file."""
    settings = [
        (
            variable.name,
            _default(variable.name, variable.default),
            MEANINGS.get(variable.name) or variable.description or variable.key,
            variable.key,
        )
        for variable in variables(config)
        if variable.name not in SET_BY_COMPOSE
    ]
    yield "Compose", list(COMPOSE)
    yield "Folders of this machine, each on the drive you like", list(FOLDERS)
    yield "Private network (Tailscale)", list(NETWORK)
    yield "Keys and tokens", list(KEYS)
    yield "Base model", [entry[:3] for entry in settings if entry[3].startswith("model")]
    for section in SECTIONS:
        found = [entry[:3] for entry in settings if entry[3].startswith(f"{section}.")]
        if found:
            yield f"{section.capitalize()} (the configuration's section `{section}`)", found
    yield "Server container", list(CONTAINER)
    yield "Monitoring (compose.monitoring.yaml)", list(MONITORING)
    yield "Several full models on one GPU (compose.multimodel.yaml), small before large", list(_models())


def _default(name: str, default: str) -> str:
    # The name of the base in the server is that of FGPIPE_MODEL unless it is a folder.
    return "" if name == SINGLE["model.id"] else default


def _models() -> Iterator[Entry]:
    for letter, port in MODEL_PORTS.items():
        wanted = "only with COMPOSE_PROFILES=three" if letter == "C" else "no default"
        yield f"MODEL_{letter}_ID", "", f"hub id, or a folder such as /models/NAME; {wanted}"
        yield f"MODEL_{letter}_REVISION", "", "commit of a hub model, 40 hex digits"
        yield f"MODEL_{letter}_PORT", str(port), "on the loopback; the gateway is in front"
        yield (
            f"MODEL_{letter}_GPU_MEMORY_UTILIZATION",
            "",
            "share of the whole GPU, not of what is free; no default: `python -m fgpipe plan --env` finds it",
        )
        yield f"MODEL_{letter}_MAX_MODEL_LEN_TOKENS", str(MODEL_LENGTH_TOKENS), "longest prompt plus answer"
        yield f"MODEL_{letter}_MAX_NUM_SEQS", str(MODEL_SEQUENCES), "sequences decoded together"
        yield f"MODEL_{letter}_MAX_NUM_BATCHED_TOKENS", "", "tokens a step; empty: vLLM's choice"
        yield f"MODEL_{letter}_DTYPE", "auto", "of weights and KV cache: bfloat16, float32, or vLLM's choice"
        yield f"MODEL_{letter}_ENFORCE_EAGER", "false", "no CUDA graphs: less memory, slower"
        yield f"MODEL_{letter}_TOOL_PARSER", "", "vLLM's --tool-call-parser, such as hermes; empty: no tools"
    yield "MODEL_C_UPSTREAM", "", "with a third model: ,http://127.0.0.1:8003 (comma included)"
