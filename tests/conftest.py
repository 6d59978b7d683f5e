"""Fixtures for every test: a real server, a fresh database, a folder of migrations, and the program itself."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import docker  # type: ignore[import-untyped]
import pytest
from docker.errors import DockerException  # type: ignore[import-untyped]
from hypothesis import settings

from containers import ROOT, call
from contract import CONTRACT
from sampling import examples, sample_of_this_run
from servers import (
    PATIENCE,
    Database,
    Embedded,
    Server,
    build_tools,
    make_certificates,
    timescaledb,
    tls_server,
    until,
)
from turns import MACHINE, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping

    from servers import Certificates, Cluster

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

NO_ENGINE = "no Docker engine answers"
SERVERS = {"binaries", "server", "image", "tools"}
"""The fixtures that all others with something in them that runs are made of."""
DOCUMENTED_CODES = set(CONTRACT)
INTERNAL_ERROR = 70
TERMINATION_MESSAGE_LIMIT = 4096
SHORTEST_SECRET = 8
FORMS: tuple[Callable[[str], str], ...] = (str, lambda word: quote(word, safe=""), lambda word: json.dumps(word)[1:-1])


# --- tests that need an engine ----------------------------------------------------------------------------------


@cache
def has_engine() -> bool:
    """Whether containers can be run; PGSLIPWAY_DOCKER=0 says that they shall not be."""
    if os.environ.get("PGSLIPWAY_DOCKER") == "0":
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves its socket open where nobody answers
        answers = engine_answers()
        gc.collect()
    return answers


def engine_answers() -> bool:
    """Whether there is an engine."""
    try:
        client = docker.from_env()
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker_only: needs a Docker engine; not run without, a failure when CI=true")
    config.addinivalue_line("markers", "faults: slow; every fault, systematically (make test-faults)")
    config.addinivalue_line("markers", "needs_server: Postgres, Docker or a network; given to what has such a fixture")
    config.addinivalue_line("markers", "alone: takes the whole machine; the tests of other workers wait meanwhile")
    settings.register_profile("as usual", max_examples=examples(100))
    settings.load_profile("as usual")


@pytest.hookimpl(tryfirst=True)  # before -m selects by it
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("docker_only") or SERVERS & fixtures_of(item):
            item.add_marker("needs_server")


def fixtures_of(item: pytest.Item) -> set[str]:
    """All that a test is given by fixtures, also those of fixtures; not what it is parametrized with."""
    assert isinstance(item, pytest.Function)
    return set(item.fixturenames) - (item.callspec.params.keys() if hasattr(item, "callspec") else set())


def pytest_report_header() -> str:
    return f"messages at which the sweeps of faults strike: {sample_of_this_run()}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with MACHINE.entered(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker_only") is None or has_engine():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(NO_ENGINE, pytrace=False)
    pytest.skip(NO_ENGINE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    missed = [report.nodeid for report in skipped if NO_ENGINE in str(report.longrepr)]
    if missed:
        terminalreporter.section(f"NOT RUN: {len(missed)} tests, since {NO_ENGINE}", red=True, bold=True)
        terminalreporter.write_line("\n".join(sorted(missed)))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "faults":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")


# --- servers and databases --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def binaries() -> Iterator[Embedded]:
    """The embedded binaries, for as long as there are tests."""
    made = Embedded()
    yield made
    made.close()


@pytest.fixture
def embedded(binaries: Embedded) -> Iterator[Embedded]:
    """Where small clusters come from: `embedded.cluster()`; they are gone when the test ends."""
    first = len(binaries.clusters)
    yield binaries
    binaries.remove_clusters_from(first)


@pytest.fixture
def cluster(embedded: Embedded) -> Cluster:
    """A small Postgres of the test's own, running, without TimescaleDB."""
    return embedded.cluster().start()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """TimescaleDB in a container, or an embedded Postgres where there is no engine."""
    if has_engine():
        with timescaledb() as running:
            yield running
    else:
        binaries: Embedded = request.getfixturevalue("binaries")
        yield binaries.cluster(max_connections=200).start().server


