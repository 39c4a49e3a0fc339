"""What kills, signals, restarts and rivals do to a capture: nothing is lost, nothing is doubled."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pyops.cdc.postgres import capture as capture_module
from pyops.cdc.postgres import slot
from pyops.cdc.postgres import stream as stream_module
from pyops.cdc.postgres.publication import Publications
from pyops.cdc.postgres.stream import StagedChanges
from pyops.commands.cdc import capture
from pyops.commands.slot import slot_status
from pyops.commands.snapshot import snapshot
from pyops.config.load import load
from pyops.demo.server import Server
from pyops.staging.file import Stage
from pyops.warehouse.committing import Committing
from pyops.warehouse.duckdb import DuckDBWarehouse
from pyops.warehouse.recording import Recording
from tests.pyops.change_log import at_source, current
from tests.pyops.conftest import INSTALLED, UNSAFE, Lab, Sql, execute
from tests.pyops.test_faults import Project, at, die, halted, is_stopped_cleanly, nobody_reads, project, wait_for

__all__ = ["project"]  # a fixture

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}
TRAFFIC = """
\\set id random(1, 300)
\\set other random(1, 300)
BEGIN;
INSERT INTO t VALUES (:id, 1) ON CONFLICT (id) DO UPDATE SET v = t.v + 1;
UPDATE t SET v = v + 1 WHERE id = :other;
DELETE FROM t WHERE id = (:id + 7) % 300 AND :other < 100;
END;
"""
# Where a first run may be killed, in the order it comes there; the owner, a function, its call.
FIRST: dict[str, tuple[Any, str, int]] = {
    "intention noted": (DuckDBWarehouse, "commit", 1),
    "publications made": (Publications, "create", 1),
    "slot made": ("pyops.cdc.postgres.handshake", "create_slot", 1),
    "slot noted": (DuckDBWarehouse, "commit", 2),
    "table published": (Publications, "join", 1),
    "transactions awaited": ("pyops.cdc.postgres.snapshot", "await_transactions", 1),
    "copy begun": (Stage, "create", 1),
    "copy staged": (Stage, "fill", 1),
    "copy before COMMIT": (Committing, "_write", 1),
    "copy after COMMIT": (Recording, "commit", 1),
}
STREAM: dict[str, tuple[Any, str, int]] = {
    "staging file made": (Stage, "create", 1),
    "some changes staged": (StagedChanges, "add", 2),
    "all changes staged": (StagedChanges, "writes", 1),
    "before COMMIT": (Committing, "_write", 1),
    "after COMMIT": (Recording, "commit", 1),
    "slot advanced": ("pyops.cdc.postgres.stream", "advance_slot", 1),
}


def die_at(owner: Any, name: str, call: int) -> None:
    slot._BATCH_BYTES = 1 << 10
    at(owner, name, die, call=call)


def cdc(project: Project, *, hook: Callable[[], None] | None = None) -> tuple[int, str]:
    return project.start(command="cdc", hook=hook).end()


def killed(project: Project, sql: Sql, moment: tuple[Any, str, int]) -> int:
    code, _ = cdc(project, hook=functools.partial(die_at, *moment))
    wait_for(lambda: nobody_reads(sql), "the killed process's session ends")
    return code


def same(lab: Lab, table: str = "t") -> None:
    found = [tuple(row.values()) for row in current(lab, table)]
    assert found == at_source(lab.dsn, table, "id, v")


def test_a_first_run_killed_anywhere_is_taken_up_by_the_next(project: Project, sql: Sql) -> None:
    """Behaviour 35: publication, slot, copy: each is made once, and the copy is whole."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 100) AS n")
    project.set_up(CDC)
    for name, moment in FIRST.items():
        assert killed(project, sql, moment) == -signal.SIGKILL, name
        sql("UPDATE t SET v = v + 1 WHERE id % 10 = 0")
        sql("INSERT INTO t SELECT max(id) + 1 FROM t")
    code, output = cdc(project)
    assert code == 0, output
    same(project)
    assert project.rows("SELECT count(*) FROM raw.t__changes WHERE _op = 'r'") == [(109,)]
    assert project.rows("SELECT count(*) FROM raw.t__changes WHERE _op = 't'") == [(0,)]
    assert project.staged() == set()


