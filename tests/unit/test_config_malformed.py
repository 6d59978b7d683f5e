"""Settings, URLs and arguments as badly as they can be: a documented exit code, a message, and never a password."""

from __future__ import annotations

import os
import re
import string
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import pytest
from asyncpg import connect_utils
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import DOCUMENTED_CODES, INTERNAL_ERROR
from pgslipway import program
from pgslipway.config import Config, from_environ
from pgslipway.dial import driver_arguments
from pgslipway.libpq import target
from pgslipway.settings import SETTINGS
from pgslipway.signals import Stop
from sampling import examples
from servers import refusing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from conftest import Folder, Slipway

BEGIN, END = "Zq", "xW"
"""Around every secret here, so that any part of it is found in an output."""
URL_SYNTAX = st.sampled_from(":/?#[]@!$&'()*+,;=%\\ \"<>^`{|}~")
PRINTABLE = st.sampled_from(string.printable) | URL_SYNTAX | st.characters(categories=["L", "N", "P", "S", "Zs"])
SECRETS = st.text(PRINTABLE, max_size=12).map(lambda text: f"{BEGIN}{text}{END}")
MANY = settings(max_examples=examples(500), deadline=None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The driver reads PG* variables by itself; the program, run inside of this process, leaves them as they are."""
    for variable in [variable for variable in os.environ if variable.startswith("PG")]:
        monkeypatch.delenv(variable)
    yield
    assert [variable for variable in os.environ if variable.startswith("PG")] == []


def read_by_driver(config: Config) -> str | None:
    """The password that asyncpg takes from our arguments."""
    names = "host port target_session_attrs passfile service servicefile server_settings"
    assert config.location
    given = dict.fromkeys(names.split()) | driver_arguments(config.location)
    _, parameters = cast("Any", connect_utils)._parse_connect_dsn_and_args(**given)
    return cast("str | None", parameters.password)


@MANY
@given(SECRETS.filter(lambda text: not re.search("%[0-9a-fA-F]{2}", text)))
@example(f"{BEGIN}\n\t{END}")
def test_password_in_a_url_is_read_right_or_refused(password: str) -> None:
    url = f"postgresql://bob:{password}@127.0.0.1:1/shop"

    config = from_environ({"DATABASE_URL": url}, {})

    assert config.problems or read_by_driver(config) == password


FORMS = [
    "postgresql://bob:{}@127.0.0.1:1/shop",
    "postgresql://{}:{}@127.0.0.1:1/shop",
    "postgresql://bob:{}@127.0.0.1:1,127.0.0.1:2/shop",
    "postgresql://bob:{}@[::1]:x/shop",
    "postgresql://127.0.0.1:1/shop?user=bob&password={}",
    "postgresql://127.0.0.1:1/shop?password={}&sslmode=disable",
    "postgres//bob:{}@127.0.0.1/shop",
    "host=127.0.0.1 user=bob password={}",
    "bob:{}@127.0.0.1/shop",
    "{}",
]


@MANY
@given(st.sampled_from(FORMS), SECRETS)
def test_problems_and_target_show_nothing_of_a_password(form: str, password: str) -> None:
    config = from_environ({"DATABASE_URL": form.format(*[password] * form.count("{}"))}, {})

    said = [*config.problems, *config.warnings, target(config.libpq), repr(config)]
    assert not [text for text in said if BEGIN in text or END in text]


@pytest.mark.parametrize("variable", SETTINGS)
def test_value_from_a_file_is_not_shown(tmp_path: Path, variable: str) -> None:
    (tmp_path / "password").write_text(f"{BEGIN}{'x' * 70}")

    config = from_environ({f"{variable}_FILE": str(tmp_path / "password")}, {})

    assert not [problem for problem in config.problems if BEGIN in problem]


URL = f"postgresql://bob:{BEGIN}secret{END}@127.0.0.1:1/shop"
ARGUMENTS = {
    "as-the-command": [URL],
    "as-the-folder": ["up", URL],
    "as-an-unknown-flag": ["up", f"--database-url={URL}"],
    "as-an-unknown-flag-s-value": ["up", "--database-url", URL],
    "as-another-flag-s-value": ["up", "--lock", URL],
    "as-a-number": ["check", "--since", URL],
    "as-the-command-with-a-space": [URL.replace("secret", " sec ret ")],
    "as-another-flag-s-value-with-a-space": ["up", "--lock", URL.replace("secret", " sec ret ")],
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_password_in_a_misplaced_argument_is_not_shown(slipway: Slipway, folder: Folder, arguments: list[str]) -> None:
    finished = slipway(*arguments, env={}, migrations=folder({"1_a.sql": ""}))

    assert finished.code == 20
    assert BEGIN not in str(finished)


# --- the program, run on nonsense --------------------------------------------------------------------------------

HOSTS = st.sampled_from(
    ["127.0.0.1", "[::1]", "::1", "", ",", "/nowhere", "a..b", "127.0.0.1,127.0.0.1", "[", "\xa0", "%41"]
)
PORTS = st.sampled_from(
    ["1", "0", "65535", "65536", "99999", "-1", "x", "1,2,3", "1,", "", "\uff11", "0x1", " 1", "1.0"]
)
QUERIES = st.sampled_from(
    [
        "", "?", "?x", "?x=y", "?sslmode=never", "?sslmode=verify-full", "?port=99999", "?host=,", "?sslrootcert=/",
        "?target_session_attrs=x", "?sslrootcert=/etc/passwd&sslmode=verify-ca", "?sslcert=/etc/passwd", "?service=x",
        "?options=-c%20x", "?user=", "?database=", "?password", "?ssl_min_protocol_version=TLSv9", "?sslnegotiation=x",
        "?sslnegotiation=direct", "?connect_timeout=x",
    ]
)  # fmt: skip
SCHEMES = st.sampled_from(["postgresql://", "postgres://", "POSTGRESQL://", "mysql://", "postgresql:", "", "//"])
USERS = st.one_of(
    st.just(""), st.tuples(st.text(PRINTABLE, max_size=4), SECRETS).map(lambda pair: ":".join(pair) + "@")
)
URLS = st.builds(lambda *parts: "".join(parts), SCHEMES, USERS, HOSTS, st.just(":"), PORTS, st.just("/a"), QUERIES)
NONSENSE = st.text(st.characters() | PRINTABLE, max_size=12).map(lambda text: text.replace("\0", ""))
LISTED = st.sampled_from(
    ["0", "1ms", "auto", "session", "refuse", "allow", "json", "-", "/", "/dev/null", "9" * 30, '"', "é" * 40]
)
LIBPQ: dict[str, st.SearchStrategy[str]] = {
    "DATABASE_URL": URLS,
    "PGHOST": HOSTS,
    "PGPORT": PORTS,
    "PGUSER": NONSENSE,
    "PGPASSWORD": SECRETS,
    "PGDATABASE": NONSENSE,
    "PGSSLMODE": st.sampled_from(["", "disable", "allow", "verify-full", "require", "never", "REQUIRE"]),
    "PGSSLROOTCERT": st.sampled_from(["", "/", "/nowhere", "/etc/passwd", "system"]),
    "PGSSLCERT": st.sampled_from(["", "/nowhere", "/etc/passwd"]),
    "PGSSLKEY": st.sampled_from(["", "/nowhere", "/etc/passwd"]),
    "PGSSLMINPROTOCOLVERSION": st.sampled_from(["", "TLSv1.2", "TLSv9"]),
    "PGTARGETSESSIONATTRS": st.sampled_from(["", "any", "read-write", "x"]),
    "PGSERVICE": st.sampled_from(["", "x"]),
    "PGSERVICEFILE": st.sampled_from(["", "/nowhere", "/etc/passwd"]),
    "PGPASSFILE": st.sampled_from(["", "/nowhere", "/"]),
    "PGPASSWORD_FILE": st.sampled_from(["", "/nowhere", "/", "/dev/null"]),
}
OURS = {
    variable: NONSENSE | LISTED for variable in SETTINGS if variable not in {"MIGRATE_DIR", "MIGRATE_TERMINATION_LOG"}
}
ENVIRONMENTS = st.fixed_dictionaries({}, optional=LIBPQ) | st.fixed_dictionaries({}, optional=LIBPQ | OURS)
COMMANDS = st.sampled_from(
    [["up"], ["status"], ["plan"], ["check"], [], ["up", "--lock=x"], ["--since", "1"], ["nonsense"]]
)


def run(arguments: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run the program inside of this process; the exit code and all that it printed."""
    with redirect_stdout(StringIO()) as printed, redirect_stderr(printed):
        code = program.run_command(arguments, environ, Stop())
    return code, printed.getvalue()


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(arguments=COMMANDS, environ=ENVIRONMENTS)
def test_nonsense_ends_with_a_documented_code_and_a_message(
    folder: Folder, arguments: list[str], environ: dict[str, str]
) -> None:
    path = folder({"1_a.sql": "SELECT 1"})
    base = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "bob", "PGCONNECT_TIMEOUT": "1"}
    quick = {"MIGRATE_DIR": str(path), "MIGRATE_WAIT_TIMEOUT": "1ms", "MIGRATE_TERMINATION_LOG": str(path / "log")}

    code, printed = run(arguments, base | environ | quick)

    assert code in DOCUMENTED_CODES - {INTERNAL_ERROR}, printed
    assert printed.strip()
    assert "Traceback" not in printed
    assert BEGIN not in printed
    assert END not in printed


