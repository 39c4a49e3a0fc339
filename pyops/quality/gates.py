"""Gates: what staged rows must pass before they are published, as figures that DuckDB computes.

``evaluate`` says how each came out and changes nothing: the caller publishes, or does not, or moves the rows of
``dead_letter_rules`` to the dead letters. A condition that is NULL for a row is not broken by it, as in SQL's CHECK.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import duckdb

from pyops.config.thresholds import Gates, Limit, OnFail, split_columns
from pyops.errors import DataError, UsageError
from pyops.quality.expressions import (
    VALUE_ERRORS,
    described,
    existing,
    is_broken,
    is_dangling,
    is_null,
    one_line,
    require_condition,
    typed,
)
from pyops.records import GateResult, GateStatus
from pyops.sql import columns as listed
from pyops.sql import identifier, literal
from pyops.warehouse.bookkeeping import columns_of
from pyops.words import did_you_mean

CHECKS: Mapping[str, tuple[str, ...]] = {  # families of gates, as `--check` calls them
    "rows": ("min_rows", "row_count_within"), "nulls": ("max_null_rate",),
    "duplicates": ("max_duplicate_rate",), "freshness": ("max_age",),
    "expectations": ("expect",), "references": ("references",),
}  # fmt: skip
RUNS_COMPARED = 10  # how many runs the median of row_count_within is of, at most,
_RUNS_NEEDED = 3  # and at least
_Of = tuple[str, str, Limit[Any]]  # a gate, its column or name, and its limit
DeadLetterRule = tuple[str, str, str]  # the SQL condition for rows, the column, and why


def evaluate(
    connection: duckdb.DuckDBPyConnection,
    gates: Gates,
    *,
    rows: str = "rows",
    history: Sequence[int],
    now: datetime,
    checks: Collection[str] = (),
) -> list[GateResult]:
    """Evaluates gates on staged rows; one result for each gate and column, passed ones too.

    ``history`` has how many rows the last successful runs had, the newest first; ``now`` is naive
    UTC; ``checks`` chooses families of gates. A gate that does not fit the table, or an invalid
    expectation, is a UsageError; one that cannot be computed for some row a DataError.
    """
    for name in checks:
        if name not in CHECKS:
            hint = did_you_mean(name, list(CHECKS)) or f"checks are: {', '.join(CHECKS)}"
            raise UsageError(f"there is no check {name!r}", hint=hint)
    left_out = {
        gate: Gates.model_fields[gate].default
        for name, family in CHECKS.items()
        for gate in family
        if checks and name not in checks
    }
    return _Evaluation(connection, gates.model_copy(update=left_out), rows).results(history, now)


def dead_letter_rules(gates: Gates, results: Sequence[GateResult]) -> list[DeadLetterRule]:
    """The rows that become dead letters: those that failed a gate which asks for that."""
    rules = []
    for result in results:
        if result.status != "dead_lettered":
            continue
        name = result.column_name
        if result.gate == "max_null_rate":
            rules.append((is_null(name), name, "it is NULL, above the gate's limit"))
        elif result.gate == "expect":
            text = gates.expect[name].check
            rules.append((is_broken(text), "", f"it breaks the expectation {name}: {one_line(text)}"))
        elif result.gate == "references":
            to = gates.references[name]
            rules.append((is_dangling(name, to), name, f"its value is not in {to.to}"))
    return rules


class _Evaluation:
    """Gates evaluated on one table."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, gates: Gates, rows: str) -> None:
        self.connection = connection
        self.gates = gates
        self.table = identifier(rows)
        self.count = 0

    def results(self, history: Sequence[int], now: datetime) -> list[GateResult]:
        if self.gates == Gates(on_fail=self.gates.on_fail):
            return []
        self.columns = described(self.connection, self.table)
        for gate in ("max_null_rate", "max_age", "references"):
            for column in getattr(self.gates, gate):
                existing(gate, column, self.columns)
        found = self._aggregates()
        self.count = found["", ""]
        return [
            *self._row_counts(history),
            *(self._nulls(name, found["max_null_rate", name]) for name in self.gates.max_null_rate),
            *(self._duplicates(names) for names in self.gates.max_duplicate_rate),
            *(self._age(name, found["max_age", name], now) for name in self.gates.max_age),
            *(self._expectation(name, found["expect", name]) for name in self.gates.expect),
            *(self._reference(name) for name in self.gates.references),
        ]

    def _aggregates(self) -> dict[tuple[str, str], Any]:
        """All that one scan can count, by gate and column."""
        wanted = {("", ""): "count(*)"}
        for name in self.gates.max_null_rate:
            wanted["max_null_rate", name] = f"count(*) FILTER (WHERE {is_null(name)})"
        for name in self.gates.max_age:
            wanted["max_age", name] = self._newest(name)
        for name, expectation in self.gates.expect.items():
            require_condition(self.connection, self.table, name, expectation.check)
            wanted["expect", name] = f"count(*) FILTER (WHERE {is_broken(expectation.check)})"
        try:
            [values] = self._all(f"SELECT {', '.join(wanted.values())} FROM {self.table}")
        except VALUE_ERRORS:
            for name in self.gates.expect:
                self._require_computable(name, wanted["expect", name])
            raise
        return dict(zip(wanted, values, strict=True))

    def _newest(self, column: str) -> str:
        """The newest finite time of a column, in microseconds since 1970."""
        type_ = typed(column, self.columns)
        if type_ not in _TIMES:
            raise UsageError(
                f"max_age: {column} is {type_}: it has no age",
                hint="name a column of dates or timestamps, or give it that type",
            )
        name = identifier(column)
        if type_ == "DATE":  # it reaches further than a timestamp
            name = f"TRY_CAST({name} AS TIMESTAMP)"
        return f"max(CASE WHEN isfinite({name}) THEN epoch_us({name}) END)"

    def _require_computable(self, name: str, aggregate: str) -> None:
        try:
            self._all(f"SELECT {aggregate} FROM {self.table}")
        except VALUE_ERRORS:
            text = one_line(self.gates.expect[name].check)
            raise DataError(  # not DuckDB's words: they hold the value
                f"expectation {name} ({text}) cannot be computed for every row",
                hint="a cast or a function fails on some value: write TRY_CAST(...) or TRY(...)",
            ) from None

    def _row_counts(self, history: Sequence[int]) -> Iterator[GateResult]:
        query = f"SELECT count(*) FROM {self.table}"
        if limit := self.gates.min_rows:
            said = f"there are {self.count:,} rows; at least {limit.threshold:,} must be"
            exceeded = self.count < limit.threshold
            yield self._result(("min_rows", "", limit), self.count, exceeded, query, said)
        if within := self.gates.row_count_within:
            past = [rows for rows in history if rows > 0][:RUNS_COMPARED]
            figure, is_off = None, None
            said = (
                f"{self.count:,} rows cannot be compared yet: there are {len(past)} earlier runs"
                f" with rows; {_RUNS_NEEDED} are needed"
            )
            if len(past) >= _RUNS_NEEDED:
                usual = median(past)
                figure = abs(self.count - usual) / usual
                is_off = figure > within.threshold
                shown, allowed = _percents(figure, within.threshold)
                said = (
                    f"{self.count:,} rows are {shown} {'fewer' if self.count < usual else 'more'}"
                    f" than {usual:,}, the median of the last {len(past)} runs with rows;"
                    f" at most {allowed} is allowed"
                )
            yield self._result(("row_count_within", "", within), figure, is_off, query, said)

    def _nulls(self, column: str, failing: int) -> GateResult:
        limit = self.gates.max_null_rate[column]
        shown, allowed = _percents(self._share(failing), limit.threshold)
        return self._rate(
            *(("max_null_rate", column, limit), failing, is_null(column)),
            f"{column} is NULL in {shown} of {self.count:,} rows; at most {allowed} may be",
        )

    def _duplicates(self, names: str) -> GateResult:
        limit, key = self.gates.max_duplicate_rate[names], split_columns(names)
        for name in key:
            existing("max_duplicate_rate", name, self.columns)
        keys = listed(key)
        there = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in key)
        [(failing,)] = self._all(
            "SELECT coalesce(sum(size) - count(*), 0)::BIGINT FROM"
            f" (SELECT count(*) AS size FROM {self.table} WHERE {there} GROUP BY {keys})"
        )
        shown, allowed = _percents(self._share(failing), limit.threshold)
        return self._rate(
            *(("max_duplicate_rate", names, limit), failing),
            f"{there} QUALIFY count(*) OVER (PARTITION BY {keys}) > 1 ORDER BY {keys}",
            f"({', '.join(key)}) has been there before in {shown} of {self.count:,} rows;"
            f" at most {allowed} may repeat it",
        )

    def _age(self, column: str, newest: int | None, now: datetime) -> GateResult:
        limit = self.gates.max_age[column]
        allowed = limit.threshold.total_seconds()
        if newest is None:
            age = None
            found = f"{column} has no value in {self.count:,} rows, so its age is not known"
        else:
            age = ((now - datetime(1970, 1, 1)) // timedelta(microseconds=1) - newest) / 1e6
            when = f"{_duration(age)} old" if age >= 0 else f"{_duration(-age)} in the future"
            found = f"the newest {column} is {when}"
        return self._result(
            *(("max_age", column, limit), age, age is None or age > allowed),
            f"SELECT * FROM {self.table} ORDER BY {identifier(column)} DESC NULLS LAST LIMIT 10",
            f"{found}; at most {_duration(allowed)} is allowed",
        )

    def _expectation(self, name: str, failing: int) -> GateResult:
        expectation = self.gates.expect[name]
        limit = Limit[float](threshold=0, on_fail=expectation.on_fail)
        return self._rate(
            *(("expect", name, limit), failing, is_broken(expectation.check)),
            f"expectation {name} ({one_line(expectation.check)}) is broken by {failing:,}"
            f" of {self.count:,} rows; none may break it",
        )

    def _reference(self, column: str) -> GateResult:
        reference = self.gates.references[column]
        limit = Limit[float](threshold=0, on_fail=reference.on_fail)
        types = columns_of(self.connection, reference.table)
        if types:
            existing(f"references: {reference.to}", reference.column, types)
            databases = "SELECT path FROM duckdb_databases() WHERE database_name = 'warehouse'"
            [(path,)] = self._all(databases)
            attach = f"ATTACH IF NOT EXISTS {literal(path)} AS warehouse (READ_ONLY); " if path else ""
            condition, absent = is_dangling(column, reference), ""
        else:
            attach, condition = None, f"{identifier(column)} IS NOT NULL"
            absent = f", as {'.'.join(reference.table)} is not in the warehouse"
            if (limit.on_fail or self.gates.on_fail) == "dead_letter":  # no row is to blame
                limit = Limit[float](threshold=0, on_fail="fail")
        try:
            [(failing,)] = self._all(f"SELECT count(*) FROM {self.table} WHERE {condition}")
        except (duckdb.BinderException, duckdb.ConversionException):
            here, there = typed(column, self.columns), typed(reference.column, types)
            raise UsageError(
                f"references: {column} is {here} and {reference.to} is {there}: they cannot be compared",
                hint="give both one type where they are landed",
            ) from None
        return self._rate(
            *(("references", column, limit), failing, condition),
            f"{column} is not in {reference.to} in {failing:,} of {self.count:,} rows{absent}; every value must be",
            attach,
        )

    def _share(self, failing: int) -> float:
        # A quotient of whole numbers is the double nearest to it, as is a threshold that was
        # written down: 3 of 300 rows are not more than 0.01.
        return failing / self.count if self.count else 0.0

    def _rate(self, of: _Of, failing: int, where: str, said: str, attach: str | None = None) -> GateResult:
        """The result of a gate on a share of rows, those that meet a condition."""
        figure, query = (self._share(failing), f"{attach or ''}SELECT * FROM {self.table} WHERE {where}")
        result = self._result(of, figure, figure > of[2].threshold, query, said)
        return replace(result, failing_rows=failing)

    def _result(self, of: _Of, figure: float | None, exceeded: bool | None, query: str, said: str) -> GateResult:
        gate, name, limit = of
        on_fail, threshold = limit.on_fail or self.gates.on_fail, limit.threshold
        if isinstance(threshold, timedelta):
            threshold = threshold.total_seconds()
        status = "skipped" if exceeded is None else _STATUS[on_fail] if exceeded else "passed"
        shown = None if figure is None else float(figure)
        return GateResult(gate, name, status, shown, float(threshold), None, on_fail, query, said)

    def _all(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, list(parameters)).fetchall()


_TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}
_TIMES |= {"TIMESTAMP WITH TIME ZONE"}
_STATUS: Mapping[OnFail, GateStatus] = {
    "fail": "failed", "warn": "warned", "dead_letter": "dead_lettered"
}  # fmt: skip


def _percents(figure: float, threshold: float) -> tuple[str, str]:
    """Two shares in percent, with the digits it takes to tell them from each other and from 0."""
    values = (figure, threshold, 0.0)
    for digits in range(2, 18):
        shown = [f"{value * 100:,.{digits}f}".rstrip("0").rstrip(".") for value in values]
        if len(set(shown)) == len(set(values)):
            break
    return f"{shown[0]} %", f"{shown[1]} %"


def _duration(seconds: float) -> str:
    """A number of seconds in the units of the configuration, like 2d 3h."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)