def test_a_run_killed_anywhere_lands_each_event_once(project: Project, sql: Sql) -> None:
    """Behaviours 17 and 35: the log is as if nothing had been killed."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    assert cdc(project)[0] == 0
    for number, (name, moment) in enumerate(STREAM.items()):
        sql(f"INSERT INTO t SELECT n, n FROM generate_series({number}00, {number}99) AS n")
        sql(f"UPDATE t SET v = 0 WHERE id = {number}00")
        assert killed(project, sql, moment) == -signal.SIGKILL, name
    code, output = cdc(project)
    assert code == 0, output
    same(project)
    counted = "SELECT count(*), count(DISTINCT (_generation, _lsn, _seq)) FROM raw.t__changes"
    assert project.rows(counted) == [(606, 606)]
    assert project.staged() == set()


def test_kills_under_traffic_end_in_the_source(project: Project, sql: Sql, server: Server, tmp_path: Path) -> None:
    """Behaviours 15, 17 and 35: from the first copy on, with many clients writing."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    sql("INSERT INTO t SELECT n, 0 FROM generate_series(1, 200) AS n")
    project.set_up(CDC)
    script = tmp_path / "traffic.sql"
    script.write_text(TRAFFIC)
    script.chmod(0o644)
    chance = random.Random(5)
    first = list(FIRST.values())
    moments = [first[2], first[6], first[8], *chance.choices(list(STREAM.values()), k=9)]
    pgbench = subprocess.Popen(
        [server.bin_path / "pgbench", "-n", "-f", script, "-c", "4", "-T", "300", "-R", "300",
         project.dsn],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        codes = [cdc(project, hook=functools.partial(die_at, *moment))[0] for moment in moments]
        assert pgbench.poll() is None
    finally:
        pgbench.terminate()
        pgbench.wait()
    assert codes.count(-signal.SIGKILL) >= 9, codes
    wait_for(lambda: nobody_reads(sql), "the killed processes' sessions end")
    code, output = cdc(project)
    assert code == 0, output
    same(project)
    assert project.rows("SELECT count(*) > 500 FROM raw.t__changes") == [(True,)]


def test_a_copy_and_the_stream_fit_together_under_traffic(lab: Lab, sql: Sql, server: Server, tmp_path: Path) -> None:
    """Behaviour 15: copied again and again while others write, it always fits."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project = lab.configure(CDC)
    script = tmp_path / "traffic.sql"
    script.write_text(TRAFFIC)
    script.chmod(0o644)
    pgbench = subprocess.Popen(
        [server.bin_path / "pgbench", "-n", "-f", script, "-c", "4", "-T", "300", lab.dsn],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(4):
            [done] = capture(project)
            assert done.error is None
            assert snapshot(project, "t").error is None
        assert pgbench.poll() is None
    finally:
        pgbench.terminate()
        pgbench.wait()
    lab.capture(CDC)
    same(lab)
    copies = lab.rows("SELECT count(DISTINCT _lsn) FROM raw.t__changes WHERE _op = 'r'")
    assert copies[0][0] >= 4


def hurry() -> None:
    capture_module.TURN = timedelta(seconds=0.1)


def test_a_rival_is_refused_while_another_run_is_on(project: Project, sql: Sql) -> None:
    """Behaviour 30: in one line, once it has waited, also between two chunks."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    assert cdc(project)[0] == 0
    sql("INSERT INTO t VALUES (1, 1)")
    for owner, name, expected, said in (
        (StagedChanges, "writes", 75, "another run is landing the changes of slot pyops_"),
        ("pyops.cdc.postgres.stream", "advance_slot", 0, "another run has landed its changes"),
    ):
        with halted(project, owner, name, command="cdc") as (command, released):
            code, output = cdc(project, hook=hurry)
            assert code == expected
            assert said in output
            assert "Traceback" not in output
            released.set()
            assert command.end()[0] == 0
        sql("INSERT INTO t SELECT max(id) + 1 FROM t")
    assert cdc(project)[0] == 0
    same(project)


def test_a_run_beside_one_that_follows_waits_until_that_has_landed_what_there_was(project: Project, sql: Sql) -> None:
    """Behaviour 30: and ends with 0; one whose rival ends meanwhile goes on by itself."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    following = project.start("--follow", "--interval", "50ms", command="cdc", hook=move_at_once)
    wait_for(lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)], "it follows")
    sql("INSERT INTO t VALUES (1, 1)")
    code, output = cdc(project)
    assert (code, "another run has landed its changes" in output) == (0, True)
    waiting = project.start("t", command="snapshot")
    time.sleep(1)
    os.kill(following.pid, signal.SIGTERM)
    following.end()
    assert waiting.end()[0] == 0
    same(project)


def move_at_once() -> None:
    stream_module.IDLE_SECONDS = 0.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(project: Project, sql: Sql, number: signal.Signals) -> None:
    """Behaviour 45: half a chunk is no chunk."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    assert cdc(project)[0] == 0
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 1000) AS n")
    with halted(project, StagedChanges, "add", command="cdc") as (command, released):
        os.kill(command.pid, number)
        released.set()
        code, output = command.end()
    is_stopped_cleanly(code, output, number)
    assert project.rows("SELECT count(*) FROM raw.t__changes") == [(0,)]
    assert project.runs("mode, status")[-1] == ("cdc", "cancelled")
    assert project.staged() == set()
    assert cdc(project)[0] == 0
    same(project)


