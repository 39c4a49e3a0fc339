"""pyops's own tables in the warehouse, which is attached as ``warehouse``: all SQL on them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from duckdb import DuckDBPyConnection as Connection

from pyops import records
from pyops.errors import OperationError, TransientError
from pyops.records import Run, TableId, utc_now
from pyops.sql import literal, qualified
from pyops.staging.columns import key_json
from pyops.warehouse import protocol
from pyops.warehouse.protocol import CaptureState, TableState, Write
from pyops.warehouse.schema import SchemaChange

_T = TypeVar("_T")
_RECORDS: Mapping[type, str] = {
    Run: "runs",
    records.DeadLetter: "dead_letters",
    records.GateResult: "gate_results",
    records.Offset: "cdc_offsets",
}
_MINE = "source = ? AND table_name = ?"
_LETTERS = "warehouse.pyops.dead_letters"
# Where a dead letter came from, and what stood there: equal rows of two places are two.
_IDENTITY = "coalesce(file || ':' || line, key, ''), payload"

# Script n takes the bookkeeping from version n - 1 to n.
_MIGRATIONS = sorted((Path(__file__).parent / "migrations").glob("*.sql"))
VERSION = len(_MIGRATIONS)


def _all(connection: Connection, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(statement, list(parameters)).fetchall()


def _one(connection: Connection, statement: str, *parameters: object) -> Any:
    return _all(connection, statement, *parameters)[0][0]


def _insert(connection: Connection, table: str, *values: object) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO warehouse.pyops.{table} VALUES ({marks})", list(values))


def version(connection: Connection) -> int:
    """The version of what is there, 0 for nothing; a newer one than ours is an OperationError."""
    try:
        found = int(_one(connection, "SELECT coalesce(max(version), 1) FROM warehouse.pyops.bookkeeping"))
    except duckdb.CatalogException:  # before there were versions, or before there was anything
        runs = "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'warehouse'"
        return int(_one(connection, f"{runs} AND schema_name = 'pyops' AND table_name = 'runs'"))
    if found > VERSION:
        raise OperationError(
            f"the warehouse was made by a newer pyops: its bookkeeping has version {found}, this pyops knows {VERSION}",
            hint="upgrade pyops: pip install --upgrade pyops",
        )
    return found


def upgrade(connection: Connection) -> None:
    """Makes the bookkeeping, or brings it up to date, in one transaction: a kill leaves it as it was."""
    if (found := version(connection)) == VERSION:
        return
    connection.execute("BEGIN")
    try:
        for script in _MIGRATIONS[found:]:
            connection.execute(script.read_text("utf-8"))
        connection.execute("DELETE FROM warehouse.pyops.bookkeeping")
        _insert(connection, "bookkeeping", VERSION)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # a commit that failed has ended the transaction
            connection.execute("ROLLBACK")
        raise


# What is known


def columns_of(connection: Connection, target: records.Relation) -> dict[str, str]:
    """The type of each column of a table by name; empty if there is none."""
    query = "SELECT column_name, data_type FROM duckdb_columns()"
    query += (
        " SEMI JOIN duckdb_tables() USING (database_name, schema_name, table_name) WHERE database_name = 'warehouse'"
    )
    query += " AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) ORDER BY column_index"
    return dict(_all(connection, query, *target))


def table_state(connection: Connection, table: TableId) -> TableState:
    there = columns_of(connection, table.target)
    columns = {n: type_ for n, type_ in there.items() if n not in {"_load_id", "_loaded_at"}}
    target = qualified("warehouse", *table.target)
    count = _one(connection, f"SELECT count(*) FROM {target}") if there else 0
    if not version(connection):
        return TableState(columns, count)

    def mine(query: str, more: str = "") -> list[tuple[Any, ...]]:
        return _all(connection, f"{query} WHERE {_MINE}{more}", table.source, table.name)

    last_load, loaded_at = mine("SELECT coalesce(max(load_id), 0), max(loaded_at) FROM warehouse.pyops.loads")[0]
    recent = mine(
        "SELECT rows_read FROM warehouse.pyops.runs",
        " AND status = 'succeeded' AND mode NOT IN ('reconcile', 'replay') AND rows_read > 0"
        " ORDER BY started_at DESC LIMIT 10",
    )
    [(letters,)] = mine(f"SELECT count(*) FROM {_LETTERS}", " AND status = 'open'")
    files: dict[str, tuple[int, int]] = {}
    cursor, watermark = None, records.Watermark()
    landed_as = None
    if columns:  # what a dropped table, or another target, had read is to be read again
        name = literal(".".join(table.target))
        here = f" AND load_id NOT IN (SELECT load_id FROM warehouse.pyops.loads WHERE target <> {name}"
        here += f" AND (source, table_name) = ({literal(table.source)}, {literal(table.name)}))"
        landed = mine("SELECT file, size, mtime_ns FROM warehouse.pyops.files", here)
        files = {name: (size, mtime) for name, size, mtime in landed}
        of_target = f" AND target = {name} AND landed_as IS NOT NULL"
        [(landed_as,)] = mine("SELECT max_by(landed_as, load_id) FROM warehouse.pyops.loads", of_target)
        if marks := mine("SELECT cursor_column, bound, candidate, waiting_for FROM warehouse.pyops.watermarks", here):
            cursor, bound, candidate, waiting = marks[0]
            watermark = records.Watermark(bound, candidate, frozenset(waiting))
    known = (columns, count, last_load, loaded_at, _last_run(connection, table), cursor, watermark, files)
    return TableState(*known, tuple(n for (n,) in recent), letters, landed_as)


def _last_run(connection: Connection, table: TableId) -> Run | None:
    """A table's last run; for a log that follows its source's stream, the stream's, with the table's own rows."""
    who = (table.source, table.name)
    follows = _one(connection, f"SELECT count(*) FROM warehouse.pyops.cdc_tables WHERE {_MINE}", *who)
    condition = "source = ? AND (table_name = ? OR table_name IS NULL AND mode = ?) AND status <> 'refused'"
    found = rows(connection, Run, condition, *who, "cdc" if follows else None, order="started_at DESC LIMIT 1")
    if not found or found[0].table_name:
        return found[0] if found else None
    written = f"SELECT coalesce(sum(rows_written), 0) FROM warehouse.pyops.loads WHERE {_MINE} AND run_id = ?"
    return replace(found[0], rows_written=int(_one(connection, written, *who, found[0].run_id)))


def rows(connection: Connection, record: type[_T], condition: str, *parameters: object, order: str = "1") -> list[_T]:
    """The rows of one kind that meet a condition; none where there is no bookkeeping yet."""
    if not version(connection):
        return []
    names = ", ".join(field.name for field in fields(record))  # type: ignore[arg-type]
    query = f"SELECT {names} FROM warehouse.pyops.{_RECORDS[record]} WHERE {condition}"
    return [record(*row) for row in _all(connection, f"{query} ORDER BY {order}", *parameters)]


def capture_state(connection: Connection, source: str) -> CaptureState:
    offsets = {offset.source: offset for offset in rows(connection, records.Offset, "true")}
    newest = max((offset.generation for offset in offsets.values()), default=0)
    if (offset := offsets.get(source)) is None:
        return CaptureState(newest_generation=newest)
    tables = _all(
        connection,
        "SELECT table_name, generation, relation_oid, membership_oid, columns, snapshot, snapshot_lsn, handoff_lsn,"
        " coalesce(left_out, []), leaves FROM warehouse.pyops.cdc_tables"
        " WHERE source = ? AND generation = ?",
        *(source, offset.generation),
    )
    found: list[list[Any]] = [[tuple(value) if isinstance(value, list) else value for value in row] for row in tables]
    captured = {row[0]: records.Captured(*row) for row in found}
    return CaptureState(offset, captured, log_keys(connection, source), newest)


def log_keys(connection: Connection, source: str) -> dict[str, tuple[str, ...]]:
    """The columns that identify a row of each log of a source."""
    if not version(connection):
        return {}
    query = "SELECT table_name, key FROM warehouse.pyops.change_logs WHERE source = ?"
    return {name: tuple(key) for name, key in _all(connection, query, source)}


def compacted_lsn(connection: Connection, table: TableId) -> int:
    """The LSN up to which a log is folded; -1 if it is not."""
    query = f"SELECT max(compacted_lsn) FROM warehouse.pyops.change_logs WHERE {_MINE}"
    found = version(connection) and _one(connection, query, table.source, table.name)
    return int(found) if found else -1


def open_keys(connection: Connection, table: TableId) -> str:
    """The SELECT of the keys of a table's open dead letters."""
    mine = f"source = {literal(table.source)} AND table_name = {literal(table.name)}"
    found = f"SELECT DISTINCT key FROM {_LETTERS} WHERE {mine} AND status = 'open' AND key IS NOT NULL"
    return found if version(connection) else "SELECT '' AS key WHERE false"


