#!/usr/bin/env bash
# Installs what the tests need from Debian's packages, as root; else says what is missing. Safe to run again and again.
#   gcc         compiles the small stub libnvidia-ml.so of the NVML test
#   shellcheck  reads the scripts that `penstock render` prints
#   nodejs npm  run the openai client against the gateway
#   curl        stands in README's examples
set -euo pipefail
missing=()
for pair in gcc:gcc shellcheck:shellcheck node:nodejs npm:npm curl:curl; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "tests: not root, so not installed: ${missing[*]}; the tests that need them are skipped" >&2
  exit 0
fi
echo "tests: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null
apt-get -y -q --no-install-recommends install "${missing[@]}" >/dev/null
