#!/usr/bin/env bash
# Deployment llama for the local cluster, revision content 00cd9bd62b6d.
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
  exec /opt/llama.cpp/bin/llama-server \
    -m /srv/models/qwen2.5-0.5b-instruct-q8_0.gguf \
    -a qwen2.5-0.5b \
    --host "${RUN}/engine.sock" \
    -kvu \
    --no-cache-idle-slots \
    -c 131072 \
    -t 4 \
    -tb 4 \
    --cache-ram 0 \
    --metrics \
    --slots \
    --no-ui \
    --slot-save-path "${RUN}/" \
    -np 8
}

case "$*" in
  "agent mixed 0") agent_mixed_0 ;;
  "engine mixed 0") engine_mixed_0 ;;
  *)
    echo "usage: $0 agent|engine ROLE RANK" >&2
    exit 64
    ;;
esac