def count_dead_letters(connection: Connection, condition: str) -> int:
    query = f"SELECT count(*) FROM {_LETTERS} WHERE {condition}"
    return int(_one(connection, query)) if version(connection) else 0


def dropped_columns(connection: Connection, table: TableId) -> set[str]:
    """Columns whose drop at the source is the last that is recorded of them: the target keeps them for good."""
    found = _all(
        connection,
        f"SELECT column_name FROM warehouse.pyops.schema_changes WHERE {_MINE} AND kind IN ('added', 'dropped')"
        " GROUP BY column_name HAVING arg_max(kind, (load_id, detected_at)) = 'dropped'",
        *(table.source, table.name),
    )
    return {name for (name,) in found}


# What is expected


def refuse_surprises(connection: Connection, writes: Sequence[Write], capture: protocol.CaptureChange | None) -> None:
    """Raises a TransientError if another process has committed since this was planned."""
    hint = "run it again: nothing was published"
    newest = f"SELECT coalesce(max(load_id), 0) FROM warehouse.pyops.loads WHERE {_MINE}"
    for write in writes:
        table, expected = write.table, write.expects_load
        if expected not in (None, _one(connection, newest, table.source, table.name)):
            raise TransientError(f"{table}: another run has published it since this one began", hint=hint)
    if capture is not None:
        there = capture_state(connection, capture.offset.source).offset
        if _place(there) != _place(capture.expects):
            raise TransientError(
                f"{capture.offset.source}: another run has landed changes since this one began", hint=hint
            )


