"""Source against warehouse."""

import json
from typing import Any

import pytest

from pyops import UsageError, reconcile
from tests.pyops.conftest import Lab, Sql
from tests.pyops.test_cli import command

MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id", "shop"]}


@pytest.fixture
def drifted(lab: Lab, sql: Sql) -> Lab:
    """Two rows deleted, one changed behind its cursor, one added behind the watermark."""
    sql("CREATE TABLE t (id bigint, shop text, at bigint, n numeric(6,2), PRIMARY KEY (id, shop))")
    sql("INSERT INTO t SELECT i, 'a', i, 1 FROM generate_series(1, 10) AS i")
    lab.extract({"t": MERGE})
    sql("DELETE FROM t WHERE id IN (3, 4)")
    sql("UPDATE t SET n = 2 WHERE id = 5")
    sql("INSERT INTO t VALUES (6, 'b', 0, 1)")
    lab.extract({"t": MERGE})
    return lab


def rows(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows("SELECT id, shop, n::VARCHAR FROM raw.t ORDER BY 1, 2")


def test_deleted_changed_and_missed_rows_are_counted(drifted: Lab) -> None:
    """Behaviour 7."""
    before = rows(drifted)
    found = reconcile(drifted.configure({"t": MERGE}), "t")
    assert (found.source_rows, found.warehouse_rows) == (9, 10)
    assert (found.missing, found.extra, found.different) == (1, 2, 1)
    assert not found.is_equal
    assert rows(drifted) == before


def test_apply_makes_both_sides_equal_and_leaves_the_watermark(drifted: Lab, sql: Sql) -> None:
    """Behaviour 7."""
    project = drifted.configure({"t": MERGE})
    mark = drifted.rows("SELECT * FROM pyops.watermarks")
    found = reconcile(project, "src.t", apply=True)
    assert found.run
    assert (found.run.rows_written, found.run.rows_deleted) == (2, 3)
    assert rows(drifted) == sql("SELECT id, shop, n::text FROM t ORDER BY 1, 2")
    assert drifted.rows("SELECT * FROM pyops.watermarks") == mark
    again = reconcile(project, "t", apply=True)
    assert again.is_equal
    assert again.run is None


def test_row_that_cannot_be_landed_is_not_taken_for_deleted(lab: Lab, sql: Sql) -> None:
    """Behaviour 7: its last good version stays."""
    table = {**MERGE, "primary_key": "id"}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, n numeric(6,2))")
    sql("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    lab.extract({"t": table})
    sql("UPDATE t SET n = 'NaN' WHERE id = 1")
    found = reconcile(lab.configure({"t": table}), "t", apply=True)
    assert (found.is_equal, found.dead_letters) == (True, 1)
    assert lab.rows("SELECT id FROM raw.t ORDER BY id") == [(1,), (2,)]


def test_command_exits_with_1_where_the_sides_differ(drifted: Lab) -> None:
    """Behaviour 7."""
    done = command(drifted.directory, "reconcile", "t")
    assert done.returncode == 1
    assert "1 missing, 2 extra, 1 different" in done.stdout
    done = command(drifted.directory, "reconcile", "t", "--apply", "--json")
    assert (done.returncode, json.loads(done.stdout)["extra"]) == (0, 2)
    assert command(drifted.directory, "reconcile", "t").returncode == 0


def test_table_without_a_key_is_refused(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint)")
    lab.extract({"t": {"mode": "full"}})
    with pytest.raises(UsageError, match="without a primary_key"):
        reconcile(lab.configure({"t": {"mode": "full"}}), "t")
