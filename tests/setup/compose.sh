#!/bin/bash
# Print the command that is Compose here: Docker's plug-in, or the older program.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

find_compose() {
    local command
    for command in 'docker compose' docker-compose; do
        if $command version > /dev/null 2>&1; then
            echo "$command"
            return
        fi
    done
    return 1
}

find_compose && exit
"$here/apt-install.sh" docker-compose-v2 2> /dev/null || "$here/apt-install.sh" docker-compose
find_compose
