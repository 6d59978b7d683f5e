"""The manifests in `k8s/`: valid, within the restricted Pod Security Standard, and true to pgslipway."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pgslipway import errors
from pgslipway.config import SETTINGS, Config, from_environ
from pgslipway.libpq import LIBPQ

Json = dict[str, Any]

MANIFESTS: dict[str, Json] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent.parent / "k8s").glob("*.yaml"))
}
TEMPLATES: dict[str, Json] = {
    name: manifest["spec"]["template"] for name, manifest in MANIFESTS.items() if "template" in manifest.get("spec", {})
}
PODS: dict[str, Json] = {name: template["spec"] for name, template in TEMPLATES.items()}


def containers(pod: Json) -> list[Json]:
    """All containers of a pod, of whatever kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


CONTAINERS: dict[str, Json] = {
    f"{name}-{container['name']}": container for name, pod in PODS.items() for container in containers(pod)
}
MIGRATE: dict[str, Json] = {
    name: container for name, pod in PODS.items() for container in containers(pod) if container["name"] == "migrate"
}

every_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
every_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
every_migrate = pytest.mark.parametrize("name", MIGRATE)


# The schemas

# 1.29 is the oldest whose schema lets a rule of a podFailurePolicy be about exit codes alone.
VERSIONS = ("1.29", "1.33", ".".join(kubernetes_validate.latest_version().split(".")[:2]))


