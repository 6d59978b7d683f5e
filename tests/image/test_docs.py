"""What README.md and docs/ show is run, applied, built, or compared with the repository; nothing slips through.

A page is a scenario. It gets a scratch folder, a database `shop` that belongs to `app` on 127.0.0.1, and its blocks are
taken in order:

- console: the commands are run, and what they print is compared with what the page shows, if it shows anything. Below
  `<!-- in a clone -->` they are run in a clean clone of this repository, which each such block gets anew; below
  `<!-- in a clone, without an engine -->` no Docker engine answers there.
- sql: a block whose first line is the name of a migration, `-- 003_paid_at.sql`, is written into migrations/ and
  applied by pgslipway; other blocks are run as `app`, or as `postgres` below `<!-- as postgres -->`. Below
  `<!-- refused: 24 -->` a migration has to be refused with that code.
- dockerfile: is built, where its files are there.
- yaml: is parsed. A block whose first line is `# compose.yaml` is that file.
- Any block below `<!-- from PATH -->` is an excerpt of that file.
- text, json, jsonl: below `<!-- exit … -->`, test_exit_codes.py compares them with the real thing.
- Any block below `<!-- moving: … -->`: test_moving_page.py is about it, as about the settings of docs/moving.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from containers import IMAGE, ROOT, Ended, call, clone, docker
from contract import CONTRACT
from moving_page import APPLIED, PROJECTS
from pages import PAGES, Block, blocks, matches
from servers import PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Slipway
    from servers import Database, Server

TAG = "my-app-migrations:1"
MIGRATION = re.compile(r"-- ([0-9]+_\w+\.sql)\n")
ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric);\n"
CUSTOMERS = "CREATE TABLE customers (name text PRIMARY KEY);\n"
WEBSHOP = ROOT / "examples" / "webshop"
SHOP = {"001_orders.sql": ORDERS, "002_customers.sql": CUSTOMERS}
GIVEN = {
    "README.md": {name: (WEBSHOP / name).read_text() for name in ("001_tables.sql", "002_take_from_stock.sql")},
    "docs/compose.md": {},
    "docs/moving.md": {},
    "docs/writing-migrations.md": {},
}
"""The migrations that a page takes for granted; SHOP where it is not here."""
MOVING = {"docs/moving.md": ("goose", "db/migrations")}
"""The pages on which another tool was at work before: which one, and its folder."""
PROVED = {
    "docs/security.md": [
        "SELECT bool_and(tableowner = 'shop_owner') FROM pg_tables WHERE schemaname IN ('public', 'slipway')",
        "SELECT has_table_privilege('shop_app', 'orders', 'INSERT')",
        "SELECT has_table_privilege('shop_app', 'orders', 'DELETE')",
        "SELECT NOT has_schema_privilege('shop_app', 'slipway', 'USAGE, CREATE')",
        "SELECT NOT has_schema_privilege('shop_app', 'public', 'CREATE')",
        "SELECT NOT has_table_privilege('shop_waiter', 'orders', 'SELECT, INSERT, UPDATE, DELETE')",
        "SELECT NOT has_table_privilege('shop_waiter', 'slipway.schema_migrations', 'INSERT, UPDATE, DELETE')",
    ],
    "docs/writing-migrations.md": [
        "SELECT count(*) = 0 FROM orders WHERE token IS NULL OR amount <> amount_old",
        "SELECT obj_description('orders'::regclass) = 'questions: it''s the shop''s team'",
    ],
    "docs/operating.md": ["SELECT count(*) = 2 FROM schema_migrations"],
}
"""Queries by page that have to be true in the end."""
FAILING = {
    "001_a.sql": "CREATE TABLE failing.orders (total int);",
    "003_orders.sql": "-- totals\n\nUPDATE failing.orders SET total = totl + 1;\n",
}
"""What the pod has run that `kubectl get pod` tells of."""
DOCKERFILE = "FROM pgslipway:1\nCOPY migrations/ /migrations/\n"
CLUSTER = "it needs a cluster"
NO_KUBECTL = "kubectl is not installed"
CI = "test_ci_examples.py is about that page"
NOT_RUN = (
    ("", r"kubectl get (pods,endpointslices|jobs|secret) ", CLUSTER),
    ("", r"kubectl (delete|describe|logs|rollout|wait) ", CLUSTER),
    ("", r"helm ", "it needs a cluster; the chart has tests of its own"),
    ("", r"pip-compile ", "it asks the package index, whose answers change"),
    ("docs/benchmarks.md", r"make bench", "it takes most of an hour; test_bench.py has its parts"),
    ("docs/operating.md", r"docker compose logs ", "docs/compose.md runs it, where there is a project"),
    ("docs/operating.md", r"docker compose run ", "test_exit_codes.py runs it, where a statement is in flight"),
    ("docs/ci.md", "", CI),
)
"""Commands by page and pattern that are not run here, and why; pytest -ra lists each of them."""
UNCHECKED = {
    ("README.md", "003_orders.sql:3: column"): "a picture of a failure; docs/operating.md has a real one",
    ("README.md", "001_a.sql: canceling"): "a picture of a log line; docs/operating.md has a real one",
    ("README.md", "from pgslipway import"): "test_api.py",
    ("docs/targets.md", "from pgslipway import"): "test_targets.py",
}
"""Blocks by page and beginning that nothing can be compared with, and why."""
COMPOSE_NOISE = re.compile(
    r"\x1b\[[0-9;]*[A-Z]"
    r'|^(Attaching to|(Re)?[Cc]reating|Starting|.* is up-to-date| ?(Container|Image|Network|Volume)|time=").*\n',
    re.MULTILINE,
)
"""What Compose says about its containers, each version of it in its own way."""
DOCKER = """\
#!/bin/bash
# Docker, where the machine's network is that of the page's database, and images have names of the test's own.
if [ "$1" = compose ] && [ "$PGSLIPWAY_COMPOSE" != "docker compose" ]; then exec $PGSLIPWAY_COMPOSE "${@:2}"; fi
arguments=()
for argument; do
    case $argument in
        --network=host) argument=--network=container:$PAGE_SERVER ;;
        my-app-migrations | my-app-migrations:1) argument=$PAGE_TAG ;;
    esac
    arguments+=("$argument")