def _place(offset: records.Offset | None) -> tuple[object, ...]:
    return (offset.generation, offset.status, offset.slot, offset.lsn) if offset else ()


# What is noted


def next_load(connection: Connection) -> int:
    """One number for each commit: rising, never used again."""
    query = "SELECT coalesce(max(load_id), 0) + 1 FROM warehouse.pyops.loads"
    return int(_one(connection, query))


def add_load(connection: Connection, run: Run, table: TableId, *figures: object) -> None:
    """Notes that a commit has rows of a table: rows written and deleted, when, and landed how."""
    who = (table.source, table.name, ".".join(table.target))
    _insert(connection, "loads", run.load_id, run.run_id, *who, run.write_pattern, *figures)


def add_run(connection: Connection, run: Run, gates: Sequence[records.GateResult]) -> None:
    """Adds a run, unless it is there, and what the gates said of it."""
    there = "SELECT count(*) FROM warehouse.pyops.runs WHERE run_id = ?"
    if not _one(connection, there, run.run_id):
        _insert(connection, "runs", *vars(run).values())
    for result in gates:
        who = (run.run_id, run.source, run.table_name)
        _insert(connection, "gate_results", *who, *astuple(result), utc_now())


def add_schema_changes(connection: Connection, load_id: int, table: TableId, changes: Sequence[SchemaChange]) -> None:
    for change in changes:
        what = (change.kind, change.column, change.old, change.new)
        who = (table.source, table.name)
        _insert(connection, "schema_changes", load_id, *who, *what, utc_now())


def store_sidelines(connection: Connection, load_id: int, write: Write) -> None:
    """Stores a write's watermark, and the files its rows came from."""
    who = [write.table.source, write.table.name]
    if write.watermark is not None:
        connection.execute(f"DELETE FROM warehouse.pyops.watermarks WHERE {_MINE}", who)
        if (mark := write.watermark.watermark) is not None:
            place = (mark.bound, mark.candidate, sorted(mark.waiting_for))
            _insert(connection, "watermarks", *who, write.watermark.cursor, *place, load_id)
    if write.files:
        names = [name for name, _, _ in write.files]
        names += write.scope.names if isinstance(write.scope, protocol.ByFiles) else ()
        gone = " AND file IN (SELECT unnest(?))"  # of a whole table, all that it was made from before
        is_whole = isinstance(write.scope, protocol.Whole)
        connection.execute(
            f"DELETE FROM warehouse.pyops.files WHERE {_MINE}{'' if is_whole else gone}",
            list[object](who) if is_whole else [*who, names],
        )
        connection.executemany(
            "INSERT INTO warehouse.pyops.files VALUES (?, ?, ?, ?, ?, ?)",
            [[*who, *file, load_id] for file in write.files],
        )


