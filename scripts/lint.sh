#!/usr/bin/env bash
# All linters, zero warnings. Each tool's settings are in its own file or in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
ruff check --quiet .
ruff format --quiet --check . || { echo "ruff format: run .venv/bin/ruff format ." >&2; exit 1; }
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
yamllint --strict .
scripts/ansible_lint.py --offline --strict -q
