"""The stream of changes, chunk by chunk, on its way into staging."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import pyarrow as pa

from pyops.cdc.changelog import META, log_write
from pyops.cdc.postgres import unsent
from pyops.cdc.postgres.changes import ChangeBatch, Relation, lsn_text
from pyops.cdc.postgres.handshake import Opened, check_slot
from pyops.cdc.postgres.pgoutput import Decoder
from pyops.cdc.postgres.slot import MESSAGES, Pulse, advance_slot, look_at_server, peek, pulse
from pyops.config.project import Table
from pyops.records import CHANGE_COLUMNS, Captured, Offset
from pyops.sources.postgres.catalog import column_types
from pyops.sources.postgres.plan import reserved_names
from pyops.sources.postgres.session import Session
from pyops.sources.protocol import Chunk
from pyops.sql import columns as listed
from pyops.sql import identifier
from pyops.staging.columns import DEAD_LETTER, ColumnMapping, clash
from pyops.staging.file import Stage
from pyops.staging.postgres_types import hashed, mapping_of_text
from pyops.staging.prefetch import Prefetch
from pyops.warehouse.protocol import CaptureChange, Commit, Warehouse, Write
from pyops.warehouse.recording import Recording

# While nothing comes, offset and slot move together only when so much log is kept for them, or so
# much time has passed: a look that finds nothing writes nothing.
IDLE_BYTES = 16 << 20
IDLE_SECONDS = 120.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Version:
    """The staging table of one version of a relation."""

    name: str
    table: Table
    mappings: Mapping[str, ColumnMapping]

    @property
    def columns(self) -> dict[str, str]:
        """The warehouse type of each of the table's own columns."""
        return {name: item.warehouse for name, item in self.mappings.items() if name not in META}


