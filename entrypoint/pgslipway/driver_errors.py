"""The meaning of asyncpg's exceptions: which can heal, which are final, and in which words."""

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import asyncpg

from .errors import (
    AccessRefused,
    BadConfiguration,
    Busy,
    DatabaseUnavailable,
    NoDatabase,
    NoPlace,
    NotYet,
    SlipwayError,
    StartOver,
)

BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""The exceptions of asyncpg when a connection breaks, among its others."""
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Pass when whoever uses the tables is done."""
MADE = (asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError)
"""The failures of making a schema or a table that somebody else makes at the same moment."""
RETRIED = {DatabaseUnavailable, NoDatabase, NoPlace, NotYet}
NO_ANSWER = "no answer in time"
HEALING = {"08", "25", "40", "53", "57", "58", "XX"}
"""Classes of SQLSTATE that may pass: connection, read-only, conflict, resources, operator, system, internal."""
CERTIFICATE_FILES = {"PEM", "X509"}
"""The parts of OpenSSL that complain when a certificate's file or a key's cannot be used."""
STATEMENT_POOLING = "not allowed in statement pooling mode"
POOLERS_SAY: list[tuple[str, str, type[SlipwayError]]] = [
    ("08P01", f"{STATEMENT_POOLING}|^unsupported .*startup parameter", BadConfiguration),
    ("08P01", "no such (database|user)|authentication failed|login (rejected|not allowed)|^not allowed", AccessRefused),
    ("08P01", "wrong password type|no authentication method|SASL|(SSL|TLS) required", AccessRefused),
    ("08P01", "no username|(username|password) too long|empty password|bouncer config error", AccessRefused),
    # PgBouncer before 1.20 gives its own SQLSTATE to what Postgres answers to its login.
    ("08P01", '(database|role) ".*" does not exist|not permitted to log in|permission denied', AccessRefused),
    ("08P01", "pg_hba.conf|not currently accepting connections", AccessRefused),
    ("XX000", "Tenant or user not found", AccessRefused),
]
"""SQLSTATE and words with which poolers, PgBouncer and Supabase's, refuse what trying again cannot help."""


class NobodyAnswered(OSError):
    """None of several addresses let us in; its cause is the failure that decides."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        """Take the failure at each address."""
        super().__init__()
        self.failures = failures


def heals(error: BaseException) -> bool:
    """Tell whether another attempt may succeed."""
    return verdict(error) in RETRIED


def verdict(error: BaseException) -> type[SlipwayError] | None:
    """Return the class of a failure to connect: DatabaseUnavailable where waiting can heal it, None for a bug.

    The cases are the rows of "What asyncpg raises" in the tests; the cause says more than the error itself.
    """
    match error := root(error):
        case SlipwayError():
            return type(error)
        case asyncpg.PostgresError():
            return by_sqlstate(error)
        case asyncpg.TargetServerAttributeNotMatched() | ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return DatabaseUnavailable
        case ssl.SSLError() | PermissionError():  # before ValueError, which a certificate's error is as well
            return BadConfiguration if is_about_a_file(error) else AccessRefused
        case asyncpg.ClientConfigurationError() | ValueError() | OverflowError():
            return BadConfiguration
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return AccessRefused if "authentication" in str(error) else DatabaseUnavailable
        case OSError():
            return AccessRefused if "rejected SSL upgrade" in str(error) else DatabaseUnavailable
    return None


def lacks_database(error: BaseException) -> bool:
    """Tell whether the server, or a pooler, has no database of that name."""
    error = root(error)
    is_refusal = isinstance(error, asyncpg.PostgresError)
    return is_refusal and bool(re.search('database ".*" does not exist|no such database', str(error)))


def is_full(error: BaseException | None) -> bool:
    """Tell whether the server had no place for one more connection."""
    return error is not None and isinstance(root(error), asyncpg.TooManyConnectionsError)


def is_about_a_file(error: BaseException) -> bool:
    """Tell whether a TLS error is about the file of a certificate or of a key."""
    return getattr(error, "library", None) in CERTIFICATE_FILES or "PEM lib" in str(error)


def by_sqlstate(error: asyncpg.PostgresError) -> type[SlipwayError]:
    """Return the class of the server's own refusal of a connection."""
    state = error.sqlstate or ""
    if state == "57P03" and "Hot standby mode is disabled" in (error.detail or ""):
        return AccessRefused
    for pooler_state, words, meaning in POOLERS_SAY:
        if state == pooler_state and re.search(words, str(error)):
            return meaning
    if state in {"42704", "22023"}:
        return BadConfiguration
    return DatabaseUnavailable if state[:2] in HEALING or state == "55P03" else AccessRefused


