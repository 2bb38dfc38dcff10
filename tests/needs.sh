#!/usr/bin/env bash
# Installs what the tests need from Debian's packages, as root; else says what is missing. Safe to run again and again.
#   gcc         compiles the small stub libnvidia-ml.so of the NVML test
#   ShellCheck  reads the scripts that `penstock render` prints
#   nodejs npm  run the openai client against the gateway
#   fio         is what the disk tier's benchmark is compared with
#   curl        stands in README's examples
#   redis-tools redis-cli and redis-benchmark, clients of the KV store's RESP door
#   slurm...    a real Slurm cluster in namespaces (tests/slurm); debootstrap makes the chroots with other releases of it
#   with the word slow: mariadb, slurmdbd for a bed with accounting
set -euo pipefail
missing=()
for pair in gcc:gcc shellcheck:shellcheck node:nodejs npm:npm curl:curl fio:fio slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client \
  slurmrestd:slurmrestd munged:munge ip:iproute2 nft:nftables debootstrap:debootstrap redis-cli:redis-tools; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
if [ "${1:-}" = slow ]; then
  for pair in mariadbd:mariadb-server slurmdbd:slurmdbd; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
  done
  if command -v dpkg >/dev/null 2>&1; then
    dpkg -s slurm-wlm-mysql-plugin >/dev/null 2>&1 || missing+=(slurm-wlm-mysql-plugin)
  fi
fi
if command -v dpkg >/dev/null 2>&1; then # plugins of Slurm, which are no commands
  for package in slurm-wlm-basic-plugins slurm-wlm-jwt-plugin; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "tests: not root, so not installed: ${missing[*]}; the tests that need them are skipped" >&2
  exit 0
fi
echo "tests: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Nothing that is installed here starts a daemon of its own on this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  trap 'rm -f '$policy EXIT
fi
apt-get -q update >/dev/null
apt-get -y -q --no-install-recommends install "${missing[@]}" >/dev/null