@dataclass
class StagedChanges:
    """Changes on their way into a staging file."""

    stage: Stage
    tables: Mapping[int, tuple[Table, Captured]]  # by the oid of the relation
    keys: Mapping[str, tuple[str, ...]]  # the columns that identify a row, by the table's name
    offset: Offset  # a transaction before it is a repetition
    catalog: Session  # to look types up with
    salt: str
    again: Table | None = None
    events: int = 0
    _versions: dict[Relation, _Version] = field(default_factory=dict)

    def key(self, relation: Relation) -> tuple[str, ...]:
        """The columns that identify a row of a relation, for the decoder."""
        found = self.tables.get(relation.oid)
        return self._key(found[0]) if found else ()

    def _key(self, table: Table) -> tuple[str, ...]:
        return self.keys.get(table.name, ())

    def add(self, changes: ChangeBatch) -> None:
        """Stages changes; those that belong to no captured table are left out."""
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
        arrived = pa.Table.from_arrays(arrays, names=[*CHANGE_COLUMNS, *names])
        key, is_new = self._key(version.table), self._is_new(self.tables[relation.oid][1])
        what = (version.name, arrived, version.mappings)
        self.stage.add(*what, key=key, where=is_new, size=changes.bytes)

    def _version(self, relation: Relation) -> _Version:
        table = self.tables[relation.oid][0]
        config = table.postgres
        attributes = [a for a in relation.attributes if table.config.lands(a.name)]
        while found := clash([a.name for a in attributes], reserved_names(table)):  # which must not stop the slot
            _log.warning("%s: column %s is left out: %s", table, *found)
            attributes = [a for a in attributes if a.name != found[0]]
        types = column_types(self.catalog, [(a.type_oid, a.modifier) for a in attributes])
        mappings = {
            a.name: hashed(identifier(a.name), self.salt) if a.name in config.mask else mapping_of_text(a.name, type_)
            for a, type_ in zip(attributes, types, strict=True)
        }
        return _Version(f"changes_{len(self._versions)}", table, META | mappings)

    def _leave_out_deletes_of_replaced_rows(self, version: _Version) -> None:
        """Drops deletes of a row whose key another row has taken before, in the same transaction.

        Keys that are checked late can be swapped: 1 becomes 2, then the old 2 becomes 1, which deletes a row of key 2,
        but not the one that has it now. FULL allows for that, and tells one from the other.
        """
        if not (key := self._key(version.table)):
            return
        row = listed([name for name in version.mappings if name not in META])
        connection = self.stage.connection
        connection.execute(
            f"DELETE FROM {version.name} WHERE _op = 'd' AND (_lsn, _seq) IN ("
            f" SELECT (_lsn, _seq) FROM (SELECT _lsn, _seq, _op, ROW({row}) AS now,"
            f" lag(_op) OVER same AS op_before, lag(ROW({row})) OVER same AS before"
            f" FROM {version.name} WINDOW same AS (PARTITION BY _lsn, {listed(key)} ORDER BY _seq))"
            " WHERE _op = 'd' AND op_before IN ('c', 'u') AND now IS DISTINCT FROM before)"
        )

    def _is_new(self, captured: Captured) -> str:
        """The condition for changes that were neither landed before nor copied with the table."""
        condition = f"_lsn >= {self.offset.lsn}"
        if captured.handoff_lsn <= self.offset.lsn:
            return condition
        _, xmax, in_progress = captured.snapshot.split(":")
        # The stream's transaction ids have 32 bits; near a snapshot its own tell the others.
        full = f"({xmax} + ((_xid - {xmax} + 2147483648) & 4294967295) - 2147483648)"
        still_open = f" OR {full} IN ({in_progress})" if in_progress else ""
        invisible = f"{full} >= {xmax}{still_open}"
        return f"{condition} AND (_lsn >= {captured.handoff_lsn} OR {invisible})"

    def writes(self, warehouse: Warehouse) -> tuple[Write, ...]:
        """What was staged, a write for each version of each table."""
        for relation, version in self._versions.items():
            if relation.identity == "f":
                self._leave_out_deletes_of_replaced_rows(version)
        versions = sorted(self._versions.values(), key=self._last_event)
        self.stage.connection.execute(unsent.OVER)
        for table in dict.fromkeys(version.table for version in versions):
            self._hold_back(table, [version for version in versions if version.table == table], warehouse)
        return tuple(map(self._write, versions))

    def _hold_back(self, table: Table, versions: Sequence[_Version], warehouse: Warehouse) -> None:
        """Makes dead letters of changes that rely on what another one has; notes which of these are made up for."""
        connection, key = self.stage.connection, self._key(table)
        named = {version.name: version.columns for version in versions if version.columns.keys() >= set(key)}
        if not key or not named or not any(of := unsent.counts(connection, list(named))):
            return
        with warehouse.attached(self.stage) as at:
            [(open_keys,)] = connection.execute(
                f"CREATE OR REPLACE TEMP TABLE open_keys AS {at.open_keys(table)}"
            ).fetchall()
        if of[0] or open_keys:
            unsent.hold_back(connection, named, key, str(table))

    def _last_event(self, version: _Version) -> tuple[int, int]:
        """The place of a version's last event: the latest version says which columns a table has now."""
        query = f"SELECT _lsn, _seq FROM {version.name} ORDER BY ALL DESC LIMIT 1"
        return self.stage.connection.execute(query).fetchone() or (0, 0)

    def _write(self, version: _Version) -> Write:
        rows = f"SELECT * EXCLUDE (_fault) FROM {version.name} WHERE _fault IS NULL"
        status = (
            "CASE WHEN (_lsn, _seq) IN (SELECT (_lsn, _seq) FROM temp.over) THEN 'superseded' ELSE 'open' END AS status"
        )
        dead = f"SELECT {DEAD_LETTER}, {status} FROM {version.name} WHERE _fault IS NOT NULL"
        what, key = (version.table, version.columns, rows), self._key(version.table)
        write = log_write(*what, dead_letters=dead, key=key, log="stream")
        return replace(write, may_evolve=True) if version.table == self.again else write  # its log starts over


