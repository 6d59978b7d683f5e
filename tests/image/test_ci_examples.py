"""`examples/ci/`, `docs/ci.md`, `.github/`: valid by the schemas of GitHub and GitLab; each example is run as they do.

What is not the real thing: GitLab's Docker-in-Docker is the engine of this machine, and ports are on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers import ROOT, Ended, build, call, docker
from pgslipway import __version__
from pgslipway.errors import SlipwayError
from servers import LOCALHOST, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Json = dict[str, Any]

EXAMPLES = ROOT / "examples" / "ci"
GITHUB = EXAMPLES / "github.yml"
GITLAB = EXAMPLES / "gitlab.yml"
PAGE = ROOT / "docs" / "ci.md"
OURS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "feature")]
SCHEMAS = {
    **{path: ["--builtin-schema=vendor.github-workflows"] for path in (GITHUB, *OURS)},
    **{path: ["--builtin-schema=vendor.github-issue-forms"] for path in FORMS},
    FORMS[0].with_name("config.yml"): ["--builtin-schema=vendor.github-issue-config"],
    GITLAB: ["--builtin-schema=vendor.gitlab-ci", "--data-transform=gitlab-ci"],
}
RUNNER = 1001
"""The user that GitHub's own runners are."""

NEWEST = "004_customers.sql"
MISTYPED, REFUSED_FILE = "005_mistyped.sql", "005_refused.sql"
NEVER_CLOSED = {MISTYPED: "CREATE TABLE prices (\n    name text DEFAULT 'none\n);\n"}
REFUSED = {REFUSED_FILE: "CREATE TABLE prices (id bigint);\n\nUPDATE products SET price = prize * 2;\n"}

GITHUB_JOB: Json = yaml.safe_load(GITHUB.read_text())["jobs"]["migrations"]
GITLAB_JOB: Json = yaml.safe_load(GITLAB.read_text())["migrations"]

needs_engine = pytest.mark.docker_only

# --- a repository, and who checks it out ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repository:
    """What a user of the examples has: a Dockerfile and migrations. `id` is in the name of all that its jobs make."""

    folder: Path
    id: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def checkout(self) -> Path:
        return self.folder / "shop"

    def containers(self) -> list[str]:
        """What its jobs have left behind."""
        return docker("ps", "--all", "--quiet", f"--filter=name={self.id}").split()

    def run(self, *command: str | Path, env: Mapping[str, str]) -> Ended:
        """Run a command in the checkout as the runner's user, with nothing in its environment but what CI gives."""
        environ = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
        as_root = os.geteuid() == 0
        done = subprocess.run(
            command,
            check=False,
            cwd=self.checkout,
            env=environ | {"CI": "true", "HOME": str(self.folder)} | dict(env),
            user=RUNNER if as_root else None,
            group=RUNNER if as_root else None,
            extra_groups=[_group_of_the_engine()] if as_root else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def give(self) -> None:
        """Make everything in it the runner's own."""
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, RUNNER, RUNNER)


def _group_of_the_engine() -> int:
    socket = Path("/var/run/docker.sock")
    return socket.stat().st_gid if socket.exists() else RUNNER


@contextmanager
def new_repository(files: Mapping[str, str]) -> Iterator[Repository]:
    """The migrations of the web shop, and more; images and containers of its jobs are removed in the end."""
    made = Repository(Path(tempfile.mkdtemp(prefix="pgslipway-ci-")))
    made.folder.chmod(0o755)  # pytest's own folders are closed to the runner's user
    made.checkout.mkdir()
    shutil.copy(EXAMPLES / "Dockerfile", made.checkout)
    shutil.copytree(ROOT / "examples" / "webshop", made.checkout / "migrations")
    for name, sql in files.items():
        (made.checkout / "migrations" / name).write_text(sql)
    made.give()
    try:
        yield made
    finally:
        containers = made.containers()
        if containers:
            docker("rm", "--force", "--volumes", *containers)
        call("docker", "rmi", "--force", f"migrations:{made.id}")
        shutil.rmtree(made.folder)


# --- a small GitHub ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was run, with what it wrote to the job's summary."""

    name: str
    ended: Ended
    summary: str


@contextmanager
def service(definition: Json) -> Iterator[dict[str, str]]:
    """A service container, healthy; for each of its published addresses the one that it has here."""
    ports = [str(port).split(":") for port in definition["ports"]]
    container = docker(
        "run",
        "--detach",
        *(f"--publish={LOCALHOST}::{inside}" for _, inside in ports),
        *(f"--env={name}={value}" for name, value in definition["env"].items()),
        *shlex.split(definition["options"]),
        definition["image"],
    )
    try:
        health = ("docker", "inspect", "--format={{.State.Health.Status}}", container)
        until(lambda: call(*health).out.strip() == "healthy", "the service to be healthy")
        yield {f"{LOCALHOST}:{outside}": docker("port", container, inside) for outside, inside in ports}
    finally:
        docker("rm", "--force", "--volumes", container)