def test_there_is_a_deployment_a_job_and_a_secret() -> None:
    kinds = {name: manifest["kind"] for name, manifest in MANIFESTS.items()}
    assert kinds == {"deployment": "Deployment", "job": "Job", "secret": "Secret"}
    assert set(MIGRATE) == {"deployment", "job"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest_is_valid_for_kubernetes(manifest: Json, version: str) -> None:
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
def test_misspelled_field_is_not_valid(version: str) -> None:
    manifest = changed(MANIFESTS["job"], "spec.backofLimit", 6)
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_objects_have_names_that_do_not_collide() -> None:
    names = [manifest["metadata"]["name"] for manifest in MANIFESTS.values()]
    assert len(set(names)) == len(MANIFESTS)


def test_job_is_found_by_the_label_of_its_pods() -> None:
    assert MANIFESTS["job"]["metadata"]["labels"] == TEMPLATES["job"]["metadata"]["labels"] != {}


@every_pod
def test_volumes_are_those_that_are_mounted(pod: Json) -> None:
    mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_deployment_selects_its_own_pods() -> None:
    selector = MANIFESTS["deployment"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= TEMPLATES["deployment"]["metadata"]["labels"].items()
    assert not selector.items() <= TEMPLATES["job"]["metadata"]["labels"].items()


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
def test_pod_meets_the_restricted_standard(pod: Json) -> None:
    assert list(breaches(pod)) == []


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


MIGRATE_CONTEXT = "initContainers.0.securityContext"
APP = "containers.0"


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
        (f"{APP}.ports.0.hostPort", 80, "app takes port 80 of the host"),
        (f"{APP}.livenessProbe.httpGet.host", "10.0.0.1", "app probes 10.0.0.1"),
        (f"{APP}.lifecycle.preStop.tcpSocket.host", "10.0.0.1", "app probes 10.0.0.1"),
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
    assert ", ".join(breaches(changed(PODS["deployment"], path, value))) == breach


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
    assert list(breaches(changed(PODS["deployment"], path, value))) == []


# Beyond the standard


@every_pod
def test_pod_has_a_numeric_user_and_no_token_of_the_kubernetes_api(pod: Json) -> None:
    # The kubelet can only check runAsNonRoot for a number; a name in the image's USER is refused.
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["automountServiceAccountToken"] is False


@every_container
def test_container_has_a_read_only_root(container: Json) -> None:
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@every_container
def test_container_asks_for_little_and_has_a_memory_limit(container: Json) -> None:
    resources = container["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


@every_migrate
def test_migrate_is_limited_to_what_it_is_tested_with(name: str) -> None:
    assert MIGRATE[name]["resources"]["limits"]["memory"] == "64Mi"


@every_container
def test_image_has_a_fixed_tag_and_no_registry(container: Json) -> None:
    name, _, tag = container["image"].partition(":")
    assert "/" not in name
    assert tag not in ("", "latest")


def test_migrate_means_the_same_in_the_deployment_and_the_job() -> None:
    assert MIGRATE["deployment"] == MIGRATE["job"]
    assert PODS["deployment"]["securityContext"] == PODS["job"]["securityContext"]


def test_probes_are_the_apps() -> None:
    (migrate,), (app,) = PODS["deployment"]["initContainers"], PODS["deployment"]["containers"]
    probes = {"startupProbe", "livenessProbe", "readinessProbe"}
    assert migrate.keys() & probes == set()
    assert app.keys() & probes == probes
    assert {app[probe]["httpGet"]["port"] for probe in probes} == {port["name"] for port in app["ports"]}


def test_migrations_may_take_as_long_in_the_deployment_as_in_the_job() -> None:
    deadline = MANIFESTS["deployment"]["spec"]["progressDeadlineSeconds"]
    assert deadline == MANIFESTS["job"]["spec"]["activeDeadlineSeconds"]
    assert deadline > Config().wait_timeout + Config().lock_timeout


def test_rollout_never_takes_a_pod_away_before_the_next_is_ready() -> None:
    assert MANIFESTS["deployment"]["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


# Settings and Secret


@every_migrate
def test_environment_holds_settings_that_pgslipway_knows(name: str) -> None:
    variables = {entry["name"].removesuffix("_FILE") for entry in MIGRATE[name]["env"]}
    assert variables <= {*SETTINGS, *LIBPQ}


@every_migrate
def test_environment_of_the_pod_is_a_configuration_without_problems(name: str, tmp_path: Path) -> None:
    secret: dict[str, str] = MANIFESTS["secret"]["stringData"]
    for key, value in secret.items():
        (tmp_path / key).write_text(value, encoding="utf-8")
    environment = {
        entry["name"]: secret[entry["valueFrom"]["secretKeyRef"]["key"]]
        if "valueFrom" in entry
        else entry["value"].replace("/run/secrets/database", str(tmp_path))
        for entry in MIGRATE[name]["env"]
    }

    config = from_environ(environment, {})

    assert (config.problems, config.warnings) == ((), ())
    assert config.libpq == secret


@every_migrate
def test_secret_has_every_key_that_is_asked_for(name: str) -> None:
    environment = MIGRATE[name]["env"]
    references = [entry["valueFrom"]["secretKeyRef"] for entry in environment if "valueFrom" in entry]
    volumes = [volume["secret"] for volume in PODS[name]["volumes"] if "secret" in volume]
    asked = [(reference["name"], reference["key"]) for reference in references]
    asked += [(volume["secretName"], item["key"]) for volume in volumes for item in volume["items"]]

    secret = MANIFESTS["secret"]
    assert sorted(asked) == sorted((secret["metadata"]["name"], key) for key in secret["stringData"])


@every_migrate
def test_setting_comes_from_the_key_of_its_name(name: str) -> None:
    references = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"]
        for entry in MIGRATE[name]["env"]
        if "valueFrom" in entry
    }
    assert references == {setting: setting for setting in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER")}


@every_migrate
def test_password_file_is_mounted_where_the_setting_says(name: str) -> None:
    volumes = {volume["name"]: volume for volume in PODS[name]["volumes"]}
    mounted = {
        f"{mount['mountPath']}/{item['path']}": item["key"]
        for mount in MIGRATE[name]["volumeMounts"]
        for item in volumes[mount["name"]]["secret"]["items"]
    }
    settings = {entry["name"]: entry.get("value") for entry in MIGRATE[name]["env"]}
    assert mounted == {settings["PGPASSWORD_FILE"]: "PGPASSWORD"}
    assert "PGPASSWORD" not in settings


# The Job

JOB = MANIFESTS["job"]["spec"]
RULES: list[Json] = JOB["podFailurePolicy"]["rules"]
# `Stopped` knows its code only when a signal has come: see the test about disruptions.
FAILURES = [failure for failure in errors.SlipwayError.__subclasses__() if hasattr(failure, "exit_code")]
EXIT_CODES = sorted({errors.INTERNAL_ERROR, *(failure.exit_code for failure in FAILURES)})


def needs_a_person(exit_code: int) -> bool:
    return 20 <= exit_code <= 29 or exit_code == errors.INTERNAL_ERROR


def action(exit_code: int, conditions: frozenset[str] = frozenset()) -> str:
    """What Kubernetes does about a pod that failed: the first rule that matches decides."""
    for rule in RULES:
        codes = rule.get("onExitCodes", {}).get("values", [])
        patterns = {(pattern["type"], pattern["status"]) for pattern in rule.get("onPodConditions", [])}
        if exit_code in codes or patterns & {(condition, "True") for condition in conditions}:
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize("exit_code", EXIT_CODES)
def test_job_gives_up_at_once_only_where_a_person_is_needed(exit_code: int) -> None:
    assert action(exit_code) == ("FailJob" if needs_a_person(exit_code) else "Count")


@pytest.mark.parametrize("exit_code", [130, 137, 143], ids=["interrupted", "killed", "terminated"])
def test_disruption_does_not_use_up_a_try(exit_code: int) -> None:
    assert action(exit_code, frozenset({"DisruptionTarget"})) == "Ignore"
    assert action(exit_code) == "Count"


def test_disruption_does_not_hide_a_failure_that_needs_a_person() -> None:
    assert action(errors.MigrationFailed.exit_code, frozenset({"DisruptionTarget"})) == "FailJob"


def test_failure_policy_is_one_that_the_kubernetes_api_accepts() -> None:
    (codes,) = (rule["onExitCodes"] for rule in RULES if "onExitCodes" in rule)
    assert codes["operator"] == "In"
    assert codes["values"] == [*range(20, 30), 70]
    assert {code for code in EXIT_CODES if needs_a_person(code)} < set(codes["values"])
    assert 0 not in codes["values"]
    assert codes["containerName"] in {container["name"] for container in containers(PODS["job"])}
    assert all(("onExitCodes" in rule) != ("onPodConditions" in rule) for rule in RULES)
    assert PODS["job"]["restartPolicy"] == "Never"
    assert JOB.get("podReplacementPolicy", "Failed") == "Failed"


def test_job_ends_and_goes_away() -> None:
    assert JOB["backoffLimit"] > 0
    assert JOB["activeDeadlineSeconds"] > 0
    assert JOB["ttlSecondsAfterFinished"] > 0
