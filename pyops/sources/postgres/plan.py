"""What an extraction asks of PostgreSQL and does to the target. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pyops.config.project import Table
from pyops.errors import OperationError, UsageError
from pyops.records import CHANGE_COLUMNS, PLACE_COLUMNS, RESERVED_COLUMNS, Watermark
from pyops.sources.postgres.catalog import Column, TableShape
from pyops.sources.protocol import Plan, Request, WritePattern
from pyops.sql import identifier, literal
from pyops.staging.columns import ColumnMapping, clash
from pyops.staging.postgres_types import as_text, mapping_of, masked
from pyops.warehouse.protocol import Append, ByDays, ByKey, Commit, Scope, TableState, WatermarkChange, Whole, Write
from pyops.warehouse.schema import BATCH_HINT, compare, refuse

DEFAULT_LOOKBACK = timedelta(minutes=5)

# Where summer time ends, an hour comes twice: a cursor without a time zone falls back by it, so what is
# younger than that may still get company below it.
_OVERLAP = """(
    SELECT interval '65 minutes' * (count(DISTINCT d AT TIME ZONE {zone} - (d AT TIME ZONE 'UTC')) > 1)::int
    FROM generate_series(now(), now() + interval '1 year', interval '1 month') AS d
)"""
_TIMES = {"timestamp", "timestamptz"}
_INTEGERS = {"int2", "int4", "int8"}
_TEXTS = {"text", "varchar"}
_CURSORS = _TIMES | _INTEGERS | _TEXTS | {"date", "numeric"}


@dataclass(frozen=True)
class Cursor:
    """The SQL of a watermark's column."""

    column: str
    value: str  # what is compared
    bound: str  # casts a bound's text, for which ``{}`` stands, to its type
    lookback: str = ""
    less: str = "{} - {}::interval"  # a bound less the lookback
    clock: str = ""  # the condition for values that may become the watermark

    @property
    def reached(self) -> str:
        return self.bound.format("current_setting('pyops.lower')")

    def least(self) -> str:
        """What is read from: the bound, less the lookback."""
        back = "current_setting('pyops.lookback')"
        return self.less.format(self.reached, back) if self.lookback else self.reached

    def lower(self) -> str:
        return f"{self.value} >= {self.least()}"

    def upper(self) -> str:
        bound = self.bound.format("current_setting('pyops.upper')")
        return f"{self.value} < {bound}"


