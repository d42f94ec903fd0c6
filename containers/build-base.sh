#!/usr/bin/env bash
# Makes a BASE for containers/Dockerfile with debootstrap, where package servers can be reached and no registry can:
#   containers/build-base.sh cumulus-base:local
#   docker build --network host --build-arg BASE=cumulus-base:local -f containers/Dockerfile -t "$(containers/tag.sh)" .
# Needs root on Debian. It takes over this machine's apt servers, the certificates in /usr/local/share/ca-certificates, and
# PIP_INDEX_URL; they stay in the image, so give that no password. SUITE is Debian's release (default: this machine's),
# with Python 3.11 or newer.
set -euo pipefail
tag=${1:-cumulus-base:local}
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root; run: sudo $0" >&2; exit 1; }
PATH=$PATH:/usr/sbin
command -v debootstrap >/dev/null || { echo "error: no debootstrap here; run: apt-get install debootstrap" >&2; exit 1; }

sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Identifier: Packages' 'Component: main' |
  grep -E " $suite(-updates|-security)? main\$" | sort -u) ||
  { echo "error: this machine's apt has no sources for $suite; run apt-get update, or set SUITE" >&2; exit 1; }
mirror=$(awk -v suite="$suite" '$3 == suite { print $2; exit }' <<<"$sources")

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root" "$mirror" >&2
printf '%s\n' "$sources" >"$root/etc/apt/sources.list"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates" {} +
chroot "$root" update-ca-certificates >&2
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n%s\n' "${PIP_INDEX_URL:+index-url = $PIP_INDEX_URL}" >"$root/etc/pip.conf"
# The engine mounts over /etc/hosts, and would else make and remove it in each build.
touch "$root/etc/hosts"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
tar --create --directory="$root" . | docker import --change 'CMD ["bash"]' - "$tag"
