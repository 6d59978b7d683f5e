#!/bin/bash
# Print the command that is podman here, with settings of the tests' own. Only for root: pods in user namespaces are not
# what is tested. Where podman is missing, MAY_INSTALL lets this install it.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
folder=$(realpath "$here/../..")/.venv/podman

if [[ $(id -u) != 0 ]]; then
    echo 'not root: no podman' >&2
    exit 1
fi
# catatonit is the one process of a pod's own container; podman only recommends it.
if ! { command -v podman && command -v catatonit; } > /dev/null; then
    "$here/apt-install.sh" podman catatonit
fi

mkdir -p "$folder"
# No limits of podman's own: they are refused where this machine's are lower. No systemd, no journal: they may not run.
cat > "$folder/containers.conf" << EOF
[containers]
default_ulimits = []
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"

[network]
network_config_dir = "$folder/networks"
EOF
printf '%q ' env "CONTAINERS_CONF=$folder/containers.conf" podman
echo
