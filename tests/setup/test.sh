#!/bin/bash
# Everything that `make test` does once the virtual environment is there.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
export TESTCONTAINERS_RYUK_DISABLED=true

# Minutes, the first time: beside all else, and behind it. The first test that needs it waits for it.
nice tests/setup/kube-tools.sh > /dev/null &

if client=$(tests/setup/engine.sh); then
    export PGSLIPWAY_DOCKER=1
    PATH=$(dirname "$client"):$PATH
    echo "Docker: $client"
    tests/setup/images.sh
    make --no-print-directory image
    export PGSLIPWAY_IMAGE=built
    PGSLIPWAY_COMPOSE=$(tests/setup/compose.sh) || echo 'No Docker Compose: its tests will not run.' >&2
    export PGSLIPWAY_COMPOSE
    PGSLIPWAY_PODMAN=$(tests/setup/podman.sh) || echo 'No podman: its tests will not run.' >&2
    export PGSLIPWAY_PODMAN
else
    export PGSLIPWAY_DOCKER=0
    echo 'NO DOCKER ENGINE: the image is not tested, and the servers are embedded ones without TimescaleDB.' >&2
fi

command -v kubectl > /dev/null || tests/setup/apt-install.sh kubernetes-client \
    || echo 'No kubectl: some commands of docs/ will not be run.' >&2
command -v pgpool > /dev/null || [[ -x /usr/sbin/pgpool ]] || tests/setup/apt-install.sh pgpool2 \
    || echo 'No Pgpool-II: its tests will not run.' >&2
tests/setup/postgres-versions.sh || echo 'No servers of PostgreSQL 14 to 18: their tests will not run.' >&2
make --no-print-directory lint
# File by file as they are collected, the slow ones first: what a file shares, such as a server, is made once.
.venv/bin/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder ${CI:+-m 'faults or not faults'}
