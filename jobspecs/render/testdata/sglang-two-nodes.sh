#!/usr/bin/env bash
# Deployment sglang-two-nodes for the local cluster, revision content 080ab4dd6054.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# mixed: 1 replica, 2 nodes each, 8 GPUs on each node
# Which cards, placement decides: the agent sets CUDA_VISIBLE_DEVICES.
set -euo pipefail
umask 077

PENSTOCK=${PENSTOCK:-penstock} # the program
JOIN=${JOIN:-} # the 0600 file that the controller writes for each launch
HEAD_HOST=${HEAD_HOST:-127.0.0.1} # where the other ranks meet rank 0
HEAD_PORT=${HEAD_PORT:-61001} # drawn at the start
ENGINE_PORT=${ENGINE_PORT:-61003} # drawn at the start

agent_mixed_0() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 0 \
    --nodes 2
}

engine_mixed_0() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  export HF_HUB_OFFLINE=1
  exec python3 \
    -m sglang.launch_server \
    --model-path /models/DeepSeek-V3 \
    --served-model-name deepseek \
    --host 127.0.0.1 \
    --port "${ENGINE_PORT}" \
    --tp-size 16 \
    --nnodes 2 \
    --node-rank 0 \
    --dist-init-addr "${HEAD_HOST}:${HEAD_PORT}" \
    --enable-metrics \
    --enable-cache-report \
    --log-level-http warning \
    --kv-events-config '{"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}' \
    --trust-remote-code
}

agent_mixed_1() {
  exec "${PENSTOCK}" agent \
    --join "${JOIN}" \
    --rank 1 \
    --nodes 2
}

engine_mixed_1() {
  RUN=${RUN:-$(mktemp -d)} # the run's own folder: sockets, files
  export HF_HUB_OFFLINE=1
  exec python3 \
    -m sglang.launch_server \
    --model-path /models/DeepSeek-V3 \
    --served-model-name deepseek \
    --host 127.0.0.1 \
    --port "${ENGINE_PORT}" \
    --tp-size 16 \
    --nnodes 2 \
    --node-rank 1 \
    --dist-init-addr "${HEAD_HOST}:${HEAD_PORT}" \
    --enable-metrics \
    --enable-cache-report \
    --log-level-http warning \
    --trust-remote-code
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  "agent mixed 1") agent_mixed_1 ;;
  "engine mixed 1") engine_mixed_1 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
