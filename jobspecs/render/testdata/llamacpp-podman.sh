#!/usr/bin/env bash
# Deployment llamacpp-podman for the local cluster, revision content c86fd2c4a8d3.
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
  export HF_HUB_OFFLINE=1
  exec podman run \
    --rm \
    --network host \
    --ipc host \
    --userns keep-id \
    --security-opt label=disable \
    --env HF_HUB_OFFLINE \
    --env PENSTOCK_LAUNCH \
    --env PENSTOCK_RUN \
    --volume "${RUN}:${RUN}" \
    --volume /models/m.gguf:/models/m.gguf:ro \
    --workdir "${RUN}" \
    --entrypoint llama-server ghcr.io/ggml-org/llama.cpp:server \
    -m /models/m.gguf \
    -a m.gguf \
    --host "${RUN}/engine.sock" \
    -kvu \
    --no-cache-idle-slots \
    -np 4 \
    -c 0 \
    -t 4 \
    -tb 4 \
    --cache-ram 0 \
    --metrics \
    --slots \
    --no-ui \
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
