"""Incremental extraction: which rows a run reads, and what the watermark is afterwards."""

from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pytest

from pyops import Days
from pyops.errors import DataError, PyopsError, UsageError
from pyops.progress import Listener
from tests.pyops.conftest import Connect, Lab, Sql, execute

MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}
APPEND: dict[str, Any] = {"mode": "incremental", "cursor": "at", "write": "append"}

CURSORS = {
    "smallint": ["1", "2", "3", "4"],
    "integer": ["1", "20", "300", "4000"],
    "bigint": ["1", "2", "3000000000", "4000000000"],
    "numeric": ["1", "9", "10", "100.5"],
    "numeric(12,2)": ["1", "9", "10", "100.5"],
    "date": ["2020-01-01", "2020-01-02", "2020-02-01", "2021-01-01"],
    "timestamp": ["2020-01-01 10:00", "2020-01-01 11:00", "2020-01-02", "2020-03-01"],
    "timestamptz": ["2020-01-01 10:00+02", "2020-01-01 11:00", "2020-01-02", "2020-03-01"],
    "text": ["01J0000001", "01J0000009", "01J000000A", "01J00000Z0"],
    "varchar(26)": ["01J0000001", "01J0000009", "01J000000A", "01J00000Z0"],
}


def ids(lab: Lab) -> list[Any]:
    return [row[0] for row in lab.rows("SELECT id FROM raw.t ORDER BY id")]


def bound(lab: Lab) -> str | None:
    return str(lab.rows("SELECT bound FROM pyops.watermarks")[0][0])


@pytest.mark.parametrize("cursor_type", CURSORS)
def test_every_run_reads_what_is_new(lab: Lab, sql: Sql, cursor_type: str) -> None:
    """Behaviour 9."""
    values = CURSORS[cursor_type]
    table = {**MERGE, "lookback": "0s"} if "timestamp" in cursor_type else MERGE
    sql(f"CREATE TABLE t (id bigint PRIMARY KEY, at {cursor_type}, note text)")
    for number in (1, 2):
        sql(f"INSERT INTO t VALUES ({number}, '{values[number]}', 'first')")
    assert lab.extract({"t": table})[0].rows_written == 2
    sql(f"INSERT INTO t VALUES (3, '{values[3]}', 'new')")
    sql(f"INSERT INTO t VALUES (0, '{values[0]}', 'older than the watermark')")
    run = lab.extract({"t": table})[0]
    assert (run.rows_read, run.rows_unchanged, run.rows_written) == (2, 1, 1)
    assert ids(lab) == [1, 2, 3]


@pytest.mark.parametrize("cursor_type", ["timestamptz", "bigint", "text"])
@pytest.mark.parametrize("prepared", [False, True])
def test_row_committed_late_is_loaded_by_a_later_run(
    lab: Lab, sql: Sql, connect: Connect, cursor_type: str, prepared: bool
) -> None:
    """Behaviour 1: as a user without any right but to read the table."""
    values = CURSORS[cursor_type]
    table = {**MERGE, "lookback": "0s"} if cursor_type == "timestamptz" else MERGE
    sql(f"CREATE TABLE t (id bigint PRIMARY KEY, at {cursor_type})")
    role = f"reader_{lab.directory.name}".replace("-", "_")[:60].lower()
    sql(f"CREATE ROLE {role} LOGIN")
    sql(f"GRANT SELECT ON t TO {role}")
    reader = Lab(lab.directory, lab.dsn.replace("postgres@", f"{role}@"))
    late = connect()
    with late.cursor() as cursor:
        cursor.execute(f"INSERT INTO t VALUES (0, '{values[0]}')")
        if prepared:
            cursor.execute(f"PREPARE TRANSACTION '{role}'")
    try:
        sql(f"INSERT INTO t VALUES (1, '{values[1]}')")
        reader.extract({"t": table})
        sql(f"INSERT INTO t VALUES (2, '{values[2]}')")
        reader.extract({"t": table})
        assert ids(lab) == [1, 2]
    finally:
        if prepared:
            sql(f"COMMIT PREPARED '{role}'")
        else:
            late.commit()
    reader.extract({"t": table})
    assert ids(lab) == [0, 1, 2]
    run = reader.extract({"t": table})[0]
    assert run.rows_read == 1, "once the late transaction is in, the watermark moves on"
    sql(f"DROP OWNED BY {role}")
    sql(f"DROP ROLE {role}")


