"""What a kill, a signal, a full disk, a lock or a broken source leave behind: nothing.

Every run here is a process of its own. Most are forked from a warm one, which saves the start-up,
and may first replace one function of the product by one that ends or holds the process there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from pyops.cli import app as cli
from pyops.cli.terminal import Terminal
from pyops.sources.postgres import session as postgres
from pyops.staging.file import Stage
from pyops.warehouse.committing import Committing
from tests.pyops.conftest import Lab, Sql, execute

SECRET = "Tr0ub4dor-and-3"
SECONDS = 30  # within which anything that is waited for must have happened

MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}
FULL: dict[str, Any] = {"mode": "full"}
PATTERNS: dict[str, dict[str, Any]] = {
    "merge": MERGE,
    "append": {"mode": "incremental", "cursor": "at", "write": "append"},
    "swap": FULL,
    "delete_insert": {"mode": "partition", "partition_by": "day"},
}

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(["tests.pyops.test_faults"])


# Processes

Hook = Callable[[], None]


@dataclass(frozen=True)
class Command:
    """A running pyops: the process, and the file its stdout and stderr go to."""

    process: multiprocessing.process.BaseProcess
    output: Path

    def end(self) -> tuple[int, str]:
        """Waits for the end; returns exit code, negative for a signal, and what was printed."""
        self.process.join(SECONDS)
        assert self.process.exitcode is not None, f"still running after {SECONDS} s"
        return self.process.exitcode, self.output.read_text()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


def _pyops(arguments: tuple[str, ...], output: Path, hook: Hook | None) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which forking servers ignore
    if hook is not None:
        hook()
    sys.argv = ["pyops", *arguments]
    cli.main()


class Project(Lab):
    """A lab whose commands are processes."""

    def set_up(
        self,
        tables: dict[str, dict[str, Any]],
        *,
        dsn: str = "",
        path: str = "warehouse.duckdb",
        lock_timeout: str = "10s",
        attempts: int = 4,
    ) -> None:
        """Writes pyops.yml."""
        retry = {"attempts": attempts, "base_delay": "100ms"}
        source = {"type": "postgres", "dsn": dsn or self.dsn, "retry": retry, "tables": tables}
        warehouse = {"path": path, "lock_timeout": lock_timeout}
        document = {"warehouse": warehouse, "sources": {"src": source}}
        self.directory.mkdir(exist_ok=True)
        (self.directory / "pyops.yml").write_text(yaml.safe_dump(document, sort_keys=False))

    def start(self, *arguments: str, hook: Hook | None = None, command: str = "extract") -> Command:
        """Starts a command of pyops, after a hook has been called in its process."""
        output = self.directory.with_name(f"{self.directory.name}-{time.monotonic_ns()}.output")
        output.touch()
        where = ("--project-dir", str(self.directory))
        process = _forked.Process(target=_pyops, args=((command, *arguments, *where), output, hook))
        process.start()
        _started.append(process)
        return Command(process, output)

    def extract_by_command(self, *arguments: str, hook: Hook | None = None) -> tuple[int, str]:
        """Runs ``pyops extract`` to its end; returns exit code and output."""
        return self.start(*arguments, hook=hook).end()

    def staged(self) -> set[str]:
        """The names in the staging folder."""
        folder = self.directory / ".pyops" / "staging"
        return {path.name for path in folder.glob("*")} - {"lock"}

    def runs(self, columns: str = "table_name, status") -> list[tuple[Any, ...]]:
        """The history of runs, oldest first."""
        return self.rows(f"SELECT {columns} FROM pyops.runs ORDER BY started_at, run_id")


_started: list[multiprocessing.process.BaseProcess] = []


@pytest.fixture
def project(tmp_path: Path, dsn: str) -> Iterator[Project]:
    """A project on the test's own database; whatever it started and still runs is killed."""
    yield Project(tmp_path / "project", dsn)
    for process in _started:
        process.kill()
        process.join()
    _started.clear()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until a condition is true, and returns what it returned."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain for {SECONDS} s: {what}"
        time.sleep(0.01)
    return found