done
exec "$REAL_DOCKER" "${arguments[@]}"
"""
KUBECTL = """\
#!/bin/bash
# kubectl, which renders by the kustomize of the tests where they have one: Debian 12's kubectl is too old for k8s/.
if [[ $1 == kustomize && $KUSTOMIZE ]]; then exec "$KUSTOMIZE" build "${@:2}"; fi
exec "$REAL_KUBECTL" "$@"
"""
CLIENTS = ("pg_dump", "pg_restore", "psql")
CLIENT = """\
#!/bin/bash
# One of Postgres's clients, of the server's own version, and from where the page's database is 127.0.0.1.
exec "$REAL_DOCKER" exec --interactive --env PGPASSWORD "$PAGE_SERVER" "${0##*/}" "$@"
"""

# --- commands ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block, what the page says that it prints, and why it is not run if it is not."""

    page: str
    line: int
    text: str
    output: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str:
        if self.text.startswith("kubectl ") and not self.text.startswith("kubectl run") and not shutil.which("kubectl"):
            return NO_KUBECTL
        found = (why for page, start, why in NOT_RUN if page in {"", self.page} and re.match(start, self.text))
        return next(found, "")

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.text.split())}"


def is_complete(command: str) -> bool:
    """Whether no line of a command is still to come."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    made: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), block.line + 1))
    for number, line in lines:
        if not line.startswith("$ "):
            assert made, f"{block.place} does not start with a command"
            last = made.pop()
            made.append(Command(last.page, last.line, last.text, f"{last.output}{line}\n"))
            continue
        text = line.removeprefix("$ ")
        while not is_complete(text):
            text += "\n" + next(lines)[1]
        made.append(Command(block.page, number, text, ""))
    return made


COMMANDS = [
    command for page in PAGES for block in blocks(page) if block.language == "console" for command in commands(block)
]


# --- a place where a page can be tried --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """A scratch folder and a database, and what is run there."""

    folder: Path
    shop: Database
    environ: dict[str, str]

    def clone(self, note: str) -> Site:
        """A clean clone of this repository, as the note above a block wants it."""
        folder = clone(self.folder.parent / f"clone-{secrets.token_hex(6)}")
        if not note.endswith("without an engine"):
            return replace(self, folder=folder)
        programs = folder / ".venv" / "bin"  # installing it anew would ask the package index
        programs.mkdir(parents=True)
        (programs / "pgslipway").symlink_to(Path(sys.executable).parent / "pgslipway")
        (programs.parent / "ready").touch()
        return replace(self, folder=folder, environ=self.environ | {"DOCKER_HOST": f"unix://{folder}/no-engine"})

    def shell(self, command: str) -> Ended:
        """Run a command as a reader does."""
        done = subprocess.run(
            ["bash", "-c", command], check=False, cwd=self.folder, env=self.environ,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def build(self) -> None:
        """Build the page's image."""
        built = self.shell(f"docker build --force-rm --tag {TAG} .")
        assert built.code == 0, built

    def kubectl(self, command: str) -> Ended:
        """What a cluster would answer: about a pod that ended as the image really ends, or by running the image."""
        words = shlex.split(command)
        if words[1] == "get":
            return self._get(next(word for word in words if word.startswith("jsonpath=")))
        if words[1] == "run":
            return self._run(json.loads(next(word for word in words if word.startswith("--overrides="))[12:]))
        if words[1:3] == ["apply", "-k"]:
            return self._apply(words[3])
        return self.shell(command)

    def _get(self, path: str) -> Ended:
        """Have the real kubectl read the path from a pod whose container failed."""
        message = self.folder / "termination-log"
        message.touch()
        message.chmod(0o666)
        (self.folder / "failing").mkdir(exist_ok=True)
        for name, text in FAILING.items():
            (self.folder / "failing" / name).write_text(text)
        mounts = f"-v {message}:/dev/termination-log -v {self.folder}/failing:/migrations:ro"
        variables = "-e PGHOST=127.0.0.1 -e PGUSER=app -e PGPASSWORD -e PGDATABASE=shop -e MIGRATE_SCHEMA=failing"
        asyncio.run(self.shop.execute("DROP SCHEMA IF EXISTS failing CASCADE"))
        ended = self.shell(f"docker run --rm --network=host {mounts} {variables} {IMAGE}")
        terminated = {"terminated": {"exitCode": ended.code, "message": message.read_text()}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
        status = {"name": "migrate", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 1}
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "my-app"},
            "spec": {"containers": [{"name": "migrate", "image": IMAGE}]},
            "status": {
                "initContainerStatuses": [status | {"lastState": terminated, "state": waiting}],
                "containerStatuses": [status | {"state": terminated}],
            },
        }  # fmt: skip
        (self.folder / "pod.json").write_text(json.dumps(pod))
        one = path.replace("{.items[*].", "{.")  # a list of one
        return self.shell(f"kubectl label --local -f pod.json a=b -o {shlex.quote(one)}")

    def _apply(self, path: str) -> Ended:
        """Whether what kubectl would send to the cluster is valid."""
        ended = self.shell(f"kubectl kustomize {path}")
        for manifest in yaml.safe_load_all(ended.out):
            kubernetes_validate.validate(manifest, "1.33", strict=True)
        return ended

    def _run(self, overrides: dict[str, Any]) -> Ended:
        """Have Docker run what the pod's container would, once the pod is known to be valid."""
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "migrate-by-hand"}} | overrides
        kubernetes_validate.validate(pod, "1.33", strict=True)
        [container] = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "my-app-database"}}]
        secret = "-e PGHOST=127.0.0.1 -e PGUSER=app -e PGPASSWORD -e PGDATABASE=shop"
        return self.shell(
            f"docker run --rm --network=host {secret} {container['image']} {shlex.join(container['args'])}"
        )

    def remove(self) -> None:
        for file in self.folder.parent.glob("*/compose.yaml"):
            project = replace(self, folder=file.parent)
            project.shell("docker compose --profile '*' down --volumes --rmi local || docker compose down --volumes")
        call("docker", "rmi", "--force", self.environ["PAGE_TAG"])


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Database]:
    """The database of the pages, whose owner is `app`."""
    postgres = server.database()
    roles = "SELECT rolname FROM pg_roles"
    before = await postgres.fetch(roles)
    await postgres.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
    await postgres.execute("CREATE DATABASE shop OWNER app TEMPLATE template0")
    try:
        yield server.database("shop").login("app")
    finally:
        await postgres.execute("DROP DATABASE shop WITH (FORCE)")
        for role in {row[0] for row in await postgres.fetch(roles)} - {row[0] for row in before}:
            await postgres.execute(f"DROP ROLE {role}")


