"""Publishing: a staged load becomes visible with all its bookkeeping in one commit, or not at all.

Rows, watermark, dead letters, schema changes and the row of the run share one transaction; so
whenever a run is killed, the same command run again goes on from a state that was whole.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Self

import duckdb

from pyops.config.model import Write
from pyops.config.project import Table
from pyops.errors import SchemaChangeError, TransientError
from pyops.interrupt import interruptible
from pyops.records import GateResult, Run, Watermark, utc_now
from pyops.sql import columns as listed
from pyops.sql import identifier, literal, qualified
from pyops.staging.file import Stage
from pyops.warehouse.duckdb import (
    BOOKKEEPING,
    TableState,
    Warehouse,
    insert_results,
    insert_run,
    store_files,
    table_state,
)
from pyops.warehouse.schema import SchemaChange, compare


@dataclass(frozen=True)
class Load:
    """What is to be published from a staging file.

    Attributes:
        table: Whose load it is.
        write: The write pattern.
        key: The columns that identify a row, for merge and delete_insert by key.
        replaces: For delete_insert by range: the column, and the range's first and last but one
            values as text; None to delete by key.
        replaces_all: For delete_insert: every row goes, not those of a range or a key.
        newest_load: The table's last load when the run began: had there been another one
            meanwhile, this run might undo it.
        watermark: The state to store; None leaves it as it is.
        cursor: The column the watermark speaks of.
        resets_watermark: Whether a watermark that is there is of no use any more.
        accepts_changes: Whether the source's columns may differ from the target's.
        replaces_files: For delete_insert of files: whose rows go; None for anything else.
        files: The files that were read, each with size and modification time (ns).
        replays: The dead letters that are landed by this.
        deletes_extra: For merge of a whole table: rows go that are not at the source.
    """

    table: Table
    write: Write
    key: tuple[str, ...] = ()
    replaces: tuple[str, str, str] | None = None
    replaces_all: bool = False
    newest_load: int | None = None
    watermark: Watermark | None = None
    cursor: str | None = None
    resets_watermark: bool = False
    accepts_changes: bool = True
    replaces_files: tuple[str, ...] | None = None
    files: tuple[tuple[str, int, int], ...] = ()
    replays: tuple[int, ...] = ()
    deletes_extra: bool = False

    def to_json(self) -> str:
        """The load as a JSON object, without its table."""
        values = asdict(replace(self, table=None, watermark=None))  # type: ignore[arg-type]
        mark = self.watermark
        if mark is not None:
            values["watermark"] = [mark.bound, mark.candidate, sorted(mark.waiting_for)]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str, table: Table) -> Self:
        """The load that ``to_json`` wrote."""
        values = json.loads(text)
        if values["watermark"] is not None:
            bound, candidate, waiting = values["watermark"]
            values["watermark"] = Watermark(bound, candidate, frozenset(waiting))
        for name in ("key", "replaces", "replaces_files", "replays"):
            values[name] = values[name] and tuple(values[name])
        values["key"] = values["key"] or ()
        values["replays"] = values["replays"] or ()
        values["files"] = tuple((name, size, mtime) for name, size, mtime in values["files"])
        return cls(**{**values, "table": table})


def publish(
    warehouse: Warehouse,
    stage: Stage,
    load: Load,
    run: Run,
    results: Sequence[GateResult] = (),
) -> Run:
    """Writes a staged load to its target.

    Args:
        warehouse: Where to.
        stage: The staging file, filled.
        load: What is to be done with it.
        run: The run so far.
        results: What the gates said of it.

    Returns:
        The run with what was written, as it was recorded.

    Raises:
        SchemaChangeError: The target cannot take the columns, or may not.
        TransientError: Another run has published the table meanwhile, or holds the warehouse.
        OperationError: The warehouse cannot be written.
    """
    with warehouse.attached(stage.connection):
        publication = _Publication(stage, load, results)
        done = interruptible(lambda: publication.commit(run), cancel=stage.connection.interrupt)
        warehouse.mirror_letters(stage.connection, "warehouse")
        return done


class _Publication:
    """One load on its way into the attached warehouse."""

    def __init__(self, stage: Stage, load: Load, results: Sequence[GateResult]) -> None:
        self.stage = stage
        self.load = load
        self.results = results
        self.began = time.monotonic()
        self.connection = stage.connection
        self.target = qualified("warehouse", *load.table.target)
        self.names = listed(tuple(stage.columns))

    def commit(self, run: Run) -> Run:
        connection, load = self.connection, self.load
        connection.execute(BOOKKEEPING.format(catalog="warehouse"))
        state = table_state(connection, "warehouse", load.table)
        if load.newest_load is not None and state.last_load != load.newest_load:
            raise TransientError(
                f"{load.table}: another run has published it since this one began",
                hint="run it again: nothing was published",
            )
        swap = load.write == "swap" or not state.columns
        changes = self._changes(state, swap=swap)
        rows = "rows"
        unchanged = 0
        if load.write == "merge" and not swap:
            rows = "changed"
            unchanged = self._leave_out_unchanged(state)
        loaded_at = utc_now()
        connection.execute("BEGIN")
        try:
            load_id = self._number(
                "SELECT coalesce(max(load_id), 0) + 1 FROM warehouse.pyops.loads"
            )
            stamp = f"{load_id}::BIGINT AS _load_id, ?::TIMESTAMP AS _loaded_at"
            select = f"SELECT {self.names}, {stamp} FROM {rows}"
            deleted = 0
            if swap:
                deleted = (
                    self._number(f"SELECT count(*) FROM {self.target}") if state.columns else 0
                )
                schema = qualified("warehouse", load.table.target[0])
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                create = f"CREATE OR REPLACE TABLE {self.target} AS {select}"
                written = self._number(create, loaded_at)
            else:
                for change in changes:
                    if change.alter:
                        connection.execute(f"ALTER TABLE {self.target} {change.alter}")
                deleted = self._delete(rows)
                into = f"{self.target} ({self.names}, _load_id, _loaded_at)"
                written = self._number(f"INSERT INTO {into} {select}", loaded_at)
            finished = replace(
                run,
                status="succeeded",
                load_id=load_id,
                rows_written=written,
                rows_deleted=deleted,
                rows_unchanged=unchanged,
                finished_at=(now := utc_now()),
                seconds=(now - (run.started_at or now)).total_seconds(),
                locked_seconds=time.monotonic() - self.began,
            )
            self._record(finished, changes, loaded_at)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a commit that failed has ended the transaction
                connection.execute("ROLLBACK")
            raise
        return finished

    def _changes(self, state: TableState, *, swap: bool) -> list[SchemaChange]:
        if not state.columns:
            return []
        changes = compare(state.columns, self.stage.columns, keep=not swap)
        changes = unknown_changes(self.connection, self.load.table, changes)
        if not self.load.accepts_changes:
            refuse_changes(self.load.table, changes)
        return changes

    def _leave_out_unchanged(self, state: TableState) -> int:
        """Makes the table ``changed``: staged rows that are not in the target just like that.

        Columns that are only in the target, dropped at the source, keep what they last had.
        """
        here = {name.lower() for name in self.stage.columns}
        there = {name.lower(): type_ for name, type_ in state.columns.items()}
        gone = [name for name in state.columns if name.lower() not in here]

        def pair(name: str) -> tuple[str, str]:
            # Types that differ are compared as texts: a cast of the one to the other may fail. So
            # are floats: -0 and 0 are equal, and yet not the same.
            old, new = there[name.lower()], self.stage.columns[name]
            as_text = "::VARCHAR" * (old != new or new in {"FLOAT", "DOUBLE"})
            return f"r.{identifier(name)}{as_text}", f"t.{identifier(name)}{as_text}"

        differs = ["t._load_id IS NULL"] + [
            " IS DISTINCT FROM ".join(pair(name))
            if name.lower() in there
            else f"r.{identifier(name)} IS NOT NULL"
            for name in self.stage.columns
            if name not in self.load.key
        ]
        same_key = " AND ".join(" = ".join(pair(name)) for name in self.load.key)
        kept = "".join(f", t.{identifier(name)}" for name in gone)
        self.connection.execute(
            f"CREATE OR REPLACE TABLE changed AS SELECT r.* EXCLUDE (_fault){kept} FROM rows AS r"
            f" LEFT JOIN {self.target} AS t ON {same_key} WHERE {' OR '.join(differs)}"
        )
        self.names = listed([*self.stage.columns, *gone])
        return self._number("SELECT (SELECT count(*) FROM rows) - count(*) FROM changed")

    def _delete(self, rows: str) -> int:
        load = self.load
        if load.write == "append":
            return 0
        if load.replaces_all:
            return self._number(f"DELETE FROM {self.target}")
        if load.replaces_files is not None:
            names = list(load.replaces_files)
            return self._number(
                f"DELETE FROM {self.target} WHERE _file IN (SELECT unnest(?))", names
            )
        if load.replaces is not None:
            column, first, end = load.replaces
            where = f"{identifier(column)} >= ?::DATE AND {identifier(column)} < ?::DATE"
            return self._number(f"DELETE FROM {self.target} WHERE {where}", first, end)
        gone = 0
        if load.deletes_extra:
            gone = self._number(f"DELETE FROM {self.target} AS t WHERE {extra_rows(load.key)}")
        same = " AND ".join(f"t.{identifier(name)} = r.{identifier(name)}" for name in load.key)
        return gone + self._number(f"DELETE FROM {self.target} AS t USING {rows} AS r WHERE {same}")

    def _record(self, run: Run, changes: list[SchemaChange], at: datetime) -> None:
        load, connection = self.load, self.connection
        who = [load.table.source, load.table.name]
        connection.execute(
            "INSERT INTO warehouse.pyops.loads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(run.load_id, run.run_id, *who, ".".join(load.table.target), load.write),
                *(run.rows_written, run.rows_deleted, at),
            ],
        )
        self._settle_dead_letters(run, at)
        store_files(connection, "warehouse", load.table, load.files, run.load_id)
        for change in changes:
            connection.execute(
                "INSERT INTO warehouse.pyops.schema_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [run.load_id, *who, change.kind, change.column, change.old, change.new, at],
            )
        if load.watermark is not None or load.resets_watermark:
            connection.execute(
                "DELETE FROM warehouse.pyops.watermarks WHERE source = ? AND table_name = ?", who
            )
        if load.watermark is not None:
            mark = load.watermark
            connection.execute(
                "INSERT INTO warehouse.pyops.watermarks VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    *(*who, load.cursor, mark.bound, mark.candidate),
                    *(sorted(mark.waiting_for), run.load_id),
                ],
            )
        insert_run(connection, "warehouse", run)
        insert_results(connection, "warehouse", run, self.results)

    def _settle_dead_letters(self, run: Run, at: datetime) -> None:
        """Adds this load's dead letters; what it has read again is open no more."""
        load = self.load
        who = [load.table.source, load.table.name]
        letters = "warehouse.pyops.dead_letters"
        mine = "source = ? AND table_name = ? AND status = 'open'"

        def resolve(status: str, condition: str, *parameters: object) -> None:
            self.connection.execute(
                f"UPDATE {letters} SET status = ?, resolved_by = ? WHERE {mine} AND {condition}",
                [status, run.run_id, *who, *parameters],
            )

        if load.replays:
            resolve("replayed", "letter_id IN (SELECT unnest(?))", list(load.replays))
        elif load.write == "swap" or load.replaces_all:
            resolve("superseded", "payload NOT IN (SELECT payload FROM dead_letters)")
        elif load.replaces_files is not None:
            resolve(
                "superseded",
                "file IN (SELECT unnest(?)) AND payload NOT IN (SELECT payload FROM dead_letters)",
                list(load.replaces_files),
            )
        elif load.key:
            texts = ", ".join(f"{literal(name)}: {identifier(name)}::VARCHAR" for name in load.key)
            resolve("superseded", f"key IN (SELECT to_json({{{texts}}})::VARCHAR FROM rows)")
        self.connection.execute(
            f"INSERT INTO {letters} (run_id, load_id, source, table_name, key, column_name, value,"
            " reason, payload, recorded_at, letter_id, file, line, status)"
            " SELECT ?, ?, ?, ?, key, column_name, value, reason, payload, ?,"
            f" (SELECT coalesce(max(letter_id), 0) FROM {letters})"
            " + row_number() OVER (ORDER BY file, line, payload),"
            f" file, line, 'open' FROM dead_letters WHERE payload NOT IN"
            f" (SELECT payload FROM {letters} WHERE {mine})",
            [run.run_id, run.load_id, *who, at, *who],
        )

    def _number(self, statement: str, *parameters: object) -> int:
        row = self.connection.execute(statement, list(parameters)).fetchone()
        return int(row[0]) if row else 0


