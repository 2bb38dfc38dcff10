#!/usr/bin/env bash
# Deployment chat for the local cluster, revision content a39951e87e7a.
#
# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.
# "engine ROLE RANK" runs one engine by hand and without all that.
#
# mixed: 2 replicas, 1 node each, 0 GPUs on each node
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
  exec llama-server \
    -m /models/qwen3-8b-q8.gguf \
    -a qwen \
    --host "${RUN}/engine.sock" \
    -kvu \
    --no-cache-idle-slots \
    -np 4 \
    -c 65536 \
    -t 8 \
    -tb 8 \
    --cache-ram 0 \
    --metrics \
    --slots \
    --no-ui \
    --no-context-shift \
    --slot-save-path "${RUN}/"
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
