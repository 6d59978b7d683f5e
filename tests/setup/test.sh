#!/bin/bash
# Everything that `make test` does once the virtual environment is there.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
export TESTCONTAINERS_RYUK_DISABLED=true

tests/setup/kube-tools.sh > /dev/null & # takes minutes the first time, so beside the images
kube_tools=$!

if client=$(tests/setup/engine.sh); then
    export PGSLIPWAY_DOCKER=1
    PATH=$(dirname "$client"):$PATH
    echo "Docker: $client"
    tests/setup/images.sh
    make --no-print-directory image
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
tests/setup/postgres-versions.sh || echo 'No servers of PostgreSQL 14 to 18: their tests will not run.' >&2
wait "$kube_tools" || echo 'No kustomize and helm: what is in k8s/ will not be tested.' >&2
make --no-print-directory lint
.venv/bin/pytest ${CI:+-m 'faults or not faults'}
