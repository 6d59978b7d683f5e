"""The manifests in `k8s/`, run by podman: the app starts when its schema is there, and only then."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
import yaml

from containers import IMAGE
from pods import Manifests, Podman, of_kind, podman_command
from servers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from containers import Ended
    from pods import Json
    from servers import Cluster, Database

    Bring = Callable[[dict[str, str], Podman, Manifests], None]
    Render = Callable[[Manifests], list[Json]]

pytestmark = pytest.mark.docker_only

APP = "import signal; print('the app runs', flush=True); signal.sigwait({signal.SIGTERM})"
APP_DOCKERFILE = f"""\
FROM pgslipway:1
ENTRYPOINT ["python3.13", "-c", "{APP}"]
"""
MIGRATIONS_DOCKERFILE = """\
FROM pgslipway:1
COPY migrations/ /migrations/
"""
MIGRATIONS = {
    "001_customers.sql": "CREATE TABLE customers (id int);",
    "002_orders.sql": "CREATE TABLE orders (id int);",
}
FAILING = {"001_customers.sql": "CREATE TABLE customers (id int); SELECT 1 / 0;"}
FOR_THE_APP = {"003_grant.sql": "GRANT SELECT ON schema_migrations TO my_app;"}
NEVER = "0001-01-01T00:00:00Z"


@pytest.fixture(scope="session")
def shared_podman(image: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:  # noqa: ARG001
    """podman, with pgslipway's image and one of an app."""
    command = podman_command()
    if not command:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("no podman here")
    made = Podman(command)
    try:
        made.load(IMAGE, "pgslipway:1")
        made.build("my-app:1", tmp_path_factory.mktemp("app"), APP_DOCKERFILE)
        yield made
    finally:
        made.close()


@pytest.fixture
def podman(shared_podman: Podman) -> Iterator[Podman]:
    """podman without any pod; it has none in the end."""
    yield shared_podman
    shared_podman.remove_pods()


@pytest.fixture
async def database(cluster: Cluster) -> Database:
    """An empty database, as its owner sees it; both are called as in `k8s/`."""
    owner = await cluster.database.create_role("my_app_owner")
    await cluster.database.execute("CREATE DATABASE my_app OWNER my_app_owner")
    return cluster.server.database("my_app").login(owner.user)


@pytest.fixture
def manifests(database: Database, tmp_path: Path) -> Manifests:
    """A user's copy of `k8s/`, with the database in its Secret."""
    made = Manifests(tmp_path / "k8s")
    made.log_in(database)
    return made


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / name).write_text(sql)


def bake(files: dict[str, str], podman: Podman, manifests: Manifests) -> None:
    """Bring migrations into the user's own image."""
    context = manifests.folder.parent / "image"
    context.mkdir()
    write(context / "migrations", files)
    podman.build("my-app-migrations:1", context, MIGRATIONS_DOCKERFILE)


def list_in_config_map(files: dict[str, str], podman: Podman, manifests: Manifests) -> None:  # noqa: ARG001
    """Bring migrations into the ConfigMap."""
    overlay = manifests.folder / "overlays" / "configmap"
    write(overlay / "migrations", files)
    path = overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    [generator] = kustomization["configMapGenerator"]
    generator["files"] = [f"migrations/{name}" for name in files]
    path.write_text(yaml.safe_dump(kustomization))


both_ways = pytest.mark.parametrize(
    ("overlay", "bring"), [("init", bake), ("configmap", list_in_config_map)], ids=["init", "configmap"]
)


def deployment(objects: list[Json]) -> Json:
    [found] = of_kind("Deployment", objects)
    return found


async def play(podman: Podman, manifests: Manifests, overlay: str) -> Ended:
    """Run a pod of an overlay's Deployment, until its app has started or cannot."""
    objects = manifests.render(overlay)
    return await asyncio.to_thread(podman.play, "my-app", deployment(objects), objects)


async def says(podman: Podman, container: str, text: str) -> None:
    """Block until a container has logged something."""

    async def has_said() -> bool:
        exists = (await asyncio.to_thread(podman.try_to, "container", "exists", container)).code == 0
        return exists and text in await asyncio.to_thread(podman.logs, container)

    await eventually(has_said, f"{text!r} in the log of {container}")


async def tables(database: Database) -> list[str]:
    rows = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
    return [row[0] for row in rows]


def has_never_run(podman: Podman, container: str) -> bool:
    state = podman.state(container)
    return (state["Status"], state["StartedAt"]) == ("created", NEVER)


