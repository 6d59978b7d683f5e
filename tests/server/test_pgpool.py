"""Pgpool-II with load balancing, in front of a primary and a standby that gets all reads it can give away."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from servers import LOCALHOST, free_port, is_listening, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Cluster, Database, Embedded

PGPOOL = shutil.which("pgpool", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGPOOL is None, reason="pgpool2 is not installed")

TRUST = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
FILES = {
    "001_a.sql": "CREATE TABLE busy (n int); INSERT INTO busy VALUES (1);",
    "002_b.sql": "INSERT INTO busy VALUES (2);",
    "003_c.sql": "-- no-transaction\nSET lock_timeout = '1h';\nINSERT INTO busy VALUES (3);\n"
    "CREATE INDEX CONCURRENTLY busy_n ON busy (n);\nVACUUM busy;",
}


@pytest.fixture
def primary(embedded: Embedded) -> Cluster:
    """A server that trusts everybody here: Pgpool-II has no passwords."""
    return embedded.cluster(TRUST).start()


@pytest.fixture
def standby(embedded: Embedded, primary: Cluster) -> Cluster:
    """Its copy."""
    return embedded.standby_of(primary).start()


@pytest.fixture
def balanced(embedded: Embedded, primary: Cluster, standby: Cluster, tmp_path: Path) -> Iterator[Database]:
    """The primary's database behind Pgpool-II."""
    folder = embedded.folder / tmp_path.name
    port = free_port()
    settings: dict[str, object] = {
        "listen_addresses": LOCALHOST, "port": port, "pcp_port": free_port(), "socket_dir": folder,
        "unix_socket_directories": folder, "pcp_socket_dir": folder, "logdir": folder, "pid_file_name": folder / "pid",
        "backend_clustering_mode": "streaming_replication", "load_balance_mode": "on", "num_init_children": 8,
        "max_pool": 1, "sr_check_user": "postgres", "sr_check_database": "postgres", "sr_check_period": 1,
        "disable_load_balance_on_write": "off",
    }  # fmt: skip
    for number, (node, weight) in enumerate([(primary, 0), (standby, 1)]):
        settings |= {
            f"backend_hostname{number}": LOCALHOST, f"backend_port{number}": node.server.port,
            f"backend_weight{number}": weight, f"backend_flag{number}": "DISALLOW_TO_FAILOVER",
        }  # fmt: skip
    folder.mkdir()
    (folder / "conf").write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
    for name in ("pcp.conf", "pool_hba.conf"):
        (folder / name).touch()
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)
    command = [PGPOOL, "-n", "-f", folder / "conf", "-F", folder / "pcp.conf", "-a", folder / "pool_hba.conf"]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=log, user=user)
    try:
        until(lambda: is_listening(port), "Pgpool-II to listen")
        yield primary.database.at(port)
    finally:
        running.terminate()
        running.wait()


@pytest.mark.parametrize("lock", ["auto", "session", "transaction"])
async def test_who_is_in_the_way_on_the_primary_is_named(
    lock: str, balanced: Database, primary: Cluster, folder: Folder, slipway: Slipway
) -> None:
    await primary.database.execute("CREATE TABLE busy ()")
    files = folder({"001_a.sql": "ALTER TABLE busy ADD COLUMN n int;"})
    async with primary.database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM busy")
        pid = reader.get_server_pid()
        finished = await asyncio.to_thread(slipway, env=balanced.environ, migrations=files, ddl_retry="2s", lock=lock)

    assert finished.code == 12, finished
    assert f"AccessExclusiveLock on busy, held by pid {pid} (" in finished.err


async def test_every_kind_of_file_is_applied_once_though_the_standby_lags(
    balanced: Database, primary: Cluster, standby: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """The standby shows no history at all; read there, every file would be pending for ever."""
    await standby.database.execute("SELECT pg_wal_replay_pause()")
    runs = [await asyncio.to_thread(slipway, env=balanced.environ, migrations=folder(FILES)) for _ in range(2)]

    assert [finished.code for finished in runs] == [0, 0], "\n".join(map(str, runs))
    assert "starting over" not in runs[1].err
    assert await primary.database.applied() == sorted(FILES)
    assert [row["n"] for row in await primary.database.fetch("SELECT n FROM busy ORDER BY n")] == [1, 2, 3]
