"""What capturing asks of the source, what it refuses, and what it never does to it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pyops.cdc.postgres.slot import Slot, await_transactions, look_at_server, look_at_slot
from pyops.commands import slot as slots
from pyops.commands.cdc import Capture, capture
from pyops.commands.snapshot import snapshot
from pyops.commands.status import status
from pyops.demo.server import Server
from pyops.errors import OperationError, PyopsError, TransientError, UsageError
from pyops.staging.file import Stage
from tests.pyops.change_log import at_source, current, ops
from tests.pyops.conftest import INSTALLED, Connect, Lab, Sql, execute, needs_18

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}
SLOT = "pyops_src"  # the publication's name
OURS = "'pyops_' || current_database() || '_src'"  # the slot's, in SQL


@pytest.fixture
def table(sql: Sql) -> None:
    """A table of two rows."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')")


def _fails(lab: Lab, tables: dict[str, dict[str, Any]], said: str, hint: str, **source: Any) -> None:
    [done] = capture(lab.configure(tables, **source))
    assert done.error is not None
    assert said in str(done.error)
    assert hint in done.error.hint


def slot_of(lab: Lab) -> str:
    """The name of a test's slot, which carries that of its database."""
    return f"pyops_{lab.dsn.split('?')[0].rpartition('/')[2]}_src"


def _objects(sql: Sql) -> tuple[Any, ...]:
    """The slots and publications of this database, and the publications' tables."""
    return (
        sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"),
        sql("SELECT pubname FROM pg_publication"),
        sql("SELECT tablename FROM pg_publication_tables ORDER BY 1"),
    )


