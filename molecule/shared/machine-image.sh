#!/bin/sh
# Makes the image llm-machine:SUITE, a Debian machine with systemd. Quick when it is there already (build cache).
# Its base debian:SUITE-slim is taken as it lies here, else pulled, else bootstrapped from the package mirror.
# Prints "changed" when the image is not the one that was there before.
set -eu

suite=${1:?usage: machine-image.sh SUITE (bookworm, trixie, ...)}
here=$(dirname "$0")
base="debian:$suite-slim"
image="llm-machine:$suite"

image_id() { docker image inspect --format '{{.Id}}' "$1" 2>/dev/null || true; }

bootstrap() {
    command -v debootstrap >/dev/null || {
        echo "machine-image: $base can be neither pulled nor made: install debootstrap (apt-get install debootstrap)" >&2
        exit 1
    }
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$tree" >"$tree.log" 2>&1 || {
        tail -n 20 "$tree.log" >&2
        exit 1
    }
    rm -f "$tree.log"
    tar -C "$tree" -c . | docker import --change 'CMD ["bash"]' - "$base" >&2
}

before=$(image_id "$image")
if [ -z "$(image_id "$base")" ]; then
    if ! docker pull --quiet "$base" >&2; then bootstrap; fi
fi
# Proxy variables without a value are passed on as they are set here, and left out where they are not.
docker build --quiet --tag "$image" --build-arg "BASE=$base" \
    --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy "$here" >&2
[ "$before" = "$(image_id "$image")" ] || echo changed
