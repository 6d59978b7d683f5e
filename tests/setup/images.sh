#!/bin/bash
# Have the public images that the project uses: pulled or, where no registry answers, stand-ins for them.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

for image in debian:trixie-slim timescale/timescaledb:latest-pg17; do
    if docker image inspect "$image" > /dev/null 2>&1 || docker pull --quiet "$image"; then
        continue
    fi
    echo "No image registry answers: building a stand-in for $image from Debian's packages."
    command -v mmdebstrap > /dev/null || "$here/apt-install.sh" mmdebstrap debian-archive-keyring
    "$here/../standins/build.sh" "$image"
done
