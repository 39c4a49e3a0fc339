"""pyops.yml: what to land, from where, how. Reading it touches no server and no warehouse."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pyops.config.units import duration, size
from pyops.errors import UsageError
from pyops.staging.casts import check_type
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


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Lookback = Annotated[timedelta | int, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(lambda value: size(str(value)))]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


OnFail = Literal["fail", "warn", "dead_letter"]
_T = TypeVar("_T")


def _limit(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is no number")  # noqa: TRY004 (a TypeError would escape pydantic)
    return value if isinstance(value, dict | BaseModel) else {"threshold": value}


class Limit(_Section, Generic[_T]):
    """A gate's threshold, and what happens beyond it if that is not the table's ``on_fail``."""

    threshold: _T
    on_fail: OnFail | None = None


class Expectation(_Section):
    """A condition in SQL that no row may break; a NULL breaks none, as in SQL's CHECK."""

    check: str = Field(min_length=1)
    on_fail: OnFail | None = None


class Reference(_Section):
    """The column of a warehouse table, ``schema.table.column``, that has a column's values."""

    to: str
    on_fail: OnFail | None = None

    @field_validator("to")
    @classmethod
    def _has_three_parts(cls, value: str) -> str:
        if not re.fullmatch(r"[^.]+\.[^.]+\.[^.]+", value):
            raise ValueError("is a schema, a table and a column, like raw.users.id")
        return value

    @property
    def table(self) -> tuple[str, str]:
        """Schema and name of the table."""
        schema, name, _ = self.to.split(".")
        return schema, name

    @property
    def column(self) -> str:
        """The column that has the values."""
        return self.to.rpartition(".")[2]


