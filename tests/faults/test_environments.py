"""Every state that an environment can be in beside each tool: nothing is applied twice, nothing left out."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from moving import FILES, OURS, TOOLS, Tool, named
from sampling import one_in_ci

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Process, Slipway
    from servers import Database

pytestmark = pytest.mark.faults

EVERY_TOOL = pytest.mark.parametrize("tool", one_in_ci(TOOLS), ids=str)
ALL = [*range(1, FILES + 1)]
UP_TO_DATE, REFUSED = 0, 23


@dataclass(frozen=True, slots=True)
class Environment:
    """A database, the tool that was at work in it, and pgslipway with a folder of that tool's."""

    database: Database
    tool: Tool
    slipway: Slipway
    folder: Path

    def run(self, *command: str, adopt: str | None = "") -> Finished:
        """Run a command; with `adopt` None it is not asked to adopt, without one from the tool."""
        return self.start(*command, adopt=adopt).finish()

    def start(self, *command: str, adopt: str | None = "") -> Process:
        settings = {} if adopt is None else {"MIGRATE_ADOPT": adopt or self.tool.name}
        env = self.database.environ | {"MIGRATE_TABLE": OURS} | settings
        return self.slipway.start(*command, env=env, migrations=self.folder)

    def codes(self, *commands: str, adopt: str | None = "") -> list[int]:
        return [self.run(command, adopt=adopt).code for command in commands]

    def assert_waits(self, *commands: str, adopt: str | None = "") -> None:
        """`plan` and `status` find nothing wrong, and `wait` goes on waiting."""
        assert set(self.codes(*commands or ("plan", "status"), adopt=adopt)) == {UP_TO_DATE}
        waiting = self.start("wait", adopt=adopt)
        waiting.wait_for_log("waiting for the schema: ")
        waiting.terminate()
        assert waiting.finish().code == 128 + signal.SIGTERM

    def thrice(self, adopt: str | None = "") -> list[str]:
        """Run `up` three times, and then ask; the messages."""
        runs = [self.run("up", adopt=adopt) for _ in range(3)]
        assert [one.code for one in runs] == [0, 0, 0], runs[0]
        assert self.codes("plan", "status", "wait", adopt=adopt) == [0, 0, 0]
        return [one.err.splitlines()[-1].partition("up to date: ")[2] for one in runs]

    async def orders(self) -> list[int]:
        """Which files have had their effect, each as often as it had."""
        return [row["id"] for row in await self.database.fetch("SELECT id FROM orders ORDER BY id")]

    async def history(self, table: str = OURS) -> list[str]:
        rows = await self.database.fetch(f"SELECT filename FROM public.{table} ORDER BY version")
        return [row["filename"] for row in rows]

    async def assert_nothing_written(self) -> None:
        assert not await self.database.fetch("SELECT FROM pg_class WHERE relname = $1", OURS)

    def names(self, last: int, first: int = 1) -> list[str]:
        return [self.tool.filename(number) for number in range(first, last + 1)]

    def end(self, done: str, last: int = FILES) -> list[str]:
        """What three runs say, of which the first has something to do."""
        newest = f"the newest of {last} migrations is {self.tool.filename(last)}"
        return [f"{done}; {newest}", *[f"nothing to do; {newest}"] * 2]


@pytest.fixture
def environment(tool: Tool, database: Database, slipway: Slipway, tmp_path: Path) -> Environment:
    return Environment(database, tool, slipway, tool.write(tmp_path / "folder"))


def fewer(environment: Environment, last: int) -> Environment:
    """The same with an older image."""
    tool, path = environment.tool, environment.folder
    return Environment(environment.database, tool, environment.slipway, tool.write(path.with_name(str(last)), last))


@EVERY_TOOL
async def test_nothing_there(environment: Environment) -> None:
    environment.assert_waits()
    assert environment.thrice() == environment.end("applied 4 migrations")
    assert await environment.orders() == ALL
    assert await environment.history() == environment.names(FILES)


@EVERY_TOOL
async def test_theirs_only(environment: Environment) -> None:
    await environment.tool.migrate(environment.database, FILES)

    environment.assert_waits()
    assert environment.thrice() == environment.end("adopted 4 migrations")
    assert await environment.orders() == ALL
    assert await environment.history() == environment.names(FILES)


@EVERY_TOOL
async def test_half_way(environment: Environment) -> None:
    await environment.tool.migrate(environment.database, 2)

    environment.assert_waits()
    assert environment.thrice() == environment.end("adopted 2 migrations, applied 2 migrations")
    assert await environment.orders() == ALL
    assert await environment.history() == environment.names(FILES)


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if not tool.keeps_last_only], ids=str)
async def test_ahead_of_this_image(environment: Environment) -> None:
    """And then the newer image comes: what it has more is applied already."""
    await environment.tool.migrate(environment.database, FILES)

    fewer(environment, 3).assert_waits()
    assert fewer(environment, 3).thrice() == fewer(environment, 3).end("adopted 4 migrations", 3)
    assert environment.thrice() == environment.end("nothing to do")
    assert await environment.orders() == ALL
    assert len(await environment.history()) == FILES


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.keeps_last_only], ids=str)
async def test_ahead_of_this_image_with_the_last_version_only(environment: Environment) -> None:
    await environment.tool.migrate(environment.database, FILES)
    finished = fewer(environment, 3).run("up")

    assert fewer(environment, 3).codes("up", "up", "plan", "status", "wait") == [REFUSED] * 5
    assert (
        f"{environment.tool.name}'s public.{environment.tool.table} cannot be adopted: its last version is 4, which "
        "no file of this folder has"
    ) in finished.err
    await environment.assert_nothing_written()


