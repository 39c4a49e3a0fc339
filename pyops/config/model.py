"""pyops.yml: what to land, from where, how. Reading it touches no server and no warehouse."""

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pyops.config.rest import Auth, Dotted, HeaderText, Paginator, SinglePage, Url
from pyops.config.sections import ConnectTypes, Duration, Lookback, Names, Section, Size, Types
from pyops.config.thresholds import Gates
from pyops.retry import Policy
from pyops.staging.connect_types import UNAVAILABLE

Mode = Literal["full", "incremental", "partition", "cdc"]
Write = Literal["append", "delete_insert", "merge", "swap"]

WRITES: Mapping[Mode, tuple[Write, ...]] = {  # the first is the default
    "full": ("swap", "merge", "delete_insert"),
    "incremental": ("merge", "append", "delete_insert"),
    "partition": ("delete_insert",),
    "cdc": ("append",),
}


class TableConfig(Section):
    """How one table is landed, whatever its source; docs/configuration.md explains the keys."""

    mode: Mode
    write: Write | None = None
    target: str | None = None
    primary_key: Names = ()
    partition_by: str | None = None
    columns: Names = ()
    exclude: Names = ()
    mask: Names = ()
    on_schema_change: Literal["evolve", "fail"] = "evolve"
    max_dead_letter_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    retention: Duration | None = None
    adopt: bool = False
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.write is not None and self.write not in WRITES[self.mode]:
            allowed = ", ".join(WRITES[self.mode])
            yield f"mode {self.mode} cannot write by {self.write}; it can write by: {allowed}"
        if (self.mode == "partition") != (self.partition_by is not None):
            yield "mode partition and partition_by go together: it is the column of the days"
        if self.replaces_by_key and not self.primary_key:
            yield (
                f"{self.write_pattern} needs a primary_key: without one, a row that is read twice would be stored twice"
            )
        if self.columns and self.exclude:
            yield "columns and exclude both choose the columns: keep one"
        needed = {*self.primary_key, *self._ordering_columns}
        if lost := sorted(needed & set(self.exclude) or (needed - set(self.columns or needed))):
            yield f"the load itself needs column {', '.join(lost)}: it cannot be left out"
        if hidden := sorted(self._ordering_columns & set(self.mask)):
            yield f"column {', '.join(hidden)} orders the load: it cannot be masked"
        if self.mode == "cdc" and self.gates != Gates():
            yield (
                "mode cdc has no gates: holding changes back would fill the source's disk;"
                " test the dbt models that are built from them"
            )
        if self.mode == "cdc" and "max_dead_letter_rate" in self.model_fields_set:
            yield "mode cdc has no max_dead_letter_rate: one change must not hold up the others"
        if self.mode != "cdc" and self.retention is not None:
            yield f"retention means nothing to mode {self.mode}: it has no change log"
        if self.target is not None and not re.fullmatch(r"[^.]+\.[^.]+", self.target):
            yield f"invalid target {self.target!r}: write schema and table, like raw.orders"
        elif self.target is not None and self.target.lower().startswith("pyops."):
            yield f"invalid target {self.target!r}: schema pyops is reserved for pyops itself"

    @property
    def _ordering_columns(self) -> set[str]:
        return {column for column in (self.partition_by, self.cursor_column) if column}

    @property
    def declared_types(self) -> Mapping[str, str]:
        """The types that the configuration gives to columns, by name."""
        return {}

    @property
    def cursor_column(self) -> str | None:
        """The column whose growth tells what is new, if there is one."""
        return None

    def lands(self, column: str) -> bool:
        """Whether a column is landed, by ``columns`` and ``exclude``."""
        return column not in self.exclude and (not self.columns or column in self.columns)

    @property
    def hides_columns(self) -> bool:
        """Whether some columns, or their values, must not be kept anywhere."""
        return bool(self.mask or self.exclude or self.columns)

    @property
    def write_pattern(self) -> Write:
        """The write pattern, chosen or following the mode."""
        return self.write or WRITES[self.mode][0]

    @property
    def replaces_by_key(self) -> bool:
        """Whether a load replaces the rows that have its keys, rather than days or everything."""
        return self.write_pattern == "merge" or (self.write_pattern == "delete_insert" and self.mode == "incremental")


class Retry(Section):
    """How often what failed for a passing reason is tried in all, and how long between two attempts."""

    attempts: Annotated[int, Field(ge=1)] = 4
    base_delay: Duration = timedelta(seconds=1)
    max_delay: Duration = timedelta(minutes=1)

    @property
    def policy(self) -> Policy:
        return Policy(self.attempts, self.base_delay.total_seconds(), self.max_delay.total_seconds())


class CircuitBreaker(Section):
    """After how many failed runs in a row a source is left alone, and for how long."""

    failures: Annotated[int, Field(ge=1)] = 5
    reset: Duration = timedelta(minutes=1)


class SourceConfig(Section):
    """What a source of any kind has, beside its ``tables``; ``type`` is its kind."""

    has_changes: ClassVar[bool] = False  # whether its tables may have mode cdc
    has_slot: ClassVar[bool] = False  # whether these come from a replication slot
    replay_hint: ClassVar[str] = ""  # what to do with a dead letter of mode cdc
    retries_requests: ClassVar[bool] = False  # whether each request is tried again by itself

    type: str
    mask_salt: str = Field("", repr=False)
    retry: Retry = Retry()
    breaker: CircuitBreaker = CircuitBreaker()


