#!/usr/bin/env bash
# A stand-in for Docker's package repository, which tests cannot reach. Run on a Debian 12 machine.
# The programs are Debian's own builds of Docker, repacked under the vendor's names, layout and maintainer scripts in two
# versions: 20.10.24 (Debian 12) and 26.1.5 (Debian 13, whose programs need nothing newer than glibc 2.34, but for runc).
# Usage: vendor.sh FOLDER     makes FOLDER/dists, FOLDER/pool, and FOLDER/gpg with a key made on the spot
set -euo pipefail
place="$1"
work="$(mktemp --directory --tmpdir=/var/tmp)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$place/pool" "$work/12" "$work/13" "$work/apt/lists/partial"

# Debian 13 from where the machine takes Debian 12, whatever mirror that is.
mkdir "$work/apt/parts"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  if [ -f "$file" ]; then sed 's/bookworm/trixie/g' "$file" >"$work/apt/parts/13-$(basename "$file")"; fi
done
newer=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/apt/parts" -o "Dir::State::lists=$work/apt/lists"
  -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root)
apt-get --quiet --quiet "${newer[@]}" update
apt-get --quiet --quiet update
(cd "$work/12" && apt-get --quiet --quiet -o APT::Sandbox::User=root download docker.io containerd runc)
(cd "$work/13" && apt-get --quiet --quiet "${newer[@]}" download docker.io docker-cli containerd docker-compose docker-buildx)
for suite in 12 13; do
  for package in "$work/$suite"/*.deb; do dpkg-deb --extract "$package" "$work/$suite/root"; done
done

# As debhelper writes it for a package with units: systemd is reloaded, and the service restarted by an upgrade.
postinst() {
  cat <<EOF
#!/bin/sh
set -e
if [ "\$1" = configure ]; then
  if ! getent group docker >/dev/null; then groupadd --system docker; fi
  deb-systemd-helper enable $1.service >/dev/null || true
  if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    if [ -n "\$2" ]; then action=restart; else action=start; fi
    deb-systemd-invoke "\$action" $1.service >/dev/null || true
  fi
fi
EOF
}

# pack NAME VERSION DEPENDS [SERVICE]: packs $work/NAME
pack() {
  local root="$work/$1"
  mkdir -p "$root/DEBIAN"
  cat >"$root/DEBIAN/control" <<EOF
Package: $1
Version: $2
Architecture: amd64
Maintainer: stand-in <nobody@example.invalid>
Depends: $3
Conflicts: docker.io
Description: stand-in for the vendor's package of this name
EOF
  if [ -n "${4:-}" ]; then
    postinst "$4" >"$root/DEBIAN/postinst"
    chmod 0755 "$root/DEBIAN/postinst"
  fi
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$root" "$place/pool" >/dev/null
  rm -rf "$root"
}

# file SOURCE PACKAGE TARGET
file() { install -D --mode="$(stat --format=%a "$1")" "$1" "$work/$2/$3"; }

for suite in 12 13; do
  root="$work/$suite/root"
  case "$suite" in 12) engine=20.10.24 containerd=1.6.20 ;; 13) engine=26.1.5 containerd=1.7.24 ;; esac
  file "$root/usr/sbin/dockerd" docker-ce usr/bin/dockerd
  file "$(find "$root/usr" -path '*bin/docker-proxy')" docker-ce usr/bin/docker-proxy
  for unit in docker.service docker.socket; do
    file "$(find "$root" -path "*/systemd/system/$unit")" docker-ce "lib/systemd/system/$unit"
  done
  # The vendor's unit reads no /etc/default/docker.
  sed -i -e 's|/usr/sbin/dockerd|/usr/bin/dockerd|' -e 's| [$]DOCKER_OPTS||' -e '/^EnvironmentFile=/d' \
    "$work/docker-ce/lib/systemd/system/docker.service"
  pack docker-ce "5:$engine-1~debian.12~bookworm" "containerd.io, docker-ce-cli, iptables, libdevmapper1.02.1, libsystemd0, tini" docker
  file "$root/usr/bin/docker" docker-ce-cli usr/bin/docker
  pack docker-ce-cli "5:$engine-1~debian.12~bookworm" libc6
  for program in containerd containerd-shim-runc-v2; do file "$root/usr/bin/$program" containerd.io "usr/bin/$program"; done
  file "$(find "$work/12/root/usr" -path '*sbin/runc')" containerd.io usr/bin/runc
  file "$(find "$root" -path '*/systemd/system/containerd.service')" containerd.io lib/systemd/system/containerd.service
  pack containerd.io "$containerd-1" "libc6, libseccomp2" containerd
done
plugins=usr/libexec/docker/cli-plugins
file "$(find "$work/13/root/usr" -path '*cli-plugins/docker-compose')" docker-compose-plugin "$plugins/docker-compose"
pack docker-compose-plugin 2.26.1-1~debian.12~bookworm libc6
file "$(find "$work/13/root/usr" -path '*cli-plugins/docker-buildx')" docker-buildx-plugin "$plugins/docker-buildx"
pack docker-buildx-plugin 0.13.1-1~debian.12~bookworm libc6

cd "$place"
index=dists/bookworm/stable/binary-amd64
mkdir -p "$index"
apt-ftparchive packages pool >"$index/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Suite=bookworm -o APT::FTPArchive::Release::Components=stable \
  -o APT::FTPArchive::Release::Architectures=amd64 release dists/bookworm >dists/bookworm/Release
export GNUPGHOME="$work/gnupg"
mkdir -m 0700 "$GNUPGHOME"
gpg --quiet --batch --passphrase '' --quick-generate-key 'stand-in for the vendor' rsa3072 sign never
gpg --quiet --batch --yes --clearsign --output dists/bookworm/InRelease dists/bookworm/Release
gpg --quiet --armor --export >"$place/gpg"
gpg --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]*\):.*/\1/p'
gpgconf --kill all
