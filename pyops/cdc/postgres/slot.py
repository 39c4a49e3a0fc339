"""The replication slot: what the server says of it, and what is asked of it. All through SQL.

PostgreSQL manual: 9.28.6, 47.2, 52.19. Positions are ints here: bytes of WAL since its beginning.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from pyops.cdc.postgres.changes import lsn_text
from pyops.errors import BusyError, OperationError, PyopsError, TransientError
from pyops.sources.postgres.session import Session
from pyops.sql import identifier, literal

# Every peek decodes again from the oldest transaction that was open at the slot's position: a
# chunk is big, so that this is seldom.
MESSAGES = 1_000_000
_BATCH_BYTES = 8 << 20
# Transactions beyond it are written to the source's disk while they are decoded, and read again; by
# default 64MB. The manual (19.4.1 Memory) calls it safe to set far above work_mem.
_DECODING_MEMORY = "256MB"
_LOCK = "hashtext('pyops cdc'), hashtext($1)"


@dataclass(frozen=True)
class Server:
    """What the source's server is; ``flushed`` is the end of its safe log, ``now`` naive UTC."""

    version: int
    wal_level: str
    system_id: str
    timeline: int
    is_standby: bool
    flushed: int
    now: datetime
    may_replicate: bool


@dataclass(frozen=True)
class Slot:
    """A row of ``pg_replication_slots``."""

    name: str
    plugin: str | None
    is_here: bool  # whether it belongs to our database
    active_pid: int | None
    wal_status: str | None
    confirmed: int | None  # up to where it was advanced
    restart: int | None  # from where the server keeps its log for it; None if it was lost
    invalidation: str | None
    safe_wal_size: int | None  # how many more bytes until it is lost; None for no limit


def _bytes(position: str) -> str:
    """The SQL of a position as a number."""
    return f"({position} - '0/0'::pg_lsn)::bigint"


def look_at_server(session: Session) -> Server:
    """Asks the server what it is and where its log ends."""
    version, wal_level, is_standby, may = session.query(
        "SELECT current_setting('server_version_num')::integer, current_setting('wal_level'),"
        " pg_is_in_recovery(), rolsuper OR rolreplication OR coalesce(pg_has_role("
        " (SELECT g.oid FROM pg_roles AS g WHERE g.rolname = 'rds_replication'), 'MEMBER'), false)"
        " FROM pg_roles WHERE rolname = current_user"
    )[0]
    flushed = "pg_last_wal_replay_lsn()" if is_standby else "pg_current_wal_flush_lsn()"
    # That of the last checkpoint would be the old one for a while after a failover.
    timeline_now = (
        "(SELECT timeline_id FROM pg_control_checkpoint())"
        if is_standby
        else "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer"
    )
    system_id, timeline, position, now = session.query(
        f"SELECT s.system_identifier::text, {timeline_now},"
        f" {_bytes(flushed)}, clock_timestamp() AT TIME ZONE 'UTC' FROM pg_control_system() AS s"
    )[0]
    return Server(version, wal_level, system_id, timeline, is_standby, position, now, may)


def look_at_slot(session: Session, name: str) -> Slot | None:
    rows = session.query(
        "SELECT slot_name::text, plugin::text,"
        " coalesce(database = current_database(), false), active_pid, wal_status,"
        f" {_bytes('confirmed_flush_lsn')}, {_bytes('restart_lsn')},"
        " to_jsonb(s) ->> 'invalidation_reason', safe_wal_size"
        " FROM pg_replication_slots AS s WHERE slot_name = $1",
        name,
    )
    return Slot(*rows[0]) if rows else None


def create_slot(session: Session, name: str, *, patience: float) -> int:
    """Creates a slot once open transactions have ended; no change after its position is missed."""
    session.set({"statement_timeout": f"{round(patience * 1000)}ms"})
    try:
        return int(
            session.query(f"SELECT {_bytes('lsn')} FROM pg_create_logical_replication_slot($1, 'pgoutput')", name)[0][0]
        )
    except TransientError as error:
        raise TransientError(f"slot {name} could not be made: {error}", hint=waiting_hint(session)) from None
    finally:
        with suppress(PyopsError):  # a connection that broke has no settings any more
            session.set({"statement_timeout": "0"})


