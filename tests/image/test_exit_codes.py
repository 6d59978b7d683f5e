"""Every exit code, provoked for real in a container that is started as a kubelet would, and shown as in docs/.

PGSLIPWAY_GALLERY=path writes the log and the termination message of each into a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import TERMINATION_MESSAGE_LIMIT, Finished, check
from containers import IMAGE, RESTRICTED, ROOT, build, call, docker, options
from contract import CONTRACT
from pages import blocks, matches
from servers import eventually, refusing
from unfinished import wait_for_query, without_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from conftest import Folder
    from servers import Database

pytestmark = [pytest.mark.docker_only, pytest.mark.usefixtures("image")]

PAGE = "docs/operating.md"
ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric);\n"
CUSTOMERS = "CREATE TABLE customers (name text PRIMARY KEY);\n"
FILES = {"001_orders.sql": ORDERS, "002_customers.sql": CUSTOMERS}
SLEEP = "UPDATE orders SET amount = 0;\nSELECT pg_sleep(3600);\n"
ALTER = "ALTER TABLE orders ADD COLUMN paid_at timestamptz;\n"
BATCHES = """CREATE PROCEDURE fill_paid_at() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO batches VALUES (1);
    COMMIT;
    PERFORM pg_sleep(3600);
END $$"""
BUG = ("newest = max(in_image)", "newest = max(in_history)")
"""What a line of plan.py is, and what a bug makes of it."""

# --- a container as a kubelet starts it -------------------------------------------------------------------------


@dataclass(slots=True)
class Pod:
    """Starts the image with an empty file for its last words, and reads them when it has ended."""

    folder: Path
    env: dict[str, str]
    image: str = IMAGE
    containers: list[str] = field(default_factory=list)

    def start(self, *arguments: str, migrations: Path | None = None, **settings: str) -> str:
        """Start a container; its id."""
        message = self._message(len(self.containers))
        message.touch()
        message.chmod(0o666)
        mount = f"--volume={message}:/dev/termination-log"
        env = self._env(settings)
        container = docker("run", "--detach", *RESTRICTED, mount, *options(env, migrations), self.image, *arguments)
        self.containers.append(container)
        return container

    def finish(self, container: str) -> Finished:
        """Wait for its end; what a kubelet then knows, and what held for every end."""
        code = int(docker("wait", container))
        logs = call("docker", "logs", container)
        message = self._message(self.containers.index(container)).read_bytes()
        assert len(message) <= TERMINATION_MESSAGE_LIMIT
        finished = Finished(code, logs.out, logs.err, json.loads(message) if message else None)
        check(finished, self.env.items())
        return finished

    def __call__(self, *arguments: str, migrations: Path | None = None, **settings: str) -> Finished:
        return self.finish(self.start(*arguments, migrations=migrations, **settings))

    def _message(self, number: int) -> Path:
        return self.folder / f"termination-log-{number}"

    def _env(self, settings: Mapping[str, str]) -> dict[str, str]:
        kubernetes = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
        return kubernetes | self.env | {f"MIGRATE_{name.upper()}": value for name, value in settings.items()}


@pytest.fixture
def pod(database: Database, tmp_path: Path) -> Iterator[Pod]:
    """`pod("up", migrations=folder({...}))` is what an orchestrator sees of a container."""
    made = Pod(tmp_path, database.environ)
    yield made
    for container in made.containers:
        docker("rm", "--force", container)


# --- the gallery ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page may show of an end."""

    json_log: str
    text_log: str
    message: str


class Gallery(dict[str, Shown]):
    """The ends by name: an exit code, and what is special about it."""

    def __str__(self) -> str:
        return "\n".join(
            f"=== {name}\n--- log in Kubernetes\n{shown.json_log}--- the same as text\n{shown.text_log}"
            f"--- termination message\n{shown.message}"
            for name, shown in sorted(self.items())
        )


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    """Collects what each end looks like; written in the end, where PGSLIPWAY_GALLERY says or into a scratch folder."""
    made = Gallery()
    yield made
    path = Path(os.environ.get("PGSLIPWAY_GALLERY") or tmp_path_factory.mktemp("gallery") / "gallery.txt")
    path.write_text(str(made))


