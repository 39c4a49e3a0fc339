"""Changes of a real PostgreSQL on their way into the change logs."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from pyops.cdc.postgres.stream import StagedChanges
from pyops.commands.cdc import follow
from pyops.commands.snapshot import snapshot
from pyops.records import Captured, Offset
from pyops.sources.postgres.session import Session
from tests.pyops.change_log import at_source, current, events, ops
from tests.pyops.conftest import Connect, Lab, Sql

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}


def _same(lab: Lab, columns: str = "id, v", table: str = "t", order: str = "id") -> None:
    """The log's current state is the source's, row for row."""
    names = [name.strip() for name in columns.split(",")]
    landed = [tuple(row[name] for name in names) for row in current(lab, table, (order,))]
    assert landed == at_source(lab.dsn, table, columns, order)


def test_a_table_is_copied_and_then_followed(lab: Lab, sql: Sql) -> None:
    """Behaviours 15 and 16: the copy is `r` rows, each later change is one event."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    lab.capture(CDC)
    assert ops(lab, "t") == "rr"
    sql("INSERT INTO t VALUES (3, 'c'), (4, NULL), (5, '')")
    sql("UPDATE t SET v = 'B' WHERE id = 2")
    sql("DELETE FROM t WHERE id = 1")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrcccud"
    _same(lab)


def test_a_run_without_changes_changes_nothing(lab: Lab, sql: Sql) -> None:
    """Behaviour 48."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (1, 'a')")
    lab.capture(CDC)
    before = lab.rows("SELECT * FROM raw.t__changes"), lab.rows("SELECT * FROM pyops.loads")
    lab.capture(CDC)
    lab.capture(CDC)
    assert (lab.rows("SELECT * FROM raw.t__changes"), lab.rows("SELECT * FROM pyops.loads")) == before


def test_events_carry_their_position_their_transaction_and_its_time(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 16: position and sequence in the transaction are an event's identity."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    lab.capture(CDC)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 'a')")
        cursor.execute("UPDATE t SET v = 'b'")
        cursor.execute("DELETE FROM t")
    connection.commit()
    sql("INSERT INTO t VALUES (2, 'c')")
    lab.capture(CDC)
    found = lab.rows(
        "SELECT _op, _seq, count(*) OVER (PARTITION BY _lsn, _xid, _committed_at),"
        " _committed_at BETWEEN now()::TIMESTAMP - INTERVAL 1 HOUR AND now()::TIMESTAMP,"
        " _generation FROM raw.t__changes ORDER BY _lsn, _seq"
    )
    assert found == [
        ("c", 0, 3, True, 1), ("u", 1, 3, True, 1), ("d", 2, 3, True, 1), ("c", 0, 1, True, 1)
    ]  # fmt: skip


def test_the_last_state_of_a_key_wins_whatever_came_before(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 21: I+U, I+D, U+D, D+I, I+U+D and I+D+I, in one batch and in one transaction."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t SELECT n, 'old' FROM generate_series(1, 20) AS n")
    lab.capture(CDC)
    statements = [
        "INSERT INTO t VALUES (31, 'i')", "UPDATE t SET v = 'iu' WHERE id = 31",
        "INSERT INTO t VALUES (32, 'i')", "DELETE FROM t WHERE id = 32",
        "UPDATE t SET v = 'u' WHERE id = 3", "DELETE FROM t WHERE id = 3",
        "DELETE FROM t WHERE id = 4", "INSERT INTO t VALUES (4, 'di')",
        "INSERT INTO t VALUES (35, 'i')", "UPDATE t SET v = 'iu' WHERE id = 35",
        "DELETE FROM t WHERE id = 35",
        "INSERT INTO t VALUES (36, 'i')", "DELETE FROM t WHERE id = 36",
        "INSERT INTO t VALUES (36, 'idi')",
    ]  # fmt: skip
    for statement in statements:
        sql(statement)
    lab.capture(CDC)
    _same(lab)
    connection = connect()
    with connection.cursor() as cursor:
        for statement in statements:
            shifted = statement.replace("3", "5").replace("id = 4", "id = 6").replace("(4", "(6")
            cursor.execute(shifted)
    connection.commit()
    lab.capture(CDC)
    _same(lab)


def test_a_changed_key_is_a_delete_and_an_insert(lab: Lab, sql: Sql) -> None:
    """Behaviour 19: keys swapped inside one transaction come out right, too."""
    sql("CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)")
    sql("ALTER TABLE t REPLICA IDENTITY FULL")  # a deferrable key is no replica identity
    sql("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    lab.capture(CDC)
    sql("UPDATE t SET id = 3 - id WHERE id < 3")
    sql("UPDATE t SET id = 7 WHERE id = 3")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrrdccdc"
    _same(lab)


def test_an_unchanged_toast_value_is_named_and_not_made_null(lab: Lab, sql: Sql) -> None:
    """Behaviour 18: `_unchanged` lists the columns PostgreSQL did not send."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, big text)")
    sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    sql("INSERT INTO t VALUES (1, 0, repeat('x', 10000)), (2, 0, repeat('y', 10000))")
    lab.capture(CDC)
    sql("UPDATE t SET v = 1")
    sql("UPDATE t SET big = NULL WHERE id = 2")
    sql("INSERT INTO t VALUES (3, 0, repeat('z', 10000))")
    sql("UPDATE t SET v = 2")
    sql("UPDATE t SET id = 4 WHERE id = 1")
    lab.capture(CDC)
    _same(lab, "id, v, big")
    updates = [e for e in events(lab, "t") if e.op == "u" and e.row["id"] == 1]
    assert [e.unchanged for e in updates] == [("big",), ("big",)]
    assert [e.row["big"] for e in updates] == [None, None]