@pytest.mark.parametrize("tool", named("golang-migrate", "flyway", "sqlx", "prisma"), ids=str)
async def test_failed(environment: Environment) -> None:
    await environment.tool.migrate(environment.database, 2)
    await environment.database.execute(environment.tool.failed(2))

    assert environment.codes("up", "up", "up", "plan", "status", "wait") == [REFUSED] * 6
    assert environment.codes("up", "plan", "status", "wait", adopt=None) == [REFUSED] * 4
    assert await environment.orders() == [1, 2]
    await environment.assert_nothing_written()


@EVERY_TOOL
async def test_ours_only(environment: Environment) -> None:
    fewer(environment, 3).run("up", adopt=None)

    environment.assert_waits()
    assert environment.thrice() == environment.end("applied 1 migration")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_ours_empty_beside_theirs(environment: Environment) -> None:
    environment.run("up", adopt=None)
    await environment.database.execute(f"TRUNCATE public.{OURS}; TRUNCATE orders")
    await environment.tool.migrate(environment.database, 2)

    assert environment.codes("up", "up", "up", "plan", "status", "wait") == [REFUSED] * 6
    assert environment.codes("up", adopt=None) == [REFUSED]
    assert await environment.history() == []
    decided = environment.run("adopt")
    assert decided.code == 0, decided
    assert await environment.history() == environment.names(2)
    assert environment.thrice() == environment.end("applied 2 migrations")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_theirs_has_grown_since(environment: Environment) -> None:
    """It matters only where something is pending: what they have applied would be applied again."""
    older = fewer(environment, 2)
    await environment.tool.migrate(environment.database, 2)
    older.run("up")
    await environment.tool.migrate(environment.database, 3, first=3)

    assert older.thrice() == older.end("nothing to do", 2)[1:] + older.end("", 2)[1:2]
    finished = environment.run("up")
    assert environment.codes("up", "up", "plan") == [REFUSED] * 3
    assert f"{environment.tool.name} is still at work: since pgslipway took over, " in finished.err
    environment.assert_waits("status")
    assert await environment.orders() == [1, 2, 3]
    assert await environment.history() == environment.names(2)


@pytest.mark.parametrize("tool", named("golang-migrate"), ids=str)
async def test_late_file_below_their_last_version_is_no_growth(environment: Environment) -> None:
    """What a last version stands for besides is nothing that their tool has done since."""
    late = environment.folder / environment.tool.filename(2)
    late.rename(environment.folder / "late")
    await environment.tool.migrate(environment.database, FILES)
    await environment.database.execute("DELETE FROM orders WHERE id = 2")
    assert environment.run("up").code == 0
    (environment.folder / "late").rename(late)

    assert environment.thrice() == environment.end("applied 1 migration")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_ours_without_the_setting(environment: Environment) -> None:
    """Their table stays where it is."""
    await environment.tool.migrate(environment.database, 2)
    environment.run("up")

    assert environment.thrice(adopt=None) == environment.end("nothing to do")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_not_asked_for(environment: Environment) -> None:
    await environment.tool.migrate(environment.database, 2)
    finished = environment.run("up", adopt=None)

    assert environment.codes("up", "up", "plan", "status", "wait", adopt=None) == [REFUSED] * 5
    table = environment.tool.table if "." in environment.tool.table else f"public.{environment.tool.table}"
    assert (
        f"{table} says that {environment.tool.name} has applied 2 files of this folder, which would be applied again; "
        f"set MIGRATE_ADOPT={environment.tool.name} to take over from it, or MIGRATE_ADOPT=none if that table is "
        "another application's"
    ) in finished.err
    assert await environment.orders() == [1, 2]
    await environment.assert_nothing_written()


@EVERY_TOOL
async def test_not_asked_for_in_another_schema(environment: Environment) -> None:
    if environment.tool.name == "supabase":
        pytest.skip("a table of Supabase's is told by its schema")
    await environment.tool.migrate(environment.database, 2, table="ops.history_of_ours")
    await environment.database.execute(
        f"ALTER TABLE ops.history_of_ours RENAME TO {environment.tool.table.rpartition('.')[2]}"
    )
    table = f"ops.{environment.tool.table.rpartition('.')[2]}"
    finished = environment.run("up", adopt=None)

    assert environment.codes("up", "up", "plan", "status", "wait", adopt=None) == [REFUSED] * 5
    assert environment.codes("up", "plan") == [REFUSED] * 2, "it is not where the tool has it by itself"
    assert f"set MIGRATE_ADOPT={environment.tool.name}:{table} to take over from it" in finished.err
    await environment.assert_nothing_written()
    adopt = f"{environment.tool.name}:{table}"
    assert environment.thrice(adopt=adopt) == environment.end("adopted 2 migrations, applied 2 migrations")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_table_of_another_application(environment: Environment) -> None:
    """With other files, in another schema."""
    name = f"other.{environment.tool.table.rpartition('.')[2]}"
    await environment.tool.create_table(environment.database, name)
    await environment.tool.record(environment.database, [9], name)

    environment.assert_waits(adopt=None)
    assert environment.thrice(adopt=None) == environment.end("applied 4 migrations")
    assert await environment.orders() == ALL


@EVERY_TOOL
async def test_none_says_that_it_is_another_applications(environment: Environment) -> None:
    await environment.tool.create_table(environment.database)
    await environment.tool.record(environment.database, [1, 2])

    environment.assert_waits(adopt="none")
    assert environment.thrice(adopt="none") == environment.end("applied 4 migrations")
    assert await environment.orders() == ALL