@both_ways
async def test_app_starts_once_its_schema_is_there(
    podman: Podman, manifests: Manifests, database: Database, overlay: str, bring: Bring
) -> None:
    bring(MIGRATIONS, podman, manifests)
    played = await play(podman, manifests, overlay)
    assert played.code == 0, played
    assert await database.applied() == list(MIGRATIONS)
    assert {"customers", "orders"} < set(await tables(database))
    migrate, app = podman.state("my-app-migrate"), podman.state("my-app-app")
    assert migrate["ExitCode"] == 0
    assert app["Running"]
    assert app["StartedAt"] > migrate["FinishedAt"]
    await says(podman, "my-app-app", "the app runs")


@both_ways
async def test_failing_migration_keeps_the_app_from_starting(
    podman: Podman, manifests: Manifests, database: Database, overlay: str, bring: Bring
) -> None:
    bring(FAILING, podman, manifests)
    played = await play(podman, manifests, overlay)
    assert played.code != 0, played
    assert podman.state("my-app-migrate")["ExitCode"] == 24
    assert "001_customers.sql:1: division by zero" in podman.logs("my-app-migrate")
    assert has_never_run(podman, "my-app-app")
    assert "customers" not in await tables(database)
    assert await database.applied() == []


async def test_replicas_take_turns(podman: Podman, manifests: Manifests, database: Database) -> None:
    bake(MIGRATIONS, podman, manifests)
    objects = manifests.render("init")
    names = [f"my-app-{number}" for number in range(deployment(objects)["spec"]["replicas"])]
    for name in names:
        played = podman.play(name, deployment(objects), objects, start=False)
        assert played.code == 0, played
    async with database.migration_lock():
        starting = [asyncio.create_task(asyncio.to_thread(podman, "pod", "start", name)) for name in names]
        for name in names:
            await says(podman, f"{name}-migrate", "waiting for the migration lock")
    await asyncio.gather(*starting)
    logs = [podman.logs(f"{name}-migrate") for name in names]
    assert len(logs) == 3
    assert sum("applied 2 migrations" in log for log in logs) == 1
    assert sum("nothing to do" in log for log in logs) == 2
    assert all(podman.state(f"{name}-app")["Running"] for name in names)


async def test_app_waits_for_the_job(
    podman: Podman, manifests: Manifests, cluster: Cluster, database: Database
) -> None:
    await cluster.database.create_role("my_app")
    manifests.log_in(database.login("my_app"), "overlays/job/app-secret.yaml")
    bake(MIGRATIONS | FOR_THE_APP, podman, manifests)
    objects = manifests.render("job")
    [job] = of_kind("Job", objects)
    starting = asyncio.create_task(play(podman, manifests, "job"))
    await says(podman, "my-app-migrate", "waiting for the schema: 3 migrations missing")
    assert has_never_run(podman, "my-app-app")
    assert await tables(database) == []
    played = await asyncio.to_thread(podman.play, "job", job, objects)
    assert played.code == 0, played
    started = await starting
    assert started.code == 0, started
    assert podman("wait", "job-migrate") == "0"
    assert podman.state("my-app-app")["Running"]
    assert await database.applied() == [*MIGRATIONS, *FOR_THE_APP]


# --- how a pod is confined --------------------------------------------------------------------------------------

# OpenShift's admission fills in a uid of the namespace's own; the group is 0 then.
OPENSHIFT_USER = 1_000_680_000


def for_openshift(manifests: Manifests) -> list[Json]:
    """The init overlay with the component for OpenShift, as a pod looks after its admission."""
    overlay = manifests.folder / "overlays" / "openshift"
    overlay.mkdir()
    kustomization = {"resources": ["../init"], "components": ["../../components/openshift"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = manifests.render("openshift")
    context = deployment(objects)["spec"]["template"]["spec"]["securityContext"]
    assert not {"runAsUser", "runAsGroup"} & context.keys()
    context["runAsUser"] = OPENSHIFT_USER
    return objects


@pytest.mark.parametrize(
    ("render", "user", "group"),
    [(lambda manifests: manifests.render("init"), 65532, 65532), (for_openshift, OPENSHIFT_USER, 0)],
    ids=["init", "openshift"],
)
async def test_pod_is_as_confined_as_its_manifest_says(
    podman: Podman, manifests: Manifests, database: Database, render: Render, user: int, group: int
) -> None:
    bake(MIGRATIONS, podman, manifests)
    objects = render(manifests)
    async with database.migration_lock():
        starting = asyncio.create_task(asyncio.to_thread(podman.play, "my-app", deployment(objects), objects))
        await says(podman, "my-app-migrate", "waiting for the migration lock")
        process = podman.process("my-app-migrate")
        status = process.status
        assert (status["Uid"], status["Gid"]) == (" ".join([str(user)] * 4), " ".join([str(group)] * 4))
        assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert "ro" in process.root_mount_options
        assert process.memory_limit == 64 * 1024 * 1024
    played = await starting
    assert played.code == 0, played
    assert await database.applied() == list(MIGRATIONS)