class PostgresTable(TableConfig):
    """How one PostgreSQL table is landed."""

    schema_: str = Field("public", alias="schema")
    cursor: str | None = None
    lookback: Lookback | None = None
    timezone: str | None = None
    on_null_cursor: Literal["include", "fail"] | None = None
    column_list: bool = False

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.column_list and self.mode != "cdc":
            yield f"column_list means nothing to mode {self.mode}: its query asks for the columns that are landed"
        if self.mode == "incremental" and self.cursor is None:
            yield "mode incremental needs a cursor: the column that grows with every change"
        if self.mode != "incremental" and (self.cursor or self.lookback or self.on_null_cursor):
            yield f"cursor, lookback and on_null_cursor mean nothing to mode {self.mode}"
        if self.write_pattern == "append" and self.lookback is not None:
            yield "append takes no lookback: a row that is read twice would be stored twice"
        if self.write_pattern == "append" and self.on_null_cursor == "include":
            yield "append cannot include rows without a cursor: every run would add them again"

    @property
    def cursor_column(self) -> str | None:
        return self.cursor


class PostgresSource(SourceConfig):
    """A PostgreSQL database and the tables landed from it; ``fail_if_lag`` is in bytes."""

    has_changes: ClassVar[bool] = True
    has_slot: ClassVar[bool] = True
    replay_hint: ClassVar[str] = "pyops snapshot {} re-snapshots it, once the cause is fixed"

    type: Literal["postgres"]
    dsn: str = Field(repr=False)
    slot: str | None = None
    publication: Names = ()
    fail_if_lag: Size | None = None
    tables: dict[str, PostgresTable]

    @field_validator("slot")
    @classmethod
    def _is_a_slots_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch("[a-z0-9_]{1,63}", name):
            raise ValueError(f"invalid slot name {name!r}: use a-z, 0-9 and _, at most 63 of them")
        return name

    @field_validator("publication")
    @classmethod
    def _has_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not 0 < len(name.encode()) < 64:
                raise ValueError(f"invalid publication name {name!r}: use 1 to 63 bytes")
        return names


class FilesTable(TableConfig):
    """How files become a table."""

    path: str
    format: Literal["csv", "jsonl", "json", "parquet"]
    types: Types = {}

    @property
    def declared_types(self) -> Mapping[str, str]:
        return self.types

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.types and self.format == "parquet":
            yield "parquet files have their own types: remove types"
        if self.mode in {"incremental", "cdc"}:
            yield (
                f"files have no {'cursor' if self.mode == 'incremental' else 'change log'}: use mode full or partition"
            )
        if (self.mode == "partition") != ("{date}" in self.path):
            yield "mode partition and a {date} in the path go together: the day of a file"


class FilesSource(SourceConfig):
    """Files and the tables landed from them."""

    type: Literal["files"]
    tables: dict[str, FilesTable]


class DebeziumTable(TableConfig):
    """How Debezium's change events become a change log."""

    mode: Literal["cdc"] = "cdc"
    path: str
    events_of: str | None = None
    types: ConnectTypes = {}

    @property
    def declared_types(self) -> Mapping[str, str]:
        return self.types

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.retention is not None and not self.primary_key:
            yield "retention needs a primary_key: changes are folded into one row per key"


class DebeziumSource(SourceConfig):
    """Files of Debezium's change events and the tables landed from them."""

    has_changes: ClassVar[bool] = True
    replay_hint: ClassVar[str] = "fix the cause and touch the file of {}: pyops cdc reads it again"

    type: Literal["debezium"]
    unavailable_value: str = Field(UNAVAILABLE, min_length=1)
    tables: dict[str, DebeziumTable]


class RestTable(TableConfig):
    """How the rows of one path of an API become a table."""

    path: str
    params: dict[str, str | bool | int | float | date | datetime] = Field({}, repr=False)
    data_selector: Dotted = ""
    paginator: Paginator = SinglePage()
    max_pages: int = Field(10_000, ge=1)
    cursor: str | None = None
    start_param: str | None = None
    types: Types = {}

    @field_validator("path")
    @classmethod
    def _is_below_the_base(cls, path: str) -> str:
        if "?" in path or "#" in path or "://" in path:
            raise ValueError("write what follows base_url, like /payments; parameters go into params")
        return path

    @property
    def declared_types(self) -> Mapping[str, str]:
        return self.types

    @property
    def cursor_column(self) -> str | None:
        return self.cursor

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.mode not in {"full", "incremental"}:
            yield f"an API cannot be landed by mode {self.mode}: use full or incremental"
        if self.mode == "incremental" and not (self.cursor and self.start_param):
            yield "mode incremental needs a cursor and a start_param: what grows, and the parameter to ask from it"
        if self.mode != "incremental" and (self.cursor or self.start_param):
            yield f"cursor and start_param mean nothing to mode {self.mode}"
        if self.write_pattern == "append":
            yield "an API cannot append: rows at the watermark are read again; write by merge"


class RestSource(SourceConfig):
    """An HTTP API and the tables landed from it."""

    retries_requests: ClassVar[bool] = True

    type: Literal["rest"]
    base_url: Url
    auth: Auth | None = None
    headers: dict[HeaderText, HeaderText] = Field({}, repr=False)
    connect_timeout: Duration = timedelta(seconds=10)
    read_timeout: Duration = timedelta(seconds=60)
    tables: dict[str, RestTable]


Source = Annotated[PostgresSource | FilesSource | DebeziumSource | RestSource, Field(discriminator="type")]


class Warehouse(Section):
    """The DuckDB file, and how long a run waits for another process to release it."""

    path: Path = Path("warehouse.duckdb")
    lock_timeout: Duration = timedelta(minutes=1)


class DeadLetters(Section):
    """A JSON-lines file that mirrors the dead letters, relative to the project."""

    path: Path | None = None


class Config(Section):
    """The whole of pyops.yml."""

    warehouse: Warehouse = Warehouse()
    dead_letters: DeadLetters = DeadLetters()
    sources: dict[str, Source]
