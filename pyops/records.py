"""The plain values that cross rooms: what is known of tables, runs, watermarks and captures."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import TypeAdapter

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
    """One run: a row of ``pyops.runs``; times are naive UTC."""

    run_id: str
    source: str | None
    table_name: str | None
    mode: str | None
    write_pattern: str | None
    # succeeded, failed, rejected (by a gate), refused (another is at it), staged, cancelled, killed or planned
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
    bytes_read: int = 0  # of the Arrow batches, or of the files
    lower_bound: str | None = None  # the cursor's text at the source
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
        return TypeAdapter(Run).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> "Run":
        """The run that ``to_json`` wrote; a ValueError if it is not one."""
        return TypeAdapter(Run).validate_json(text)


def ended(run: Run, status: str, error: str | None) -> Run:
    now = utc_now()
    seconds = (now - (run.started_at or now)).total_seconds()
    return replace(run, status=status, finished_at=now, seconds=seconds, error=error)


@dataclass(frozen=True)
class Watermark:
    """The stored state of a table's cursor; values are PostgreSQL's text."""

    bound: str | None = None  # every row below it has been read
    candidate: str | None = None  # the bound to be, once these transactions have ended
    waiting_for: frozenset[str] = frozenset()


GateStatus = Literal["passed", "failed", "warned", "dead_lettered", "skipped"]


@dataclass(frozen=True)
class GateResult:
    """How one gate came out."""

    gate: str
    column_name: str  # the column or columns it looks at, or an expectation's name
    status: GateStatus  # warned and dead_lettered are failures that let the load go on
    figure: float | None  # a number of rows, a share of rows, or an age in seconds
    threshold: float | None
    failing_rows: int | None
    on_fail: Literal["fail", "warn", "dead_letter"]
    query: str  # shows the failing rows in the staging file
    message: str  # without any row's value


@dataclass(frozen=True)
class DeadLetter:
    """One row of ``pyops.dead_letters``."""

    letter_id: int
    source: str
    table_name: str
    key: str | None  # the row's primary key, a JSON object of texts
    column_name: str | None  # None if the row could not be parsed at all
    value: str | None
    reason: str
    payload: str  # all of the row, a JSON object of texts; or what was there instead of one
    file: str | None
    line: int | None  # from 1
    run_id: str
    recorded_at: datetime
    status: str  # open, replayed or superseded


@dataclass(frozen=True)
class Offset:
    """How far a source's changes have been landed; times are the source's, naive UTC."""

    source: str
    generation: int  # one more whenever the slot is new; it orders changes before their LSN does
    # starting until slot and publications exist; stopped when the source's history was found to be another
    status: Literal["starting", "active", "stopped", "dropped"]
    slot: str
    system_id: str
    timeline: int
    publications: Mapping[str, int] = field(default_factory=dict)  # xmin of each one's row
    lsn: int = 0  # every transaction whose commit record is before it has been landed
    committed_at: datetime | None = None
    caught_up_at: datetime | None = None  # what was committed until then has been landed
    committed_lsn: int | None = None  # the end of the last commit; None of one that an older pyops has landed


@dataclass(frozen=True)
class Captured:
    """A table whose changes are landed, from its snapshot on."""

    name: str
    generation: int
    relation_oid: int
    membership_oid: int  # of its row in pg_publication_rel or _namespace: changes with columns and joining
    columns: tuple[str, ...]
    snapshot: str  # the ``pg_snapshot`` its rows were copied in
    snapshot_lsn: int  # their ``_lsn``
    handoff_lsn: int  # every transaction visible there was committed before it
    left_out: tuple[str, ...] = ()  # columns there were that were not copied
    leaves: tuple[int, ...] | None = None  # the oids of its partitions; None where an older pyops has copied it
