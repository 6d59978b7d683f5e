"""The versions of other tools: for thousands of made sets, order and uniqueness are the tool's own, "
"or it is refused."""

from __future__ import annotations

from calendar import timegm
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from time import strptime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counting import steps
from pgslipway import files
from pgslipway.engine.order import disorder
from pgslipway.errors import BadMigrations
from pgslipway.layouts import files_of
from pgslipway.layouts.versions import flyway, milliseconds, numbers, shown, written
from pgslipway.migrations import Migration
from sampling import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

THOUSANDS = settings(max_examples=examples(1000), deadline=None)
SETS = settings(max_examples=examples(400), deadline=None)
"""For each of seven layouts."""


# --- the tools' own rules, written once more --------------------------------------------------------------------


def flyway_order(name: str) -> list[int]:
    """Its parts as numbers of any size, without zeros at the end."""
    parts = [int(part) for part in name[1:].partition("__")[0].replace("_", ".").split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return parts


ORDERS: dict[str, Callable[[str], Any]] = {
    "plain": lambda name: int(name.partition("_")[0]),
    "goose": lambda name: int(name.partition("_")[0]),
    "tern": lambda name: int(name.partition("_")[0]),
    "dbmate": lambda name: name.encode(),
    "flyway": flyway_order,
    "prisma": lambda name: name.partition("/")[0].encode(),
    "diesel": lambda name: name.partition("_")[0].replace("-", ""),
}
"""What a tool sorts by; drizzle has its own test."""
SAME: dict[str, Callable[[str], Any]] = {**ORDERS, "dbmate": lambda name: name.partition("_")[0]}
"""What a tool takes for the version: two alike are an error to it, or one would not be run."""


# --- made sets --------------------------------------------------------------------------------------------------

DIGITS = st.one_of(
    st.integers(0, 30).map(str),
    st.tuples(st.integers(0, 3), st.integers(0, 30)).map(lambda pair: "0" * pair[0] + str(pair[1])),
    st.integers(20240101, 20240104).map(str),
    st.integers(20240101000000, 20240101000003).map(str),
    st.integers(0, 10**20).map(str),
)
WORDS = st.sampled_from(["a", "b", "a_b", "a.b", "a-b", "B", "ä", "a b", "0", "__", "a+"])
PART = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["00", "01", "007", "9999", "10000", "999999", "1000000", "99999999999999", "100000000000000"]),
    st.sampled_from(["999999999999999999", "1000000000000000000", "20240101", "20240101120000"]),
    st.integers(0, 10**19).map(str),
)
FLYWAY = st.tuples(PART, st.lists(st.tuples(st.sampled_from("._"), PART), max_size=5)).map(
    lambda parts: parts[0] + "".join(separator + part for separator, part in parts[1])
)
DIESEL = st.one_of(
    DIGITS,
    st.sampled_from(["2024-01-01", "2024-01-01-120000", "20240101120000", "2024-01-01-120000-0001", "0", "00", "1-0"]),
    st.integers(0, 10**18 - 1).map(lambda number: f"{number:018}"),
)
NAMES = {
    **{layout: st.tuples(DIGITS, WORDS).map(lambda pair: f"{pair[0]}_{pair[1]}.sql") for layout in ("plain", "goose")},
    **{layout: st.tuples(DIGITS, WORDS).map(lambda pair: f"{pair[0]}_{pair[1]}.sql") for layout in ("tern", "dbmate")},
    "flyway": st.tuples(FLYWAY, WORDS).map(lambda pair: f"V{pair[0]}__{pair[1]}.sql"),
    "prisma": st.tuples(DIGITS, WORDS).map(lambda pair: f"{pair[0]}_{pair[1]}"),
    "diesel": st.tuples(DIESEL, WORDS).map(lambda pair: f"{pair[0]}_{pair[1]}"),
}


@cache
def real_folder() -> str:
    """A folder of the disk that stands for each of the made ones."""
    path = Path(mkdtemp(prefix="layouts-"))
    for name in ("migration.sql", "up.sql"):
        (path / name).touch()
    return str(path)


@dataclass(frozen=True)
class Made:
    """An entry of a made folder: a file, or a folder that has the file of a migration."""

    path: str
    folder: bool

    def is_file(self) -> bool:
        return not self.folder

    def is_dir(self) -> bool:
        return self.folder

    def is_symlink(self) -> bool:
        return False


def taken(layout: str, names: Sequence[str]) -> list[Migration] | str:
    """The migrations that such a folder has, by version; or a reason to refuse it."""
    is_nested = layout in {"prisma", "diesel"}
    visible = {name: Made(real_folder() if is_nested else f"/made/{name}", is_nested) for name in names}
    chosen, version_of, _ = files_of(layout, visible)
    found = []
    try:
        for name in chosen:
            version = (version_of or files.plain_version)(name)
            if version > files.LARGEST_VERSION:
                return "too large"
            found.append(Migration(version=version, filename=name, checksum="", path="", layout=layout))
    except BadMigrations as error:
        return str(error)
    if len({one.version for one in found}) < len(found):
        return "taken twice"
    return sorted(found, key=lambda one: one.version)


