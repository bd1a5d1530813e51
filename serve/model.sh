#!/usr/bin/env bash
# One full model in a vLLM of its own, for compose.multimodel.yaml: no adapters, the model's own chat template.
# MODEL_PRINT=1 shows the command and starts nothing.
set -euo pipefail

: "${MODEL_PORT:?got none, expected the port to listen on}"
refuse() { printf 'fgpipe: %s\n' "$*" >&2; exit 2; }

if [[ -z ${MODEL_ID:-} ]]; then
  refuse "MODEL_ID: got nothing, expected a hub id or a folder below /models; set MODEL_A_ID … in .env"
elif [[ -z ${MODEL_GPU_MEMORY_UTILIZATION:-} ]]; then
  refuse "MODEL_GPU_MEMORY_UTILIZATION: got nothing, expected a share of the GPU; python -m fgpipe plan --env finds it"
fi

command=("${FGPIPE_PYTHON:-python3}" -m vllm.entrypoints.cli.main serve "$MODEL_ID")
if [[ -n ${MODEL_REVISION:-} ]]; then
  command+=(--revision "$MODEL_REVISION")
fi
# Loopback only: the gateway listens on the network, and asks for keys.
command+=(--host 127.0.0.1 --port "$MODEL_PORT")
command+=(--gpu-memory-utilization "$MODEL_GPU_MEMORY_UTILIZATION")
command+=(--max-model-len "${MODEL_MAX_MODEL_LEN_TOKENS:-8192}" --max-num-seqs "${MODEL_MAX_NUM_SEQS:-32}")
if [[ -n ${MODEL_MAX_NUM_BATCHED_TOKENS:-} ]]; then
  command+=(--max-num-batched-tokens "$MODEL_MAX_NUM_BATCHED_TOKENS")
fi
command+=(--dtype "${MODEL_DTYPE:-auto}")
case ${MODEL_ENFORCE_EAGER:-false} in
  true) command+=(--enforce-eager) ;;
  false) ;;
  *) refuse "MODEL_ENFORCE_EAGER: got '$MODEL_ENFORCE_EAGER', expected true or false" ;;
esac
if [[ -n ${MODEL_TOOL_PARSER:-} ]]; then
  command+=(--enable-auto-tool-choice --tool-call-parser "$MODEL_TOOL_PARSER")
fi
command+=(--middleware fgpipe.vllm_plugin.access.Access "$@")

# Our plugin's renderer and tool parser are FunctionGemma's: no other model may be asked through them.
variables=(VLLM_PLUGINS= VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1)
if [[ ${MODEL_PRINT:-0} == 1 ]]; then
  printf '%q ' "${variables[@]}" "${command[@]}"
  printf '\n'
  exit 0
fi
exec env "${variables[@]}" "${command[@]}"
