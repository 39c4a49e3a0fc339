"""pyops's own tables in the warehouse, which is attached as ``warehouse``: all SQL on them."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from datetime import datetime
from typing import Any, TypeVar

import duckdb

from pyops.errors import OperationError, TransientError
from pyops.records import (
    Captured,
    DeadLetter,
    GateResult,
    Offset,
    Relation,
    Run,
    TableId,
    Watermark,
    utc_now,
)
from pyops.sql import qualified
from pyops.staging.columns import key_json
from pyops.warehouse.protocol import (
    ByFiles,
    ByKey,
    CaptureChange,
    CaptureState,
    Compacted,
    TableState,
    Whole,
    Write,
)
from pyops.warehouse.schema import SchemaChange

_T = TypeVar("_T")
_RECORDS: Mapping[type, str] = {Run: "runs", DeadLetter: "dead_letters", GateResult: "gate_results"}

# Script n takes the bookkeeping from version n to n + 1. Each can be run again: a kill may come
# between a script and its number.
_MIGRATIONS = (
    """
CREATE SCHEMA IF NOT EXISTS warehouse.pyops;
CREATE TABLE IF NOT EXISTS warehouse.pyops.runs (
    run_id VARCHAR NOT NULL, source VARCHAR, table_name VARCHAR, mode VARCHAR,
    write_pattern VARCHAR, status VARCHAR NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP,
    seconds DOUBLE, locked_seconds DOUBLE, rows_read BIGINT, rows_written BIGINT,
    rows_deleted BIGINT, rows_unchanged BIGINT, rows_dead_lettered BIGINT, null_cursors BIGINT,
    bytes_read BIGINT, lower_bound VARCHAR, upper_bound VARCHAR, load_id BIGINT, error VARCHAR,
    host VARCHAR, pid BIGINT
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.loads (
    load_id BIGINT NOT NULL, run_id VARCHAR NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, target VARCHAR NOT NULL, write_pattern VARCHAR NOT NULL,
    rows_written BIGINT NOT NULL, rows_deleted BIGINT NOT NULL, loaded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.watermarks (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, cursor_column VARCHAR NOT NULL,
    bound VARCHAR, candidate VARCHAR, waiting_for VARCHAR[] NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.dead_letters (
    run_id VARCHAR NOT NULL, load_id BIGINT NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, key VARCHAR, column_name VARCHAR, value VARCHAR,
    reason VARCHAR NOT NULL, payload VARCHAR NOT NULL, recorded_at TIMESTAMP NOT NULL
);
ALTER TABLE warehouse.pyops.dead_letters ADD COLUMN IF NOT EXISTS letter_id BIGINT;
ALTER TABLE warehouse.pyops.dead_letters ADD COLUMN IF NOT EXISTS file VARCHAR;
ALTER TABLE warehouse.pyops.dead_letters ADD COLUMN IF NOT EXISTS line BIGINT;
ALTER TABLE warehouse.pyops.dead_letters ADD COLUMN IF NOT EXISTS status VARCHAR DEFAULT 'open';
ALTER TABLE warehouse.pyops.dead_letters ADD COLUMN IF NOT EXISTS resolved_by VARCHAR;
CREATE TABLE IF NOT EXISTS warehouse.pyops.files (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, file VARCHAR NOT NULL,
    size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.gate_results (
    run_id VARCHAR NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    gate VARCHAR NOT NULL, column_name VARCHAR NOT NULL, status VARCHAR NOT NULL, figure DOUBLE,
    threshold DOUBLE, failing_rows BIGINT, on_fail VARCHAR NOT NULL, query VARCHAR NOT NULL,
    message VARCHAR NOT NULL, checked_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.schema_changes (
    load_id BIGINT NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, column_name VARCHAR NOT NULL, old_type VARCHAR NOT NULL,
    new_type VARCHAR NOT NULL, detected_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.cdc_offsets (
    source VARCHAR NOT NULL, generation INTEGER NOT NULL, status VARCHAR NOT NULL,
    slot VARCHAR NOT NULL, system_id VARCHAR NOT NULL, timeline INTEGER NOT NULL,
    publications MAP(VARCHAR, BIGINT) NOT NULL, lsn BIGINT, committed_at TIMESTAMP,
    caught_up_at TIMESTAMP, recorded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.cdc_tables (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, generation INTEGER NOT NULL,
    relation_oid BIGINT NOT NULL, membership_oid BIGINT NOT NULL, columns VARCHAR[] NOT NULL,
    snapshot VARCHAR NOT NULL, snapshot_lsn BIGINT NOT NULL, handoff_lsn BIGINT NOT NULL,
    load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.change_logs (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, key VARCHAR[] NOT NULL,
    compacted_generation INTEGER, compacted_lsn BIGINT
)
""",
    """
ALTER TABLE warehouse.pyops.runs ADD COLUMN IF NOT EXISTS invocation_id VARCHAR;
CREATE TABLE IF NOT EXISTS warehouse.pyops.bookkeeping (version INTEGER NOT NULL)
""",
)
VERSION = len(_MIGRATIONS)


def _all(
    connection: duckdb.DuckDBPyConnection, statement: str, *parameters: object
) -> list[tuple[Any, ...]]:
    return connection.execute(statement, list(parameters)).fetchall()


def version(connection: duckdb.DuckDBPyConnection) -> int:
    """The version of what is there, 0 for nothing; a newer one than ours is an OperationError."""
    tables = {
        name
        for (name,) in _all(
            connection,
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'warehouse'"
            " AND schema_name = 'pyops'",
        )
    }
    if "bookkeeping" not in tables:
        return int("runs" in tables)
    found = _all(connection, "SELECT coalesce(max(version), 1) FROM warehouse.pyops.bookkeeping")
    number = int(found[0][0])
    if number > VERSION:
        raise OperationError(
            f"the warehouse was made by a newer pyops: its bookkeeping has version {number}, this"
            f" pyops knows {VERSION}",
            hint="upgrade pyops: pip install --upgrade pyops",
        )
    return number


def upgrade(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the bookkeeping, or brings it up to date."""
    found = version(connection)
    for script in _MIGRATIONS[found:]:
        connection.execute(script)
    if found < VERSION:
        connection.execute("DELETE FROM warehouse.pyops.bookkeeping")
        connection.execute("INSERT INTO warehouse.pyops.bookkeeping VALUES (?)", [VERSION])


# What is known


def columns_of(connection: duckdb.DuckDBPyConnection, target: Relation) -> dict[str, str]:
    """The type of each column of a table by name; empty if there is none."""
    found = _all(
        connection,
        "SELECT column_name, data_type FROM duckdb_columns()"
        " SEMI JOIN duckdb_tables() USING (database_name, schema_name, table_name)"
        " WHERE database_name = 'warehouse' AND lower(schema_name) = lower(?)"
        " AND lower(table_name) = lower(?)"
        " ORDER BY column_index",
        *target,
    )
    return dict(found)


def table_state(connection: duckdb.DuckDBPyConnection, table: TableId) -> TableState:
    """What is known of a table."""
    there = columns_of(connection, table.target)
    columns = {n: type_ for n, type_ in there.items() if n not in {"_load_id", "_loaded_at"}}
    rows = 0
    if there:
        target = qualified("warehouse", *table.target)
        rows = int(_all(connection, f"SELECT count(*) FROM {target}")[0][0])
    if not version(connection):
        return TableState(columns, rows)
    mine, who = "WHERE source = ? AND table_name = ?", (table.source, table.name)
    last_load, loaded_at = _all(
        connection,
        f"SELECT coalesce(max(load_id), 0), max(loaded_at) FROM warehouse.pyops.loads {mine}",
        *who,
    )[0]
    recent = _all(
        connection,
        f"SELECT rows_read FROM warehouse.pyops.runs {mine} AND status = 'succeeded'"
        " AND mode NOT IN ('reconcile', 'replay') AND rows_read > 0"
        " ORDER BY started_at DESC LIMIT 10",
        *who,
    )
    dead_letters = _all(
        connection,
        f"SELECT count(*) FROM warehouse.pyops.dead_letters {mine} AND status = 'open'",
        *who,
    )[0][0]
    files: dict[str, tuple[int, int]] = {}
    cursor, watermark = None, Watermark()
    if columns:  # what a dropped table had read is to be read again
        landed = _all(
            connection, f"SELECT file, size, mtime_ns FROM warehouse.pyops.files {mine}", *who
        )
        files = {name: (size, mtime) for name, size, mtime in landed}
        marks = _all(
            connection,
            "SELECT cursor_column, bound, candidate, waiting_for"
            f" FROM warehouse.pyops.watermarks {mine}",
            *who,
        )
        if marks:
            cursor, bound, candidate, waiting = marks[0]
            watermark = Watermark(bound, candidate, frozenset(waiting))
    return TableState(
        *(columns, rows, last_load, loaded_at, _last_run(connection, table)),
        *(cursor, watermark, files, tuple(n for (n,) in recent), int(dead_letters)),
    )


def _last_run(connection: duckdb.DuckDBPyConnection, table: TableId) -> Run | None:
    """A table's last run; the stream of its source counts for a log."""
    is_log = table.target[1].endswith("__changes")
    found = rows(
        connection,
        Run,
        "source = ? AND (table_name = ? OR table_name IS NULL AND mode = ?)",
        *(table.source, table.name, "cdc" if is_log else None),
        order="started_at DESC LIMIT 1",
    )
    return found[0] if found else None


def rows(
    connection: duckdb.DuckDBPyConnection,
    record: type[_T],
    condition: str,
    *parameters: object,
    order: str,
) -> list[_T]:
    """The rows of one kind that meet a condition."""
    names = ", ".join(field.name for field in fields(record))  # type: ignore[arg-type]
    found = _all(
        connection,
        f"SELECT {names} FROM warehouse.pyops.{_RECORDS[record]} WHERE {condition}"
        f" ORDER BY {order}",
        *parameters,
    )
    return [record(*row) for row in found]


def capture_state(connection: duckdb.DuckDBPyConnection, source: str) -> CaptureState:
    """What is known of a source's capture."""
    found = _all(
        connection,
        "SELECT source, generation, status, slot, system_id, timeline, publications, lsn,"
        " committed_at, caught_up_at FROM warehouse.pyops.cdc_offsets WHERE source = ?",
        source,
    )
    if not found:
        return CaptureState()
    offset = Offset(*found[0])
    tables = _all(
        connection,
        "SELECT table_name, generation, relation_oid, membership_oid, columns, snapshot,"
        " snapshot_lsn, handoff_lsn FROM warehouse.pyops.cdc_tables"
        " WHERE source = ? AND generation = ?",
        *(source, offset.generation),
    )
    captured = [
        Captured(name, generation, oid, member, tuple(columns), seen, lsn, handoff)
        for name, generation, oid, member, columns, seen, lsn, handoff in tables
    ]
    return CaptureState(offset, {t.name: t for t in captured}, log_keys(connection, source))


def log_keys(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, tuple[str, ...]]:
    """The columns that identify a row of each log of a source."""
    if not version(connection):
        return {}
    found = _all(
        connection,
        "SELECT table_name, key FROM warehouse.pyops.change_logs WHERE source = ?",
        source,
    )
    return {name: tuple(key) for name, key in found}


def compacted_lsn(connection: duckdb.DuckDBPyConnection, table: TableId) -> int:
    """The LSN up to which a log is folded; -1 if it is not."""
    found = version(connection) and _all(
        connection,
        "SELECT compacted_lsn FROM warehouse.pyops.change_logs"
        " WHERE source = ? AND table_name = ? AND compacted_lsn IS NOT NULL",
        *(table.source, table.name),
    )
    return int(found[0][0]) if found else -1


def count_dead_letters(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    """How many dead letters meet a condition."""
    if not version(connection):
        return 0
    query = f"SELECT count(*) FROM warehouse.pyops.dead_letters WHERE {condition}"
    return int(_all(connection, query)[0][0])


def dropped_columns(connection: duckdb.DuckDBPyConnection, table: TableId) -> set[str]:
    """Columns whose drop at the source is recorded: the target keeps them for good."""
    found = _all(
        connection,
        "SELECT column_name FROM warehouse.pyops.schema_changes"
        " WHERE source = ? AND table_name = ? GROUP BY column_name"
        " HAVING max(load_id) FILTER (kind = 'dropped')"
        " >= coalesce(max(load_id) FILTER (kind = 'added'), 0)",
        *(table.source, table.name),
    )
    return {name for (name,) in found}


# What is expected


def refuse_surprises(
    connection: duckdb.DuckDBPyConnection, writes: Sequence[Write], capture: CaptureChange | None
) -> None:
    """Raises a TransientError if another process has committed since this was planned."""
    for write in writes:
        if write.expects_load is None:
            continue
        last = _all(
            connection,
            "SELECT coalesce(max(load_id), 0) FROM warehouse.pyops.loads"
            " WHERE source = ? AND table_name = ?",
            *(write.table.source, write.table.name),
        )[0][0]
        if last != write.expects_load:
            raise TransientError(
                f"{write.table}: another run has published it since this one began",
                hint="run it again: nothing was published",
            )
    if capture is not None:
        there = capture_state(connection, capture.offset.source).offset
        if _place(there) != _place(capture.expects):
            raise TransientError(
                f"{capture.offset.source}: another run has landed changes since this one began",
                hint="run it again: nothing was landed",
            )


def _place(offset: Offset | None) -> tuple[object, ...]:
    return (offset.generation, offset.status, offset.slot, offset.lsn) if offset else ()


# What is noted


def next_load(connection: duckdb.DuckDBPyConnection) -> int:
    """One number for each commit: rising, never used again."""
    query = "SELECT coalesce(max(load_id), 0) + 1 FROM warehouse.pyops.loads"
    return int(_all(connection, query)[0][0])


def add_load(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    run: Run,
    table: TableId,
    *,
    written: int,
    deleted: int,
    at: datetime,
) -> None:
    """Notes that a commit has rows of a table."""
    connection.execute(
        "INSERT INTO warehouse.pyops.loads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            *(load_id, run.run_id, table.source, table.name, ".".join(table.target)),
            *(run.write_pattern, written, deleted, at),
        ],
    )


def add_run(connection: duckdb.DuckDBPyConnection, run: Run, gates: Sequence[GateResult]) -> None:
    """Adds a run, unless it is there, and what the gates said of it."""
    values = list(vars(run).values())
    connection.execute(
        f"INSERT INTO warehouse.pyops.runs SELECT {', '.join('?' * len(values))}"
        " WHERE NOT EXISTS (SELECT 1 FROM warehouse.pyops.runs WHERE run_id = ?)",
        [*values, run.run_id],
    )
    for result in gates:
        values = [run.run_id, run.source, run.table_name, *astuple(result), utc_now()]
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO warehouse.pyops.gate_results VALUES ({marks})", values)


def add_schema_changes(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    table: TableId,
    changes: Sequence[SchemaChange],
    at: datetime,
) -> None:
    """Notes how a table's columns have changed."""
    for change in changes:
        connection.execute(
            "INSERT INTO warehouse.pyops.schema_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(load_id, table.source, table.name),
                *(change.kind, change.column, change.old, change.new, at),
            ],
        )


def store_sidelines(connection: duckdb.DuckDBPyConnection, load_id: int, write: Write) -> None:
    """Stores a write's watermark, and the files its rows came from."""
    who = [write.table.source, write.table.name]
    mine = "source = ? AND table_name = ?"
    if write.watermark is not None:
        connection.execute(f"DELETE FROM warehouse.pyops.watermarks WHERE {mine}", who)
        if (mark := write.watermark.watermark) is not None:
            connection.execute(
                "INSERT INTO warehouse.pyops.watermarks VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    *(*who, write.watermark.cursor, mark.bound, mark.candidate),
                    *(sorted(mark.waiting_for), load_id),
                ],
            )
    if write.files:
        names = [name for name, _, _ in write.files]
        connection.execute(
            f"DELETE FROM warehouse.pyops.files WHERE {mine} AND file IN (SELECT unnest(?))",
            [*who, names],
        )
        connection.executemany(
            "INSERT INTO warehouse.pyops.files VALUES (?, ?, ?, ?, ?, ?)",
            [[*who, *file, load_id] for file in write.files],
        )


def settle_dead_letters(
    connection: duckdb.DuckDBPyConnection,
    load_id: int,
    run: Run,
    write: Write,
    at: datetime,
) -> int:
    """Adds a write's dead letters, and closes those that it has read again; returns how many.

    What is read again by batch and fails again stays the dead letter it is; of a log each is an
    event of its own.
    """
    who = [write.table.source, write.table.name]
    mine = "source = ? AND table_name = ? AND status = 'open'"
    found = int(_all(connection, f"SELECT count(*) FROM ({write.dead_letters})")[0][0])
    again = f"payload IN (SELECT payload FROM ({write.dead_letters}))"
    query = f"SELECT count(*) FROM warehouse.pyops.dead_letters WHERE {mine}"
    there = int(_all(connection, query, *who)[0][0])
    superseded, parameters = "", list[object]()
    match write.supersedes or write.scope:
        case Whole():
            superseded = "true" if write.log else f"NOT {again}"
        case ByFiles(names):
            superseded = "file IN (SELECT unnest(?))" + f" AND NOT {again}" * (not write.log)
            parameters = [list(names)]
        case ByKey(key) if key:
            superseded = f"key IN (SELECT {key_json(write.columns, key)} FROM ({write.rows}))"
    if there and superseded:
        connection.execute(
            "UPDATE warehouse.pyops.dead_letters SET status = 'superseded', resolved_by = ?"
            f" WHERE {mine} AND {superseded}",
            [run.run_id, *who, *parameters],
        )
    if found:
        is_new, parameters = "true", list[object]()
        if not write.log:
            is_new = (
                f"payload NOT IN (SELECT payload FROM warehouse.pyops.dead_letters WHERE {mine})"
            )
            parameters = [*who]
        connection.execute(
            "INSERT INTO warehouse.pyops.dead_letters (run_id, load_id, source, table_name, key,"
            " column_name, value, reason, payload, recorded_at, letter_id, file, line, status)"
            " SELECT ?, ?, ?, ?, key, column_name, value, reason, payload, ?,"
            " (SELECT coalesce(max(letter_id), 0) FROM warehouse.pyops.dead_letters)"
            " + row_number() OVER (ORDER BY file, line, payload), file, line, 'open'"
            f" FROM ({write.dead_letters}) WHERE {is_new}",
            [run.run_id, load_id, *who, at, *parameters],
        )
    return found


def resolve_dead_letters(
    connection: duckdb.DuckDBPyConnection, run: Run | None, replayed: Sequence[int], purges: str
) -> int:
    """Closes dead letters whose rows were landed; deletes those to purge and returns how many."""
    if replayed and run:
        connection.execute(
            "UPDATE warehouse.pyops.dead_letters SET status = 'replayed', resolved_by = ?"
            " WHERE status = 'open' AND letter_id IN (SELECT unnest(?))",
            [run.run_id, list(replayed)],
        )
    if not purges:
        return 0
    delete = f"DELETE FROM warehouse.pyops.dead_letters WHERE {purges}"
    return int(_all(connection, delete)[0][0])


def store_capture(
    connection: duckdb.DuckDBPyConnection, load_id: int, change: CaptureChange
) -> None:
    """Stores how a source's capture has moved on."""
    offset = change.offset
    connection.execute("DELETE FROM warehouse.pyops.cdc_offsets WHERE source = ?", [offset.source])
    connection.execute(
        "INSERT INTO warehouse.pyops.cdc_offsets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*vars(offset).values(), utc_now()],
    )
    if gone := [*change.forgets, *(table.name for table in change.tables)]:
        connection.execute(
            "DELETE FROM warehouse.pyops.cdc_tables WHERE source = ?"
            " AND table_name IN (SELECT unnest(?))",
            [offset.source, gone],
        )
    for table in change.tables:
        values = [list(v) if isinstance(v, tuple) else v for v in vars(table).values()]
        connection.execute(
            "INSERT INTO warehouse.pyops.cdc_tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [offset.source, *values, load_id],
        )
    known = log_keys(connection, offset.source)
    for name, key in change.keys.items():
        statement = (
            "UPDATE warehouse.pyops.change_logs SET key = ? WHERE source = ? AND table_name = ?"
            if name in known
            else "INSERT INTO warehouse.pyops.change_logs (key, source, table_name)"
            " VALUES (?, ?, ?)"
        )
        connection.execute(statement, [list(key), offset.source, name])


def store_compacted(connection: duckdb.DuckDBPyConnection, to: Compacted) -> None:
    """Stores how far a log is folded; it never falls: what was folded may have left no row."""
    who = [to.table.source, to.table.name]
    found = _all(
        connection,
        "DELETE FROM warehouse.pyops.change_logs WHERE source = ? AND table_name = ?"
        " RETURNING coalesce(compacted_generation, 0), coalesce(compacted_lsn, 0)",
        *who,
    )
    place = max([(to.generation, to.lsn), *found])
    connection.execute(
        "INSERT INTO warehouse.pyops.change_logs VALUES (?, ?, ?, ?, ?)",
        [*who, list(to.key), *place],
    )
