"""Change data capture from PostgreSQL: every committed change of a source's cdc tables, in order.

A table is copied in a snapshot first and followed from there: what the snapshot shows is left out
of the stream, so nothing is missed and nothing doubled. The slot at the source is advanced only
after the warehouse has committed what was read from it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain

import pyarrow as pa

from pyops.cdc.postgres.handshake import (
    check_plugin,
    check_publications,
    check_server,
    check_slot,
    not_published,
)
from pyops.cdc.postgres.pgoutput import Decoder, lsn_text
from pyops.cdc.postgres.publication import Facts, Publications, default_name
from pyops.cdc.postgres.slot import (
    MESSAGES,
    Pulse,
    Server,
    advance_slot,
    await_transactions,
    create_slot,
    drop_slot,
    lock_slot,
    look_at_server,
    look_at_slot,
    peek,
    pulse,
)
from pyops.cdc.postgres.snapshot import Copy
from pyops.cdc.postgres.stream import StagedChanges
from pyops.config.project import Project, Table
from pyops.errors import OperationError, PyopsError, SchemaChangeError
from pyops.records import Captured, Offset
from pyops.sources.postgres.session import Session, connect
from pyops.sources.protocol import ChangeSource, Chunk
from pyops.staging.file import Stage
from pyops.staging.prefetch import Prefetch
from pyops.warehouse.protocol import CaptureChange, CaptureState, Commit, TableState
from pyops.warehouse.recording import Recording

PATIENCE = timedelta(minutes=10)
# While nothing comes, offset and slot move together only when so much log is kept for them, or so
# much time has passed: a rest writes nothing.
IDLE_BYTES = 16 << 20
IDLE_SECONDS = 120.0
_log = logging.getLogger(__name__)


def slot_name(project: Project, source: str) -> str:
    """The name of a source's replication slot."""
    return project.postgres(source).slot or default_name(source)


