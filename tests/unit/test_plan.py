"""What is to be done: the image's migrations and the history compared."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgslipway.engine.plan import Plan, Policy, make_plan
from pgslipway.errors import HistoryConflict
from pgslipway.migrations import Applied, Migration

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def name(version: int) -> str:
    return f"{version:03}_{chr(96 + version % 26)}.sql"


def file(version: int, checksum: str = "same") -> Migration:
    return Migration(version=version, filename=name(version), checksum=checksum, path=name(version))


def row(version: int, hour: float | None = None, checksum: str | None = "same", floor: int | None = None) -> Applied:
    """A row of the history; without an hour, versions were applied in their order."""
    applied_at = NOON + timedelta(hours=version if hour is None else hour)
    return Applied(
        version=version, filename=name(version), applied_at=applied_at, checksum=checksum, minimum_version=floor
    )


def plan_of(image: list[int], history: list[int | Applied]) -> Plan:
    rows = [item if isinstance(item, Applied) else row(item) for item in history]
    return make_plan([file(version) for version in image], rows)


def versions(plan: Plan) -> dict[str, list[int]]:
    """What the plan says, without the empty parts."""
    parts = {
        "pending": [migration.version for migration in plan.pending],
        "applied": [known.version for _, known in plan.applied],
        "edited": [known.version for _, known in plan.edited],
        "moved": [known.version for _, known in plan.moved],
        "ahead": [known.version for known in plan.ahead],
        "missing": [known.version for known in plan.missing],
        "out_of_order": [migration.version for migration in plan.out_of_order],
    }
    return {part: found for part, found in parts.items() if found}


UNDATED = replace(row(2), applied_at=None)
PLANS = {
    "empty-database": ([1, 2], [], {"pending": [1, 2]}),
    "up-to-date": ([1, 2], [1, 2], {"applied": [1, 2]}),
    "next": ([3, 1, 2], [2, 1], {"pending": [3], "applied": [1, 2]}),
    "out-of-order": ([1, 2, 3], [1, 3], {"pending": [2], "applied": [1, 3], "out_of_order": [2]}),
    "version-0-late": ([0, 1], [1], {"pending": [0], "applied": [1], "out_of_order": [0]}),
    "ahead": ([1, 2], [1, 2, 3], {"applied": [1, 2], "ahead": [3]}),
    "ahead-by-far": ([1], [1, 2, 9], {"applied": [1], "ahead": [2, 9]}),
    "late-merge-rolled-back": ([1, 3], [1, 3, row(2, hour=4)], {"applied": [1, 3], "ahead": [2]}),
    "missing": ([1, 3], [1, 2, 3], {"applied": [1, 3], "missing": [2]}),
    "missing-and-ahead": ([1, 3], [1, 2, 3, 4], {"applied": [1, 3], "ahead": [4], "missing": [2]}),
    "missing-first": ([2, 3], [1, 2], {"pending": [3], "applied": [2], "missing": [1]}),
    "applied-in-the-same-moment": ([1, 3], [1, row(2, hour=3), 3], {"applied": [1, 3], "missing": [2]}),
    "missing-undated": ([1, 3], [1, UNDATED, 3], {"applied": [1, 3], "missing": [2]}),
    "nothing-in-common-above": ([1, 2], [3], {"pending": [1, 2], "ahead": [3], "out_of_order": [1, 2]}),
    "nothing-in-common-below": ([2, 3], [1], {"pending": [2, 3], "missing": [1]}),
    "two-branches": ([1, 2], [1, 3], {"pending": [2], "applied": [1], "ahead": [3], "out_of_order": [2]}),
    "edited": ([1, 2], [1, row(2, checksum="old")], {"applied": [1, 2], "edited": [2]}),
    "taken-over": ([1], [row(1, checksum=None)], {"applied": [1]}),
    "taken-over-by-another-name": (
        [1],
        [replace(row(1, checksum=None), filename="001_x.sql")],
        {"applied": [1], "edited": [1]},
    ),
    "taken-over-without-a-name": ([1], [replace(row(1, checksum=None), filename="1")], {"applied": [1]}),
    "two-have-changed-places": (
        [1, 2],
        [replace(row(1), filename="002_b.sql"), replace(row(2), filename="001_a.sql")],
        {"applied": [1, 2], "moved": [1, 2]},
    ),
    "renamed-with-the-same-text": ([1], [replace(row(1), filename="001_x.sql")], {"applied": [1]}),
}


@pytest.mark.parametrize(("image", "history", "expected"), PLANS.values(), ids=PLANS)
def test_plan_tells_what_is_what(
    image: list[int], history: list[int | Applied], expected: dict[str, list[int]]
) -> None:
    plan = plan_of(image, history)

    assert versions(plan) == expected
    assert plan.newest == max(image)


PUT_BACK = (
    "002_b.sql was applied but is not in this image; put the file back, as it was, or, if it never belongs here, "
    "delete its row from the history"
)
EDITED = (
    "002_b.sql was edited after it was applied; put the old text back and make the change in a new file "
    "(MIGRATE_EDITED=warn lets it pass)"
)
OTHER_NAME = "version 1 was applied as 001_x.sql but is 001_a.sql in this image"
MOVED = (
    "002_b.sql was applied as version 1, which 001_a.sql has now; give each file the version that it was applied with",
    "001_a.sql was applied as version 2, which 002_b.sql has now; give each file the version that it was applied with",
)
AHEAD = "the database is ahead of this image: 003_c.sql (MIGRATE_AHEAD=refuse)"
BRANCHES = (
    "two branches: the database has 003_c.sql, which this image does not have, and this image has 002_b.sql, which is "
    "not applied; build an image with both, or set MIGRATE_AHEAD=allow"
)
LATE = (
    "002_b.sql is pending below a version that is applied (MIGRATE_OUT_OF_ORDER=refuse); give it a higher version"
)  # fmt: skip
FLOOR = (
    "003_c.sql was applied and says minimum-version: 3; this image's newest is 2: it cannot work with this schema; "
    "deploy a newer image"
)
STRICT = Policy(ahead="refuse", out_of_order="refuse", edited="refuse")
RELAXED = Policy(ahead="allow", out_of_order="allow", edited="warn")
DEFAULT = Policy()
REFUSALS = {
    "up-to-date": (PLANS["up-to-date"], STRICT, []),
    "pending": (PLANS["next"], STRICT, []),
    "missing": (PLANS["missing"], DEFAULT, [PUT_BACK]),
    "missing-whatever-is-allowed": (PLANS["missing"], RELAXED, [PUT_BACK]),
    "edited": (PLANS["edited"], DEFAULT, [EDITED]),
    "edited-allowed": (PLANS["edited"], RELAXED, []),
    "other-name": (PLANS["taken-over-by-another-name"], DEFAULT, [OTHER_NAME]),
    "moved-whatever-is-allowed": (PLANS["two-have-changed-places"], RELAXED, [*MOVED]),
    "ahead": (PLANS["ahead"], DEFAULT, []),
    "ahead-allowed": (PLANS["ahead"], RELAXED, []),
    "ahead-refused": (PLANS["ahead"], STRICT, [AHEAD]),
    "branches": (PLANS["two-branches"], DEFAULT, [BRANCHES]),
    "branches-allowed": (PLANS["two-branches"], RELAXED, []),
    "branches-refused": (PLANS["two-branches"], STRICT, [AHEAD, LATE]),
    "out-of-order": (PLANS["out-of-order"], DEFAULT, []),
    "out-of-order-refused": (PLANS["out-of-order"], STRICT, [LATE]),
    "floor": (([1, 2], [1, 2, row(3, floor=3)], {}), RELAXED, [FLOOR]),
    "floor-not-reached": (([1, 2], [1, 2, row(3, floor=2)], {}), DEFAULT, []),
    "floor-of-a-known-file": (([1, 2], [1, row(2, floor=2)], {}), STRICT, []),
    "everything-at-once": (
        ([1, 4], [row(1, hour=2.5, checksum="x"), 2, row(3, hour=9), 5], {}),
        STRICT,
        [
            PUT_BACK,
            EDITED.replace("002_b", "001_a"),
            AHEAD.replace("003_c.sql", "003_c.sql, 005_e.sql"),
            LATE.replace("002_b", "004_d"),
        ],
    ),
}


@pytest.mark.parametrize(("case", "policy", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_file_and_the_way_out(
    case: tuple[list[int], list[int | Applied], object], policy: Policy, expected: list[str]
) -> None:
    image, history, _ = case
    plan = plan_of(image, history)

    reasons = list(map(str, plan.refusals(policy)))

    assert reasons == expected


def test_refusal_is_raised_with_every_reason() -> None:
    plan = plan_of([1, 2], [1, 3])

    with pytest.raises(HistoryConflict) as caught:
        plan.refuse(STRICT)

    assert str(caught.value) == f"{AHEAD}\n{LATE}"


WARNINGS = {
    "none": (PLANS["up-to-date"], []),
    "ahead": (PLANS["ahead"], ["the database is ahead of this image, by 003_c.sql"]),
    "out-of-order": (PLANS["out-of-order"], ["out of order: 002_b.sql is pending below a version that is applied"]),
    "edited": (PLANS["edited"], [EDITED]),
    "many": (
        ([1], [1, 2, 3, 4, 5, 6, 7, 8], {}),
        [
            "the database is ahead of this image, by 002_b.sql, 003_c.sql, 004_d.sql, 005_e.sql, 006_f.sql and 2 more",
        ],
    ),
}


@pytest.mark.parametrize(("case", "expected"), WARNINGS.values(), ids=WARNINGS)
def test_warnings_name_the_files(case: tuple[list[int], list[int | Applied], object], expected: list[str]) -> None:
    image, history, _ = case
    plan = plan_of(image, history)

    warnings = list(map(str, plan.warnings()))

    assert warnings == expected


# --- whatever the two are ----------------------------------------------------------------------------------------

IMAGES = st.lists(
    st.builds(file, st.integers(0, 12), st.sampled_from("ab")), min_size=1, unique_by=attrgetter("version")
)
ROWS = st.builds(
    Applied,
    version=st.integers(0, 14),
    filename=st.integers(0, 14).map(name),
    applied_at=st.none() | st.integers(0, 14).map(lambda hour: NOON + timedelta(hours=hour)),
    checksum=st.sampled_from([None, "a", "b"]),
    minimum_version=st.none() | st.integers(0, 14),
)
HISTORIES = st.lists(ROWS, unique_by=attrgetter("version"))
POLICIES = st.builds(
    Policy,
    ahead=st.sampled_from([None, "allow", "refuse"]),
    out_of_order=st.sampled_from(["allow", "refuse"]),
    edited=st.sampled_from(["refuse", "warn"]),
)


@given(IMAGES, HISTORIES)
def test_every_version_is_exactly_one_thing(image: list[Migration], history: list[Applied]) -> None:
    plan = make_plan(image, history)

    said = [versions(plan).get(part, []) for part in ("pending", "applied", "ahead", "missing")]
    everything = {*(item.version for item in image), *(item.version for item in history)}
    assert sorted(version for part in said for version in part) == sorted(everything)
    assert all(part == sorted(part) for part in versions(plan).values())
    assert {*plan.out_of_order} <= {*plan.pending}
    assert {*plan.edited} <= {*plan.applied}


@given(IMAGES, HISTORIES, st.randoms(use_true_random=False))
def test_order_of_what_is_given_does_not_matter(image: list[Migration], history: list[Applied], random: Random) -> None:
    expected = make_plan(image, history)

    plan = make_plan(random.sample(image, len(image)), random.sample(history, len(history)))

    assert plan == expected


@given(IMAGES, HISTORIES, st.integers(1, 5), POLICIES)
def test_newer_row_makes_nothing_missing(
    image: list[Migration], history: list[Applied], more: int, policy: Policy
) -> None:
    before = make_plan(image, history)
    newest = max(*(item.version for item in image), *(item.version for item in history), 0)

    after = make_plan(image, [*history, row(newest + more)])

    assert after.missing == before.missing
    assert after.pending == before.pending
    assert after.ahead == (*before.ahead, row(newest + more))
    assert len(list(after.refusals(policy))) >= len(list(before.refusals(policy)))


@given(IMAGES, POLICIES)
def test_history_of_this_very_image_is_never_refused(image: list[Migration], policy: Policy) -> None:
    history = [Applied(version=item.version, filename=item.filename, checksum=item.checksum) for item in image]

    plan = make_plan(image, history)

    assert list(plan.refusals(policy)) == []
    assert list(plan.warnings()) == []
    assert plan.pending == ()


@given(IMAGES, POLICIES)
def test_empty_history_is_never_refused(image: list[Migration], policy: Policy) -> None:
    plan = make_plan(image, [])

    assert list(plan.refusals(policy)) == []
    assert [item.version for item in plan.pending] == sorted(item.version for item in image)


@given(IMAGES, HISTORIES)
def test_whatever_is_allowed_by_a_strict_policy_is_allowed_by_every_other(
    image: list[Migration], history: list[Applied]
) -> None:
    plan = make_plan(image, history)

    relaxed = set(map(str, plan.refusals(RELAXED)))

    assert relaxed <= {*map(str, plan.refusals(DEFAULT))} & {*map(str, plan.refusals(STRICT))}
