#!/usr/bin/env bash
# Makes STUB packages with the names of NVIDIA's: the toolkit's four in one version, and a driver's two in another.
# Usage: build.sh FOLDER_OF_STUBS FOLDER_OF_RECORDINGS OUT toolkit|driver VERSION
set -euo pipefail
stub="$1" data="$2" out="$3" what="$4" version="$5"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

control() { # NAME DEPENDS: begins a package, in $root
  root="$work/$1"
  mkdir -p "$root/DEBIAN"
  printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: stub\nDepends: %s\nDescription: stub of a package of that name\n' \
    "$1" "$version" "$2" | sed '/^Depends: $/d' >"$root/DEBIAN/control"
}

finish() {
  dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
}

if [ "$what" = toolkit ]; then
  control libnvidia-container1 ''
  finish
  control libnvidia-container-tools "libnvidia-container1 (>= $version)"
  finish
  control nvidia-container-toolkit-base ''
  install -D -m 755 "$stub/nvidia-ctk" "$root/usr/bin/nvidia-ctk"
  printf '#!/bin/sh\n# STUB\nexec runc "$@"\n' | install -D -m 755 /dev/stdin "$root/usr/bin/nvidia-container-runtime"
  printf '[Unit]\nDescription=Stub of the refresh of the CDI specification\n[Service]\nType=oneshot\n%s\n[Install]\nWantedBy=multi-user.target\n' \
    'ExecStart=/bin/sh -c "mkdir -p /var/run/cdi; nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"' |
    install -D -m 644 /dev/stdin "$root/lib/systemd/system/nvidia-cdi-refresh.service"
  # What the real one's script does up to 1.19. Since 1.20 it is debhelper's, which asks for the reload as well.
  printf '#!/bin/sh\nset -e\n[ -d /run/systemd/system ] || exit 0\n%s\n%s\n' \
    'systemctl daemon-reload' 'systemctl --quiet enable --now nvidia-cdi-refresh.service' |
    install -m 755 /dev/stdin "$root/DEBIAN/postinst"
  finish
  control nvidia-container-toolkit "nvidia-container-toolkit-base (= $version), libnvidia-container-tools (= $version)"
  install -D -m 755 "$stub/nvidia-container-runtime-hook" "$root/usr/bin/nvidia-container-runtime-hook"
  finish
else
  control nvidia-kernel-dkms ''
  finish
  control nvidia-smi ''
  mkdir -p "$root/usr/bin" "$root/usr/share/nvidia-stub" "$root/usr/lib/x86_64-linux-gnu"
  tcc -o "$root/usr/bin/nvidia-smi" "$stub/nvidia-smi.c"
  touch "$root/usr/lib/x86_64-linux-gnu/libcuda.so.${version%-*}"
  sed "s|<driver_version>.*<|<driver_version>${version%-*}<|" "$data/rtx4090x3-made.xml" >"$root/usr/share/nvidia-stub/now.xml"
  sed 's|<persistence_mode>Disabled|<persistence_mode>Enabled|' "$root/usr/share/nvidia-stub/now.xml" \
    >"$root/usr/share/nvidia-stub/persistent.xml"
  sed -n 's|.*<uuid>\(.*\)</uuid>|: NVIDIA GeForce RTX 4090 (UUID: \1)|p' "$data/rtx4090x3-made.xml" | nl -v0 -w1 -s '' |
    sed 's/^/GPU /' >"$root/usr/share/nvidia-stub/list"
  finish
fi
