#!/bin/bash
# Build stand-ins for the public images that the project uses, from Debian's packages, for machines that reach no image
# registry. Needs root, mmdebstrap and a Docker engine.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() {
    local options=(
        --variant=minbase --mode=root --format=tar --quiet
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright'
        --dpkgopt='path-exclude=/usr/share/info/*'
        --dpkgopt='path-exclude=/usr/share/locale/*'
        --dpkgopt='path-exclude=/usr/share/man/*'
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*'
    )
    # Where the network re-signs TLS, pip in a container needs this machine's own authorities, too.
    if compgen -G '/usr/local/share/ca-certificates/*.crt' > /dev/null; then
        options+=(--customize-hook='mkdir -p "$1/usr/local/share"'
                  --customize-hook='cp -r /usr/local/share/ca-certificates "$1/usr/local/share/"')
    fi
    mmdebstrap "${options[@]}" trixie "$work/debian.tar"
    docker import --change 'CMD ["bash"]' \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'LABEL pgslipway.standin=true' "$work/debian.tar" debian:trixie-slim
}

timescaledb() {
    docker build --tag timescale/timescaledb:latest-pg17 "$here/timescaledb"
}

for image in "$@"; do
    case $image in
        debian:trixie-slim) debian ;;
        timescale/timescaledb:latest-pg17) timescaledb ;;
        *) echo "$0: no stand-in for $image" >&2; exit 1 ;;
    esac
done