def drop_slot(session: Session, name: str) -> None:
    session.query("SELECT pg_drop_replication_slot($1)", name)


def advance_slot(session: Session, name: str, position: int) -> None:
    """Tells the server that everything before a position was landed."""
    session.query("SELECT 1 FROM pg_replication_slot_advance($1, $2::text::pg_lsn)", name, lsn_text(position))
    slot = look_at_slot(session, name)
    if slot is None or slot.confirmed is None or slot.confirmed < position:
        raise OperationError(
            f"slot {name} did not advance to {lsn_text(position)}: the source keeps its log for it",
            hint="look at it with pyops slot status, and at the server's log",
        )


def lock_slot(session: Session, name: str) -> None:
    """Makes sure that no other run uses a slot, until the session ends; else a TransientError."""
    if not session.query(f"SELECT pg_try_advisory_lock({_LOCK})", name)[0][0]:
        holder = session.query(
            "SELECT l.pid FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted"
            " AND l.classid::bigint = (hashtext('pyops cdc')::bigint & 4294967295)"
            " AND l.objid::bigint = (hashtext($1)::bigint & 4294967295)",
            name,
        )
        pid = f" (the source's process {holder[0][0]})" if holder else ""
        raise BusyError(
            f"another run is landing the changes of slot {name}{pid}",
            hint="wait until it has ended; one pyops cdc a source at a time",
        )


def peek(
    session: Session, name: str, publications: Sequence[str], *, upto: int, messages: int | None
) -> Iterator[pa.RecordBatch]:
    """Reads a slot up to a position, one message a row, whole transactions, without moving it."""
    session.query(
        "SELECT set_config(name, $1, false) FROM pg_settings"
        " WHERE name = 'logical_decoding_work_mem' AND source = 'default'",
        _DECODING_MEMORY,
    )
    names = ",".join(identifier(publication) for publication in publications)
    options = f"'proto_version', '1', 'publication_names', {literal(names)}"
    _, batches = session.read(
        "SELECT data FROM pg_logical_slot_peek_binary_changes("
        f"{literal(name)}, '{lsn_text(upto)}'::pg_lsn, {messages or 'NULL'}, {options})",
        batch_bytes=_BATCH_BYTES,
    )
    return batches


def await_transactions(
    session: Session, *, patience: float, on_wait: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Waits until every transaction that is open now has ended and can be seen by a snapshot.

    One counts as open between its commit record and its visibility, as long as it waits for a standby.
    """
    number = int(session.query("SELECT pg_current_xact_id()::text")[0][0])
    oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
    waited, told = 0.0, False
    while int(session.query(oldest)[0][0]) <= number:
        if waited >= patience:
            raise TransientError(
                "transactions at the source did not end, and no table can be copied before", hint=waiting_hint(session)
            )
        if waited > 1 and not told:
            on_wait(f"waiting for transactions at the source: {waiting_hint(session)}")
            told = True
        pause = 0.01 if waited < 0.5 else 0.25
        sleep(pause)
        waited += pause


def waiting_hint(session: Session) -> str:
    """Who has a transaction open, oldest first."""
    rows = session.query(
        "SELECT 'process ' || pid || coalesce(' (' || nullif(application_name, '') || ')', '')"
        " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
        " UNION ALL SELECT 'prepared transaction ' || quote_literal(gid) FROM pg_prepared_xacts"
        " LIMIT 5"
    )
    open_ones = ", ".join(row[0] for row in rows)
    return f"open are {open_ones}" if open_ones else "see pg_stat_activity"


@dataclass(frozen=True)
class Pulse:
    """Where the source's log and a slot stand now; ``now`` is the source's clock, naive UTC."""

    flushed: int
    now: datetime
    confirmed: int | None
    wal_status: str | None


def pulse(session: Session, slot: str) -> Pulse:
    """Asks in one round trip for what a look at an idle source needs."""
    [(flushed, now, confirmed, wal_status)] = session.query(
        f"SELECT {_bytes('pg_current_wal_flush_lsn()')}, clock_timestamp() AT TIME ZONE 'UTC',"
        f" {_bytes('s.confirmed_flush_lsn')}, s.wal_status"
        " FROM (SELECT 1) AS one LEFT JOIN pg_replication_slots AS s ON s.slot_name = $1",
        slot,
    )
    return Pulse(flushed, now, confirmed, wal_status)
