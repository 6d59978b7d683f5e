"""Trying again: pauses that are random, grow with the time waited, and end in time; which failure ends it; the log."""

from __future__ import annotations

import asyncio
import logging
from math import inf

import pytest
from tenacity import AsyncRetrying, RetryCallState

from pgslipway.errors import NotYet
from pgslipway.retry import failure_of, keep_trying, log_causes, pause

DRAWS = 300


def drawn(waited: float, limit: float, share: float = 0.05) -> tuple[float, float]:
    """The shortest and the longest of many pauses after so many seconds of waiting: from 0.1 s, at most 5 s."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.outcome_timestamp = state.start_time + waited
    seconds = pause(0.1, 5.0, limit, share)
    pauses = [seconds(state) for _ in range(DRAWS)]
    return min(pauses), max(pauses)


@pytest.mark.parametrize(
    ("waited", "share", "longest"),
    [(0.0, 0.05, 0.2), (1.0, 0.05, 0.2), (40.0, 0.05, 2.0), (40.0, 0.2, 5.0), (3600.0, 0.05, 5.0)],
)
def test_pause_is_random_up_to_a_share_of_the_time_waited(waited: float, share: float, longest: float) -> None:
    shortest_drawn, longest_drawn = drawn(waited, inf, share)

    assert 0.1 <= shortest_drawn < 0.1 + (longest - 0.1) / 10
    assert longest - (longest - 0.1) / 10 < longest_drawn <= longest


@pytest.mark.parametrize(("waited", "left"), [(599.95, 0.05), (600.0, 0.0), (601.0, 0.0)])
def test_last_pause_ends_with_the_limit(waited: float, left: float) -> None:
    assert drawn(waited, 600.0) == pytest.approx((left, left))


# --- the attempts -----------------------------------------------------------------------------------------------


class Heals(Exception):
    """A failure that waiting can heal."""


class Attempts:
    """Attempts that fail with these, one after the other, and then succeed; what was logged between them."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.logged: list[tuple[int, BaseException | None]] = []

    async def attempt(self) -> str:
        if self._failures:
            raise self._failures.pop(0)
        return "answer"

    def log(self, state: RetryCallState) -> None:
        self.logged.append((state.attempt_number, failure_of(state)))

    async def keep_trying(self, failed: Exception, limit: float = 60.0) -> str:
        return await keep_trying(self.attempt, failed, heals=is_healing, limit=limit, log=self.log)


def is_healing(error: BaseException) -> bool:
    return isinstance(error, (Heals, NotYet))


async def test_what_heals_is_tried_again_until_it_succeeds_and_each_failure_is_logged() -> None:
    first, second, third = Heals("first"), Heals("second"), NotYet("third")
    attempts = Attempts(second, third)

    assert await attempts.keep_trying(first) == "answer"
    assert attempts.logged == [(1, first), (2, second), (3, third)]


async def test_what_does_not_heal_is_raised_as_it_is() -> None:
    final = ValueError("final")
    attempts = Attempts(Heals("second"), final)

    with pytest.raises(ValueError, match="final") as raised:
        await attempts.keep_trying(Heals("first"))

    assert raised.value is final
    assert len(attempts.logged) == 2


async def test_last_failure_is_raised_as_it_is_once_the_limit_has_passed() -> None:
    """The limit counts from the first failure, which came before it."""
    failures = [Heals(str(number)) for number in range(1000)]
    attempts = Attempts(*failures)

    with pytest.raises(Heals) as raised:
        await attempts.keep_trying(Heals("first"), limit=0.3)

    assert 2 <= len(attempts.logged) < len(failures)
    assert raised.value is failures[len(attempts.logged) - 1]


async def test_without_time_left_nothing_is_tried() -> None:
    first = Heals("first")

    with pytest.raises(Heals) as raised:
        await Attempts().keep_trying(first, limit=0.0)

    assert raised.value is first


async def pauses_of(failure: Exception, waited: float) -> tuple[float, float]:
    """The pauses after the first failure, and after such a one so many seconds later."""
    pauses: list[float] = []

    def log(state: RetryCallState) -> None:
        pauses.append(state.upcoming_sleep)
        state.start_time -= waited
        if len(pauses) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await keep_trying(Attempts(failure).attempt, failure, heals=is_healing, limit=inf, log=log)
    first, later = pauses
    return first, later


@pytest.mark.parametrize(
    ("failure", "waited", "longest"),
    [(Heals(), 10.0, 0.5), (Heals(), 1000.0, 1.0), (NotYet("missing"), 1000.0, 5.0)],
    ids=["no server", "no server for long", "no schema for long"],
)
async def test_pauses_grow_to_a_second_for_a_server_and_to_five_for_a_schema(
    failure: Exception, waited: float, longest: float
) -> None:
    """A look at a schema costs a server that works a connection; one that is away is to be found at once."""
    drawn = await asyncio.gather(*(pauses_of(failure, waited) for _ in range(DRAWS)))
    first, later = zip(*drawn, strict=True)

    assert 0.05 <= min(first) < max(first) <= 0.1
    assert min(later) >= 0.05
    assert 0.9 * longest < max(later) < 1.2 * longest


# --- what is logged ---------------------------------------------------------------------------------------------


def after_failure(failure: Exception, attempt: int = 1) -> RetryCallState:
    """The state before the pause of half a second after such a failure."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.set_exception((type(failure), failure, None))
    state.attempt_number, state.upcoming_sleep = attempt, 0.5
    return state


def test_cause_is_logged_with_the_attempt_and_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgslipway")

    log_causes("host:5432/app", str, {})(after_failure(Heals("refused"), attempt=3))

    assert caplog.messages == ["waiting for host:5432/app: refused (attempt 3, next in 0.5 s)"]
    assert (vars(caplog.records[0])["cause"], vars(caplog.records[0])["attempt"]) == ("refused", 3)


def test_cause_is_logged_again_when_it_is_another_one_or_has_been_silent_for_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pgslipway")
    logged: dict[str, float] = {}
    log = log_causes("host", str, logged)

    for attempt, cause in enumerate(["refused", "refused", "starting", "refused"], 1):
        log(after_failure(Heals(cause), attempt))
    logged["refused"] -= 10.0
    log(after_failure(Heals("starting"), 5))
    log(after_failure(Heals("refused"), 6))

    assert [vars(record)["attempt"] for record in caplog.records] == [1, 3, 6]


def test_schema_that_is_not_there_yet_is_left_to_the_caller_to_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgslipway")
    logged: dict[str, float] = {}

    log_causes("host", str, logged)(after_failure(NotYet("missing")))

    assert caplog.messages == []
    assert logged == {}