def settle_dead_letters(connection: Connection, load_id: int, run: Run, write: Write) -> int:
    """Adds a write's dead letters, and closes those that it has read again; returns how many."""
    who = [write.table.source, write.table.name]
    mine = f"{_MINE} AND status = 'open'"
    again = f"({_IDENTITY}) IN (SELECT ({_IDENTITY}) FROM ({write.dead_letters}))"
    superseded, parameters = "", list[object]()
    match write.supersedes or write.scope:
        case protocol.Whole():
            superseded = "true"
        case protocol.ByFiles(names):
            superseded, parameters = "file IN (SELECT unnest(?))", [list(names)]
        case protocol.ByKey(key) if key:
            # A change that leaves values as they were does not make up for the one that set them.
            whole = " WHERE len(_unchanged) = 0" if write.log else ""
            superseded = f"key IN (SELECT {key_json(write.columns, key)} FROM ({write.rows}){whole})"
            if write.log:
                superseded = f"({superseded} OR EXISTS (FROM ({write.rows}) WHERE _op = 't'))"
            again = "false"
    if superseded and _one(connection, f"SELECT count(*) FROM {_LETTERS} WHERE {mine}", *who):
        stays = "" if write.log else f" AND NOT {again}"
        connection.execute(
            f"UPDATE {_LETTERS} SET status = 'superseded', resolved_by = ? WHERE {mine} AND {superseded}{stays}",
            [run.run_id, *who, *parameters],
        )
    found = int(_one(connection, f"SELECT count(*) FROM ({write.dead_letters})"))
    if found:
        known = f"SELECT ({_IDENTITY}) FROM {_LETTERS} WHERE {mine}"
        status = "status" if write.log == "stream" else "'open'"
        is_new = "" if write.log else f" WHERE ({_IDENTITY}) NOT IN ({known})"
        connection.execute(
            f"INSERT INTO {_LETTERS} (run_id, load_id, source, table_name, key, column_name, value,"
            " reason, payload, recorded_at, letter_id, file, line, status)"
            " SELECT ?, ?, ?, ?, key, column_name, value, reason, payload, ?,"
            f" (SELECT coalesce(max(letter_id), 0) FROM {_LETTERS})"
            f" + row_number() OVER (ORDER BY file, line, payload), file, line, {status}"
            f" FROM ({write.dead_letters}){is_new}",
            [run.run_id, load_id, *who, utc_now(), *([] if write.log else who)],
        )
    return found


def resolve_dead_letters(connection: Connection, run: Run | None, replayed: Sequence[int], purges: str) -> int:
    """Closes dead letters whose rows were landed; deletes those to purge and returns how many."""
    if replayed and run:
        connection.execute(
            f"UPDATE {_LETTERS} SET status = 'replayed', resolved_by = ?"
            " WHERE status = 'open' AND letter_id IN (SELECT unnest(?))",
            [run.run_id, list(replayed)],
        )
    return int(_one(connection, f"DELETE FROM {_LETTERS} WHERE {purges}")) if purges else 0


def store_capture(connection: Connection, load_id: int, change: protocol.CaptureChange) -> None:
    source = change.offset.source
    connection.execute("DELETE FROM warehouse.pyops.cdc_offsets WHERE source = ?", [source])
    *place, committed_lsn = vars(change.offset).values()
    _insert(connection, "cdc_offsets", *place, utc_now(), committed_lsn)
    if gone := [*change.forgets, *(table.name for table in change.tables)]:
        delete = "DELETE FROM warehouse.pyops.cdc_tables WHERE source = ?"
        connection.execute(f"{delete} AND table_name IN (SELECT unnest(?))", [source, gone])
    for table in change.tables:
        *copied, left_out, leaves = [list(v) if isinstance(v, tuple) else v for v in vars(table).values()]
        _insert(connection, "cdc_tables", source, *copied, load_id, left_out, leaves)
    known = log_keys(connection, source)
    for name, key in change.keys.items():
        if name in known:
            update = f"UPDATE warehouse.pyops.change_logs SET key = ? WHERE {_MINE}"
            connection.execute(update, [list(key), source, name])
        else:
            _insert(connection, "change_logs", source, name, list(key), None, None)


def store_compacted(connection: Connection, to: protocol.Compacted) -> None:
    """Stores how far a log is folded; it never falls: what was folded may have left no row."""
    who = (to.table.source, to.table.name)
    found = _all(
        connection,
        f"DELETE FROM warehouse.pyops.change_logs WHERE {_MINE}"
        " RETURNING coalesce(compacted_generation, 0), coalesce(compacted_lsn, 0)",
        *who,
    )
    place = max([(to.generation, to.lsn), *found])
    _insert(connection, "change_logs", *who, list(to.key), *place)