# Hooks: what a process does before the command line begins, to end or to halt at some moment


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner: Any, name: str, action: Callable[[], object], *, call: int = 1, after: bool = True) -> None:
    """Makes a function of the product do something more, at one of its calls.

    ``owner`` is a class, or the name of a module.
    """
    owner = importlib.import_module(owner) if isinstance(owner, str) else owner
    original = getattr(owner, name)
    calls = iter(range(1, sys.maxsize))

    def replacement(*arguments: Any, **named: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            action()
        result = original(*arguments, **named)
        if now and after:
            action()
        return result

    is_method = owner is not Stage or name != "create"
    setattr(owner, name, replacement if is_method else staticmethod(replacement))


def small_batches() -> None:
    postgres._BATCH_BYTES = 1 << 14


MOMENTS: dict[str, Hook] = {
    "staging file made": functools.partial(at, Stage, "create", die),
    "some batches read": functools.partial(at, Terminal, "reading", die, call=2),
    "staging file filled": functools.partial(at, Stage, "fill", die),
    "before BEGIN": functools.partial(at, Committing, "_without_unchanged", die),
    "before COMMIT": functools.partial(at, Committing, "_ended", die),
    "after COMMIT": functools.partial(at, Committing, "run", die),
}


def die_at(moment: str) -> None:
    small_batches()
    MOMENTS[moment]()


def halt(reached: Event, released: Event) -> None:
    reached.set()
    assert released.wait(SECONDS)


def halt_at(owner: Any, name: str, reached: Event, released: Event) -> None:
    small_batches()
    at(owner, name, functools.partial(halt, reached, released))


@contextmanager
def halted(
    project: Project, owner: Any, name: str, *, command: str = "extract", arguments: tuple[str, ...] = ()
) -> Iterator[tuple[Command, Event]]:
    """A command that has come behind a function and waits there until the event is set."""
    reached, released = _forked.Event(), _forked.Event()
    hook = functools.partial(halt_at, owner, name, reached, released)
    started = project.start(*arguments, hook=hook, command=command)
    wait_for(lambda: reached.is_set() or started.process.exitcode is not None, name)
    assert reached.is_set(), started.end()
    try:
        yield started, released
    finally:
        released.set()


# Kills


def make_source(sql: Sql) -> None:
    """A table with more than one batch, three days and a row that cannot be landed."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, day date, at timestamptz, amount numeric(10,2), note text)")
    sql(
        "INSERT INTO t SELECT i, date '2024-05-01' + (i % 3)::int,"
        " timestamptz '2024-05-10' + i * interval '1 second',"
        " CASE i WHEN 700 THEN 'NaN'::numeric ELSE i END, repeat(md5(i::text), 4)"
        " FROM generate_series(1, 1500) AS i"
    )


def change_source(sql: Sql) -> None:
    """New rows, changed rows, deleted rows, one more that cannot be landed."""
    sql(
        "INSERT INTO t SELECT i, date '2024-05-01' + (i % 3)::int,"
        " timestamptz '2024-05-11' + i * interval '1 second',"
        " CASE i WHEN 1501 THEN 'NaN'::numeric ELSE i END, repeat(md5(i::text), 4)"
        " FROM generate_series(1501, 2000) AS i"
    )
    sql("UPDATE t SET note = 'changed', at = at + interval '2 days' WHERE id % 10 = 0")
    sql("DELETE FROM t WHERE id % 7 = 0")


def landed(project: Project) -> list[list[tuple[Any, ...]]]:
    """Table, watermark and dead letters, without what a repeated load may change."""
    with duckdb.connect(project.directory / "warehouse.duckdb", read_only=True) as connection:
        return [
            connection.execute(f"SELECT * EXCLUDE ({without}) FROM {table} ORDER BY ALL").fetchall()
            for table, without in [
                ("raw.t", "_load_id, _loaded_at"),
                ("pyops.watermarks", "load_id"),
                ("pyops.dead_letters", "run_id, load_id, recorded_at, resolved_by"),
            ]
        ]


def nobody_reads(sql: Sql) -> bool:
    """Whether the server has noticed that the processes that read are gone."""
    activity = "pg_stat_activity WHERE datname = current_database() AND application_name = 'pyops'"
    return sql(f"SELECT count(*) FROM {activity}") == [(0,)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_killed_run_and_the_same_command_again_give_the_tables_of_an_undisturbed_run(
    project: Project, sql: Sql, tmp_path: Path, pattern: str
) -> None:
    """Behaviour 35."""
    by_day = pattern == "delete_insert"
    make_source(sql)
    project.set_up({"t": PATTERNS[pattern]})
    first = ("--from", "2024-05-01", "--to", "2024-05-03") if by_day else ()
    assert project.extract_by_command(*first)[0] == 0
    change_source(sql)
    command = ("--date", "2024-05-02") if by_day else ()
    calm = Project(tmp_path / "calm", project.dsn)
    shutil.copytree(project.directory, calm.directory)
    assert calm.extract_by_command(*command)[0] == 0
    as_if_not_killed = landed(calm)
    assert len(as_if_not_killed[2]) == 2
    assert as_if_not_killed != landed(project)

    for number, moment in enumerate(MOMENTS):
        killed = Project(tmp_path / f"killed-{number}", project.dsn)
        shutil.copytree(project.directory, killed.directory)
        hook = functools.partial(die_at, moment)
        assert killed.extract_by_command(*command, hook=hook)[0] == -signal.SIGKILL, moment
        assert len(killed.staged()) >= 1, moment
        published = moment == "after COMMIT"
        assert (landed(killed) == as_if_not_killed) == published, moment
        wait_for(lambda: nobody_reads(sql), "the killed process's session ends")

        code, output = killed.extract_by_command(*command)

        assert code == 0, (moment, output)
        assert landed(killed) == as_if_not_killed, moment
        assert killed.staged() == set(), moment
        became = "succeeded" if published else "killed"
        assert killed.runs("source, table_name, status") == [
            ("src", "t", status) for status in ("succeeded", became, "succeeded")
        ], moment


def test_first_run_killed_leaves_nothing_that_stops_the_second(project: Project, sql: Sql) -> None:
    """Behaviour 35: the warehouse itself is made by the run that is killed."""
    make_source(sql)
    project.set_up({"t": MERGE})
    for moment in MOMENTS:
        hook = functools.partial(die_at, moment)
        assert project.extract_by_command(hook=hook)[0] == -signal.SIGKILL
    assert project.extract_by_command()[0] == 0
    assert project.rows("SELECT count(*) FROM raw.t") == [(1499,)]
    statuses = [status for (status,) in project.runs("status")]
    # The run after the one that published does so again.
    assert statuses == ["killed"] * 5 + ["succeeded"] * 2
    assert project.staged() == set()


def test_kills_at_any_time_while_the_source_changes_end_in_the_source(project: Project, sql: Sql) -> None:
    """Behaviour 35: wherever the kill lands, in a run that lands what the last ones did not."""
    rng = random.Random(35)
    for table in ("merged", "swapped"):
        sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz DEFAULT now(), n int)")
    project.set_up({"merged": MERGE, "swapped": FULL})
    killed = 0
    for number in range(10):
        sql(f"INSERT INTO merged SELECT i, now(), 0 FROM generate_series({number}, 400, 20) AS i"
            " ON CONFLICT (id) DO UPDATE SET n = merged.n + 1, at = now()")  # fmt: skip
        sql(f"INSERT INTO swapped SELECT id, at, n FROM merged WHERE id % 10 = {number}"
            " ON CONFLICT DO NOTHING")  # fmt: skip
        sql("DELETE FROM swapped WHERE id % 50 = $1", number)
        command = project.start(hook=small_batches)
        command.process.join(rng.uniform(0.01, 0.35))
        command.process.kill()
        code, output = command.end()
        assert code in (0, -signal.SIGKILL), output
        killed += code != 0
    assert killed

    wait_for(lambda: nobody_reads(sql), "the killed processes' sessions end")
    assert project.extract_by_command()[0] == 0
    for table in ("merged", "swapped"):
        query = f"SELECT id, n FROM {{}}{table} ORDER BY id"
        assert project.rows(query.format("raw.")) == sql(query.format("public."))
    assert project.staged() == set()
    assert sorted(path.name for path in project.directory.glob("warehouse*")) in (
        ["warehouse.duckdb"],
        ["warehouse.duckdb", "warehouse.duckdb.wal"],
    )


def test_next_run_records_the_killed_one_and_deletes_all_its_files(project: Project, sql: Sql) -> None:
    """Behaviours 13, 41: the staging file, its log and what it spilled."""
    make_source(sql)
    project.set_up({"t": MERGE})
    hook = functools.partial(die_at, "staging file filled")
    command = project.start(hook=hook)
    assert command.end()[0] == -signal.SIGKILL
    (file,) = [name for name in project.staged() if name.endswith(".duckdb")]
    staging = project.directory / ".pyops" / "staging"
    assert project.staged() == {file, f"{file}.wal"}
    (staging / f"{file}.tmp").mkdir()
    (staging / f"{file}.tmp" / "duckdb_temp_storage-0.tmp").write_bytes(b"spilled")
    (staging / "20200101T000000.000000-abcdef.duckdb").touch()  # killed while it was made

    assert project.extract_by_command()[0] == 0

    assert project.staged() == set()
    killed, _, unknown = project.runs("run_id, table_name, status, pid, error")
    error = "the process was killed before it ended"
    assert killed == (file.removesuffix(".duckdb"), "t", "killed", command.pid, error)
    assert unknown == ("20200101T000000.000000-abcdef", None, "killed", None, error)


# Runs side by side


def test_living_runs_keep_their_staging_files_and_the_second_to_publish_says_so(project: Project, sql: Sql) -> None:
    """Behaviour 13."""
    make_source(sql)
    project.set_up({"t": MERGE})
    with (
        halted(project, Terminal, "reading") as (first, release_first),
        halted(project, Terminal, "reading") as (second, release_second),
    ):
        files = {name for name in project.staged() if name.endswith(".duckdb")}
        assert len(files) == 2
        assert project.extract_by_command("--dry-run")[0] == 0
        release_first.set()
        assert first.end()[0] == 0
        change_source(sql)
        files &= project.staged()
        assert len(files) == 1
        third = project.extract_by_command()
        assert third[0] == 0
        assert files <= project.staged()
        release_second.set()
        code, output = second.end()
    assert code == 75
    assert "src.t: another run has published it since this one began" in output.replace("\n", " ")
    assert "fix: run it again" in output
    assert "Traceback" not in output
    assert [status for (status,) in project.runs("status")] == ["succeeded", "failed", "succeeded"]
    assert project.staged() == set()

    before = landed(project)[0]
    assert project.extract_by_command()[0] == 0
    assert landed(project)[0] == before
    source = "SELECT id, note FROM {} WHERE amount < 1e9 ORDER BY id"
    deleted = set(project.rows("SELECT id, note FROM raw.t")) - set(sql(source.format("t")))
    assert {id_ % 7 for id_, _ in deleted} == {0}  # which a merge does not see


def test_days_landed_by_two_runs_at_once_are_right_after_one_more(project: Project, sql: Sql) -> None:
    """Behaviours 10, 13: an older reading may be published last; the next run mends that."""
    make_source(sql)
    project.set_up({"t": PATTERNS["delete_insert"]})
    days = ("--from", "2024-05-01", "--to", "2024-05-03")
    reached, released = _forked.Event(), _forked.Event()
    hook = functools.partial(halt_at, Stage, "fill", reached, released)
    old = project.start(*days, hook=hook)
    wait_for(reached.is_set, "the old run has read")
    change_source(sql)
    assert project.extract_by_command(*days)[0] == 0
    released.set()
    assert old.end()[0] == 0
    assert project.extract_by_command(*days)[0] == 0
    query = "SELECT id, note FROM {} WHERE amount < 1e9 ORDER BY id"
    assert project.rows(query.format("raw.t")) == sql(query.format("t"))


# The lock of the warehouse


def _hold(path: Path, held: Event, released: Event) -> None:
    with duckdb.connect(path):
        halt(held, released)


@contextmanager
def holder(project: Project) -> Iterator[tuple[int, Event]]:
    """Another program that has the warehouse open for writing."""
    held, released = _forked.Event(), _forked.Event()
    path = project.directory / "warehouse.duckdb"
    process = _forked.Process(target=_hold, args=(path, held, released))
    process.start()
    _started.append(process)
    wait_for(held.is_set, "the warehouse is held")
    assert process.pid is not None
    try:
        yield process.pid, released
    finally:
        released.set()
        process.join()


def test_held_warehouse_is_waited_for_and_then_the_holder_is_named(project: Project, sql: Sql) -> None:
    """Behaviours 36, 41."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    sql("CREATE TABLE b AS SELECT 1 AS id")
    project.set_up({"a": FULL, "b": FULL}, lock_timeout="300ms")
    assert project.extract_by_command()[0] == 0
    with holder(project) as (pid, _):
        began = time.monotonic()
        code, output = project.extract_by_command()
        assert time.monotonic() - began > 0.3
    assert code == 75
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the warehouse ")
    assert f"is held by process {pid} (" in line
    assert "fix: DuckDB takes one process at a time" in output
    assert [row[:2] for row in project.runs()] == [("a", "succeeded"), ("b", "succeeded")]

    assert project.extract_by_command()[0] == 0
    failed = project.runs("table_name, error, pid IS NOT NULL")[2:4]
    assert failed == [(table, line.removeprefix("error: "), True) for table in ("a", "b")]
    assert [status for (status,) in project.runs("status")][2:4] == ["failed", "failed"]


def test_warehouse_taken_while_rows_are_staged_fails_that_run_alone(project: Project, sql: Sql) -> None:
    """Behaviours 36, 41: the failed run knows what it had read."""
    make_source(sql)
    project.set_up({"t": MERGE}, lock_timeout="200ms")
    assert project.extract_by_command()[0] == 0
    change_source(sql)
    with halted(project, Stage, "fill") as (command, released), holder(project) as (pid, _):
        released.set()
        code, output = command.end()
    assert code == 75
    assert "Traceback" not in output
    assert f"is held by process {pid} (" in output
    assert project.extract_by_command()[0] == 0
    _, failed, succeeded = project.runs("status, rows_read, bytes_read, lower_bound, upper_bound")
    assert failed[0] == "failed"
    assert failed[1:] == succeeded[1:]
    assert failed[1] > 500
    assert project.staged() == set()


def test_warehouse_let_go_in_time_is_published_to(project: Project, sql: Sql) -> None:
    """Behaviour 36."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    project.set_up({"a": FULL}, lock_timeout="20s")
    assert project.extract_by_command()[0] == 0
    with holder(project) as (pid, released):
        command = project.start()
        wait_for(lambda: f"held by process {pid}" in command.output.read_text(), "it waits")
        released.set()
        assert command.end()[0] == 0
    assert project.runs() == [("a", "succeeded"), ("a", "succeeded")]


def test_second_pyops_waits_for_the_first_to_publish(project: Project, sql: Sql) -> None:
    """Behaviour 36."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    sql("CREATE TABLE b AS SELECT 1 AS id")
    project.set_up({"a": FULL, "b": FULL}, lock_timeout="200ms")
    assert project.extract_by_command("a")[0] == 0
    with halted(project, Committing, "_ended") as (first, released):
        code, output = project.extract_by_command("b")
        assert code == 75
        assert f"is held by process {first.pid} (" in output
        assert "Traceback" not in output
        project.set_up({"a": FULL, "b": FULL}, lock_timeout="20s")
        patient = project.start("b")
        wait_for(lambda: "is held by process" in patient.output.read_text(), "it waits")
        released.set()
        assert first.end()[0] == 0
        assert patient.end()[0] in (0, 1)  # the first lands b too, and may be quicker
    assert project.rows("SELECT id FROM raw.b") == [(1,)]


# Full disks


def limit_files(kilobytes: int, moment: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else a write beyond the limit is a kill
    size = kilobytes << 10
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    if moment == "staging":
        limit()
    else:
        at(Stage, "fill", limit)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], object]]:
    """A file system of a few MB; the value makes it larger. Skips where one cannot be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.call(mount, stderr=subprocess.DEVNULL):
        pytest.skip("no right to mount a file system")
    try:
        yield lambda larger: subprocess.run(["mount", "-o", f"remount,size={larger}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_large(sql: Sql) -> None:
    """A table that takes five MB."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, note text)")
    sql(
        "INSERT INTO t SELECT i, 1, (SELECT string_agg(md5(random()::text || i || j), '')"
        " FROM generate_series(1, 64) AS j) FROM generate_series(1, 2500) AS i"
    )


