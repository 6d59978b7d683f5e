"""What a failure means, told by its type and its SQLSTATE: whether waiting heals it, or whether the connection is gone.

One row for each kind that asyncpg raises, since most of them no server can be made to say at will.
"""

from __future__ import annotations

import errno
import socket
import ssl

import asyncpg
import pytest

from pgslipway.config import Config, Location
from pgslipway.connect import gave_up
from pgslipway.driver_errors import describe, heals, nobody_answered, verdict
from pgslipway.engine.findings import failure_of
from pgslipway.engine.sending import is_lost
from pgslipway.errors import DatabaseUnavailable, NoPlace
from pgslipway.history import History

HOT_STANDBY = "Hot standby mode is disabled."
REFUSALS = [
    ("08006", "connection failure", "", 10),
    ("08P01", "query_wait_timeout", "", 10),
    ("08P01", "server login has been failing, try again later (server_login_retry)", "", 10),
    ("08P01", "server login has been failing, cached error: connect failed (server_login_retry)", "", 10),
    ("08P01", "the database system is starting up", "", 10),
    ("08P01", 'too many connections for role "auth"', "", 10),
    ("08P01", "sorry, too many clients already", "", 10),
    ("08P01", "pooler is shutting down", "", 10),
    ("08P01", 'database "app" is disabled', "", 10),
    ("08P01", "transaction blocks not allowed in statement pooling mode", "", 20),
    ("08P01", "unsupported startup parameter: options", "", 20),
    ("08P01", "unsupported startup parameter in options: geqo", "", 20),
    ("08P01", "unsupported options startup parameter: only '-c config=val' is allowed", "", 20),
    ("08P01", 'database "app" does not exist', "", 22),
    ("08P01", 'server login has been failing, cached error: database "a" does not exist (server_login_retry)', "", 22),
    ("08P01", 'role "app" does not exist', "", 22),
    ("08P01", 'role "app" is not permitted to log in', "", 22),
    ("08P01", 'permission denied for database "app"', "", 22),
    ("08P01", 'no pg_hba.conf entry for host "10.0.0.1", user "app", database "app", no encryption', "", 22),
    ("08P01", 'database "app" is not currently accepting connections', "", 22),
    ("08P01", 'password authentication failed for user "app"', "", 22),
    ("08P01", '"trust" authentication failed', "", 22),
    ("08P01", "SASL authentication failed", "", 22),
    ("08P01", "server login failed: wrong password type", "", 22),
    ("08P01", "login rejected", "", 22),
    ("08P01", "bouncer config error", "", 22),
    ("08P01", "no such database: app", "", 22),
    ("08P01", "no such user: app", "", 22),
    ("08P01", "password authentication failed", "", 22),
    ("08P01", "login not allowed", "", 22),
    ("08P01", "SSL required", "", 22),
    ("08P01", "TLS required", "", 22),
    ("22023", "role does not exist", "", 20),
    ("25006", "cannot execute INSERT in a read-only transaction", "", 10),
    ("28P01", "password authentication failed", "", 22),
    ("28000", "no pg_hba.conf entry", "", 22),
    ("3D000", "database does not exist", "", 22),
    ("40001", "conflict with recovery", "", 10),
    ("42501", "permission denied", "", 22),
    ("42704", "unrecognized configuration parameter", "", 20),
    ("53300", "too many clients already", "", 10),
    ("53300", 'too many connections for role "auth"', "", 10),
    ("55P03", "lock timeout", "", 10),
    ("55000", "database is not currently accepting connections", "", 22),
    ("57P01", "terminating connection", "", 10),
    ("57P03", "the database system is starting up", "", 10),
    ("57P03", "the database system is not accepting connections", HOT_STANDBY, 22),
    (
        "57P03",
        "the database system is not accepting connections",
        "Consistent recovery state has not been reached.",
        10,
    ),
    ("57014", "canceling statement", HOT_STANDBY, 10),
    ("58030", "could not read a file", "", 10),
    ("XX000", "internal error", "", 10),
    ("XX000", "Tenant or user not found", "", 22),
]


def refused(sqlstate: str, message: str = "", detail: str = "") -> asyncpg.PostgresError:
    """What asyncpg makes of a server's ErrorResponse."""
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message} | ({"D": detail} if detail else {})
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


def about_a_file(library: str) -> ssl.SSLError:
    """What OpenSSL says about a certificate's file or a key's."""
    error = ssl.SSLError(9, "no start line")
    error.library = library
    return error


DRIVERS = {
    "no such host has the attributes": (asyncpg.TargetServerAttributeNotMatched("none is a primary"), 10),
    "hung up in the handshake": (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), 10),
    "closed in the handshake": (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"), 10),
    "certificate": (ssl.SSLCertVerificationError(1, "certificate verify failed"), 22),
    "another version of TLS": (ssl.SSLError(1, "unsupported protocol"), 22),
    "file of a key": (about_a_file("PEM"), 20),
    "file of a certificate": (about_a_file("X509"), 20),
    "file, on an older OpenSSL": (ssl.SSLError(9, "[SSL] PEM lib (_ssl.c:4149)"), 20),
    "file that may not be read": (PermissionError(errno.EACCES, "Permission denied"), 22),
    "malformed": (asyncpg.ClientConfigurationError("invalid port"), 20),
    "value": (ValueError("invalid literal"), 20),
    "port above 65535": (OverflowError("port must be 0-65535"), 20),
    "way to log in": (asyncpg.InterfaceError("unsupported authentication method requested by the server: 7"), 22),
    "closed in the midst": (asyncpg.InterfaceError("connection was closed in the middle of operation"), 10),
    "driver": (asyncpg.InternalClientError("got result for unknown protocol state 3"), 10),
    "no TLS": (ConnectionError("PostgreSQL server at 'db:5432' rejected SSL upgrade"), 22),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 10),
    "in time": (TimeoutError(), 10),
}