@dataclass
class Stream:
    """The stream of an open source."""

    opened: Opened
    seen: int = 0  # up to where nothing was found to land
    moved_at: float = field(default_factory=time.monotonic)  # when the slot last moved

    def changes(self, *, idles: bool = False) -> Iterator[Chunk]:
        """Lands chunks until everything is landed that was committed when this began."""
        opened = self.opened
        target = pulse(opened.control, opened.slot)
        if target.confirmed is None or target.wal_status == "lost":
            check_slot(*(opened.control, opened.source, opened.slot, opened.offset), look_at_server(opened.control))
        if idles and target.flushed <= self.seen:
            yield from self._rest(target, idles=idles)
            return
        is_all = False
        while not is_all:
            opened.check_publications(but=opened.again)
            batches = peek(
                opened.reader, opened.slot, opened.publications.names, upto=target.flushed, messages=MESSAGES
            )
            if (first := next(batches, None)) is None:
                yield from self._rest(target, idles=idles)
                return
            chunk = Chunk(stage=partial(self._stage_stream, chain([first], batches), target))
            yield chunk
            opened.stored = opened.offset = self._next
            advance_slot(opened.control, opened.slot, opened.offset.lsn)
            self.moved_at, is_all = time.monotonic(), self._is_all
            self.seen = target.flushed if is_all else 0
            if run := chunk.landed:
                _log.info(
                    "%s: %s changes landed up to %s  %.1f s",
                    *(opened.source, f"{run.rows_written:,}", run.upper_bound, run.seconds),
                )

    def _stage_stream(
        self, batches: Iterator[pa.RecordBatch], target: Pulse, stage: Stage, recording: Recording
    ) -> Commit:
        opened = self.opened
        recording.note(lower_bound=lsn_text(opened.offset.lsn))
        tables = {
            known.relation_oid: (table, known) for table in opened.tables if (known := opened.captured.get(table.name))
        }
        keys = {table.name: opened.key(table) for table in opened.tables}
        how = (opened.offset, opened.control, opened.salt, opened.again)
        staged = StagedChanges(stage, tables, keys, *how)
        decoder = Decoder(staged.key)
        decoded = Prefetch(decoder.decode(batch.column(0)) for batch in batches)
        try:
            for part in decoded:
                for changes in part:
                    staged.add(changes)
        finally:
            decoded.stop(opened.reader.cancel)
        decoder.finish()
        opened.check_publications(but=opened.again)
        self._is_all = decoder.messages < MESSAGES
        position = max(decoder.position or 0, opened.offset.lsn)
        self._next = replace(
            opened.offset,
            lsn=max(position, target.flushed) if self._is_all else position,
            committed_at=decoder.committed_at or opened.offset.committed_at,
            caught_up_at=target.now if self._is_all else opened.offset.caught_up_at,
            committed_lsn=decoder.position or opened.offset.committed_lsn,
        )
        recording.note(rows_read=staged.events, upper_bound=lsn_text(self._next.lsn))
        return Commit(staged.writes(recording.warehouse), capture=CaptureChange(self._next, opened.stored))

    def _rest(self, target: Pulse, *, idles: bool) -> Iterator[Chunk]:
        """Moves slot and offset past a log that has nothing to land, so that it can go."""
        opened = self.opened
        self.seen = target.flushed
        behind = target.flushed - opened.offset.lsn
        if idles and (behind < IDLE_BYTES and time.monotonic() - self.moved_at < IDLE_SECONDS):
            return
        self.moved_at = time.monotonic()
        if behind > 0:
            offset = replace(opened.offset, lsn=target.flushed, caught_up_at=target.now)
            change = CaptureChange(offset, opened.stored)
            yield Chunk(commit=Commit(capture=change), is_run=not idles)
            opened.stored = opened.offset = offset
        advance_slot(opened.control, opened.slot, opened.offset.lsn)
