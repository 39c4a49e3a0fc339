"""Columns that come, go and change at the source."""

from typing import Any

import pytest

from pyops.errors import OperationError, SchemaChangeError
from pyops.warehouse.schema import common_type
from tests.pyops.conftest import Lab, Sql

MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}


def changes(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows(
        "SELECT kind, column_name, old_type, new_type FROM pyops.schema_changes ORDER BY load_id, column_name"
    )


def test_evolve_follows_added_dropped_and_widened_columns(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, a integer, b numeric(6,2), c text)")
    sql("INSERT INTO t VALUES (1, 1, 7, 1.25, 'kept')")
    lab.extract({"t": MERGE})
    sql("ALTER TABLE t ADD d date, ALTER a TYPE bigint, ALTER b TYPE numeric(9,3), DROP c")
    sql("INSERT INTO t VALUES (2, 2, 8000000000, 1.125, '2020-01-01')")
    for _ in range(2):
        lab.extract({"t": MERGE})
    found = lab.rows("SELECT id, a, b::VARCHAR, c, d::VARCHAR FROM raw.t ORDER BY id")
    assert found == [(1, 7, "1.250", "kept", None), (2, 8000000000, "1.125", None, "2020-01-01")]
    assert changes(lab) == [
        ("type_changed", "a", "INTEGER", "BIGINT"),
        ("type_changed", "b", "DECIMAL(6,2)", "DECIMAL(9,3)"),
        ("dropped", "c", "VARCHAR", ""),
        ("added", "d", "", "DATE"),
    ]


def test_number_that_becomes_a_text_is_widened_also_as_a_key(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, a numeric(6,2))")
    sql("INSERT INTO t VALUES (1, 1, 1.25), (2, 2, 2.5)")
    lab.extract({"t": MERGE})
    sql("ALTER TABLE t ALTER id TYPE text, ALTER a TYPE text")
    sql("INSERT INTO t VALUES ('x', 3, 'y')")
    sql("UPDATE t SET a = 'z', at = 3 WHERE id = '2'")
    lab.extract({"t": MERGE})
    found = lab.rows("SELECT id, a FROM raw.t ORDER BY id")
    assert found == [("1", "1.25"), ("2", "z"), ("x", "y")]


def test_change_that_cannot_be_made_in_place_asks_for_a_full_refresh(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, a text)")
    sql("INSERT INTO t VALUES (1, 1, '2020-01-01')")
    lab.extract({"t": MERGE})
    sql("ALTER TABLE t ALTER a TYPE date USING a::date")
    with pytest.raises(SchemaChangeError, match="column a changed from VARCHAR to DATE") as caught:
        lab.extract({"t": MERGE})
    assert "pyops extract src.t --full-refresh" in caught.value.hint
    assert lab.rows("SELECT a FROM raw.t") == [("2020-01-01",)]
    lab.extract({"t": MERGE}, full_refresh=True)
    assert lab.rows("SELECT a::VARCHAR, typeof(a) FROM raw.t") == [("2020-01-01", "DATE")]


def test_swap_takes_the_columns_as_they_are_and_records_it(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint, a text)")
    lab.extract({"t": {"mode": "full"}})
    sql("ALTER TABLE t DROP a, ADD b text, ALTER id TYPE text")
    lab.extract({"t": {"mode": "full"}})
    assert changes(lab) == [
        ("dropped", "a", "VARCHAR", ""),
        ("added", "b", "", "VARCHAR"),
        ("type_changed", "id", "BIGINT", "VARCHAR"),
    ]
    described = lab.rows("SELECT column_name FROM duckdb_columns() WHERE table_name = 't'")
    assert [row[0] for row in described] == ["id", "b", "_load_id", "_loaded_at"]


@pytest.mark.parametrize("table", [MERGE, {"mode": "full"}])
@pytest.mark.parametrize("change", ["ADD z text", "DROP note", "ALTER note TYPE varchar(9)"])
def test_fail_stops_before_anything_is_landed(lab: Lab, sql: Sql, table: dict[str, Any], change: str) -> None:
    strict = {**table, "on_schema_change": "fail"}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, note text)")
    sql("INSERT INTO t VALUES (1, 1, 'a')")
    lab.extract({"t": strict})
    sql("INSERT INTO t VALUES (2, 2, 'b')")
    sql(f"ALTER TABLE t {change}")
    if "TYPE" in change:  # text either way: nothing has changed for the warehouse
        lab.extract({"t": strict})
        return
    with pytest.raises(SchemaChangeError, match="the source's columns have changed"):
        lab.extract({"t": strict})
    assert lab.rows("SELECT count(*) FROM raw.t") == [(1,)]
    lab.extract({"t": strict}, full_refresh=True)
    assert lab.rows("SELECT count(*) FROM raw.t") == [(2,)]


def test_column_that_was_left_out_is_no_change(lab: Lab, sql: Sql) -> None:
    table = {**MERGE, "exclude": ["secret"], "on_schema_change": "fail"}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, secret text)")
    lab.extract({"t": table})
    sql("ALTER TABLE t ALTER secret TYPE bigint USING 1")
    lab.extract({"t": table})
    sql("ALTER TABLE t DROP secret")
    with pytest.raises(OperationError, match="no column secret"):
        lab.extract({"t": table})


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        ("SMALLINT", "BIGINT", "BIGINT"),
        ("BIGINT", "INTEGER", "BIGINT"),
        ("FLOAT", "DOUBLE", "DOUBLE"),
        ("DECIMAL(6,2)", "DECIMAL(5,4)", "DECIMAL(8,4)"),
        ("INTEGER", "DECIMAL(12,2)", "DECIMAL(12,2)"),
        ("INTEGER", "DECIMAL(4,2)", "DECIMAL(12,2)"),
        ("DECIMAL(38,0)", "DECIMAL(38,10)", None),
        ("BIGINT", "VARCHAR", "VARCHAR"),
        ("BIGINT", "DOUBLE", None),
        ("BOOLEAN", "VARCHAR", None),
        ("VARCHAR", "BIGINT", None),
    ],
)
def test_type_is_widened_only_where_every_value_stays_exact(old: str, new: str, both: str | None) -> None:
    assert common_type(old, new) == both