def is_explained(output: str, problem: str) -> None:
    assert "Traceback" not in output
    assert "did not expect" not in output
    assert problem in output.replace("\n", " ")
    assert re.search(r"fix: make room, then run the same command again", output)


@pytest.mark.parametrize("stage", ["staging", "publishing"])
def test_full_disk_publishes_nothing_and_says_so(project: Project, sql: Sql, stage: str) -> None:
    """Behaviours 35, 41."""
    sql("CREATE TABLE small AS SELECT 1 AS id")
    make_large(sql)
    folder = project.directory / (".pyops" if stage == "staging" else "disk")
    path = "disk/warehouse.duckdb" if stage == "publishing" else "warehouse.duckdb"
    project.set_up({"small": FULL, "t": MERGE}, path=path)
    with small_disk(folder, "3m") as resize:
        assert project.extract_by_command("small")[0] == 0
        sql("UPDATE small SET id = 2")
        code, output = project.extract_by_command()
        assert code == 1
        is_explained(output, "the disk is full (No space left on device)")
        assert "src.t  " in output
        with duckdb.connect(project.directory / path, read_only=True) as connection:
            connection.execute("FROM raw.small")
            assert connection.fetchall()[0][0] == 2, "the other table landed"
            tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            assert ("t",) not in tables
        assert {name for name in project.staged() if name.endswith(".duckdb")} == set()

        resize("100m")
        assert project.extract_by_command()[0] == 0
        with duckdb.connect(project.directory / path, read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM raw.t").fetchone() == (2500,)
            connection.execute("SELECT status, error FROM pyops.runs WHERE table_name = 't'")
            failed, succeeded = sorted(connection.fetchall())
        assert failed[0] == "failed"
        assert "the disk is full" in failed[1]
        assert succeeded == ("succeeded", None)


@pytest.mark.parametrize("stage", ["staging", "publishing"])
def test_file_that_cannot_grow_publishes_nothing_and_says_so(project: Project, sql: Sql, stage: str) -> None:
    """Behaviours 35, 41: a target that is there stays as it was."""
    sql("CREATE TABLE t AS SELECT 1 AS id, 1 AS at, 'old' AS note")
    project.set_up({"t": FULL})
    assert project.extract_by_command()[0] == 0
    before = landed(project)
    sql("DROP TABLE t")
    make_large(sql)
    hook = functools.partial(limit_files, 1024, stage)
    code, output = project.extract_by_command(hook=hook)
    assert code == 1
    is_explained(output, "the file cannot grow (File too large)")
    assert landed(project) == before
    assert project.extract_by_command()[0] == 0
    assert project.rows("SELECT count(*) FROM raw.t") == [(2500,)]
    assert [status for (status,) in project.runs("status")] == ["succeeded", "failed", "succeeded"]
    assert project.staged() == set()


def test_no_room_for_a_new_warehouse_leaves_no_broken_one(project: Project, sql: Sql) -> None:
    """Behaviour 35: half a DuckDB file could never be opened again."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    project.set_up({"a": FULL})
    hook = functools.partial(limit_files, 6, "publishing")
    code, output = project.extract_by_command(hook=hook)
    assert code == 1
    is_explained(output, "the file cannot grow (File too large)")
    assert project.extract_by_command()[0] == 0
    assert project.rows("SELECT id FROM raw.a") == [(1,)]
    assert project.runs() == [("a", "failed"), ("a", "succeeded")]


# Signals


def make_slow(sql: Sql, name: str = "slow") -> None:
    """A view that needs half an hour and more for its rows, and gives them all the while."""
    sql(
        f"CREATE VIEW {name} AS SELECT i::bigint AS id, repeat(md5(i::text), 1000) AS note"
        " FROM generate_series(1, 1000000) AS i WHERE pg_sleep(0.002) IS NOT NULL"
    )


def is_asked(sql: Sql, query: str) -> bool:
    """Whether a pyops has such a query running at the source."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'pyops' AND state = 'active' AND query LIKE $1"
    )
    return sql(statement, query) == [(1,)]


