"""Many targets: the list as it is read, whose share is whose, the order of the work, and what it means in the end."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgslipway.config import Config, from_environ
from pgslipway.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    Locked,
    MigrationFailed,
    Problem,
    SlipwayError,
    TableBusy,
)
from pgslipway.targets.each import Each, adopted_in
from pgslipway.targets.names import Target, Word, shard_of, targets_of, words_in
from pgslipway.targets.progress import bar
from pgslipway.targets.rollout import Rollout
from pgslipway.targets.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = st.lists(st.text(st.characters(min_codepoint=33, blacklist_categories=["C", "Z"]), min_size=1, max_size=9))


def read(text: str, kind: str = "schema") -> list[str]:
    targets, _ = targets_of(words_in(text), kind)
    return [target.name for target in targets]


def refusal(text: str, kind: str = "schema") -> list[str]:
    with pytest.raises(BadConfiguration) as refused:
        read(text, kind)
    return str(refused.value).splitlines()


# --- the list ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["a b c", "a\nb\nc\n", "  a\tb\r\n\r\nc  ", "# all\na b # and\nc", "\ufeffa b c", "a b\na c b"],
    ids=["blanks", "lines", "white-space", "comments", "byte-order-mark", "doubles"],
)
def test_list_is_read_as_one_expects(text: str) -> None:
    assert read(text) == ["a", "b", "c"]


def test_name_is_taken_as_it_is() -> None:
    assert read("Tenant-1 über a#1 select") == ["Tenant-1", "über", "a#1", "select"]


def test_double_is_told() -> None:
    assert targets_of(words_in("a b a b a"), "schema")[1] == ["a", "b"]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    long = "é" * 32

    assert refusal(f"a,b\n'c' ok\npg_catalog information_schema\n{long} ${{TENANT}}\npostgresql://u:secret@h/db") == [
        "MIGRATE_TARGETS, line 1: 'a,b': write names as they are, without quotes, parted by blanks or line ends",
        "MIGRATE_TARGETS, line 2: \"'c'\": write names as they are, without quotes, parted by blanks or line ends",
        "MIGRATE_TARGETS, line 3: pg_catalog is a schema of Postgres itself",
        "MIGRATE_TARGETS, line 3: information_schema is a schema of Postgres itself",
        f"MIGRATE_TARGETS, line 4: expected a name of at most 63 bytes, not '{long}'",
        "MIGRATE_TARGETS, line 4: expected a name in which every variable was replaced, not '${TENANT}'",
        "MIGRATE_TARGETS, line 5: a URL, where MIGRATE_TARGET_KIND=url was not set; or write a name",
    ]


def test_most_problems_are_counted_only() -> None:
    assert refusal("pg_a " * 30)[-2:] == [
        "MIGRATE_TARGETS, line 1: pg_a is a schema of Postgres itself",
        "and 10 more",
    ]


@pytest.mark.parametrize("text", ["", " \n", "# none\n"], ids=["empty", "blank", "comment"])
def test_empty_list_is_refused(text: str) -> None:
    assert refusal(text) == ["there is no target: the list, or the result of MIGRATE_TARGETS_QUERY, is empty"]


def test_template_is_no_target() -> None:
    assert refusal("a template1", "database") == [
        "MIGRATE_TARGETS, line 1: template1 is a template; a migration of it would be in every new database"
    ]


def test_row_of_a_query_may_have_any_name() -> None:
    targets, _ = targets_of([Word("row 1", "a b"), Word("row 2", "c,d")], "schema")

    assert [target.name for target in targets] == ["a b", "c,d"]


def test_missing_name_in_a_row_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="row 1: expected a name of at most 63 bytes, not ''"):
        targets_of([Word("row 1", "")], "schema")


def test_url_has_a_name_before_it() -> None:
    targets, _ = targets_of(words_in("a=postgresql://u:p=1@h/a\nb=postgres://h/b?sslmode=require"), "url")

    assert targets == [Target("a", "postgresql://u:p=1@h/a"), Target("b", "postgres://h/b?sslmode=require")]


def test_no_url_is_shown() -> None:
    assert refusal(
        "postgresql://u:secret@h/a?x=1\nb=mysql://u:secret@h/b\na\nc=postgres://h/1 c=postgres://h/2", "url"
    ) == [
        "MIGRATE_TARGETS, line 1: expected name=postgresql://… (the value is not shown: it may hold a password)",
        "MIGRATE_TARGETS, line 2: b: expected postgresql://… behind the =",
        "MIGRATE_TARGETS, line 3: expected name=postgresql://… (the value is not shown: it may hold a password)",
        "MIGRATE_TARGETS, line 4: c was there before with another URL; give it another name",
    ]


# --- the shares of the pods -------------------------------------------------------------------------------------


def share(names: list[str], shards: int, index: object) -> list[str]:
    config = Config(shards=shards, completion_index=None if index is None else str(index))
    return [target.name for target in shard_of(map(Target, names), config)]


def test_share_is_by_sha_256() -> None:
    names = [f"tenant_{number}" for number in range(50)]

    expected = [name for name in names if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4 == 3]
    assert share(names, 4, 3) == expected != []


@given(NAMES, st.integers(1, 7))
def test_each_target_is_in_one_share(names: list[str], shards: int) -> None:
    shares = [share(names, shards, index) for index in range(shards)]

    assert sorted(name for one in shares for name in one) == sorted(names)
    assert all(set(one).isdisjoint(other) for one in shares for other in shares if one is not other)


@given(NAMES, NAMES, st.integers(1, 7))
def test_share_does_not_depend_on_the_rest_of_the_list(names: list[str], more: list[str], shards: int) -> None:
    for index in range(shards):
        assert share([*more, *names], shards, index) == share(more, shards, index) + share(names, shards, index)


@pytest.mark.parametrize("index", [None, "", "4", "-1", "x"])
def test_share_needs_the_index_of_the_pod(index: object) -> None:
    with pytest.raises(BadConfiguration, match="MIGRATE_SHARDS=4 needs JOB_COMPLETION_INDEX, a number below it"):
        share(["a"], 4, index)


# --- the order --------------------------------------------------------------------------------------------------


class Work:
    """Work that is noted, and fails as it was told."""

    def __init__(self, failures: Mapping[str, list[Exception]] | None = None) -> None:
        self.failures = {name: [*errors] for name, errors in (failures or {}).items()}
        self.begun: list[str] = []
        self.waited: list[str] = []
        self.at_once = self.most = 0

    async def __call__(self, target: Target, waits: bool) -> bool:
        self.begun.append(target.name)
        self.waited += [target.name] if waits else []
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if failures := self.failures.get(target.name):
            raise failures.pop(0)
        return True


async def roll_out(names: str, work: Work, **settings: Any) -> Tally:
    tally = Tally({})
    tally.begin(len(names))
    await Rollout(Config(**settings), map(Target, names), work, tally).run()
    return tally


async def test_canaries_go_one_after_the_other_and_the_rest_several_at_a_time() -> None:
    canaries, all_of_them = Work(), Work()

    await roll_out("ab", canaries, canaries=2)
    tally = await roll_out("abcdefgh", all_of_them, canaries=2, parallel=3)

    assert (canaries.most, all_of_them.most) == (1, 3)
    assert all_of_them.begun == [*"abcdefgh"]
    assert tally.migrated == 8


async def test_failed_canary_stops_all() -> None:
    work = Work({"a": [MigrationFailed("no")]})

    tally = await roll_out("abcd", work)

    assert work.begun == ["a"]
    assert (len(tally.failures), tally.report["not_begun"]) == (1, 3)


async def test_those_at_work_end_in_peace() -> None:
    work = Work({"b": [MigrationFailed("no")]})

    tally = await roll_out("abcdefgh", work, parallel=3)

    assert work.begun == [*"abcd"]
    assert (tally.migrated, tally.report["failures"], tally.report["not_begun"]) == (3, ["b"], 4)


@pytest.mark.parametrize(("limit", "begun"), [(1, "abc"), (2, "abcd"), (9, "abcde")])
async def test_so_many_failures_are_allowed(limit: int, begun: str) -> None:
    work = Work({name: [MigrationFailed("no")] for name in "bcd"})

    await roll_out("abcde", work, parallel=1, max_failures=limit)

    assert work.begun == [*begun]


async def test_target_at_which_another_run_works_comes_last() -> None:
    work = Work({"b": [Locked("by another")]})

    tally = await roll_out("abcd", work, parallel=1)

    assert (work.begun, work.waited) == ([*"abcdb"], [*"ab"])
    assert (tally.migrated, tally.failures) == (4, [])


async def test_locked_canary_is_waited_for() -> None:
    work = Work({"a": [Locked("by another")]})

    tally = await roll_out("ab", work)

    assert (work.waited, tally.report["failures"]) == (["a"], ["a"])


async def test_bug_leaves_the_others_in_peace() -> None:
    work = Work({"b": [ZeroDivisionError("a bug")]})

    tally = await roll_out("abcde", work, parallel=3)

    assert tally.migrated == 3
    with pytest.raises(ZeroDivisionError):
        tally.result()


# --- the end ----------------------------------------------------------------------------------------------------


def failed(*errors: Exception) -> Tally:
    tally = Tally({})
    tally.begin(len(errors) + 2)
    tally.succeed(changed=True)
    tally.applied = 3
    for number, error in enumerate(errors):
        tally.fail(f"t{number}", error)
    return tally


def verdict(*errors: Exception) -> SlipwayError:
    with pytest.raises(SlipwayError) as raised:
        failed(*errors).result()
    return raised.value


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([MigrationFailed("a"), MigrationFailed("b")], 24),
        ([DatabaseUnavailable("a"), DatabaseUnavailable("b")], 10),
        ([DatabaseUnavailable("a"), Locked("b"), TableBusy("c")], 15),
        ([DatabaseUnavailable("a"), MigrationFailed("b")], 26),
        ([MigrationFailed("a"), BadConfiguration("b")], 26),
        ([DatabaseUnavailable("a"), ValueError("a bug")], 26),
    ],
)  # fmt: skip
def test_code_is_that_of_all_or_says_whether_all_can_heal(errors: list[Exception], code: int) -> None:
    assert verdict(*errors).exit_code == code


def test_message_names_the_failures() -> None:
    failure = verdict(MigrationFailed(Problem("no such table", "2_b.sql", 3)), Locked("held"), Locked("held"))

    assert str(failure) == (
        "3 of 5 targets failed (24 migration failed: t0; 11 locked: t1, t2); 1 migrated (3 files), 1 not begun\n"
        "t0: 2_b.sql:3: no such table\n"
        "t1: held"
    )


def test_outcome_has_as_many_names_as_fit() -> None:
    tally = failed(*[MigrationFailed("no")] * 1000)

    assert tally.report["failures"][:2] == ["t0", "t1"]
    assert sum(map(len, tally.report["failures"])) < 1024
    assert tally.report["failed"] == 1000


def test_target_at_work_counts_as_stopped_where_nobody_waits_for_it() -> None:
    tally = Tally({})
    tally.begin(3)
    tally.start()

    assert (tally.report["stopped"], tally.report["not_begun"]) == (1, 2)
    tally.leave()
    tally.succeed()
    assert (tally.report["stopped"], tally.report["not_begun"]) == (0, 2)


def test_bar_shows_count_rate_and_failures() -> None:
    tally = failed(MigrationFailed("no"))

    assert bar(tally, 0.5) == "[################........] 2 of 3 targets, 0.5/s, 1 failed, 0:02 left"


# --- the settings of one target ---------------------------------------------------------------------------------


def each(**settings: str) -> Each:
    environ = {f"MIGRATE_{name.upper()}": value for name, value in settings.items()}
    return Each(from_environ({"MIGRATE_TARGETS": "a", "DATABASE_URL": "postgresql://u:p@h:1/db", **environ}, {}))


def test_schema_of_a_target_is_searched_alone() -> None:
    config = each().of(Target('a "b'))

    assert (config.schema, config.search_path) == ('a "b', '"a ""b"')


def test_path_is_searched_behind_it() -> None:
    assert each(target_path="public, Shared").of(Target("a")).search_path == '"a", "public", "Shared"'


def test_database_of_a_target_is_on_the_same_server() -> None:
    location = each(target_kind="database").of(Target("shop")).location

    assert location
    assert (location.name, location.libpq["PGPASSWORD"]) == ("h:1/shop", "p")
    location.read_again()
    assert location.database == "shop"


def test_url_of_a_target_is_its_own() -> None:
    location = each(target_kind="url").of(Target("x", "postgresql://v@other:2/shop")).location

    assert location
    assert (location.name, location.user, "PGPASSWORD" in location.libpq) == ("other:2/shop", "v", False)


@pytest.mark.parametrize(
    ("adopt", "expected"),
    [
        (None, None), ("none", "none"), ("goose", "goose"), ("goose:versions", 'goose:"a".versions'),
        ("baseline:42@orders", 'baseline:42@"a".orders'),
    ],
)  # fmt: skip
def test_relation_of_another_tool_is_in_the_schema_of_the_target(adopt: str | None, expected: str | None) -> None:
    assert adopted_in("a", adopt) == expected


MISFITS = {
    "MIGRATE_TARGETS and MIGRATE_TARGETS_QUERY are both set; keep one of them": {"targets_query": "SELECT 1"},
    "MIGRATE_TARGET_PATH goes with MIGRATE_TARGET_KIND=schema, not with url": {
        "target_kind": "url",
        "target_path": "public",
    },
    "MIGRATE_SCHEMA=ops: each target's history is in its own schema; remove it": {"schema": "ops"},
    "MIGRATE_ADOPT=goose:a.b: the relation is looked for in each target's schema; write its name alone": {
        "adopt": "goose:a.b"
    },
    "MIGRATE_ADOPT=drizzle: its table is in the schema drizzle, which is no target; where each target has one, name "
    "it: drizzle:__drizzle_migrations": {"adopt": "drizzle"},
    "MIGRATE_TARGET_PATH: expected names of schemas, as they are, not 'public'": {"target_path": "'public'"},
}


@pytest.mark.parametrize(("message", "settings"), MISFITS.items())
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        each(**settings)

    assert str(refused.value) == message