@pytest.mark.parametrize("layout", NAMES)
def test_order_and_uniqueness_are_the_tools_own_and_versions_last_or_it_is_refused(layout: str) -> None:
    @SETS
    @given(st.lists(NAMES[layout], min_size=1, max_size=6, unique=True))
    def compare(names: list[str]) -> None:
        found = taken(layout, names)
        if isinstance(found, str):
            assert found
            return
        if layout != "prisma":  # in which the folders that begin alike share a number out
            before = taken(layout, names[1:] or names)
            assert isinstance(before, list)
            assert {(one.filename, one.version) for one in before} <= {(one.filename, one.version) for one in found}
        theirs = sorted(found, key=lambda one: ORDERS[layout](one.filename))
        assert len({repr(SAME[layout](one.filename)) for one in found}) == len(found)
        assert all(0 <= one.version <= files.LARGEST_VERSION for one in found)
        assert (disorder(found, found) == []) == (theirs == found)

    compare()


@pytest.mark.parametrize("layout", NAMES)
def test_usual_set_is_not_refused(layout: str) -> None:
    numbers = {
        "flyway": [
            "V1__a.sql",
            "V1.1__b.sql",
            "V1_2__c.sql",
            "V2__d.sql",
            "V10__e.sql",
            "V20240101__f.sql",
            "V20240101.1__g.sql",
            "V20240101120000__h.sql",
            "V202401011200001__i.sql",
        ],
        "prisma": ["0_init", "20240101120000_a", "20240101120000_b", "20240102120000_c", "20240102120000_c.d"],
        "diesel": ["00000000000000_setup", "20240101_a", "2024-01-01-120000_b", "2024-01-01-120000-0001_c"],
    }.get(layout, ["001_a.sql", "002_b.sql", "20240101120000_c.sql"])

    found = taken(layout, numbers)

    assert isinstance(found, list)
    assert [one.filename.partition("/")[0] for one in found] == numbers
    assert disorder(found, found) == []


@pytest.mark.parametrize("layout", NAMES)
def test_version_is_understood_as_it_is_shown(layout: str) -> None:
    @SETS
    @given(NAMES[layout])
    def show(name: str) -> None:
        found = taken(layout, [name])
        if isinstance(found, list):
            assert found[0].version in numbers(layout, found[0].text)

    show()


@THOUSANDS
@given(FLYWAY, FLYWAY)
def test_two_versions_of_flyway_compare_as_they_do_there(one: str, other: str) -> None:
    try:
        ours = flyway(one), flyway(other)
    except ValueError:
        return
    theirs = flyway_order(f"V{one}__"), flyway_order(f"V{other}__")
    assert (ours[0] < ours[1], ours[0] == ours[1]) == (theirs[0] < theirs[1], theirs[0] == theirs[1])


@THOUSANDS
@given(
    st.one_of(
        st.tuples(st.integers(0, 10**6 - 1), *[st.integers(0, 9999)] * 3),
        st.tuples(st.integers(0, 10**14 - 1), st.integers(0, 9999)),
        st.tuples(st.integers(0, 10**18 - 1)),
    )
)
def test_flyway_version_within_the_bounds_is_taken(parts: tuple[int, ...]) -> None:
    assert 0 <= flyway(".".join(map(str, parts))) <= files.LARGEST_VERSION


MOMENTS = st.tuples(
    st.integers(1960, 2100),
    st.integers(0, 13),
    st.integers(0, 32),
    st.integers(0, 24),
    st.integers(0, 60),
    st.integers(0, 61),
)


@THOUSANDS
@given(MOMENTS)
def test_moment_is_that_of_the_calendar(moment: tuple[int, ...]) -> None:
    year, *rest = moment
    text = f"{year}" + "".join(f"{part:02}" for part in rest)
    try:
        expected = 1000 * timegm(strptime(text, "%Y%m%d%H%M%S")) if rest[-1] < 60 else -1
    except ValueError:
        expected = -1
    try:
        found = milliseconds(text)
    except ValueError:
        found = -1
    assert found == max(expected, -1)


# --- drizzle ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drizzle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drizzle")
    (path / "meta").mkdir()
    for letter in "abcdefgh":
        (path / f"{letter}.sql").touch()
    return path


def test_order_of_the_journal_is_kept_or_it_is_refused(drizzle_folder: Path) -> None:
    @settings(max_examples=examples(500), deadline=None)
    @given(
        st.permutations("abcdefgh"),
        st.lists(st.integers(0, 9) | st.integers(0, 2**64), min_size=1, max_size=8),
        st.booleans(),
    )
    def compare(tags: list[str], moments: list[int], in_order: bool) -> None:
        whens = sorted(moments) if in_order else moments
        entries = ", ".join(f'{{"tag": "{tag}", "when": {when}}}' for tag, when in zip(tags, whens, strict=False))
        (drizzle_folder / "meta" / "_journal.json").write_text(f'{{"entries": [{entries}]}}')
        listed = tags[: len(moments)]
        try:
            found = files.discover(str(drizzle_folder)).found
        except BadMigrations:
            assert len(set(moments)) < len(moments) or max(moments) > files.LARGEST_VERSION
            return
        assert {name: version for version, name, _, _ in found} == {
            f"{tag}.sql": when for tag, when in zip(listed, whens, strict=True)
        }
        migrations = [
            Migration(version=version, filename=name, checksum="", path=path, layout="drizzle")
            for version, name, _, path in found
        ]
        ours = [name.removesuffix(".sql") for _, name, _, _ in found]
        assert (disorder(migrations, migrations) == []) == (ours == listed)

    compare()


