"""Tables that change while they are captured, and names of every kind."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from pyops.commands.cdc import capture
from pyops.commands.snapshot import snapshot
from pyops.errors import OperationError, SchemaChangeError
from tests.pyops.change_log import at_source, current, events, ops
from tests.pyops.conftest import Connect, Lab, Sql, needs_18

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}
CHANGES = "SELECT kind, column_name, old_type, new_type FROM pyops.schema_changes ORDER BY ALL"


@pytest.fixture
def table(sql: Sql) -> None:
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, w text)")
    sql("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b')")


@pytest.mark.usefixtures("table")
def test_columns_come_go_and_change_in_mid_stream(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 27: each is recorded, nothing is copied again, also inside one transaction."""
    lab.capture(CDC)
    sql("UPDATE t SET v = 10 WHERE id = 1")
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (3, 3, 'c')")
        cursor.execute("ALTER TABLE t ADD COLUMN x date DEFAULT '2024-02-29'")
        cursor.execute("INSERT INTO t VALUES (4, 4, 'd', NULL)")
        cursor.execute("ALTER TABLE t ALTER COLUMN v TYPE bigint")
        cursor.execute("INSERT INTO t VALUES (5, 3000000000, 'e', '2024-01-01')")
    connection.commit()
    sql("ALTER TABLE t DROP COLUMN w")
    sql("INSERT INTO t (id, v) VALUES (6, 6)")
    sql("ALTER TABLE t RENAME COLUMN v TO value")
    sql("INSERT INTO t (id, value) VALUES (7, 7)")
    lab.capture(CDC)
    assert ops(lab, "t") == "rruccccc"
    last = events(lab, "t")[-1]
    assert last.row == {"id": 7, "v": None, "w": None, "x": date(2024, 2, 29), "value": 7}
    assert [(e.row["id"], e.row["v"], e.row["x"]) for e in events(lab, "t")][3:6] == [
        (3, 3, None), (4, 4, None), (5, 3000000000, date(2024, 1, 1))
    ]  # fmt: skip
    assert lab.rows(CHANGES) == [
        ("added", "value", "", "BIGINT"),
        ("added", "x", "", "DATE"),
        ("dropped", "v", "BIGINT", ""),
        ("dropped", "w", "VARCHAR", ""),
        ("type_changed", "v", "INTEGER", "BIGINT"),
    ]
    sql("INSERT INTO t (id, value) VALUES (8, 8)")
    lab.capture(CDC)
    assert len(lab.rows(CHANGES)) == 5


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("comes_back", ["ALTER TABLE t ADD COLUMN v integer", "ALTER TABLE t RENAME COLUMN x TO v"])
def test_a_column_whose_name_comes_back_is_added_again(
    lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture, comes_back: str, looks: bool
) -> None:
    """Behaviour 27: old rows still have what the earlier one held, and it is said; also within one chunk."""
    caplog.set_level("INFO", "pyops")
    sql("ALTER TABLE t ADD COLUMN x integer")
    lab.capture(CDC)
    for statement in ("DROP COLUMN v", "ADD COLUMN y text"):  # in the one and in the other, a row has no v
        sql(f"ALTER TABLE t {statement}")
        sql("INSERT INTO t (id) SELECT max(id) + 1 FROM t")
    if looks:
        lab.capture(CDC)
    sql("ALTER TABLE t DROP COLUMN y")
    sql(comes_back)
    sql("INSERT INTO t (id, v) VALUES (9, 9)")
    lab.capture(CDC)
    assert "src.t: column v INTEGER was added: an earlier column's values in rows" in caplog.text
    assert [row["v"] for row in current(lab, "t")] == [1, 2, None, None, 9]
    snapshot(lab.configure(CDC), "t")
    assert [(row["id"], row["v"]) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")
    told = lab.rows(CHANGES)
    sql("INSERT INTO t (id, v) VALUES (10, 10)")
    lab.capture(CDC)
    assert lab.rows(CHANGES) == told, "once"


@pytest.mark.usefixtures("table")
def test_a_version_that_comes_back_within_a_chunk_is_the_last_one(lab: Lab, sql: Sql) -> None:
    """Behaviour 27: dropped and added again, with a row between, a table has its first columns."""
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 3, 'c')")
    sql("ALTER TABLE t DROP COLUMN w")
    sql("INSERT INTO t VALUES (4, 4)")
    sql("ALTER TABLE t ADD COLUMN w text")
    sql("INSERT INTO t VALUES (5, 5, 'e')")
    lab.capture(CDC)
    told = [("added", "w", "", "VARCHAR"), ("dropped", "w", "VARCHAR", "")]
    assert lab.rows(CHANGES) == told
    sql("INSERT INTO t VALUES (6, 6, 'f')")
    lab.capture(CDC)
    assert lab.rows(CHANGES) == told


