#!/usr/bin/env bash
# What CI runs after `make check`: the demo as a user gets it, tests against it, roles on machines of their own.
# Usage: scripts/test.sh [all]                        (all adds what is too slow for every change)
#        scripts/test.sh molecule chosen|all|changed [BASE]    only the scenarios that scripts/scenarios.py names
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONUNBUFFERED=1

times=()
step() {
  local name="$1" start=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  "$@"
  times+=("$(printf '%-36s %5ds' "$name" $((SECONDS - start)))")
}

# scenarios SET...: those of a set, one after the other. Each has its machines for itself: two cores carry no more.
scenarios() {
  local names name
  names="$(scripts/scenarios.py "$@")"
  for name in $names; do step "molecule $name" molecule test -s "$name"; done
}

case "${1:-}" in
  molecule)
    scenarios "${@:2}"
    ;;
  all | "")
    marks="not slow" set=chosen
    if [ "${1:-}" = all ]; then marks="" set=all; fi
    step "demo" make --no-print-directory demo
    step "test models" python -m tests.models.make
    step "contract with the engine" pytest -q tests/contract -m "engine${marks:+ and $marks}"
    step "end to end" pytest -q tests/e2e ${marks:+-m "$marks"}
    step "faults" pytest -q tests/faults ${marks:+-m "$marks"}
    scenarios "$set"
    ;;
  *)
    sed -n '3,4s/^# //p' "$0" >&2
    exit 2
    ;;
esac
printf '\n=== times\n'
printf '%s\n' "${times[@]:-nothing to run}"