def test_transaction_that_is_prepared_between_two_runs_holds_the_watermark(
    lab: Lab, sql: Sql, connect: Connect
) -> None:
    """Behaviour 1: it changes its name from a virtual to a prepared one meanwhile."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    with connect().cursor() as late:
        late.execute("INSERT INTO t VALUES (0, 0)")
        sql("INSERT INTO t VALUES (1, 1)")
        lab.extract({"t": MERGE})
        late.execute("PREPARE TRANSACTION 'between'")
    try:
        sql("INSERT INTO t VALUES (2, 2)")
        lab.extract({"t": MERGE})
        lab.extract({"t": MERGE})
    finally:
        sql("COMMIT PREPARED 'between'")
    lab.extract({"t": MERGE})
    assert ids(lab) == [0, 1, 2]


def test_append_leaves_rows_for_later_that_might_still_get_company(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 1: append lands a row once, and only when no smaller cursor can follow."""
    sql("CREATE TABLE t (id bigint, at bigint)")
    sql("INSERT INTO t VALUES (1, 1), (3, 3)")
    lab.extract({"t": APPEND})
    assert ids(lab) == [1], "the largest cursor may have company"
    late = connect()
    with late.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (4, 4)")
    sql("INSERT INTO t VALUES (5, 5)")
    lab.extract({"t": APPEND})
    assert ids(lab) == [1], "the open transaction holds everything back"
    late.commit()
    sql("INSERT INTO t VALUES (6, 6)")
    for _ in range(3):
        lab.extract({"t": APPEND})
    assert ids(lab) == [1, 3, 4, 5]


def test_long_transactions_that_follow_each_other_do_not_stop_the_watermark_for_ever(
    lab: Lab, sql: Sql, connect: Connect
) -> None:
    """Behaviour 1: the oldest candidate waits for its own transactions only."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")

    def begin() -> adbc.Connection:
        connection = connect()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return connection

    before = begin()
    for number in range(1, 5):
        sql(f"INSERT INTO t VALUES ({number}, {number})")
        lab.extract({"t": MERGE})
        after = begin()
        before.commit()
        before = after
    assert lab.rows("SELECT bound, candidate FROM pyops.watermarks") == [("3", "4")]


def test_million_rows_of_one_moment_load_exactly_once(lab: Lab, sql: Sql) -> None:
    """Behaviour 2."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz)")
    insert = "INSERT INTO t SELECT i, '2020-01-01' FROM generate_series({}, {}) AS i"
    sql(insert.format(1, 600_000))
    lab.extract({"t": MERGE})
    sql(insert.format(600_001, 1_000_000))
    lab.extract({"t": MERGE})
    run = lab.extract({"t": MERGE})[0]
    assert run.rows_unchanged == 1_000_000
    assert lab.rows("SELECT count(*), count(DISTINCT id) FROM raw.t") == [(1_000_000, 1_000_000)]
    state = lab.rows("SELECT w::VARCHAR FROM pyops.watermarks AS w")[0][0]
    assert len(state) < 1000


def test_cursor_keeps_its_microseconds(lab: Lab, sql: Sql) -> None:
    """Behaviour 3."""
    table = {**MERGE, "lookback": "0s"}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz)")
    sql("INSERT INTO t VALUES (1, '2020-01-01 10:00:00.123456')")
    lab.extract({"t": table})
    assert bound(lab) == "2020-01-01 10:00:00.123456+00"
    sql("INSERT INTO t VALUES (2, '2020-01-01 10:00:00.123455')")
    sql("INSERT INTO t VALUES (3, '2020-01-01 10:00:00.123456')")
    sql("INSERT INTO t VALUES (4, '2020-01-01 10:00:00.123457')")
    run = lab.extract({"t": table})[0]
    assert (run.rows_read, ids(lab)) == (3, [1, 3, 4])


