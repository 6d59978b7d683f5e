"""The image can be built for arm64 from the same Dockerfile: what can be told of that on a machine of any kind."""

from __future__ import annotations

import re
import struct
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from containers import IMAGE, ROOT, call, docker

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = re.compile(r"amd64|x86|x64|i[3-6]86|arm64|aarch64|armv|lib64|ld-linux", re.IGNORECASE)
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
MACHINES = {"amd64": 62, "arm64": 183}
"""e_machine of an ELF header, by Docker's name."""
EXAMPLES = sorted((ROOT / "examples").rglob("Dockerfile*"))


@pytest.mark.parametrize("path", [ROOT / "Dockerfile", *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_dockerfile_names_no_architecture(path: Path) -> None:
    assert ARCHITECTURE.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.needs_server  # the package index
def test_every_dependency_has_a_wheel_for_arm64_with_a_hash_of_the_lock_file(tmp_path: Path) -> None:
    """Downloaded as the Dockerfile installs it, for the Python that is in the image."""
    (python,) = set(re.findall(r"/usr/bin/python(3\.\d+)", DOCKERFILE))
    names = re.findall(r"^([a-z0-9_-]+)==", REQUIREMENTS, re.MULTILINE)

    downloaded = call(
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-cache-dir", "--no-deps",
        "--only-binary", ":all:", "--require-hashes", "--implementation", "cp", "--python-version", python,
        "--platform", "manylinux_2_28_aarch64", "--dest", tmp_path, "--requirement", "requirements.txt",
    )  # fmt: skip

    assert downloaded.code == 0, downloaded
    wheels = {path.name.partition("-")[0]: path.name for path in tmp_path.glob("*.whl")}
    assert sorted(wheels) == sorted(names)
    assert all(re.search(r"aarch64|-none-any", name) for name in wheels.values()), wheels
    assert "aarch64" in wheels["asyncpg"]


@pytest.mark.docker_only
@pytest.mark.usefixtures("image")
def test_all_binaries_of_the_image_are_for_the_architecture_that_it_says(tmp_path: Path) -> None:
    """Nothing was copied or downloaded that would be wrong in an image for another one."""
    container = docker("create", IMAGE)
    try:
        docker("export", "--output", tmp_path / "image.tar", container)
    finally:
        docker("rm", container)
    with tarfile.open(tmp_path / "image.tar") as tar:
        heads = {entry.name: head(tar, entry) for entry in tar if entry.isfile()}

    machines = {struct.unpack_from("<H", start, 18)[0] for start in heads.values() if start.startswith(b"\x7fELF")}

    assert machines == {MACHINES[docker("image", "inspect", "--format", "{{.Architecture}}", IMAGE)]}


def head(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file
    return file.read(20)