def _recreate_slot(sql: Sql) -> None:
    sql(f"SELECT pg_drop_replication_slot({OURS})")
    sql("INSERT INTO t VALUES (77, 'between')")
    sql(f"SELECT 1 FROM pg_create_logical_replication_slot({OURS}, 'pgoutput')")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (f"SELECT pg_drop_replication_slot({OURS})", "does not exist"),
        (_recreate_slot, "is ahead of what was landed"),
        (f"SELECT 1 FROM pg_replication_slot_advance({OURS}, pg_current_wal_flush_lsn())", "ahead"),
        (f"DROP PUBLICATION {SLOT}", f"publication {SLOT} does not exist"),
        (
            f"DROP PUBLICATION {SLOT}; CREATE PUBLICATION {SLOT} FOR TABLE t WITH (publish_via_partition_root)",
            "was dropped and created again",
        ),
        (f"ALTER PUBLICATION {SLOT} SET (publish = 'insert')", "was altered"),
        (
            f"ALTER PUBLICATION {SLOT} SET (publish = 'insert');"
            f" ALTER PUBLICATION {SLOT} SET (publish = 'insert, update, delete, truncate')",
            "was altered",
        ),
        pytest.param(f"ALTER PUBLICATION {SLOT} SET (publish_generated_columns = none)", "was altered", marks=needs_18),
        (f"ALTER PUBLICATION {SLOT} DROP TABLE t", "is not in the publication any more"),
        (
            f"ALTER PUBLICATION {SLOT} DROP TABLE t; ALTER PUBLICATION {SLOT} ADD TABLE t",
            "left the publication and joined it again",
        ),
        (f"ALTER PUBLICATION {SLOT} SET TABLE t (id)", "its column list was altered"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_stream_that_may_lack_changes_is_not_landed(lab: Lab, sql: Sql, break_it: Any, said: str) -> None:
    """Behaviour 17: stop, say so and how to re-snapshot; never go on in silence."""
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    if callable(break_it):
        break_it(sql)
    else:
        for statement in break_it.split("; "):
            sql(statement)
    for _ in range(2):
        _fails(lab, CDC, said, "re-snapshots")
    assert ops(lab, "t") == "rr"


@pytest.mark.usefixtures("table")
def test_a_lost_slot_starts_over_in_a_generation_of_its_own(lab: Lab, sql: Sql) -> None:
    """Behaviours 17 and 30a: what the message says to do is what helps."""
    lab.capture(CDC)
    sql(f"SELECT pg_drop_replication_slot({OURS})")
    sql("DELETE FROM t WHERE id = 1")
    slots.drop(lab.configure(CDC), "src")
    assert _objects(sql) == ([], [], [])
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrtrc"
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")
    generations = lab.rows("SELECT _generation FROM raw.t__changes ORDER BY _generation, _lsn, _seq")
    assert [row[0] for row in generations] == [1, 1, 2, 2, 2]


@pytest.mark.usefixtures("table")
def test_one_altered_table_is_mended_by_copying_it_anew(lab: Lab, sql: Sql) -> None:
    """Behaviour 27: no copy of what did not change."""
    sql("CREATE TABLE other (id integer PRIMARY KEY)")
    tables = CDC | {"other": {"mode": "cdc"}}
    lab.capture(tables)
    sql(f"ALTER PUBLICATION {SLOT} DROP TABLE t")
    sql("INSERT INTO t VALUES (3, 'missed')")
    sql("INSERT INTO other VALUES (1)")
    _fails(lab, tables, "not in the publication", "pyops snapshot src.t")
    assert snapshot(lab.configure(tables), "t").error is None
    assert (ops(lab, "t"), ops(lab, "other")) == ("rrtrrr", "c")
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")


@pytest.mark.usefixtures("table")
def test_the_slot_is_advanced_only_after_the_warehouse_has_committed(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 17: an offset ahead of the slot is a repetition, and adds nothing."""
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    before = sql(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name={OURS}")

    def no_advance(*_: Any) -> None:
        raise TransientError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("pyops.cdc.postgres.stream.advance_slot", no_advance)
        [done] = capture(lab.configure(CDC))
        assert done.error is not None
    after = sql(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name={OURS}")
    assert after == before
    assert ops(lab, "t") == "rrc"
    sql("INSERT INTO t VALUES (4, 'd')")
    lab.capture(CDC)
    lab.capture(CDC)
    assert ops(lab, "t") == "rrcc"


@pytest.mark.usefixtures("table")
def test_a_slot_that_does_not_move_fails_the_run(lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour 25: a backlog without progress is no success."""
    lab.capture(CDC)
    sql("CREATE TABLE elsewhere AS SELECT generate_series(1, 1000)")
    stuck = sql(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name={OURS}")
    monkeypatch.setattr("pyops.cdc.postgres.slot.lsn_text", lambda position: stuck[0][0])
    _fails(lab, CDC, "did not advance", "pyops slot status")


@pytest.mark.usefixtures("table")
def test_other_tables_do_not_hold_the_log_back(lab: Lab, sql: Sql, dsn: str) -> None:
    """Behaviour 24: with nothing to land the slot advances all the same, and frees the log."""
    lab.capture(CDC)
    sql("CREATE TABLE noise (v text)")
    sql("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
    assert slots.slot_status(lab.configure(CDC))[0].kept_bytes > 100_000_000  # type: ignore[operator]
    lab.capture(CDC)
    sql("CHECKPOINT")
    lab.capture(CDC)
    sql("CHECKPOINT")
    lab.capture(CDC)
    [status] = slots.slot_status(lab.configure(CDC))
    assert status.lag_bytes is not None
    assert status.kept_bytes is not None
    assert status.lag_bytes < 1_000_000
    assert status.kept_bytes < 20_000_000
    assert ops(lab, "t") == "rr"


@pytest.mark.usefixtures("table")
def test_second_run_waits_and_is_refused_also_between_two_pieces(
    lab: Lab, sql: Sql, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 30: the lock is the source's, and lasts as long as the run; no table has failed by that."""
    monkeypatch.setattr("pyops.cdc.postgres.capture.TURN", timedelta(seconds=1))
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    holder = connect()
    with holder.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock(hashtext('pyops cdc'), hashtext({OURS}))::text")
        cursor.fetchall()
    _fails(lab, CDC, "another run is landing the changes", "wait")
    assert status(lab.configure(CDC))[0].last_status == "succeeded"
    assert lab.rows("SELECT count(*) FROM pyops.runs WHERE status = 'refused'") == [(1,)]
    holder.rollback()
    holder.close()
    lab.capture(CDC)


@pytest.mark.usefixtures("table")
def test_a_stranger_on_the_slot_is_named(lab: Lab, sql: Sql, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour 30: any other reader is, by its process; also one that came after a look."""
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    before = look_at_slot
    stranger = subprocess.Popen(
        [
            *(server.bin_path / "pg_recvlogical", "-d", lab.dsn, "--slot", slot_of(lab), "--start"),
            *("-o", "proto_version=1", "-o", f"publication_names={SLOT}", "--file", os.devnull),
            *("--status-interval", "0"),
        ]
    )
    active = "SELECT active_pid FROM pg_replication_slots WHERE active"
    try:
        _until(sql, f"SELECT count(*) FROM ({active}) AS s")
        [(pid,)] = sql(active)
        _fails(lab, CDC, f"in use by the source's process {pid}", "wait until it has ended")
        assert f"process {pid} reads" in slots.slot_status(lab.configure(CDC))[0].held_back_by[0]
        with monkeypatch.context() as patch:

            def unused(*arguments: Any) -> Slot | None:
                slot = before(*arguments)
                return slot and replace(slot, active_pid=None)

            patch.setattr("pyops.cdc.postgres.handshake.look_at_slot", unused)
            _fails(lab, CDC, f"is active for PID {pid}", "")
        with pytest.raises(PyopsError, match=f"is active for PID {pid}"):
            slots.drop(lab.configure(CDC), "src")
    finally:
        stranger.kill()
        stranger.wait()
    _until(sql, f"SELECT count(*) = 0 FROM ({active}) AS s")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrc"


@pytest.mark.usefixtures("table")
def test_timeouts_of_the_source_end_no_run(lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour 30: least of all that of the session that holds the lock and does nothing else."""
    [(database,)] = sql("SELECT current_database()::text")
    for (name,) in sql(  # transaction_timeout came with PostgreSQL 17
        "SELECT name::text FROM pg_settings WHERE name ~"
        " '^(idle_session|transaction|statement|idle_in_transaction_session)_timeout$'"
    ):
        sql(f"ALTER DATABASE {database} SET {name} = '100ms'")
    create = Stage.create

    def slowly(*arguments: Any) -> Stage:
        time.sleep(0.3)
        return create(*arguments)

    monkeypatch.setattr(Stage, "create", slowly)
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    lab.capture(CDC)
    assert ops(lab, "t") == "rrc"


def test_a_keyless_table_never_breaks_the_source(lab: Lab, sql: Sql) -> None:
    """Behaviours 23 and 30b: its inserts and truncations land, and its updates go on."""
    sql("CREATE TABLE t (id integer, v text)")
    sql("INSERT INTO t VALUES (1, 'a')")
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (2, 'b')")
    sql("UPDATE t SET v = 'c'")
    sql("DELETE FROM t WHERE id = 1")
    sql("TRUNCATE t")
    lab.capture(CDC)
    assert ops(lab, "t") == "rct"


@pytest.mark.parametrize(
    ("identity", "expected"), [("DEFAULT", "rrud"), ("FULL", "rrud"), ("USING INDEX t_v", "rrud"), ("NOTHING", "rr")]
)
def test_every_replica_identity_lands(lab: Lab, sql: Sql, identity: str, expected: str) -> None:
    """Behaviour 23: with NOTHING the source can still be updated."""
    sql("CREATE TABLE t (big text, v text NOT NULL, b integer, a integer, PRIMARY KEY (a, b))")
    sql("CREATE UNIQUE INDEX t_v ON t (v)")
    sql(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    sql("INSERT INTO t VALUES ('x', 'a', 1, 2), ('y', 'b', 1, 1)")
    lab.capture(CDC)
    sql("UPDATE t SET big = 'z' WHERE a = 2")
    sql("DELETE FROM t WHERE a = 1")
    lab.capture(CDC)
    assert ops(lab, "t") == expected
    if identity in {"DEFAULT", "FULL"}:
        found = [tuple(row.values()) for row in current(lab, "t", ("a", "b"))]
        assert found == at_source(lab.dsn, "t", "big, v, b, a", "a, b")


@pytest.mark.parametrize(
    ("setup", "table", "said"),
    [
        ("ALTER TABLE t REPLICA IDENTITY FULL", {"exclude": ["v"], "column_list": True}, "REPLICA IDENTITY is FULL"),
        (
            "CREATE UNIQUE INDEX i ON t (w); ALTER TABLE t REPLICA IDENTITY USING INDEX i",
            {"exclude": ["w"]},
            "column w identifies its rows",
        ),
        (
            "CREATE UNIQUE INDEX i ON t (w); ALTER TABLE t REPLICA IDENTITY USING INDEX i",
            {"primary_key": ["id"]},
            "do not name the row by its key (id)",
        ),
        ("ALTER TABLE t SET UNLOGGED", {}, "PostgreSQL has no changes of it"),
        ("DROP TABLE t; CREATE VIEW t AS SELECT 1 AS id", {}, "PostgreSQL has no changes of it"),
        ("DROP TABLE t", {}, "there is no table public.t"),
        ("SELECT 1", {"mask": ["vv"]}, "there is no column vv at the source"),
        ("DROP TABLE t; CREATE TABLE t ()", {}, "no column is left to land"),
    ],
)
def test_what_would_break_the_source_is_refused_before_anything_is_made(
    lab: Lab, sql: Sql, setup: str, table: dict[str, Any], said: str
) -> None:
    """Behaviour 30b: the source's own updates go on, and nothing was published."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text, w integer NOT NULL)")
    for statement in setup.split("; "):
        sql(statement)
    _fails(lab, {"t": {"mode": "cdc"} | table}, said, "")
    assert _objects(sql)[2] == []
    if "DROP" not in setup:
        sql("INSERT INTO t VALUES (1, 'a', 1)")
        sql("UPDATE t SET v = 'b'")


def test_rights_that_are_missing_are_named_before_anything_is_made(lab: Lab, sql: Sql, server: Server) -> None:
    """Behaviour 30b: a user who may not replicate, publish, or own."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("CREATE ROLE reader LOGIN")
    try:
        sql("GRANT SELECT ON t TO reader")
        reader = lab.dsn.replace("postgres@", "reader@")
        _fails(lab, CDC, "may not replicate", "ALTER ROLE", dsn=reader)
        sql("ALTER ROLE reader REPLICATION")
        _fails(lab, CDC, "only its owner can publish public.t", "GRANT", dsn=reader)
        assert _objects(sql) == ([], [], [])
        sql("CREATE PUBLICATION ours FOR TABLE t WITH (publish_via_partition_root)")
        lab.capture(CDC, dsn=reader, publication="ours")
        sql("INSERT INTO t VALUES (1, 'a')")
        lab.capture(CDC, dsn=reader, publication="ours")
        assert ops(lab, "t") == "c"
        slots.drop(lab.configure(CDC, dsn=reader, publication="ours"), "src")
        assert _objects(sql) == ([], [("ours",)], [("t",)])
        sql("ALTER TABLE t OWNER TO reader")
        _fails(lab, CDC, "may not make a publication", "GRANT CREATE ON DATABASE", dsn=reader)
        sql(f"GRANT CREATE ON DATABASE {sql('SELECT current_database()::text')[0][0]} TO reader")
        lab.capture(CDC, dsn=reader)
    finally:
        sql("REASSIGN OWNED BY reader TO postgres")
        sql("DROP OWNED BY reader")
        sql("DROP ROLE reader")


@pytest.mark.usefixtures("table")
def test_a_named_publication_must_publish_what_is_needed(lab: Lab, sql: Sql) -> None:
    """Behaviours 17 and 43: all operations, the table, no column to be left out."""
    named: dict[str, Any] = {"publication": "ours", "slot": "our_slot"}
    _fails(lab, CDC, "publication ours does not exist", "create it", **named)
    sql("CREATE PUBLICATION ours WITH (publish = 'insert', publish_via_partition_root)")
    _fails(lab, CDC, "publication ours was altered, or does not publish", "alter it", **named)
    sql("ALTER PUBLICATION ours SET (publish = 'insert, update, delete, truncate')")
    _fails(lab, CDC, "is in none of the publications", "ADD TABLE", **named)
    sql("ALTER PUBLICATION ours ADD TABLE t")
    hidden = {"t": {"mode": "cdc", "exclude": ["v"], "column_list": True}}
    _fails(lab, hidden, "sends columns that are to be left out: v", "column list", **named)
    sql("ALTER PUBLICATION ours SET TABLE t (id)")
    lab.capture(hidden, **named)
    sql("INSERT INTO t VALUES (3, 'secret')")
    lab.capture(hidden, **named)
    assert ops(lab, "t") == "rrc"
    assert current(lab, "t") == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        (
            "ALTER PUBLICATION ours DROP TABLES IN SCHEMA public; INSERT INTO t VALUES (3, 'c');"
            " ALTER PUBLICATION ours ADD TABLES IN SCHEMA public",
            "left the publication and joined it again",
        ),
        (
            "ALTER PUBLICATION ours DROP TABLES IN SCHEMA public; INSERT INTO t VALUES (3, 'c');"
            " ALTER PUBLICATION ours ADD TABLE t",
            "left the publication and joined it again",
        ),
    ],
    ids=["the same schema", "the table alone"],
)
def test_a_schema_that_left_its_publication_and_came_back_is_noticed(
    lab: Lab, sql: Sql, meanwhile: str, said: str
) -> None:
    """Behaviour 17: its tables are in no publication of their own."""
    sql("CREATE PUBLICATION ours FOR TABLES IN SCHEMA public WITH (publish_via_partition_root)")
    lab.capture(CDC, publication="ours")
    for statement in meanwhile.split("; "):
        sql(statement)
    _fails(lab, CDC, said, "pyops snapshot src.t", publication="ours")
    assert snapshot(lab.configure(CDC, publication="ours"), "t").error is None
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")


@needs_18
def test_a_named_publication_that_loses_generated_columns_is_noticed(lab: Lab, sql: Sql) -> None:
    """Behaviour 17: they are no row of it, and would be taken for columns that were dropped."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) STORED)")
    options = "WITH (publish_via_partition_root, publish_generated_columns = {})"
    sql(f"CREATE PUBLICATION ours FOR TABLE t {options.format('stored')}")
    named: dict[str, Any] = {"publication": "ours"}
    lab.capture(CDC, **named)
    sql("INSERT INTO t VALUES (1)")
    sql("ALTER PUBLICATION ours SET (publish_generated_columns = none)")
    sql("INSERT INTO t VALUES (2)")
    _fails(lab, CDC, "was altered", "pyops slot drop src", **named)
    assert ops(lab, "t") == ""


def test_what_one_of_several_publications_lets_pass_is_copied_too(lab: Lab, sql: Sql) -> None:
    """Behaviour 15: copy and stream follow PostgreSQL, which joins their row filters by OR."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t SELECT n, 'a' FROM generate_series(1, 9) AS n WHERE n <> 5")
    filters = {"low": "WHERE (id < 3)", "high": "WHERE (id > 7)", "all_of_it": ""}
    for name, where in filters.items():
        sql(f"CREATE PUBLICATION {name} FOR TABLE t {where} WITH (publish_via_partition_root)")
    sql("INSERT INTO t SELECT n, 'a' FROM generate_series(11, 12) AS n")
    lab.capture(CDC, publication=["high", "low"])
    assert [row["id"] for row in current(lab, "t")] == [1, 2, 8, 9, 11, 12]
    sql("INSERT INTO t VALUES (0, 'b'), (5, 'b'), (13, 'b')")
    lab.capture(CDC, publication=["high", "low"])
    assert ops(lab, "t") == "rrrrrrcc"
    sql("ALTER PUBLICATION low DROP TABLE t")
    _fails(lab, CDC, "left the publication", "snapshot", publication=["high", "low"])
    slots.drop(lab.configure(CDC, publication=["high", "low"]), "src")
    lab.capture(CDC, publication=["all_of_it", "high"])
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")


@pytest.mark.usefixtures("table")
def test_a_log_that_is_not_there_is_begun_anew_with_a_copy(lab: Lab, sql: Sql) -> None:
    """Behaviour 17: dropped by hand, or under another name now: what came before is no less."""
    sql("CREATE TABLE other (id integer PRIMARY KEY)")
    tables = CDC | {"other": {"mode": "cdc"}}
    lab.capture(tables)
    lab.write("DROP TABLE raw.t__changes")
    sql("INSERT INTO t VALUES (3, 'c')")
    sql("INSERT INTO other VALUES (1)")
    lab.capture(tables)
    assert (ops(lab, "t"), ops(lab, "other")) == ("rrr", "c")
    lab.capture(tables | {"t": {"mode": "cdc", "target": "raw.moved"}})
    sql("DELETE FROM t WHERE id = 1")
    lab.capture(tables | {"t": {"mode": "cdc", "target": "raw.moved"}})
    assert (ops(lab, "moved"), ops(lab, "t"), ops(lab, "other")) == ("rrrd", "rrr", "c")


@pytest.mark.usefixtures("table")
def test_a_table_that_is_dropped_before_its_copy_leaves_the_others_alone(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("CREATE TABLE gone (id integer PRIMARY KEY)")
    tables = {"gone": {"mode": "cdc"}} | CDC

    def drop_meanwhile(*arguments: Any, **options: Any) -> None:
        sql("DROP TABLE gone")
        await_transactions(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pyops.cdc.postgres.snapshot.await_transactions", drop_meanwhile)
        _fails(lab, tables, "src.gone left its publication, or was dropped", "next run copies it")
    assert ops(lab, "t") == "rr"


@pytest.mark.usefixtures("table")
def test_a_slot_of_another_project_is_not_taken_over(lab: Lab, sql: Sql) -> None:
    """Behaviour 17: two warehouses on one slot would each lose what the other reads."""
    lab.capture(CDC)
    (lab.directory / "warehouse.duckdb").unlink()
    _fails(lab, CDC, "this warehouse knows nothing of it", "pyops slot drop src")
    slots.drop(lab.configure(CDC), "src")
    lab.capture(CDC)
    assert ops(lab, "t") == "rr"


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("is_listed", [False, True])
def test_excluded_columns_are_never_landed_and_masked_ones_only_hashed(lab: Lab, sql: Sql, is_listed: bool) -> None:
    """Behaviour 43: a column list keeps excluded ones at the source; copy and stream hash alike."""
    sql("ALTER TABLE t ADD COLUMN secret text DEFAULT 'hidden'")
    sql("UPDATE t SET v = 'same'")
    tables = {"t": {"mode": "cdc", "exclude": ["secret"], "mask": ["v"], "column_list": is_listed}}
    lab.capture(tables, mask_salt="salt")
    if is_listed:
        assert sql("SELECT array_to_string(attnames, ',') FROM pg_publication_tables") == [("id,v",)]
    sql("INSERT INTO t VALUES (3, 'same', 'hidden')")
    lab.capture(tables, mask_salt="salt")
    rows = current(lab, "t")
    assert {row["v"] for row in rows} == {rows[0]["v"]}
    assert len(rows[0]["v"]) == 64
    assert set(rows[0]) == {"id", "v"}


def test_tables_are_added_and_removed_later(lab: Lab, sql: Sql) -> None:
    """Behaviour 30a: without a copy of those that stay; one that comes back starts over."""
    for name in ("a", "b"):
        sql(f"CREATE TABLE {name} (id integer PRIMARY KEY)")
        sql(f"INSERT INTO {name} VALUES (1)")
    one, both = {"a": {"mode": "cdc"}}, {"a": {"mode": "cdc"}, "b": {"mode": "cdc"}}
    lab.capture(one)
    sql("INSERT INTO b VALUES (2)")
    lab.capture(both)
    sql("INSERT INTO b VALUES (3)")
    sql("INSERT INTO a VALUES (3)")
    lab.capture(both)
    assert (ops(lab, "a"), ops(lab, "b")) == ("rc", "rrc")
    lab.capture(one)
    assert _objects(sql)[2] == [("a",)]
    sql("INSERT INTO b VALUES (4)")
    sql("INSERT INTO a VALUES (4)")
    lab.capture(one)
    assert (ops(lab, "a"), ops(lab, "b")) == ("rcc", "rrc")
    lab.capture(both)
    assert (ops(lab, "a"), ops(lab, "b")) == ("rcc", "rrctrrrr")


@pytest.mark.usefixtures("table")
def test_a_table_moves_from_batch_to_changes_and_back(lab: Lab, sql: Sql) -> None:
    """Behaviour 30a."""
    lab.extract({"t": {"mode": "full"}})
    lab.capture(CDC)
    with pytest.raises(UsageError, match="is landed by mode cdc"):
        lab.extract(CDC, names=["t"])
    assert lab.extract(CDC) == []
    sql("INSERT INTO t VALUES (3, 'c')")
    lab.extract({"t": {"mode": "full"}})
    assert lab.rows("SELECT count(*) FROM raw.t") == [(3,)]
    assert capture(lab.configure({"t": {"mode": "full"}}), ["src"])[0].error is None
    assert _objects(sql)[2] == []
    lab.capture(CDC)
    assert ops(lab, "t") == "rrtrrr"


@pytest.mark.usefixtures("table")
def test_a_transaction_that_waits_for_a_standby_is_not_lost_at_the_hand_off(
    lab: Lab, sql: Sql, connect: Connect
) -> None:
    """Behaviour 30c: it is committed in the log, and no snapshot shows it yet."""
    sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    sql("SELECT pg_reload_conf()::text")
    try:
        waiting = connect()
        thread = threading.Thread(target=_commit, args=(waiting, "INSERT INTO t VALUES (3, 'late')"))
        thread.start()
        _until(sql, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        found: list[Capture] = []
        project = lab.configure(CDC)
        run = threading.Thread(target=lambda: found.extend(capture(project)))
        run.start()
        run.join(2)
        assert run.is_alive(), "a copy that does not wait lacks the row"
        assert capture(project, patience=timedelta(seconds=0.1))[0].error is not None
    finally:
        sql("SET synchronous_commit = local")
        _configure(lab.dsn, "ALTER SYSTEM RESET synchronous_standby_names")
    thread.join()
    run.join()
    assert [done.error for done in found] == [None]
    lab.capture(CDC)
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, v")
    assert len(at_source(lab.dsn, "t", "id, v")) == 3


def _commit(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.commit()


def _configure(dsn: str, statement: str) -> None:
    execute(dsn, statement)
    execute(dsn, "SELECT pg_reload_conf()::text")


def _until(sql: Sql, condition: str) -> None:
    deadline = time.monotonic() + 20
    while not sql(condition)[0][0]:
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


@pytest.mark.usefixtures("table")
def test_open_transactions_hold_a_copy_up_and_are_named(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 15: a copy without the wait would lose what they commit; a wait has an end."""
    holder = connect()
    with holder.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (3, 'open')")
        pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL")[0][0]
    [done] = capture(lab.configure(CDC), patience=timedelta(seconds=0.3))
    assert isinstance(done.error, TransientError)
    assert f"process {pid}" in done.error.hint
    holder.commit()
    lab.capture(CDC)
    assert ops(lab, "t") == "rrr"


def test_a_server_that_keeps_no_changes_is_refused(lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """wal_level, version, and standbys: each with what to change there."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    for change, said in (
        ({"wal_level": "replica"}, "wal_level is replica"),
        ({"version": 140000}, "PostgreSQL 15 or later"),
        ({"is_standby": True}, "is a standby"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                "pyops.cdc.postgres.capture.look_at_server",
                lambda session, change=change: replace(look_at_server(session), **change),
            )
            _fails(lab, CDC, said, "")
    assert _objects(sql) == ([], [], [])


@pytest.mark.usefixtures("table")
def test_another_cluster_is_not_taken_for_the_one_before(lab: Lab, sql: Sql) -> None:
    """Behaviour 30a: LSNs begin anew there; a restored one ends before what was landed."""
    lab.capture(CDC)
    lab.write("UPDATE pyops.cdc_offsets SET system_id = '1'")
    _fails(lab, CDC, "is another cluster", "pyops slot drop src")
    lab.write("UPDATE pyops.cdc_offsets SET system_id = (SELECT '')")
    state = sql("SELECT system_identifier::text FROM pg_control_system()")[0][0]
    lab.write(f"UPDATE pyops.cdc_offsets SET system_id = '{state}', lsn = {2**50}")
    _fails(lab, CDC, "ends before what was landed", "pyops slot drop src")


@pytest.mark.usefixtures("table")
def test_another_timeline_is_followed_only_from_where_both_are_one(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviours 17 and 30a: behind a failover the same positions may be other changes."""
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    lab.write("UPDATE pyops.cdc_offsets SET timeline = 7")
    lab.capture(CDC)
    assert lab.rows("SELECT timeline FROM pyops.cdc_offsets") == [(1,)]
    sql("INSERT INTO t VALUES (4, 'd')")
    with monkeypatch.context() as patch:
        patch.setattr("pyops.cdc.postgres.stream.advance_slot", lambda *_: None)
        lab.capture(CDC)
    lab.write("UPDATE pyops.cdc_offsets SET timeline = 7")
    _fails(lab, CDC, "its timeline is 1, and was 7", "pyops slot drop src")
    assert ops(lab, "t") == "rrcc"


def test_usage_errors_say_what_is_configured(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    with pytest.raises(UsageError, match="there is no source of changes 'shop'") as error:
        capture(lab.configure(CDC), ["shop"])
    assert "src" in error.value.hint
    with pytest.raises(UsageError, match="is landed by mode full"):
        snapshot(lab.configure({"t": {"mode": "full"}}), "t")
    for wrong, said in (
        ({"gates": {"min_rows": 1}}, "no gates"),
        ({"max_dead_letter_rate": 0.5}, "no max_dead_letter_rate"),
        ({"cursor": "id"}, "mean nothing to mode cdc"),
        ({"write": "merge"}, "cannot write by merge"),
        ({"target": "raw."}, "invalid target 'raw.': write schema and table"),
        ({"target": "Pyops.runs"}, "invalid target 'Pyops.runs': schema pyops is reserved"),
    ):
        with pytest.raises(UsageError, match=said):
            lab.configure({"t": {"mode": "cdc"} | wrong})
    for source, said in (
        ({"slot": "Our-Slot"}, "slot: invalid slot name 'Our-Slot'"),
        ({"publication": ["ours", ""]}, "publication: invalid publication name ''"),
        ({"publication": "ü" * 32}, "use 1 to 63 bytes"),
    ):
        with pytest.raises(UsageError, match=said):
            lab.configure(CDC, **source)


def test_errors_of_one_table_leave_the_others_alone(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    tables = CDC | {"gone": {"mode": "cdc"}}
    for expected in ("", "c"):
        [done] = capture(lab.configure(tables))
        assert isinstance(done.error, (OperationError, PyopsError))
        assert "public.gone" in str(done.error)
        assert ops(lab, "t") == expected
        sql("INSERT INTO t SELECT count(*) FROM t")
    runs = lab.rows("SELECT table_name, status FROM pyops.runs WHERE status = 'failed'")
    assert runs == [("gone", "failed")] * 2


@pytest.mark.usefixtures("table")
def test_status_shows_where_a_slot_stands_and_what_holds_it_back(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 25: lag in bytes and seconds, log kept, last change, processes, prepared ones."""
    project = lab.configure(CDC)
    [never] = slots.slot_status(project)
    assert never.problem == "there is no slot yet: run pyops cdc src"
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (3, 'c')")
    lab.capture(CDC)
    [status] = slots.slot_status(project)
    assert (status.slot, status.generation, status.problem) == (slot_of(lab), 1, None)
    assert status.last_change_at is not None
    assert status.lag_seconds is not None
    holder = connect()
    with holder.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (4, 'held')")
    pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL")[0][0]
    prepared = connect()
    with prepared.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (5, 'prepared')")
        cursor.execute("PREPARE TRANSACTION 'waiting'")
    try:
        sql("CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
        lab.capture(CDC)
        sql("CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
        [status] = slots.slot_status(project)
        assert status.held_back_by == (f"process {pid}", "prepared transaction 'waiting'")
        assert status.lag_bytes is not None
        assert status.kept_bytes is not None
        assert status.kept_bytes > status.lag_bytes > 2_000_000
        assert status.lag_seconds is not None
        assert 0 < status.lag_seconds < 60
        assert slots.lagging(project, [status]) == []
        assert slots.lagging(project, [status], 100) == [status]
        assert slots.lagging(project, [status], 1 << 30) == []
        assert slots.lagging(lab.configure(CDC, fail_if_lag="1MB"), [status]) == [status]
    finally:
        holder.rollback()
        sql("ROLLBACK PREPARED 'waiting'")
    sql(f"SELECT pg_drop_replication_slot({OURS})")
    [gone] = slots.slot_status(project)
    assert gone.problem == f"slot {slot_of(lab)} is not there"
    assert slots.lagging(project, [gone], 1 << 40) == [gone]


@pytest.mark.usefixtures("table")
def test_status_warns_of_a_disk_that_may_fill_and_of_a_slot_that_may_be_lost(lab: Lab, sql: Sql, dsn: str) -> None:
    """max_slot_wal_keep_size and idle_replication_slot_timeout."""
    lab.capture(CDC)

    def warnings(**settings: str) -> str:
        for name, value in settings.items():
            _configure(dsn, f"ALTER SYSTEM SET {name} = '{value}'")
        time.sleep(0.1)
        return " ".join(slots.slot_status(lab.configure(CDC))[0].warnings)

    try:
        assert "disk fills" in warnings(max_slot_wal_keep_size="-1")
        assert warnings(max_slot_wal_keep_size="1GB") == ""
        if INSTALLED is None:  # PostgreSQL 18 brought it
            said = warnings(idle_replication_slot_timeout="1d")
            assert "idle_replication_slot_timeout is 1d: the slot is lost" in said
        assert "more bytes" not in warnings(max_slot_wal_keep_size="48MB")
        sql("CREATE TABLE noise (v text)")
        for _ in range(15):  # the limit counts segments of 16 MB, wherever the slot is in one
            sql("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 4000)")
            if "more bytes" in (said := warnings()):
                break
        assert "more bytes of log (max_slot_wal_keep_size): run pyops cdc now" in said
    finally:
        _configure(dsn, "ALTER SYSTEM RESET ALL")


@pytest.mark.usefixtures("table")
def test_commands_show_slots_and_fail_beyond_a_limit(lab: Lab, sql: Sql) -> None:
    """Behaviour 25: `--fail-if-lag`, on both status commands; a wrong size is a wrong usage."""
    from tests.pyops.test_cli import command

    lab.configure(CDC)
    done = command(lab.directory, "cdc")
    assert done.returncode == 0
    assert done.stdout == "src: 1 tables copied (2 rows), 0 changes landed\n"
    sql("CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    for name in (["status"], ["slot", "status"]):
        done = command(lab.directory, *name, "--fail-if-lag", "1GB")
        assert (done.returncode, slot_of(lab) in done.stdout, " MB" in done.stdout) == (0, True, True)
        done = command(lab.directory, *name, "--fail-if-lag", "1MB", "--json")
        assert done.returncode == 1
        assert "bytes behind, above the limit" in done.stderr
        assert '"lag_bytes"' in done.stdout
    done = command(lab.directory, "status", "--fail-if-lag", "much")
    assert (done.returncode, "--fail-if-lag: invalid size 'much'" in done.stderr) == (2, True)
    done = command(lab.directory, "cdc", "nobody")
    assert (done.returncode, "there is no source of changes" in done.stderr) == (2, True)
    done = command(lab.directory, "cdc", "--interval", "5s")
    assert (done.returncode, "--interval means nothing without --follow" in done.stderr) == (2, True)
    done = command(lab.directory, "cdc", "--follow", "--interval", "soon")
    assert (done.returncode, "--interval: invalid duration 'soon'" in done.stderr) == (2, True)
    done = command(lab.directory, "snapshot", "t", "--json")
    assert (done.returncode, '"mode": "snapshot"' in done.stdout) == (0, True)
    done = command(lab.directory, "slot", "drop", "src")
    assert (done.returncode, done.stdout) == (0, "src: slot dropped; what was landed stays\n")


@pytest.mark.usefixtures("table")
def test_dropping_gives_up_the_slot_that_was_used_whatever_the_configuration_says(lab: Lab, sql: Sql) -> None:
    """Behaviour 24: one that is forgotten would keep the source's log for ever."""
    lab.capture(CDC)
    _fails(lab, CDC, f"its slot was {slot_of(lab)}, the configuration says other", "drop", slot="other")
    slots.drop(lab.configure(CDC, slot="other"), "src")
    assert _objects(sql) == ([], [], [])
    lab.capture(CDC, slot="other")
    assert _objects(sql)[0] == [("other",)]
