"""The environment and the flags, as one value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgslipway.config import Config, from_environ
from pgslipway.libpq import target
from pgslipway.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Folder, Slipway

VALUES: dict[str, tuple[str, object]] = {
    "MIGRATE_DIR": ("/a b", "/a b"),
    "MIGRATE_LAYOUT": ("goose", "goose"),
    "MIGRATE_SCHEMA": ("Ops é", "Ops é"),
    "MIGRATE_TABLE": ("t", "t"),
    "MIGRATE_ROLE": ("owner", "owner"),
    "MIGRATE_WAIT_TIMEOUT": ("3s", 3.0),
    "MIGRATE_LOCK_TIMEOUT": ("2m", 120.0),
    "MIGRATE_LOCK": ("transaction", "transaction"),
    "MIGRATE_DDL_LOCK_TIMEOUT": ("0", 0.0),
    "MIGRATE_DDL_RETRY": ("1h", 3600.0),
    "MIGRATE_STATEMENT_TIMEOUT": ("1500ms", 1.5),
    "MIGRATE_AHEAD": ("refuse", "refuse"),
    "MIGRATE_OUT_OF_ORDER": ("refuse", "refuse"),
    "MIGRATE_EDITED": ("warn", "warn"),
    "MIGRATE_ADOPT": ("goose:ops.goose_db_version", "goose:ops.goose_db_version"),
    "MIGRATE_CREATE_DATABASE": ("yes", "yes"),
    "MIGRATE_TARGETS": ("a b", "a b"),
    "MIGRATE_TARGETS_QUERY": ("SELECT 1", "SELECT 1"),
    "MIGRATE_TARGET_KIND": ("url", "url"),
    "MIGRATE_TARGET_PATH": ("public", "public"),
    "MIGRATE_PARALLEL": ("1000", 1000),
    "MIGRATE_CANARIES": ("0", 0),
    "MIGRATE_MAX_FAILURES": ("7", 7),
    "MIGRATE_SHARDS": ("4", 4),
    "MIGRATE_LOG_FORMAT": ("json", "json"),
    "MIGRATE_TERMINATION_LOG": ("/tmp/log", "/tmp/log"),
}
DEFAULTS = {
    "MIGRATE_DIR": "/migrations",
    "MIGRATE_LAYOUT": "auto",
    "MIGRATE_SCHEMA": "public",
    "MIGRATE_TABLE": "schema_migrations",
    "MIGRATE_ROLE": None,
    "MIGRATE_WAIT_TIMEOUT": 60.0,
    "MIGRATE_LOCK_TIMEOUT": 600.0,
    "MIGRATE_LOCK": "auto",
    "MIGRATE_DDL_LOCK_TIMEOUT": 0.5,
    "MIGRATE_DDL_RETRY": 300.0,
    "MIGRATE_STATEMENT_TIMEOUT": 0.0,
    "MIGRATE_AHEAD": None,
    "MIGRATE_OUT_OF_ORDER": "allow",
    "MIGRATE_EDITED": "refuse",
    "MIGRATE_ADOPT": None,
    "MIGRATE_CREATE_DATABASE": "no",
    "MIGRATE_TARGETS": None,
    "MIGRATE_TARGETS_QUERY": None,
    "MIGRATE_TARGET_KIND": "schema",
    "MIGRATE_TARGET_PATH": None,
    "MIGRATE_PARALLEL": 4,
    "MIGRATE_CANARIES": 1,
    "MIGRATE_MAX_FAILURES": 0,
    "MIGRATE_SHARDS": None,
    "MIGRATE_LOG_FORMAT": "auto",
    "MIGRATE_TERMINATION_LOG": None,
}
MALFORMED = {
    "MIGRATE_LAYOUT": "liquibase",
    "MIGRATE_SCHEMA": "é" * 32,
    "MIGRATE_TABLE": "t" * 58,
    "MIGRATE_ROLE": "r" * 64,
    "MIGRATE_WAIT_TIMEOUT": "soon",
    "MIGRATE_LOCK_TIMEOUT": "-1s",
    "MIGRATE_LOCK": "Session",
    "MIGRATE_DDL_LOCK_TIMEOUT": "10",
    "MIGRATE_DDL_RETRY": "5 m",
    "MIGRATE_STATEMENT_TIMEOUT": "25d",
    "MIGRATE_AHEAD": "yes",
    "MIGRATE_OUT_OF_ORDER": "no",
    "MIGRATE_EDITED": "allow",
    "MIGRATE_ADOPT": "gooze",
    "MIGRATE_CREATE_DATABASE": "true",
    "MIGRATE_TARGET_KIND": "table",
    "MIGRATE_PARALLEL": "0",
    "MIGRATE_CANARIES": "-1",
    "MIGRATE_MAX_FAILURES": "10000000",
    "MIGRATE_SHARDS": "two",
    "MIGRATE_LOG_FORMAT": "xml",
}
EXPECTED = """\
MIGRATE_LAYOUT: expected auto or plain or goose or dbmate or tern or flyway or prisma or diesel or drizzle, not \
'liquibase'
MIGRATE_SCHEMA: expected a name of at most 63 bytes, not 'éééééééééééééééééééééééééééééééé'
MIGRATE_TABLE: expected a name of at most 52 bytes, not 'tttttttttttttttttttttttttttttttttttttttttttttttttttttttttt'
MIGRATE_ROLE: expected a name of at most 63 bytes, not \
'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'
MIGRATE_WAIT_TIMEOUT: expected a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not 'soon'
MIGRATE_LOCK_TIMEOUT: expected a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not '-1s'
MIGRATE_LOCK: expected auto or session or transaction, not 'Session'
MIGRATE_DDL_LOCK_TIMEOUT: expected a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not '10'
MIGRATE_DDL_RETRY: expected a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not '5 m'
MIGRATE_STATEMENT_TIMEOUT: expected a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not '25d'
MIGRATE_AHEAD: expected allow or refuse, not 'yes'
MIGRATE_OUT_OF_ORDER: expected allow or refuse, not 'no'
MIGRATE_EDITED: expected refuse or warn, not 'allow'
MIGRATE_ADOPT: expected none, baseline:VERSION@RELATION or one of golang-migrate, goose, dbmate, flyway, sqlx, prisma, \
drizzle, diesel, refinery, tern, supabase, not 'gooze'
MIGRATE_CREATE_DATABASE: expected no or yes, not 'true'
MIGRATE_TARGET_KIND: expected schema or database or url, not 'table'
MIGRATE_PARALLEL: expected a whole number from 1 to 1000, not '0'
MIGRATE_CANARIES: expected a whole number from 0 to 1000000, not '-1'
MIGRATE_MAX_FAILURES: expected a whole number from 0 to 1000000, not '10000000'
MIGRATE_SHARDS: expected a whole number from 1 to 100000, not 'two'
MIGRATE_LOG_FORMAT: expected auto or text or json, not 'xml'"""
WITH_TARGETS = {"MIGRATE_TARGETS": "a"}
"""Some settings mean nothing without."""
URL = "postgresql://bob:secret@db:5433/shop"


def value_of(config: Config, variable: str) -> object:
    return getattr(config, SETTINGS[variable].name)


def flag(variable: str) -> str:
    return "--" + variable.removeprefix("MIGRATE_").lower().replace("_", "-")


def test_every_setting_is_in_these_tests() -> None:
    assert set(VALUES) == set(DEFAULTS) == set(SETTINGS)


@pytest.mark.parametrize("environ", [{}, dict.fromkeys(VALUES, "")], ids=["unset", "empty"])
def test_setting_that_is_not_given_has_its_default(environ: dict[str, str]) -> None:
    config = from_environ(environ, {}, needs_database=False)

    assert {variable: value_of(config, variable) for variable in SETTINGS} == DEFAULTS
    assert config.problems == ()


@pytest.mark.parametrize(("variable", "text", "value"), [(name, *pair) for name, pair in VALUES.items()], ids=VALUES)
class TestSetting:
    def test_is_read_from_the_environment(self, variable: str, text: str, value: object) -> None:
        config = from_environ({**WITH_TARGETS, variable: text}, {})

        assert (value_of(config, variable), config.problems) == (value, ())

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no-line-end", "lf", "crlf"])
    def test_is_read_from_a_file(self, tmp_path: Path, variable: str, text: str, value: object, end: str) -> None:
        (tmp_path / "value").write_bytes(f"{text}{end}".encode())

        config = from_environ({**WITH_TARGETS, f"{variable}_FILE": str(tmp_path / "value"), variable: ""}, {})

        assert (value_of(config, variable), config.problems) == (value, ())

    def test_flag_wins(self, variable: str, text: str, value: object) -> None:
        config = from_environ({**WITH_TARGETS, variable: MALFORMED.get(variable, "/other")}, {variable: text})

        assert (value_of(config, variable), config.problems) == (value, ())

    def test_empty_flag_counts_as_unset(self, variable: str, text: str, value: object) -> None:
        config = from_environ({variable: text}, {variable: ""})

        assert value_of(config, variable) == value


@pytest.mark.parametrize("variable", [*VALUES, "DATABASE_URL", "PGPASSWORD", "PGHOST"])
def test_setting_that_is_given_twice_is_refused(tmp_path: Path, variable: str) -> None:
    (tmp_path / "value").write_text("x")

    config = from_environ({**WITH_TARGETS, variable: "x", f"{variable}_FILE": str(tmp_path / "value")}, {})

    assert config.problems == (f"{variable} and {variable}_FILE are both set; keep one of them",)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MIGRATE_TARGET_KIND", "database"), ("MIGRATE_TARGET_PATH", "public"), ("MIGRATE_PARALLEL", "2"),
        ("MIGRATE_CANARIES", "2"), ("MIGRATE_MAX_FAILURES", "2"), ("MIGRATE_SHARDS", "2"),
    ],
)  # fmt: skip
def test_setting_of_targets_is_refused_without_targets(variable: str, text: str) -> None:
    config = from_environ({variable: text, "MIGRATE_TARGETS": ""}, {})

    assert config.problems == (
        f"{variable} goes with MIGRATE_TARGETS or MIGRATE_TARGETS_QUERY, and neither is set, or it is empty",
    )


def test_file_without_targets_is_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("\n")

    config = from_environ({"MIGRATE_TARGETS_FILE": str(tmp_path / "targets")}, {})

    assert (config.has_targets, config.targets) == (True, "")


def test_every_malformed_setting_is_named_at_once(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("up", env=MALFORMED | {"PGPORT": "x", "DATABASE_URL": "mysql://h"}, migrations=folder({}))

    assert finished.code == 20
    assert finished.outcome is not None
    assert finished.outcome["message"] == (
        f"{EXPECTED}\n"
        "DATABASE_URL: expected postgresql://user@host:port/database (the value is not shown: it may hold a password); "
        "give a password with special characters as PGPASSWORD or PGPASSWORD_FILE\n"
        "PGPORT: expected a port number, not 'x'"
    )


def test_flag_is_called_like_its_variable(folder: Folder, slipway: Slipway) -> None:
    flags = [f"{flag(variable)}={text}" for variable, text in MALFORMED.items()]

    finished = slipway("check", *flags, env={}, migrations=folder({"1_a.sql": ""}))

    assert finished.code == 20
    assert finished.outcome is not None
    assert finished.outcome["message"] == EXPECTED


DURATIONS: dict[str, float] = {
    "0": 0, "0s": 0, "1ms": 0.001, "500ms": 0.5, "5s": 5, "1.5s": 1.5, "10m": 600, "0.5h": 1800, "007s": 7,
    "576h": 24 * 24 * 3600,
}  # fmt: skip
BAD_DURATIONS = [
    "5", "1", "00", "0.0", "-1s", "+1s", "1 s", " 1s", "1s ", "1S", "1M", "1d", "s", ".5s", "1.s", "1e3s", "1,5s",
    "1m30s", "inf", "nan", "577h", "9" * 12 + "h", "9" * 400 + "s", "\u0661s", "1s\n", "0x1s", "1µs", "none", "PT5S",
]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items(), ids=DURATIONS)
def test_duration_is_seconds(text: str, seconds: float) -> None:
    config = from_environ({"MIGRATE_DDL_RETRY": text}, {})

    assert (round(config.ddl_retry, 9), config.problems) == (seconds, ())


@pytest.mark.parametrize("text", BAD_DURATIONS, ids=lambda text: ascii(text[:9]))
def test_duration_that_is_none_is_refused(text: str) -> None:
    config = from_environ({"MIGRATE_DDL_RETRY": text}, {})

    expected = f"a duration such as 500ms, 5s or 10m, at most 24 days, or 0, not {text[:100]!r}"
    assert config.problems == (f"MIGRATE_DDL_RETRY: expected {expected}",)


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "No such file or directory"),
    "not-utf-8": (b"\xff", " is not UTF-8 text"),
    "nul": (b"a\0b", "the value holds a NUL or bytes that are not UTF-8"),
}


@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_file_of_a_value_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)

    config = from_environ({"PGPASSWORD_FILE": str(path), "MIGRATE_TABLE_FILE": str(path)}, {})

    assert [problem.partition(":")[0].removesuffix("_FILE") for problem in config.problems] == [
        "MIGRATE_TABLE",
        "PGPASSWORD",
    ]
    assert all(problem.endswith(reason) for problem in config.problems)


def test_only_one_line_end_is_dropped_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b" pass\n\r\n\n")

    config = from_environ({"PGPASSWORD_FILE": str(tmp_path / "password")}, {})

    assert config.libpq["PGPASSWORD"] == " pass\n\r\n"


@pytest.mark.parametrize("path", ["/a\n", "/a ", "/a b", "/a:b", "a", ".../a", "/"], ids=ascii)
def test_value_that_may_be_the_secret_instead_of_its_path_is_not_shown(path: str) -> None:
    config = from_environ({"PGUSER": "u", "PGSSLROOTCERT": path}, {})

    assert config.problems == ("PGSSLROOTCERT: no such file, or none that may be looked at; give the path of one",)


def test_blanks_before_a_url_do_no_harm() -> None:
    config = from_environ({"DATABASE_URL": "  postgresql://bob@db/shop\n"}, {})

    assert (config.problems, target(config.libpq)) == ((), "db:5432/shop")


def test_plus_in_a_url_stands_for_itself() -> None:
    config = from_environ({"DATABASE_URL": "postgresql://db/shop?user=bob&password=a+b"}, {})

    assert config.libpq["PGPASSWORD"] == "a+b"


TARGETS: dict[str, tuple[Mapping[str, str], str]] = {
    "url": ({"DATABASE_URL": URL}, "db:5433/shop"),
    "url-postgres": ({"DATABASE_URL": "postgres://bob:secret@db/shop"}, "db:5432/shop"),
    "url-and-variables": ({"DATABASE_URL": "postgresql:///shop", "PGHOST": "db", "PGPORT": "1"}, "db:1/shop"),
    "url-wins": ({"DATABASE_URL": URL, "PGHOST": "x", "PGDATABASE": "y", "PGUSER": "bob"}, "db:5433/shop"),
    "url-parameters": (
        {"DATABASE_URL": "postgresql://db/?user=bob&password=secret&port=7&dbname=shop"},
        "db:7/shop",
    ),
    "url-database": ({"DATABASE_URL": "postgresql://bob@db/x?database=shop"}, "db:5432/shop"),
    "url-hosts": ({"DATABASE_URL": "postgresql://bob@a,[::1]:7/shop"}, "a:5432,[::1]:7/shop"),
    "address-only": ({"PGHOSTADDR": "10.0.0.1", "PGUSER": "bob"}, "10.0.0.1:5432/"),
    "url-encoded": ({"DATABASE_URL": "postgresql://b%6fb:se%63ret@db/sh%6fp"}, "db:5432/shop"),
    "hosts": ({"DATABASE_URL": "postgresql://bob:secret@a:1,b:2/shop"}, "a:1,b:2/shop"),
    "address": ({"DATABASE_URL": "postgresql://bob:secret@[::1]:6432/shop"}, "[::1]:6432/shop"),
    "socket": ({"PGHOST": "/run/pg", "PGDATABASE": "shop", "PGPASSWORD": "secret"}, "/run/pg:5432/shop"),
    "variables": ({"PGHOST": "db", "PGPORT": "1", "PGUSER": "bob", "PGDATABASE": "shop"}, "db:1/shop"),
    "host-only": ({"PGHOST": "db", "PGUSER": "bob", "PGPASSWORD": "secret"}, "db:5432/"),
    "url-without-database": ({"DATABASE_URL": "postgresql://bob:secret@db"}, "db:5432/"),
}


@pytest.mark.parametrize(("environ", "shown"), TARGETS.values(), ids=TARGETS)
def test_target_is_host_port_and_database_and_nobody(environ: Mapping[str, str], shown: str) -> None:
    config = from_environ(environ, {})

    assert (config.problems, target(config.libpq)) == ((), shown)
    assert "secret" not in repr(config)


@given(st.dictionaries(st.sampled_from([*SETTINGS, "DATABASE_URL", "PGPORT", "PGSSLMODE"]), st.text(max_size=8)))
def test_reading_settings_never_raises(environ: dict[str, Any]) -> None:
    config = from_environ(environ, {})

    assert all(problem.partition(":")[0].split()[0] in {*environ, "PGUSER"} for problem in config.problems)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGDATABASE", "postgres://u:s3cretPW@h/d"),
        ("PGUSER", "postgres://u:s3cretPW@h/d"),
        ("PGSSLKEY", "-----BEGIN PRIVATE KEY-----\ns3cretPW"),
        ("PGSSLROOTCERT", "x" * 5000),
        ("PGPORT", "1" * 5000),
    ],
    ids=["database", "user", "key", "long path", "long port"],
)
def test_value_in_the_wrong_place_is_a_problem_that_shows_no_secret(variable: str, value: str) -> None:
    config = from_environ({"PGUSER": "u"} | {variable: value}, {})

    assert [problem for problem in config.problems if problem.startswith(f"{variable}: ")]
    assert "s3cretPW" not in "".join(config.problems)


WHITE_SPACE = "a name without white space around it and without control characters"
UNSEEN: dict[str, tuple[str, str]] = {
    "line end": ("public\n", WHITE_SPACE),
    "blank at the end": ("schema_migrations ", WHITE_SPACE),
    "blank at the start": (" app", WHITE_SPACE),
    "tab": ("a\tb", WHITE_SPACE),
    "carriage return": ("a\rpp", WHITE_SPACE),
    "no-break space": ("app\xa0", WHITE_SPACE),
    "zero-width space": ("app\u200b", WHITE_SPACE),
    "bell": ("a\x07pp", WHITE_SPACE),
    "Kubernetes's variable": ("$(NAME)", "a name in which every variable was replaced"),
    "Compose's variable": ("app_${NAME}", "a name in which every variable was replaced"),
}


NAMES = ["MIGRATE_SCHEMA", "MIGRATE_TABLE", "MIGRATE_ROLE", "PGUSER", "PGDATABASE"]
PATHS = ["MIGRATE_DIR", "MIGRATE_TERMINATION_LOG"]


@pytest.mark.parametrize("variable", [*NAMES, *PATHS])
@pytest.mark.parametrize(("value", "expected"), UNSEEN.values(), ids=UNSEEN)
def test_name_that_does_not_look_like_what_it_is_is_refused_and_shown(
    variable: str, value: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "value").write_bytes(f"{value}\n".encode())

    config = from_environ({"PGUSER": "bob"} | {variable: value}, {})
    by_file = from_environ({f"{variable}_FILE": str(tmp_path / "value")}, {})
    expected = expected.replace("name", "path", 1) if variable in PATHS else expected

    assert config.problems == (f"{variable}: expected {expected}, not {value!r}",)
    assert by_file.problems == (f"{variable}: expected {expected}",)


HOSTS = [
    "db\n", " db", "db ", '"db"', "'db'", "$(DB_HOST)", "${DB_HOST}", "$DB_HOST", "db,$(OTHER)", "a b", "db/",
    "db\x1b[0m", "http://db", "/run/postgresql\n", "<host>", "db;", "{{ .Values.host }}",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_host_that_cannot_be_one_is_refused_and_shown(host: str) -> None:
    config = from_environ({"PGUSER": "bob", "PGHOST": host}, {})

    shown = host.rpartition(",")[2]
    assert config.problems == (f"PGHOST: expected host names or addresses, each perhaps with a port, not {shown!r}",)


@pytest.mark.parametrize(
    "host",
    ["db", "a_b", "db.svc.cluster.local.", "bücher.example", "::1", "[::1]:5432", "fe80::1%eth0", "10.0.0.1:1", "/a b"],
)
def test_host_that_may_be_one_is_taken(host: str) -> None:
    assert from_environ({"PGUSER": "bob", "PGHOST": host}, {}).problems == ()


NOT_REPLACED = "was not replaced; in Kubernetes, env has to define it further up"
REFERENCES: dict[str, tuple[str, str, str]] = {
    "host": ("DATABASE_URL", "postgresql://bob:secret@$(DB_HOST):5432/shop", "$(DB_HOST)"),
    "port": ("DATABASE_URL", "postgresql://bob@db:$(DB_PORT)/shop", "$(DB_PORT)"),
    "database": ("DATABASE_URL", "postgresql://bob@db/${DB_NAME}", "${DB_NAME}"),
    "password of a URL": ("DATABASE_URL", "postgresql://bob:$(DB_PASSWORD)@db/shop", "a variable such as $(NAME)"),
    "keywords": ("DATABASE_URL", "host=$(DB_HOST) user=bob", "$(DB_HOST)"),
    "whole URL": ("DATABASE_URL", "$(DATABASE_URL)", "$(DATABASE_URL)"),
    "password": ("PGPASSWORD", "$(DB_PASSWORD)", "a variable such as $(NAME)"),
}


@pytest.mark.parametrize(("variable", "value", "reference"), REFERENCES.values(), ids=REFERENCES)
def test_variable_that_was_not_replaced_is_refused(variable: str, value: str, reference: str) -> None:
    config = from_environ({"PGUSER": "bob"} | {variable: value}, {})

    end = "; a $ is %24 here" if variable == "DATABASE_URL" else ""
    assert config.problems == (f"{variable}: {reference} {NOT_REPLACED}{end}",)


@pytest.mark.parametrize("password", ["$(", "a$(b", "$(b c)", "$5", "x$(b)"])
def test_password_may_hold_what_a_variable_begins_with(password: str) -> None:
    assert from_environ({"PGUSER": "bob", "PGPASSWORD": password}, {}).problems == ()


def test_port_that_is_none_is_shown() -> None:
    config = from_environ({"PGUSER": "bob", "PGPORT": "5432\n"}, {})

    assert config.problems == ("PGPORT: expected a port number, not '5432\\n'",)


def test_value_of_a_variable_is_read_when_it_is_needed_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("from a file\n")
    environ = {
        "MIGRATE_VAR_A": "secret", "MIGRATE_VAR_B_FILE": str(tmp_path / "b"), "MIGRATE_VAR_C_FILE": "/nowhere",
        "MIGRATE_VAR_D": "",
    }  # fmt: skip

    config = from_environ(environ, {})

    assert (config.problems, config.warnings) == ((), ())
    assert [config.variables.value(name) for name in ("a", "A", "b", "d", "e")] == [
        "secret", "secret", "from a file", None, None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^MIGRATE_VAR_C_FILE: /nowhere: No such file or directory$"):
        config.variables.value("c")
    assert "secret" not in f"{config!r}{config.variables!r}"