def spin(commit: Committing) -> None:
    """Something that DuckDB needs an hour for."""
    commit.connection.execute(
        "CREATE TABLE warehouse.raw.spun AS SELECT sum(hash(a.range, b.range)) FROM"
        " range(10000000) AS a, range(1000000) AS b"
    )


def spin_before_commit(reached: Event) -> None:
    original: Callable[..., Any] = Committing._ended

    def ended(self: Committing, *arguments: Any) -> Any:
        done = original(self, *arguments)
        reached.set()
        spin(self)
        return done

    setattr(Committing, original.__name__, ended)


def is_stopped_cleanly(code: int, output: str, number: signal.Signals) -> None:
    assert code == 128 + number, output
    assert "Traceback" not in output
    assert "Interrupt" not in output
    assert "error: stopped; published data is kept" in output


@pytest.mark.parametrize(("number", "query"), [(signal.SIGINT, "SELECT%max(%"), (signal.SIGTERM, "COPY %")])
def test_signal_while_the_source_is_asked_stops_cleanly(
    project: Project, sql: Sql, query: str, number: signal.Signals
) -> None:
    """Behaviour 45: the query at the server is stopped too."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    make_slow(sql)
    slow = FULL if query.startswith("COPY") else MERGE | {"cursor": "id"}
    project.set_up({"a": FULL, "slow": slow, "b": FULL})
    sql("CREATE TABLE b AS SELECT 1 AS id")
    arguments = [sys.executable, "-m", "pyops", "extract", "--project-dir", str(project.directory)]
    with subprocess.Popen(arguments, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as process:
        try:
            wait_for(lambda: is_asked(sql, query) or process.poll() is not None, query)
            process.send_signal(number)
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    is_stopped_cleanly(process.returncode, output.decode(), number)
    wait_for(lambda: nobody_reads(sql), "the query at the server is stopped")
    assert project.staged() == set()
    if query.startswith("COPY"):
        assert project.runs() == [("a", "succeeded"), ("slow", "cancelled")]
        assert project.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'raw'") == [("a",)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_rows_arrive_stops_cleanly(project: Project, sql: Sql, number: signal.Signals) -> None:
    """Behaviour 45: the staging file is being written."""
    make_slow(sql)
    project.set_up({"slow": FULL})
    with halted(project, Terminal, "reading") as (command, released):
        released.set()
        os.kill(command.pid, number)
        began = time.monotonic()
        code, output = command.end()
        assert time.monotonic() - began < 8
    is_stopped_cleanly(code, output, number)
    wait_for(lambda: nobody_reads(sql), "the query at the server is stopped")
    assert project.staged() == set()
    ((table, status, rows),) = project.runs("table_name, status, rows_read")
    assert (table, status) == ("slow", "cancelled")
    assert rows > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_publishing_publishes_nothing(project: Project, sql: Sql, number: signal.Signals) -> None:
    """Behaviour 45."""
    make_source(sql)
    project.set_up({"t": MERGE})
    assert project.extract_by_command()[0] == 0
    before = landed(project)
    change_source(sql)
    reached = _forked.Event()
    command = project.start(hook=functools.partial(spin_before_commit, reached))
    wait_for(reached.is_set, "it publishes")
    began = time.monotonic()
    os.kill(command.pid, number)
    code, output = command.end()
    assert time.monotonic() - began < 8
    is_stopped_cleanly(code, output, number)
    assert landed(project) == before
    assert project.runs() == [("t", "succeeded"), ("t", "cancelled")]
    assert project.staged() == set()
    assert project.extract_by_command()[0] == 0
    assert landed(project) != before


def test_signal_while_the_warehouse_is_waited_for_stops_at_once(project: Project, sql: Sql) -> None:
    """Behaviours 36, 45."""
    make_source(sql)
    project.set_up({"t": MERGE}, lock_timeout="60s")
    assert project.extract_by_command()[0] == 0
    with halted(project, Stage, "fill") as (command, released), holder(project) as (pid, _):
        released.set()
        wait_for(lambda: f"held by process {pid}" in command.output.read_text(), "it waits")
        os.kill(command.pid, signal.SIGINT)
        is_stopped_cleanly(*command.end(), signal.SIGINT)
    assert project.extract_by_command()[0] == 0
    assert [status for _, status in project.runs()] == ["succeeded", "cancelled", "succeeded"]


def test_signal_while_a_server_does_not_answer_stops_at_once(project: Project) -> None:
    """Behaviour 45: it is there, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        project.set_up({"a": FULL}, dsn=f"postgresql://user:{SECRET}@127.0.0.1:{port}/db")
        command = project.start()
        server.settimeout(SECONDS)
        with server.accept()[0]:
            os.kill(command.pid, signal.SIGINT)
            code, output = command.end()
    is_stopped_cleanly(code, output, signal.SIGINT)
    assert SECRET not in output


