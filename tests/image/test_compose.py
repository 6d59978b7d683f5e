"""`compose.yaml`: the app starts when its schema is there, and only then."""

from __future__ import annotations

import os
import secrets
import shlex
from typing import TYPE_CHECKING, NamedTuple

import pytest

from containers import Ended, call, clone, docker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.docker_only


class Project(NamedTuple):
    """A Compose project with a name, and so with containers and images, of the test's own."""

    command: list[str]
    name: str
    folder: Path

    def __call__(self, *arguments: str) -> Ended:
        return call(*self.command, f"--project-name={self.name}", f"--file={self.folder / 'compose.yaml'}", *arguments)

    def container(self, service: str, *filters: str) -> str:
        """The id of a service's container in one of the given states; empty if there is none."""
        labels = [
            f"label=com.docker.compose.{key}={value}" for key, value in (("project", self.name), ("service", service))
        ]
        return docker("ps", "--all", "--quiet", *(f"--filter={condition}" for condition in (*labels, *filters)))

    def code(self, service: str) -> int:
        """Wait for a service to end; its exit code."""
        return int(docker("wait", self.container(service)))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """The project of `compose.yaml` in a clean clone, not started."""
    command = shlex.split(os.environ.get("PGSLIPWAY_COMPOSE") or call("tests/setup/compose.sh").out)
    assert command, "no Docker Compose here"
    made = Project(command, f"pgslipway-test-{secrets.token_hex(6)}", clone(tmp_path / "clone"))
    yield made
    ended = made("down", "--volumes", "--rmi", "local")
    assert ended.code == 0, ended


def test_app_starts_when_its_schema_is_there(project: Project) -> None:
    started = project("up", "--detach")
    assert started.code == 0, started
    assert project.code("migrate") == 0
    assert project.code("app") == 0
    assert "roof" in docker("logs", project.container("app"))


def test_migrations_can_be_run_again(project: Project) -> None:
    assert project("up", "--detach").code == 0
    again = project("run", "--rm", "-T", "migrate")
    assert again.code == 0, again
    status = project("run", "--rm", "-T", "migrate", "status", "--exit-code")
    assert status.code == 0, status
    assert "003_hottest_hour.sql" in status.out


def test_failing_migration_keeps_the_app_from_starting(project: Project) -> None:
    (project.folder / "migrations" / "004_failing.sql").write_text("SELECT 1 / 0;")
    started = project("up", "--detach")
    assert started.code != 0, started
    assert project.code("migrate") == 24
    assert project.container("app", "status=running", "status=exited") == ""