@pytest.mark.parametrize("cursor_type", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("future", ["2999-01-01", "infinity"])
def test_row_of_the_future_does_not_carry_the_watermark_along(
    lab: Lab, sql: Sql, cursor_type: str, future: str
) -> None:
    """Behaviour 4."""
    sql(f"CREATE TABLE t (id bigint PRIMARY KEY, at {cursor_type})")
    sql(f"INSERT INTO t VALUES (1, '2020-01-01'), (2, '{future}')")
    lab.extract({"t": MERGE})
    assert str(bound(lab)).startswith("2020-01-01")
    sql("INSERT INTO t VALUES (3, '2021-01-01')")
    lab.extract({"t": MERGE})
    assert ids(lab) == [1, 2, 3]


def test_nan_does_not_become_the_watermark(lab: Lab, sql: Sql) -> None:
    """Behaviour 4: NaN sorts above every number."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at numeric)")
    sql("INSERT INTO t VALUES (1, 10), (2, 'NaN'), (3, 'Infinity')")
    lab.extract({"t": MERGE})
    sql("INSERT INTO t VALUES (4, 11)")
    lab.extract({"t": MERGE})
    assert (bound(lab), ids(lab)) == ("11", [1, 2, 3, 4])


def test_rows_without_a_cursor_are_included_and_counted(lab: Lab, sql: Sql) -> None:
    """Behaviour 5."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("INSERT INTO t VALUES (1, 1), (2, NULL), (3, NULL)")
    assert lab.extract({"t": MERGE})[0].null_cursors == 2
    sql("INSERT INTO t VALUES (4, NULL)")
    run = lab.extract({"t": MERGE})[0]
    assert (run.null_cursors, run.rows_written, ids(lab)) == (3, 1, [1, 2, 3, 4])
    assert lab.rows("SELECT null_cursors FROM pyops.runs ORDER BY started_at") == [(2,), (3,)]


@pytest.mark.parametrize("table", [{**MERGE, "on_null_cursor": "fail"}, APPEND])
def test_rows_without_a_cursor_fail_the_run_where_that_is_the_policy(lab: Lab, sql: Sql, table: dict[str, Any]) -> None:
    """Behaviour 5."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("INSERT INTO t VALUES (1, 1), (2, NULL), (3, NULL)")
    with pytest.raises(DataError, match="2 rows have no at"):
        lab.extract({"t": table})


def test_lookback_reads_again_what_a_clock_may_have_put_below_the_watermark(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz, n bigint)")
    sql("INSERT INTO t VALUES (1, '2020-01-01 10:00', 100)")
    lab.extract({"t": {**MERGE, "lookback": "1h"}})
    sql("INSERT INTO t VALUES (2, '2020-01-01 09:00', 90), (3, '2020-01-01 08:59', 89)")
    lab.extract({"t": {**MERGE, "lookback": "1h"}})
    assert ids(lab) == [1, 2]


def test_lookback_of_a_number_and_of_a_date(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("CREATE TABLE d (id bigint PRIMARY KEY, at date)")
    tables = {"t": {**MERGE, "lookback": 10}, "d": {**MERGE, "lookback": "2d"}}
    sql("INSERT INTO t VALUES (1, 100)")
    sql("INSERT INTO d VALUES (1, '2020-01-10')")
    lab.extract(tables)
    sql("INSERT INTO t VALUES (2, 90), (3, 89)")
    sql("INSERT INTO d VALUES (2, '2020-01-08'), (3, '2020-01-07')")
    lab.extract(tables)
    assert ids(lab) == [1, 2]
    assert lab.rows("SELECT id FROM raw.d ORDER BY id") == [(1,), (2,)]


def test_days_read_again_leave_the_watermark_alone(lab: Lab, sql: Sql) -> None:
    """Behaviour 8."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz, note text)")
    sql("INSERT INTO t VALUES (1, '2020-01-01 23:59:59.999999', 'a'), (2, '2020-01-02', 'a')")
    sql("INSERT INTO t VALUES (3, '2020-01-03', 'a')")
    lab.extract({"t": MERGE})
    before = lab.rows("SELECT * FROM pyops.watermarks")
    sql("UPDATE t SET note = 'b'")
    run = lab.extract({"t": MERGE}, days=Days.of("2020-01-01", "2020-01-01"))[0]
    assert run.rows_read == 1
    assert lab.rows("SELECT id, note FROM raw.t ORDER BY id") == [(1, "b"), (2, "a"), (3, "a")]
    assert lab.rows("SELECT * FROM pyops.watermarks") == before