@pytest.fixture
def site(shop: Database, tmp_path: Path) -> Iterator[Site]:
    """Where the commands of a page are run."""
    programs = tmp_path / "programs"
    folder = tmp_path / "page"
    programs.mkdir()
    (folder / "migrations").mkdir(parents=True)
    for program, script in {"docker": DOCKER, "kubectl": KUBECTL, **dict.fromkeys(CLIENTS, CLIENT)}.items():
        (programs / program).write_text(script)
        (programs / program).chmod(0o755)
    (folder / "k8s").symlink_to(ROOT / "k8s")
    name = f"pgslipway-test-{secrets.token_hex(6)}"
    tools = call("tests/setup/kube-tools.sh")
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGPASSWORD": PASSWORD,
        "REAL_DOCKER": shutil.which("docker") or "",
        "REAL_KUBECTL": shutil.which("kubectl") or "",
        "KUSTOMIZE": f"{tools.out.strip()}/kustomize" if tools.code == 0 else "",
        "PAGE_SERVER": docker("ps", "--quiet", "--filter", f"publish={shop.port}"),
        "PAGE_TAG": f"{name}:1",
        "PGSLIPWAY_COMPOSE": os.environ.get("PGSLIPWAY_COMPOSE") or call("tests/setup/compose.sh").out.strip(),
        "COMPOSE_PROJECT_NAME": name,
        "MAY_INSTALL": "",
    }
    made = Site(folder, shop, os.environ | own)
    yield made
    made.remove()


