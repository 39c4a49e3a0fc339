"""``pyops slot``: where each slot stands, what it keeps at the source, and how it is given up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from pyops.commands.cdc import captured_sources
from pyops.commands.invocation import open_warehouse
from pyops.config.project import Project
from pyops.errors import OperationError, PyopsError
from pyops.records import Offset
from pyops.sql import literal
from pyops.warehouse.protocol import CaptureChange, Commit

if TYPE_CHECKING:  # where there is no slot, PostgreSQL's driver is not loaded: start-up time
    from pyops.cdc.postgres.slot import Server, Slot
    from pyops.sources.postgres.session import Session

_SETTINGS = """
SELECT
    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
    (SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'),
    current_setting('idle_replication_slot_timeout', true)
"""
# The oldest first: they are what a slot's log must be kept for. Needs no right beyond connecting.
_HOLDERS = """
SELECT holder FROM (
    SELECT 'process ' || pid AS holder, age(backend_xid) AS age FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction ' || quote_literal(gid), age(transaction) FROM pg_prepared_xacts
) AS holders
ORDER BY age DESC
LIMIT 3
"""


@dataclass(frozen=True)
class SlotStatus:
    """Where the changes of one source stand; times are naive UTC."""

    source: str
    slot: str
    generation: int = 0  # counts the slots it has had
    position: str | None = None  # up to where its changes have been landed
    lag_bytes: int | None = None  # how much log the source has written since, of all its tables
    lag_seconds: float | None = None  # since when, by its clock, not all is landed
    kept_bytes: int | None = None  # how much log it keeps for the slot
    last_change_at: datetime | None = None
    held_back_by: tuple[str, ...] = ()  # the transactions this log is kept for, oldest first
    problem: str | None = None  # why nothing can be landed
    warnings: tuple[str, ...] = ()


def slot_status(project: Project, names: Sequence[str] = ()) -> list[SlotStatus]:
    """Looks the slots of cdc sources up, at the source and in the warehouse; and those of sources that are gone."""
    left = _left(project)
    known = [name for name in names if name not in left]
    configured = captured_sources(project, known, with_slot=True) if known or not names else []
    gone = "it is not in pyops.yml any more, and the source keeps its log for this slot: pyops slot drop {}"
    return [
        *(_status(project, name) for name in configured),
        *(
            SlotStatus(name, offset.slot, offset.generation, problem=gone.format(name))
            for name, offset in left.items()
            if not names or name in names
        ),
    ]


def _left(project: Project) -> dict[str, Offset]:
    """The captures of sources that left the configuration and have a slot still."""
    offsets = open_warehouse(project).rows(Offset, "status <> 'dropped'")
    return {offset.source: offset for offset in offsets if offset.source not in project.config.sources}


def lagging(project: Project, statuses: Sequence[SlotStatus], limit: int | None = None) -> list[SlotStatus]:
    """Those further behind than ``limit``, or than their source's ``fail_if_lag``; or at fault."""
    found = []
    for status in statuses:
        is_configured = status.source in project.config.sources
        most = project.postgres(status.source).fail_if_lag if limit is None and is_configured else limit
        if most is not None and (status.problem or (status.lag_bytes or 0) > most):
            found.append(status)
    return found


def drop(project: Project, source: str) -> None:
    """Drops a source's slot and the publications that pyops created; what was landed stays."""
    from pyops.cdc.postgres.capture import slot_name
    from pyops.cdc.postgres.handshake import check_plugin
    from pyops.cdc.postgres.publication import Publications, own_names
    from pyops.cdc.postgres.slot import drop_slot, lock_slot, look_at_server, look_at_slot
    from pyops.sources.postgres.session import connect

    warehouse = open_warehouse(project)
    state = warehouse.capture_state(source)
    server_of = _reachable_by(project, left) if (left := _left(project).get(source)) else source
    [server_of] = captured_sources(project, [server_of], with_slot=True)
    with connect(project.dsn(server_of), name=source, policy=project.config.sources[server_of].retry.policy) as session:
        used = state.offset if state.offset and state.offset.status != "dropped" else None
        name = used.slot if used else slot_name(project, source, session, None)
        lock_slot(session, name)
        server = look_at_server(session)
        if (slot := look_at_slot(session, name)) is not None:
            check_plugin(source, slot)
            drop_slot(session, name)
        if left:  # whether they were ours, their names tell
            names, own = tuple(left.publications), own_names(source)
            Publications(session, source, names, are_ours=set(names) == set(own), version=server.version).drop()
        else:
            Publications.of(project, source, session, version=server.version).drop()
    if state.offset is not None:
        dropped = replace(state.offset, status="dropped")
        change = CaptureChange(dropped, state.offset, forgets=tuple(state.tables))
        warehouse.commit(None, Commit(capture=change))


def _reachable_by(project: Project, left: Offset) -> str:
    """A configured source whose server has the slot of one that left."""
    from pyops.cdc.postgres.slot import look_at_server, look_at_slot
    from pyops.sources.postgres.session import connect

    for name in captured_sources(project, with_slot=True):
        with suppress(PyopsError), connect(project.dsn(name), name=name) as session:
            slot = look_at_slot(session, left.slot)
            if slot and slot.is_here and look_at_server(session).system_id == left.system_id:
                return name
    raise OperationError(
        f"{left.source}: no source in pyops.yml is on the server and database of its slot {left.slot}",
        hint="name it again in pyops.yml, with a table of mode cdc; or drop it there:"
        f" SELECT pg_drop_replication_slot({literal(left.slot)});",
    )


def _status(project: Project, source: str) -> SlotStatus:
    offset = open_warehouse(project).capture_state(source).offset
    if offset is None or offset.status == "dropped":
        name = project.postgres(source).slot or ""
        return SlotStatus(source, name, problem=f"there is no slot yet: run pyops cdc {source}")
    from pyops.cdc.postgres.changes import lsn_text
    from pyops.cdc.postgres.slot import look_at_server, look_at_slot
    from pyops.sources.postgres.session import connect

    status = SlotStatus(
        *(source, offset.slot),
        generation=offset.generation,
        position=lsn_text(offset.lsn),
        last_change_at=offset.committed_at,
    )
    try:
        with connect(project.dsn(source), name=source) as session:
            server = look_at_server(session)
            slot = look_at_slot(session, offset.slot)
            return _compared(status, offset, server, slot, session)
    except PyopsError as error:
        return replace(status, problem=str(error))


def _compared(status: SlotStatus, offset: Offset, server: Server, slot: Slot | None, session: Session) -> SlotStatus:
    lag = max(server.flushed - offset.lsn, 0)
    seconds = None
    if offset.caught_up_at is not None:
        seconds = (server.now - offset.caught_up_at).total_seconds() if lag else 0.0
    status = replace(status, lag_bytes=lag, lag_seconds=seconds)
    if slot is None:
        return replace(status, problem=f"slot {offset.slot} is not there")
    if slot.restart is None or slot.wal_status == "lost":
        return replace(status, problem=f"slot {offset.slot} was lost")
    holders: tuple[str, ...] = ()
    if slot.confirmed is not None and slot.restart < slot.confirmed:
        holders = tuple(row[0] for row in session.query(_HOLDERS))
    if slot.active_pid is not None:
        holders = (f"process {slot.active_pid} reads the slot now", *holders)
    return replace(
        status,
        kept_bytes=max(server.flushed - slot.restart, 0),
        held_back_by=holders,
        warnings=tuple(_warnings(session, slot)),
    )


def _warnings(session: Session, slot: Slot) -> list[str]:
    most, idle, idle_text = session.query(_SETTINGS)[0]
    warnings = []
    if most == -1:
        warnings.append("max_slot_wal_keep_size is not set: if this slot is not read any more, the source's disk fills")
    elif slot.wal_status == "unreserved" or (slot.safe_wal_size is not None and slot.safe_wal_size < (most << 20) // 5):
        left = max(slot.safe_wal_size or 0, 0)
        warnings.append(
            f"the slot is lost after {left:,} more bytes of log (max_slot_wal_keep_size): run pyops cdc now"
        )
    if idle:
        warnings.append(
            f"idle_replication_slot_timeout is {idle_text}: the slot is lost when it is not read for so long"
        )
    return warnings
