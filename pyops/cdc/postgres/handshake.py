"""What must hold at the source before changes are landed: server, slot and publications."""

from collections.abc import Mapping
from dataclasses import replace

from pyops.cdc.postgres.pgoutput import lsn_text
from pyops.cdc.postgres.publication import Facts, Member, Publications
from pyops.cdc.postgres.slot import Server, Slot, look_at_slot
from pyops.config.project import Table
from pyops.errors import OperationError, TransientError
from pyops.records import Captured, Offset
from pyops.sources.postgres.session import Session
from pyops.sql import identifier


def check_server(server: Server, source: str) -> None:
    """Makes sure that the server can give changes at all, or says what to change there."""
    if server.version < 150000:
        raise OperationError(
            f"{source}: PostgreSQL 15 or later is needed for cdc", hint="land it by batch"
        )
    if server.is_standby:
        raise OperationError(
            f"{source}: the server is a standby", hint="let `dsn` name the primary"
        )
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
    """Makes sure that the slot goes on where the warehouse stopped; returns the offset.

    Raises:
        OperationError: It is gone, lost, another one, or of another cluster.
    """
    again = (
        f"what was landed stays; pyops slot drop {source}, then pyops cdc {source},"
        " re-snapshots all tables"
    )

    def stop(problem: str) -> OperationError:
        return OperationError(f"{source}: {problem}", hint=again)

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
    if server.flushed < offset.lsn:
        raise stop(
            f"the source's log ends before what was landed ({lsn_text(server.flushed)} <"
            f" {lsn_text(offset.lsn)}): it was restored, or failed over to a standby that"
            " lacked something"
        )
    return replace(offset, timeline=server.timeline)


def check_publications(
    publications: Publications,
    offset: Offset,
    facts: Mapping[Table, Facts],
    captured: Mapping[str, Captured],
    *,
    but: Table | None = None,
) -> None:
    """Makes sure that the stream has every change of the captured tables, or says what to do."""
    source = publications.source
    if publications.look() != dict(offset.publications):
        raise OperationError(
            f"{source}: a publication was altered, or was dropped and created again: changes"
            " between may be missing",
            hint=f"pyops slot drop {source}, then pyops cdc {source}, re-snapshots all tables",
        )
    members = publications.members()
    for table, fact in facts.items():
        known = captured.get(table.name)
        if known is None or table == but or known.relation_oid != fact.oid:
            continue
        if problem := publications.problem(known, members):
            raise OperationError(
                f"{table} {problem}: changes of it are missing",
                hint=f"pyops snapshot {table} publishes and re-snapshots it",
            )


def not_published(
    publications: Publications, table: Table, facts: Facts, member: Member | None, wanted: set[str]
) -> OperationError:
    """The error of a table that publications made by somebody else do not give as it is wanted."""
    publication = identifier(publications.names[0])
    if member is None:
        return OperationError(
            f"{table} is in none of the publications {', '.join(publications.names)}",
            hint=f"ALTER PUBLICATION {publication} ADD TABLE {facts.qualified};",
        )
    return OperationError(
        f"{table}: publication {member.publication} sends columns that are to be left out:"
        f" {', '.join(sorted(set(member.columns) - wanted))}",
        hint="give the table a column list in that publication",
    )