@pytest.mark.parametrize(("sqlstate", "message", "detail", "code"), REFUSALS)
def test_refusal_of_a_connection_heals_or_needs_a_person(sqlstate: str, message: str, detail: str, code: int) -> None:
    error = refused(sqlstate, message, detail)

    meaning = verdict(error)

    assert meaning
    assert meaning.exit_code == code
    assert heals(error) is (code == 10)


@pytest.mark.parametrize(("error", "code"), DRIVERS.values(), ids=DRIVERS)
def test_failure_to_connect_heals_or_needs_a_person(error: Exception, code: int) -> None:
    meaning = verdict(error)

    assert meaning
    assert meaning.exit_code == code
    assert heals(error) is (code == 10)


def test_bug_has_no_meaning() -> None:
    assert verdict(KeyError("oops")) is None
    assert not heals(KeyError("oops"))


def test_last_words_of_the_server_say_more_than_that_the_connection_was_closed() -> None:
    closed = asyncpg.InterfaceError("cannot perform operation: connection is closed")
    closed.__cause__ = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    closed.__cause__.__cause__ = refused("3D000", 'database "app"\n  does not exist')

    meaning = verdict(closed)

    assert meaning
    assert meaning.exit_code == 22
    assert describe(closed) == 'database "app" does not exist'


def test_what_went_wrong_before_a_broken_connection_could_not_be_tidied_up_says_more() -> None:
    untidy = asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
    untidy.__context__ = refused("28P01", "password authentication failed")

    meaning = verdict(untidy)

    assert meaning
    assert meaning.exit_code == 22
    assert describe(untidy) == "password authentication failed"


@pytest.mark.parametrize("kind", [asyncpg.ClientConfigurationError, ValueError])
def test_what_went_wrong_before_a_malformed_setting_says_nothing_of_it(kind: type[Exception]) -> None:
    malformed = kind("invalid port")
    malformed.__context__ = FileNotFoundError(errno.ENOENT, "No such file or directory")

    meaning = verdict(malformed)

    assert meaning
    assert meaning.exit_code == 20


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        *((refused(state), True) for state in ("08000", "08006", "08P01", "57P01", "57P02", "57P03", "25P03", "57P05")),
        *((refused(state), False) for state in ("57014", "25P02", "25006", "23505", "53100", "XX000", "42601")),
        (asyncpg.InterfaceError("connection is closed"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
        (TimeoutError(), True),
    ],
    ids=lambda value: getattr(value, "sqlstate", None) or type(value).__name__,
)
def test_connection_is_lost_or_a_statement_was_refused(error: Exception, *, is_gone: bool) -> None:
    assert is_lost(error) is is_gone


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [("42501", 22), ("22023", 22), ("53100", 10), ("25006", 10), ("57014", 10), ("42P01", 23), ("22003", 23)],
)
def test_refusal_about_the_history_says_what_was_being_done_and_where(sqlstate: str, code: int) -> None:
    history = History("public", "schema_migrations")

    failure = failure_of(history, refused(sqlstate, "no"), "001_a.sql could not be recorded")

    assert failure.exit_code == code
    assert str(failure) == (
        f"001_a.sql could not be recorded: no (SQLSTATE {sqlstate}); this is about the history table "
        '"public"."schema_migrations"'
    )


WORDS: dict[str, tuple[Exception, str]] = {
    "no route": (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 5432)"), "No route to host"),
    "no network": (OSError(errno.ENETUNREACH, "Connect call failed ('::1', 5432, 0, 0)"), "Network is unreachable"),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "Multiple exceptions: [Errno 111] …"), "Connection refused"),
    "timed out": (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), "Connection timed out"),
    "name": (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
    "name, later": (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
                    "Temporary failure in name resolution"),
    "certificate": (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
    "state of the driver": (
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        "the server ended it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("error", "words"), WORDS.values(), ids=WORDS)
def test_failure_is_told_in_the_words_of_the_system(error: Exception, words: str) -> None:
    assert describe(error) == words


def test_final_failure_at_one_of_several_addresses_is_final() -> None:
    refused_tls = ConnectionError("PostgreSQL server at 'db:5432' rejected SSL upgrade")
    nobody = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")

    for failures in ({"b": refused_tls, "a": nobody}, {"a": nobody, "b": refused_tls}):
        error = nobody_answered(failures)

        assert not heals(error)
        assert describe(error) == f"a: Connection refused; b: {refused_tls}"


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), NoPlace),
        (asyncpg.CannotConnectNowError("the database system is starting up"), DatabaseUnavailable),
        (None, DatabaseUnavailable),
    ],
    ids=["full", "starting", "silent"],
)
def test_server_that_was_full_has_no_place_though_the_last_attempt_was_cut_short(
    told: Exception | None, kind: type[Exception]
) -> None:
    config = Config(location=Location({"PGHOST": "db", "PGUSER": "u", "PGDATABASE": "d"}))

    failure = gave_up(TimeoutError(), config, [describe(told)] if told else [], told)

    assert type(failure) is kind
    assert f"before that: {told}" in str(failure) or told is None
