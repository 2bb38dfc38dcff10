#!/usr/bin/env bash
# Deployment sim-one for the local cluster, revision content f7f673a40b7e.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# mixed: 1 replica, 1 node each, 0 GPUs on each node
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
  export PYTHONHASHSEED=0
  exec "${PENSTOCK}" engine sim \
    --model penstock/sim \
    --served-model-name penstock/sim \
    --uds "${RUN}/engine.sock" \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://'"${RUN}"'/events.sock","replay_endpoint":"ipc://'"${RUN}"'/replay.sock"}'
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
