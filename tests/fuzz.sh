#!/usr/bin/env bash
# Runs every fuzz target of the project for a while: tests/fuzz.sh 20s
set -euo pipefail
cd "$(dirname "$0")/.."
for dir in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do
  for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
    echo "=== $dir $target"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-20s}"
  done
done
