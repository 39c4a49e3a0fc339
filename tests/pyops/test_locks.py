"""What one snapshot does not see: commands that are not MVCC-safe, between it and the read of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pytest

from pyops import TransientError, extract, reconcile, snapshot
from pyops.sources.postgres import session
from pyops.sources.postgres.session import Session
from tests.pyops.conftest import Lab, Sql

FULL: dict[str, dict[str, Any]] = {name: {"mode": "full", "primary_key": ["id"]} for name in "ab"}
CDC: dict[str, dict[str, Any]] = {name: {"mode": "cdc"} for name in "ab"}
# PostgreSQL manual, 13.6: what a snapshot that was taken before does not protect from.
COMMANDS = [
    "TRUNCATE b",
    "TRUNCATE b_1",
    "ALTER TABLE b ALTER v TYPE bigint",
    "DROP TABLE b",
    "ALTER TABLE b DETACH PARTITION b_1",
    "ALTER TABLE b RENAME TO c",
]


@pytest.fixture(autouse=True)
def tables(sql: Sql) -> None:
    sql("CREATE TABLE a (id integer PRIMARY KEY, v integer)")
    sql("CREATE TABLE b (id integer PRIMARY KEY, v integer) PARTITION BY RANGE (id)")
    sql("CREATE TABLE b_1 PARTITION OF b FOR VALUES FROM (0) TO (100)")
    for name in "ab":
        sql(f"INSERT INTO {name} SELECT n, n FROM generate_series(1, 9) AS n")


def between(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Does something after the snapshot was taken and before the first table is read."""
    read, done = Session.read, list[object]()

    def later(self: Session, statement: str, **options: Any) -> Any:
        if not done and "pg_logical_slot" not in statement:
            done.append(do())
        return read(self, statement, **options)

    monkeypatch.setattr(Session, "read", later)


@pytest.mark.parametrize("command", ["extract", "cdc", "snapshot", "reconcile"])
def test_what_a_snapshot_does_not_see_waits_until_the_tables_are_read(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Behaviour 49: partitions too."""
    waited = []

    def disturb() -> None:
        sql("SET lock_timeout = '100ms'")
        for statement in COMMANDS:
            with pytest.raises(adbc.Error, match="lock timeout"):
                sql(statement)
            waited.append(statement)

    if command == "extract":
        between(monkeypatch, disturb)
        assert [run.rows_written for run in lab.extract(FULL)] == [9, 9]
    elif command == "cdc":
        between(monkeypatch, disturb)
        assert [run.rows_written for run in lab.capture(CDC)[:2]] == [9, 9]
    elif command == "snapshot":
        lab.capture(CDC)
        between(monkeypatch, disturb)
        snapshot(lab.configure(CDC), "b").raise_for_error()
    else:
        lab.extract(FULL)
        between(monkeypatch, disturb)
        assert reconcile(lab.configure(FULL), "b").is_equal
    assert waited[: len(COMMANDS)] == COMMANDS


def test_what_was_altered_before_the_lock_is_looked_at_again(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 49: the table is read as it is under the lock, not as it was when it was planned."""
    taken = Session.snapshot

    @contextmanager
    def later(self: Session, locked: Any = ()) -> Iterator[Any]:
        if locked:
            sql("DROP TABLE a")
            sql("CREATE TABLE a (id integer PRIMARY KEY, w text)")
            sql("INSERT INTO a VALUES (1, 'new')")
        with taken(self, locked) as refused:
            yield refused

    monkeypatch.setattr(Session, "snapshot", later)
    lab.extract({"a": FULL["a"]})
    assert lab.rows("SELECT id, w FROM raw.a") == [(1, "new")]


def test_table_that_is_locked_for_long_fails_alone(
    lab: Lab, sql: Sql, connect: Callable[[], adbc.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 49: after a bounded wait, with an error that is worth another try."""
    monkeypatch.setattr(session, "LOCK_SECONDS", 0.1)
    holder = connect()
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
    done = {item.table.name: item for item in extract(lab.configure(FULL))}
    assert done["a"].run.rows_written == 9
    assert isinstance(done["b"].error, TransientError)
    assert str(done["b"].error) == "src.b is locked by another session"
    holder.rollback()
    assert [run.rows_written for run in lab.extract(FULL)] == [9, 9]


def test_table_that_may_not_be_locked_is_looked_at_after_its_read(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 49: rights to some columns are enough to read them, and not to lock their table."""
    role = f"reader_{lab.directory.name}".replace("-", "_")[:60].lower()
    sql(f"CREATE ROLE {role} LOGIN")
    sql(f"GRANT SELECT (id) ON b TO {role}")
    reader = Lab(lab.directory, lab.dsn.replace("postgres@", f"{role}@"))
    table = {"b": {**FULL["b"], "columns": ["id"]}}
    assert reader.extract(table)[0].rows_written == 9
    between(monkeypatch, lambda: sql("TRUNCATE b_1"))
    with pytest.raises(TransientError, match=r"src\.b was truncated or rewritten while it was read"):
        reader.extract(table)
    assert lab.rows("SELECT count(*) FROM raw.b") == [(9,)]