class Changes(ChangeSource):
    """The cdc tables of one source.

    ``again`` is a table to re-snapshot; ``patience`` is how long to wait for transactions that are
    open at the source before a table can be copied.
    """

    def __init__(
        self,
        project: Project,
        source: str,
        *,
        again: Table | None = None,
        patience: timedelta = PATIENCE,
        progress: Callable[[Table, int, int], None] = lambda table, rows, estimated: None,
    ) -> None:
        self.project = project
        self.source = source
        self.again = again
        self.patience = patience.total_seconds()
        self.progress = progress
        self.tables = [t for t in project.tables() if t.source == source and t.config.mode == "cdc"]
        self.slot = slot_name(project, source)
        self.salt = project.postgres(source).mask_salt
        self.captured: dict[str, Captured] = {}
        self.facts: dict[Table, Facts] = {}
        self._open = ExitStack()
        self._stored: Offset | None = None  # as the warehouse has it
        self._seen = 0  # up to where nothing was found to land
        self._moved_at = time.monotonic()

    def close(self) -> None:
        """Closes the connections, and lets go of the slot's lock."""
        self._open.close()

    def _connected(self) -> Session:
        return connect(self.project.dsn(self.source), name=self.source)

    def _noted(
        self,
        offset: Offset,
        *,
        forgets: tuple[str, ...] = (),
        keys: Mapping[str, tuple[str, ...]] = {},
    ) -> Iterator[Chunk]:
        """Notes where the capture stands; what follows may rely on that."""
        change = CaptureChange(offset, self._stored, forgets=forgets, keys=keys or {})
        yield Chunk(commit=Commit(capture=change), is_run=False)
        self._stored = self.offset = offset

    # Getting ready

    def start(self, capture: CaptureState, states: Mapping[Table, TableState]) -> Iterator[Chunk]:
        """Connects, checks slot and publications, and copies the tables that are new."""
        self.control = self._open.enter_context(self._connected())
        self.reader = self._open.enter_context(self._connected())
        lock_slot(self.control, self.slot)
        server = look_at_server(self.control)
        check_server(server, self.source)
        self.publications = Publications.of(
            self.project, self.source, self.control, version=server.version
        )
        for table in self.tables:
            try:
                self.facts[table] = self.publications.facts(table)
            except PyopsError as error:  # the others can be captured all the same
                yield Chunk("snapshot", table, error=error)
        self._stored = capture.offset
        if capture.offset is not None and capture.offset.status == "active":
            self.captured = dict(capture.tables)
            self.offset = check_slot(self.control, self.source, self.slot, capture.offset, server)
        else:
            yield from self._make_slot(capture.offset, server)
        self._check_publications(but=self.again)
        keys = {table.name: self._key(table) for table in self.facts}
        if not keys.items() <= capture.keys.items():
            yield from self._noted(self.offset, keys=keys)
        yield from self._leave(states)
        yield from self._copy(states)

    def _make_slot(self, before: Offset | None, server: Server) -> Iterator[Chunk]:
        """Makes publications and slot, after noting that they are about to be made."""
        is_unfinished = before is not None and before.status == "starting"
        slot = look_at_slot(self.control, self.slot)
        is_named = self.project.postgres(self.source).slot is not None
        if slot and not (is_named or is_unfinished):
            raise OperationError(
                f"{self.source}: slot {self.slot} exists, and this warehouse knows nothing of it:"
                " another project may be reading it",
                hint=f"if nobody does: pyops slot drop {self.source}; else give this source"
                " another `slot` and `publication`",
            )
        generation = (before.generation if before else 0) + (not is_unfinished)
        offset = Offset(
            self.source, generation, "starting", self.slot, server.system_id, server.timeline
        )
        if self.publications.are_ours:
            self.publications.check_rights(self.facts)
        yield from self._noted(offset)
        if self.publications.are_ours:
            self.publications.create()
        versions = self.publications.look()
        if slot and slot.confirmed is not None and is_named:
            check_plugin(self.source, slot)
            position = slot.confirmed
        else:
            if slot:  # whatever made it was stopped: nothing was landed from it
                drop_slot(self.control, self.slot)
            position = create_slot(self.control, self.slot, patience=self.patience)
        yield from self._noted(
            replace(offset, status="active", publications=versions, lsn=position)
        )
        _log.info("%s: slot %s created at %s", self.source, self.slot, lsn_text(position))

    def _check_publications(self, *, but: Table | None = None) -> None:
        check_publications(self.publications, self.offset, self.facts, self.captured, but=but)

    def _key(self, table: Table) -> tuple[str, ...]:
        """The columns that identify a row of a table: configured, or its primary key."""
        facts = self.facts.get(table)
        return table.config.primary_key or (facts.primary_key if facts else ())

    def _leave(self, states: Mapping[Table, TableState]) -> Iterator[Chunk]:
        """Releases tables that are no longer configured, or whose log is gone."""
        names = {table.name for table in self.tables}
        yield from self._forgotten(*(name for name in self.captured if name not in names))
        if self.publications.are_ours:
            wanted = {facts.oid for facts in self.facts.values()}
            broken = {known.relation_oid for known in self.captured.values()}
            members = self.publications.members()
            self.publications.leave([oid for oid in members if oid not in wanted | broken])
        for table in self.tables:
            if table.name in self.captured and not states[table].columns:
                log = ".".join(table.target)
                _log.info("%s: its log %s is gone: the table is re-snapshotted", table, log)
                yield from self._forgotten(table.name)

    def _forgotten(self, *names: str) -> Iterator[Chunk]:
        if names:
            yield from self._noted(self.offset, forgets=names)
            for name in names:
                self.captured.pop(name, None)

    def _join(self) -> Iterator[Chunk | tuple[Table, bool]]:
        """Publishes the tables that are to be copied; yields each, and whether it was recreated.

        A table is forgotten before its publication is changed: whatever stops this, the next run
        takes it up.
        """
        members = self.publications.members()
        for table, facts in self.facts.items():
            known = self.captured.get(table.name)
            member = members.get(facts.oid)
            try:
                is_recreated = known is not None and known.relation_oid != facts.oid
                if is_recreated and table.config.on_schema_change == "fail" and table != self.again:
                    raise SchemaChangeError(
                        f"{table} was dropped and created again at the source",
                        hint=f"pyops snapshot {table} re-snapshots it",
                    )
                wanted = set(self.publications.columns(table, facts))
                is_right = member is not None and (
                    set(member.columns) == wanted
                    and (member.publication == self.publications.names[0]) == facts.has_identity
                    if self.publications.are_ours
                    else set(member.columns) <= wanted
                )
                if known and is_right and not is_recreated and table != self.again:
                    continue
                if not is_right and not self.publications.are_ours:
                    raise not_published(self.publications, table, facts, member, wanted)
                yield from self._forgotten(*([table.name] if known else []))
                if not is_right:
                    self.publications.check_rights({table: facts})
                    self.publications.join(table, facts)
            except PyopsError as error:
                yield Chunk("snapshot", table, error=error)
                continue
            yield table, is_recreated
            if not facts.has_identity:
                _log.info("%s has no key: PostgreSQL gives only its inserts and truncations", table)

    def _copy(self, states: Mapping[Table, TableState]) -> Iterator[Chunk]:
        """Copies tables in one snapshot, each of them in a transaction of its own."""
        to_copy: list[tuple[Table, bool]] = []
        for item in self._join():
            if isinstance(item, Chunk):
                yield item
            else:
                to_copy.append(item)
        if not to_copy:
            return
        await_transactions(self.control, patience=self.patience, on_wait=_log.info)
        members = self.publications.members()
        with self.reader.snapshot():
            seen, handoff, now = self.reader.query(
                "SELECT pg_current_snapshot()::text,"
                " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
                " transaction_timestamp() AT TIME ZONE 'UTC'"
            )[0]
            for table, is_recreated in to_copy:
                facts = self.facts[table]
                if (member := members.get(facts.oid)) is None:
                    gone = OperationError(
                        f"{table} left its publication, or was dropped, before it could be copied",
                        hint="check that it exists; the next run copies it",
                    )
                    yield Chunk("snapshot", table, error=gone)
                    continue
                captured = Captured(
                    *(table.name, self.offset.generation, facts.oid, member.oid, member.columns),
                    seen,
                    # Between what was landed and what is next: no commit record begins there.
                    self.offset.lsn - 1,
                    handoff,
                )
                copy = Copy(table, facts, member, self._key(table), captured, now, is_recreated)
                chunk = Chunk("snapshot", table, partial(self._stage_copy, copy))
                yield chunk
                if chunk.landed:
                    self.captured[table.name] = captured
                    self._stored = self.offset

    def _stage_copy(self, copy: Copy, stage: Stage, recording: Recording) -> Commit:
        write = copy.stage(self.reader, self.salt, self.progress, stage, recording)
        change = CaptureChange(self.offset, self._stored, tables=(copy.captured,))
        return Commit((write,), capture=change)

    # The stream

    def changes(self, *, idles: bool = False) -> Iterator[Chunk]:
        """Lands chunks until everything is landed that was committed when this began."""
        target = pulse(self.control, self.slot)
        if target.confirmed is None or target.wal_status == "lost":
            check_slot(
                *(self.control, self.source, self.slot, self.offset),
                look_at_server(self.control),
            )
        if idles and target.flushed <= self._seen:
            yield from self._rest(target, idles=idles)
            return
        is_all = False
        while not is_all:
            self._check_publications()
            batches = peek(self.reader, self.slot, self.publications.names, upto=target.flushed)
            if (first := next(batches, None)) is None:
                yield from self._rest(target, idles=idles)
                return
            chunk = Chunk(stage=partial(self._stage_stream, chain([first], batches), target))
            yield chunk
            self._stored = self.offset = self._next
            advance_slot(self.control, self.slot, self.offset.lsn)
            self._moved_at, is_all = time.monotonic(), self._is_all
            self._seen = target.flushed if is_all else 0
            if run := chunk.landed:
                _log.info(
                    "%s: %s changes landed up to %s  %.1f s",
                    *(self.source, f"{run.rows_written:,}", run.upper_bound, run.seconds),
                )

    def _stage_stream(
        self,
        batches: Iterator[pa.RecordBatch],
        target: Pulse,
        stage: Stage,
        recording: Recording,
    ) -> Commit:
        recording.note(lower_bound=lsn_text(self.offset.lsn))
        by_name = {table.name: table for table in self.tables}
        staged = StagedChanges(
            stage,
            {
                known.relation_oid: (by_name[name], known)
                for name, known in self.captured.items()
                if name in by_name
            },
            {name: self._key(table) for name, table in by_name.items()},
            self.offset,
            self.control,
            self.salt,
        )
        decoder = Decoder(staged.key)
        decoded = Prefetch(decoder.decode(batch.column(0)) for batch in batches)
        try:
            for part in decoded:
                for changes in part:
                    staged.add(changes)
        finally:
            decoded.stop(self.reader.cancel)
        decoder.finish()
        self._check_publications()
        self._is_all = decoder.messages < MESSAGES
        position = max(decoder.position or 0, self.offset.lsn)
        self._next = replace(
            self.offset,
            lsn=max(position, target.flushed) if self._is_all else position,
            committed_at=decoder.committed_at or self.offset.committed_at,
            caught_up_at=target.now if self._is_all else self.offset.caught_up_at,
        )
        recording.note(rows_read=staged.events, upper_bound=lsn_text(self._next.lsn))
        return Commit(staged.writes(), capture=CaptureChange(self._next, self._stored))

    def _rest(self, target: Pulse, *, idles: bool) -> Iterator[Chunk]:
        """Moves slot and offset past a log that has nothing to land, so that it can go."""
        self._seen = target.flushed
        behind = target.flushed - self.offset.lsn
        if idles and (behind < IDLE_BYTES and time.monotonic() - self._moved_at < IDLE_SECONDS):
            return
        self._moved_at = time.monotonic()
        if behind > 0:
            offset = replace(self.offset, lsn=target.flushed, caught_up_at=target.now)
            change = CaptureChange(offset, self._stored)
            yield Chunk(commit=Commit(capture=change), is_run=not idles)
            self._stored = self.offset = offset
        advance_slot(self.control, self.slot, self.offset.lsn)
