#!/usr/bin/env bash
# Make targets side by side: says when each begins and ends and, in between, which are still at work. The output of one that
# fails is shown as soon as it has ended; the others go on.
# Usage: scripts/check.sh TARGET...
set -euo pipefail
cd "$(dirname "$0")/.."
logs="$(mktemp -d)"
trap 'trap - TERM; rm -rf "$logs"; kill $(jobs -p) 2>/dev/null || true' EXIT

part() {
  local name="$1" log="$logs/$1" start=$SECONDS
  if make --no-print-directory "$name" >"$log" 2>&1; then
    printf 'check: %-10s passed in %3d s  %s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$log")"
  else
    # One write, so that the others' lines stay out of it.
    printf '%s\n' "$(printf 'check: %s FAILED after %d s\n' "$name" $((SECONDS - start)); sed "s/^/$name: /" "$log")"
    touch "$log.failed"
  fi
  touch "$log.ended"
}

at_work() {
  local name far list=""
  for name in "$@"; do
    if [ ! -e "$logs/$name.ended" ]; then
      far="$(grep -Eo '[0-9]+%' "$logs/$name" 2>/dev/null | tail -n 1 || true)" # of pytest
      list+=", $name${far:+ $far}"
    fi
  done
  if [ -n "$list" ]; then printf 'check: %3d s, at work: %s\n' "$SECONDS" "${list#, }"; fi
}

echo "check: begins $*"
parts=()
for name in "$@"; do
  part "$name" &
  parts+=($!)
done
# Its sleep may outlive it, and must not keep a pipe open then.
while sleep 15 >/dev/null 2>&1; do at_work "$@"; done &
wait "${parts[@]}"
failed="$(find "$logs" -name '*.failed' -printf '%f\n' | sed 's/\.failed$//' | sort | xargs)"
if [ -n "$failed" ]; then
  echo "check: FAILED in $SECONDS s: $failed (see above)"
  exit 1
fi
echo "check: all passed in $SECONDS s"