@pytest.mark.usefixtures("table")
def test_a_type_that_cannot_hold_both_becomes_text(lab: Lab, sql: Sql) -> None:
    """Behaviour 27: the stream goes on, and what was landed keeps its digits."""
    lab.capture(CDC)
    sql("ALTER TABLE t ALTER COLUMN v TYPE date USING '2024-01-01'::date + v")
    sql("INSERT INTO t VALUES (3, '2024-05-06', 'c')")
    lab.capture(CDC)
    assert [event.row["v"] for event in events(lab, "t")] == ["1", "2", "2024-05-06"]
    sql("ALTER TABLE t ALTER COLUMN v TYPE numeric(8, 2) USING 1.50")
    sql("INSERT INTO t VALUES (4, 2.25, 'c')")
    lab.capture(CDC)
    assert events(lab, "t")[-1].row["v"] == "2.25"


@pytest.mark.usefixtures("table")
def test_policy_fail_stops_before_anything_is_landed(lab: Lab, sql: Sql) -> None:
    """Behaviour 27: and the source keeps it until the policy is another."""
    fails = {"t": {"mode": "cdc", "on_schema_change": "fail"}}
    lab.capture(fails)
    sql("INSERT INTO t VALUES (3, 3, 'c')")
    sql("ALTER TABLE t ADD COLUMN x date")
    sql("INSERT INTO t VALUES (4, 4, 'd', NULL)")
    for _ in range(2):
        with pytest.raises(SchemaChangeError, match="column x DATE was added"):
            lab.capture(fails)
        assert ops(lab, "t") == "rr"
    lab.capture(CDC)
    assert ops(lab, "t") == "rrcc"


@pytest.mark.usefixtures("table")
def test_a_table_that_was_made_again_is_copied_again_and_no_other(lab: Lab, sql: Sql) -> None:
    """Behaviour 27: it is recorded; policy fail waits for somebody to say so."""
    sql("CREATE TABLE other (id integer PRIMARY KEY)")
    tables = {"t": {"mode": "cdc", "on_schema_change": "fail"}, "other": {"mode": "cdc"}}
    lab.capture(tables)
    sql("DROP TABLE t")
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, w text)")
    sql("INSERT INTO t VALUES (9, 9, 'z')")
    sql("INSERT INTO other VALUES (1)")
    [done] = capture(lab.configure(tables))
    assert isinstance(done.error, SchemaChangeError)
    assert "pyops snapshot src.t" in done.error.hint
    assert (ops(lab, "t"), ops(lab, "other")) == ("rr", "c")
    assert snapshot(lab.configure(tables), "t").error is None
    sql("INSERT INTO t VALUES (10, 10, 'z')")
    lab.capture(tables)
    assert (ops(lab, "t"), ops(lab, "other")) == ("rrtrc", "c")
    sql("DROP TABLE t")
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, w text, x date)")
    sql("INSERT INTO t VALUES (11, 11, 'z')")
    lab.capture(CDC | {"other": {"mode": "cdc"}})
    assert ops(lab, "t") == "rrtrctr"
    assert ("recreated", "", "", "") in lab.rows(CHANGES)
    assert [row["id"] for row in current(lab, "t")] == [11]


