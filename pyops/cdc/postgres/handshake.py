"""Getting ready to capture: the server, the slot, the publications, and which tables to copy."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pyops.cdc.postgres.changes import lsn_text
from pyops.cdc.postgres.pgoutput import Decoder
from pyops.cdc.postgres.publication import Member, Publications
from pyops.cdc.postgres.slot import Server, Slot, create_slot, drop_slot, look_at_slot, peek
from pyops.config.project import Project, Table
from pyops.errors import OperationError, PyopsError, SchemaChangeError, TransientError
from pyops.records import Captured, Offset
from pyops.sources.postgres.catalog import Facts
from pyops.sources.postgres.session import Session
from pyops.sources.protocol import Chunk
from pyops.sql import identifier
from pyops.warehouse.protocol import CaptureChange, CaptureState, Commit, TableState

_log = logging.getLogger(__name__)


class RolledBackError(OperationError):
    """The source has lost what was landed from it: its history is another one now."""


@dataclass
class Opened:
    """A source that is open for capture, and where its capture stands."""

    project: Project
    source: str
    tables: Sequence[Table]
    slot: str
    patience: float
    again: Table | None
    control: Session  # holds the slot's lock
    reader: Session
    publications: Publications
    stored: Offset | None  # as the warehouse has it
    log_keys: Mapping[str, tuple[str, ...]]  # as the warehouse has them
    offset: Offset = field(init=False)
    facts: dict[Table, Facts] = field(default_factory=dict)
    captured: dict[str, Captured] = field(default_factory=dict)

    @property
    def salt(self) -> str:
        return self.project.postgres(self.source).mask_salt

    def key(self, table: Table) -> tuple[str, ...]:
        """The columns that identify a row of a table: configured, or the source's; those known, if it is away."""
        facts = self.facts.get(table)
        return table.config.primary_key or (facts.key if facts else self.log_keys.get(table.name, ()))

    def why_to_copy(self, table: Table) -> str:
        """Why a table must be copied; empty if its changes are enough."""
        known, facts = self.captured.get(table.name), self.facts[table]
        if known is None or table == self.again:
            return "it is new, or asked for"
        if known.relation_oid != facts.oid:
            return "it was dropped and created again"
        if shown := sorted(set(known.left_out) & set(self.publications.columns(table, facts))):
            return f"{', '.join(shown)} was left out until now"
        if known.leaves is not None and facts.kind == "p":
            if any(leaf.is_attached and leaf.oid not in known.leaves for leaf in facts.leaves):
                return "a partition was attached, with the rows it had"
            if set(known.leaves) - {leaf.oid for leaf in facts.leaves}:
                return "a partition was detached or dropped, with its rows"
        return ""

    def noted(
        self,
        offset: Offset,
        *forgets: str,
        keys: Mapping[str, tuple[str, ...]] | None = None,
        tables: tuple[Captured, ...] = (),
    ) -> Iterator[Chunk]:
        """Notes where the capture stands; what follows may rely on that."""
        change = CaptureChange(offset, self.stored, tables, forgets, keys or {})
        yield Chunk(commit=Commit(capture=change), is_run=False)
        self.stored = self.offset = offset

    def partitions_noted(self) -> Iterator[Chunk]:
        """Notes partitions that were made since: they began empty, so that their changes are enough."""
        new = [
            replace(known, leaves=facts.partitions)
            for table, facts in self.facts.items()
            if (known := self.captured.get(table.name)) and known.leaves != facts.partitions
            if not self.why_to_copy(table)
        ]
        if new:
            yield from self.noted(self.offset, tables=tuple(new))
            self.captured |= {table.name: table for table in new}

    def forgotten(self, *names: str) -> Iterator[Chunk]:
        """Forgets tables: the next run copies those that are still configured."""
        if names:
            yield from self.noted(self.offset, *names)
            for name in names:
                self.captured.pop(name, None)

    def check_publications(self, *, but: Table | None = None) -> None:
        """Makes sure that the stream has every change of the captured tables."""
        source = self.source
        if self.publications.look() != dict(self.offset.publications):
            raise OperationError(
                f"{source}: a publication was altered, or was dropped and created again: changes"
                " between may be missing",
                hint=f"pyops slot drop {source}, then pyops cdc {source}, re-snapshots all tables",
            )
        members = self.publications.members()
        for table, facts in self.facts.items():
            known = self.captured.get(table.name)
            if known is None or table == but or known.relation_oid != facts.oid:
                continue
            if problem := self.publications.problem(known, members):
                raise OperationError(
                    f"{table} {problem}: changes of it are missing",
                    hint=f"pyops snapshot {table} publishes and re-snapshots it",
                )


