"""What a warehouse does, whatever its kind; and one value for all there is to commit."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal, Protocol, TypeVar

import duckdb
from pydantic import Field, TypeAdapter

from pyops.records import Captured, GateResult, Offset, Relation, Run, TableId, Watermark
from pyops.staging.file import Stage

_T = TypeVar("_T")
_Table = TypeVar("_Table", bound=TableId)


@dataclass(frozen=True)
class Append:
    """Adds rows."""

    kind: Literal["append"] = "append"


@dataclass(frozen=True)
class ByKey:
    """Replaces the rows that have the same key."""

    key: tuple[str, ...]
    skips_unchanged: bool = False
    deletes_extra: bool = False  # rows that the source does not have
    kind: Literal["by_key"] = "by_key"


@dataclass(frozen=True)
class ByDays:
    """Replaces the rows of a range of days; ``end`` is the day after it (ISO dates)."""

    column: str
    first: str
    end: str
    kind: Literal["by_days"] = "by_days"


@dataclass(frozen=True)
class ByFiles:
    """Replaces the rows that came from these files."""

    names: tuple[str, ...]
    kind: Literal["by_files"] = "by_files"


@dataclass(frozen=True)
class Whole:
    """Replaces every row; ``swap`` replaces the table with its columns."""

    swap: bool
    kind: Literal["whole"] = "whole"


@dataclass(frozen=True)
class Where:
    """Replaces the rows that meet a condition."""

    condition: str
    kind: Literal["where"] = "where"


Scope = Annotated[Append | ByKey | ByDays | ByFiles | Whole | Where, Field(discriminator="kind")]
# A copy makes its log even if it is empty; the stream needs one; events make one if there are any.
LogPart = Literal["copy", "stream", "events"]


@dataclass(frozen=True)
class WatermarkChange:
    """The watermark to store for a table; None forgets the one that is there."""

    cursor: str | None = None
    watermark: Watermark | None = None


@dataclass(frozen=True)
class Write:
    """Rows on their way to one table, and what else changes with them.

    ``rows`` and ``dead_letters`` are SELECTs in staging; ``columns`` has the warehouse type of each
    of the table's own columns. ``expects_load`` is the table's last load when this was planned.
    """

    table: TableId
    columns: Mapping[str, str]
    scope: Scope
    rows: str = "SELECT * EXCLUDE (_fault) FROM rows"
    dead_letters: str = "FROM dead_letters"
    key: tuple[str, ...] = ()
    supersedes: Scope | None = None  # whose dead letters; None is those of ``scope``
    may_evolve: bool = True
    adopts: bool = False  # a table that pyops did not make
    log: LogPart | None = None
    is_recreated: bool = False  # at the source, since it was last captured
    is_rewrite: bool = False  # the rows keep the load they had
    expects_load: int | None = None
    watermark: WatermarkChange | None = None
    landed_as: str | None = None  # by which of the configuration's keys
    files: tuple[tuple[str, int, int], ...] = ()  # name, size, modification time in ns


@dataclass(frozen=True)
class CaptureChange:
    """How a source's capture moves on; refused if it is not where ``expects`` says."""

    offset: Offset
    expects: Offset | None
    tables: tuple[Captured, ...] = ()
    forgets: tuple[str, ...] = ()
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Compacted:
    """Up to which generation and LSN a log is folded."""

    table: TableId
    key: tuple[str, ...]
    generation: int
    lsn: int


@dataclass(frozen=True)
class Commit:
    """All that becomes visible at once."""

    writes: tuple[Write, ...] = ()
    run: Run | None = None
    gates: tuple[GateResult, ...] = ()
    capture: CaptureChange | None = None
    compacted: Compacted | None = None
    replayed: tuple[int, ...] = ()  # dead letters whose rows are in ``writes``
    purges: str = ""  # the condition for dead letters to delete
    days: tuple[str, str] | None = None  # that were asked for, both included

    def to_json(self) -> str:
        """The commit as JSON, for a staging file that waits."""
        return TypeAdapter(Commit).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> "Commit":
        return TypeAdapter(Commit).validate_json(text)


@dataclass(frozen=True)
class TableState:
    """What the warehouse knows of a table.

    ``columns`` are the target's without pyops's own, empty if it is not there; ``files`` has size
    and modification time (ns) by name; ``recent_rows`` what the last ten runs read, newest first.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    last_load: int = 0
    last_loaded_at: datetime | None = None
    last_run: Run | None = None
    cursor: str | None = None
    watermark: Watermark = field(default_factory=Watermark)
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    recent_rows: tuple[int, ...] = ()
    dead_letters: int = 0  # open ones
    landed_as: str | None = None  # that of the target's last load


@dataclass(frozen=True)
class CaptureState:
    """What the warehouse knows of a source's capture; ``offset`` is None before the first run.

    ``keys`` has the columns that identify a row of each log, also of tables no longer captured.
    """

    offset: Offset | None = None
    tables: Mapping[str, Captured] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    newest_generation: int = 0  # of any source: a log's generations rise, whoever writes it


class Attached(Protocol):
    """A warehouse whose tables can be read beside those of a staging file.

    ``name`` is what to read a table by, ``columns`` the type of each column by name (empty if there
    is no such table), ``compacted_lsn`` up to where a log is folded (-1 if it is not), ``log_key``
    the columns that identified its rows when it was last captured, ``open_keys`` the SELECT of the keys
    of its open dead letters.
    """

    @property
    def connection(self) -> duckdb.DuckDBPyConnection: ...
    def name(self, relation: Relation) -> str: ...
    def columns(self, relation: Relation) -> dict[str, str]: ...
    def compacted_lsn(self, table: TableId) -> int: ...
    def log_key(self, table: TableId) -> tuple[str, ...]: ...
    def count_dead_letters(self, condition: str) -> int: ...
    def open_keys(self, table: TableId) -> str: ...


class Warehouse(Protocol):
    """Where tables are landed. Each method raises TransientError while another process holds it."""

    def exists(self) -> bool:
        """Whether there is one yet."""

    def states(self, tables: Sequence[_Table]) -> dict[_Table, TableState]:
        """What is known of tables."""

    def capture_state(self, source: str) -> CaptureState:
        """What is known of a source's capture."""

    def rows(self, record: type[_T], condition: str = "true", *, order: str = "1") -> list[_T]:
        """The bookkeeping's rows of one kind that meet a condition."""

    def attached(self, stage: Stage | None = None, *, read_only: bool = True) -> AbstractContextManager["Attached"]:
        """Its tables, to be read from a staging file's connection or one of its own."""

    def commit(self, stage: Stage | None, commit: Commit) -> Run | None:
        """Makes a commit visible, whole or not at all; returns its run with what was written."""

    def record(self, runs: Sequence[Run], gates: Sequence[GateResult] = (), *, in_haste: bool = False) -> None:
        """Adds runs that committed nothing, and what the gates said of the only one of them."""

    def dbt_environment(self) -> dict[str, str]:
        """The variables by which dbt finds it."""