PROCESSES: dict[str, dict[str, str]] = {
    **{f"port-{port}": {"PGPORT": port} for port in ["0", "65536", "99999", "-1", "x", "1,2", "\u0661", "1 "]},
    **{f"host-{host!a}": {"PGHOST": host} for host in ["a..b", "/nowhere", ",", "[", "x" * 300, "\xa0", "u:p@h"]},
    "host-bare-ipv6": {"PGHOST": "::1"},
    **{f"user-{user!a}": {"PGUSER": user} for user in ["é", "x" * 200, "\udcff", "a b", "'"]},
    **{f"query-{query}": {"DATABASE_URL": f"postgresql://bob@127.0.0.1:1/a?{query}"}
       for query in ["sslmode=x", "port=99999", "x", "sslrootcert=/nowhere", "target_session_attrs=x", "service=x"]},
    **{f"url-{number}": {"DATABASE_URL": url} for number, url in enumerate(
        ["postgresql://", "postgresql:///", "http://a", "://", "postgresql://a:b@c@127.0.0.1/d", "postgresql://[::1/a",
         "postgresql://a@127.0.0.1:99999/b", "postgresql://127.0.0.1:1/\udcff", "\udcff", "postgresql://\u2100@127.0.0.1/"])},
    **{f"file-{path}": {"MIGRATE_TABLE_FILE": path} for path in ["/nowhere", "/", "/bin/sh"]},
}  # fmt: skip


@pytest.mark.parametrize("environ", PROCESSES.values(), ids=map(ascii, PROCESSES))
def test_process_ends_with_a_documented_code_and_a_message(
    folder: Folder, slipway: Slipway, environ: dict[str, str]
) -> None:
    migrations = folder({"1_a.sql": "SELECT 1"})
    with refusing() as port:
        base = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "bob"}

        finished = slipway("up", env=base | environ, migrations=migrations, wait_timeout="100ms")

    assert finished.code in {10, 20, 22}, str(finished)
    assert finished.outcome is not None
    assert finished.outcome["message"]


def test_every_line_is_json_whatever_the_driver_warns_of(folder: Folder, slipway: Slipway, tmp_path: Path) -> None:
    (passfile := tmp_path / ".pgpass").write_text("*:*:*:*:x\n")
    passfile.chmod(0o644)  # which libpq and the driver leave alone, where it is their default
    migrations = folder({"1_a.sql": "SELECT 1"})
    with refusing() as port:
        environ = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "bob", "HOME": str(tmp_path)}

        finished = slipway("up", env=environ, migrations=migrations, wait_timeout="100ms", log_format="json")

    assert "has group or world access" in finished.err
    assert [line for line in finished.err.splitlines() if not line.startswith("{")] == []
