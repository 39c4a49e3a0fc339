"""The copy of a table in a snapshot, which its changes are followed from."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pyops.cdc.changelog import log_write
from pyops.cdc.postgres.changes import lsn_text
from pyops.cdc.postgres.handshake import Opened, join
from pyops.cdc.postgres.publication import Member
from pyops.cdc.postgres.slot import await_transactions
from pyops.config.project import Table
from pyops.errors import OperationError
from pyops.records import Captured
from pyops.sources.postgres.catalog import Facts, describe
from pyops.sources.postgres.plan import table_mappings
from pyops.sources.postgres.session import Session, unlockable
from pyops.sources.protocol import Chunk
from pyops.sql import identifier
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Attached, CaptureChange, Commit, Whole, Write
from pyops.warehouse.recording import Recording

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """One table to copy, and what is to be known of it afterwards."""

    table: Table
    facts: Facts
    member: Member
    key: tuple[str, ...]
    captured: Captured
    copied_at: datetime  # when the snapshot was taken, naive UTC
    is_recreated: bool  # since it was captured

    def stage(
        self,
        session: Session,
        salt: str,
        progress: Callable[[Table, int, int], None],
        stage: Stage,
        recording: Recording,
    ) -> Write:
        """Reads the table in the session's snapshot."""
        table = self.table
        shape = describe(session, self.facts.schema, self.facts.name)
        mappings = {name: item for name, item in table_mappings(table, shape).items() if name in self.member.columns}
        columns = ", ".join(f"{item.select} AS {identifier(name)}" for name, item in mappings.items())
        where = f" WHERE {self.member.filter}" if self.member.filter else ""

        def note(rows: int, size: int) -> None:
            recording.note(rows_read=rows, bytes_read=size)
            progress(table, rows, shape.estimated_rows)

        with session.savepoint():
            if table.config.mask:
                session.bind(mask_salt=salt)
            schema, batches = session.read(f"SELECT {columns} FROM {self.facts.qualified}{where}")
            read, size = stage.fill(schema, batches, mappings, key=self.key, cancel=session.cancel, progress=note)
        recording.note(rows_read=read, bytes_read=size, upper_bound=lsn_text(self.captured.snapshot_lsn))
        with recording.warehouse.attached(stage) as at:
            rows = self._rows(at)
        what, dead, whole = (table, stage.columns, rows), "FROM dead_letters", Whole(swap=False)
        write = log_write(*what, dead_letters=dead, key=self.key, log="copy", supersedes=whole)
        return replace(write, may_evolve=True, is_recreated=self.is_recreated)  # a log that starts over may

    def _rows(self, at: Attached) -> str:
        """The SELECT of the rows; where the log has rows, a truncation in front of them."""
        generation, lsn = self.captured.generation, self.captured.snapshot_lsn
        meta = (
            f"{generation}::INTEGER AS _generation, {lsn}::BIGINT AS _lsn,"
            f" TIMESTAMP '{self.copied_at}' AS _committed_at, []::VARCHAR[] AS _unchanged"
        )
        place, truncation = 0, ""
        log = at.name(self.table.target)
        if "_lsn" in at.columns(self.table.target) and at.connection.execute(f"SELECT 1 FROM {log} LIMIT 1").fetchone():
            [(place,)] = at.connection.execute(  # after another copy that nothing has followed yet
                f"SELECT coalesce(max(_seq) + 1, 0) FROM {log} WHERE _generation = {generation} AND _lsn = {lsn}"
            ).fetchall()
            truncation = f"SELECT 't' AS _op, {place}::BIGINT AS _seq, {meta} UNION ALL BY NAME "
        return (
            f"{truncation}SELECT * EXCLUDE (_fault), 'r' AS _op, {meta},"
            f" row_number() OVER () + {place} AS _seq, NULL::BIGINT AS _xid FROM rows"
        )


def copies(opened: Opened, progress: Callable[[Table, int, int], None]) -> Iterator[Chunk]:
    """Copies tables in one snapshot, each of them in a transaction of its own."""
    to_copy: list[tuple[Table, bool]] = []
    for item in join(opened):
        if isinstance(item, Chunk):
            yield item
        else:
            to_copy.append(item)
    if not to_copy:
        return
    await_transactions(opened.control, patience=opened.patience, on_wait=_log.info)
    members = opened.publications.members()
    names = [opened.facts[table].qualified for table, _ in to_copy]
    with opened.reader.snapshot(names) as refused:
        seen, handoff, now = opened.reader.query(
            "SELECT pg_current_snapshot()::text,"
            " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
            " transaction_timestamp() AT TIME ZONE 'UTC'"
        )[0]
        for table, is_recreated in to_copy:
            facts = opened.facts[table]
            if (member := members.get(facts.oid)) is None:
                gone = OperationError(
                    f"{table} left its publication, or was dropped, before it could be copied",
                    hint="check that it exists; the next run copies it",
                )
                yield Chunk("snapshot", table, error=gone)
                continue
            if error := refused.get(facts.qualified):
                yield Chunk("snapshot", table, error=unlockable(table, error))
                continue
            captured = Captured(
                *(table.name, opened.offset.generation, facts.oid, member.oid, member.columns),
                seen,
                # Between what was landed and what is next: no commit record begins there.
                opened.offset.lsn - 1,
                handoff,
                tuple(name for name in facts.columns if not table.config.lands(name)),
                facts.partitions,
            )
            copy = Copy(table, facts, member, opened.key(table), captured, now, is_recreated)
            chunk = Chunk("snapshot", table, partial(_stage, opened, copy, progress))
            yield chunk
            if chunk.landed:
                opened.captured[table.name] = captured
                opened.stored = opened.offset


def _stage(
    opened: Opened, copy: Copy, progress: Callable[[Table, int, int], None], stage: Stage, recording: Recording
) -> Commit:
    write = copy.stage(opened.reader, opened.salt, progress, stage, recording)
    change = CaptureChange(opened.offset, opened.stored, tables=(copy.captured,))
    return Commit((write,), capture=change)