def test_rows_before_a_truncation_go_and_rows_behind_it_stay(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 20: of one table or several, CASCADE too, and in the same batch."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("CREATE TABLE other (id integer PRIMARY KEY, t_id integer REFERENCES t)")
    sql("INSERT INTO t VALUES (1, 'a')")
    sql("INSERT INTO other VALUES (1, 1)")
    tables = CDC | {"other": {"mode": "cdc"}}
    lab.capture(tables)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (2, 'b')")
        cursor.execute("TRUNCATE t CASCADE")
        cursor.execute("INSERT INTO t VALUES (3, 'c')")
    connection.commit()
    lab.capture(tables)
    assert (ops(lab, "t"), ops(lab, "other")) == ("rctc", "rt")
    _same(lab)
    _same(lab, "id, t_id", "other")


def test_what_was_rolled_back_leaves_nothing(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 22: transactions and savepoints."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    lab.capture(CDC)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 'gone')")
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (2, 'kept')")
        cursor.execute("SAVEPOINT s")
        cursor.execute("INSERT INTO t VALUES (3, 'gone')")
        cursor.execute("ROLLBACK TO SAVEPOINT s")
    connection.commit()
    lab.capture(CDC)
    assert ops(lab, "t") == "c"
    _same(lab)


def test_copies_of_one_moment_follow_each_other(lab: Lab, sql: Sql) -> None:
    """Behaviour 16: with nothing committed between them, each event still is one of its own."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    lab.capture(CDC)
    for _ in range(3):
        lab.write("UPDATE raw.t__changes SET _lsn = (SELECT lsn - 1 FROM pyops.cdc_offsets)")
        assert snapshot(lab.configure(CDC), "t").error is None
    assert ops(lab, "t") == "rr" + "trr" * 3
    _same(lab)


def test_texts_of_megabytes_land_whole(lab: Lab, sql: Sql) -> None:
    """Behaviour 34: one of 10 MB, many of 1 MB, among small ones; and an update around one."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, n integer, v text)")
    sql("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    lab.capture(CDC)
    sql("INSERT INTO t SELECT n, n, repeat('é', 500000) FROM generate_series(1, 60) AS n")
    sql("INSERT INTO t VALUES (0, 0, repeat('naïve ', 1800000)), (-1, 0, '')")
    sql("UPDATE t SET n = -1 WHERE id = 0")
    lab.capture(CDC)
    found = lab.rows("SELECT id, n, md5(v), _unchanged FROM raw.t__changes ORDER BY _lsn, _seq")
    wanted = sql("SELECT id, 0, md5(v) FROM t ORDER BY id")
    assert {(row[0], row[2]) for row in found if row[2]} == {(row[0], row[2]) for row in wanted}
    assert found[-1] == (0, -1, None, ["v"])
    assert len(found) == 63


def test_transactions_are_told_apart_where_their_numbers_begin_anew() -> None:
    """Behaviour 30a: the stream has 32 bits of them; a snapshot has 64, here of the third round."""
    turn = 3 << 32
    seen = f"{turn - 9}:{turn + 5}:{turn - 2},{turn + 3}"
    captured = Captured("t", 1, 1, 1, ("id",), seen, snapshot_lsn=99, handoff_lsn=200)
    offset = Offset("src", 1, "active", "slot", "", 1, lsn=100)
    staged = StagedChanges(None, {}, {}, offset, None, "")  # type: ignore[arg-type]
    xids = [2**32 - 9, 2**32 - 2, 2**32 - 1, 3, 4, 5, 6]
    events = [(lsn, xid) for lsn in (50, 150, 250) for xid in xids]
    rows = ", ".join(map(str, events))
    query = f"SELECT _lsn, _xid FROM (VALUES {rows}) AS t (_lsn, _xid) WHERE "
    with duckdb.connect() as connection:
        new = connection.execute(query + staged._is_new(captured)).fetchall()
    assert new == [(150, xid) for xid in (2**32 - 2, 3, 5, 6)] + [(250, xid) for xid in xids]


def test_followed_source_that_idles_is_asked_little_and_writes_nothing(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 24: sessions are kept; offset and slot move when much log is kept, or in time."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    project = lab.configure(CDC)
    lab.capture(CDC)
    file = lab.directory / "warehouse.duckdb"
    position = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
    seen: list[tuple[Any, ...]] = []
    asked: list[str] = []
    query = Session.query

    def counted(session: Session, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        asked.append(statement)
        return query(session, statement, *parameters)

    def rest(_: float) -> None:
        pids = sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pyops' ORDER BY 1")
        seen.append((pids, file.stat().st_mtime_ns, sql(position), len(asked)))
        if len(seen) == 5:
            sql("INSERT INTO t SELECT n FROM generate_series(1, 100) AS n")
        if len(seen) == 8:
            monkeypatch.setattr("pyops.cdc.postgres.stream.IDLE_BYTES", 1)
            sql("CREATE TABLE other AS SELECT 1 AS id")
        if len(seen) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "query", counted)
    runs = "SELECT count(*) FROM pyops.runs"
    before = lab.rows(runs)
    with pytest.raises(KeyboardInterrupt):
        follow(project, interval=timedelta(seconds=1), sleep=rest)
    assert len({tuple(pids) for pids, *_ in seen}) == 1, "the sessions are the same all the while"
    assert len(seen[0][0]) == 2
    idle, landed, moved = seen[1:5], seen[5:8], seen[8:]
    assert len({(mtime, str(slot)) for _, mtime, slot, _ in idle}) == 1, "nothing is written"
    assert all(b[3] - a[3] <= 3 for a, b in itertools.pairwise(idle))
    assert landed[0][1] > idle[-1][1]
    assert len({mtime for _, mtime, *_ in landed}) == 1
    assert moved[0][2] != landed[-1][2], "other log is let go"
    assert lab.rows("SELECT count(*) FROM raw.t__changes") == [(100,)]
    assert lab.rows(runs)[0][0] == before[0][0] + 1, "a look that finds nothing is no run"
