"""One commit into an attached DuckDB file: rows and bookkeeping in one transaction."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import duckdb

from pyops.errors import OperationError
from pyops.records import CHANGE_COLUMNS, Run, TableId, ended, utc_now
from pyops.sql import identifier, qualified
from pyops.staging.columns import key_json
from pyops.warehouse import bookkeeping
from pyops.warehouse.protocol import Append, ByDays, ByFiles, ByKey, Commit, Where, Whole, Write
from pyops.warehouse.schema import BATCH_HINT, SchemaChange, compare, refuse

_log = logging.getLogger(__name__)
_LOG_HINT = "nothing was landed: set on_schema_change: evolve, at least for one run"


class Committing:
    """A commit on its way into the file that a connection has attached as ``warehouse``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, commit: Commit) -> None:
        self.connection = connection
        self.commit = commit
        self.began = time.monotonic()
        self.written: dict[TableId, int] = {}
        self.deleted: dict[TableId, int] = {}
        self.unchanged = commit.run.rows_unchanged if commit.run else 0
        self.dead_letters = 0
        self.told: list[str] = []

    def run(self) -> Run | None:
        """Commits, and returns the run as it was recorded."""
        commit, connection = self.commit, self.connection
        bookkeeping.refuse_surprises(connection, commit.writes, commit.capture)
        # A transaction writes to one file only: what is staged comes first.
        writes = [self._without_unchanged(write) for write in commit.writes]
        at = utc_now()
        connection.execute("BEGIN")
        try:
            load_id = bookkeeping.next_load(connection)
            for write in writes:
                self._write(write, load_id, at)
            if commit.capture:
                bookkeeping.store_capture(connection, load_id, commit.capture)
            if commit.compacted:
                bookkeeping.store_compacted(connection, commit.compacted)
            purged = bookkeeping.resolve_dead_letters(connection, commit.run, commit.replayed, commit.purges)
            run = self._ended(load_id, at, purged)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a commit that failed has ended the transaction
                connection.execute("ROLLBACK")
            raise
        for change in self.told:
            _log.info("%s", change)
        return run

    def _ended(self, load_id: int, at: datetime, purged: int) -> Run | None:
        if self.commit.run is None:
            return None
        loaded = [table for table in self.written if not self._is_rewrite(table)]
        run = replace(
            ended(self.commit.run, "succeeded", None),
            load_id=load_id if loaded else None,
            rows_written=sum(self.written.values()),
            rows_deleted=sum(self.deleted.values()) + purged * (not self.commit.writes),
            rows_unchanged=self.unchanged,
            rows_dead_lettered=self.dead_letters,
            locked_seconds=time.monotonic() - self.began,
        )
        for table in loaded:
            how = next((w.landed_as for w in self.commit.writes if w.table == table and w.landed_as), None)
            figures = (self.written[table], self.deleted[table], at, how)
            bookkeeping.add_load(self.connection, run, table, *figures)
        bookkeeping.add_run(self.connection, run, self.commit.gates)
        return run

    def _is_rewrite(self, table: TableId) -> bool:
        return all(w.is_rewrite for w in self.commit.writes if w.table == table)

    def _write(self, write: Write, load_id: int, at: datetime) -> None:
        assert self.commit.run
        written = deleted = 0
        skips = write.log in {"stream", "events"} and not self._number(
            f"SELECT count(*) FROM (FROM ({write.rows}) LIMIT 1)"
        )
        if not skips:
            written, deleted = self._replace(write, load_id, at)
        dead = 0
        if not write.is_rewrite:
            dead = bookkeeping.settle_dead_letters(self.connection, load_id, self.commit.run, write)
            bookkeeping.store_sidelines(self.connection, load_id, write)
        self.dead_letters += dead
        if dead or not skips:
            self.written[write.table] = self.written.get(write.table, 0) + written
            self.deleted[write.table] = self.deleted.get(write.table, 0) + deleted

    def _replace(self, write: Write, load_id: int, at: datetime) -> tuple[int, int]:
        """Deletes what the write replaces and inserts its rows; returns how many of each."""
        target = qualified("warehouse", *write.table.target)
        there = bookkeeping.columns_of(self.connection, write.table.target)
        if write.is_rewrite:
            deleted = self._delete(write, target)
            insert = f"INSERT INTO {target} BY NAME {write.rows}"
            return (self._number(insert) if write.rows else 0), deleted
        stamped = f"SELECT *, {load_id}::BIGINT AS _load_id, ?::TIMESTAMP AS _loaded_at"
        rows = f"{stamped} FROM ({write.rows})"
        changes = self._changes(write, there)
        bookkeeping.add_schema_changes(self.connection, load_id, write.table, changes)
        is_swap = isinstance(write.scope, Whole) and write.scope.swap
        again = f"pyops snapshot {write.table}" if write.log else f"pyops extract {write.table} --full-refresh"
        for change in changes:  # what has a default at the source is filled in there, and in no change
            lacks = change.kind == "added" and not is_swap and write.log != "copy"
            has, does = ("NULL", "brings") if change.becomes else ("an earlier column's values", "replaces")
            more = f": {has} in rows that were landed before, which {again} {does}" if lacks else ""
            self.told.append(f"{write.table}: {change}{more}")
        if not there:
            schema = qualified("warehouse", write.table.target[0])
            self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        if is_swap or not (there or write.log):
            deleted = self._number(f"SELECT count(*) FROM {target}") if there else 0
            return self._number(f"CREATE OR REPLACE TABLE {target} AS {rows}", at), deleted
        if there:
            self._alter(target, changes)
        else:
            self._make_log(write, target)
        deleted = self._delete(write, target)
        return self._number(f"INSERT INTO {target} BY NAME {rows}", at), deleted

    # The target's columns

    def _changes(self, write: Write, there: dict[str, str]) -> list[SchemaChange]:
        """How the target's columns differ, unless they may not."""
        table = write.table
        if not there:
            if write.log == "stream":
                raise OperationError(
                    f"{table}: its log {'.'.join(table.target)} is gone",
                    hint=f"run pyops cdc {table.source} again: the table is re-snapshotted",
                )
            return []
        own = {n: t for n, t in there.items() if n not in {"_load_id", "_loaded_at"}}
        if len(own) == len(there) and not (write.adopts or write.log):
            raise OperationError(
                f"{table}: {'.'.join(table.target)} exists, and pyops did not make it",
                hint="give the table another target; or adopt: true, and its rows are replaced",
            )
        if write.log:
            if not there.keys() >= CHANGE_COLUMNS.keys():
                raise OperationError(
                    f"{table}: {'.'.join(table.target)} exists and is not a change log",
                    hint="rename it, or give the table another target",
                )
            own = {n: t for n, t in own.items() if n not in CHANGE_COLUMNS}
        keep = bool(write.log) or not (isinstance(write.scope, Whole) and write.scope.swap)
        found = compare(own, write.columns, keep=keep, otherwise="VARCHAR" if write.log else None, table=table)
        known = bookkeeping.dropped_columns(self.connection, table)
        back = [n for n in own if n in known and n.lower() in map(str.lower, write.columns)]
        found = [c for c in found if c.kind != "dropped" or c.column not in known]
        changes = [*(SchemaChange("added", n, new=own[n]) for n in back), *found]
        if write.is_recreated:
            changes = [SchemaChange("recreated", ""), *changes]
        if not write.may_evolve:
            refuse(table, changes, hint=_LOG_HINT if write.log else BATCH_HINT)
        return changes

    def _alter(self, target: str, changes: list[SchemaChange]) -> None:
        for change in changes:
            how, type_ = ("ADD COLUMN", "") if change.kind == "added" else ("ALTER COLUMN", "TYPE ")
            if change.becomes:
                column = identifier(change.column)
                self.connection.execute(f"ALTER TABLE {target} {how} {column} {type_}{change.becomes}")

    def _make_log(self, write: Write, target: str) -> None:
        types = {**write.columns, **CHANGE_COLUMNS}
        types |= {"_load_id": "BIGINT", "_loaded_at": "TIMESTAMP"}
        columns = ", ".join(f"{identifier(name)} {type_}" for name, type_ in types.items())
        self.connection.execute(f"CREATE TABLE {target} ({columns})")

    # The target's rows

    def _without_unchanged(self, write: Write) -> Write:
        """The write with only the rows that are not in the target just like that."""
        scope = write.scope
        there = bookkeeping.columns_of(self.connection, write.table.target)
        if not (isinstance(scope, ByKey) and scope.skips_unchanged and there):
            return write
        here = {name.lower() for name in write.columns}
        types = {name.lower(): type_ for name, type_ in there.items()}
        own = {*here, "_load_id", "_loaded_at"}
        # Columns that were dropped at the source keep what they last had.
        gone = [name for name in there if name.lower() not in own]

        def pair(name: str) -> tuple[str, str]:
            # Types that differ are compared as texts: a cast of the one to the other may fail. So
            # are floats: -0 and 0 are equal, and yet not the same.
            old, new = types[name.lower()], write.columns[name]
            as_text = "::VARCHAR" * (old != new or new in {"FLOAT", "DOUBLE"})
            return f"r.{identifier(name)}{as_text}", f"t.{identifier(name)}{as_text}"

        differs = ["t._load_id IS NULL"] + [
            " IS DISTINCT FROM ".join(pair(name)) if name.lower() in types else f"r.{identifier(name)} IS NOT NULL"
            for name in write.columns
            if name not in scope.key
        ]
        target = qualified("warehouse", *write.table.target)
        same_key = " AND ".join(" = ".join(pair(name)) for name in scope.key)
        kept = "".join(f", t.{identifier(name)}" for name in gone)
        self.connection.execute(
            f"CREATE OR REPLACE TABLE changed AS SELECT r.*{kept} FROM ({write.rows}) AS r"
            f" LEFT JOIN {target} AS t ON {same_key} WHERE {' OR '.join(differs)}"
        )
        self.unchanged += self._number(f"SELECT (SELECT count(*) FROM ({write.rows})) - count(*) FROM changed")
        return replace(write, rows="SELECT * FROM changed")

    def _delete(self, write: Write, target: str) -> int:
        match write.scope:
            case Append():
                return 0
            case Whole():
                return self._number(f"DELETE FROM {target}")
            case Where(condition):
                return self._number(f"DELETE FROM {target} WHERE {condition}")
            case ByFiles(names):
                return self._number(f"DELETE FROM {target} WHERE _file IN (SELECT unnest(?))", list(names))
            case ByDays(column, first, end):
                day = identifier(column)
                where = f"{day} >= ?::DATE AND {day} < ?::DATE"
                return self._number(f"DELETE FROM {target} WHERE {where}", first, end)
            case ByKey(key, _, deletes_extra):
                extra = 0
                if deletes_extra:
                    is_gone = is_extra(write.columns, key)
                    extra = self._number(f"DELETE FROM {target} AS t WHERE {is_gone}")
                same = " AND ".join(f"t.{identifier(n)} = r.{identifier(n)}" for n in key)
                return extra + self._number(f"DELETE FROM {target} AS t USING ({write.rows}) AS r WHERE {same}")

    def _number(self, statement: str, *parameters: object) -> int:
        row = self.connection.execute(statement, list(parameters)).fetchone()
        return int(row[0]) if row else 0


def is_extra(columns: Mapping[str, str], key: Sequence[str]) -> str:
    """The condition, on the target as ``t``, for rows that the staged source does not have."""
    same = " AND ".join(f"r.{identifier(name)} = t.{identifier(name)}" for name in key)
    return (  # a row that cannot be landed is not extra: its key is a dead letter's
        f"NOT EXISTS (SELECT 1 FROM rows AS r WHERE {same})"
        f" AND {key_json(columns, key, of='t')} NOT IN"
        " (SELECT key FROM dead_letters WHERE key IS NOT NULL)"
    )