def github(repository: Repository) -> list[Step]:
    """Run the workflow's job up to its end, or to the first step that fails."""
    steps: list[Step] = []
    with ExitStack() as stack:
        addresses: dict[str, str] = {}
        for definition in GITHUB_JOB["services"].values():
            addresses |= stack.enter_context(service(definition))
        environ = dict(GITHUB_JOB["env"])
        for published, here in addresses.items():
            environ = {name: value.replace(published, here) for name, value in environ.items()}
        for step in GITHUB_JOB["steps"]:
            if "run" in step:
                steps.append(github_step(repository, step, environ))
                if steps[-1].ended.code:
                    break
            else:
                assert step["uses"].startswith("actions/checkout@")
    return steps


def github_step(repository: Repository, step: Json, environ: Mapping[str, str]) -> Step:
    """Run one step: GitHub's shell is `bash -e FILE`, and the summary is a new file, made by the runner, each time."""
    script, summary = repository.folder / "step.sh", repository.folder / f"step_summary_{secrets.token_hex(6)}"
    script.write_text(step["run"])
    summary.touch(0o644)
    repository.give()
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_RUN_ID": repository.id,
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(repository.checkout),
    }
    ended = repository.run("bash", "-e", script, env=github | dict(environ))
    return Step(step["name"], ended, summary.read_text())


def annotation(ended: Ended) -> str:
    """The only line that GitHub takes as a command: one that begins with two colons; empty if there is none."""
    found = [line for line in (ended.out + ended.err).splitlines() if line.lstrip().startswith("::")]
    assert len(found) <= 1, found
    return "".join(found)


# --- a small GitLab ---------------------------------------------------------------------------------------------


def gitlab(repository: Repository) -> Ended:
    """Run the job, and then its `after_script`, whatever became of it; each line is printed before it is run."""
    gitlab = {"GITLAB_CI": "true", "CI_JOB_ID": repository.id, "CI_PROJECT_DIR": str(repository.checkout)}
    environ = gitlab | {name: Template(value).substitute(gitlab) for name, value in GITLAB_JOB["variables"].items()}
    ended = repository.run("sh", "-c", gitlab_script(GITLAB_JOB["script"]), env=environ)
    after = repository.run("sh", "-c", gitlab_script(GITLAB_JOB["after_script"]), env=environ)
    assert after.code == 0 or ended.code != 0, after
    return ended


def gitlab_script(lines: list[str]) -> str:
    return "\n".join(["set -e", *(f"echo {shlex.quote(f'$ {line}')}\n{line}" for line in lines)])


def last_line_run(ended: Ended) -> str:
    """The line of a job's script that it ended with."""
    return [line for line in ended.out.splitlines() if line.startswith("$ ")][-1].removeprefix("$ ")


# --- the files --------------------------------------------------------------------------------------------------


def validate(path: Path, schema: list[str]) -> Ended:
    return call(sys.executable, "-m", "check_jsonschema", *schema, path)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_example_is_valid(path: Path) -> None:
    ended = validate(path, SCHEMAS[path])
    assert ended.code == 0, ended


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [(GITHUB, "runs-on:", "run-on:"), (GITHUB, "contents: read", "contents: reed"), (GITLAB, "max: 1", "max: 5")],
    ids=["misspelt key", "misspelt right", "too many retries"],
)
def test_schema_refuses_a_mistake(path: Path, good: str, bad: str, tmp_path: Path) -> None:
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace(good, bad))
    ended = validate(wrong, SCHEMAS[path])
    assert ended.code == 1, ended
    assert "Schema validation errors" in ended.out


