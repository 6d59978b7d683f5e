#!/bin/bash
# Everything that `make test` does once the virtual environment is there.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
export TESTCONTAINERS_RYUK_DISABLED=true

if client=$(tests/setup/engine.sh); then
    export PGSLIPWAY_DOCKER=1
    PATH=$(dirname "$client"):$PATH
    echo "Docker: $client"
    tests/setup/images.sh
    make --no-print-directory image
    PGSLIPWAY_COMPOSE=$(tests/setup/compose.sh) || echo 'No Docker Compose: its tests will not run.' >&2
    export PGSLIPWAY_COMPOSE
else
    export PGSLIPWAY_DOCKER=0
    echo 'NO DOCKER ENGINE: the image is not tested, and the servers are embedded ones without TimescaleDB.' >&2
fi

make --no-print-directory lint
.venv/bin/pytest ${CI:+-m 'faults or not faults'}