# --- a page is true ---------------------------------------------------------------------------------------------


class Reader:
    """Goes through a page and does what it says."""

    def __init__(self, site: Site, slipway: Slipway) -> None:
        self._site = site
        self._slipway = slipway
        self._code = 0
        """What the last command ended with; `echo $?` shows it."""
        self._variables: dict[str, str] = {}
        """The values for the variables of migrations that the page has given."""

    async def read(self, block: Block) -> None:
        if block.note.startswith("from "):
            assert_excerpt(block)
        elif block.language == "console":
            site = self._site.clone(block.note) if block.note.startswith("in a clone") else self._site
            for command in commands(block):
                await asyncio.to_thread(self._command, command, site)
        elif block.language == "sql":
            await self._sql(block)
        elif block.language == "dockerfile":
            self._write("Dockerfile", block.text)
            source = re.search(r"^COPY (\S+) /migrations/$", block.text, re.MULTILINE)
            if source and any((self._site.folder / source[1]).glob("*")):  # else the page's next blocks build it
                await asyncio.to_thread(self._site.build)
        elif block.language == "yaml":
            self._yaml(block)

    def _command(self, command: Command, site: Site) -> None:
        if command.reason:
            return
        if command.text.startswith("kubectl "):
            ended = site.kubectl(command.text)
        else:
            ended = site.shell(f"(exit {self._code}); {command.text}")
        assert not self._code or command.text == "echo $?", f"{command.place} comes after a failure"
        self._code = ended.code
        out, err = (COMPOSE_NOISE.sub("", stream) for stream in (ended.out, ended.err))
        orders = (out + err, err + out)  # a terminal may show either
        assert not command.output or any(matches(command.output, seen) for seen in orders), f"{command}\n{ended}"

    def finish(self) -> None:
        assert self._code == 0, "the last command failed"

    async def _sql(self, block: Block) -> None:
        name = MIGRATION.match(block.text)
        if not name:
            as_role = self._site.shop.server.database("shop") if block.note == "as postgres" else self._site.shop
            await self._execute(as_role, block)
            return
        self._write(f"migrations/{name[1]}", block.text)
        finished = await asyncio.to_thread(
            self._slipway, env=self._site.shop.environ | self._variables, migrations=self._site.folder / "migrations"
        )
        refused = re.fullmatch(r"refused: ([0-9]+)", block.note)
        assert finished.code == (int(refused[1]) if refused else 0), f"{block.place}\n{finished}"
        if refused:
            (self._site.folder / "migrations" / name[1]).unlink()

    async def _execute(self, database: Database, block: Block) -> None:
        """Run SQL where 4711 is the pid of a session of the same role."""
        async with self._site.shop.connection() as victim:
            await database.execute(block.text.replace("4711", str(victim.get_server_pid())))

    def _yaml(self, block: Block) -> None:
        documents = list(yaml.safe_load_all(block.text))
        assert all(documents), f"{block.place} is empty"
        given = [
            one for it in documents if isinstance(it, dict) for one in it.get("env") or [] if isinstance(one, dict)
        ]
        self._variables |= {one["name"]: one["value"] for one in given if one["name"].startswith("MIGRATE_VAR_")}
        if name := re.match(r"# (compose\.yaml)\n", block.text):
            self._write(name[1], block.text.replace(TAG, self._site.environ["PAGE_TAG"]))

    def _write(self, name: str, text: str) -> None:
        (self._site.folder / name).write_text(text)