# --- the order of a pending file --------------------------------------------------------------------------------


def dbmate_folder(names: Sequence[str]) -> list[Migration]:
    found = taken("dbmate", names)
    assert isinstance(found, list)
    return found


def test_pending_file_is_refused_with_an_example_of_the_other_order() -> None:
    migrations = dbmate_folder(["9_a.sql", "10_b.sql", "11_c.sql"])

    assert [str(problem) for problem in disorder(migrations, migrations)] == [
        (
            "9_a.sql: dbmate would apply this after 10_b.sql, and pgslipway, by the versions, the other way "
            "round; give it "
            "one that is the highest in both orders"
        ),
        (
            "10_b.sql: dbmate would apply this before 9_a.sql, and pgslipway, by the versions, the other way "
            "round; give it "
            "one that is the highest in both orders"
        ),
        (
            "11_c.sql: dbmate would apply this before 9_a.sql, and pgslipway, by the versions, the other way "
            "round; give it "
            "one that is the highest in both orders"
        ),
    ]


def test_order_of_what_is_applied_is_no_matter() -> None:
    migrations = dbmate_folder(["9.sql", "10.sql", "91.sql"])

    assert disorder(migrations, migrations[2:]) == []
    assert disorder(migrations, []) == []


@THOUSANDS
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=12, unique=True).flatmap(
        lambda versions: st.tuples(st.just(sorted(versions)), st.lists(st.booleans(), min_size=12, max_size=12))
    )
)
def test_pending_files_are_refused_that_stand_elsewhere_in_the_other_order(
    case: tuple[list[int], list[bool]],
) -> None:
    versions, chosen = case
    migrations = dbmate_folder([f"{version}_a.sql" for version in versions])
    pending = [one for one, is_pending in zip(migrations, chosen, strict=False) if is_pending]

    problems = disorder(migrations, pending)

    by_name = {one.filename: one for one in migrations}
    expected = [
        one.filename
        for one in pending
        if any((one.filename < other.filename) != (one.version < other.version) for other in migrations if other != one)
    ]
    assert [problem.file for problem in problems] == expected
    for problem in problems:
        _, _, _, _, where, example, *_ = problem.text.split()
        one, other = by_name[problem.file], by_name[example.rstrip(",")]
        assert (where == "before") == (one.filename < other.filename) != (one.version < other.version)


@pytest.mark.parametrize("shape", ["mixed widths", "all the other way round", "one far away"])
def test_order_of_many_files_takes_no_more_than_their_number(shape: str) -> None:
    def folder(number: int) -> list[Migration]:
        versions = {
            "mixed widths": Random(1).sample(range(1, 10**9), number),
            "all the other way round": [10**place for place in range(18)],
            "one far away": [*range(10**8, 10**8 + number - 1), 9],
        }[shape]
        names = [f"{version}_a.sql" for version in versions]
        if shape == "all the other way round":
            names = [f"{place + 1}{'_' * (number - place)}.sql" for place in range(number)]
        return dbmate_folder(names)

    few, many = folder(200), folder(2000)

    assert steps(lambda: disorder(many, many)) < 15 * steps(lambda: disorder(few, few))


def test_version_of_a_newer_image_is_shown_by_its_file_or_as_its_layout_writes_it() -> None:
    assert shown("flyway", 1_0002_0000_0000, "sub/V1_2__a.sql") == "1.2"
    assert shown("flyway", 1_0002_0000_0000, "(unknown)") == "1.2"
    assert shown("diesel", 202601310000000000, "2026-01-31_a/up.sql") == "2026-01-31"
    assert shown("prisma", 202601311, "20260131_a/migration.sql") == "20260131"
    assert shown("prisma", 202601311, "init") == "20260131"
    assert shown("drizzle", 1700000000000, "a.sql") == "1700000000000"


WRITTEN = {
    "flyway": ("1", "1.2", "999999.9999.0.1", "20260131", "20260131.7", "20260131120000999"),
    "prisma": ("0", "20230406064219"),
    "diesel": ("00000000000000", "20171008193320", "201710081933200001"),
    "goose": ("1", "20260131120000"),
}


@pytest.mark.parametrize(("layout", "text"), [(layout, text) for layout, texts in WRITTEN.items() for text in texts])
def test_number_is_written_as_its_layout_does(layout: str, text: str) -> None:
    assert written(layout, numbers(layout, text).start) == text