def test_following_lands_what_comes_and_ends_with_a_signal(project: Project, sql: Sql) -> None:
    """Behaviour 45: `--follow` goes on through failures that pass."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    command = project.start("--follow", "--interval", "50ms", command="cdc")

    def landed(count: int) -> Callable[[], bool]:
        def look() -> bool:
            try:
                return project.rows("SELECT count(*) FROM raw.t__changes") == [(count,)]
            except Exception:
                return False

        return look

    for number in range(1, 4):
        wait_for(landed(number - 1), "what came before")
        sql(f"INSERT INTO t VALUES ({number}, 0)")
    wait_for(landed(3), "all three")
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pyops' AND datname = current_database()"
    )
    sql("INSERT INTO t VALUES (4, 0)")
    wait_for(landed(4), "what came behind a broken connection")
    os.kill(command.pid, signal.SIGTERM)
    code, output = command.end()
    is_stopped_cleanly(code, output, signal.SIGTERM)


def test_a_server_that_restarts_loses_nothing(own_server: Server, tmp_path: Path) -> None:
    """Behaviours 17 and 39: one clear line, and the next run goes on; so it is with wal_level."""
    project = Project(tmp_path / "project", own_server.dsn())
    sql = functools.partial(execute, own_server.dsn())
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    own_server.stop()
    own_server.start(UNSAFE | {"wal_level": "replica"})
    code, output = cdc(project)
    assert code == 1
    assert "wal_level is replica" in output
    assert "ALTER SYSTEM SET wal_level = logical" in output
    own_server.stop()
    own_server.start(UNSAFE)
    assert cdc(project)[0] == 0
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 1000) AS n")
    with halted(project, StagedChanges, "add", command="cdc") as (command, released):
        own_server.stop()
        own_server.start(UNSAFE)
        released.set()
        code, output = command.end()
    assert code == 0  # by another attempt
    assert "Traceback" not in output
    assert "the connection to the source broke" in output or "the source failed" in output
    assert cdc(project)[0] == 0
    same(project)


def test_a_transaction_of_a_million_rows_needs_little_memory(lab: Lab, sql: Sql) -> None:
    """Behaviour 26: all of it is seen at once, and the process stays below 512 MB."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, w text, at timestamptz)")
    lab.capture(CDC)
    sql("INSERT INTO t SELECT n, n, 'row ' || n, now() FROM generate_series(1, 1000000) AS n")
    program = (
        "import re, sys; from pathlib import Path; from pyops import capture, load;"
        "assert capture(load(Path(sys.argv[1])))[0].error is None;"
        # Not getrusage: that begins with the memory of the process it was forked from.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    arguments = [sys.executable, "-c", program, str(lab.directory)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True, text=True)
    assert lab.rows("SELECT count(*), count(DISTINCT _load_id) FROM raw.t__changes") == [(1_000_000, 1)]
    assert int(done.stdout) < 512 << 10, "kilobytes"
    spilled = (
        "SELECT spill_txns FROM pg_stat_replication_slots WHERE slot_name = 'pyops_' || current_database() || '_src'"
    )
    assert sql(spilled) == [(0,)], "nothing was put on the source's disk"
    [(database,)] = sql("SELECT current_database()::text")
    sql(f"ALTER DATABASE {database} SET logical_decoding_work_mem = '64kB'")
    sql("UPDATE t SET v = 0 WHERE id <= 10000")
    lab.capture(CDC)
    assert sql(spilled) != [(0,)], "who has set less is heeded"


def test_a_slot_that_the_server_gave_up_stops_the_run(own_server: Server, tmp_path: Path) -> None:
    """Behaviour 17: lost for real, by max_slot_wal_keep_size; starting over helps."""
    project = Project(tmp_path / "project", own_server.dsn())
    sql = functools.partial(execute, own_server.dsn())
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    project.set_up(CDC)
    assert cdc(project)[0] == 0
    sql("INSERT INTO t VALUES (1, 1)")
    sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    sql("SELECT pg_reload_conf()::text")
    for _ in range(4):
        sql("UPDATE t SET v = v + 1")
        sql("SELECT pg_switch_wal()::text")
        sql("CHECKPOINT")
    assert slot_status(load(project.directory))[0].problem == "slot pyops_postgres_src was lost"
    # The reason is in the catalog of later versions only.
    why = "wal_removed" if INSTALLED is None else "the source's log was needed for something else"
    for _ in range(2):
        code, output = cdc(project)
        assert code == 1
        assert f"slot pyops_postgres_src was lost ({why}): changes since were not kept" in output
        assert "pyops slot drop src, then pyops cdc src" in output
    assert project.start("drop", "src", command="slot").end()[0] == 0
    assert cdc(project)[0] == 0
    same(project)
