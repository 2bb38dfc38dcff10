#!/usr/bin/env bash
# Deployment sim-pd for the local cluster, revision content f4391ba27de3.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# prefill: 1 replica, 1 node each, 1 GPU on each node
# decode: 2 replicas, 1 node each, 1 GPU on each node
# Which cards, placement decides: the agent sets CUDA_VISIBLE_DEVICES.
set -euo pipefail
umask 077

PENSTOCK=${PENSTOCK:-penstock} # the program
JOIN=${JOIN:-} # the 0600 file that the controller writes for each launch
TRANSFER_HOST=${TRANSFER_HOST:-127.0.0.1} # where other engines fetch KV from
TRANSFER_PORT=${TRANSFER_PORT:-61002} # drawn at the start

agent_prefill_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 1
}

engine_prefill_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  export PYTHONHASHSEED=0
  exec "${PENSTOCK}" engine sim \
    --model penstock/sim \
    --served-model-name sim-pd \
    --uds "${RUN}/engine.sock" \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}' \
    --kv-transfer-config '{"kv_connector":"SimConnector","kv_role":"kv_both"}' \
    --transfer-host "${TRANSFER_HOST}" \
    --transfer-port "${TRANSFER_PORT}"
}

agent_decode_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 1
}

engine_decode_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  export PYTHONHASHSEED=0
  exec "${PENSTOCK}" engine sim \
    --model penstock/sim \
    --served-model-name sim-pd \
    --uds "${RUN}/engine.sock" \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}' \
    --kv-transfer-config '{"kv_connector":"SimConnector","kv_role":"kv_both"}' \
    --transfer-host "${TRANSFER_HOST}" \
    --transfer-port "${TRANSFER_PORT}" \
    --max-num-seqs 64
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
