"""Trying again, by tenacity: the pauses between attempts, and why there is another one; nobody waits without it."""

import logging
import time
from collections.abc import Awaitable, Callable
from math import inf
from random import uniform
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay

from .errors import NotYet

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds between two attempts to reach a server."""
LONGEST_PAUSE_BETWEEN_LOOKS = 5.0
"""Seconds between two looks at a schema that is not there yet: each costs the server a connection."""
REPEAT_INTERVAL = 10.0
"""Seconds before the same cause is logged again."""


async def keep_trying(
    attempt: Callable[[], Awaitable[Answer]],
    failed: Exception,
    *,
    heals: Callable[[BaseException], bool],
    limit: float,
    log: Callable[[RetryCallState], None],
) -> Answer:
    """Return the result of the first `attempt` that succeeds within `limit` seconds; one before them `failed`.

    Raises the last failure, or the first that does not heal.
    """
    try_again, look_again = pause(0.05, LONGEST_PAUSE, limit), pause(0.05, LONGEST_PAUSE_BETWEEN_LOOKS, limit)

    attempts = AsyncRetrying(
        retry=retry_if_exception(heals),
        wait=lambda state: (look_again if isinstance(failure_of(state), NotYet) else try_again)(state),
        stop=stop_after_delay(limit),
        before_sleep=log,
        reraise=True,
    )
    return await attempts(after(failed, attempt))


def after(failure: Exception, attempt: Callable[[], Awaitable[Answer]]) -> Callable[[], Awaitable[Answer]]:
    """Return an attempt that first fails with `failure`, then goes on with `attempt`.

    So tenacity, which most runs never import, takes over after the first failure and counts it as its own.
    """
    failures = [failure]

    async def attempt_after_failure() -> Answer:
        if failures:
            raise failures.pop()
        return await attempt()

    return attempt_after_failure


def log_causes(
    server: str, describe: Callable[[BaseException | None], str], logged: dict[str, float]
) -> Callable[[RetryCallState], None]:
    """Return a function that logs the cause of the next attempt; the same cause every REPEAT_INTERVAL only.

    `logged` gets the time of each cause. A schema that is not there yet is logged by the caller: it knows the files.
    """

    def log_retry(state: RetryCallState) -> None:
        cause, now = describe(failure_of(state)), time.monotonic()
        if type(failure_of(state)) is NotYet or now - logged.get(cause, -inf) < REPEAT_INTERVAL:
            return
        logged[cause] = now
        logger.info(
            "waiting for %s: %s (attempt %d, next in %.1f s)",
            server, cause, state.attempt_number, state.upcoming_sleep,
            extra={"cause": cause, "attempt": state.attempt_number},
        )  # fmt: skip

    return log_retry


def failure_of(state: RetryCallState) -> BaseException | None:
    """Return the exception of the last attempt."""
    return state.outcome.exception() if state.outcome else None


def pause(shortest: float, longest: float, limit: float, share: float = 0.05) -> Callable[[RetryCallState], float]:
    """Return a jittered back-off, in seconds, that ends with one last try when `limit` has passed.

    Pauses grow with the time waited, as a share of it at most: who has waited for long may be told that much later.
    """

    def seconds(state: RetryCallState) -> float:
        waited = state.seconds_since_start or 0.0
        grown = min(max(2 * shortest, share * waited), longest)
        return max(0.0, min(uniform(shortest, grown), limit - waited))  # noqa: S311

    return seconds