_Rate = Annotated[float, Field(ge=0, le=1)]
_MaxRate = Annotated[Limit[_Rate], BeforeValidator(_limit)]
_MaxAge = Annotated[Limit[Duration], BeforeValidator(_limit)]
_MinRows = Annotated[Limit[Annotated[int, Field(ge=0)]], BeforeValidator(_limit)]
_Within = Annotated[
    Limit[Annotated[float, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(_limit)
]
_Expect = Annotated[
    Expectation, BeforeValidator(lambda value: {"check": value} if _is_word(value) else value)
]
_Reference = Annotated[
    Reference, BeforeValidator(lambda value: {"to": value} if _is_word(value) else value)
]


def _is_word(value: object) -> bool:
    return not isinstance(value, dict | BaseModel)


class Gates(_Section):
    """What staged rows must pass before they are published.

    Every gate is a threshold, or a mapping of ``threshold`` (``check``, ``to``) and ``on_fail``.

    Attributes:
        min_rows: How many rows must have arrived.
        max_null_rate: The largest share of rows that may have NULL in a column.
        max_duplicate_rate: The largest share of rows that may repeat another row's value in a
            column, or in several joined by commas; as in SQL's UNIQUE, a NULL repeats nothing.
        max_age: How old a column's newest date or timestamp (UTC) may be.
        row_count_within: How far from the median of the last runs' rows their number may be, as
            a share of that median; above 1 it only limits growth.
        expect: Conditions in SQL that no row may break, by name; a NULL breaks none.
        references: Where each value of a column must be found in the warehouse.
        on_fail: ``fail`` publishes nothing, ``warn`` publishes all the same, ``dead_letter``
            publishes what is left without the rows at fault, where single rows are.
    """

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
                    f"{gate} cannot dead_letter, as no single row is at fault;"
                    " give it its own on_fail: {threshold: ..., on_fail: fail}"
                )
        for columns in self.max_duplicate_rate:
            if not all(split_columns(columns)):
                raise ValueError(f"max_duplicate_rate: {columns!r} names no columns, like id, line")
        return self


def split_columns(names: str) -> list[str]:
    """The column names that are joined by commas."""
    return [name.strip() for name in names.split(",")]


class TableConfig(_Section):
    """How one table is landed, whatever its source.

    Attributes:
        mode: ``full`` reads the table whole, ``incremental`` what lies beyond its watermark,
            ``partition`` the days it is asked for, ``cdc`` every committed change.
        write: How the load is written to the target; the default follows the mode.
        target: Where it lands, ``schema.table``; ``raw.<table>`` if not given. Changes land in
            the table of this name with ``__changes`` behind it.
        primary_key: What identifies a row.
        partition_by: The column whose days are replaced (``partition``).
        columns: The only columns to land; all if empty.
        exclude: Columns that never leave the source.
        mask: Columns that leave the source only as a hash.
        on_schema_change: ``evolve`` follows the source's columns, ``fail`` stops before reading.
        max_dead_letter_rate: Beyond this share of dead letters the load fails.
        retention: How long a change log keeps single changes; ``compact`` folds older ones.
        gates: What staged rows must pass before they are published.
    """

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
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.write is not None and self.write not in WRITES[self.mode]:
            allowed = ", ".join(WRITES[self.mode])
            yield f"mode {self.mode} cannot write by {self.write}; it can by: {allowed}"
        if (self.mode == "partition") != (self.partition_by is not None):
            yield "mode partition and partition_by go together: the column whose days are replaced"
        if self.replaces_by_key and not self.primary_key:
            yield (
                f"{self.write_pattern} needs a primary_key: without one it could only append,"
                " and a row read twice would be there twice"
            )
        if self.columns and self.exclude:
            yield "columns and exclude are two ways to say one thing: keep one"
        needed = {*self.primary_key, *self._ordering_columns}
        if lost := sorted(needed & set(self.exclude) or (needed - set(self.columns or needed))):
            yield f"the load itself needs column {', '.join(lost)}: it cannot be left out"
        if hidden := sorted(self._ordering_columns & set(self.mask)):
            yield f"column {', '.join(hidden)} orders the load: it cannot be masked"
        if self.mode == "cdc" and self.gates != Gates():
            yield (
                "mode cdc has no gates: to hold changes back would fill the source's disk;"
                " test the models that are built from them"
            )
        if self.mode == "cdc" and "max_dead_letter_rate" in self.model_fields_set:
            yield "mode cdc has no max_dead_letter_rate: no change may hold the others back"
        if self.mode != "cdc" and self.retention is not None:
            yield f"mode {self.mode} has no log of changes: retention means nothing to it"
        if self.target is not None and not re.fullmatch(r"[^.]+\.[^.]+", self.target):
            yield "target is a schema and a table, like raw.orders"
        elif self.target is not None and self.target.lower().startswith("pyops."):
            yield "schema pyops holds what pyops notes for itself: choose another for target"

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

    @property
    def write_pattern(self) -> Write:
        """The write pattern, chosen or following the mode."""
        return self.write or WRITES[self.mode][0]

    @property
    def replaces_by_key(self) -> bool:
        """Whether a load replaces the rows that have its keys, rather than days or everything."""
        return self.write_pattern == "merge" or (
            self.write_pattern == "delete_insert" and self.mode == "incremental"
        )


class SourceConfig(_Section):
    """What a source of any kind has, beside its ``tables``; ``type`` is its kind."""

    type: str
    mask_salt: str = Field("", repr=False)


class PostgresTable(TableConfig):
    """How one PostgreSQL table is landed.

    Attributes:
        schema_: The table's schema at the source.
        cursor: The column whose growth tells what is new (``incremental``).
        lookback: How far below the watermark every run reads again: a duration for cursors that
            are times, a number for those that are numbers.
        on_null_cursor: Rows without a cursor are read by every run, or fail it.
    """

    schema_: str = Field("public", alias="schema")
    cursor: str | None = None
    lookback: Lookback | None = None
    on_null_cursor: Literal["include", "fail"] | None = None

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.mode == "incremental" and self.cursor is None:
            yield "mode incremental needs a cursor: the column that grows with every change"
        if self.mode != "incremental" and (self.cursor or self.lookback or self.on_null_cursor):
            yield f"cursor, lookback and on_null_cursor mean nothing to mode {self.mode}"
        if self.write_pattern == "append" and self.lookback is not None:
            yield "append takes no lookback: what is read twice would be there twice"
        if self.write_pattern == "append" and self.on_null_cursor == "include":
            yield "append cannot include rows without a cursor: every run would add them again"

    @property
    def cursor_column(self) -> str | None:
        """The column whose growth tells what is new, if there is one."""
        return self.cursor


class PostgresSource(SourceConfig):
    """A PostgreSQL database and the tables landed from it.

    Attributes:
        dsn: libpq's URI or keywords; ``demo`` is the embedded server.
        mask_salt: What masked values are hashed with: without one, guessing undoes the hash.
        slot: The replication slot of its cdc tables; ``pyops_<source>``, made by the first run,
            if not given. One that is named may have been made by somebody else.
        publication: The publications of its cdc tables, made and kept by somebody else;
            ``pyops_<source>``, made by the first run, if not given.
        fail_if_lag: How many bytes behind the source its slot may be before ``status`` fails.
    """

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
            raise ValueError("is no name of a slot: a-z, 0-9 and _ are allowed, 63 of them at most")
        return name

    @field_validator("publication")
    @classmethod
    def _has_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(0 < len(name.encode()) < 64 for name in names):
            raise ValueError("has a name that is empty, or longer than 63 bytes")
        return names


def _checked(types: dict[str, str], check: Callable[[str], str]) -> dict[str, str]:
    try:
        return {name: check(type_) for name, type_ in types.items()}
    except UsageError as error:
        raise ValueError(f"{error}; {error.hint}") from None


class FilesTable(TableConfig):
    """How files become a table.

    Attributes:
        path: Where they are, relative to the project: a path, a glob, with ``{date}`` in it for
            mode ``partition``. A further ``.gz`` or ``.zst`` says that they are compressed.
        format: What they hold.
        types: The DuckDB type of a column, by name; what is not named lands as the text it is.
    """

    path: str
    format: Literal["csv", "jsonl", "json", "parquet"]
    types: dict[str, str] = {}

    @field_validator("types")
    @classmethod
    def _normalized(cls, types: dict[str, str]) -> dict[str, str]:
        return _checked(types, check_type)

    @property
    def declared_types(self) -> Mapping[str, str]:
        """The types that the configuration gives to columns, by name."""
        return self.types

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.types and self.format == "parquet":
            yield "parquet files have types of their own: leave out types"
        if self.mode in {"incremental", "cdc"}:
            yield (
                f"files know no {'cursor' if self.mode == 'incremental' else 'change log'}:"
                " give them mode full or partition"
            )
        if (self.mode == "partition") != ("{date}" in self.path):
            yield "mode partition and a {date} in the path go together: they say whose day it is"


class FilesSource(SourceConfig):
    """Files and the tables landed from them.

    Attributes:
        mask_salt: What masked values are hashed with: without one, guessing undoes the hash.
    """

    type: Literal["files"]
    tables: dict[str, FilesTable]


class DebeziumTable(TableConfig):
    """How Debezium's change events become a log of changes.

    Attributes:
        path: The files, relative to the project: a path or glob of JSON lines. A further ``.gz``
            or ``.zst`` says that they are compressed.
        events_of: The table at the source, as ``table``, ``schema.table`` or
            ``database.schema.table``; events of others are left out. If not given, it is the
            table's own name, and an event of another one is a dead letter.
        types: The type of a column by name, DuckDB's or one of Debezium's, for events without a
            schema; what is not named lands as the text it is.
    """

    mode: Literal["cdc"] = "cdc"
    path: str
    events_of: str | None = None
    types: dict[str, str] = {}

    @field_validator("types")
    @classmethod
    def _normalized(cls, types: dict[str, str]) -> dict[str, str]:
        return _checked(types, check_connect_type)

    @property
    def declared_types(self) -> Mapping[str, str]:
        """The types that the configuration gives to columns, by name."""
        return self.types

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.retention is not None and not self.primary_key:
            yield "retention needs a primary_key: changes are folded into one row a key"


class DebeziumSource(SourceConfig):
    """Files of Debezium's change events and the tables landed from them.

    Attributes:
        mask_salt: What masked values are hashed with: without one, guessing undoes the hash.
    """

    type: Literal["debezium"]
    tables: dict[str, DebeziumTable]


Source = Annotated[PostgresSource | FilesSource | DebeziumSource, Field(discriminator="type")]


class Warehouse(_Section):
    """The DuckDB file, and how long a run waits for whoever holds it."""

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