def root(error: BaseException) -> BaseException:
    """Return the error that says most: asyncpg hides the server's last words behind "connection was closed"."""
    while isinstance(cause := error.__cause__ or hidden_by(error), asyncpg.PostgresError | OSError):
        error = cause
    return error


def hidden_by(error: BaseException) -> BaseException | None:
    """Return the failure behind asyncpg's complaint that a broken connection cannot be tidied up."""
    is_broken = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.ClientConfigurationError)
    return error.__context__ if is_broken else None


def nobody_answered(failures: Mapping[str, Exception]) -> Exception:
    """Return the failure at the only address; or one for all of them, which is final if one of them is."""
    *others, last = failures.values()
    if not others:
        return last
    error = NobodyAnswered(failures)
    error.__cause__ = next((failure for failure in others if not heals(failure)), last)
    return error


def describe(error: BaseException | None) -> str:
    """Return the failure in one line, for a log."""
    if error is None:
        return "no answer"
    if isinstance(error, NobodyAnswered):
        causes = {address: describe(failure) for address, failure in sorted(error.failures.items())}
        each = [f"{address}: {cause}" for address, cause in causes.items()]
        return "; ".join(each if len({*causes.values()}) > 1 else {*causes.values()})
    error = root(error)
    if isinstance(error, ValueError | OverflowError) and not isinstance(error, asyncpg.InterfaceError | OSError):
        return "a connection setting cannot be used"  # Python's own text may quote a piece of a password
    if isinstance(error, TimeoutError) and not error.errno:
        return NO_ANSWER
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)  # asyncio's own text does not say why
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(with_advice(error, text).split()) or type(error).__name__


def with_advice(error: BaseException, text: str) -> str:
    """Return the text of an error, in words that say what to do where its own do not."""
    if isinstance(error, ssl.SSLError) and is_about_a_file(error):
        return f"{text}; look at PGSSLCERT, PGSSLKEY (without a passphrase), PGSSLROOTCERT and PGSSLCRL"
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in text:
        return "the server ended it"  # the driver's own words are about itself
    if STATEMENT_POOLING in text:
        return f"{text}; have the pooler use pool_mode=transaction or pool_mode=session"
    if "unsupported startup" in text:
        return (
            f"{text}; poolers pass few settings on: give them to the role by ALTER ROLE … SET, or SET them in the files"
        )
    if "connection_lost()" in text:
        return "the server closed the connection"  # the driver's own words are about itself
    return text


@contextmanager
def made_once(what: str) -> Iterator[None]:
    """Raise StartOver where somebody else makes the same in the same moment, Busy where somebody has locked it.

    Raises AccessRefused where an event trigger refuses it: an error of ours has no function in its CONTEXT.
    """
    try:
        yield
    except MADE as error:
        raise StartOver(f"somebody else made {what}: {error}") from error
    except BUSY as error:
        raise Busy(str(error)) from error
    except asyncpg.PostgresError as error:
        if not error.context or (error.sqlstate or "")[:2] in HEALING:
            raise
        raise AccessRefused(
            f"{what} could not be made, since an event trigger of this database refuses it; have whoever keeps the "
            f"database let this role make it (SQLSTATE {error.sqlstate}): {error}"
        ) from error
