"""Gates: what they find in staged rows, and what is said of gates that cannot be.

Behaviour 38.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyops import UsageError, load
from pyops.config.thresholds import Gates
from pyops.errors import DataError
from pyops.quality.gates import CHECKS, dead_letter_rules, evaluate
from pyops.records import GateResult
from tests.pyops.conftest import examples

NOW = datetime(2024, 5, 10, 12)
EVENTS = """
    CREATE TABLE rows AS SELECT * FROM (VALUES
        (1, 10, 2, TIMESTAMP '2024-05-08 09:00:00', 'a', NULL),
        (2, 20, 0, TIMESTAMP '2024-05-09 11:00:00', 'b', NULL),
        (2, NULL, NULL, NULL, 'c', NULL),
        (4, 99, -1, TIMESTAMP '2024-05-01 00:00:00', 'd', NULL)
    ) AS t (event_id, user_id, quantity, event_at, "odd ""name", _fault)
"""


@pytest.fixture
def staging() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(EVENTS)
        yield connection


@pytest.fixture
def with_users(staging: duckdb.DuckDBPyConnection, tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """The staging file, with a warehouse attached that holds users 10 and 20, and a NULL."""
    path = tmp_path / "it's.duckdb"
    staging.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS warehouse")
    staging.execute("CREATE SCHEMA warehouse.raw")
    staging.execute("CREATE TABLE warehouse.raw.users AS SELECT unnest([10, 20, NULL]) AS id, 'x' AS name")
    return staging


def results(
    connection: duckdb.DuckDBPyConnection, *, history: Sequence[int] = (), checks: Collection[str] = (), **gates: Any
) -> list[GateResult]:
    asked = Gates.model_validate(gates)
    return evaluate(connection, asked, history=history, now=NOW, checks=checks)


def result(connection: duckdb.DuckDBPyConnection, **gates: Any) -> GateResult:
    [found] = results(connection, **gates)
    return found


def test_null_rate_above_its_threshold_fails_and_names_column_figure_and_threshold(
    staging: duckdb.DuckDBPyConnection,
) -> None:
    """Behaviour 38."""
    found = result(staging, max_null_rate={"user_id": 0.01})
    assert (found.gate, found.column_name, found.status) == ("max_null_rate", "user_id", "failed")
    assert (found.figure, found.threshold, found.failing_rows) == (0.25, 0.01, 1)
    assert found.message == "user_id is NULL in 25 % of 4 rows; at most 1 % may be"
    assert len(staging.execute(found.query).fetchall()) == 1


def test_rate_that_equals_its_threshold_passes(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute("CREATE OR REPLACE TABLE rows AS SELECT nullif(range % 100, 0) AS a FROM range(300)")
    found = result(staging, max_null_rate={"a": 0.01})
    assert (found.status, found.failing_rows) == ("passed", 3)
    assert found.message == "a is NULL in 1 % of 300 rows; at most 1 % may be"


def test_figure_just_above_its_threshold_is_not_shown_as_equal_to_it(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute(
        "CREATE OR REPLACE TABLE rows AS SELECT CASE WHEN range > 10000 THEN 1 END AS a FROM range(1000000)"
    )
    found = result(staging, max_null_rate={"a": 0.01})
    assert found.message == "a is NULL in 1.0001 % of 1,000,000 rows; at most 1 % may be"


def test_duplicates_are_rows_beyond_the_first_with_their_value(staging: duckdb.DuckDBPyConnection) -> None:
    """Behaviour 38."""
    found = result(staging, max_duplicate_rate={"event_id": 0.001})
    assert (found.status, found.figure, found.failing_rows) == ("failed", 0.25, 1)
    assert found.message == ("(event_id) has been there before in 25 % of 4 rows; at most 0.1 % may repeat it")
    assert [row[0] for row in staging.execute(found.query).fetchall()] == [2, 2]


def test_duplicates_of_several_columns_leave_out_rows_with_a_null_in_one(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute("CREATE OR REPLACE TABLE rows (a INTEGER, b VARCHAR)")
    staging.execute("INSERT INTO rows VALUES (1, 'x'), (1, 'x'), (1, 'y'), (1, NULL), (1, NULL)")
    found = result(staging, max_duplicate_rate={"a, b": 0})
    assert (found.column_name, found.failing_rows, found.figure) == ("a, b", 1, 0.2)
    assert len(staging.execute(found.query).fetchall()) == 2


@pytest.mark.parametrize(("minimum", "status"), [(4, "passed"), (5, "failed")])
def test_fewer_rows_than_the_minimum_fail(staging: duckdb.DuckDBPyConnection, minimum: int, status: str) -> None:
    """Behaviour 38."""
    found = result(staging, min_rows=minimum)
    assert (found.status, found.figure, found.threshold) == (status, 4, minimum)
    assert found.message == f"there are 4 rows; at least {minimum} must be"
    assert staging.execute(found.query).fetchall() == [(4,)]


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ([8, 8, 8], "passed"),
        ([9, 9, 8], "failed"),
        ([2, 3, 3], "passed"),
        ([2, 2, 2], "failed"),
        ([0, 0, 0, 8, 8, 8], "passed"),
        ([8, 8, 0, 0], "skipped"),
        ([], "skipped"),
        ([4] * 10 + [1000] * 90, "passed"),
        ([3, 4, 5, 6], "passed"),
    ],
)
def test_row_count_is_compared_with_the_median_of_the_last_ten_runs_that_had_rows(
    staging: duckdb.DuckDBPyConnection, history: list[int], status: str
) -> None:
    """Behaviour 38."""
    [found] = results(staging, history=history, row_count_within=0.5)
    assert found.status == status


def test_row_count_says_how_far_off_it_is(staging: duckdb.DuckDBPyConnection) -> None:
    [found] = results(staging, history=[5000, 4000, 9000, 5001], row_count_within=0.5)
    assert found.message == (
        "4 rows are 99.92 % fewer than 5,000.5, the median of the last 4 runs with rows; at most 50 % is allowed"
    )
    [skipped] = results(staging, history=[5000], row_count_within=0.5)
    assert (skipped.figure, skipped.threshold) == (None, 0.5)
    assert skipped.message.endswith("there are 1 earlier runs with rows; 3 are needed")


def test_age_is_that_of_the_newest_value_against_the_clock(staging: duckdb.DuckDBPyConnection) -> None:
    """Behaviour 38."""
    assert result(staging, max_age={"event_at": "2d"}).status == "passed"
    found = result(staging, max_age={"event_at": "1d"})
    assert (found.status, found.figure, found.threshold) == ("failed", 90000, 86400)
    assert found.message == "the newest event_at is 1d 1h old; at most 1d is allowed"
    assert staging.execute(found.query).fetchall()[0][0] == 2


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ"])
def test_every_kind_of_time_has_an_age_and_infinity_has_none(staging: duckdb.DuckDBPyConnection, kind: str) -> None:
    staging.execute(
        f"CREATE OR REPLACE TABLE rows AS SELECT unnest(['infinity', '2024-05-10', '2024-05-01', NULL])::{kind} AS at"
    )
    assert result(staging, max_age={"at": "12h"}).figure == 12 * 3600


def test_date_too_far_off_for_a_timestamp_counts_as_none(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute("CREATE OR REPLACE TABLE rows AS SELECT DATE '5000000-01-01' AS at")
    assert result(staging, max_age={"at": "1d"}).status == "failed"


def test_newest_value_in_the_future_is_said_to_be(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute("CREATE OR REPLACE TABLE rows AS SELECT TIMESTAMP '2024-05-10 12:30' AS at")
    found = result(staging, max_age={"at": "1d"})
    assert (found.status, found.figure) == ("passed", -1800)
    assert "30m in the future" in found.message


def test_no_rows_have_rates_of_zero_and_no_age(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute("DELETE FROM rows")
    found = results(
        staging,
        min_rows=1,
        max_null_rate={"user_id": 0},
        max_duplicate_rate={"event_id": 0},
        max_age={"event_at": "2d"},
        expect={"positive": "quantity > 0"},
    )
    assert {item.gate: (item.status, item.figure) for item in found} == {
        "min_rows": ("failed", 0),
        "max_null_rate": ("passed", 0),
        "max_duplicate_rate": ("passed", 0),
        "max_age": ("failed", None),
        "expect": ("passed", 0),
    }
    age = next(item for item in found if item.gate == "max_age")
    assert age.message == ("event_at has no value in 0 rows, so its age is not known; at most 2d is allowed")


def test_expectation_is_broken_by_rows_where_it_is_false_not_where_it_is_null(
    staging: duckdb.DuckDBPyConnection,
) -> None:
    found = result(staging, expect={"positive_quantity": "quantity > 0"})
    assert (found.gate, found.column_name, found.status) == ("expect", "positive_quantity", "failed")
    assert (found.figure, found.threshold, found.failing_rows) == (0.5, 0, 2)
    assert found.message == ("expectation positive_quantity (quantity > 0) is broken by 2 of 4 rows; none may break it")
    assert [row[0] for row in staging.execute(found.query).fetchall()] == [2, 4]


@pytest.mark.parametrize(
    "text",
    [
        "quantity >= -1 -- and whatever",
        "event_id > 0 OR event_id < 0",
        '"odd ""name" NOT LIKE \'%;%\'',
        "quantity IN (\n  2, 0, -1\n)",
        "event_id <= (SELECT max(event_id) FROM rows)",
        "[event_id][1] > 0",
    ],
)
def test_expectation_may_be_any_one_condition(staging: duckdb.DuckDBPyConnection, text: str) -> None:
    found = result(staging, expect={"it": text})
    assert found.status == "passed"
    assert staging.execute(found.query).fetchall() == []


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("quantty > 0", "quantty", "did you mean 'quantity'?"),
        ("quantity > ", "syntax error", "one SQL condition"),
        ("quantity > 0; DROP TABLE rows", "syntax error", "one SQL condition"),
        ("quantity > 0) OR (1 = 1", "syntax error", "one SQL condition"),
        ("quantity > 0, event_id > 0", "it gives", "true or false"),
        ("quantity", "it gives INTEGER", "true or false"),
        ("NULL", "it gives", "true or false"),
        ("  ", "no condition", ""),
        ("quantity > ?", "no condition", ""),
        ("sum(quantity) > 0", "aggregate", ""),
        ("row_number() OVER () > 1", "window", ""),
        ("nonesuch(quantity)", "nonesuch", ""),
        ("quantity > 0 /*", "comment", ""),
    ],
)
def test_expectation_that_is_no_condition_is_refused_by_its_name(
    staging: duckdb.DuckDBPyConnection, text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        result(staging, expect={"odd_one": text})
    assert "expectation odd_one" in str(caught.value)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert staging.execute("SELECT count(*) FROM rows").fetchall() == [(4,)]


@pytest.mark.parametrize("text", ["secret::INTEGER > 0", "error(secret)"])
def test_expectation_that_fails_on_a_value_is_named_and_the_value_is_not(
    staging: duckdb.DuckDBPyConnection, text: str
) -> None:
    staging.execute("CREATE OR REPLACE TABLE rows AS SELECT 'hidden' AS secret, 1 AS a")
    with pytest.raises(DataError) as caught:
        result(staging, expect={"fine": "a > 0", "odd_one": f"{text} IS NOT NULL"})
    assert "expectation odd_one" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "TRY_CAST" in caught.value.hint


def test_reference_is_broken_by_values_the_warehouse_has_not(with_users: duckdb.DuckDBPyConnection) -> None:
    found = result(with_users, references={"user_id": "raw.users.id"})
    assert (found.gate, found.column_name, found.status) == ("references", "user_id", "failed")
    assert (found.figure, found.failing_rows) == (0.25, 1)
    assert found.message == "user_id is not in raw.users.id in 1 of 4 rows; every value must be"


def test_query_of_a_reference_runs_on_the_staging_file_alone(with_users: duckdb.DuckDBPyConnection) -> None:
    query = result(with_users, references={"user_id": "raw.users.id"}).query
    with_users.execute("DETACH warehouse")
    with_users.execute(query)
    assert [row[0] for row in with_users.fetchall()] == [4]


def test_reference_to_a_column_with_the_name_of_a_staged_one_means_the_warehouse(
    with_users: duckdb.DuckDBPyConnection,
) -> None:
    with_users.execute("ALTER TABLE rows RENAME COLUMN user_id TO id")
    assert result(with_users, references={"id": "raw.users.id"}).failing_rows == 1


def test_reference_to_a_table_that_is_not_landed_yet_fails_and_rejects_no_row(
    with_users: duckdb.DuckDBPyConnection,
) -> None:
    gates = Gates.model_validate({"references": {"user_id": "raw.usrs.id"}, "on_fail": "warn"})
    [found] = evaluate(with_users, gates, history=(), now=NOW)
    assert (found.status, found.failing_rows) == ("warned", 3)
    assert "as raw.usrs is not in the warehouse" in found.message
    gates = gates.model_copy(update={"on_fail": "dead_letter"})
    [found] = evaluate(with_users, gates, history=(), now=NOW)
    assert found.status == "failed"
    assert dead_letter_rules(gates, [found]) == []


@pytest.mark.parametrize(
    ("references", "message", "hint"),
    [
        ({"user_id": "raw.users.ids"}, "raw.users.ids: there is no column 'ids'", "'id'?"),
        ({"usr_id": "raw.users.id"}, "there is no column 'usr_id'", "'user_id'?"),
        ({"user_id": "raw.users.name"}, "user_id is INTEGER and raw.users.name is VARCHAR", ""),
    ],
)
def test_reference_that_cannot_be_looked_up_is_refused(
    with_users: duckdb.DuckDBPyConnection, references: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        result(with_users, references=references)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "gates",
    [{"max_null_rate": {"usr_id": 0}}, {"max_duplicate_rate": {"event_id, usr_id": 0}}, {"max_age": {"usr_id": "1d"}}],
)
def test_unknown_column_is_refused_with_the_nearest_one(
    staging: duckdb.DuckDBPyConnection, gates: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="there is no column 'usr_id'") as caught:
        results(staging, **gates)
    assert caught.value.hint == "did you mean 'user_id'?"


def test_column_of_the_staging_alone_is_not_offered(staging: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UsageError) as caught:
        results(staging, max_null_rate={"_fault": 0})
    assert "'_fault'" not in caught.value.hint


def test_column_without_an_age_is_refused(staging: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UsageError, match="max_age: quantity is INTEGER: it has no age"):
        results(staging, max_age={"quantity": "1d"})


def test_columns_are_found_whatever_their_case_and_their_characters(staging: duckdb.DuckDBPyConnection) -> None:
    found = results(staging, max_null_rate={"USER_ID": 0, 'odd "name': 0})
    assert [item.failing_rows for item in found] == [1, 0]


@pytest.mark.parametrize(
    ("on_fail", "status"), [("fail", "failed"), ("warn", "warned"), ("dead_letter", "dead_lettered")]
)
def test_each_gate_follows_its_own_on_fail_before_the_tables(
    staging: duckdb.DuckDBPyConnection, on_fail: str, status: str
) -> None:
    own = {"threshold": 0, "on_fail": on_fail}
    expect = {"positive": {"check": "quantity > 0", "on_fail": on_fail}}
    other = "fail" if on_fail == "warn" else "warn"
    found = results(staging, max_null_rate={"user_id": own}, expect=expect, on_fail=other)
    assert [(item.status, item.on_fail) for item in found] == [(status, on_fail)] * 2
    plain = {"positive": "quantity > 0"}
    found = results(staging, max_null_rate={"user_id": 0}, expect=plain, on_fail=on_fail)
    assert [(item.status, item.on_fail) for item in found] == [(status, on_fail)] * 2


def test_dead_letter_rules_are_true_for_the_rows_at_fault_and_no_others(with_users: duckdb.DuckDBPyConnection) -> None:
    gates = Gates.model_validate(
        {
            "max_null_rate": {"user_id": 0.1, "quantity": 0.5},
            "expect": {"positive": "quantity > 0 -- sold", "any": "event_id > 0"},
            "references": {"user_id": "raw.users.id"},
            "on_fail": "dead_letter",
        }
    )
    rules = dead_letter_rules(gates, evaluate(with_users, gates, history=(), now=NOW))
    told = []
    for condition, column, reason in rules:
        query = f"SELECT quantity FROM rows WHERE {condition} ORDER BY ALL"
        told.append((column, reason, [row[0] for row in with_users.execute(query).fetchall()]))
    assert told == [
        ("user_id", "it is NULL, above the gate's limit", [None]),
        ("", "it breaks the expectation positive: quantity > 0 -- sold", [-1, 0]),
        ("user_id", "its value is not in raw.users.id", [-1]),
    ]
    left = " AND ".join(f"NOT coalesce(({condition}), false)" for condition, *_ in rules)
    assert with_users.execute(f"SELECT event_id FROM rows WHERE {left}").fetchall() == [(1,)]


def test_nulls_below_their_threshold_are_no_dead_letters(staging: duckdb.DuckDBPyConnection) -> None:
    gates = Gates.model_validate({"max_null_rate": {"user_id": {"threshold": 0.25, "on_fail": "dead_letter"}}})
    assert dead_letter_rules(gates, evaluate(staging, gates, history=(), now=NOW)) == []


ALL_GATES: dict[str, Any] = {
    "min_rows": 1,
    "row_count_within": 0.5,
    "max_null_rate": {"user_id": 1},
    "max_duplicate_rate": {"event_id": 1},
    "max_age": {"event_at": "30d"},
    "expect": {"any": "event_id > 0"},
    "references": {"quantity": {"to": "raw.users.id", "on_fail": "warn"}},
}


def test_checks_choose_families_of_gates_and_together_they_are_all(with_users: duckdb.DuckDBPyConnection) -> None:
    everything = results(with_users, **ALL_GATES)
    assert [item.gate for item in everything] == list(ALL_GATES)
    assert sorted(gate for family in CHECKS.values() for gate in family) == sorted(ALL_GATES)
    for name, family in CHECKS.items():
        found = results(with_users, **ALL_GATES, checks=[name])
        assert found == [item for item in everything if item.gate in family]
    both = results(with_users, **ALL_GATES, checks=["nulls", "rows"])
    assert [item.gate for item in both] == ["min_rows", "row_count_within", "max_null_rate"]


def test_references_that_are_not_asked_for_need_no_warehouse(staging: duckdb.DuckDBPyConnection) -> None:
    assert results(staging, **ALL_GATES, checks=["duplicates"])[0].status == "passed"


def test_unknown_check_is_refused_with_the_nearest_one(staging: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UsageError, match="there is no check 'null'") as caught:
        results(staging, checks=["null"])
    assert caught.value.hint == "did you mean 'nulls'?"


def test_table_without_gates_is_not_looked_at() -> None:
    with duckdb.connect() as connection:
        assert results(connection) == []


def test_gates_change_nothing_and_read_another_table_if_told(staging: duckdb.DuckDBPyConnection) -> None:
    staging.execute('ALTER TABLE rows RENAME TO "the rows"')
    gates = Gates.model_validate({"min_rows": 1, "max_null_rate": {"user_id": 0}})
    found = evaluate(staging, gates, rows="the rows", history=(), now=NOW)
    assert [item.figure for item in found] == [4, 0.25]
    assert staging.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("the rows",)]


VALUES = st.one_of(st.none(), st.integers(-2, 2))


@given(st.lists(st.tuples(VALUES, VALUES), max_size=30), st.integers(0, 40), st.integers(1, 40))
@settings(max_examples=examples(60))
def test_figures_are_those_of_a_slow_computation(
    rows: list[tuple[int | None, int | None]], numerator: int, denominator: int
) -> None:
    """Behaviour 38."""
    threshold = min(1.0, numerator / denominator)
    total = len(rows)
    pairs = Counter(row for row in rows if None not in row)
    singles = Counter(a for a, _ in rows if a is not None)
    slow = {
        ("max_null_rate", "a"): sum(a is None for a, _ in rows),
        ("max_null_rate", "b"): sum(b is None for _, b in rows),
        ("max_duplicate_rate", "a"): sum(n - 1 for n in singles.values()),
        ("max_duplicate_rate", "a,b"): sum(n - 1 for n in pairs.values()),
        ("expect", "less"): sum(a is not None and b is not None and a >= b for a, b in rows),
    }
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE rows (a INTEGER, b INTEGER)")
        if rows:
            connection.executemany("INSERT INTO rows VALUES (?, ?)", rows)
        found = results(
            connection,
            max_null_rate={"a": threshold, "b": threshold},
            max_duplicate_rate={"a": threshold, "a,b": threshold},
            expect={"less": "a < b"},
        )
    assert {(item.gate, item.column_name): item.failing_rows for item in found} == slow
    for item in found:
        assert item.figure == (slow[item.gate, item.column_name] / total if total else 0)
        assert item.figure is not None
        assert item.threshold is not None
        assert item.status == ("failed" if item.figure > item.threshold else "passed")


@given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=5))
@settings(max_examples=examples(30))
def test_age_is_that_of_a_slow_computation(times: list[datetime]) -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE rows AS SELECT unnest(?::TIMESTAMP[]) AS at", [times])
        found = result(connection, max_age={"at": "1d"})
    age = NOW - max(times)
    assert found.figure == pytest.approx(age.total_seconds())
    assert found.status == ("failed" if age > timedelta(days=1) else "passed")


@pytest.mark.parametrize(
    ("gates", "message", "hint"),
    [
        ({"max_nul_rate": {"a": 1}}, "gates.max_nul_rate", "did you mean 'max_null_rate'?"),
        ({"max_null_rate": {"a": 1.5}}, "max_null_rate.a.threshold", ""),
        ({"max_null_rate": {"a": True}}, "max_null_rate.a: invalid number 'true'", ""),
        ({"max_null_rate": 0.5}, "gates.max_null_rate: must be a mapping", "{a name: what holds"),
        ({"max_null_rate": {"a": {"treshold": 1}}}, "a.threshold' is missing", "on_fail"),
        ({"max_null_rate": {"a": {"threshold": 1, "on_fial": "warn"}}}, "a.on_fial", "did you mean 'on_fail'?"),
        ({"expect": {"a": {"check": "b", "threshold": 1}}}, "a.threshold", "check, on_fail"),
        ({"expect": {"a": ""}}, "expect.a.check", ""),
        ({"max_age": {"a": "soon"}}, "invalid duration 'soon'", ""),
        ({"min_rows": "many"}, "gates.min_rows.threshold", ""),
        ({"row_count_within": float("nan")}, "row_count_within.threshold", ""),
        ({"references": {"a": "users.id"}}, "invalid reference 'users.id': write schema, table and column", ""),
        ({"max_duplicate_rate": {"a,,b": 0}}, "invalid columns 'a,,b'", ""),
        ({"on_fail": "dead_lettr"}, "gates.on_fail: unknown word 'dead_lettr'", "'dead_letter'?"),
        ({"min_rows": {"threshold": 1, "on_fail": "dead_letter"}}, "min_rows cannot", ""),
        ({"min_rows": 1, "on_fail": "dead_letter"}, "min_rows cannot", ""),
        ({"row_count_within": 1, "on_fail": "dead_letter"}, "row_count_within cannot", ""),
        ({"max_age": {"a": "1d"}, "on_fail": "dead_letter"}, "max_age cannot", ""),
        ({"max_duplicate_rate": {"a": 0}, "on_fail": "dead_letter"}, "rate cannot", ""),
    ],
)
def test_gate_that_cannot_be_is_refused_in_the_configuration(
    tmp_path: Path, gates: dict[str, Any], message: str, hint: str
) -> None:
    table = {"mode": "full", "gates": gates}
    source = {"type": "postgres", "dsn": "demo", "tables": {"t": table}}
    (tmp_path / "pyops.yml").write_text(yaml.safe_dump({"sources": {"src": source}}))
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert "src.tables.t.gates" in str(caught.value)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_gates_are_read_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pyops.yml").write_text(
        """
        sources:
          web:
            type: postgres
            dsn: demo
            tables:
              events:
                mode: full
                gates:
                  min_rows: {threshold: 1, on_fail: fail}
                  max_null_rate: {user_id: "${PYOPS_TEST_NONE:-0.01}"}
                  expect: {positive_quantity: "quantity > 0"}
                  references: {user_id: raw.users.id}
                  on_fail: dead_letter
        """
    )
    [table] = load(tmp_path).tables()
    assert hash(table)  # tables are keys of mappings, whatever theirs hold
    assert table.config.gates.max_null_rate["user_id"].threshold == 0.01
    assert table.config.gates.on_fail == "dead_letter"
