#!/usr/bin/env bash
# Fetches Debian's smallest Linux kernel for the guests of internal/guestlab and
# unpacks it. It is not installed: nothing of this machine changes, and it needs
# no rights but to download. Usage: guest-kernel.sh [DIR]
set -euo pipefail
dir=${1:-"$(dirname "$0")/../out/guest-kernel"}
if compgen -G "$dir/boot/vmlinuz-*" >/dev/null; then
	echo "there is a kernel in $dir"
	exit 0
fi
package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }' || true)
[[ -n $package ]] || { echo "guest-kernel.sh: apt knows no linux-image-cloud-amd64; apt-get update may help" >&2; exit 1; }
mkdir -p "$(dirname "$dir")"
tmp=$(mktemp -d "$(cd "$(dirname "$dir")" && pwd)/.guest-kernel.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
# As root, apt would download as a user who cannot write here, and warn of it.
(cd "$tmp" && apt-get -q -o APT::Sandbox::User=root download "$package")
mkdir "$tmp/root"
dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -xf - -C "$tmp/root" --no-same-owner ./boot ./lib
rm -rf "$dir"
mv "$tmp/root" "$dir"
echo "unpacked $package in $dir"
