#!/bin/bash
# Print the path of a Docker client whose engine answers. Where there is none and MAY_INSTALL is set, root on Debian or
# Ubuntu installs and starts one, which is left running.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
log=/var/log/dockerd.log

find_client() {
    local client versions found=
    for client in $(type -ap docker); do
        versions=$("$client" version --format '{{.Client.Version}} {{.Server.Version}}' 2> /dev/null) || continue
        found=${found:-$client}
        # A client of another version may lack the builder or the plug-ins that go with the engine.
        if [[ ${versions% *} == "${versions#* }" ]]; then
            found=$client
            break
        fi
    done
    [[ $found ]] && echo "$found"
}

install_engine() {
    local packages=(docker.io)
    # Newer releases have the client in a package of its own.
    if apt-cache show docker-cli > /dev/null 2>&1; then
        packages+=(docker-cli)
    fi
    "$here/apt-install.sh" "${packages[@]}"
}

# Not as a service: in a container there may be no service manager, or one that may not start anything.
start_engine() {
    setsid dockerd > "$log" 2>&1 < /dev/null &
    local engine=$!
    for _ in {1..300}; do
        if find_client > /dev/null; then
            echo "Started a Docker engine and left it running; 'kill $engine' ends it." >&2
            return
        fi
        kill -0 "$engine" 2> /dev/null || break
        sleep 0.2
    done
    echo "The Docker engine does not start:" >&2
    tail -n 5 "$log" >&2
    kill "$engine" 2> /dev/null || true
    return 1
}

if find_client; then
    exit
fi
if [[ ! ${MAY_INSTALL:-} || $(id -u) != 0 ]]; then
    exit 1
fi
if ! command -v dockerd > /dev/null; then
    install_engine
fi
find_client > /dev/null || start_engine
find_client
