#!/usr/bin/env bash
# Deployment trtllm-pair for the local cluster, revision content 71b39aa2431c.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# prefill: 2 replicas, 1 node each, 1 GPU on each node
# decode: 1 replica, 1 node each, 1 GPU on each node
# Which cards, placement decides: the agent sets CUDA_VISIBLE_DEVICES.
set -euo pipefail
umask 077

PENSTOCK=${PENSTOCK:-penstock} # the program
JOIN=${JOIN:-} # the 0600 file that the controller writes for each launch
TRANSFER_HOST=${TRANSFER_HOST:-127.0.0.1} # where other engines fetch KV from
TRANSFER_PORT=${TRANSFER_PORT:-61002} # drawn at the start
ENGINE_PORT=${ENGINE_PORT:-61003} # drawn at the start

agent_prefill_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 1
}

engine_prefill_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  cat >"${RUN}/trtllm.yaml" <<'END_OF_FILE'
{
  "cache_transceiver_config": {
    "backend": "DEFAULT"
  },
  "disable_overlap_scheduler": true,
  "enable_iter_perf_stats": true,
  "kv_cache_config": {
    "enable_block_reuse": true,
    "event_buffer_max_size": 16384
  }
}
END_OF_FILE
  export HF_HUB_OFFLINE=1
  exec trtllm-serve /models/Llama-8B \
    --host 127.0.0.1 \
    --port "${ENGINE_PORT}" \
    --backend pytorch \
    --extra_llm_api_options "${RUN}/trtllm.yaml"
}

agent_decode_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 1
}

engine_decode_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  cat >"${RUN}/trtllm.yaml" <<'END_OF_FILE'
{
  "cache_transceiver_config": {
    "backend": "DEFAULT"
  },
  "enable_iter_perf_stats": true,
  "kv_cache_config": {
    "enable_block_reuse": true,
    "event_buffer_max_size": 16384
  }
}
END_OF_FILE
  export HF_HUB_OFFLINE=1
  exec trtllm-serve /models/Llama-8B \
    --host 127.0.0.1 \
    --port "${ENGINE_PORT}" \
    --backend pytorch \
    --extra_llm_api_options "${RUN}/trtllm.yaml"
}

case "$*" in
  "agent prefill 0") agent_prefill_0 ;;
  "engine prefill 0") engine_prefill_0 ;;
  "agent decode 0") agent_decode_0 ;;
  "engine decode 0") engine_decode_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
