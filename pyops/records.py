"""The plain values that cross rooms: what is known of tables, runs, watermarks and captures."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Self

RESERVED_COLUMNS = ("_load_id", "_loaded_at", "_fault")
CHANGE_COLUMNS: Mapping[str, str] = {  # what a change log has beside the table's own columns
    "_op": "VARCHAR", "_generation": "INTEGER", "_lsn": "BIGINT", "_seq": "BIGINT",
    "_xid": "BIGINT", "_committed_at": "TIMESTAMP", "_unchanged": "VARCHAR[]",
}  # fmt: skip
PLACE_COLUMNS: Mapping[str, str] = {"_file": "VARCHAR", "_line": "BIGINT"}  # of rows from files
Relation = tuple[str, str]  # schema and name of a table in the warehouse


@dataclass(frozen=True)
class TableId:
    """A table by name: its source, its name there, and its target (schema and name)."""

    source: str
    name: str
    target: Relation

    def __str__(self) -> str:
        return f"{self.source}.{self.name}"


def utc_now() -> datetime:
    """The clock of this machine as the warehouse keeps times: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class Run:
    """One run: a row of ``pyops.runs``, with the columns' names and units.

    ``status`` is succeeded, failed, rejected (by a gate), staged, cancelled, killed or planned;
    times are naive UTC; bytes are those of the Arrow batches or the files; the bounds are the
    cursor's text at the source.
    """

    run_id: str
    source: str | None
    table_name: str | None
    mode: str | None
    write_pattern: str | None
    status: str
    started_at: datetime | None
    finished_at: datetime | None = None
    seconds: float = 0.0
    locked_seconds: float = 0.0
    rows_read: int = 0
    rows_written: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_dead_lettered: int = 0
    null_cursors: int = 0
    bytes_read: int = 0
    lower_bound: str | None = None
    upper_bound: str | None = None
    load_id: int | None = None
    error: str | None = None
    host: str | None = None
    pid: int | None = None
    invocation_id: str | None = None

    @classmethod
    def begun(cls, source: str | None, table: str | None, mode: str, write: str) -> Self:
        now = utc_now()
        run_id = f"{now:%Y%m%dT%H%M%S.%f}-{os.urandom(3).hex()}"
        run = cls(run_id, source, table, mode, write, "running", now)
        return replace(run, host=socket.gethostname(), pid=os.getpid())

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The run that ``to_json`` wrote; a ValueError if it is not one."""
        values = json.loads(text)
        for name in ("started_at", "finished_at"):
            if values[name] is not None:
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values)


def ended(run: Run, status: str, error: str | None) -> Run:
    now = utc_now()
    seconds = (now - (run.started_at or now)).total_seconds()
    return replace(run, status=status, finished_at=now, seconds=seconds, error=error)


@dataclass(frozen=True)
class Watermark:
    """The stored state of a table's cursor; values are PostgreSQL's text.

    Every row below ``bound`` has been read; ``candidate`` is the bound to be, once the transactions
    in ``waiting_for`` have ended.
    """

    bound: str | None = None
    candidate: str | None = None
    waiting_for: frozenset[str] = frozenset()


GateStatus = Literal["passed", "failed", "warned", "dead_lettered", "skipped"]


@dataclass(frozen=True)
class GateResult:
    """How one gate came out.

    ``column_name`` is the column or columns it looks at, or an expectation's name. ``figure`` and
    ``threshold`` are a number of rows, a share of rows, or an age in seconds. ``warned`` and
    ``dead_lettered`` are failures that let the load go on. ``query`` shows the failing rows in the
    staging file; ``message`` holds no row's value.
    """

    gate: str
    column_name: str
    status: GateStatus
    figure: float | None
    threshold: float | None
    failing_rows: int | None
    on_fail: Literal["fail", "warn", "dead_letter"]
    query: str
    message: str


@dataclass(frozen=True)
class DeadLetter:
    """One row of ``pyops.dead_letters``.

    ``key`` and ``payload`` are JSON objects of texts: the row's primary key, and all of it (or what
    was there instead of a row). ``column_name`` is None if the row could not be parsed at all.
    ``line`` counts from 1. ``status`` is open, replayed or superseded.
    """

    letter_id: int
    source: str
    table_name: str
    key: str | None
    column_name: str | None
    value: str | None
    reason: str
    payload: str
    file: str | None
    line: int | None
    run_id: str
    recorded_at: datetime
    status: str


@dataclass(frozen=True)
class Offset:
    """How far a source's changes have been landed.

    ``generation`` is one more whenever the slot is new; it orders changes before their LSN does.
    ``status`` is ``starting`` until slot and publications are known to exist. ``publications`` has
    the ``xmin`` of each one's row, which any change of it changes. Every transaction whose commit
    record is before ``lsn`` has been landed; what was committed until ``caught_up_at``, too. Times
    are the source's, naive UTC.
    """

    source: str
    generation: int
    status: Literal["starting", "active", "dropped"]
    slot: str
    system_id: str
    timeline: int
    publications: Mapping[str, int] = field(default_factory=dict)
    lsn: int = 0
    committed_at: datetime | None = None
    caught_up_at: datetime | None = None


@dataclass(frozen=True)
class Captured:
    """A table whose changes are landed, from its snapshot on.

    ``membership_oid`` is that of its row in ``pg_publication_rel``, which changes with its column
    list and whenever it leaves and joins (of its schema's row in ``pg_publication_namespace``, 0
    for all tables). ``snapshot`` is the ``pg_snapshot`` its rows were copied in, ``snapshot_lsn``
    their ``_lsn``; every transaction visible there was committed before ``handoff_lsn``.
    """

    name: str
    generation: int
    relation_oid: int
    membership_oid: int
    columns: tuple[str, ...]
    snapshot: str
    snapshot_lsn: int
    handoff_lsn: int
