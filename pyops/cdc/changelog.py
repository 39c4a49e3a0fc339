"""Change logs: changes are typed in a staging file, then appended to ``raw.<table>__changes``.

One transaction holds the rows of every table, the offset behind them and the row of the run, so
the log and the position it stands for can never disagree.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import duckdb
import pyarrow as pa

from pyops.cdc.debezium.dedupe import new_rows
from pyops.cdc.postgres.pgoutput import Changes, Relation
from pyops.config.project import Table
from pyops.errors import OperationError, SchemaChangeError
from pyops.interrupt import interruptible
from pyops.records import CHANGE_COLUMNS, RESERVED_COLUMNS, Captured, Offset, Run, utc_now
from pyops.sources.postgres.session import Session
from pyops.sql import columns as listed
from pyops.sql import identifier, literal, qualified
from pyops.staging.file import DEAD_LETTER, Stage
from pyops.staging.postgres_types import ColumnMapping, hashed, mapping_of_text
from pyops.warehouse.bookkeeping import compacted_lsn, store_table
from pyops.warehouse.duckdb import BOOKKEEPING, Warehouse, insert_run, table_state
from pyops.warehouse.publication import unknown_changes
from pyops.warehouse.schema import SchemaChange, compare

Position = Callable[[duckdb.DuckDBPyConnection, int], None]  # given also the load's number

_META = {name: ColumnMapping(type_, "", identifier(name)) for name, type_ in CHANGE_COLUMNS.items()}


@dataclass(frozen=True)
class Part:
    """Rows of one table that are to be appended to its log.

    Attributes:
        table: The table.
        columns: The warehouse type of each of its own columns, by name.
        rows: The SELECT, in the staging file, of those and the columns every change has.
        letters: The SELECT of its dead letters.
        key: The columns that identify a row.
        captured: For the rows of a snapshot, what is to be known of the table from now on. If the
            log has rows already, a truncation in front of the new ones says that they are gone.
        copied_at: When the snapshot was taken, naive UTC.
        recreated: Whether the table was dropped and made again since it was captured.
        unnumbered: Whether rows may be in the log already and have no ``_seq``: see ``new_rows``.
        reread: Files whose dead letters were found again if they are still there.
    """

    table: Table
    columns: Mapping[str, str]
    rows: str
    letters: str
    key: tuple[str, ...] = ()
    captured: Captured | None = None
    copied_at: datetime | None = None
    recreated: bool = False
    unnumbered: bool = False
    reread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Version:
    """The staging table of one version of a relation."""

    name: str
    table: Table
    mappings: Mapping[str, ColumnMapping]


@dataclass
class Chunk:
    """Changes on their way into a staging file.

    Attributes:
        stage: The staging file.
        tables: The captured tables, by the oid of their relation.
        keys: The columns that identify a row, by the table's name.
        offset: What was landed before: a transaction before it is a repetition.
        catalog: A connection to look up types with.
        salt: What masked values are hashed with.
        events: How many changes arrived.
        repeated: How many of them had been landed, or copied, before.
    """

    stage: Stage
    tables: Mapping[int, tuple[Table, Captured]]
    keys: Mapping[str, tuple[str, ...]]
    offset: Offset
    catalog: Session
    salt: str
    events: int = 0
    _versions: dict[Relation, _Version] = field(default_factory=dict)

    def key(self, relation: Relation) -> tuple[str, ...]:
        """The columns that identify a row of a relation, for the decoder."""
        found = self.tables.get(relation.oid)
        return self.keys.get(found[0].name, ()) if found else ()

    def add(self, changes: Changes) -> None:
        """Stages changes; those that belong to no captured table are left out.

        Raises:
            OperationError: The file cannot be written, or a column's name cannot be landed.
        """
        relation = changes.relation
        if relation.oid not in self.tables:
            return
        version = self._versions.get(relation)
        if version is None:
            version = self._versions[relation] = self._version(relation)
        self.events += len(changes.op)
        names = [attribute.name for attribute in relation.attributes]
        generation = pa.repeat(pa.scalar(self.offset.generation, pa.int32()), len(changes.op))
        meta = [changes.op, generation, changes.lsn, changes.seq, changes.xid]
        arrays = [*meta, changes.committed_at, changes.unchanged, *changes.values]
        self.stage.add(
            version.name,
            pa.Table.from_arrays(arrays, names=[*CHANGE_COLUMNS, *names]),
            version.mappings,
            key=self.keys.get(version.table.name, ()),
            where=self._is_new(self.tables[relation.oid][1]),
            size=changes.bytes,
        )

    def _version(self, relation: Relation) -> _Version:
        table = self.tables[relation.oid][0]
        config = table.postgres
        attributes = [
            a
            for a in relation.attributes
            if a.name not in config.exclude and (not config.columns or a.name in config.columns)
        ]
        taken = {name.lower() for name in (*RESERVED_COLUMNS, *CHANGE_COLUMNS)}
        for attribute in attributes:
            if attribute.name.lower() in taken:
                raise OperationError(
                    f"{table}: column {attribute.name} cannot be landed: its name is pyops's own,"
                    " or differs from another's only by case",
                    hint=f"leave it out with exclude: [{attribute.name}]",
                )
            taken.add(attribute.name.lower())
        types = self.catalog.types([(a.type_oid, a.modifier) for a in attributes])
        mappings = {
            a.name: hashed(identifier(a.name), self.salt)
            if a.name in config.mask
            else mapping_of_text(a.name, type_)
            for a, type_ in zip(attributes, types, strict=True)
        }
        return _Version(f"changes_{len(self._versions)}", table, _META | mappings)

    def _leave_out_deletes_of_replaced_rows(self, version: _Version) -> None:
        """Drops deletes of a row whose key another row has taken before, in the same transaction.

        Where a key is checked late, rows can swap keys: 1 becomes 2, then the old 2 becomes 1. That
        second update deletes a row of key 2, but not the one that has the key now. Only a replica
        identity that is FULL allows for that, and it tells the one row from the other.
        """
        if not (key := self.keys.get(version.table.name, ())):
            return
        row = listed([name for name in version.mappings if name not in _META])
        connection = self.stage.connection
        connection.execute(
            f"DELETE FROM {version.name} WHERE _op = 'd' AND (_lsn, _seq) IN ("
            f" SELECT (_lsn, _seq) FROM (SELECT _lsn, _seq, _op, ROW({row}) AS now,"
            f" lag(_op) OVER same AS op_before, lag(ROW({row})) OVER same AS before"
            f" FROM {version.name} WINDOW same AS (PARTITION BY _lsn, {listed(key)} ORDER BY _seq))"
            " WHERE _op = 'd' AND op_before IN ('c', 'u') AND now IS DISTINCT FROM before)"
        )

    def _is_new(self, captured: Captured) -> str:
        """The condition for changes that were neither landed before nor copied with the table.

        The stream's transaction ids have 32 bits; near a snapshot its own tell the others.
        """
        condition = f"_lsn >= {self.offset.lsn}"
        if captured.handoff_lsn <= self.offset.lsn:
            return condition
        _, xmax, in_progress = captured.snapshot.split(":")
        full = f"({xmax} + ((_xid - {xmax} + 2147483648) & 4294967295) - 2147483648)"
        still_open = f" OR {full} IN ({in_progress})" if in_progress else ""
        invisible = f"{full} >= {xmax}{still_open}"
        return f"{condition} AND (_lsn >= {captured.handoff_lsn} OR {invisible})"

    def parts(self) -> list[Part]:
        """What was staged, a part for each version of each table."""
        for relation, version in self._versions.items():
            if relation.identity == "f":
                self._leave_out_deletes_of_replaced_rows(version)
        return [
            Part(
                version.table,
                {n: item.warehouse for n, item in version.mappings.items() if n not in _META},
                f"SELECT * EXCLUDE (_fault) FROM {version.name} WHERE _fault IS NULL",
                f"SELECT {DEAD_LETTER} FROM {version.name} WHERE _fault IS NOT NULL",
                self.keys.get(version.table.name, ()),
            )
            for version in self._versions.values()
        ]


def append(
    warehouse: Warehouse, stage: Stage, parts: Sequence[Part], *, position: Position, run: Run
) -> Run:
    """Appends staged changes to their logs and says up to where, all in one transaction.

    Args:
        warehouse: Where to.
        stage: The staging file.
        parts: What is to be appended.
        position: Writes down, in the warehouse that is attached, where they end.
        run: The run so far.

    Returns:
        The run as it was recorded.

    Raises:
        SchemaChangeError: A table's columns have changed, and may not.
        TransientError: Another process holds the warehouse.
        OperationError: The warehouse cannot be written.
    """
    with warehouse.attached(stage.connection):
        appending = _Appending(stage.connection, parts, position, run)
        done = interruptible(appending.commit, cancel=stage.connection.interrupt)
        warehouse.mirror_letters(stage.connection, "warehouse")
        return done


@dataclass
class _Appending:
    connection: duckdb.DuckDBPyConnection
    parts: Sequence[Part]
    position: Position
    run: Run
    repeated: int = 0

    def commit(self) -> Run:
        began = time.monotonic()
        self.connection.execute(BOOKKEEPING.format(catalog="warehouse"))
        loaded_at = utc_now()
        self.connection.execute("BEGIN")
        try:
            load_id = self._number(
                "SELECT coalesce(max(load_id), 0) + 1 FROM warehouse.pyops.loads"
            )
            written: dict[Table, int] = {}
            letters = 0
            for part in self.parts:
                rows, dead = self._append(part, load_id, loaded_at)
                letters += dead
                if rows or dead or part.captured:
                    written[part.table] = written.get(part.table, 0) + rows
            for table, rows in written.items():
                self.connection.execute(
                    "INSERT INTO warehouse.pyops.loads VALUES (?, ?, ?, ?, ?, 'append', ?, 0, ?)",
                    [
                        *(load_id, self.run.run_id, table.source, table.name),
                        *(".".join(table.target), rows, loaded_at),
                    ],
                )
            self.position(self.connection, load_id)
            done = replace(
                self.run,
                status="succeeded",
                load_id=load_id if written else None,
                rows_written=sum(written.values()),
                rows_unchanged=self.repeated,
                rows_dead_lettered=letters,
                finished_at=(now := utc_now()),
                seconds=(now - (self.run.started_at or now)).total_seconds(),
                locked_seconds=time.monotonic() - began,
            )
            insert_run(self.connection, "warehouse", done)
            self.connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a commit that failed has ended the transaction
                self.connection.execute("ROLLBACK")
            raise
        return done

    def _append(self, part: Part, load_id: int, loaded_at: datetime) -> tuple[int, int]:
        """Appends one part; returns how many rows were written, and how many dead letters."""
        table = part.table
        target = qualified("warehouse", *table.target)
        if part.unnumbered:
            part = self._numbered(part, target)
        if not part.captured and not self._number(f"SELECT count(*) FROM ({part.rows})"):
            rows = 0
        else:
            self._evolve(part, target, load_id, loaded_at)
            stamp = f"{load_id}::BIGINT AS _load_id, ?::TIMESTAMP AS _loaded_at"
            rows, place = 0, 0
            if part.captured and self._number(f"SELECT count(*) FROM (FROM {target} LIMIT 1)"):
                generation, lsn = part.captured.generation, part.captured.snapshot_lsn
                place = self._number(  # behind another copy that nothing has followed yet
                    f"SELECT coalesce(max(_seq) + 1, 0) FROM {target}"
                    f" WHERE _generation = {generation} AND _lsn = {lsn}"
                )
                rows += self._number(
                    f"INSERT INTO {target} BY NAME SELECT 't' AS _op,"
                    f" {generation}::INTEGER AS _generation,"
                    f" {lsn}::BIGINT AS _lsn, {place}::BIGINT AS _seq,"
                    f" ?::TIMESTAMP AS _committed_at, []::VARCHAR[] AS _unchanged, {stamp}",
                    part.copied_at,
                    loaded_at,
                )
            rows += self._number(
                f"INSERT INTO {target} BY NAME SELECT * REPLACE (_seq + {place} AS _seq), {stamp}"
                f" FROM ({part.rows})",
                loaded_at,
            )
        if part.captured:
            store_table(self.connection, "warehouse", table.source, part.captured, load_id)
        return rows, self._bury(part, load_id, loaded_at)

    def _numbered(self, part: Part, target: str) -> Part:
        """The part with what is not in the log, and the places it gets there.

        What was folded is not there to compare with: nothing from before it is taken again.
        """
        log = table_state(self.connection, "warehouse", part.table).columns
        arrived = self.connection.execute(
            f"SELECT count(*), min(_lsn), max(_lsn) FROM ({part.rows})"
        ).fetchall()[0]
        folded = compacted_lsn(self.connection, "warehouse", part.table)
        part = replace(part, rows=f"SELECT * FROM ({part.rows}) WHERE _lsn > {folded}")
        if not arrived[0] or (log and "_lsn" not in log):  # what is no log is refused later
            return part
        old = (
            f"SELECT * FROM {target} WHERE _lsn BETWEEN {arrived[1]} AND {arrived[2]}"
            f" AND _lsn IN (SELECT _lsn FROM ({part.rows}))"
            if log
            else f"SELECT *, NULL::BIGINT AS _seq FROM ({part.rows}) LIMIT 0"
        )
        own = {name: type_ for name, type_ in log.items() if name not in CHANGE_COLUMNS}
        rows = new_rows(part.rows, part.columns, own if log else part.columns, old)
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE fresh AS {rows}")
        self.repeated += arrived[0] - self._number("SELECT count(*) FROM fresh")
        return replace(part, rows="FROM fresh")

    def _evolve(self, part: Part, target: str, load_id: int, at: datetime) -> None:
        """Makes the log, or gives it what columns and types the rows need."""
        table = part.table
        state = table_state(self.connection, "warehouse", table)
        if not state.columns:
            schema = qualified("warehouse", table.target[0])
            self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            types = {**part.columns, **CHANGE_COLUMNS}
            types |= {"_load_id": "BIGINT", "_loaded_at": "TIMESTAMP"}
            columns = ", ".join(f"{identifier(name)} {type_}" for name, type_ in types.items())
            self.connection.execute(f"CREATE TABLE {target} ({columns})")
            return
        there = {name: type_ for name, type_ in state.columns.items() if name not in CHANGE_COLUMNS}
        if len(there) == len(state.columns):
            raise OperationError(
                f"{table}: {'.'.join(table.target)} is there and is no change log",
                hint="rename it, or give the table another target",
            )
        found = compare(there, part.columns, keep=True, otherwise="VARCHAR")
        changes = unknown_changes(self.connection, table, found)
        if part.recreated:
            changes = [SchemaChange("recreated", ""), *changes]
        if changes and not part.captured and table.config.on_schema_change == "fail":
            raise SchemaChangeError(
                f"{table}: the source's columns have changed: {'; '.join(map(str, changes))}",
                hint="nothing was landed"
                + ", and the source keeps its log for it" * (not part.unnumbered)
                + ": set on_schema_change: evolve, at least for one run",
            )
        for change in changes:
            if change.alter:
                self.connection.execute(f"ALTER TABLE {target} {change.alter}")
            self.connection.execute(
                "INSERT INTO warehouse.pyops.schema_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    *(load_id, table.source, table.name),
                    *(change.kind, change.column, change.old, change.new, at),
                ],
            )

    def _bury(self, part: Part, load_id: int, at: datetime) -> int:
        """Adds the part's dead letters; those of keys that changed since are open no more."""
        who = [part.table.source, part.table.name]
        letters = "warehouse.pyops.dead_letters"
        superseded = None
        if part.captured:
            superseded = "true"
        elif part.reread:
            superseded = f"file IN ({', '.join(map(literal, part.reread))})"
        elif part.key:
            texts = ", ".join(f"{literal(n)}: {identifier(n)}::VARCHAR" for n in part.key)
            superseded = f"key IN (SELECT to_json({{{texts}}})::VARCHAR FROM ({part.rows}))"
        if superseded:
            self.connection.execute(
                f"UPDATE {letters} SET status = 'superseded', resolved_by = ?"
                f" WHERE source = ? AND table_name = ? AND status = 'open' AND {superseded}",
                [self.run.run_id, *who],
            )
        return self._number(
            f"INSERT INTO {letters} (run_id, load_id, source, table_name, key, column_name, value,"
            " reason, payload, recorded_at, letter_id, file, line, status)"
            " SELECT ?, ?, ?, ?, key, column_name, value, reason, payload, ?,"
            f" (SELECT coalesce(max(letter_id), 0) FROM {letters})"
            f" + row_number() OVER (ORDER BY payload), file, line, 'open' FROM ({part.letters})",
            *(self.run.run_id, load_id, *who, at),
        )

    def _number(self, statement: str, *parameters: object) -> int:
        row = self.connection.execute(statement, list(parameters)).fetchone()
        return int(row[0]) if row else 0
