"""A run over many targets, killed at random moments, alone or in shards: the next runs do what is left, all of it once.

The model of an Indexed Job: random names, 1 to 7 shards, pods that are killed and begun again, and two at once for one
index. Each file leaves a row that names its tenant and its pod.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pgslipway.targets.names import Target, number_of
from sampling import sample_of_this_run
from servers import eventually
from tenants import databases, files_for, schemas

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from conftest import Folder, Process, Slipway
    from servers import Cluster, Server
    from tenants import Tenants

pytestmark = pytest.mark.faults

SCHEMAS, DATABASES = 50, 10
KILLS = {"schema": 100, "database": 20}
"""Rounds, each with fresh targets."""


def fresh(kind: str, server: Server) -> AbstractAsyncContextManager[Tenants]:
    """So many targets of a kind with nothing in them."""
    if kind == "schema":
        return schemas(server, [f"tenant_{number}" for number in range(SCHEMAS)])
    return databases(server, DATABASES)


class Killing:
    """Runs over fresh targets that are killed, each followed by one that is not."""

    def __init__(self, kind: str, server: Server, slipway: Slipway, files: Path) -> None:
        self.kind, self.server, self.slipway, self.files = kind, server, slipway, files
        self.ends: list[str] = []
        """How many effects each killed run had, and how many files the next one has applied."""

    async def kill(self, chance: random.Random) -> None:
        """Kill a run at some moment; the next one begins at once, whatever the server still does."""
        async with fresh(self.kind, self.server) as tenants:
            process = self.slipway.start(env=tenants.environ, migrations=self.files)
            await some_moment(chance, process, tenants)
            process.kill()
            before = sum((await tenants.effects()).values())
            finished = await asyncio.to_thread(self.slipway, env=tenants.environ, migrations=self.files)

            assert finished.code == 0, f"killed after {before} effects\n{process.log}\n{finished}"
            assert finished.outcome
            self.ends.append(f"{before}+{finished.outcome['targets']['applied']}")
            await tenants.assert_all_done_once()


async def some_moment(chance: random.Random, process: Process, tenants: Tenants) -> None:
    """Block until a run has had some number of effects, and a bit longer: however busy the machine is, it is at work.

    One time in ten it is somewhere before the first effect.
    """
    whole = 3 * len(tenants.names)
    number = max(0, chance.randrange(-whole // 10, whole))

    async def has_come() -> bool:
        return not process.is_running() or sum((await tenants.effects()).values()) >= number

    await eventually(has_come, f"{number} effects")
    await asyncio.sleep(chance.uniform(0, 0.05 if number else 1.0))


@pytest.mark.parametrize("kind", KILLS)
async def test_next_run_ends_what_a_kill_at_any_moment_left(
    kind: str, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    killing = Killing(kind, cluster.server, slipway, folder(files_for(kind)))
    rounds = sample_of_this_run().of(range(KILLS[kind]))

    for number in rounds:
        await killing.kill(random.Random(number))

    print(f"\n{kind}: {len(rounds)} kills, effects before + files applied after: {' '.join(killing.ends)}")


# --- an Indexed Job ---------------------------------------------------------------------------------------------

JOBS = 30
SHARDS, NAMES = 7, 30
SIGNS = "abcXYZ019_-.äß漢'\"$%:;/\\({"
"""What the names are made of, with all that needs quotes somewhere."""


def random_names(chance: random.Random) -> list[str]:
    """From one name to many; no two are equal."""
    return [
        f"n{''.join(chance.choices(SIGNS, k=chance.randint(0, 9)))}{number}"
        for number in range(chance.randint(1, NAMES))
    ]


class Job:
    """The pods of an Indexed Job, of which some are killed."""

    def __init__(self, chance: random.Random, tenants: Tenants, slipway: Slipway, files: Path) -> None:
        self.chance, self.tenants, self.slipway, self.files = chance, tenants, slipway, files
        self.shards = chance.randint(1, SHARDS)
        self.left = {*range(self.shards)}
        """The indexes of which no pod has ended well."""
        self.seen: Counter[str] = Counter()

    def start(self, index: int, names: list[str]) -> Process:
        """A pod, with the list as it saw it."""
        settings = {"MIGRATE_SHARDS": str(self.shards), "JOB_COMPLETION_INDEX": str(index)}
        environ = self.tenants.environ | settings | {"PGOPTIONS": f"-c app.pod={index}"}
        environ["MIGRATE_TARGETS"] = "\n".join(names)
        return self.slipway.start(env=environ, migrations=self.files, parallel=str(self.chance.randint(1, 4)))

    async def end(self, process: Process, *, is_killed: bool) -> int:
        """Let a pod end, or kill it at some moment; its exit code."""
        if is_killed:
            await asyncio.sleep(self.chance.uniform(0, 1.5))
            self.seen["killed" if process.is_running() else "too late to kill"] += 1
            process.kill()
        finished = await asyncio.to_thread(process.finish)
        assert finished.code in {0, -9}, finished
        self.seen[f"exit {finished.code}"] += 1
        return finished.code

    async def run_pods(self, names: list[str], *, deaths: float, twins: float) -> None:
        """A pod for each index that is left, or two of them; some are killed."""
        indexes = [index for index in sorted(self.left) for _ in range(1 + (self.chance.random() < twins))]
        pods = [(self.start(index, names), self.chance.random() < deaths) for index in indexes]
        codes = await asyncio.gather(*(self.end(pod, is_killed=is_killed) for pod, is_killed in pods))
        self.left -= {index for index, code in zip(indexes, codes, strict=True) if code == 0}

    async def run(self, names: list[str]) -> None:
        """Begin pods until one of each index has ended well, as Kubernetes does; most of the first ones die."""
        self.left = {*range(self.shards)}
        await self.run_pods(names, deaths=0.7, twins=0.3)
        while self.left:
            await self.run_pods(names, deaths=0.3, twins=0.2)

    async def assert_done_by_its_pod(self, names: list[str]) -> None:
        """All of it once, each target's effects by the pods of the one index that it belongs to."""
        rows = await self.tenants.databases[0].fetch("SELECT tenant, file, pod FROM shared.effects")
        found = Counter((row["tenant"], row["file"], row["pod"]) for row in rows)
        index = {name: str(number_of(Target(name)) % self.shards) for name in names}
        assert found == Counter((name, file, index[name]) for name in names for file in (1, 2, 3))
        assert await self.tenants.tables() == {*names}
        assert await self.tenants.invalid_indexes() == 0


@pytest.mark.parametrize("seed", sample_of_this_run().of(range(JOBS)))
async def test_every_target_is_done_once_by_the_pods_of_one_index(
    seed: int, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """The list grows between two Jobs, and all targets have their files in the end."""
    chance = random.Random(seed)
    names, files = random_names(chance), folder(files_for("schema"))
    early = names[: chance.randint(1, len(names))]
    async with schemas(cluster.server, names) as tenants:
        job = Job(chance, tenants, slipway, files)
        await job.run(early)
        await job.assert_done_by_its_pod(early)
        await job.run(names)
        await job.assert_done_by_its_pod(names)

    print(f"\n{len(early)}, then {len(names)} targets, {job.shards} shards: {dict(job.seen)}")
