"""Passwords, certificates and their files, as they come out of a mounted Secret: readable to all, and rotated."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import string
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from containers import run
from pgslipway.config import from_environ
from pgslipway.libpq import LIBPQ, host_list
from pgslipway.passfile import find_password
from servers import CERTIFIED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from conftest import Folder, Process, Slipway
    from servers import Certificates, Cluster, Database, Server

FILES = {"001_a.sql": "CREATE TABLE a ();"}
PASSWORD = f" {string.digits}{string.ascii_letters}{string.punctuation} é€ "
"""Every printable character of ASCII, and some more; blanks at the ends are easily lost."""


@pytest.fixture
def mounted(tmp_path: Path) -> Callable[[str, str], Path]:
    """`mounted("password", "x")` is a file of a Secret's volume; called again, it is rotated as the kubelet does it."""
    volume = tmp_path / "secret"
    volume.mkdir()

    def write(name: str, content: str) -> Path:
        version = volume / f"..{len(list(volume.iterdir()))}"
        if (volume / "..data").exists():
            shutil.copytree(volume / "..data", version)
        else:
            version.mkdir()
        (version / name).write_text(content)
        (version / name).chmod(0o644)
        (volume / "..new").symlink_to(version.name)
        (volume / "..new").replace(volume / "..data")
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
        return volume / name

    return write


def passfile_line(database: Database, password: str) -> str:
    escaped = re.sub(r"([:\\])", r"\\\1", password)
    return f"# ours\n{database.host}:{database.port}:{database.name}:{database.user}:{escaped}\n"


def without_password(database: Database) -> dict[str, str]:
    return {name: value for name, value in database.environ.items() if name != "PGPASSWORD"}


# --- every setting of the connection ----------------------------------------------------------------------------

VALUES = {
    "DATABASE_URL": "postgresql://app@db/shop",
    "PGHOST": "db",
    "PGPORT": "5433",
    "PGUSER": "app",
    "PGPASSWORD": "secret",
    "PGDATABASE": "shop",
    "PGSSLMODE": "require",
    "PGSSLROOTCERT": "{pem}",
    "PGSSLCERT": "{pem}",
    "PGSSLKEY": "{pem}",
    "PGSSLCRL": "{pem}",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    "PGSSLMAXPROTOCOLVERSION": "TLSv1.3",
    "PGTARGETSESSIONATTRS": "primary",
    "PGPASSFILE": "{pem}",
    "PGKRBSRVNAME": "postgres",
    "PGGSSLIB": "gssapi",
    "PGHOSTADDR": "10.0.0.1",
    "PGOPTIONS": "-c search_path=app",
    "PGTZ": "UTC",
    "PGDATESTYLE": "ISO",
    "PGGEQO": "off",
}