@pytest.mark.usefixtures("table")
def test_a_column_is_excluded_later_and_landed_again(lab: Lab, sql: Sql) -> None:
    """Behaviours 43 and 62: the source's own ALTER TABLE goes on; values from before need another copy."""
    lab.capture(CDC)
    hidden = {"t": {"mode": "cdc", "exclude": ["w"]}}
    lab.capture(hidden)
    sql("INSERT INTO t VALUES (3, 3, 'hidden')")
    sql("ALTER TABLE t ALTER COLUMN v TYPE bigint, ADD COLUMN x integer DEFAULT 7")
    sql("INSERT INTO t VALUES (4, 4, 'hidden', 8)")
    lab.capture(hidden)
    assert ops(lab, "t") == "rrcc"
    assert lab.rows("SELECT count(w) FROM raw.t__changes WHERE _op = 'c'") == [(0,)]
    snapshot(lab.configure(hidden), "t").raise_for_error()
    sql("ALTER TABLE t DROP COLUMN x")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrcctrrrrtrrrr"
    assert [row["w"] for row in current(lab, "t")][2:] == ["hidden", "hidden"]


@pytest.mark.usefixtures("table")
def test_a_column_is_excluded_later_by_a_column_list(lab: Lab, sql: Sql) -> None:
    """Behaviour 43: the table joins its publication again, under other columns."""
    lab.capture(CDC)
    hidden = {"t": {"mode": "cdc", "exclude": ["w"], "column_list": True}}
    lab.capture(hidden)
    assert sql("SELECT array_to_string(attnames, ',') FROM pg_publication_tables") == [("id,v",)]
    sql("INSERT INTO t VALUES (3, 3, 'hidden')")
    sql("ALTER TABLE t ADD COLUMN x integer DEFAULT 7")
    lab.capture(hidden)
    sql("INSERT INTO t VALUES (4, 4, 'hidden', 8)")
    lab.capture(hidden)
    assert [(row["id"], row["w"], row["x"]) for row in current(lab, "t")] == [
        (1, None, 7), (2, None, 7), (3, None, 7), (4, None, 8)
    ]  # fmt: skip


def test_any_name_can_be_captured(lab: Lab, sql: Sql) -> None:
    """Behaviour 28: capitals, quotes, dots, blanks, keywords, 63 bytes."""
    names = ['Cap "i" tal', "a.b", "select", "ümläut", "x" * 63, "it's", "back\\slash", "{a,b}"]
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        sql(f"CREATE TABLE {quoted} ({quoted} integer PRIMARY KEY, v text)")
        sql(f"INSERT INTO {quoted} VALUES (1, 'a')")
    tables: dict[str, dict[str, Any]] = {name: {"mode": "cdc"} for name in names}
    lab.capture(tables)
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        sql(f"UPDATE {quoted} SET v = 'b'")
        sql(f"INSERT INTO {quoted} VALUES (2, 'c')")
    lab.capture(tables)
    for name in names:
        table = name.replace('"', '""')
        assert ops(lab, table) == "ruc", name
        assert [row["v"] for row in current(lab, table, (name,))] == ["b", "c"]


@pytest.mark.parametrize("name", ["_lsn", "_Op", "_load_id"])
def test_a_name_of_ours_is_refused_by_name(lab: Lab, sql: Sql, name: str) -> None:
    sql(f'CREATE TABLE t (id integer PRIMARY KEY, "{name}" text)')
    with pytest.raises(OperationError, match=f"column {name} cannot be landed"):
        lab.capture(CDC)
    lab.capture({"t": {"mode": "cdc", "exclude": [name]}})


def test_partitions_are_the_table_they_belong_to(lab: Lab, sql: Sql) -> None:
    """Behaviour 28: also one that joins later, and a row that moves from one to the other."""
    sql("CREATE TABLE t (id integer, d integer, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d)")
    for first in (0, 10):
        sql(f"CREATE TABLE t{first} PARTITION OF t FOR VALUES FROM ({first}) TO ({first + 10})")
    sql("INSERT INTO t VALUES (1, 1, 'a'), (2, 11, 'b')")
    lab.capture(CDC)
    sql("CREATE TABLE t20 PARTITION OF t FOR VALUES FROM (20) TO (30)")
    sql("INSERT INTO t VALUES (3, 21, 'c')")
    sql("UPDATE t SET d = 22 WHERE id = 1")
    sql("DELETE FROM t10")
    lab.capture(CDC)
    found = [tuple(row.values()) for row in current(lab, "t", ("id", "d"))]
    assert found == at_source(lab.dsn, "t", "id, d, v", "id, d")
    sql("TRUNCATE t")
    lab.capture(CDC)
    assert current(lab, "t", ("id", "d")) == []


