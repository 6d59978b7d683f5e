"""What Kubernetes does and podman does not: the image with plain Docker, in the kubelet's place.

The kubelet mounts a regular file that everyone may write to as the termination message. It lays a Secret out as links
into a folder that it can swap at once, owned by root and, with `fsGroup`, by a group that the container is given too.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from containers import run

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder
    from containers import Ended
    from servers import Cluster

pytestmark = [pytest.mark.docker_only, pytest.mark.usefixtures("image")]

RESTRICTED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=64m",
    "--memory-swap=64m",
)
MESSAGE_LIMIT = 4096
FS_GROUP = 2000
TABLE = {"001_items.sql": "CREATE TABLE items (id int);"}
FAILING = {"002_more.sql": "CREATE TABLE more (id int);\nINSERT INTO items VALUES ('many');\n"}

# The manifests' own user, and those that a cluster may choose instead, as OpenShift does.
OPENSHIFT = "--user=1000680000:0"
USERS = ("65532:65532", "1000680000:0", "12345:12345")


class Kubelet(NamedTuple):
    """Runs a container with what the kubelet mounts into it."""

    folder: Path

    def __call__(self, cluster: Cluster, migrations: Path, *options: str, mode: int = 0o644, group: int = 0) -> Ended:
        env = {name: value for name, value in cluster.database.environ.items() if name != "PGPASSWORD"}
        env |= {"PGPASSWORD_FILE": "/run/secrets/database/PGPASSWORD"}
        secret = self._lay_out_secret(cluster.database.password, mode, group)
        mounts = (f"--volume={self._message()}:/dev/termination-log", f"--volume={secret}:/run/secrets/database:ro")
        return run(env=env, migrations=migrations, extra=(*RESTRICTED, *mounts, *options))

    @property
    def message(self) -> str:
        """What `kubectl` would show as the termination message."""
        return self._message().read_text()

    def _message(self) -> Path:
        path = self.folder / "termination-log"
        path.touch()
        path.chmod(0o666)
        return path

    def _lay_out_secret(self, password: str, mode: int, group: int) -> Path:
        folder = self.folder / "secret"
        data = folder / "..2026_01_31_12_00_00.1"
        data.mkdir(parents=True)
        file = data / "PGPASSWORD"
        file.write_text(f"{password}\n")
        for path in (folder, data, file):
            os.chown(path, 0, group)
        file.chmod(mode)
        (folder / "..data").symlink_to(data.name)
        (folder / "PGPASSWORD").symlink_to("..data/PGPASSWORD")
        return folder


@pytest.fixture
def kubelet(tmp_path: Path) -> Kubelet:
    return Kubelet(tmp_path)


async def tables(cluster: Cluster) -> list[str]:
    rows = await cluster.database.fetch("SELECT tablename FROM pg_tables WHERE tablename IN ('items', 'more')")
    return [row[0] for row in rows]


@pytest.mark.parametrize("user", USERS)
async def test_success_is_in_the_termination_message(
    kubelet: Kubelet, cluster: Cluster, folder: Folder, user: str
) -> None:
    ended = kubelet(cluster, folder(TABLE), f"--user={user}")
    assert ended.code == 0, ended
    assert await tables(cluster) == ["items"]
    outcome = json.loads(kubelet.message)
    assert (outcome["exit_code"], outcome["result"], outcome["applied"]) == (0, "up to date", ["001_items.sql"])


async def test_failure_is_in_the_termination_message(kubelet: Kubelet, cluster: Cluster, folder: Folder) -> None:
    ended = kubelet(cluster, folder(TABLE | FAILING), OPENSHIFT)
    assert ended.code == 24, ended
    assert await tables(cluster) == ["items"]
    outcome = json.loads(kubelet.message)
    assert (outcome["exit_code"], outcome["result"], outcome["applied"]) == (24, "migration failed", ["001_items.sql"])
    assert outcome["message"].startswith("002_more.sql:2: invalid input syntax for type integer")
    assert cluster.database.password not in kubelet.message + ended.out + ended.err


def test_kubernetes_can_keep_the_whole_message(kubelet: Kubelet, cluster: Cluster, folder: Folder) -> None:
    ended = kubelet(cluster, folder({"001_long.sql": f"SELECT '{'x' * 3 * MESSAGE_LIMIT}'::int;"}), OPENSHIFT)
    assert ended.code == 24, ended
    assert len(kubelet.message.encode()) <= MESSAGE_LIMIT
    assert json.loads(kubelet.message)["exit_code"] == 24


async def test_secret_is_read_as_a_member_of_fs_group(kubelet: Kubelet, cluster: Cluster, folder: Folder) -> None:
    options = (OPENSHIFT, f"--group-add={FS_GROUP}")
    ended = kubelet(cluster, folder(TABLE), *options, mode=0o440, group=FS_GROUP)
    assert ended.code == 0, ended
    assert await tables(cluster) == ["items"]


def test_secret_of_another_group_is_a_bad_configuration(kubelet: Kubelet, cluster: Cluster, folder: Folder) -> None:
    ended = kubelet(cluster, folder(TABLE), OPENSHIFT, mode=0o440, group=FS_GROUP)
    assert ended.code == 20, ended
    outcome = json.loads(kubelet.message)
    assert outcome["exit_code"] == 20
    assert "PGPASSWORD_FILE: /run/secrets/database/PGPASSWORD" in outcome["message"]
    assert "Permission denied" in outcome["message"]