def test_full_refresh_starts_the_watermark_over(lab: Lab, sql: Sql) -> None:
    """Behaviour 8."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("INSERT INTO t VALUES (1, 1), (2, 200)")
    lab.extract({"t": MERGE})
    sql("DELETE FROM t WHERE id = 2")
    with pytest.raises(DataError, match="below the watermark 200"):  # behaviour 51
        lab.extract({"t": MERGE})
    assert ids(lab) == [1, 2], "a watermark does not see a deletion"
    lab.extract({"t": MERGE}, full_refresh=True)
    assert (ids(lab), bound(lab)) == ([1], "1")
    sql("INSERT INTO t VALUES (3, 2)")
    lab.extract({"t": MERGE})
    assert ids(lab) == [1, 3]


def test_append_after_a_full_refresh_doubles_nothing(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint, at bigint)")
    sql("INSERT INTO t SELECT i, i FROM generate_series(1, 10) AS i")
    lab.extract({"t": APPEND})
    lab.extract({"t": APPEND}, full_refresh=True)
    sql("INSERT INTO t VALUES (11, 11)")
    lab.extract({"t": APPEND})
    lab.extract({"t": APPEND})
    assert ids(lab) == list(range(1, 11))


def test_append_refuses_a_table_that_no_watermark_accounts_for(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint, at bigint)")
    sql("INSERT INTO t VALUES (1, 1)")
    lab.extract({"t": {"mode": "full"}})
    with pytest.raises(UsageError, match="no watermark accounts for"):
        lab.extract({"t": APPEND})


def test_another_cursor_is_refused_until_a_full_refresh(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, other bigint)")
    sql("INSERT INTO t VALUES (1, 1, 1)")
    lab.extract({"t": MERGE})
    changed = {**MERGE, "cursor": "other"}
    with pytest.raises(UsageError, match="its watermark is of column at"):
        lab.extract({"t": changed})
    lab.extract({"t": changed}, full_refresh=True)
    assert lab.rows("SELECT cursor_column FROM pyops.watermarks") == [("other",)]


def test_target_that_was_dropped_is_read_from_the_beginning(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.extract({"t": MERGE})
    lab.write("DROP TABLE raw.t")
    lab.extract({"t": MERGE})
    assert ids(lab) == [1, 2]


def test_text_cursor_is_compared_byte_by_byte_whatever_the_collation(lab: Lab, sql: Sql) -> None:
    """Behaviour 9."""
    collation = sql("SELECT collname FROM pg_collation WHERE collprovider = 'i' LIMIT 1")
    collate = f'COLLATE "{collation[0][0]}"' if collation else ""
    sql(f"CREATE TABLE t (id bigint PRIMARY KEY, at text {collate})")
    sql("INSERT INTO t VALUES (1, 'B'), (2, 'Z')")
    lab.extract({"t": MERGE})
    sql("INSERT INTO t VALUES (3, 'a')")
    lab.extract({"t": MERGE})
    assert ids(lab) == [1, 2, 3]


@pytest.mark.parametrize("cursor_type", ["uuid", "boolean", "jsonb", "bigint[]", "inet"])
def test_cursor_without_an_order_is_refused(lab: Lab, sql: Sql, cursor_type: str) -> None:
    """Behaviour 9."""
    sql(f"CREATE TABLE t (id bigint PRIMARY KEY, at {cursor_type})")
    with pytest.raises(UsageError, match="a cursor cannot be of type"):
        lab.extract({"t": MERGE})


def test_tables_of_a_source_are_read_in_one_snapshot(lab: Lab, sql: Sql) -> None:
    """No order without its user, whatever commits between the two tables."""
    sql("CREATE TABLE parents (id bigint PRIMARY KEY)")
    sql("CREATE TABLE children (id bigint PRIMARY KEY, parent bigint)")
    sql("INSERT INTO parents VALUES (1)")
    sql("INSERT INTO children VALUES (1, 1)")

    class Meddler(Listener):
        def finished(self, *_: object) -> None:
            execute(lab.dsn, "INSERT INTO parents VALUES (2) ON CONFLICT DO NOTHING")
            execute(lab.dsn, "INSERT INTO children VALUES (2, 2) ON CONFLICT DO NOTHING")

    lab.extract({"parents": {"mode": "full"}, "children": {"mode": "full"}}, listener=Meddler())
    assert lab.rows("SELECT count(*) FROM raw.children") == [(1,)]


def test_failing_table_leaves_the_others_alone(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE good (id bigint PRIMARY KEY, at bigint)")
    sql("CREATE VIEW bad AS SELECT 1 / (id - 1) AS id, at FROM good")
    sql("INSERT INTO good VALUES (1, 1)")
    with pytest.raises(PyopsError, match="division by zero"):
        lab.extract({"bad": {"mode": "full"}, "good": MERGE})
    assert lab.rows("SELECT id FROM raw.good") == [(1,)]
    assert lab.rows("SELECT table_name, status FROM pyops.runs ORDER BY 1") == [
        ("bad", "failed"),
        ("good", "succeeded"),
    ]