def as_text(json_log: str) -> str:
    """The log as it is where nobody asked for JSON."""
    lines = []
    for fields in map(json.loads, json_log.splitlines()):
        level = "" if fields["level"] == "info" else f"{fields['level']}: "
        trace = f"\n{fields['traceback']}" if "traceback" in fields else ""
        target = f"{fields['target']}: " if "target" in fields else ""
        time = f"{datetime.fromisoformat(fields['time']):%H:%M:%S}"
        lines.append(f"{time} {level}{target}{fields['message']}{trace}\n")
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class Assertion:
    """Asserts what every end has in common, and that the page shows it as it is."""

    gallery: Gallery
    database: Database

    def __call__(self, name: str, finished: Finished, first_line: str) -> None:
        """`name` starts with the expected code, and is the note above the page's blocks: `<!-- exit 24 -->`."""
        code = int(name.split()[0])
        outcome = finished.outcome
        assert finished.code == code, finished
        assert outcome, finished
        assert (outcome["exit_code"], outcome["result"]) == (code, CONTRACT[code])
        assert matches(first_line, outcome["message"].splitlines()[0]), finished
        self.gallery[name] = shown = self._shown(finished)
        real = {"text": shown.text_log, "json": shown.message, "jsonl": shown.json_log}
        examples = [block for block in blocks(PAGE) if block.note == f"exit {name}"]
        assert {"text", "json"} <= {block.language for block in examples}, f"{PAGE} has no example of {name}"
        for block in examples:
            assert matches(block.text, real[block.language]), f"{block.place} shows not:\n{real[block.language]}"

    def _shown(self, finished: Finished) -> Shown:
        """With the address that a reader may expect."""
        target = re.compile(rf"{re.escape(self.database.host)}:[0-9]+/{self.database.name}")
        message = json.dumps(finished.outcome, ensure_ascii=False) + "\n"
        log, message = (target.sub("db:5432/shop", text) for text in (finished.err, message))
        return Shown(log, as_text(log), message)


@pytest.fixture
def assert_shown(gallery: Gallery, database: Database) -> Assertion:
    """`assert_shown("24", finished, "003_orders.sql:3: …")`; `…` stands for what differs."""
    return Assertion(gallery, database)


# --- 0 ----------------------------------------------------------------------------------------------------------