@needs_18
def test_stored_generated_columns_are_captured(lab: Lab, sql: Sql) -> None:
    """Behaviour 28: as the copy has them; virtual ones have to be left out of both."""
    table = {"t": {"mode": "cdc", "exclude": ["double"]}}
    sql(
        "CREATE TABLE t (id integer PRIMARY KEY, price numeric(8, 2),"
        " gross numeric(8, 2) GENERATED ALWAYS AS (price * 1.19) STORED,"
        " double numeric(8, 2) GENERATED ALWAYS AS (price * 2) VIRTUAL)"
    )
    sql("INSERT INTO t VALUES (1, 100)")
    lab.capture(table)
    sql("INSERT INTO t VALUES (2, 200)")
    lab.capture(table)
    assert [event.row for event in events(lab, "t")] == [
        {"id": 1, "price": Decimal("100.00"), "gross": Decimal("119.00")},
        {"id": 2, "price": Decimal("200.00"), "gross": Decimal("238.00")},
    ]


def test_a_poison_change_is_a_dead_letter_and_the_stream_goes_on(lab: Lab, sql: Sql) -> None:
    """Behaviour 37: with its position; a later change of its key makes it good."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v numeric(8, 2))")
    sql("CREATE TABLE other (id integer PRIMARY KEY)")
    tables = CDC | {"other": {"mode": "cdc"}}
    lab.capture(tables)
    sql("INSERT INTO t VALUES (1, 1), (2, 'NaN'), (3, 3)")
    sql("INSERT INTO other VALUES (1)")
    runs = lab.capture(tables)
    assert [(run.rows_written, run.rows_dead_lettered) for run in runs] == [(3, 1)]
    assert (ops(lab, "t"), ops(lab, "other")) == ("cc", "c")
    letter = lab.rows(
        "SELECT key, column_name, value, payload ->> '_seq', (payload ->> '_lsn')::BIGINT ="
        " (SELECT max(_lsn) FROM raw.t__changes), status FROM pyops.dead_letters"
    )
    assert letter == [('{"id":"2"}', "v", "NaN", "1", True, "open")]
    sql("UPDATE t SET v = 2 WHERE id = 2")
    lab.capture(tables)
    assert lab.rows("SELECT status FROM pyops.dead_letters") == [("superseded",)]
    assert [row["id"] for row in current(lab, "t")] == [1, 2, 3]


def test_the_size_of_the_pieces_changes_nothing(lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviours 22 and 26: a chunk ends with a commit, and a transaction is seen at once."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    lab.capture(CDC)
    for n in range(5):
        sql(f"INSERT INTO t SELECT n, 'x' FROM generate_series({n * 100}, {n * 100 + 99}) AS n")
        sql(f"UPDATE t SET v = 'y' WHERE id = {n * 100}")
    monkeypatch.setattr("pyops.cdc.postgres.slot.MESSAGES", 20)
    monkeypatch.setattr("pyops.cdc.postgres.stream.MESSAGES", 20)
    monkeypatch.setattr("pyops.cdc.postgres.slot._BATCH_BYTES", 100)
    runs = [run for run in lab.capture(CDC) if run.rows_written]
    assert len(runs) > 3
    assert all(run.rows_written % 100 < 2 for run in runs), "whole transactions"
    found = [tuple(row.values()) for row in current(lab, "t")]
    assert found == at_source(lab.dsn, "t", "id, v")
    sizes = lab.rows("SELECT DISTINCT count(*) FROM raw.t__changes GROUP BY _lsn, _load_id")
    assert sorted(sizes) == [(1,), (100,)]