def test_workflow_has_no_more_rights_than_it_needs() -> None:
    assert yaml.safe_load(GITHUB.read_text())["permissions"] == {"contents": "read"}
    assert "permissions" not in GITHUB_JOB
    checkout = next(step for step in GITHUB_JOB["steps"] if "uses" in step)
    assert checkout["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("path", [GITHUB, *OURS], ids=lambda path: path.name)
def test_no_expression_is_pasted_into_a_script(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    assert not [step for job in jobs for step in job.get("steps", []) if "${{" in step.get("run", "")]


def test_job_that_hangs_is_ended() -> None:
    assert GITHUB_JOB["timeout-minutes"] == 10
    assert GITLAB_JOB["timeout"] == "10 minutes"


def test_gitlab_has_one_version_of_docker() -> None:
    client = GITLAB_JOB["image"]
    assert GITLAB_JOB["services"] == [client.replace("-cli", "-dind")]


def test_gitlab_retries_what_can_heal_and_makes_up_fails() -> None:
    codes = {error.exit_code for error in SlipwayError.__subclasses__() if hasattr(error, "exit_code")}
    not_yet = 14  # `status --exit-code` and `wait`: another run of the same job does not change it
    assert GITLAB_JOB["retry"]["exit_codes"] == sorted(code for code in codes if 10 <= code <= 19 and code != not_yet)


# --- the workflows of this repository, which forks inherit -------------------------------------------------------

RELEASE: Json = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
PUBLISHING = {"image": "RELEASE_IMAGE", "build-wheel": "RELEASE_WHEELS", "chart": "RELEASE_CHART"}
"""The variable that says where to, by job; the wheel is published by a job that comes after this one."""


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_workflow_names_no_host(path: Path) -> None:
    assert re.findall(r"\S+://(?!\$)\S+|\b[\w-]+\.(?:com|dev|io|net|org)\b", path.read_text()) == []


def test_nothing_is_published_without_a_variable_that_says_where_to() -> None:
    assert {name: RELEASE[name]["if"] for name in PUBLISHING} == {
        name: f"vars.{variable} != ''" for name, variable in PUBLISHING.items()
    }
    assert RELEASE["wheel"]["needs"] == "build-wheel"
    writing = {name for name, job in RELEASE.items() if "write" in job["permissions"].values()}
    assert writing == {"image", "wheel", "chart"}


def test_nothing_is_published_that_was_not_checked() -> None:
    assert RELEASE["check"]["needs"] == "version"
    assert all(RELEASE[name]["needs"] == ["version", "check"] for name in PUBLISHING)


@pytest.mark.parametrize(
    ("tag", "code", "said"),
    [(f"v{__version__}", 0, ""), ("v0.0.1", 1, f"::error::the tag is v0.0.1, and __version__ is {__version__}\n")],
    ids=["equal", "another"],
)
def test_tag_of_a_release_is_the_version(tag: str, code: int, said: str, tmp_path: Path) -> None:
    (script,) = (step["run"] for step in RELEASE["version"]["steps"] if "run" in step)
    output = tmp_path / "output"
    output.touch()
    ended = call("env", f"GITHUB_REF_NAME={tag}", f"GITHUB_OUTPUT={output}", "bash", "-ec", script)
    assert (ended.code, ended.out) == (code, said)
    major, minor, _ = __version__.split(".")
    expected = f"full={__version__}\nminor={major}.{minor}\nmajor={major}\n"
    assert output.read_text() == ("" if code else expected)


# --- GitHub runs it ---------------------------------------------------------------------------------------------

STEPS = [step["name"] for step in GITHUB_JOB["steps"] if "run" in step]
CHECK, BUILD, APPLY, AGAIN = STEPS


def run_on_github(files: Mapping[str, str]) -> dict[str, Step]:
    with new_repository(files) as repository:
        return {step.name: step for step in github(repository)}


@pytest.fixture(scope="module")
def good(image: None) -> dict[str, Step]:  # noqa: ARG001
    """The steps of a run in which nothing is wrong."""
    return run_on_github({})


@pytest.fixture(scope="module")
def mistyped(image: None) -> dict[str, Step]:  # noqa: ARG001
    """The steps of a run with a file that can never work."""
    return run_on_github(NEVER_CLOSED)


@pytest.fixture(scope="module")
def refused(image: None) -> dict[str, Step]:  # noqa: ARG001
    """The steps of a run with a file that only Postgres can tell is wrong."""
    return run_on_github(REFUSED)


@needs_engine
def test_github_applies_everything_and_then_has_nothing_to_do(good: dict[str, Step]) -> None:
    assert {name: step.ended.code for name, step in good.items()} == dict.fromkeys(STEPS, 0), list(good.values())[-1]
    assert "checked 4 migrations: nothing wrong" in good[CHECK].ended.err
    assert re.findall(r"applied (\S+\.sql)", good[APPLY].ended.err)[-1] == NEWEST
    assert f"up to date: nothing to do; the newest of 4 migrations is {NEWEST}" in good[AGAIN].ended.err
    assert NEWEST in good[AGAIN].ended.out


@needs_engine
def test_typo_fails_the_check_on_github(mistyped: dict[str, Step]) -> None:
    assert list(mistyped) == [CHECK]
    assert mistyped[CHECK].ended.code == 21, mistyped
    assert f"{MISTYPED}:2: the string that begins here is never closed" in mistyped[CHECK].ended.err


@needs_engine
def test_migration_that_postgres_refuses_fails_on_github_when_it_is_applied(refused: dict[str, Step]) -> None:
    assert list(refused) == [CHECK, BUILD, APPLY]
    assert refused[APPLY].ended.code == 24, refused
    assert f'{REFUSED_FILE}:3: column "prize" does not exist' in refused[APPLY].ended.err


@needs_engine
def test_typo_is_shown_at_its_line_and_in_the_summary(mistyped: dict[str, Step]) -> None:
    shown = annotation(mistyped[CHECK].ended)
    assert shown.startswith(f"::error file=migrations/{MISTYPED},line=2,title=pgslipway%3A bad migration files::")
    assert MISTYPED in mistyped[CHECK].summary


@needs_engine
def test_refused_migration_is_shown_at_its_line_and_in_the_summary(refused: dict[str, Step]) -> None:
    shown = annotation(refused[APPLY].ended)
    assert shown.startswith(f"::error file=migrations/{REFUSED_FILE},line=3,title=pgslipway%3A migration failed::")
    assert REFUSED_FILE in refused[APPLY].summary


@needs_engine
def test_page_shows_what_an_annotation_looks_like(refused: dict[str, Step]) -> None:
    (shown,) = blocks("text")
    real = annotation(refused[APPLY].ended)
    assert real.startswith(shown.strip())


@needs_engine
@pytest.mark.usefixtures("image")
def test_path_of_another_folder_is_that_of_its_mount() -> None:
    options = '--volume "$PWD/db/sql:/db/sql:ro" --env MIGRATE_DIR=/db/sql'
    assert f"`{options}`" in PAGE.read_text().replace("\n", " ")
    with new_repository(NEVER_CLOSED) as repository:
        (repository.checkout / "db").mkdir()
        (repository.checkout / "migrations").rename(repository.checkout / "db" / "sql")
        script = f"docker run --rm --env GITHUB_ACTIONS {options} pgslipway:1 check"
        ended = repository.run("bash", "-ec", script, env={"GITHUB_ACTIONS": "true"})
        assert ended.code == 21, ended
        shown = annotation(ended)
        assert shown.startswith(f"::error file=db/sql/{MISTYPED},line=2,")


@needs_engine
def test_summary_tells_what_was_applied(good: dict[str, Step]) -> None:
    assert NEWEST in good[APPLY].summary
    assert annotation(good[APPLY].ended) == ""


# --- GitLab runs it ---------------------------------------------------------------------------------------------


@needs_engine
@pytest.mark.usefixtures("image")
def test_gitlab_applies_everything_and_then_has_nothing_to_do() -> None:
    with new_repository({}) as repository:
        ended = gitlab(repository)
        assert ended.code == 0, ended
        assert last_line_run(ended) == GITLAB_JOB["script"][-1]
        assert re.findall(r"applied (\S+\.sql)", ended.err)[-1] == NEWEST
        assert f"up to date: nothing to do; the newest of 4 migrations is {NEWEST}" in ended.err
        assert repository.containers() == []


@needs_engine
@pytest.mark.usefixtures("image")
def test_typo_fails_the_build_on_gitlab() -> None:
    with new_repository(NEVER_CLOSED) as repository:
        ended = gitlab(repository)
        assert ended.code in {1, 21}, ended  # of the two builders the older one ends with our code
        assert last_line_run(ended) == GITLAB_JOB["script"][0]
        assert f"{MISTYPED}:2: the string that begins here is never closed" in ended.out + ended.err


@needs_engine
@pytest.mark.usefixtures("image")
def test_migration_that_postgres_refuses_fails_on_gitlab_when_it_is_applied() -> None:
    with new_repository(REFUSED) as repository:
        ended = gitlab(repository)
        assert ended.code == 24, ended
        assert ended.out.splitlines().count(f"$ {GITLAB_JOB['script'][-2]}") == 1
        assert f'{REFUSED_FILE}:3: column "prize" does not exist' in ended.err
        assert repository.containers() == []


# --- what the new files lock -------------------------------------------------------------------------------------

LOCKS: Json = yaml.safe_load(GITHUB.read_text())["jobs"]["locks"]
LOCKS_ON_GITLAB: Json = yaml.safe_load(GITLAB.read_text())["locks"]
BLOCKING = {"005_blocking.sql": "ALTER TABLE customers ADD COLUMN vip boolean;\nCREATE INDEX ON orders (ordered_at);\n"}
GENTLE = {"005_gentle.sql": "ALTER TABLE customers ADD COLUMN vip boolean;\n"}


@pytest.fixture(scope="module")
def wheels() -> Iterator[dict[str, str]]:
    """Where pip finds our own package, which no index has in this version; the rest comes from the index."""
    folder = Path(tempfile.mkdtemp(prefix="pgslipway-wheel-"))
    folder.chmod(0o755)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    ended = call(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    assert ended.code == 0, ended
    yield {"PIP_FIND_LINKS": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TMPDIR": "/dev/shm"}
    shutil.rmtree(folder)


def branch(repository: Repository, added: Mapping[str, str]) -> None:
    """Have the repository's own files on the main branch, and more files on another one."""
    origin = repository.folder / "origin"
    who = ("-c", "user.name=dev", "-c", "user.email=dev")
    for command in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "."),
        (*who, "commit", "--quiet", "--message=main"),
        ("clone", "--quiet", "--bare", ".", str(origin)),
        ("remote", "add", "origin", str(origin)),
        ("fetch", "--quiet", "origin"),
    ):
        ended = repository.run("git", *command, env={})
        assert ended.code == 0, ended
    for name, sql in added.items():
        (repository.checkout / "migrations" / name).write_text(sql)
    repository.give()


def locks_on_github(added: Mapping[str, str], wheels: Mapping[str, str]) -> Ended:
    """Run the job on a branch that adds these files."""
    (step,) = (step for step in LOCKS["steps"] if "run" in step)
    with new_repository({}) as repository:
        branch(repository, added)
        github = {"GITHUB_BASE_REF": "main", "RUNNER_TEMP": str(repository.folder / "temp")}
        return github_step(repository, step, {**github, **wheels}).ended


@pytest.mark.needs_server
def test_github_warns_of_what_a_new_file_blocks(wheels: dict[str, str]) -> None:
    ended = locks_on_github(BLOCKING, wheels)

    assert ended.code == 0, ended
    warnings = [line for line in ended.err.splitlines() if line.startswith("::")]
    assert [line.partition("::nobody")[0] for line in warnings] == [
        f"::warning file=migrations/005_blocking.sql,line={line},title=pgslipway%3A blocking" for line in (1, 2)
    ]
    assert "001_" not in ended.out


@pytest.mark.needs_server
def test_gitlab_fails_with_what_counts_as_a_warning(wheels: dict[str, str]) -> None:
    codes = {}
    for name, added in (("blocking", BLOCKING), ("gentle", GENTLE)):
        with new_repository({}) as repository:
            branch(repository, added)
            home = repository.folder / "python"
            made = repository.run("python3", "-m", "venv", home, env={})
            assert made.code == 0, made
            environ = {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", "PATH": f"{home}/bin:{os.environ['PATH']}"}
            codes[name] = repository.run(
                "sh", "-c", gitlab_script(LOCKS_ON_GITLAB["script"]), env={**environ, **wheels}
            ).code

    assert codes == {"blocking": LOCKS_ON_GITLAB["allow_failure"]["exit_codes"], "gentle": 0}


# --- the page ---------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """The page's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("language", "paths"),
    [("yaml", (GITHUB, GITLAB)), ("dockerfile", (EXAMPLES / "Dockerfile",))],
    ids=["yaml", "dockerfile"],
)
def test_page_shows_parts_of_the_examples(language: str, paths: tuple[Path, ...]) -> None:
    shown = blocks(language)
    assert shown
    for block in shown:
        assert any(block in path.read_text() for path in paths), block


@needs_engine
@pytest.mark.usefixtures("image")
def test_check_since_a_version_leaves_older_files_in_peace() -> None:
    line = 'RUN ["pgslipway", "check", "--since", "42"]'
    assert f"`{line}`" in PAGE.read_text()
    with new_repository(NEVER_CLOSED) as repository:
        dockerfile = repository.checkout / "Dockerfile"
        dockerfile.write_text(dockerfile.read_text().replace('RUN ["pgslipway", "check"]', line))
        built = build(repository.checkout, f"migrations:{repository.id}")
        assert built.code == 0, built
        assert line in dockerfile.read_text()


@needs_engine
@pytest.mark.usefixtures("image")
def test_every_command_of_the_page_works() -> None:
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    with new_repository({}) as repository:
        script = "\n".join(commands).replace("migrations:ci", f"migrations:{repository.id}")
        script = script.replace("postgres-ci", f"postgres-{repository.id}")
        ended = repository.run("bash", "-ec", script, env={})
        assert ended.code == 0, ended
        assert ended.err.count(f"the newest of 4 migrations is {NEWEST}") == 2
        assert repository.containers() == []