@pytest.mark.parametrize("variable", LIBPQ)
def test_setting_of_the_connection_is_read_from_a_file(
    variable: str, mounted: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (pem := tmp_path / "pem").write_text("-----BEGIN CERTIFICATE-----\n*:*:*:*:from the password file\n")
    value = VALUES[variable].format(pem=pem)

    direct = from_environ({"PGUSER": "app", variable: value}, {})
    given = {f"{variable}_FILE": str(mounted("value", f"{value}\n"))}
    by_file = from_environ({"PGUSER": "" if variable == "PGUSER" else "app"} | given, {})

    assert (direct.problems, by_file.problems) == ((), ())
    assert by_file.libpq == direct.libpq != from_environ({"PGUSER": "other"}, {}).libpq


# --- passwords --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PGPASSWORD", "PGPASSWORD_FILE", "DATABASE_URL", "DATABASE_URL_FILE", "PGPASSFILE"])
async def test_password_may_hold_every_printable_character(
    form: str, database: Database, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    role = f"app_{form.lower()}"
    quoted = PASSWORD.replace("'", "''")
    await database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{quoted}'; GRANT ALL ON SCHEMA public TO {role}")
    login = database.login(role, PASSWORD)
    url = f"postgresql://{role}:{quote(PASSWORD, safe='')}@{login.host}:{login.port}/{login.name}"
    forms = {
        "PGPASSWORD": {"PGPASSWORD": PASSWORD},
        "PGPASSWORD_FILE": {"PGPASSWORD_FILE": str(mounted("password", f"{PASSWORD}\n"))},
        "DATABASE_URL": {"DATABASE_URL": url},
        "DATABASE_URL_FILE": {"DATABASE_URL_FILE": str(mounted("url", f"{url}\n"))},
        "PGPASSFILE": {"PGPASSFILE": str(mounted("pgpass", passfile_line(login, PASSWORD)))},
    }

    finished = slipway(env=without_password(login) | forms[form], migrations=folder(FILES))

    assert finished.code == 0, finished


LINES = {
    "exact": ("db:5432:shop:app:secret", "secret"),
    "any": ("*:*:*:*:secret", "secret"),
    "first that fits": ("db:5432:shop:app:one\n*:*:*:*:two", "one"),
    "comment": ("#db:5432:shop:app:one\n*:*:*:*:two", "two"),
    "other host": ("other:5432:shop:app:secret", None),
    "other port": ("db:5433:shop:app:secret", None),
    "other database": ("db:5432:shops:app:secret", None),
    "other user": ("db:5432:shop:apps:secret", None),
    "colon in the password": ("db:5432:shop:app:a:b", "a:b"),
    "escaped colon": (r"db:5432:shop:app:a\:b", "a:b"),
    "escaped backslash": (r"db:5432:shop:app:a\\b\\", "a\\b\\"),
    "escaped star is a star": (r"\*:5432:shop:app:secret", None),
    "blanks belong to it": ("db:5432:shop:app: a ", " a "),
    "crlf": ("db:5432:shop:app:secret\r\n", "secret"),
    "too few fields": ("db:5432:shop:secret", None),
    "later host": ("second:5433:*:app:secret", "secret"),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("text", "password"), LINES.values(), ids=LINES)
def test_password_file_is_read_as_libpq_does(text: str, password: str | None) -> None:
    addresses = [("db", "5432"), ("second", "5433")]
    assert find_password(text, addresses, "shop", "app") == password


def test_socket_goes_by_the_name_of_localhost() -> None:
    assert find_password("localhost:5432:*:*:secret", [("/run/postgresql", "5432")], "shop", "app") == "secret"


async def test_password_file_without_a_line_for_us_is_no_password(
    database: Database, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    passfile = mounted("pgpass", "elsewhere:*:*:*:secret\n")

    finished = slipway(env=without_password(database) | {"PGPASSFILE": str(passfile)}, migrations=folder(FILES))

    assert finished.code == 22, finished


async def test_password_goes_before_the_password_file(
    database: Database, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    passfile = mounted("pgpass", "*:*:*:*:wrong\n")

    finished = slipway(env=database.environ | {"PGPASSFILE": str(passfile)}, migrations=folder(FILES))

    assert finished.code == 0, finished


def test_socket_goes_by_its_path_too() -> None:
    assert find_password(r"/cloudsql/p\:r\:i:5432:*:*:secret", [("/cloudsql/p:r:i", "5432")], "shop", "app") == "secret"


def test_folder_of_a_socket_may_have_colons() -> None:
    config = from_environ({"PGHOST": "/cloudsql/project:region:instance", "PGUSER": "app"}, {})

    assert config.problems == ()
    assert host_list(config.libpq) == (["/cloudsql/project:region:instance"], [5432])


MISPLACED = {
    "PGPASSWORD_FILE": "hunter2-and-more",
    "DATABASE_URL_FILE": "postgresql://app:hunter2-and-more@db/shop",
    "PGPASSFILE": "db:5432:shop:app:hunter2-and-more",
    "PGSSLKEY": "hunter2-and-more" * 20,
}


@pytest.mark.parametrize(("variable", "secret"), MISPLACED.items(), ids=MISPLACED)
def test_secret_in_the_place_of_its_files_path_is_not_shown(
    variable: str, secret: str, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env={"PGUSER": "app", variable: secret}, migrations=folder(FILES))

    assert finished.code == 20, finished
    assert f"{variable}:" in finished.err
    assert "hunter2" not in f"{finished.err}{finished.outcome}"


def test_password_may_come_through_a_pipe(database: Database, folder: Folder, tmp_path: Path) -> None:
    """It gives the password once, and a run may ask for it more often: for each connection."""
    script = f'printf %s "$SECRET" | "{sys.executable}" -m pgslipway'
    environ = without_password(database) | {
        "SECRET": database.password,
        "PGPASSWORD_FILE": "/dev/stdin",
        "MIGRATE_DIR": str(folder(FILES)),
        "PATH": os.environ["PATH"],
    }

    done = subprocess.run(
        ["bash", "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done


@asynccontextmanager
async def kept_waiting(
    database: Database, folder: Folder, slipway: Slipway, secret: Path
) -> AsyncIterator[tuple[Process, int]]:
    """A run whose table is in use until the block ends, and the pid of who uses it; the password is in `secret`."""
    await database.execute("CREATE TABLE busy ()")
    async with database.connection() as other:
        await other.execute("BEGIN; LOCK TABLE busy")
        process = slipway.start(
            env=without_password(database) | {"PGPASSWORD_FILE": str(secret)},
            migrations=folder({"001_a.sql": "ALTER TABLE busy ADD COLUMN n int;"}),
        )
        process.wait_for_log("connected to")
        yield process, other.get_server_pid()


async def test_second_connection_knows_the_password_though_its_file_is_gone(
    database: Database, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    secret = mounted("secret", database.password)
    async with kept_waiting(database, folder, slipway, secret) as (process, pid):
        secret.unlink()
        process.wait_for_log(f"held by pid {pid}")
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished


async def test_run_goes_on_where_a_second_connection_has_no_password_any_more(
    cluster: Cluster, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    database = cluster.server.database()
    secret = mounted("secret", database.password)
    async with kept_waiting(database, folder, slipway, secret) as (process, _):
        secret.unlink()
        await database.execute(f"ALTER ROLE {database.user} PASSWORD 'another'")
        process.wait_for_log(f"nobody can be asked what it is doing: PGPASSWORD_FILE: {secret}: No such file")
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished


@pytest.mark.parametrize("variable", ["PGPASSWORD", "PGPASSFILE"])
async def test_empty_variable_leaves_the_usual_password_file_alone(
    variable: str, cluster: Cluster, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    database = cluster.server.database()
    await database.execute(f"ALTER ROLE {database.user} PASSWORD 'plain'")  # the driver keeps backslashes
    (passfile := tmp_path / ".pgpass").write_text("*:*:*:*:plain\n")
    passfile.chmod(0o600)

    finished = slipway(env=without_password(database) | {variable: "", "HOME": str(tmp_path)}, migrations=folder(FILES))

    assert finished.code == 0, finished
    assert "password file" not in finished.err


# --- rotation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PGPASSWORD_FILE", "DATABASE_URL_FILE", "PGPASSFILE"])
async def test_secret_that_is_rotated_while_we_wait_is_picked_up(
    form: str, cluster: Cluster, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    database = cluster.server.database()
    old, new = (database.login(database.user, password) for password in ("yesterday's password", database.password))
    content: dict[str, Callable[[Database], str]] = {
        "PGPASSWORD_FILE": lambda login: login.password,
        "DATABASE_URL_FILE": lambda login: login.url,
        "PGPASSFILE": lambda login: passfile_line(login, login.password),
    }
    secret = mounted("secret", content[form](old))
    cluster.stop()

    process = slipway.start(env=without_password(database) | {form: str(secret)}, migrations=folder(FILES))
    process.wait_for_log("Connection refused")
    mounted("secret", content[form](new))
    cluster.start()
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished


async def test_password_that_is_changed_while_we_wait_for_the_lock_is_picked_up(
    cluster: Cluster, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    database = cluster.server.database()
    secret = mounted("secret", database.password)
    async with database.migration_lock():
        process = slipway.start(
            env=without_password(database) | {"PGPASSWORD_FILE": str(secret)}, migrations=folder(FILES)
        )
        process.wait_for_log("waiting for the migration lock")
        await database.execute(f"ALTER ROLE {database.user} PASSWORD 'tomorrow''s'")
        mounted("secret", "tomorrow's")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished


async def test_secret_that_goes_away_while_we_wait_is_named(
    cluster: Cluster, folder: Folder, slipway: Slipway, mounted: Callable[[str, str], Path]
) -> None:
    database = cluster.server.database()
    secret = mounted("secret", database.password)
    cluster.stop()

    process = slipway.start(env=without_password(database) | {"PGPASSWORD_FILE": str(secret)}, migrations=folder(FILES))
    process.wait_for_log("Connection refused")
    secret.unlink()
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 20, finished
    assert f"PGPASSWORD_FILE: {secret}: No such file or directory" in finished.err


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> Path:
    """A folder with the certificates, each readable to all, as in a Secret's volume."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("authority", "stranger", "client", "client_key", "locked_key"):
        (folder / name).write_bytes(getattr(certificates, name))
        (folder / name).chmod(0o644)
    (folder / "nothing").write_text("not PEM")
    folder.chmod(0o755)
    return folder


@pytest.mark.docker_only
@pytest.mark.parametrize("form", ["variable", "url"])
async def test_system_stands_for_the_authorities_of_the_system(
    form: str, encrypted: Server, files: Path, folder: Folder, slipway: Slipway
) -> None:
    async with encrypted.fresh_database() as database:
        login = database.at(encrypted.port, "localhost")
        where = {"variable": {**login.environ, "PGSSLROOTCERT": "system"}}
        where["url"] = {"DATABASE_URL": f"{login.url}?sslrootcert=system"}
        trusting = slipway(env=where[form] | {"SSL_CERT_FILE": str(files / "authority")}, migrations=folder(FILES))
        doubting = slipway(env=where[form] | {"SSL_CERT_FILE": str(files / "stranger")}, migrations=folder(FILES))

    assert trusting.code == 0, trusting
    assert doubting.code == 22, doubting
    assert "certificate verify failed" in doubting.err


@pytest.mark.docker_only
@pytest.mark.usefixtures("image")
async def test_image_has_authorities_and_takes_a_mounted_one(encrypted: Server, files: Path, folder: Folder) -> None:
    async with encrypted.fresh_database() as database:
        environ = database.at(encrypted.port, "localhost").environ
        extra = (f"--volume={files}:/tls:ro", "--user=12345:0")
        migrations = folder(FILES)
        migrations.chmod(0o755)
        system = environ | {"PGSSLROOTCERT": "system"}
        by_system = run(env=system, migrations=migrations)
        by_system_with_ours = run(env=system | {"SSL_CERT_FILE": "/tls/authority"}, migrations=migrations, extra=extra)
        by_mount = run(
            env=environ | {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/tls/authority"},
            migrations=migrations,
            extra=extra,
        )

    assert by_system.code == 22, by_system
    assert "certificate verify failed" in by_system.err
    assert by_system_with_ours.code == 0, by_system_with_ours
    assert by_mount.code == 0, by_mount


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"PGSSLMODE": "require"},
            "PGSSLMODE: PGSSLROOTCERT=system goes with verify-full only: anybody can have a public certificate",
        ),
        (
            {"SSL_CERT_FILE": "/nowhere"},
            "PGSSLROOTCERT: this system has no bundle of authorities; give the path of one, or SSL_CERT_FILE",
        ),
    ],
    ids=["weaker mode", "no bundle"],
)
def test_system_that_cannot_be_is_refused(
    environ: dict[str, str], problem: str, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env={"PGUSER": "app", "PGSSLROOTCERT": "system"} | environ, migrations=folder(FILES))

    assert finished.code == 20, finished
    assert finished.outcome
    assert finished.outcome["message"] == problem


def test_full_verification_without_an_authority_is_refused_at_once(
    database: Database, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    environ = database.environ | {"PGSSLMODE": "verify-full", "HOME": str(tmp_path)}

    finished = slipway(env=environ, migrations=folder(FILES))

    assert finished.code == 20, finished
    assert "root certificate file" in finished.err


CLIENTS = {
    "fits": ("client", "client_key", 0, "up to date"),
    "none": (None, None, 22, "connection requires a valid client certificate"),
    "not PEM": ("nothing", "client_key", 20, "nothing: nothing in PEM format in this file"),
    "key is not PEM": ("client", "nothing", 20, "nothing: nothing in PEM format in this file"),
    "key with a passphrase": ("client", "locked_key", 20, "look at PGSSLCERT, PGSSLKEY (without a passphrase)"),
    "key of nobody": ("authority", "client_key", 20, "key values mismatch"),
}


@pytest.mark.docker_only
@pytest.mark.parametrize(("certificate", "key", "code", "text"), CLIENTS.values(), ids=CLIENTS)
async def test_client_certificate_is_a_login(
    certificate: str | None, key: str | None, code: int, text: str,
    encrypted: Server, files: Path, folder: Folder, slipway: Slipway,
) -> None:  # fmt: skip
    given = {"PGSSLCERT": str(files / certificate), "PGSSLKEY": str(files / key)} if certificate and key else {}
    async with encrypted.fresh_database() as database:
        make = f"DO $$ BEGIN CREATE ROLE {CERTIFIED} LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
        await database.execute(make)
        await database.execute(f"GRANT ALL ON SCHEMA public TO {CERTIFIED}")
        login = database.at(encrypted.port, "localhost").login(CERTIFIED)
        roots = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(files / "authority")}
        finished = slipway(env=without_password(login) | roots | given, migrations=folder(FILES))

    assert finished.code == code, finished
    assert text in finished.err
