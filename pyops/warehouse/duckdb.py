"""The warehouse: a DuckDB file that is opened only to look something up or to publish.

DuckDB's file takes one process at a time, so whoever finds it held waits. Beside the tables it
holds pyops's bookkeeping, in the schema ``pyops``.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import duckdb
import tenacity

from pyops.config.project import Project, Table
from pyops.errors import TransientError
from pyops.failures import explained, of_lock
from pyops.records import GateResult, Run, Watermark, utc_now
from pyops.sql import identifier, literal, qualified

BOOKKEEPING = """
CREATE SCHEMA IF NOT EXISTS {catalog}.pyops;
CREATE TABLE IF NOT EXISTS {catalog}.pyops.runs (
    run_id VARCHAR NOT NULL, source VARCHAR, table_name VARCHAR, mode VARCHAR,
    write_pattern VARCHAR, status VARCHAR NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP,
    seconds DOUBLE, locked_seconds DOUBLE, rows_read BIGINT, rows_written BIGINT,
    rows_deleted BIGINT, rows_unchanged BIGINT, rows_dead_lettered BIGINT, null_cursors BIGINT,
    bytes_read BIGINT, lower_bound VARCHAR, upper_bound VARCHAR, load_id BIGINT, error VARCHAR,
    host VARCHAR, pid BIGINT
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.loads (
    load_id BIGINT NOT NULL, run_id VARCHAR NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, target VARCHAR NOT NULL, write_pattern VARCHAR NOT NULL,
    rows_written BIGINT NOT NULL, rows_deleted BIGINT NOT NULL, loaded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.watermarks (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, cursor_column VARCHAR NOT NULL,
    bound VARCHAR, candidate VARCHAR, waiting_for VARCHAR[] NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.dead_letters (
    run_id VARCHAR NOT NULL, load_id BIGINT NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, key VARCHAR, column_name VARCHAR, value VARCHAR,
    reason VARCHAR NOT NULL, payload VARCHAR NOT NULL, recorded_at TIMESTAMP NOT NULL
);
ALTER TABLE {catalog}.pyops.dead_letters ADD COLUMN IF NOT EXISTS letter_id BIGINT;
ALTER TABLE {catalog}.pyops.dead_letters ADD COLUMN IF NOT EXISTS file VARCHAR;
ALTER TABLE {catalog}.pyops.dead_letters ADD COLUMN IF NOT EXISTS line BIGINT;
ALTER TABLE {catalog}.pyops.dead_letters ADD COLUMN IF NOT EXISTS status VARCHAR DEFAULT 'open';
ALTER TABLE {catalog}.pyops.dead_letters ADD COLUMN IF NOT EXISTS resolved_by VARCHAR;
CREATE TABLE IF NOT EXISTS {catalog}.pyops.files (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, file VARCHAR NOT NULL,
    size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.gate_results (
    run_id VARCHAR NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    gate VARCHAR NOT NULL, column_name VARCHAR NOT NULL, status VARCHAR NOT NULL, figure DOUBLE,
    threshold DOUBLE, failing_rows BIGINT, on_fail VARCHAR NOT NULL, query VARCHAR NOT NULL,
    message VARCHAR NOT NULL, checked_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.schema_changes (
    load_id BIGINT NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, column_name VARCHAR NOT NULL, old_type VARCHAR NOT NULL,
    new_type VARCHAR NOT NULL, detected_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.cdc_offsets (
    source VARCHAR NOT NULL, generation INTEGER NOT NULL, status VARCHAR NOT NULL,
    slot VARCHAR NOT NULL, system_id VARCHAR NOT NULL, timeline INTEGER NOT NULL,
    publications MAP(VARCHAR, BIGINT) NOT NULL, lsn BIGINT, committed_at TIMESTAMP,
    caught_up_at TIMESTAMP, recorded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.cdc_tables (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, generation INTEGER NOT NULL,
    relation_oid BIGINT NOT NULL, membership_oid BIGINT NOT NULL, columns VARCHAR[] NOT NULL,
    snapshot VARCHAR NOT NULL, snapshot_lsn BIGINT NOT NULL, handoff_lsn BIGINT NOT NULL,
    load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS {catalog}.pyops.change_logs (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, key VARCHAR[] NOT NULL,
    compacted_generation INTEGER, compacted_lsn BIGINT
)
"""


@dataclass(frozen=True)
class TableState:
    """What the warehouse knows of a table.

    Attributes:
        columns: Type by name of what is in the target, without pyops's own; empty if there is none.
        last_load: The number of its last load, 0 for none.
        cursor: The column its watermark speaks of.
        watermark: Up to where it has been read.
        has_rows: Whether there is anything in the target.
        files: Size and modification time (ns) of each file that has been landed, by name.
        recent_rows: How many rows its last runs read, ten at most, the newest first.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    last_load: int = 0
    cursor: str | None = None
    watermark: Watermark = field(default_factory=Watermark)
    has_rows: bool = False
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    recent_rows: tuple[int, ...] = ()


class Warehouse:
    """A DuckDB file that several processes take turns with.

    Args:
        path: The file; it need not exist yet.
        lock_timeout: How long to wait for whoever holds it, in seconds.
        letters: A JSON-lines file that mirrors the dead letters; None for none.
        sleep: Waits for a number of seconds.
        on_wait: Told, once a wait, who holds the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_timeout: float = 60,
        letters: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._letters = letters
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=tenacity.wait_exponential_jitter(multiplier=0.02, max=1, jitter=0.05),
            stop=tenacity.stop_after_delay(lock_timeout),
            before_sleep=lambda state: (
                on_wait(str(state.outcome and state.outcome.exception()))
                if state.attempt_number == 5
                else None
            ),
            sleep=sleep,
            reraise=True,
        )

    @classmethod
    def of(cls, project: Project, *, on_wait: Callable[[str], None] = lambda _: None) -> Self:
        """The warehouse of a project."""
        letters = project.config.dead_letters.path
        return cls(
            project.warehouse_path,
            lock_timeout=project.config.warehouse.lock_timeout.total_seconds(),
            letters=letters and project.directory / letters,
            on_wait=on_wait,
        )

    @contextmanager
    def opened(
        self, *, read_only: bool = False, lock_timeout: float | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Opens the file by itself, waiting for whoever holds it.

        Raises:
            TransientError: It was held all the time; the message says by which process.
            OperationError: It cannot be opened.
        """
        retrying = self._retrying
        if lock_timeout is not None:
            retrying = retrying.copy(stop=tenacity.stop_after_delay(lock_timeout))
        with explained(self.path):
            connection = retrying(_attempt, self.path, lambda: _open(self.path, read_only))
        try:
            with explained(self.path):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def attached(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Attaches the file to a staging file's connection, as ``warehouse``.

        Raises:
            TransientError: It was held all the time; the message says by which process.
            OperationError: It cannot be opened.
        """
        statement = f"ATTACH {literal(str(self.path))} AS warehouse"

        def attach() -> None:
            _make(self.path)
            connection.execute(statement)

        with explained(self.path):
            self._retrying(_attempt, self.path, attach)
            try:
                yield
            finally:
                # It ends with a checkpoint. If that fails, what was committed stays committed.
                with suppress(duckdb.Error):
                    connection.execute("DETACH warehouse")

    def mirror_letters(self, connection: duckdb.DuckDBPyConnection, catalog: str) -> None:
        """Writes the dead letters to their JSON-lines file, if there is to be one.

        The file is replaced as a whole: whenever a process is killed, it is one state or another.
        """
        if self._letters is not None:
            new = self._letters.with_name(self._letters.name + ".new")
            new.parent.mkdir(parents=True, exist_ok=True)
            connection.execute(
                f"COPY (FROM {catalog}.pyops.dead_letters ORDER BY letter_id)"
                f" TO {literal(str(new))} (FORMAT json)"
            )
            new.replace(self._letters)

    def states(self, tables: Sequence[Table]) -> dict[Table, TableState]:
        """Looks up what is known of tables; a warehouse that is not there knows nothing."""
        if not self.path.exists():
            return {table: TableState() for table in tables}
        with self.opened(read_only=True) as connection:
            return {
                table: table_state(connection, catalog_of(connection), table) for table in tables
            }

    def record(
        self,
        runs: Sequence[Run],
        results: Sequence[GateResult] = (),
        *,
        lock_timeout: float | None = None,
    ) -> None:
        """Adds runs to the history, but those that are in it.

        Args:
            runs: The runs.
            results: What the gates said of the only one of them.
            lock_timeout: How long to wait for whoever holds the file, if not as long as usual.
        """
        if not runs:
            return
        with self.opened(lock_timeout=lock_timeout) as connection:
            connection.execute(BOOKKEEPING.format(catalog=catalog_of(connection)))
            for run in runs:
                insert_run(connection, catalog_of(connection), run)
                insert_results(connection, catalog_of(connection), run, results)


def insert_run(connection: duckdb.DuckDBPyConnection, catalog: str, run: Run) -> None:
    """Adds a run to the history, unless it is in it."""
    values = list(vars(run).values())
    connection.execute(
        f"INSERT INTO {catalog}.pyops.runs SELECT {', '.join('?' * len(values))}"
        f" WHERE NOT EXISTS (SELECT 1 FROM {catalog}.pyops.runs WHERE run_id = ?)",
        [*values, run.run_id],
    )


def insert_results(
    connection: duckdb.DuckDBPyConnection, catalog: str, run: Run, results: Sequence[GateResult]
) -> None:
    """Adds what the gates said of a run."""
    for result in results:
        values = [run.run_id, run.source, run.table_name, *astuple(result), utc_now()]
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {catalog}.pyops.gate_results VALUES ({marks})", values)


def store_files(
    connection: duckdb.DuckDBPyConnection,
    catalog: str,
    table: Table,
    files: Sequence[tuple[str, int, int]],
    load_id: int | None,
) -> None:
    """Notes which files have been landed, each with its size and modification time (ns)."""
    who = [table.source, table.name]
    for file, size, mtime_ns in files:
        connection.execute(
            f"DELETE FROM {catalog}.pyops.files WHERE source = ? AND table_name = ? AND file = ?",
            [*who, file],
        )
        connection.execute(
            f"INSERT INTO {catalog}.pyops.files VALUES (?, ?, ?, ?, ?, ?)",
            [*who, file, size, mtime_ns, load_id],
        )


def table_state(connection: duckdb.DuckDBPyConnection, catalog: str, table: Table) -> TableState:
    """Looks up what is known of a table in an open warehouse."""

    def rows(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return connection.execute(statement, list(parameters)).fetchall()

    own = ("_load_id", "_loaded_at")
    columns = {
        name: type_
        for name, type_ in rows(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = ?"
            " AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)"
            " ORDER BY column_index",
            catalog.strip('"'),
            *table.target,
        )
        if name not in own
    }
    target = f"{catalog}.{qualified(*table.target)}"
    has_rows = bool(columns and rows(f"SELECT 1 FROM {target} LIMIT 1"))
    if not bookkeeping_exists(connection, catalog):
        return TableState(columns, has_rows=has_rows)
    who = (table.source, table.name)
    marks = rows(
        "SELECT cursor_column, bound, candidate, waiting_for"
        f" FROM {catalog}.pyops.watermarks WHERE source = ? AND table_name = ?",
        *who,
    )
    last = rows(
        f"SELECT coalesce(max(load_id), 0) FROM {catalog}.pyops.loads"
        " WHERE source = ? AND table_name = ?",
        *who,
    )[0][0]
    recent = rows(
        f"SELECT rows_read FROM {catalog}.pyops.runs WHERE source = ? AND table_name = ?"
        " AND status = 'succeeded' AND rows_read > 0 ORDER BY started_at DESC LIMIT 10",
        *who,
    )
    state = TableState(columns, last, has_rows=has_rows, recent_rows=tuple(n for (n,) in recent))
    if not columns:  # what a dropped table had read is to be read again
        return state
    if bookkeeping_exists(connection, catalog, "files"):
        landed = rows(
            f"SELECT file, size, mtime_ns FROM {catalog}.pyops.files"
            " WHERE source = ? AND table_name = ?",
            *who,
        )
        state = replace(state, files={name: (size, mtime) for name, size, mtime in landed})
    if marks:
        cursor, bound, candidate, waiting = marks[0]
        mark = Watermark(bound, candidate, frozenset(waiting))
        state = replace(state, cursor=cursor, watermark=mark)
    return state


def bookkeeping_exists(
    connection: duckdb.DuckDBPyConnection, catalog: str | None = None, table: str = "runs"
) -> bool:
    """Whether pyops has made a table of its own in an open warehouse."""
    statement = (
        "SELECT 1 FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'pyops'"
        " AND table_name = ?"
    )
    name = (catalog or catalog_of(connection)).strip('"')
    return connection.execute(statement, [name, table]).fetchone() is not None


def catalog_of(connection: duckdb.DuckDBPyConnection) -> str:
    """The quoted name of the database a connection was opened on."""
    row = connection.execute("SELECT current_database()").fetchone()
    return identifier(str(row[0]) if row else "")


def _open(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    if not read_only:
        _make(path)
    return duckdb.connect(str(path), read_only=read_only)


def _make(path: Path) -> None:
    """Makes the file unless it is there: as a whole, since half a DuckDB file can never be opened.

    Half of one is what a kill or a full disk would leave.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)  # another one was cut short
        if not path.exists():
            try:
                duckdb.connect(str(new)).close()
                new.rename(path)
            finally:
                new.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _attempt(path: Path, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except duckdb.IOException as error:
        if (locked := of_lock(str(error), path)) is None:
            raise
        raise locked from None
