"""The image, as an orchestrator and a scanner see it."""

from __future__ import annotations

import asyncio
import gzip
import json
import secrets
import stat
import tarfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from containers import IMAGE, RESTRICTED, ROOT, build, call, clone, docker, run, running
from pgslipway import __version__
from proxy import Turns
from servers import eventually, refusing, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Folder
    from containers import Ended
    from servers import Certificates, Database, Server

pytestmark = [pytest.mark.docker_only, pytest.mark.usefixtures("image")]

MEGABYTE = 1_000_000
TABLE = {"001_items.sql": "CREATE TABLE items (id int);"}
SLEEPING = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg\\_sleep(600)%'"
SLEEP = {"001_sleep.sql": "CREATE TABLE items (id int); SELECT pg_sleep(600);"}


class File(NamedTuple):
    """A file of the image."""

    entry: tarfile.TarInfo
    content: bytes


@pytest.fixture(scope="session")
def files(image: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:  # noqa: ARG001
    """What is in the image, by path without the leading slash."""
    archive = tmp_path_factory.mktemp("image") / "export.tar"
    container = docker("create", IMAGE)
    try:
        docker("export", "--output", archive, container)
    finally:
        docker("rm", container)
    with tarfile.open(archive) as tar:
        return {entry.name: File(entry, read(tar, entry)) for entry in tar}


@pytest.fixture
def derived(tmp_path: Path) -> Iterator[Derived]:
    """An image of a user's own."""
    made = Derived(tmp_path / "derived", f"pgslipway-test-{secrets.token_hex(6)}")
    yield made
    call("docker", "rmi", "--force", made.tag)


class Derived(NamedTuple):
    """The two lines that make pgslipway a user's own, and a third that checks the files."""

    context: Path
    tag: str

    def write(self, name: str, sql: str) -> None:
        (self.context / "migrations").mkdir(parents=True, exist_ok=True)
        (self.context / "migrations" / name).write_text(sql)
        lines = [f"FROM {IMAGE}", "COPY migrations/ /migrations/", 'RUN ["pgslipway", "check"]', ""]
        (self.context / "Dockerfile").write_text("\n".join(lines))


def read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry) if entry.isfile() else None
    return file.read() if file else b""


async def exists(database: Database, table: str) -> bool:
    [row] = await database.fetch("SELECT to_regclass($1) IS NOT NULL", table)
    return bool(row[0])


# --- what is in it ----------------------------------------------------------------------------------------------


