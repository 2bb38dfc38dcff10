#!/usr/bin/env bash
# Deployment qwen3-8b for the local cluster, revision content d07ee3f074b0.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# mixed: 2 replicas, 1 node each, 1 GPU on each node
# Which cards, placement decides: the agent sets CUDA_VISIBLE_DEVICES.
set -euo pipefail
umask 077

PENSTOCK=${PENSTOCK:-penstock} # the program
JOIN=${JOIN:-} # the 0600 file that the controller writes for each launch

agent_mixed_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 1
}

engine_mixed_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  export HF_HUB_OFFLINE=1
  export PYTHONHASHSEED=0
  export VLLM_LOGGING_LEVEL=INFO
  export VLLM_NO_USAGE_STATS=1
  export VLLM_RPC_BASE_PATH="${RUN}"
  # shellcheck disable=all # the deployment's own lines
  {
module load cuda/12.8
source /shared/venvs/vllm/bin/activate
  }
  exec vllm serve /shared/models/Qwen3-8B \
    --served-model-name qwen3-8b \
    --uds "${RUN}/engine.sock" \
    --max-model-len 32768 \
    --block-size 16 \
    --enable-prefix-caching \
    --prefix-caching-hash-algo sha256_cbor \
    --enable-prompt-tokens-details \
    --disable-uvicorn-access-log \
    --enable-lora \
    --lora-modules qwen3-8b-legal=/shared/adapters/qwen3-8b-legal \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}' \
    --gpu-memory-utilization 0.92
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
