"""pyops.yml: what to land, from where, how. Reading it touches no server and no warehouse."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pyops.config.units import duration, size
from pyops.errors import UsageError
from pyops.staging.casts import check_type
from pyops.staging.connect_types import UNAVAILABLE
from pyops.staging.connect_types import check_type as check_connect_type

Mode = Literal["full", "incremental", "partition", "cdc"]
Write = Literal["append", "delete_insert", "merge", "swap"]

WRITES: Mapping[Mode, tuple[Write, ...]] = {  # the first is the default
    "full": ("swap", "merge", "delete_insert"),
    "incremental": ("merge", "append", "delete_insert"),
    "partition": ("delete_insert",),
    "cdc": ("append",),
}


def _duration(value: object) -> object:
    return duration(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _types(check: Callable[[str], str]) -> Callable[[dict[str, str]], dict[str, str]]:
    def normalized(types: dict[str, str]) -> dict[str, str]:
        try:
            return {name: check(type_) for name, type_ in types.items()}
        except UsageError as error:
            raise ValueError(f"{error}; {error.hint}") from None

    return normalized


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Lookback = Annotated[timedelta | int | float, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(lambda value: size(str(value)))]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Types = Annotated[dict[str, str], AfterValidator(_types(check_type))]
ConnectTypes = Annotated[dict[str, str], AfterValidator(_types(check_connect_type))]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


OnFail = Literal["fail", "warn", "dead_letter"]
_T = TypeVar("_T")


def _limit(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"invalid number {str(value).lower()!r}")  # noqa: TRY004 (for pydantic)
    return _under("threshold", value)


def _under(key: str, value: object) -> object:
    return value if isinstance(value, dict | BaseModel) else {key: value}


class Limit(_Section, Generic[_T]):
    """A gate's threshold, and what happens beyond it if that is not the table's ``on_fail``."""

    threshold: _T
    on_fail: OnFail | None = None


class Expectation(_Section):
    """A condition in SQL that every row must meet; NULL meets it, as in SQL's CHECK."""

    check: str = Field(min_length=1)
    on_fail: OnFail | None = None


class Reference(_Section):
    """The warehouse column, ``schema.table.column``, in which a column's values must be found."""

    to: str
    on_fail: OnFail | None = None

    @field_validator("to")
    @classmethod
    def _has_three_parts(cls, value: str) -> str:
        if not re.fullmatch(r"[^.]+\.[^.]+\.[^.]+", value):
            raise ValueError(f"invalid reference {value!r}: write schema, table and column, like raw.users.id")
        return value

    @property
    def table(self) -> tuple[str, str]:
        schema, name, _ = self.to.split(".")
        return schema, name

    @property
    def column(self) -> str:
        return self.to.rpartition(".")[2]


_Rate = Annotated[float, Field(ge=0, le=1)]
_MaxRate = Annotated[Limit[_Rate], BeforeValidator(_limit)]
_MaxAge = Annotated[Limit[Duration], BeforeValidator(_limit)]
_MinRows = Annotated[Limit[Annotated[int, Field(ge=0)]], BeforeValidator(_limit)]
_Within = Annotated[Limit[Annotated[float, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(_limit)]
_Expect = Annotated[Expectation, BeforeValidator(lambda value: _under("check", value))]
_Reference = Annotated[Reference, BeforeValidator(lambda value: _under("to", value))]


class Gates(_Section):
    """What staged rows must pass; a gate is a threshold, or a mapping with ``on_fail``."""

    min_rows: _MinRows | None = None
    max_null_rate: dict[str, _MaxRate] = {}
    max_duplicate_rate: dict[str, _MaxRate] = {}
    max_age: dict[str, _MaxAge] = {}
    row_count_within: _Within | None = None
    expect: dict[str, _Expect] = {}
    references: dict[str, _Reference] = {}
    on_fail: OnFail = "fail"

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        of_all_rows: dict[str, Iterable[Limit[Any] | None]] = {
            "min_rows": [self.min_rows],
            "max_duplicate_rate": self.max_duplicate_rate.values(),
            "max_age": self.max_age.values(),
            "row_count_within": [self.row_count_within],
        }
        for gate, limits in of_all_rows.items():
            if any(limit and (limit.on_fail or self.on_fail) == "dead_letter" for limit in limits):
                raise ValueError(
                    f"{gate} cannot dead_letter: it judges all rows together;"
                    " give it its own on_fail: {threshold: ..., on_fail: fail}"
                )
        for columns in self.max_duplicate_rate:
            if not all(split_columns(columns)):
                raise ValueError(f"max_duplicate_rate: invalid columns {columns!r}: join names by commas")
        return self


def split_columns(names: str) -> list[str]:
    """The column names that are joined by commas."""
    return [name.strip() for name in names.split(",")]


class TableConfig(_Section):
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


class SourceConfig(_Section):
    """What a source of any kind has, beside its ``tables``; ``type`` is its kind."""

    has_changes: ClassVar[bool] = False  # whether its tables may have mode cdc
    has_slot: ClassVar[bool] = False  # whether these come from a replication slot
    replay_hint: ClassVar[str] = ""  # what to do with a dead letter of mode cdc

    type: str
    mask_salt: str = Field("", repr=False)


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


Source = Annotated[PostgresSource | FilesSource | DebeziumSource, Field(discriminator="type")]


class Warehouse(_Section):
    """The DuckDB file, and how long a run waits for another process to release it."""

    path: Path = Path("warehouse.duckdb")
    lock_timeout: Duration = timedelta(minutes=1)


class DeadLetters(_Section):
    """A JSON-lines file that mirrors the dead letters, relative to the project."""

    path: Path | None = None


class Config(_Section):
    """The whole of pyops.yml."""

    warehouse: Warehouse = Warehouse()
    dead_letters: DeadLetters = DeadLetters()
    sources: dict[str, Source]