def test_second_signal_ends_what_the_first_could_not_stop(project: Project, sql: Sql) -> None:
    """Behaviours 35, 45: the server's process has stopped and cannot be cancelled."""
    make_slow(sql)
    project.set_up({"slow": FULL})
    with halted(project, Terminal, "reading") as (command, released):
        ((pid,),) = sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY %slow%'")
        os.kill(pid, signal.SIGSTOP)
        try:
            released.set()

            def stopped() -> bool:
                with suppress(ProcessLookupError):
                    os.kill(command.pid, signal.SIGINT)
                return not command.process.is_alive()

            wait_for(stopped, "the second signal ends it")
        finally:
            os.kill(pid, signal.SIGCONT)
        code, output = command.end()
    assert code == -signal.SIGINT
    assert "Traceback" not in output
    sql("CREATE OR REPLACE VIEW slow AS SELECT 1::bigint AS id, 'quick' AS note")
    assert project.extract_by_command()[0] == 0
    assert project.runs() == [("slow", "killed"), ("slow", "succeeded")]


# The source


def holds(folder: Path, text: str) -> list[str]:
    """The files below a folder, pyops.yml aside, that a text is in."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "pyops.yml"]
    return [str(path) for path in files if text.encode() in path.read_bytes()]


def test_server_that_is_not_running_is_tried_again_and_then_named(project: Project, tmp_path: Path) -> None:
    """Behaviours 39, 41."""
    dsn = f"postgresql://postgres:{SECRET}@/postgres?host={tmp_path}"
    project.set_up({"a": FULL, "b": MERGE}, dsn=dsn)
    code, output = project.extract_by_command()
    assert code == 75
    assert re.findall(r"\(attempt (\d) of 4, again in [\d.]+ s\)", output) == ["2", "3", "4"]
    assert "is the server running" in output
    assert "Traceback" not in output
    assert SECRET not in output
    assert [row[:2] for row in project.runs()] == [("a", "failed"), ("b", "failed")]


@pytest.fixture
def guarded(sql: Sql, dsn: str) -> Iterator[str]:
    """The DSN, without a password, of a role that the server asks for one."""
    ((file,),) = sql("SHOW hba_file")
    before = Path(file).read_text()
    sql(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}-the-right-one'")

    def reload(text: str) -> None:
        Path(file).write_text(text)
        sql("SELECT pg_reload_conf()")
        wait_for(
            lambda: "guarded" not in str(sql("SELECT user_name FROM pg_hba_file_rules")) or text is not before,
            "pg_hba.conf is read",
        )

    reload(f"local all guarded scram-sha-256\n{before}")
    dsn = dsn.replace("postgres@", "guarded@")

    def refused() -> bool:
        with suppress(Exception):
            execute(dsn, "SELECT 1")
            return False
        return True

    wait_for(refused, "the server asks for a password")
    yield dsn
    reload(before)
    sql("DROP OWNED BY guarded")
    sql("DROP ROLE guarded")


def test_wrong_password_fails_at_once_and_is_shown_nowhere(project: Project, guarded: str) -> None:
    """Behaviours 39, 41."""
    for dsn in (guarded.replace("guarded@", f"guarded:{SECRET}@"), f"{guarded}&password={SECRET}"):
        project.set_up({"a": FULL}, dsn=dsn)
        code, output = project.extract_by_command()
        assert code == 1
        assert 'password authentication failed for user "guarded"' in output
        assert "check user and password" in output
        assert "attempt" not in output
        assert SECRET not in output
    assert len(project.runs()) == 2
    assert holds(project.directory, SECRET) == []


MALFORMED = [
    f"postgresql://user:{SECRET}@[::1/db",
    f"postgresql://user:{SECRET}%zz@127.0.0.1:1/db",
    f"postgresql://user:{SECRET}@127.0.0.1:port/db",
    f"postgresql://user:x@{SECRET}@127.0.0.1:1/db",
    f"postgresql://user:x/{SECRET}@127.0.0.1:1/db",
    f"postgresql://user:x {SECRET}@127.0.0.1:1/db",
    f"postgres//user:{SECRET}@127.0.0.1/db",
    f"mysql://user:{SECRET}@127.0.0.1/db",
    f"host=127.0.0.1 port=1 password=x {SECRET}",
    f"host=127.0.0.1 port=1 password='{SECRET}",
    f"host=127.0.0.1 port={SECRET}",
    f"host=127.0.0.1 port=1 passwort={SECRET}",
    SECRET,
]


@pytest.mark.parametrize("flag", ["--json", "--dry-run"])
def test_malformed_dsn_is_refused_and_shown_nowhere(project: Project, flag: str) -> None:
    """Behaviour 41: a password with an unescaped sign reads as something else."""
    project.set_up({})
    sources = {
        f"s{number}": {"type": "postgres", "dsn": dsn, "tables": {f"t{number}": FULL}}
        for number, dsn in enumerate(MALFORMED)
    }
    (project.directory / "pyops.yml").write_text(yaml.safe_dump({"sources": sources}))
    code, output = project.extract_by_command(flag)
    assert code == 1
    assert output.count("failed: cannot connect to the source") == len(MALFORMED)
    assert output.count("   fix: ") == len(MALFORMED)
    assert "Traceback" not in output
    assert SECRET not in output
    assert holds(project.directory, SECRET) == []
    if flag != "--dry-run":
        assert [status for _, status in project.runs()] == ["failed"] * len(MALFORMED)


def interrupt_reading(project: Project, sql: Sql, function: str) -> tuple[int, str]:
    """Extracts, and calls a function of the server on the session that reads, once it does."""
    with halted(project, Terminal, "reading") as (command, released):
        called = sql(
            f"SELECT {function}(pid) FROM pg_stat_activity WHERE state = 'active'"
            " AND datname = current_database() AND query LIKE 'COPY %slow%'"
        )
        assert called == [(True,)]
        released.set()
        return command.end()


def test_statement_cancelled_at_the_server_fails_that_table_alone(project: Project, sql: Sql) -> None:
    """Behaviour 41."""
    make_slow(sql)
    sql("CREATE TABLE a AS SELECT 1 AS id")
    sql("CREATE TABLE b AS SELECT 2 AS id")
    project.set_up({"slow": FULL, "a": FULL, "b": FULL}, attempts=1)
    code, output = interrupt_reading(project, sql, "pg_cancel_backend")
    assert code == 75
    assert "failed: the source failed: canceling statement due to user request" in output
    assert "Traceback" not in output
    assert project.runs() == [("slow", "failed"), ("a", "succeeded"), ("b", "succeeded")]
    assert project.staged() == set()


def test_connection_cut_in_mid_read_keeps_what_was_published_and_fails_the_rest(project: Project, sql: Sql) -> None:
    """Behaviour 41: every table has one run."""
    make_slow(sql)
    sql("CREATE TABLE a AS SELECT generate_series(1, 10) AS id")
    sql("CREATE TABLE b AS SELECT 2 AS id")
    project.set_up({"slow": FULL, "b": FULL}, attempts=1)
    code, output = interrupt_reading(project, sql, "pg_terminate_backend")
    assert code == 75
    assert "failed: the connection to the source broke" in output
    assert "fix: run the same command again" in output
    assert "Traceback" not in output
    assert project.runs() == [("slow", "failed"), ("b", "failed")]
    ((read, size, written),) = project.rows(
        "SELECT rows_read, bytes_read, rows_written FROM pyops.runs WHERE table_name = 'slow'"
    )
    assert read > 0
    assert size > read * 32_000
    assert written == 0
    assert project.staged() == set()


def test_connection_cut_after_a_table_was_published_leaves_that_table_succeeded(project: Project, sql: Sql) -> None:
    """Behaviour 41."""
    sql("CREATE TABLE a AS SELECT 1 AS id")
    sql("CREATE TABLE b AS SELECT 2 AS id")
    project.set_up({"a": FULL, "b": FULL}, attempts=1)
    with halted(project, Terminal, "finished") as (command, released):
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pyops'"
        )
        wait_for(lambda: nobody_reads(sql), "the session ends")
        released.set()
        code, output = command.end()
    assert code == 75
    assert "src.b" in output
    assert "failed: the connection to the source broke" in output
    assert project.runs() == [("a", "succeeded"), ("b", "failed")]


def test_table_that_cannot_be_read_fails_with_its_fix_and_the_others_land(project: Project, sql: Sql) -> None:
    """Behaviours 39, 41."""
    for table in ("good", "closed", "partly", "hiding", "better"):
        sql(f"CREATE TABLE {table} AS SELECT 1 AS id, 2 AS secret")
    sql("CREATE SCHEMA hidden")
    sql("CREATE TABLE hidden.far AS SELECT 1 AS id")
    sql("ALTER TABLE hiding ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY odd ON hiding USING (id % 2 = 1)")
    sql("DROP ROLE IF EXISTS reader_of_some")
    sql("CREATE ROLE reader_of_some LOGIN")
    sql("GRANT SELECT ON good, hiding, better TO reader_of_some")
    sql("GRANT SELECT (id) ON partly TO reader_of_some")
    sql("GRANT SELECT ON hidden.far TO reader_of_some")
    tables = {
        "good": FULL,
        "missing": FULL,
        "godo": FULL,
        "closed": FULL,
        "partly": FULL,
        "hiding": FULL,
        "far": FULL | {"schema": "hidden"},
        "unlike": FULL | {"schema": "nowhere"},
        "better": MERGE | {"primary_key": ["idd"], "cursor": "id"},
        "best": FULL | {"target": "raw.best", "schema": "public"},
    }
    sql("CREATE VIEW best AS SELECT id FROM good")
    sql("GRANT SELECT ON best TO reader_of_some")
    project.set_up(tables, dsn=project.dsn.replace("postgres@", "reader_of_some@"))

    code, output = project.extract_by_command()

    sql("DROP OWNED BY reader_of_some")
    sql("DROP ROLE reader_of_some")
    assert code == 1
    assert "Traceback" not in output
    problems = dict(re.findall(r"^src\.(\w+) +failed: (.*\n +fix: .*)$", output, re.MULTILINE))
    expected = {
        "missing": r"there is no table public\.missing .*\n.*fix: names are case-sensitive",
        "godo": r"there is no table public\.godo .*\n.*fix: names are case-sensitive",
        "closed": r"may not read public\.closed\n.*GRANT SELECT ON \"public\"\.\"closed\"",
        "partly": r"permission denied for table partly\n.*GRANT SELECT",
        "hiding": r"row-level security policy for table \"hiding\"\n.*BYPASSRLS",
        "far": r"may not read hidden\.far\n.*GRANT USAGE ON SCHEMA \"hidden\"",
        "unlike": r"there is no table nowhere\.unlike .*\n.*`schema` in pyops\.yml",
        "better": r"there is no column idd at the source\n.*did you mean 'id'\?",
    }
    assert set(problems) == set(expected), output
    for table, pattern in expected.items():
        assert re.search(pattern, problems[table]), problems[table]
    succeeded = [table for table, status in project.runs() if status == "succeeded"]
    assert succeeded == ["good", "best"]
    assert len(project.runs()) == len(tables)


# What is recorded


def test_every_run_is_a_row_with_what_it_did(project: Project, sql: Sql) -> None:
    """Behaviour 41."""
    make_source(sql)
    project.set_up({"t": MERGE})
    assert project.extract_by_command()[0] == 0
    ((first_bound,),) = sql("SELECT max(at)::timestamptz::text FROM t")
    sql("UPDATE t SET note = 'new', at = at + interval '1 day' WHERE id BETWEEN 1 AND 50")
    sql("UPDATE t SET amount = 'NaN', at = at + interval '1 day' WHERE id = 60")
    assert project.extract_by_command()[0] == 0
    sql("ALTER TABLE t ALTER amount TYPE boolean USING true")
    assert project.extract_by_command()[0] == 1

    first, second, third = project.runs("status, rows_read, rows_written, rows_deleted, rows_dead_lettered")
    assert first == ("succeeded", 1500, 1499, 0, 1)
    assert second == ("succeeded", 352, 50, 50, 1)  # the lookback reads 301 rows again
    assert third[0] == "failed"
    bounds = project.runs("lower_bound IS NULL, upper_bound, bytes_read > 10000")
    assert bounds[0] == (True, first_bound, True)
    assert project.rows(
        "SELECT count(*) FROM pyops.runs WHERE lower_bound = ? AND status = 'succeeded'", first_bound
    ) == [(1,)]
    assert project.rows(
        "SELECT DISTINCT source, table_name, mode, write_pattern, finished_at > started_at,"
        " seconds > 0, (load_id IS NOT NULL) = (status = 'succeeded'),"
        " (error IS NOT NULL) = (status = 'failed'), (locked_seconds > 0) = (status = 'succeeded'),"
        " host IS NOT NULL, pid > 0 FROM pyops.runs"
    ) == [("src", "t", "incremental", "merge", *[True] * 7)]


# Dry runs


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: names, sizes, times of change, contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, content)
    return found


def test_dry_run_writes_nothing_anywhere(project: Project, sql: Sql) -> None:
    """Behaviour 42: without a warehouse, with one, and beside what a killed run left."""
    make_source(sql)
    sql("CREATE ROLE looks_only LOGIN")
    sql("GRANT SELECT ON t TO looks_only")
    ((name,),) = sql("SELECT current_database()")
    sql(f"REVOKE TEMPORARY, CREATE ON DATABASE {name} FROM PUBLIC")
    tables = {"t": MERGE, "missing": FULL, "whole": FULL | {"schema": "s"}, "days": PATTERNS["delete_insert"]}
    sql("CREATE VIEW days AS SELECT day FROM t")
    sql("GRANT SELECT ON days TO looks_only")
    sql("CREATE SCHEMA s")
    sql("CREATE TABLE s.whole AS SELECT 1 AS id")
    sql("GRANT USAGE ON SCHEMA s TO looks_only")
    sql("GRANT SELECT ON s.whole TO looks_only")
    project.set_up(tables, dsn=project.dsn.replace("postgres@", "looks_only@"))

    def looks_only(*flags: str) -> None:
        before = listing(project.directory)
        code, output = project.extract_by_command("--dry-run", *flags)
        assert code == int("days" not in flags), output  # one table is missing
        assert "Traceback" not in output
        assert "SELECT" in output
        assert listing(project.directory) == before

    looks_only()
    looks_only("--json")
    looks_only("--date", "2024-05-02", "days")
    assert sorted(path.name for path in project.directory.iterdir()) == ["pyops.yml"]
    hook = functools.partial(die_at, "after COMMIT")
    assert project.extract_by_command("t", hook=hook)[0] == -signal.SIGKILL
    assert (project.directory / "warehouse.duckdb.wal").stat().st_size > 0
    assert project.staged()
    looks_only()
    assert project.extract_by_command("t")[0] == 0
    change_source(sql)
    looks_only()
    looks_only("--full-refresh")
    sql("DROP OWNED BY looks_only")
    sql("DROP ROLE looks_only")


def test_dry_run_of_a_held_warehouse_names_the_holder_and_writes_nothing(project: Project, sql: Sql) -> None:
    """Behaviours 36, 42."""
    make_source(sql)
    project.set_up({"t": MERGE}, lock_timeout="300ms")
    assert project.extract_by_command()[0] == 0
    with holder(project) as (pid, _):
        before = listing(project.directory / ".pyops")
        code, output = project.extract_by_command("--dry-run")
        assert code == 75
        assert f"is held by process {pid} (" in output
        assert listing(project.directory / ".pyops") == before