@pytest.fixture
async def database(server: Server) -> AsyncIterator[Database]:
    """A fresh database with nothing in it."""
    async with server.fresh_database() as made:
        yield made


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image that has PgBouncer and OpenSSL in it."""
    with held(ROOT / "Dockerfile"):  # the next worker finds it built
        return build_tools(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="session")
def certificates(tools: str) -> Certificates:
    """What a TLS server and its clients need."""
    assert tools
    return make_certificates()


@pytest.fixture(scope="session")
def encrypted(server: Server, certificates: Certificates) -> Iterator[Server]:
    """A server whose certificate is for `localhost` and that lets nobody in without TLS."""
    assert server.network
    with tls_server(server.network, certificates) as running:
        yield running


@pytest.fixture(scope="session")
def image() -> None:
    """The image of the source as it is now, built unless PGSLIPWAY_IMAGE says that this was done just now."""
    if os.environ.get("PGSLIPWAY_IMAGE") == "built":
        return
    with held(ROOT / "Dockerfile"):
        built = call("make", "image")
    assert built.code == 0, built


# --- migrations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Folder:
    """Writes migrations into a folder; called again, it adds to it."""

    path: Path

    def __call__(self, files: Mapping[str, str | bytes]) -> Path:
        self.path.mkdir(exist_ok=True)
        for name, content in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self.path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """`folder({"001_a.sql": "CREATE TABLE a ();"})` is a folder of migrations."""
    return Folder(tmp_path / "migrations")


# --- the program ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """What an orchestrator sees of a run that has ended."""

    code: int
    out: str
    err: str
    outcome: dict[str, Any] | None

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}\n--- outcome\n{self.outcome}"


class Process:
    """A run of the program that goes on while the test does."""

    def __init__(self, args: tuple[str, ...], env: Mapping[str, str], folder: Path, limit: float) -> None:
        self._given = [*env.items(), *(("", arg.partition("=")[2] or arg) for arg in args)]
        self._termination = Path(env["MIGRATE_TERMINATION_LOG"])
        self._limit = limit
        self._deadline = time.monotonic() + limit
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            command = [sys.executable, "-m", "pgslipway", *args]
            self._popen = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return self._err.read_text(errors="backslashreplace")

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for_log(self, text: str) -> str:
        """Block until the log holds a text; the log."""
        until(lambda: text in self.log or not self.is_running() or self._is_late(), f"{text!r} in the log")
        if text not in self.log:
            self.kill()
            pytest.fail(f"no {text!r} in the log\n{self._look()}")
        return self.log

    def terminate(self, sig: signal.Signals = signal.SIGTERM) -> None:
        self._popen.send_signal(sig)

    def finish(self) -> Finished:
        """Block until it has ended and check what every end has in common."""
        try:
            self._popen.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still running after {self._limit:g} s\n{self._look()}")
        finished = self._look()
        check(finished, self._given)
        return finished

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._popen.kill()
        self._popen.wait()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _look(self) -> Finished:
        out = self._out.read_text(errors="backslashreplace")
        return Finished(self._popen.returncode, out, self.log, _outcome(self._termination))


IN_MEMORY = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}
"""Where rehearsals have their servers: on a busy disk, one takes ten seconds to start."""


class Slipway:
    """Runs the program with an environment of its own: PATH, a folder for temporary files, and what the test says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Process] = []

    def __call__(
        self,
        *args: str,
        env: Mapping[str, str],
        migrations: Path | None = None,
        limit: float = PATIENCE,
        **settings: str,
    ) -> Finished:
        """Run it to its end; `wait_timeout="1s"` is MIGRATE_WAIT_TIMEOUT=1s. It blocks: see `asyncio.to_thread`."""
        return self.start(*args, env=env, migrations=migrations, limit=limit, **settings).finish()

    def start(
        self,
        *args: str,
        env: Mapping[str, str],
        migrations: Path | None = None,
        limit: float = PATIENCE,
        **settings: str,
    ) -> Process:
        """Start it; the test goes on."""
        folder = self._folder / str(len(self._processes))
        folder.mkdir(parents=True)
        process = Process(args, self._environ(folder, env, migrations, settings), folder, limit)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()

    def _environ(
        self, folder: Path, env: Mapping[str, str], migrations: Path | None, settings: Mapping[str, str]
    ) -> dict[str, str]:
        environ = {"PATH": os.environ["PATH"], "MIGRATE_TERMINATION_LOG": str(folder / "termination"), **IN_MEMORY}
        if migrations is not None:
            environ["MIGRATE_DIR"] = str(migrations)
        return environ | {f"MIGRATE_{name.upper()}": value for name, value in settings.items()} | dict(env)


@pytest.fixture
def slipway(tmp_path: Path) -> Iterator[Slipway]:
    """The program as an orchestrator sees it: `slipway("up", env=database.environ, migrations=folder({...}))`."""
    made = Slipway(tmp_path / "runs")
    yield made
    made.close()


def _outcome(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    assert len(content) <= TERMINATION_MESSAGE_LIMIT, content
    outcome: dict[str, Any] = json.loads(content)
    return outcome


def check(finished: Finished, given: Iterable[tuple[str, str]]) -> None:
    """Assert what holds for every run: a documented code, no traceback, none of the passwords that it was given."""
    said = f"{finished.out}{finished.err}{json.dumps(finished.outcome, ensure_ascii=False)}"
    assert finished.code < 0 or finished.code in DOCUMENTED_CODES, str(finished)
    assert finished.code == INTERNAL_ERROR or "Traceback" not in said, str(finished)
    assert "RuntimeWarning" not in said, str(finished)
    assert not [secret for secret in _secrets(given) if secret in said], str(finished)


def _secrets(given: Iterable[tuple[str, str]]) -> set[str]:
    """Every password that the program was given, as it is and as it looks in a URL or in JSON."""
    values = [(name.removesuffix("_FILE"), _value(name, value)) for name, value in given]
    passwords = {value for name, value in values if name == "PGPASSWORD"}
    passwords |= {password for _, value in values for password in _passwords_in(value)}
    return {form(word) for word in passwords if len(word) >= SHORTEST_SECRET for form in FORMS}


def _value(name: str, value: str) -> str:
    if not name.endswith("_FILE"):
        return value
    return Path(value).read_text(errors="replace").removesuffix("\n") if Path(value).is_file() else ""


def _passwords_in(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        return [unquote(parts.password or ""), *parse_qs(parts.query).get("password", [])]
    except ValueError:
        return []
