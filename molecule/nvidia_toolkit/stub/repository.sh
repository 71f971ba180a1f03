#!/usr/bin/env bash
# A STUB of NVIDIA's repository: flat, signed with a key made here, served on the loopback address.
# Usage: repository.sh FOLDER PORT     (packages are in FOLDER/deb/amd64; prints the key's fingerprint)
set -euo pipefail
export GNUPGHOME="$1/gnupg"
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Stub of a repository' rsa3072 sign never 2>/dev/null
gpg --armor --export >"$1/gpgkey"
cd "$1/deb/amd64"
apt-ftparchive packages . >Packages
apt-ftparchive -o APT::FTPArchive::Release::Origin=stub release . >Release
gpg --batch --quiet --clearsign --output InRelease Release
gpgconf --kill all
systemd-run --quiet --unit stub-repository python3 -m http.server "$2" --bind 127.0.0.1 --directory "$1"
gpg --list-keys --with-colons | awk -F: '$1 == "fpr" { print $10; exit }'
gpgconf --kill all
