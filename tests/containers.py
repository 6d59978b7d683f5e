"""The Docker command line, and the program in its image as an orchestrator starts it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parent.parent
IMAGE = "pgslipway:dev"
RESTRICTED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=12345:0",
    "--memory=64m",
    "--memory-swap=64m",
)
"""`docker run` options: as little as an orchestrator may allow."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def call(*command: str | Path, stdin: str = "") -> Ended:
    """Run a command to its end, whatever that is."""
    done = subprocess.run(list(map(str, command)), check=False, cwd=ROOT, input=stdin, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def clone(folder: Path) -> Path:
    """Write what a clone of this repository would have: the files that Git knows, as they are here now."""
    listed = call("git", "-c", "safe.directory=*", "ls-files", "-z") if shutil.which("git") else None
    if listed is None or listed.code:  # not a checkout: everything but what is made here
        made = [line.rstrip("/").rpartition("/")[2] for line in (ROOT / ".gitignore").read_text().splitlines()]
        return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *made))
    for name in filter(None, listed.out.split("\0")):
        if (ROOT / name).exists():  # else Git does not know yet that it is deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def docker(*arguments: str | Path) -> str:
    """Run a Docker command that has to succeed; what it printed."""
    ended = call("docker", *arguments)
    assert ended.code == 0, ended
    return ended.out.strip()


def build(context: Path, tag: str) -> Ended:
    """Build an image; the two builders tell of a failing step on different streams."""
    return call("docker", "build", "--force-rm", "--tag", tag, context)


def options(env: Mapping[str, str], migrations: Path | None) -> list[str]:
    """`docker run` options: the network of this machine, the variables, and the migrations if they are not baked in."""
    mounts = [] if migrations is None else [f"--volume={migrations}:/migrations:ro"]
    return ["--network=host", *(f"--env={name}={value}" for name, value in env.items()), *mounts]


def run(
    *arguments: str,
    env: Mapping[str, str],
    migrations: Path | None = None,
    extra: tuple[str, ...] = (),
    image: str = IMAGE,
) -> Ended:
    """Run the image to its end; `extra` are more options of `docker run`."""
    return call("docker", "run", "--rm", *options(env, migrations), *extra, image, *arguments)


@contextmanager
def running(
    *arguments: str, env: Mapping[str, str], migrations: Path | None = None, extra: tuple[str, ...] = ()
) -> Iterator[str]:
    """The id of a container of the image that runs in the background; it is removed in the end."""
    container = docker("run", "--detach", *options(env, migrations), *extra, IMAGE, *arguments)
    try:
        yield container
    finally:
        docker("rm", "--force", container)
