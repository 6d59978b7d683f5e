"""Pods as users get them from `k8s/`: rendered by kustomize, run by podman.

podman is not Kubernetes. What has to be changed so that 4.3 (Debian 12) runs a pod is all in `Podman.play`:

- It knows no Job, and not every version starts all replicas of a Deployment: their pods are started one by one.
- With the restart policy `Always` it starts an init container again that has succeeded; here the policy is `Never`.
- It publishes every containerPort on all addresses of this machine; here pods are in its network, and have no ports.
- It probes with `curl` in the container, on timers of systemd; here there are no probes.
- Before 4.5 it crashes at a volume of a Secret that does not say `optional`. It puts all values into the volume,
  whatever `items` says, and leaves them in Base64. In `env` it cannot read the Secret that it has stored itself. There
  a Secret is given in the two forms that it can read.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from base64 import b64encode
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from containers import ROOT, Ended, call, docker
from servers import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Database

Json = dict[str, Any]

# Otherwise an init container is gone once it has succeeded.
KEEP_INIT_CONTAINERS = {"io.podman.annotations.init.container.type": "always"}
NOT_HERE = ("ports", "startupProbe", "livenessProbe", "readinessProbe")
SECRETS_WORK = (4, 5)
CGROUPS = Path("/sys/fs/cgroup")


# --- what users get ---------------------------------------------------------------------------------------------


class Manifests:
    """A user's copy of `k8s/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = shutil.copytree(ROOT / "k8s", folder)

    def log_in(self, database: Database, secret: str = "base/secret.yaml") -> None:
        """Write into a Secret how a role logs in to a database."""
        path = self.folder / secret
        manifest = yaml.safe_load(path.read_text())
        manifest["stringData"] |= {key: database.environ[key] for key in manifest["stringData"]}
        path.write_text(yaml.safe_dump(manifest))

    def render(self, overlay: str) -> list[Json]:
        """The objects that `kubectl apply --kustomize` would send for an overlay."""
        ended = call(*kustomize(), self.folder / "overlays" / overlay)
        assert ended.code == 0, ended
        return list(yaml.safe_load_all(ended.out))


def kustomize() -> list[str]:
    tools = call("tests/setup/kube-tools.sh")
    return [f"{tools.out.strip()}/kustomize", "build"] if tools.code == 0 else ["kubectl", "kustomize"]


def of_kind(kind: str, objects: list[Json]) -> list[Json]:
    return [it for it in objects if it["kind"] == kind]


# --- what podman makes of it ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """The first process of a container that runs, as the kernel sees it."""

    pid: int

    @property
    def status(self) -> dict[str, str]:
        lines = self._lines("status")
        return {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}

    @property
    def root_mount_options(self) -> list[str]:
        [options] = [fields[5] for fields in map(str.split, self._lines("mountinfo")) if fields[4] == "/"]
        return options.split(",")

    @property
    def memory_limit(self) -> int:
        """In bytes, from the first or the second version of control groups."""
        paths = {names: path for _, names, path in (line.split(":", 2) for line in self._lines("cgroup"))}
        if "memory" in paths:
            return int(Path(f"{CGROUPS}/memory{paths['memory']}/memory.limit_in_bytes").read_text())
        return int(Path(f"{CGROUPS}{paths['']}/memory.max").read_text())

    def _lines(self, name: str) -> list[str]:
        return Path(f"/proc/{self.pid}/{name}").read_text().splitlines()