def test_up_to_date_is_0(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    files = folder(FILES)

    applied, nothing_to_do = pod(migrations=files), pod(migrations=files)

    newest = "the newest of 2 migrations is 002_customers.sql"
    assert_shown("0", applied, f"up to date: applied 2 migrations; {newest}")
    assert_shown("0 nothing to do", nothing_to_do, f"up to date: nothing to do; {newest}")


def test_older_image_starts_on_a_newer_schema_with_a_warning(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    pod(migrations=folder(FILES))
    (folder.path / "002_customers.sql").unlink()

    finished = pod(migrations=folder.path)

    assert_shown("0 rolled back", finished, "up to date: nothing to do; the newest of 1 migration is 001_orders.sql")


async def test_text_is_the_json_log_without_its_fields(pod: Pod, database: Database, folder: Folder) -> None:
    """So the examples of the page can be text, which is easier to read."""
    files = folder({**FILES, "003_paid.sql": "ALTER TABLE order ADD COLUMN paid_at timestamptz;"})
    in_json = pod(migrations=files)
    await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    in_text = pod(migrations=files, log_format="text")

    assert in_json.code == in_text.code == 24
    assert matches(as_text(in_json.err), in_text.err), in_text


# --- 10-19: trying again can help -------------------------------------------------------------------------------


def test_database_that_does_not_answer_is_10(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    with refusing() as port:
        pod.env |= {"PGPORT": str(port)}
        finished = pod(migrations=folder(FILES), wait_timeout="2s")

    assert_shown("10", finished, "…: Connection refused (gave up after MIGRATE_WAIT_TIMEOUT=2s)")


async def test_lock_that_another_runner_keeps_is_11(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    files = folder({**FILES, "003_paid.sql": SLEEP})
    pod.start(migrations=files)
    await wait_for_query(database, "%pg_sleep(3600)%")

    finished = await asyncio.to_thread(pod, migrations=files, lock_timeout="1s")

    assert_shown("11", finished, "the migration lock is still held by pid 4711 (pgslipway…")


async def test_table_that_others_use_is_12(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    await database.execute(ORDERS)
    async with database.connection() as other:
        await other.execute("SET application_name = 'billing'")
        await other.execute("BEGIN; UPDATE orders SET amount = 0")
        finished = await asyncio.to_thread(pod, migrations=folder({"003_paid.sql": ALTER}), ddl_retry="4s")

    assert_shown("12", finished, "003_paid.sql: canceling statement due to lock timeout …")


async def test_connection_that_breaks_is_13(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    container = pod.start(migrations=folder({**FILES, "003_paid.sql": SLEEP}))
    pid = await wait_for_query(database, "%pg_sleep(3600)%")
    await database.fetch("SELECT pg_terminate_backend($1)", pid)

    finished = await asyncio.to_thread(pod.finish, container)

    assert_shown("13", finished, "connection lost: terminating connection due to administrator command; …")


def test_pending_migration_is_14(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    finished = pod("status", "--exit-code", migrations=folder(FILES))

    assert_shown("14", finished, "2 migrations pending: 001_orders.sql, 002_customers.sql")


def test_schema_that_does_not_get_there_is_14(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    pod(migrations=folder({"001_orders.sql": ORDERS}))

    finished = pod("wait", migrations=folder(FILES), wait_timeout="2s")

    assert_shown("14 wait", finished, "…002_customers.sql…")


async def test_targets_that_fail_for_different_reasons_are_15(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    await database.execute("".join(f"CREATE SCHEMA tenant_{number};" for number in (1, 2, 3)))
    targets = {"targets": "tenant_1 tenant_2 tenant_3", "max_failures": "2", "ddl_retry": "0", "lock_timeout": "1s"}
    await asyncio.to_thread(pod, migrations=folder(FILES), **targets)
    files = folder({"003_paid.sql": ALTER})
    key = "('x' || encode(sha256('pgslipway:tenant_2.schema_migrations'), 'hex'))::bit(64)::bigint"
    async with database.connection() as other, other.transaction():
        await other.execute(f"LOCK TABLE tenant_1.orders; SELECT pg_advisory_lock({key})")

        finished = await asyncio.to_thread(pod, migrations=files, **targets)

    assert_shown("15", finished, "2 of 3 targets failed (1…")


# --- 20-29: a person has to do something ------------------------------------------------------------------------


def test_malformed_setting_is_20(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    finished = pod(migrations=folder(FILES), lock_timeout="10", role_file="/run/secrets/role")

    assert_shown("20", finished, "MIGRATE_ROLE_FILE: /run/secrets/role: No such file or directory")


def test_file_that_can_never_work_is_21(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    by_text = pod(migrations=folder({**FILES, "003_paid.sql": f"{ALTER}COMMIT;\n{ALTER}"}))
    by_name = pod(migrations=folder({"paid.sql": ALTER}))

    assert_shown("21", by_text, "003_paid.sql:2: …COMMIT…")
    assert_shown("21 name", by_name, "paid.sql: not a migration's name; …")


def test_wrong_password_is_22(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    pod.env |= {"PGPASSWORD": "yesterday's password"}

    finished = pod(migrations=folder(FILES))

    assert_shown("22", finished, "…password authentication failed…")


def test_edited_file_is_23(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    pod(migrations=folder(FILES))

    finished = pod(migrations=folder({"001_orders.sql": ORDERS.replace("amount", "total")}))

    assert_shown("23", finished, "001_orders.sql was edited after it was applied; …")


def test_image_below_the_floor_is_23(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    contract = {"003_drop_amount.sql": "-- minimum-version: 2\nALTER TABLE orders DROP COLUMN amount;\n"}
    assert pod(migrations=folder({**FILES, **contract})).code == 0
    for name in ("002_customers.sql", "003_drop_amount.sql"):
        (folder.path / name).unlink()

    finished = pod(migrations=folder.path)

    assert_shown("23 below the floor", finished, "003_drop_amount.sql was applied and says minimum-version: 2; …")


async def test_table_of_another_tool_is_23(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    await database.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")

    finished = await asyncio.to_thread(pod, migrations=folder(FILES))

    assert_shown("23 another tool", finished, "…it has a column dirty, as golang-migrate's has; it was left alone…")


def test_statement_that_postgres_refuses_is_24(pod: Pod, folder: Folder, assert_shown: Assertion) -> None:
    finished = pod(migrations=folder({**FILES, "003_paid.sql": f"{ALTER}\nUPDATE orders SET amount = amonut * 100;\n"}))

    assert_shown("24", finished, '003_paid.sql:3: column "amonut" does not exist')
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_orders.sql", "002_customers.sql"]


async def test_interrupted_call_is_25_until_a_person_has_decided(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    await database.execute("CREATE TABLE batches (n int)")
    files = folder({"003_fill.sql": without_transaction(BATCHES, "CALL fill_paid_at()")})
    interrupted = pod.start(migrations=files)
    await eventually(lambda: database.fetch("SELECT FROM batches"), "the first batch is committed")
    await wait_for_query(database, "CALL %")
    docker("stop", interrupted)

    finished = await asyncio.to_thread(pod, migrations=files)
    resolved = await asyncio.to_thread(pod, "resolve", "3", "--done", migrations=files)
    again = await asyncio.to_thread(pod, migrations=files)

    assert_shown("25", finished, "003_fill.sql:…: this was stopped while it ran outside a transaction…")
    assert_shown("0 resolved", resolved, "noted: line … of version 3 took effect; the next run goes on after it")
    assert again.code == 0, again


async def test_targets_of_which_one_needs_a_person_are_26(
    pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    await database.execute("".join(f"CREATE SCHEMA tenant_{number};" for number in (1, 2, 3)))
    targets = {"targets": "tenant_1 tenant_2 tenant_3", "max_failures": "2"}
    await asyncio.to_thread(pod, migrations=folder(FILES), **targets)
    await database.execute("UPDATE tenant_2.schema_migrations SET checksum = 'of another text'")
    await database.execute("ALTER TABLE tenant_3.orders ADD COLUMN amonut numeric")
    files = folder({"003_paid.sql": "ALTER TABLE orders ADD COLUMN paid bool;\nUPDATE orders SET amount = amonut;"})

    finished = await asyncio.to_thread(pod, migrations=files, **targets)

    assert_shown("26", finished, "2 of 3 targets failed (2…")


# --- 70 and the signals -----------------------------------------------------------------------------------------


@pytest.fixture
def buggy(tmp_path: Path) -> Iterator[str]:
    """An image of ours with one line of it changed for the worse."""
    source = (ROOT / "entrypoint" / "pgslipway" / "engine" / "plan.py").read_text()
    assert source.count(BUG[0]) == 1
    context = tmp_path / "buggy"
    context.mkdir()
    (context / "plan.py").write_text(source.replace(*BUG))
    (context / "empty").touch()
    cache = "/app/pgslipway/engine/__pycache__/plan.cpython-313.pyc"  # empty, so that Python reads the source
    (context / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY plan.py /app/pgslipway/engine/\nCOPY empty {cache}\n")
    tag = f"pgslipway-test-{secrets.token_hex(6)}"
    built = build(context, tag)
    assert built.code == 0, built
    yield tag
    docker("rmi", "--force", tag)


def test_bug_is_70_and_shows_where(pod: Pod, buggy: str, folder: Folder, assert_shown: Assertion) -> None:
    pod.image = buggy

    finished = pod(migrations=folder(FILES))

    assert_shown("70", finished, "ValueError: …")
    assert "line" in finished.err


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM], ids=lambda sig: sig.name)
async def test_signal_is_128_and_its_number(
    sig: signal.Signals, pod: Pod, database: Database, folder: Folder, assert_shown: Assertion
) -> None:
    container = pod.start(migrations=folder({**FILES, "003_paid.sql": SLEEP}))
    await wait_for_query(database, "%pg_sleep(3600)%")
    docker("kill", f"--signal={sig.name}", container)

    finished = await asyncio.to_thread(pod.finish, container)

    assert_shown(str(128 + sig), finished, f"stopped by {sig.name}")


# --- all of them ------------------------------------------------------------------------------------------------


def test_page_has_no_example_that_is_not_provoked_here() -> None:
    provoked = set(Path(__file__).read_text().split('assert_shown("')[1:])
    names = {text.partition('"')[0] for text in provoked} | {"130", "143"}

    shown = {block.note.removeprefix("exit ") for block in blocks(PAGE) if block.note.startswith("exit ")}

    assert shown <= names
    assert {int(name.split()[0]) for name in shown} == set(CONTRACT)
