#!/usr/bin/env bash
# Make .venv with the newest Python that runs and install the locked requirements.
# Usage: scripts/setup.sh [runtime|dev]     (dev adds what tests and lint need)
set -euo pipefail
cd "$(dirname "$0")/.."
kind="${1:-runtime}"

# A Python counts when it starts, is one that ansible-core supports, and can make an environment with pip.
usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14)))' >/dev/null 2>&1; }

find_python() {
  local version candidate
  for version in 3.14 3.13 3.12 3.11; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python3; do
      if usable "$candidate"; then command -v "$candidate"; return 0; fi
    done
  done
  if usable python3; then command -v python3; return 0; fi
  return 1
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

if ! python="$(find_python)"; then
  # Debian and Ubuntu split ensurepip into python3-venv.
  if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }; then
    echo "setup: no Python with venv found; installing python3-venv with apt"
    as_root apt-get update -q >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
  fi
  python="$(find_python)" || {
    echo "setup: needs Python 3.11 to 3.14 with venv and pip; install it (Debian: apt-get install python3-venv) and run again" >&2
    exit 1
  }
fi

case "$("$python" -c 'import sys; print(sys.version_info[1])')" in
  11) lock="requirements/$kind-py311.txt" ;;
  *) lock="requirements/$kind-py312.txt" ;;
esac

stamp=".venv/.installed-$kind"
wanted="$("$python" -V) $(sha256sum <"$lock")"
if [ -x .venv/bin/ansible-playbook ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

echo "setup: .venv with $("$python" -V), $lock"
if [ "$(.venv/bin/python -V 2>/dev/null)" != "$("$python" -V)" ]; then rm -rf .venv; fi
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
printf '%s' "$wanted" >"$stamp"
echo "setup: done in ${SECONDS}s"