class Podman:
    """podman with a storage of its own."""

    def __init__(self, command: list[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pgslipway-podman-"))
        storage = {"root": "storage", "runroot": "run", "tmpdir": "tmp"}
        self._command = [*command, *(f"--{option}={self._folder / name}" for option, name in storage.items())]
        version = self("version", "--format={{.Client.Version}}").split(".")
        self._secrets_work = (int(version[0]), int(version[1])) >= SECRETS_WORK

    def try_to(self, *arguments: str | Path, stdin: str = "") -> Ended:
        """Run a command to its end, whatever that is."""
        return call(*self._command, *arguments, stdin=stdin)

    def __call__(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run a command that has to succeed; what it printed."""
        ended = self.try_to(*arguments, stdin=stdin)
        assert ended.code == 0, ended
        return ended.out.strip()

    def load(self, image: str, tag: str) -> None:
        """Have one of Docker's images here, by another name."""
        archive = self._folder / "image.tar"
        docker("save", "--output", archive, image)
        self("load", "--quiet", "--input", archive)
        self("tag", image, tag)
        archive.unlink()

    def build(self, tag: str, context: Path, dockerfile: str) -> None:
        """Build an image from what is here."""
        (context / "Dockerfile").write_text(dockerfile)
        self("build", "--quiet", "--pull=never", "--tag", tag, context)

    def play(self, name: str, workload: Json, objects: list[Json], *, start: bool = True) -> Ended:
        """Make a pod of a Deployment or a Job, with the Secrets and ConfigMaps that are among the objects."""
        spec = deepcopy(workload["spec"]["template"]["spec"]) | {"hostNetwork": True, "restartPolicy": "Never"}
        for container in spec["containers"]:
            for field in NOT_HERE:
                container.pop(field, None)
        given = of_kind("ConfigMap", objects)
        if self._secrets_work:
            given += of_kind("Secret", objects)
        else:
            self._give_secrets(spec, {it["metadata"]["name"]: it["stringData"] for it in of_kind("Secret", objects)})
        metadata = {"name": name, "annotations": KEEP_INIT_CONTAINERS}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        options = ("--quiet", "--network=host", f"--start={str(start).lower()}")
        return self.try_to("kube", "play", *options, "-", stdin=yaml.safe_dump_all([*given, pod]))

    def state(self, container: str) -> Json:
        """What is known about a container: whether it runs, since when, its exit code."""
        [found] = json.loads(self("inspect", "--type=container", container))
        state: Json = found["State"]
        return state

    def process(self, container: str) -> Process:
        return Process(self.state(container)["Pid"])

    def logs(self, container: str) -> str:
        ended = self.try_to("logs", container)
        assert ended.code == 0, ended
        return ended.out + ended.err

    def remove_pods(self) -> None:
        """Remove all but the images."""
        self("pod", "stop", "--all", "--time=0")
        # As long as one cleans up after a container, podman tries for seconds to remove the pod's control group.
        until(lambda: not self._has_processes(), "podman's own processes to end")
        self("pod", "rm", "--all", "--force", "--time=0")
        self("volume", "rm", "--all", "--force")
        self("secret", "rm", "--all")

    def close(self) -> None:
        """Remove every trace."""
        self.remove_pods()
        self("rmi", "--all", "--force")
        shutil.rmtree(self._folder)

    def _has_processes(self) -> bool:
        folder = str(self._folder).encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if folder in path.read_bytes():
                    return True
        return False

    def _give_secrets(self, spec: Json, secrets: dict[str, dict[str, str]]) -> None:
        contents: dict[str, Json] = {
            name: {key: b64encode(value.encode()).decode() for key, value in values.items()}
            for name, values in secrets.items()
        }
        for volume, source in secret_volumes(spec):
            values = secrets[source["secretName"]]
            name = f"{source['secretName']}-{volume}"
            contents[name] = {"data": {item["path"]: values[item["key"]] for item in source["items"]}}
            source |= {"secretName": name, "optional": False}
        for name in contents.keys() - set(self("secret", "ls", "--format={{.Name}}").split()):
            self("secret", "create", name, "-", stdin=json.dumps(contents[name]))


def secret_volumes(spec: Json) -> Iterator[tuple[str, Json]]:
    return ((volume["name"], volume["secret"]) for volume in spec["volumes"] if "secret" in volume)


def podman_command() -> list[str]:
    """Empty where there is no podman."""
    return shlex.split(os.environ.get("PGSLIPWAY_PODMAN") or call("tests/setup/podman.sh").out)