def assert_excerpt(block: Block) -> None:
    """The block's lines are in the file one after the other, indented alike; `…` leaves lines out."""
    lines = (ROOT / block.note.removeprefix("from ")).read_text().splitlines()
    for text in block.text.split("…\n"):
        wanted = textwrap.dedent(text).rstrip().splitlines()
        spans = (lines[start : start + len(wanted)] for start in range(len(lines)))
        shown = next((True for span in spans if textwrap.dedent("\n".join(span)) == "\n".join(wanted)), False)
        assert shown, f"{block.place} is not in the file:\n{text}"


async def move_into(site: Site, tool: str, folder: str) -> None:
    """Have the folder and the database as a tool has left them."""
    for name, text in PROJECTS[tool].files.items():
        file = site.folder / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    await site.shop.execute(APPLIED)
    await site.shop.execute(PROJECTS[tool].history)


@pytest.mark.docker_only
@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("page", PAGES)
async def test_page_is_true(page: str, site: Site, slipway: Slipway) -> None:
    if page == "docs/ci.md":
        pytest.skip(CI)
    reader = Reader(site, slipway)
    given = GIVEN.get(page, SHOP)
    for name, text in given.items():
        (site.folder / "migrations" / name).write_text(text)
    (site.folder / "Dockerfile").write_text(DOCKERFILE)
    if given:
        site.build()
    if page in MOVING:
        await move_into(site, *MOVING[page])
    for block in blocks(page):
        if not block.note.startswith("moving: "):
            await reader.read(block)
    reader.finish()
    for query in PROVED.get(page, []):
        assert (await site.shop.server.database("shop").fetch(query))[0][0], query


