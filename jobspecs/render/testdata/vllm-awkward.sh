#!/usr/bin/env bash
# Deployment vllm-awkward for the local cluster, revision content 711e8810bea3.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# mixed: 1 replica, 1 node each, 1 GPU on each node
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
  export EMPTY=''
  export GREETING="it's \$HOME
and more"
  export HF_HUB_OFFLINE=1
  export PYTHONHASHSEED=0
  export VLLM_NO_USAGE_STATS=1
  export VLLM_RPC_BASE_PATH="${RUN}"
  # shellcheck disable=all # the deployment's own lines
  {
module load cuda
source /opt/venv/bin/activate
export TOKEN_FILE=~/.token
  }
  exec vllm serve '/models/it'\''s here' \
    --served-model-name m \
    --uds "${RUN}/engine.sock" \
    --enable-prefix-caching \
    --prefix-caching-hash-algo sha256_cbor \
    --enable-prompt-tokens-details \
    --disable-uvicorn-access-log \
    --shutdown-timeout 60 \
    --enable-lora \
    --lora-modules '{"name":"a","path":"/a=b"}' \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}' \
    --override "{\"a\": \"b c\", \"d\": \"\$(rm -rf /)\"}" '' \
    --port-like 61001 \
    --many=161001
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
