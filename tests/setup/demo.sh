#!/bin/bash
# The main job, shown on a database that is thrown away afterwards.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."

say() {
    printf '\n=== %s\n' "$*"
}

with_compose() {
    export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-pgslipway-demo}
    trap '$compose down --volumes --remove-orphans --rmi local > /dev/null 2>&1' EXIT
    say 'Building the image, with the files of migrations/'
    $compose build --quiet migrate
    say 'Starting compose.yaml: TimescaleDB, then its migrations, then the app (all of it is removed in the end)'
    $compose up --detach
    $compose logs --no-color migrate
    say 'The app found its schema'
    $compose logs --no-color --follow app
    say 'Started once more, there is nothing to do'
    $compose run --rm -T migrate
    say 'The state of the schema: pgslipway status'
    $compose run --rm -T migrate status
}

with_venv() {
    make --no-print-directory .venv/ready
    say 'Applying examples/webshop to an embedded Postgres: pgslipway rehearse'
    .venv/bin/pgslipway rehearse examples/webshop
}

if client=$(tests/setup/engine.sh) && PATH=$(dirname "$client"):$PATH && compose=$(tests/setup/compose.sh) \
    && tests/setup/images.sh; then
    with_compose
else
    say 'No Docker engine with Compose here, so this is the demo without containers'
    with_venv
fi