@pytest.mark.parametrize("command", [it for it in COMMANDS if it.reason not in {"", CI}], ids=str)
def test_command_is_run(command: Command) -> None:
    """Lists what is not."""
    if command.reason == NO_KUBECTL and os.environ.get("CI") == "true":
        pytest.fail(NO_KUBECTL, pytrace=False)
    pytest.skip(f"not run: {command}: {command.reason}")


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"docs/ci.md"}))
def test_every_block_is_looked_at(page: str) -> None:
    run = {"console", "sql", "dockerfile", "yaml"}
    slipping = [
        block.place
        for block in blocks(page)
        if block.language not in run
        and not block.note.startswith(("exit ", "from ", "moving: ", "rehearsed"))
        and not any(where == page and block.text.startswith(start) for where, start in UNCHECKED)
    ]
    assert slipping == []


# --- what writing-migrations.md says about locks ------------------------------------------------------------------

TABLE = "CREATE TABLE t (n integer, word varchar(20), price numeric(8, 2)); INSERT INTO t SELECT 1, 'a', 1"


@pytest.mark.parametrize(
    ("change", "rewrites"),
    [
        ("ADD COLUMN a text NOT NULL DEFAULT ''", False),
        ("ADD COLUMN a timestamptz DEFAULT now()", False),
        ("ADD COLUMN a timestamptz DEFAULT clock_timestamp()", True),
        ("ADD COLUMN a uuid DEFAULT gen_random_uuid()", True),
        ("ALTER COLUMN word TYPE varchar(40)", False),
        ("ALTER COLUMN word TYPE text", False),
        ("ALTER COLUMN price TYPE numeric(10, 2)", False),
        ("ALTER COLUMN n TYPE bigint", True),
    ],
)
async def test_table_is_rewritten_where_the_page_says_so(change: str, rewrites: bool, database: Database) -> None:
    await database.execute(TABLE)
    before = await database.fetch("SELECT pg_relation_filenode('t')")

    await database.execute(f"ALTER TABLE t {change}")

    assert (await database.fetch("SELECT pg_relation_filenode('t')") != before) == rewrites


async def test_validating_lets_others_write(database: Database) -> None:
    await database.execute(f"{TABLE}; ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID")
    async with database.connection() as connection, connection.transaction():
        await connection.execute("ALTER TABLE t VALIDATE CONSTRAINT c")

        await database.execute("SET lock_timeout = '5s'; INSERT INTO t (n) VALUES (2)")


async def test_not_null_is_not_looked_for_where_a_check_says_it_already(database: Database) -> None:
    await database.execute(f"{TABLE}; ALTER TABLE t ADD CONSTRAINT c CHECK (n IS NOT NULL)")
    said: list[str] = []
    async with database.connection() as connection:
        connection.add_log_listener(lambda _, message: said.append(message.message))
        await connection.execute("SET client_min_messages = debug1; ALTER TABLE t ALTER COLUMN n SET NOT NULL")

    assert [text for text in said if "sufficient to prove that it does not contain nulls" in text]


# --- words ------------------------------------------------------------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """What a page's headings can be linked by, as Git hosts make it of them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        path = (PAGES[page].parent / target).resolve() if target else PAGES[page]
        if "://" not in link and not (path.exists() and (not anchor or anchor in anchors(path))):
            broken.append(link)
    assert broken == []


def test_operating_has_a_section_for_each_exit_code() -> None:
    text = PAGES["docs/operating.md"].read_text()
    rows = re.findall(r"^\| \[([0-9, ]+)\]\(#.*?\) \| (.+?) \| .+ \|$", text, re.MULTILINE)
    sections = re.findall(r"^## ([0-9, ]+) (.+)\n\n\*\*", text, re.MULTILINE)

    listed, described = (
        {int(code): name for codes, name in found for code in codes.split(",")} for found in (rows, sections)
    )

    assert listed == described == CONTRACT


def test_lines_of_the_pages_are_not_longer_than_120_characters() -> None:
    long = []
    for page in PAGES.keys() - {"README.md"}:
        text = re.sub(r"^```.*?^```", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
        long += [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert long == []