def extra_rows(key: Sequence[str]) -> str:
    """The DuckDB predicate, on the target as ``t``, for rows that the staged source has not.

    A row that the source has and that cannot be landed is not extra: its key is a dead letter's.
    """
    same = " AND ".join(f"r.{identifier(name)} = t.{identifier(name)}" for name in key)
    texts = ", ".join(f"{literal(name)}: t.{identifier(name)}::VARCHAR" for name in key)
    return (
        f"NOT EXISTS (SELECT 1 FROM rows AS r WHERE {same})"
        f" AND to_json({{{texts}}})::VARCHAR NOT IN"
        " (SELECT key FROM dead_letters WHERE key IS NOT NULL)"
    )


def unknown_changes(
    connection: duckdb.DuckDBPyConnection, table: Table, changes: Sequence[SchemaChange]
) -> list[SchemaChange]:
    """Leaves out dropped columns whose drop was recorded before: the target has them for good."""
    known = connection.execute(
        "SELECT column_name FROM warehouse.pyops.schema_changes"
        " WHERE source = ? AND table_name = ? GROUP BY column_name"
        " HAVING max(load_id) FILTER (kind = 'dropped')"
        " >= coalesce(max(load_id) FILTER (kind = 'added'), 0)",
        [table.source, table.name],
    ).fetchall()
    return [c for c in changes if c.kind != "dropped" or (c.column,) not in known]


def refuse_changes(table: Table, changes: Sequence[SchemaChange]) -> None:
    """Raises the SchemaChangeError of a table whose columns may not change, if they have."""
    if changes:
        raise SchemaChangeError(
            f"{table}: the source's columns have changed: {'; '.join(map(str, changes))}",
            hint="nothing was landed; take the change with --full-refresh,"
            " or set on_schema_change: evolve",
        )