def start(opened: Opened, server: Server, capture: CaptureState, states: Mapping[Table, TableState]) -> Iterator[Chunk]:
    """Checks slot and publications, and creates them for a source that is new."""
    for table in opened.tables:
        try:
            opened.facts[table] = opened.publications.facts(table)
        except PyopsError as error:  # the others can be captured all the same
            yield Chunk("snapshot", table, error=error)
    offset = capture.offset
    if offset is not None and offset.status in {"active", "stopped"}:
        opened.captured, opened.offset = dict(capture.tables), offset
        try:
            opened.offset = check_slot(opened.control, opened.source, opened.slot, offset, server)
            opened.check_publications(but=opened.again)
            check_history(opened)
        except RolledBackError:
            # Once it has written past the offset again, nothing would tell: so that is kept.
            if offset.status == "active":
                yield from opened.noted(replace(offset, status="stopped"))
            raise
    else:
        yield from make_slot(opened, offset, server, newest=capture.newest_generation)
        opened.check_publications(but=opened.again)
    keys = {table.name: opened.key(table) for table in opened.facts}
    if not keys.items() <= capture.keys.items():
        yield from opened.noted(opened.offset, keys=keys)
    yield from opened.partitions_noted()
    yield from leave(opened, states, releases=len(opened.facts) == len(opened.tables))


def make_slot(opened: Opened, before: Offset | None, server: Server, *, newest: int) -> Iterator[Chunk]:
    """Makes publications and slot, after noting that they are about to be made."""
    is_unfinished = before is not None and before.status == "starting"
    slot = look_at_slot(opened.control, opened.slot)
    is_named = opened.project.postgres(opened.source).slot is not None
    if slot and not (is_named or is_unfinished):
        raise OperationError(
            f"{opened.source}: slot {opened.slot} exists, and this warehouse knows nothing of it:"
            " another project may be reading it",
            hint=f"if nobody does: pyops slot drop {opened.source}; else give this source"
            " another `slot` and `publication`",
        )
    generation = before.generation if before and is_unfinished else newest + 1
    offset = Offset(opened.source, generation, "starting", opened.slot, server.system_id, server.timeline)
    if opened.publications.are_ours:
        opened.publications.check_rights(opened.facts)
    yield from opened.noted(offset)
    if opened.publications.are_ours:
        opened.publications.create()
    versions = opened.publications.look()
    if slot and slot.confirmed is not None and is_named:
        check_plugin(opened.source, slot)
        position = slot.confirmed
    else:
        if slot:  # whatever made it was stopped: nothing was landed from it
            drop_slot(opened.control, opened.slot)
        position = create_slot(opened.control, opened.slot, patience=opened.patience)
    yield from opened.noted(
        replace(offset, status="active", publications=versions, lsn=position, committed_lsn=position)
    )
    _log.info("%s: slot %s created at %s", opened.source, opened.slot, lsn_text(position))


def leave(opened: Opened, states: Mapping[Table, TableState], *, releases: bool) -> Iterator[Chunk]:
    """Releases tables that are no longer configured, or whose log is gone.

    A table that cannot be found may be one of the captured, mistyped: so nothing is released then.
    """
    names = {table.name for table in opened.tables}
    if gone := [name for name in opened.captured if name not in names] if releases else []:
        _log.info("%s: no longer captured: %s", opened.source, ", ".join(gone))
        yield from opened.forgotten(*gone)
    if opened.publications.are_ours and releases:
        wanted = {facts.oid for facts in opened.facts.values()}
        broken = {known.relation_oid for known in opened.captured.values()}
        members = opened.publications.members()
        opened.publications.leave([oid for oid in members if oid not in wanted | broken])
    for table in opened.tables:
        if table.name in opened.captured and not states[table].columns:
            log = ".".join(table.target)
            _log.info("%s: its log %s is gone: the table is re-snapshotted", table, log)
            yield from opened.forgotten(table.name)


def join(opened: Opened) -> Iterator[Chunk | tuple[Table, bool]]:
    """Publishes the tables that are to be copied; yields each, and whether it was recreated."""
    members = opened.publications.members()
    for table, facts in opened.facts.items():
        known = opened.captured.get(table.name)
        member = members.get(facts.oid)
        try:
            is_recreated = known is not None and known.relation_oid != facts.oid
            if is_recreated and table.config.on_schema_change == "fail" and table != opened.again:
                raise SchemaChangeError(
                    f"{table} was dropped and created again at the source",
                    hint=f"pyops snapshot {table} re-snapshots it",
                )
            is_right = member is not None and opened.publications.suits(member, table, facts)
            why = opened.why_to_copy(table)
            if is_right and not why:
                continue
            if not is_right and not opened.publications.are_ours:
                raise not_published(opened.publications, table, facts, member)
            if known and table != opened.again:
                _log.info("%s is re-snapshotted: %s", table, why or "other columns of it are published")
            yield from opened.forgotten(*([table.name] if known else []))
            if not is_right:
                opened.publications.check_rights({table: facts})
                opened.publications.join(table, facts)
        except PyopsError as error:
            yield Chunk("snapshot", table, error=error)
            continue
        yield table, is_recreated
        if not facts.has_identity:
            _log.info("%s has no key: PostgreSQL gives only its inserts and truncations", table)
        elif facts.key != facts.primary_key and not table.config.primary_key:
            _log.info("%s: its log has the key of its replica identity: %s", table, ", ".join(facts.key))


