#!/usr/bin/env bash
# Resolve requirements/*.in into hashed locks, one per Python where ansible-core differs: 3.11 runs 2.19, newer ones 2.21.
# No index address or find-links location is written, so the locks work behind any mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "lock: needs uv on the path (pip install uv)" >&2; exit 1; }
for kind in runtime dev; do
  for target in 3.11:py311 3.12:py312; do
    uv pip compile --quiet --no-config --generate-hashes --no-emit-index-url --no-header \
      --python-version "${target%%:*}" --python-platform linux \
      "requirements/$kind.in" -o "requirements/$kind-${target##*:}.txt" "$@"
  done
done
