#!/usr/bin/env bash
# What CI runs after `make check`: the demo as a user gets it, tests against it, roles on machines of their own.
# Usage: scripts/test.sh [all]     (all adds what is too slow for every change)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONUNBUFFERED=1
marks="not slow"
if [ "${1:-}" = all ]; then marks=""; fi

times=()
step() {
  local name="$1" start=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  "$@"
  times+=("$(printf '%-28s %5ds' "$name" $((SECONDS - start)))")
}

step "demo" make --no-print-directory demo
step "contract with the engine" pytest -q tests/contract -m "engine${marks:+ and $marks}"
step "end to end" pytest -q tests/e2e ${marks:+-m "$marks"}
for scenario in docker_engine docker_engine_alternative nvidia_toolkit nvidia_toolkit_alternative vllm_service site; do
  step "molecule $scenario" molecule test -s "$scenario"
done
printf '\n=== times\n'
printf '%s\n' "${times[@]}"