def check_server(server: Server, source: str) -> None:
    """Makes sure that the server can give changes at all, or says what to change there."""
    if server.version < 150000:
        raise OperationError(f"{source}: PostgreSQL 15 or later is needed for cdc", hint="land it by batch")
    if server.is_standby:
        raise OperationError(f"{source}: the server is a standby", hint="let `dsn` name the primary")
    if server.wal_level != "logical":
        raise OperationError(
            f"{source}: wal_level is {server.wal_level}, and only logical keeps changes readable",
            hint="ALTER SYSTEM SET wal_level = logical; then restart the server",
        )
    if not server.may_replicate:
        raise OperationError(
            f"{source}: the source's user may not replicate",
            hint="ALTER ROLE <user> REPLICATION; (on Amazon RDS: GRANT rds_replication TO <user>;)",
        )


def check_plugin(source: str, slot: Slot) -> None:
    """Refuses a slot that is not of pgoutput, or belongs to another database."""
    if slot.plugin != "pgoutput" or not slot.is_here:
        raise OperationError(
            f"{source}: slot {slot.name} is not a pgoutput slot of this database",
            hint="give the source another `slot` in pyops.yml; pyops creates it",
        )


def check_slot(session: Session, source: str, name: str, offset: Offset, server: Server) -> Offset:
    """Makes sure that the slot goes on where the warehouse stopped; returns the offset."""

    def stop(problem: str, kind: type[OperationError] = OperationError) -> OperationError:
        return kind(f"{source}: {problem}", hint=_again(source))

    if offset.slot != name:
        raise stop(f"its slot was {offset.slot}, the configuration says {name}")
    if offset.system_id != server.system_id:
        raise stop("the source is another cluster than the one that was landed so far")
    slot = look_at_slot(session, name)
    if slot is None:
        raise stop(f"slot {name} does not exist: changes since were not kept")
    check_plugin(source, slot)
    if slot.wal_status == "lost" or slot.invalidation or slot.restart is None:
        why = slot.invalidation or "the source's log was needed for something else"
        raise stop(f"slot {name} was lost ({why}): changes since were not kept")
    if slot.active_pid is not None:
        raise TransientError(
            f"{source}: slot {name} is in use by the source's process {slot.active_pid}",
            hint="wait until it has ended; a slot serves one reader",
        )
    if slot.confirmed is None or slot.confirmed > offset.lsn:
        raise stop(
            f"slot {name} is ahead of what was landed"
            f" ({lsn_text(slot.confirmed or 0)} > {lsn_text(offset.lsn)}): it was created again, or"
            " something else has read it, and changes between are missing"
        )
    if server.timeline != offset.timeline and slot.confirmed < offset.lsn:
        raise stop(
            f"it failed over, or was restored: its timeline is {server.timeline}, and was"
            f" {offset.timeline}; what was landed after {lsn_text(slot.confirmed)} may have"
            " been lost there, and be other changes now"
        )
    if offset.status == "stopped":
        raise stop("its log was found to end before what was landed: it was restored", RolledBackError)
    if server.flushed < offset.lsn:
        raise stop(
            f"the source's log ends before what was landed ({lsn_text(server.flushed)} <"
            f" {lsn_text(offset.lsn)}): it was restored, or failed over to a standby that"
            " lacked something",
            RolledBackError,
        )
    return replace(offset, timeline=server.timeline)


def check_history(opened: Opened) -> None:
    """Makes sure that the source still has what was landed beyond the slot's position.

    A slot falls back with a server that crashed, or that was restored from a copy: then the last transaction that was
    landed is another one there, or none.
    """
    offset, slot = opened.offset, look_at_slot(opened.control, opened.slot)
    if offset.committed_lsn is None or slot is None or slot.confirmed is None or slot.confirmed >= offset.lsn:
        return
    decoder = Decoder()
    for batch in peek(opened.reader, opened.slot, opened.publications.names, upto=offset.lsn, messages=None):
        decoder.decode(batch.column(0))
    landed = (offset.committed_lsn, offset.committed_at) if offset.committed_lsn > slot.confirmed else (None, None)
    if (decoder.position, decoder.committed_at) != landed:
        raise RolledBackError(
            f"{opened.source}: the transactions between {lsn_text(slot.confirmed)} and {lsn_text(offset.lsn)} are not"
            " those that were landed: it was restored",
            hint=_again(opened.source),
        )


def _again(source: str) -> str:
    return f"what was landed stays; pyops slot drop {source}, then pyops cdc {source}, re-snapshots all tables"


def not_published(publications: Publications, table: Table, facts: Facts, member: Member | None) -> OperationError:
    """The error of a table that publications made by somebody else do not give as it is wanted."""
    publication = identifier(publications.names[0])
    if member is None:
        return OperationError(
            f"{table} is in none of the publications {', '.join(publications.names)}",
            hint=f"ALTER PUBLICATION {publication} ADD TABLE {facts.qualified};",
        )
    return OperationError(
        f"{table}: publication {member.publication} sends columns that are to be left out:"
        f" {', '.join(sorted(set(member.columns) - set(publications.columns(table, facts))))}",
        hint="give the table a column list in that publication, or set column_list: false",
    )
