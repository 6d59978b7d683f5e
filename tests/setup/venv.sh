#!/bin/bash
# Make the virtual environment .venv: what development needs, at the versions and hashes of the lock file.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cd "$here/../.."

find_python() {
    local python
    for python in python3 python3.{14,13,12,11}; do
        if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

if ! python=$(find_python) && ! { "$here/apt-install.sh" python3-venv && python=$(find_python); }; then
    echo 'pgslipway needs Python 3.11 or newer with venv (Debian and Ubuntu: apt-get install python3-venv).' >&2
    exit 1
fi
"$python" -m venv --clear .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
