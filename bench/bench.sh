#!/bin/bash
# Install what the benchmark needs, run it, and make the tables and plots of its results.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
if ! client=$(tests/setup/engine.sh); then
    echo 'The benchmark needs a Docker engine: what it measures of pgslipway is its image.' >&2
    exit 1
fi
PATH=$(dirname "$client"):$PATH
tests/setup/images.sh
make --no-print-directory image
tests/setup/postgres-versions.sh
[[ -x /usr/bin/time ]] || tests/setup/apt-install.sh time
[[ -x /usr/bin/openssl ]] || tests/setup/apt-install.sh openssl
bench/install.sh
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement bench/requirements.txt
export PYTHONPATH=$PWD:$PWD/tests
.venv/bin/python -m bench "$@"
.venv/bin/python -m bench.report
