"""`k8s/`: each overlay and the chart, rendered: valid, within the restricted standard, and true to pgslipway."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from containers import ROOT
from pgslipway import __version__, errors
from pgslipway.cli.arguments import parse
from pgslipway.config import Config, from_environ
from pgslipway.libpq import LIBPQ
from pgslipway.settings import SETTINGS
from pgslipway.targets.names import shard_of, targets_of, words_in

if TYPE_CHECKING:
    from conftest import Folder, Slipway

Json = dict[str, Any]

K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
CHART = K8S / "chart"
# The charts, and the values with which they are rendered.
CHARTS = {
    "chart-job": {"mode": "job"},
    "chart-initContainer": {"mode": "initContainer"},
    "chart-targets": {
        "mode": "job",
        "targets.kind": "database",
        "targets.list": "{tenant_acme,tenant_globex,tenant_initech,tenant_umbrella}",
        "targets.shards": "4",
    },
}

# Every way to deploy, and what is made in it. The charts are those of an app that has ours as a subchart.
MADE = {
    "init": {"Deployment/my-app", "Secret/my-app-database"},
    "init-restart-rules": {"Deployment/my-app", "Secret/my-app-database"},
    "job": {
        "Deployment/my-app", "Job/my-app-migrate-1", "Secret/my-app-database", "Secret/my-app-database-app",
    },
    "argocd": {"Deployment/my-app", "Job/my-app-migrate-1"},
    "configmap": {"Deployment/my-app", "ConfigMap/my-app-migrations", "Secret/my-app-database"},
    "cnpg": {"Deployment/my-app"},
    "chart-job": {"Deployment/my-app", "Job/my-release-migrate"},
    "chart-initContainer": {"Deployment/my-app"},
    "targets": {
        "Deployment/my-app", "Job/my-app-migrate-1", "ConfigMap/my-app-targets",
        "Secret/my-app-database", "Secret/my-app-database-app",
    },
    "chart-targets": {"Deployment/my-app", "Job/my-release-migrate"},
}  # fmt: skip
KINDS = [(way, made.partition("/")[0]) for way in MADE for made in sorted(MADE[way])]
PODS = [(way, kind) for way, kind in KINDS if kind in ("Deployment", "Job")]
JOBS = [way for way, kind in PODS if kind == "Job"]
INDEXED = ("targets", "chart-targets")

every_way = pytest.mark.parametrize("way", MADE)
every_pod = pytest.mark.parametrize(("way", "kind"), PODS)
every_job = pytest.mark.parametrize("way", JOBS)
every_indexed_job = pytest.mark.parametrize("way", INDEXED)


# Rendering


@cache
def tools() -> Path | None:
    """The folder of kustomize and helm; they are installed where MAY_INSTALL is set."""
    found = subprocess.run([ROOT / "tests/setup/kube-tools.sh"], stdout=subprocess.PIPE, text=True, check=False)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What kustomize or helm answers. Without them the test is skipped, but fails when CI=true."""
    if (folder := tools()) is None:
        missing = "kustomize and helm are not there: see tests/setup/kube-tools.sh"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    command = [str(folder / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def documents(rendered: subprocess.CompletedProcess[str]) -> list[Json]:
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def build(folder: Path) -> list[Json]:
    return documents(tool("kustomize", "build", folder))


def blocks_of_the_readme() -> list[str]:
    """The README of the chart: the dependency, the values, the lines in a Deployment, and the values for targets."""
    return re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def make_parent_chart(folder: Path) -> Path:
    """The chart of an app, made as the README of ours says: dependency, values, and two lines in a Deployment."""
    dependencies, values, lines, _ = blocks_of_the_readme()
    init, volumes = re.split(r"(?=^      volumes:)", lines, flags=re.MULTILINE)
    deployment = (K8S / "base/deployment.yaml").read_text(encoding="utf-8")
    deployment = re.sub(r"      initContainers:\n.*?(?=      containers:)", init, deployment, flags=re.DOTALL)
    deployment = re.sub(r"      volumes:\n.*?(?=        - name: tmp)", volumes, deployment, flags=re.DOTALL)
    chart = {"apiVersion": "v2", "name": "my-app", "version": "1.0.0"} | yaml.safe_load(dependencies)
    assert chart["dependencies"] == [{"name": "pgslipway", "version": __version__}]
    shutil.copytree(CHART, folder / "charts/pgslipway")
    (folder / "templates").mkdir()
    (folder / "templates/deployment.yaml").write_text(deployment, encoding="utf-8")
    (folder / "values.yaml").write_text(values, encoding="utf-8")
    (folder / "Chart.yaml").write_text(yaml.safe_dump(chart), encoding="utf-8")
    return folder


def template(chart: Path, values: Mapping[str, str]) -> list[Json]:
    settings = [f"--set=pgslipway.{key}={value}" for key, value in values.items()]
    return documents(tool("helm", "template", "my-release", chart, *settings))


@cache
def rendered(way: str) -> list[Json]:
    if way in OVERLAYS:
        return build(K8S / "overlays" / way)
    with tempfile.TemporaryDirectory() as folder:
        return template(make_parent_chart(Path(folder)), CHARTS[way])


def manifest(way: str, kind: str) -> Json:
    """The one manifest of that kind; of two Secrets, the first."""
    return next(document for document in rendered(way) if document["kind"] == kind)


def pod(way: str, kind: str) -> Json:
    spec: Json = manifest(way, kind)["spec"]["template"]["spec"]
    return spec


def containers(pod: Json) -> list[Json]:
    """All containers of a pod, of whatever kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


def migrate(way: str, kind: str) -> Json:
    """The container that pgslipway runs in."""
    (container,) = pod(way, kind)["initContainers" if kind == "Deployment" else "containers"]
    assert container["name"] == "migrate"
    return dict(container)


def name(document: Json) -> str:
    """Kind and name, without the hash that kustomize adds to the name of a ConfigMap."""
    given = f"{document['kind']}/{document['metadata']['name']}"
    return re.sub("-[a-z0-9]{10}$", "", given) if document["kind"] == "ConfigMap" else given


def test_every_overlay_and_mode_is_tested() -> None:
    assert set(MADE) == {*OVERLAYS, *CHARTS}
    modes = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]["mode"]["enum"]
    assert {values["mode"] for values in CHARTS.values()} == set(modes)


@every_way
def test_all_of_it_is_made_and_nothing_else(way: str) -> None:
    assert sorted(map(name, rendered(way))) == sorted(MADE[way])


# The schemas

# 1.29 is the oldest whose schema lets a rule of a podFailurePolicy be about exit codes alone.
VERSIONS = ("1.29", "1.33", "1.35", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
SINCE = {"init-restart-rules": "1.35"}
VALID = [(*it, version) for it in KINDS for version in VERSIONS if version >= SINCE.get(it[0], "")]


@pytest.mark.parametrize(("way", "kind", "version"), VALID)
def test_manifest_is_valid_for_kubernetes(way: str, kind: str, version: str) -> None:
    for document in rendered(way):
        if document["kind"] == kind:
            assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
def test_misspelled_field_is_not_valid(version: str) -> None:
    misspelled = changed(manifest("job", "Job"), "spec.backofLimit", 6)
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(misspelled, version, strict=True)


@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_restart_rules_are_not_valid_for_an_older_kubernetes(version: str) -> None:
    with pytest.raises(kubernetes_validate.ValidationError, match="restartPolicyRules"):
        kubernetes_validate.validate(manifest("init-restart-rules", "Deployment"), version, strict=True)


@every_job
def test_job_is_found_by_the_label_of_its_pods(way: str) -> None:
    job = manifest(way, "Job")
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"] != {}


@every_pod
def test_volumes_are_those_that_are_mounted(way: str, kind: str) -> None:
    mounted = {mount["name"] for container in containers(pod(way, kind)) for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(way, kind)["volumes"]}


@every_way
def test_deployment_selects_its_own_pods(way: str) -> None:
    spec = manifest(way, "Deployment")["spec"]
    selector = spec["selector"]["matchLabels"]
    assert selector.items() <= spec["template"]["metadata"]["labels"].items()
    if way in JOBS:
        assert not selector.items() <= manifest(way, "Job")["spec"]["template"]["metadata"]["labels"].items()


# The restricted Pod Security Standard, https://kubernetes.io/docs/concepts/security/pod-security-standards/

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def is_unconfined(context: Json, kind: str) -> bool:
    return kind in context and context[kind]["type"] not in PROFILES


def is_relabelled(options: Json) -> bool:
    return bool(options.get("user") or options.get("role") or options.get("type", "") not in SELINUX_TYPES)


# What no security context may say, be it the pod's or a container's.
FORBIDDEN: dict[str, Callable[[Json], object]] = {
    "is privileged": lambda it: it.get("privileged"),
    "may run as root": lambda it: it.get("runAsNonRoot") is False,
    "runs as root": lambda it: it.get("runAsUser") == 0,
    "is a host process": lambda it: it.get("windowsOptions", {}).get("hostProcess"),
    "unmasks /proc": lambda it: it.get("procMount", "Default") != "Default",
    "is free of seccomp": lambda it: is_unconfined(it, "seccompProfile"),
    "is free of AppArmor": lambda it: is_unconfined(it, "appArmorProfile"),
    "has its own SELinux label": lambda it: is_relabelled(it.get("seLinuxOptions", {})),
    "sets sysctls": lambda it: it.get("sysctls"),
}

# What must hold for each container, where its own security context goes before the pod's.
REQUIRED: dict[str, Callable[[Json], object]] = {
    "does not say runAsNonRoot": lambda it: it.get("runAsNonRoot") is not None,
    "does not say seccompProfile": lambda it: "seccompProfile" in it,
    "may gain privileges": lambda it: it.get("allowPrivilegeEscalation") is False,
    "keeps capabilities": lambda it: "ALL" in it.get("capabilities", {}).get("drop", []),
    "adds capabilities": lambda it: set(it.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
}


def hosts(container: Json) -> Iterator[str]:
    """The hosts that a container's probes and lifecycle hooks name."""
    probes = [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup")]
    for handler in [*probes, *container.get("lifecycle", {}).values()]:
        for action in ("httpGet", "tcpSocket"):
            yield from filter(None, [handler.get(action, {}).get("host")])


def breaches(pod: Json) -> Iterator[str]:
    """What the restricted standard has against a pod spec; nothing where it is met.

    Stricter in one place: sysctls are refused altogether, the harmless ones too.
    """
    context = pod.get("securityContext", {})
    yield from (f"pod shares {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field))
    yield from (f"pod {breach}" for breach, holds in FORBIDDEN.items() if holds(context))
    for volume in pod.get("volumes", []):
        yield from (f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES)
    for container in containers(pod):
        yield from (f"{container['name']} {breach}" for breach in container_breaches(container, context))


def container_breaches(container: Json, pod_context: Json) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from (breach for breach, holds in FORBIDDEN.items() if holds(context))
    yield from (breach for breach, holds in REQUIRED.items() if not holds(pod_context | context))
    host_ports = [port["hostPort"] for port in container.get("ports", []) if port.get("hostPort")]
    yield from (f"takes port {port} of the host" for port in host_ports)
    yield from (f"probes {host}" for host in hosts(container))


@every_pod
def test_pod_meets_the_restricted_standard(way: str, kind: str) -> None:
    assert list(breaches(pod(way, kind))) == []


ABSENT = object()


def changed(document: Json, path: str, value: object) -> Json:
    """A copy of the document with the value at the dotted path set, or taken away where it is ABSENT."""
    copy = deepcopy(document)
    *parents, last = path.split(".")
    place: Any = copy
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    key: Any = int(last) if isinstance(place, list) else last
    if value is ABSENT:
        del place[key]
    else:
        place[key] = value
    return copy


BASE: Json = yaml.safe_load((K8S / "base/deployment.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
MIGRATE_CONTEXT = "initContainers.0.securityContext"
APP_PATH = "containers.0"


@pytest.mark.parametrize(
    ("path", "value", "breach"),
    [
        ("hostNetwork", True, "pod shares hostNetwork"),
        ("hostPID", True, "pod shares hostPID"),
        ("hostIPC", True, "pod shares hostIPC"),
        ("volumes.0", {"name": "run", "hostPath": {"path": "/run"}}, "volume run is a hostPath"),
        ("volumes.0", {"name": "share", "nfs": {"server": "nas", "path": "/"}}, "volume share is a nfs"),
        ("securityContext.runAsUser", 0, "pod runs as root"),
        ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "pod sets sysctls"),
        ("securityContext.windowsOptions.hostProcess", True, "pod is a host process"),
        ("securityContext.seLinuxOptions.role", "sysadm_r", "pod has its own SELinux label"),
        ("securityContext.seLinuxOptions.type", "spc_t", "pod has its own SELinux label"),
        ("securityContext.seccompProfile.type", "Unconfined", "pod is free of seccomp"),
        ("securityContext.appArmorProfile.type", "Unconfined", "pod is free of AppArmor"),
        (f"{MIGRATE_CONTEXT}.seccompProfile.type", "Unconfined", "migrate is free of seccomp"),
        (f"{MIGRATE_CONTEXT}.runAsUser", 0, "migrate runs as root"),
        (f"{MIGRATE_CONTEXT}.runAsNonRoot", False, "migrate may run as root"),
        (f"{MIGRATE_CONTEXT}.privileged", True, "migrate is privileged"),
        (f"{MIGRATE_CONTEXT}.procMount", "Unmasked", "migrate unmasks /proc"),
        (f"{MIGRATE_CONTEXT}.allowPrivilegeEscalation", True, "migrate may gain privileges"),
        (f"{MIGRATE_CONTEXT}.allowPrivilegeEscalation", ABSENT, "migrate may gain privileges"),
        (f"{MIGRATE_CONTEXT}.capabilities.drop", ["NET_RAW"], "migrate keeps capabilities"),
        (f"{MIGRATE_CONTEXT}.capabilities", ABSENT, "migrate keeps capabilities"),
        (f"{MIGRATE_CONTEXT}.capabilities.add", ["SYS_PTRACE"], "migrate adds capabilities"),
        (f"{APP_PATH}.ports.0.hostPort", 80, "app takes port 80 of the host"),
        (f"{APP_PATH}.livenessProbe.httpGet.host", "10.0.0.1", "app probes 10.0.0.1"),
        (f"{APP_PATH}.lifecycle.preStop.tcpSocket.host", "10.0.0.1", "app probes 10.0.0.1"),
        ("ephemeralContainers", [{"name": "debug"}], "debug may gain privileges, debug keeps capabilities"),
        (
            "securityContext.runAsNonRoot", ABSENT,
            "migrate does not say runAsNonRoot, app does not say runAsNonRoot",
        ),
        (
            "securityContext.seccompProfile", ABSENT,
            "migrate does not say seccompProfile, app does not say seccompProfile",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_broken_pod_does_not_meet_the_restricted_standard(path: str, value: object, breach: str) -> None:
    assert ", ".join(breaches(changed(BASE, path, value))) == breach


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{MIGRATE_CONTEXT}.runAsNonRoot", True),
        (f"{MIGRATE_CONTEXT}.capabilities.add", ["NET_BIND_SERVICE"]),
        ("securityContext.seLinuxOptions.type", "container_t"),
        ("volumes.0", {"name": "files", "configMap": {"name": "migrations"}}),
    ],
    ids=["said_twice", "low_port", "selinux_type", "config_map"],
)
def test_what_the_restricted_standard_allows_is_no_breach(path: str, value: object) -> None:
    assert list(breaches(changed(BASE, path, value))) == []


# Beyond the standard


@every_pod
def test_pod_has_a_numeric_user_and_no_token_of_the_kubernetes_api(way: str, kind: str) -> None:
    # The kubelet can only check runAsNonRoot for a number; a name in the image's USER is refused.
    assert effective_context(way, kind)["runAsUser"] == 65532
    assert pod(way, kind)["automountServiceAccountToken"] is False


def effective_context(way: str, kind: str) -> Json:
    """What holds for pgslipway's container: its own security context goes before the pod's."""
    return {**pod(way, kind).get("securityContext", {}), **migrate(way, kind)["securityContext"]}


@every_pod
def test_container_has_a_read_only_root(way: str, kind: str) -> None:
    for container in containers(pod(way, kind)):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@every_pod
def test_container_asks_for_little_and_has_a_memory_limit(way: str, kind: str) -> None:
    for container in containers(pod(way, kind)):
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}


@every_pod
def test_migrate_is_limited_to_what_it_is_tested_with(way: str, kind: str) -> None:
    assert migrate(way, kind)["resources"]["limits"]["memory"] == "64Mi"


@every_pod
def test_image_has_a_fixed_tag_and_no_registry(way: str, kind: str) -> None:
    for container in containers(pod(way, kind)):
        image, _, tag = container["image"].partition(":")
        assert "/" not in image
        assert tag not in ("", "latest")


@every_pod
def test_migrate_is_the_same_in_every_way(way: str, kind: str) -> None:
    same = ("terminationMessagePolicy", "resources")
    assert {key: migrate(way, kind)[key] for key in same} == {key: migrate("init", "Deployment")[key] for key in same}
    # The image's own group goes with the image's own user.
    assert effective_context(way, kind) | {"runAsGroup": 65532} == effective_context("init", "Deployment")


@every_way
def test_probes_are_the_apps(way: str) -> None:
    (app,) = pod(way, "Deployment")["containers"]
    probes = {"startupProbe", "livenessProbe", "readinessProbe"}
    assert migrate(way, "Deployment").keys() & probes == set()
    assert app.keys() & probes == probes
    assert {app[probe]["httpGet"]["port"] for probe in probes} == {port["name"] for port in app["ports"]}


@every_way
def test_rollout_never_takes_a_pod_away_before_the_next_is_ready(way: str) -> None:
    assert manifest(way, "Deployment")["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


@every_job
def test_migrations_may_take_as_long_in_the_deployment_as_in_the_job(way: str) -> None:
    deadline = manifest(way, "Deployment")["spec"]["progressDeadlineSeconds"]
    assert deadline == manifest(way, "Job")["spec"]["activeDeadlineSeconds"]
    assert deadline > Config().wait_timeout + Config().lock_timeout


@every_pod
def test_either_the_job_migrates_or_the_pods_do(way: str, kind: str) -> None:
    options, flags = parse(migrate(way, kind).get("args", []))
    assert options.command == ("wait" if way in JOBS and kind == "Deployment" else "up")
    assert flags == {}
    assert "command" not in migrate(way, kind)


@pytest.mark.parametrize("way", JOBS)
def test_pods_wait_with_the_image_that_the_job_migrates_with(way: str) -> None:
    assert migrate(way, "Deployment")["image"] == migrate(way, "Job")["image"]


# Any uid, as on OpenShift


@cache
def on_openshift(way: str) -> list[Json]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        if way not in OVERLAYS:
            return template(make_parent_chart(folder), CHARTS[way] | {"runAsUser": "null"})
        paths = {"resources": K8S / "overlays" / way, "components": K8S / "components/openshift"}
        text = json.dumps({key: [os.path.relpath(path, folder)] for key, path in paths.items()})
        (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
        return build(folder)


@every_pod
def test_pgslipway_needs_no_uid_of_its_own(way: str, kind: str) -> None:
    (free,) = (document for document in on_openshift(way) if document["kind"] == kind)
    spec = free["spec"]["template"]["spec"]
    (container,) = (container for container in containers(spec) if container["name"] == "migrate")

    # The Deployment around the chart's container is the user's own.
    context = {} if (kind, way in OVERLAYS) == ("Deployment", False) else spec.get("securityContext", {})
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & {*context, *container["securityContext"]}
    assert list(breaches(spec)) == []
    kubernetes_validate.validate(free, VERSIONS[-1], strict=True)


@every_pod
def test_mounted_files_are_readable_for_any_uid(way: str, kind: str) -> None:
    sources = [volume[key] for volume in pod(way, kind)["volumes"] for key in ("secret", "configMap") if key in volume]
    assert sources
    # 0644 is the default for all files.
    assert "Mode" not in json.dumps(sources)
    assert '"mode"' not in json.dumps(sources)


# Settings and Secrets


def secret(file: str) -> dict[str, str]:
    data: dict[str, str] = yaml.safe_load((K8S / file).read_text(encoding="utf-8"))["stringData"]
    return data


OWNER = secret("base/secret.yaml")
APP = secret("overlays/job/app-secret.yaml")
# What CloudNativePG makes for a Cluster named my-app-postgres: CreateSecret in its pkg/specs/secrets.go.
CLOUD_NATIVE_PG = {
    "username": "app",
    "user": "app",
    "password": "generated",
    "dbname": "app",
    "host": "my-app-postgres-rw",
    "port": "5432",
    "pgpass": "my-app-postgres-rw:5432:app:app:generated\n",
    "uri": "postgresql://app:generated@my-app-postgres-rw.default:5432/app",
    "jdbc-uri": "jdbc:postgresql://my-app-postgres-rw.default:5432/app?password=generated&user=app",
    "fqdn-uri": "postgresql://app:generated@my-app-postgres-rw.default.svc.cluster.local:5432/app",
    "fqdn-jdbc-uri": "jdbc:postgresql://my-app-postgres-rw.default.svc.cluster.local:5432/app?…",
}
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBijCCATGgAwIBAgIUThiwLRcG7lX+ew74c/Kn5fwi21wwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPbXktYXBwLXBvc3RncmVzMCAXDTI2MTEyMjIyNDYzNFoYDzIx
MjYxMDI5MjI0NjM0WjAaMRgwFgYDVQQDDA9teS1hcHAtcG9zdGdyZXMwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAQ9jrb2UTonHiRjMuODkHS9m2hwFZOJtb4rLtV8
7ofMISBr9Fa9N/XlMSBFYUB1c/AkUykSUpM9TgrHZ4M71JIUo1MwUTAdBgNVHQ4E
FgQUDe1xz0u1bf00qJiGDmJeIUxb2EkwHwYDVR0jBBgwFoAUDe1xz0u1bf00qJiG
DmJeIUxb2EkwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBRWJIb
4jYcPvCHwbbocPeyMcdlsXR1QV9S/+cvMz9QgAIgUJR4X5HclrDyUVDj3VkT6sDD
JwrqGxtoBPEwR62gglI=
-----END CERTIFICATE-----
"""
# The Secrets that come from elsewhere.
GIVEN: dict[str, Mapping[str, Mapping[str, str]]] = {
    "argocd": {"my-app-database": OWNER, "my-app-database-app": APP},
    "chart-job": {"my-app-database": OWNER, "my-app-database-app": APP},
    "chart-initContainer": {"my-app-database": OWNER},
    "chart-targets": {"my-app-database": OWNER, "my-app-database-app": APP},
    "cnpg": {
        "my-app-postgres-app": CLOUD_NATIVE_PG,
        "my-app-postgres-ca": {"ca.crt": AUTHORITY, "ca.key": "a key that nobody else should see"},
    },
}


def secrets(way: str) -> dict[str, Mapping[str, str]]:
    """All Secrets that are there, by name."""
    made = [document for document in rendered(way) if document["kind"] == "Secret"]
    return {it["metadata"]["name"]: it["stringData"] for it in made} | dict(GIVEN.get(way, {}))


def asked(way: str, kind: str) -> Iterator[tuple[str, str]]:
    """Each Secret's name and key that the pod needs to start."""
    for entry in migrate(way, kind)["env"]:
        if "valueFrom" in entry:
            reference = entry["valueFrom"]["secretKeyRef"]
            yield reference["name"], reference["key"]
    for volume in pod(way, kind)["volumes"]:
        if "secret" in volume:
            yield from ((volume["secret"]["secretName"], item["key"]) for item in volume["secret"]["items"])


@every_pod
def test_secret_has_every_key_that_is_asked_for(way: str, kind: str) -> None:
    there = {(secret, key) for secret, data in secrets(way).items() for key in data}
    assert set(asked(way, kind)) <= there


@every_way
def test_secret_that_is_made_has_no_key_that_nobody_asks_for(way: str) -> None:
    made = [document for document in rendered(way) if document["kind"] == "Secret"]
    keys = {(document["metadata"]["name"], key) for document in made for key in document["stringData"]}
    assert keys <= {it for kind in ("Deployment", "Job") if (way, kind) in PODS for it in asked(way, kind)}


def test_no_pod_sees_the_key_of_the_certificate_authority() -> None:
    assert {key for _, key in asked("cnpg", "Deployment")} == {
        "host", "port", "dbname", "username", "password", "ca.crt",
    }  # fmt: skip


@every_pod
def test_environment_holds_settings_that_pgslipway_knows(way: str, kind: str) -> None:
    variables = {entry["name"].removesuffix("_FILE") for entry in migrate(way, kind)["env"]}
    assert variables <= {*SETTINGS, *LIBPQ}
    assert "PGPASSWORD" not in {entry["name"] for entry in migrate(way, kind)["env"]}


def contents(way: str, volume: Json) -> dict[str, str]:
    """The files of a volume: the items of a Secret, or all keys of a ConfigMap."""
    if "configMap" in volume:
        config_map = manifest(way, "ConfigMap")
        assert config_map["metadata"]["name"] == volume["configMap"]["name"]
        return dict(config_map["data"])
    source = volume["secret"]
    return {item["path"]: secrets(way)[source["secretName"]][item["key"]] for item in source["items"]}


def environment(way: str, kind: str, root: Path) -> dict[str, str]:
    """The environment of pgslipway's container, with what is mounted below `root`, as the first pod of a Job has it."""
    volumes = {volume["name"]: volume for volume in pod(way, kind)["volumes"]}
    container = migrate(way, kind)
    for mount in container["volumeMounts"]:
        for name, text in contents(way, volumes[mount["name"]]).items():
            file = root / mount["mountPath"].lstrip("/") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    indexed = manifest(way, kind)["spec"].get("completionMode") == "Indexed"
    return ({"JOB_COMPLETION_INDEX": "0"} if indexed else {}) | {
        entry["name"]: secrets(way)[entry["valueFrom"]["secretKeyRef"]["name"]][
            entry["valueFrom"]["secretKeyRef"]["key"]
        ]
        if "valueFrom" in entry
        else re.sub("^/run", f"{root}/run", entry["value"])
        for entry in container["env"]
    }


@every_pod
def test_environment_of_the_pod_is_a_configuration_without_problems(way: str, kind: str, tmp_path: Path) -> None:
    config = from_environ(environment(way, kind, tmp_path), {})

    assert (config.problems, config.warnings) == ((), ())
    if way == "cnpg":
        login = {key: CLOUD_NATIVE_PG[key.removeprefix("PG").lower()] for key in ("PGHOST", "PGPORT", "PGPASSWORD")}
        authority = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{tmp_path}/run/secrets/postgres-ca/ca.crt"}
        assert config.libpq == {**login, "PGDATABASE": "app", "PGUSER": "app", **authority}
    elif way in JOBS and kind == "Deployment":
        assert config.libpq == OWNER | APP
    else:
        assert config.libpq == OWNER


def test_the_app_may_log_in_as_somebody_who_cannot_migrate() -> None:
    assert APP["PGUSER"] != OWNER["PGUSER"]


@pytest.mark.needs_server
def test_role_of_the_waiting_pods_is_granted_what_the_comment_says(slipway: "Slipway", folder: "Folder") -> None:
    (grant,) = re.findall("GRANT .*;", (K8S / "overlays/job/app-secret.yaml").read_text(encoding="utf-8"))
    assert grant.endswith(f" TO {APP['PGUSER']};")
    files = folder({"001_roles.sql": f"CREATE ROLE {APP['PGUSER']};\n{grant}"})
    assert slipway("rehearse", str(files), env={}).code == 0


# The restart rules


def starts_again(exit_code: int) -> bool:
    """What the kubelet does about an initContainer that ended: the first rule that matches decides."""
    container = migrate("init-restart-rules", "Deployment")
    for rule in container["restartPolicyRules"]:
        if exit_code in rule["exitCodes"]["values"]:
            return bool(rule["action"] == "Restart")
    return bool(container["restartPolicy"] != "Never")


def test_restart_rules_are_what_the_kubernetes_api_accepts() -> None:
    container = migrate("init-restart-rules", "Deployment")
    assert container["restartPolicy"] == "Never"
    assert [(rule["action"], rule["exitCodes"]["operator"]) for rule in container["restartPolicyRules"]] == [
        ("Restart", "In")
    ]
    assert "restartPolicy" not in pod("init-restart-rules", "Deployment")


def test_init_container_starts_again_only_where_that_can_help() -> None:
    codes = {code for code in range(1, 256) if starts_again(code)}
    assert codes == {*range(10, 20), 130, 137, 143}
    assert {code for code in EXIT_CODES if code not in codes} == {code for code in EXIT_CODES if needs_a_person(code)}


def test_success_does_not_start_it_again() -> None:
    assert not starts_again(0)


def test_restart_rules_are_all_that_the_patch_adds() -> None:
    patched = migrate("init-restart-rules", "Deployment")
    del patched["restartPolicy"], patched["restartPolicyRules"]
    assert patched == migrate("init", "Deployment")


# The Jobs

# `Stopped` knows its code only when a signal has come: see the test about disruptions.
FAILURES = [failure for failure in errors.SlipwayError.__subclasses__() if hasattr(failure, "exit_code")]
EXIT_CODES = sorted({errors.INTERNAL_ERROR, *(failure.exit_code for failure in FAILURES)})


def needs_a_person(exit_code: int) -> bool:
    return 20 <= exit_code <= 29 or exit_code == errors.INTERNAL_ERROR


def action(way: str, exit_code: int, conditions: frozenset[str] = frozenset()) -> str:
    """What Kubernetes does about a pod that failed: the first rule that matches decides."""
    for rule in manifest(way, "Job")["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {}).get("values", [])
        patterns = {(pattern["type"], pattern["status"]) for pattern in rule.get("onPodConditions", [])}
        if exit_code in codes or patterns & {(condition, "True") for condition in conditions}:
            return str(rule["action"])
    return "Count"


def gives_up(way: str) -> str:
    """The action that tries no more: of the Job, or of the one index."""
    return "FailIndex" if way in INDEXED else "FailJob"


@every_job
@pytest.mark.parametrize("exit_code", EXIT_CODES)
def test_job_gives_up_at_once_only_where_a_person_is_needed(way: str, exit_code: int) -> None:
    assert action(way, exit_code) == (gives_up(way) if needs_a_person(exit_code) else "Count")


@every_job
@pytest.mark.parametrize("exit_code", [10, 13, 130, 137, 143])
def test_disruption_does_not_use_up_a_try(way: str, exit_code: int) -> None:
    assert action(way, exit_code, frozenset({"DisruptionTarget"})) == "Ignore"
    assert action(way, exit_code) == "Count"


@every_job
def test_disruption_does_not_hide_a_failure_that_needs_a_person(way: str) -> None:
    assert action(way, errors.MigrationFailed.exit_code, frozenset({"DisruptionTarget"})) == gives_up(way)


@every_job
def test_failure_policy_is_one_that_the_kubernetes_api_accepts(way: str) -> None:
    spec = manifest(way, "Job")["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    codes = [rule["onExitCodes"] for rule in rules if "onExitCodes" in rule]
    assert [it["values"] for it in codes] == [[*range(20, 30), 70], [*range(10, 20)]]
    assert {it["operator"] for it in codes} == {"In"}
    assert {it["containerName"] for it in codes} == {container["name"] for container in containers(pod(way, "Job"))}
    assert all(("onExitCodes" in rule) != ("onPodConditions" in rule) for rule in rules)
    assert pod(way, "Job")["restartPolicy"] == "Never"
    assert spec.get("podReplacementPolicy", "Failed") == "Failed"


@every_job
def test_job_ends_and_goes_away(way: str) -> None:
    spec = manifest(way, "Job")["spec"]
    # Six tries for all pods together would be few for many of them: each index has its own.
    tries = [spec[limit] for limit in ("backoffLimit", "backoffLimitPerIndex") if limit in spec]
    assert tries == [manifest("job", "Job")["spec"]["backoffLimit"]] != [0]
    assert ("backoffLimitPerIndex" in spec) == (way in INDEXED)
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize(("chart", "overlay"), [("chart-job", "job"), ("chart-targets", "targets")])
def test_job_of_the_chart_is_that_of_the_overlay(chart: str, overlay: str) -> None:
    spec, overlays = manifest(chart, "Job")["spec"], manifest(overlay, "Job")["spec"]
    assert {key: value for key, value in spec.items() if key != "template"} == {
        key: value for key, value in overlays.items() if key != "template"
    }


# The Indexed Jobs


def shards(documents: list[Json]) -> tuple[int, int, str]:
    """How many pods the Job needs, how many it starts at a time, and among how many the targets are divided."""
    (spec,) = (document["spec"] for document in documents if document["kind"] == "Job")
    (container,) = spec["template"]["spec"]["containers"]
    (entry,) = (entry for entry in container["env"] if entry["name"] == "MIGRATE_SHARDS")
    return spec["completions"], spec["parallelism"], entry["value"]


@every_indexed_job
def test_every_share_of_the_targets_has_its_pod(way: str) -> None:
    assert shards(rendered(way)) == (4, 4, "4")
    assert manifest(way, "Job")["spec"]["completionMode"] == "Indexed"
    assert manifest(way, "Job")["spec"]["maxFailedIndexes"] < 4


def test_one_number_of_the_overlay_is_for_pods_and_shares(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays/targets/indexed-job.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count("  completions: 4\n") == 1
    file.write_text(text.replace("  completions: 4\n", "  completions: 7\n"), encoding="utf-8")

    assert shards(build(file.parent)) == (7, 7, "7")


def test_one_value_of_the_chart_is_for_pods_and_shares(tmp_path: Path) -> None:
    values = CHARTS["chart-targets"] | {"targets.shards": "7"}
    assert shards(template(make_parent_chart(tmp_path / "parent"), values)) == (7, 7, "7")


@every_indexed_job
def test_pods_of_the_app_wait_for_all_targets_of_the_job(way: str, tmp_path: Path) -> None:
    job, waiting = (environment(way, kind, tmp_path) for kind in ("Job", "Deployment"))
    ours = {name for name in job if name.startswith("MIGRATE_TARGET")}
    assert len(ours) == 2
    assert {name: waiting.get(name) for name in ours} == {name: job[name] for name in ours}
    assert "MIGRATE_SHARDS" not in waiting


@every_indexed_job
def test_pods_of_the_job_have_every_target_once(way: str, tmp_path: Path) -> None:
    variables = environment(way, "Job", tmp_path)
    shares = []
    for index in range(manifest(way, "Job")["spec"]["completions"]):
        config = from_environ(variables | {"JOB_COMPLETION_INDEX": str(index)}, {})
        targets, _ = targets_of(words_in(config.targets or ""), config.target_kind)
        shares += [target.name for target in shard_of(targets, config)]
    assert sorted(shares) == ["tenant_acme", "tenant_globex", "tenant_initech", "tenant_umbrella"]


def test_list_is_mounted_by_the_name_that_its_text_has() -> None:
    list_of_it = manifest("targets", "ConfigMap")
    assert list_of_it["immutable"] is True
    for kind in ("Job", "Deployment"):
        (volume,) = (volume for volume in pod("targets", kind)["volumes"] if "configMap" in volume)
        assert volume["configMap"] == {"name": list_of_it["metadata"]["name"]}
    assert name(list_of_it) == "ConfigMap/my-app-targets" != f"ConfigMap/{list_of_it['metadata']['name']}"


def test_query_in_the_comment_stands_for_the_list(tmp_path: Path) -> None:
    text = (K8S / "overlays/targets/indexed-job.yaml").read_text(encoding="utf-8")
    comment = re.search(r"( +)# - name: MIGRATE_TARGETS_QUERY\n\1# +value: .*\n", text)
    assert comment
    (entry,) = yaml.safe_load(comment[0].replace("# ", ""))

    variables = environment("targets", "Job", tmp_path) | {entry["name"]: entry["value"]}
    del variables["MIGRATE_TARGETS_FILE"]
    config = from_environ(variables, {})

    assert config.problems == ()
    assert config.targets_query == r"SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%'"


@pytest.mark.parametrize("mode", ["job", "initContainer"])
def test_targets_in_the_readme_of_the_chart_reach_the_job_and_the_pods(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(blocks_of_the_readme()[-1], encoding="utf-8")
    parent = make_parent_chart(tmp_path / "parent")

    settings = (f"--values={file}", f"--set=pgslipway.mode={mode}")
    made = documents(tool("helm", "template", "my-release", parent, *settings))

    for document in made:
        (container,) = (it for it in containers(document["spec"]["template"]["spec"]) if it["name"] == "migrate")
        env = {entry["name"]: entry.get("value") for entry in container["env"] if entry["name"].startswith("MIGRATE_")}
        ours = {
            "MIGRATE_TARGETS_QUERY": r"SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%'",
            "MIGRATE_TARGET_KIND": "database",
        }
        assert env == (ours | {"MIGRATE_SHARDS": "4"} if document["kind"] == "Job" else ours)
    assert [document["kind"] for document in made].count("Job") == (1 if mode == "job" else 0)


# Hooks

OF_HELM = {
    "helm.sh/hook": "pre-install,pre-upgrade",
    "helm.sh/hook-weight": "0",
    "helm.sh/hook-delete-policy": "before-hook-creation",
}
HOOKS = {
    "argocd": {
        "argocd.argoproj.io/hook": "PreSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
    },
    "chart-job": OF_HELM,
    "chart-targets": OF_HELM,
}


@every_pod
def test_job_is_a_hook_where_something_runs_hooks(way: str, kind: str) -> None:
    annotations = manifest(way, kind)["metadata"].get("annotations", {})
    assert annotations == (HOOKS.get(way, {}) if kind == "Job" else {})


@pytest.mark.parametrize("way", HOOKS)
def test_nothing_that_a_hook_needs_is_made_after_it(way: str) -> None:
    made = {document["metadata"]["name"] for document in rendered(way)}
    assert made.isdisjoint({secret for secret, _ in asked(way, "Job")})


# The ConfigMap

MIGRATIONS = K8S / "overlays/configmap/migrations"


def test_config_map_holds_every_file_of_the_folder() -> None:
    data = manifest("configmap", "ConfigMap")["data"]
    assert data == {path.name: path.read_text(encoding="utf-8") for path in MIGRATIONS.iterdir()} != {}


def test_config_map_is_mounted_where_pgslipway_looks() -> None:
    (volume,) = (volume for volume in pod("configmap", "Deployment")["volumes"] if "configMap" in volume)
    (mount,) = (it for it in migrate("configmap", "Deployment")["volumeMounts"] if it["name"] == volume["name"])
    assert mount == {"name": volume["name"], "mountPath": str(Config().dir), "readOnly": True}
    assert volume["configMap"] == {"name": manifest("configmap", "ConfigMap")["metadata"]["name"]}
    assert migrate("configmap", "Deployment")["image"] == "pgslipway:1"


@pytest.mark.needs_server
def test_migrations_of_the_config_map_can_be_applied(slipway: "Slipway") -> None:
    assert slipway("rehearse", str(MIGRATIONS), env={}).code == 0


def test_other_files_make_another_config_map_and_so_a_rollout(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s/overlays/configmap"
    with (overlay / "migrations/002_orders.sql").open("a", encoding="utf-8") as file:
        file.write("CREATE INDEX ON orders (customer_id);\n")

    config_map, *_, deployment = build(overlay)

    assert config_map["metadata"]["name"] != manifest("configmap", "ConfigMap")["metadata"]["name"]
    assert config_map["metadata"]["name"] in json.dumps(deployment)
    assert config_map["immutable"] is True


# The chart


@pytest.mark.parametrize("way", CHARTS)
def test_chart_has_nothing_that_helm_lint_complains_about(way: str, tmp_path: Path) -> None:
    parent = make_parent_chart(tmp_path / "parent")
    for chart, prefix in ((CHART, ""), (parent, "pgslipway.")):
        settings = [f"--set={prefix}{key}={value}" for key, value in CHARTS[way].items()]
        linted = tool("helm", "lint", "--strict", chart, *settings)
        assert linted.returncode == 0, linted.stdout
        assert "[WARNING]" not in linted.stdout


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("mode=sidecar", "at '/mode': value must be one of 'job', 'initContainer'"),
        ("image=", "at '/image': minLength"),
        ("imagePullPolicy=Sometimes", "at '/imagePullPolicy': value must be one of"),
        ("replicas=3", "additional properties 'replicas' not allowed"),
        ("runAsUser=0", "at '/runAsUser': minimum"),
        ("runAsUser=nonroot", "at '/runAsUser': got string"),
        ("resources.limit.memory=1Gi", "at '/resources': additional properties 'limit' not allowed"),
        ("database.secret=", "at '/database/secret': minLength"),
        ("database.password=hunter2", "at '/database': additional properties 'password' not allowed"),
        ("database.keys.user=a/b", "at '/database/keys/user': 'a/b' does not match"),
        ("database.keys.host=null", "at '/database/keys': missing property 'host'"),
        ("settings.LOCK_TIMEOUT=20m", "at '/settings': additional properties 'LOCK_TIMEOUT' not allowed"),
        ("settings.MIGRATE_DDL_RETRY=0", "at '/settings/MIGRATE_DDL_RETRY': got number, want string"),
        ("settings.PGPASSWORD=hunter2", "at '/settings/PGPASSWORD': false schema"),
        ("targets.kind=url", "at '/targets/kind': value must be one of 'schema', 'database'"),
        ("targets.list={a},targets.query=SELECT 'a'", "at '/targets/query': maxLength"),
        ("targets.list={}", "at '/targets/list/0': minLength"),
        ("targets.shards=4", "at '/targets/shards': maximum: got 4, want 1"),
        ("targets.list={a},targets.shards=0", "at '/targets/shards': minimum"),
        ("targets.names={a}", "at '/targets': additional properties 'names' not allowed"),
        ("settings.MIGRATE_SHARDS=4", "at '/settings/MIGRATE_SHARDS': false schema"),
        ("settings.MIGRATE_TARGETS=a", "at '/settings/MIGRATE_TARGETS': false schema"),
        ("database.caSecret=ca,settings.PGSSLMODE=require", "at '/settings/PGSSLMODE': false schema"),
        ("job.backoffLimit=-1", "at '/job/backoffLimit': minimum"),
        ("job.deadline=5", "at '/job': additional properties 'deadline' not allowed"),
        ("job.podLabels.a=1", "at '/job/podLabels/a': got number, want string"),
        ("job.imagePullSecrets[0]=registry", "at '/job/imagePullSecrets/0': got string, want object"),
    ],
    ids=lambda value: str(value).partition("=")[0],
)
def test_chart_refuses_values_that_cannot_be_meant(value: str, complaint: str) -> None:
    refused = tool("helm", "template", "my-release", CHART, f"--set={value}")
    assert refused.returncode != 0
    assert complaint in refused.stderr


def objects(schema: Json) -> Iterator[Json]:
    """All schemas of objects in a schema, itself among them."""
    if schema.get("type") == "object":
        yield schema
    for it in schema.get("properties", {}).values():
        if isinstance(it, dict):
            yield from objects(it)


def test_schema_leaves_no_object_open_but_those_of_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    resources = schema["properties"]["resources"]["properties"]
    is_open = [it for it in objects(schema) if "additionalProperties" not in it]
    assert is_open == [schema["properties"]["global"], resources["requests"], resources["limits"]]


def test_schema_and_defaults_have_the_same_keys() -> None:
    def compare(values: Json, schema: Json) -> None:
        assert values.keys() == schema["properties"].keys() - {"global"}
        for key, value in values.items():
            if isinstance(value, dict) and key not in ("settings", "podLabels", "requests", "limits"):
                compare(value, schema["properties"][key])

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    compare(values, json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))


def test_values_reach_the_job_and_the_pods(tmp_path: Path) -> None:
    values = {
        "image": "shop-migrations:7",
        "imagePullPolicy": "Always",
        "database": {"secret": "1234", "caSecret": "authority", "keys": {"user": "username", "password": "password"}},
        "settings": {"MIGRATE_LOCK_TIMEOUT": "20m", "MIGRATE_DDL_RETRY": "0"},
        "resources": {"requests": {"memory": "48Mi"}, "limits": {"cpu": "1"}},
        "job": {
            "hookWeight": -5,
            "podLabels": {"sidecar.istio.io/inject": "false"},
            "imagePullSecrets": [{"name": "r"}],
        },
    }
    file = tmp_path / "values.json"
    file.write_text(json.dumps({"pgslipway": values, "global": {"imageRegistry": "any"}}), encoding="utf-8")
    parent = make_parent_chart(tmp_path / "parent")

    made = documents(tool("helm", "template", "my-release", parent, f"--values={file}"))

    job, deployment = sorted(made, key=lambda document: str(document["kind"] == "Deployment"))
    spec = job["spec"]["template"]["spec"]
    (container,), (waiting,) = spec["containers"], deployment["spec"]["template"]["spec"]["initContainers"]
    for it in (container, waiting):
        assert (it["image"], it["imagePullPolicy"]) == ("shop-migrations:7", "Always")
        settings = {entry["name"]: entry.get("value") for entry in it["env"]}
        assert settings["MIGRATE_LOCK_TIMEOUT"] == "20m"
        assert settings["MIGRATE_DDL_RETRY"] == "0"
        assert settings["PGSSLMODE"] == "verify-full"
        assert it["resources"] == {
            "requests": {"memory": "48Mi", "cpu": "10m"},
            "limits": {"memory": "64Mi", "cpu": "1"},
        }
    assert spec["volumes"][0]["secret"] == {
        "secretName": "1234", "items": [{"key": "password", "path": "PGPASSWORD"}],
    }  # fmt: skip
    assert spec["volumes"][1]["secret"] == {
        "secretName": "authority", "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }  # fmt: skip
    assert spec["imagePullSecrets"] == [{"name": "r"}]
    assert job["metadata"]["annotations"]["helm.sh/hook-weight"] == "-5"
    assert job["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    for document in made:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_chart_has_the_version_of_pgslipway() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"] == __version__