def test_image_has_at_most_twelve_and_a_half_megabytes(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    docker("save", "--output", archive, IMAGE)
    assert len(gzip.compress(archive.read_bytes(), 9)) <= 12.5 * MEGABYTE


def test_no_file_gives_privileges(files: dict[str, File]) -> None:
    assert [name for name, file in files.items() if file.entry.mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_only_tmp_is_writable_for_everyone(files: dict[str, File]) -> None:
    kinds = {name: file.entry for name, file in files.items() if file.entry.isfile() or file.entry.isdir()}
    assert [name for name, entry in kinds.items() if entry.mode & stat.S_IWOTH] == ["tmp"]


def test_nothing_can_be_executed_but_python_and_pgslipway(files: dict[str, File]) -> None:
    assert [name for name in files if name.startswith(("usr/bin/", "usr/sbin/"))] == [
        "usr/bin/pgslipway",
        "usr/bin/python3.13",
    ]
    assert files["bin"].entry.linkname == "usr/bin"


# Docker 20.10 reads `**/*.py` in .dockerignore in a way that leaves sub-packages out, and says nothing.
def test_every_module_is_in_it_but_those_of_rehearsals(files: dict[str, File]) -> None:
    folder = ROOT / "entrypoint"
    modules = {f"app/{path.relative_to(folder)}" for path in folder.rglob("*.py") if path.parent.name != "rehearsal"}
    assert {name for name in files if name.startswith("app/pgslipway/") and name.endswith(".py")} == modules


def test_folder_for_migrations_is_there_and_empty(files: dict[str, File]) -> None:
    assert [name for name in files if name.startswith("migrations")] == ["migrations"]


def test_scanners_find_the_debian_packages(files: dict[str, File]) -> None:
    assert b"\nID=debian\n" in files["usr/lib/os-release"].content
    folder = "var/lib/dpkg/status.d/"
    status = {name.removeprefix(folder): file.content for name, file in files.items() if name.startswith(folder)}
    assert {"base-files", "ca-certificates", "libc6", "python3.13-minimal"} < status.keys()
    for package, fields in status.items():
        assert fields.startswith(f"Package: {package}\n".encode())
        assert b"\nStatus: install ok installed\n" in fields
        assert b"\nVersion: " in fields
        assert files[f"usr/share/doc/{package}/copyright"].content


def test_every_library_belongs_to_a_package_that_scanners_find(files: dict[str, File]) -> None:
    owners = {
        "ld-linux": "libc6", "libc": "libc6", "libcrypto": "libssl3t64", "libexpat": "libexpat1",
        "libgcc_s": "libgcc-s1", "libm": "libc6", "libpthread": "libc6", "libssl": "libssl3t64",
        "libuuid": "libuuid1", "libz": "zlib1g", "libzstd": "libzstd1",
    }  # fmt: skip
    libraries = {name.rpartition("/")[2].partition(".so.")[0] for name in files if ".so." in name}
    assert {"ld-linux" if name.startswith("ld-linux") else name for name in libraries} == owners.keys()
    assert {f"var/lib/dpkg/status.d/{package}" for package in owners.values()} < files.keys()


def test_scanners_find_the_python_packages(files: dict[str, File]) -> None:
    locked = [line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert locked
    for package, _, version in (line.partition("==") for line in locked):
        metadata = files[f"app/{package}-{version}.dist-info/METADATA"].content.decode()
        assert f"\nName: {package}\n" in metadata
        assert f"\nVersion: {version}\n" in metadata


def test_labels_tell_version_and_licence() -> None:
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", IMAGE))
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert __version__ in run("--version", env={}).out


# Kubernetes checks `runAsNonRoot` against a number only: it does not look names up.
def test_user_is_a_number_and_not_root() -> None:
    assert docker("inspect", "--format", "{{.Config.User}}", IMAGE) == "65532:65532"


# --- how it runs ------------------------------------------------------------------------------------------------


async def test_restricted_container_migrates(database: Database, folder: Folder) -> None:
    ended = run(env=database.environ, migrations=folder(TABLE), extra=RESTRICTED)
    assert ended.code == 0, ended
    assert await exists(database, "items")


def test_arguments_are_commands(database: Database, folder: Folder) -> None:
    ended = run("status", "--exit-code", env=database.environ, migrations=folder(TABLE), extra=RESTRICTED)
    assert ended.code == 14, ended
    assert "001_items.sql" in ended.out


def test_server_is_verified_with_a_mounted_authority(
    encrypted: Server, certificates: Certificates, folder: Folder, tmp_path: Path
) -> None:
    def status(authority: bytes) -> Ended:
        (tmp_path / "root.crt").write_bytes(authority)
        env = encrypted.database().environ | {
            "PGHOST": "localhost",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/root.crt",
        }
        mount = f"--volume={tmp_path / 'root.crt'}:/root.crt:ro"
        return run("status", env=env, migrations=folder(TABLE), extra=(*RESTRICTED, mount))

    trusted, untrusted = status(certificates.authority), status(certificates.stranger)
    assert trusted.code == 0, trusted
    assert untrusted.code == 22, untrusted


async def test_large_file_fits_into_little_memory(database: Database, folder: Folder) -> None:
    row = "INSERT INTO items (text) VALUES ('" + "x" * 1000 + "');\n"
    count = 20 * MEGABYTE // len(row) + 1
    large = folder({"001_items.sql": "CREATE TABLE items (text text);\n" + row * count})
    ended = run(env=database.environ, migrations=large, extra=RESTRICTED)
    assert ended.code == 0, ended
    assert [tuple(row) for row in await database.fetch("SELECT count(*) FROM items")] == [(count,)]


async def test_large_data_fit_into_little_memory(database: Database, folder: Folder) -> None:
    row, count = "x" * 1000 + "\n", 100_000
    large = folder({"001_items.sql": f"CREATE TABLE items (text text);\nCOPY items FROM stdin;\n{row * count}\\.\n"})
    ended = run(env=database.environ, migrations=large, extra=RESTRICTED)
    assert ended.code == 0, ended
    assert [tuple(row) for row in await database.fetch("SELECT count(*) FROM items")] == [(count,)]


async def test_large_statement_fits_into_little_memory(database: Database, folder: Folder) -> None:
    large = folder({"001_items.sql": "CREATE TABLE items AS SELECT '" + "x" * 8 * MEGABYTE + "' AS text;"})
    ended = run(env=database.environ, migrations=large, extra=RESTRICTED)
    assert ended.code == 0, ended
    assert await exists(database, "items")


def test_user_without_a_name_and_without_pguser_is_told_so(database: Database, folder: Folder) -> None:
    env = {name: value for name, value in database.environ.items() if name != "PGUSER"}
    ended = run(env=env, migrations=folder(TABLE), extra=RESTRICTED)
    assert ended.code == 20, ended
    assert "PGUSER" in ended.err
    assert "Traceback" not in ended.err


def test_rehearsal_is_not_in_the_image(folder: Folder) -> None:
    ended = run("rehearse", "--locks", env={}, migrations=folder(TABLE), extra=RESTRICTED)
    assert ended.code == 20, ended
    assert "rehearse is not in the image; install it beside your files: pip install 'pgslipway[embedded]'" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("code", [0, 10], ids=["success", "failure"])
def test_termination_message_is_written_to_where_kubernetes_mounts_it(
    database: Database, folder: Folder, tmp_path: Path, code: int
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    message.chmod(0o666)
    mount = f"--volume={message}:/dev/termination-log"
    with refusing() as port:
        env = database.environ if code == 0 else database.at(port).environ | {"MIGRATE_WAIT_TIMEOUT": "1ms"}
        ended = run(env=env, migrations=folder(TABLE), extra=(*RESTRICTED, mount))
    assert ended.code == code, ended
    assert isinstance(json.loads(message.read_text()), dict)


# --- how it stops -----------------------------------------------------------------------------------------------


# `docker stop` kills after its 60 s, which would be 137.
async def test_sigterm_to_process_1_rolls_the_running_file_back(database: Database, folder: Folder) -> None:
    async def is_asleep() -> bool:
        return bool((await database.fetch(SLEEPING))[0][0])

    with running(env=database.environ, migrations=folder(SLEEP), extra=RESTRICTED) as container:
        await eventually(is_asleep, "the migration to sleep")
        docker("stop", "--time=60", container)
        assert docker("wait", container) == "143"
    assert not await exists(database, "items")


def test_sigterm_to_process_1_ends_the_wait_for_the_database(database: Database, folder: Folder) -> None:
    with refusing() as port:
        env = database.at(port).environ
        with running(env=env, migrations=folder(TABLE), extra=RESTRICTED) as container:
            until(lambda: call("docker", "logs", container).err, "a first line of the log")
            docker("stop", "--time=60", container)
            assert docker("wait", container) == "143"


# --- made a user's own ------------------------------------------------------------------------------------------


async def test_two_lines_make_it_a_users_own(derived: Derived, database: Database) -> None:
    derived.write("001_items.sql", "CREATE TABLE items (id int);")
    built = build(derived.context, derived.tag)
    assert built.code == 0, built
    ended = run(env=database.environ, image=derived.tag, extra=RESTRICTED)
    assert ended.code == 0, ended
    assert await exists(database, "items")


async def test_this_repository_is_an_image_as_it_stands(database: Database) -> None:
    ended = run(env=database.environ, image="my-app-migrations", extra=RESTRICTED)
    assert ended.code == 0, ended
    assert await exists(database, "readings")


# With umask 077 a clone is such a checkout.
def test_checkout_that_is_closed_to_others_makes_an_image_that_works(derived: Derived, tmp_path: Path) -> None:
    checkout = clone(tmp_path / "clone")
    for path in (checkout / "entrypoint").rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    built = build(checkout, derived.tag)
    assert built.code == 0, built
    checked = run("check", env={}, image=derived.tag, extra=RESTRICTED)
    assert checked.code == 0, checked


@pytest.mark.parametrize(
    ("name", "sql"),
    [("first.sql", "SELECT 1;"), ("001_first.sql", "CREATE TABLE items (id int);\nCOMMIT;\nSELECT 1;")],
    ids=["name", "transaction control"],
)
def test_file_that_can_never_work_fails_the_build(derived: Derived, name: str, sql: str) -> None:
    derived.write(name, sql)
    built = build(derived.context, derived.tag)
    assert built.code != 0, built
    assert name in built.out + built.err
    assert "Traceback" not in built.out + built.err


async def test_tls_costs_two_round_trips(encrypted: Server, folder: Folder) -> None:
    """The server's word that it has TLS, and the handshake, whose first guess at a curve is right."""
    migrations = folder(TABLE)
    async with encrypted.fresh_database() as database:
        assert run(env=database.environ, migrations=migrations).code == 0

        async with Turns(database) as proxy:
            ended = await asyncio.to_thread(run, env=database.at(proxy.port).environ, migrations=migrations)

    assert ended.code == 0, ended
    without_tls, goodbye_that_nobody_awaits = 3, 1
    assert proxy.number == without_tls + 2 + goodbye_that_nobody_awaits