@dataclass(frozen=True)
class PostgresPlan(Plan):
    """One table's extraction."""

    shape: TableShape | None = None
    mappings: Mapping[str, ColumnMapping] = field(default_factory=dict)
    request: Request = field(default_factory=Request)
    cursor: Cursor | None = None
    stored: Watermark = field(default_factory=Watermark)  # before the run
    mark: Watermark | None = None  # after it
    last_load: int = 0
    landed_as: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)  # for ``current_setting('pyops...')``

    @property
    def lands_below_bound(self) -> bool:
        """Whether only rows are landed that no later run can read again."""
        return self.table.config.write_pattern == "append"

    def is_wide_number(self, name: str) -> bool:
        """Whether a column is a numeric that is kept as text: it has another order than its text."""
        column = self.shape.column(name) if self.shape else None
        is_numeric = column is not None and (column.type.name, column.type.element) == ("numeric", None)
        return is_numeric and self.mappings[name].warehouse == "VARCHAR"

    @property
    def source_name(self) -> str:
        assert self.shape is not None
        return self.shape.qualified

    def marked(self, mark: Watermark | None) -> "PostgresPlan":
        """The plan with its query, given the watermark after the run."""
        upper = (mark and mark.bound) or ""
        return replace(
            self,
            mark=mark,
            asks=self._query(mark),
            lower_bound=self.stored.bound if self.cursor else None,
            upper_bound=upper or None,
            settings={**self.settings, "upper": upper},
        )

    def _query(self, mark: Watermark | None) -> str:
        selected = ", ".join(f"{item.select} AS {identifier(name)}" for name, item in self.mappings.items())
        statement = f"SELECT {selected} FROM {self.source_name}"
        conditions = []
        if self.request.days is not None:
            column = identifier(_days_column(self.table))
            conditions += [
                f"{column} >= current_setting('pyops.first')::date",
                f"{column} < current_setting('pyops.end')::date",
            ]
        elif self.cursor is not None:
            if self.stored.bound is not None:
                conditions.append(self.cursor.lower())
            if self.lands_below_bound:
                conditions.append(self.cursor.upper() if mark and mark.bound else "false")
            elif conditions:
                conditions[-1] += f" OR {self.cursor.value} IS NULL"
        return statement + (f" WHERE {' AND '.join(conditions)}" if conditions else "")

    @property
    def largest(self) -> str:
        """The query for the largest cursor that may become a watermark."""
        cursor = self.cursor
        assert cursor is not None
        conditions = [cursor.clock] if cursor.clock else []
        if self.stored.bound is not None:
            conditions.append(f"{cursor.value} >= {cursor.reached}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {as_text(f'max({cursor.value})')} FROM {self.source_name}{where}"

    @property
    def fell(self) -> str:
        """The query that says whether every cursor is below what was read already; None for no row."""
        assert self.cursor is not None
        return f"SELECT max({self.cursor.value}) < {self.cursor.least()} FROM {self.source_name}"

    @property
    def null_cursors(self) -> str:
        """The query that counts the rows without a cursor, where those must not be; else empty."""
        config = self.table.postgres
        policy = config.on_null_cursor or ("fail" if self.lands_below_bound else "include")
        if self.cursor is None or policy == "include":
            return ""
        column = identifier(self.cursor.column)
        return f"SELECT count(*) FROM {self.source_name} WHERE {column} IS NULL"

    @property
    def without_day(self) -> str:
        """The query that counts the rows that no run of days reads; empty for another run."""
        column = identifier(_days_column(self.table))
        return f"SELECT count(*) FROM {self.source_name} WHERE {column} IS NULL" if self.request.days else ""

    def commit(self) -> Commit:
        config = self.table.config
        watermark = None
        if self.cursor is not None and self.mark is not None:
            watermark = WatermarkChange(self.cursor.column, self.mark)
        elif self.write == "swap":
            watermark = WatermarkChange()
        scope = self._scope()
        columns = {name: mapping.warehouse for name, mapping in self.mappings.items()}
        key = config.primary_key
        write = Write(
            *(self.table, columns, scope),
            key=key,
            supersedes=scope if isinstance(scope, Whole) else ByKey(key),
            may_evolve=config.on_schema_change == "evolve" or self.request.full_refresh,
            expects_load=None if self.request.days else self.last_load,
            watermark=watermark,
            landed_as=self.landed_as,
            adopts=config.adopt,
        )
        return Commit((write,))

    def _scope(self) -> Scope:
        config, days = self.table.config, self.request.days
        if self.write in {"append", "swap"}:
            return Append() if self.write == "append" else Whole(swap=True)
        if config.replaces_by_key:
            return ByKey(config.primary_key, skips_unchanged=self.write == "merge")
        if days is not None:
            return ByDays(_days_column(self.table), str(days.first), str(days.end))
        return Whole(swap=False)


def plan(table: Table, shape: TableShape, state: TableState, request: Request, *, salt: str = "") -> PostgresPlan:
    """Plans the extraction of a table; its query follows once the watermark is known."""
    config = table.postgres
    mappings = table_mappings(table, shape)
    columns = {name: item.warehouse for name, item in mappings.items()}
    if state.columns and config.on_schema_change == "fail" and not request.full_refresh:
        refuse(table, compare(state.columns, columns, keep=False), hint=BATCH_HINT)
    if config.mode in {"incremental", "partition"} and state.columns and not request.full_refresh:
        table.refuse_changes(state.landed_as, salt)
    settings = {"mask_salt": salt} if config.mask else {}
    write: WritePattern = "swap" if request.full_refresh else config.write_pattern
    planned = PostgresPlan(table, write, estimated_rows=shape.estimated_rows, shape=shape)
    planned = replace(planned, mappings=mappings, request=request, settings=settings)
    planned = replace(planned, last_load=state.last_load, landed_as=table.landed_as(salt))
    if (days := request.days) is not None:
        _check_days(table, shape, full_refresh=request.full_refresh)
        return replace(planned, settings=settings | {"first": str(days.first), "end": str(days.end)})
    if config.mode != "incremental":
        return planned
    if not request.full_refresh:
        _check_watermark(table, state)
    column = shape.column(config.cursor or "")
    assert column is not None
    cursor = _cursor(table, column)
    stored = Watermark() if request.full_refresh else state.watermark
    settings |= {"lower": stored.bound} if stored.bound is not None else {}
    settings |= {"lookback": cursor.lookback} if cursor.lookback else {}
    return replace(planned, cursor=cursor, stored=stored, settings=settings)


def _check_watermark(table: Table, state: TableState) -> None:
    config = table.postgres
    table.refuse_other_cursor(state.cursor)
    if config.write_pattern == "append" and state.rows and state.cursor is None:
        raise UsageError(
            f"{table}: {'.'.join(table.target)} has rows that no watermark accounts for, and"
            " append would add them again",
            hint="run it once with --full-refresh",
        )


def table_mappings(table: Table, shape: TableShape) -> dict[str, ColumnMapping]:
    """How each column of a table is mapped, in order; one that cannot be landed is an error."""
    config = table.postgres
    there = [column.name for column in shape.columns]
    named = [*config.columns, *config.exclude, *config.mask, *config.primary_key]
    table.require([*named, config.cursor, config.partition_by], there, "at the source")
    wanted = [column for column in shape.columns if config.lands(column.name)]
    if not wanted:
        raise OperationError(f"{table}: no column is left to land", hint="see columns, exclude")
    refuse_names(table, [column.name for column in wanted])
    return {
        column.name: masked(column.name, "pyops.mask_salt")
        if column.name in config.mask
        else mapping_of(column.name, column.type)
        for column in wanted
    }


def reserved_names(table: Table) -> list[str]:
    return [*RESERVED_COLUMNS, *PLACE_COLUMNS, *(CHANGE_COLUMNS if table.config.mode == "cdc" else ())]


def refuse_names(table: Table, names: Sequence[str]) -> None:
    """Refuses columns whose names cannot stand beside the others in the warehouse."""
    if found := clash(names, reserved_names(table)):
        raise OperationError(
            f"{table}: column {found[0]} cannot be landed: {found[1]}",
            hint=f"leave it out with exclude: [{found[0]}], or read a view that renames it",
        )


def _cursor(table: Table, column: Column) -> Cursor:
    kind = column.type.name
    if kind not in _CURSORS or column.type.element is not None:
        raise UsageError(
            f"{table}: a cursor cannot be of type {column.sql_type}",
            hint="it can be an integer, a numeric, a date, a timestamp, or a text like a ULID",
        )
    lookback = _lookback(table, kind, column.sql_type)
    value = identifier(column.name)
    bound, less, clock = f"{{}}::{column.sql_type}", "{} - {}::interval", ""
    if kind in _TEXTS:
        # The order of bytes: that of ULIDs, and no other depends on no library's version.
        value, bound = f'{value} COLLATE "C"', "{}"
    elif kind == "timestamptz":
        clock = f"{value} <= now()"
    elif kind == "timestamp":
        clock = f"{value} <= {_local(table)} - {_OVERLAP.format(zone=_zone(table))}"
    elif kind == "date":
        clock = f"{value} <= ({_local(table)})::date"
    elif kind == "numeric":
        clock, less = f"{value} < 'Infinity'::numeric", "{} - {}::numeric"  # NaN is beyond it
    else:  # which ends at the type's smallest number
        less = f"greatest({{}}::numeric - {{}}::numeric, {-(2**63)})::bigint"
    return Cursor(column.name, value, bound, lookback, less, clock)


def _zone(table: Table) -> str:
    """The SQL of the time zone that timestamps without one are in."""
    default = "(SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"  # of database or role
    return literal(table.postgres.timezone) if table.postgres.timezone else default


def _local(table: Table) -> str:
    return f"(now() AT TIME ZONE {_zone(table)})"


def _lookback(table: Table, kind: str, sql_type: str) -> str:
    """The lookback's text; empty for none."""
    lookback = table.postgres.lookback
    if lookback is None:
        if kind not in _TIMES or table.postgres.write_pattern == "append":
            return ""
        lookback = DEFAULT_LOOKBACK
    is_time = kind in _TIMES or kind == "date"
    is_whole = not isinstance(lookback, float) or kind == "numeric"
    if kind in _TEXTS or isinstance(lookback, timedelta) != is_time or not is_whole:
        wanted = "a text has none" if kind in _TEXTS else "a duration" if is_time else "a number"
        raise UsageError(
            f"{table}: the lookback does not fit a cursor of type {sql_type}", hint=f"what fits it: {wanted}"
        )
    if isinstance(lookback, timedelta):
        return f"{lookback.total_seconds()} seconds" if lookback else ""
    return str(lookback) if lookback else ""


def _days_column(table: Table) -> str:
    return table.postgres.partition_by or table.postgres.cursor or ""


def _check_days(table: Table, shape: TableShape, *, full_refresh: bool) -> None:
    config = table.postgres
    column = shape.column(_days_column(table))
    if full_refresh:
        raise UsageError("--full-refresh and a range of days exclude each other")
    problem, hint = "", "--date, --from and --to choose days"
    if config.mode == "full":
        problem, hint = "mode full has no days to choose from", "leave them out, or give it mode partition"
    elif config.write_pattern == "append":
        problem, hint = "append would add the rows of those days again", "write by merge or delete_insert"
    elif column is None or column.type.name not in {*_TIMES, "date"} or column.type.element:
        problem = f"{_days_column(table)} is no date and no timestamp"
    if problem:
        raise UsageError(f"{table}: {problem}", hint=hint)
