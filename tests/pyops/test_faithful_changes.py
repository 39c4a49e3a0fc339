"""Ways to lose, double or alter changes in silence: each lands right, or is refused with a way out."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyops import OperationError, capture, extract, load, slot_status, snapshot, status
from pyops.cdc.postgres.publication import default_name
from pyops.commands import slot
from pyops.demo.server import Server
from tests.pyops.change_log import current
from tests.pyops.conftest import INSTALLED, UNSAFE, Connect, Lab, Sql, execute, needs_18

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}


def ops(lab: Lab) -> str:
    return "".join(op for (op,) in lab.rows("SELECT _op FROM raw.t__changes ORDER BY _generation, _lsn, _seq"))


def test_generated_columns_that_are_not_published_are_refused(lab: Lab, sql: Sql) -> None:
    """Behaviours 28 and 61: a log without them would not be what a full load has."""
    kind = "STORED" if INSTALLED else "VIRTUAL"  # PostgreSQL 18 publishes the first, no version the second
    sql(f"CREATE TABLE t (id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) {kind})")
    sql("INSERT INTO t VALUES (1)")
    with pytest.raises(OperationError, match=r"column twice is generated, and this PostgreSQL does not publish"):
        lab.capture(CDC)
    lab.capture({"t": {"mode": "cdc", "exclude": ["twice"]}})
    sql("INSERT INTO t VALUES (2)")
    lab.capture({"t": {"mode": "cdc", "exclude": ["twice"]}})
    assert [row["id"] for row in current(lab, "t")] == [1, 2]


@pytest.mark.parametrize(
    "shape",
    [
        ["CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE, v integer)"],
        [
            "CREATE TABLE t (id integer, v integer) PARTITION BY RANGE (id)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
            "ALTER TABLE t REPLICA IDENTITY FULL",
        ],
        [
            "CREATE TABLE t (id integer PRIMARY KEY, v integer) PARTITION BY RANGE (id)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
            "ALTER TABLE t_1 REPLICA IDENTITY NOTHING",
        ],
    ],
)
def test_publishing_breaks_no_update_whatever_identifies_a_row(lab: Lab, sql: Sql, shape: list[str]) -> None:
    """Behaviours 30b and 62: PostgreSQL's rule holds leaf by leaf."""
    for statement in shape:
        sql(statement)
    sql("INSERT INTO t VALUES (1, 1)")
    lab.capture({"t": {"mode": "cdc", "primary_key": ["id"]}})
    sql("UPDATE t SET v = v + 1")
    sql("DELETE FROM t")
    sql("INSERT INTO t VALUES (2, 2)")
    lab.capture({"t": {"mode": "cdc", "primary_key": ["id"]}})
    assert ops(lab) == "rc"


def test_table_that_others_inherit_from_is_refused(lab: Lab, sql: Sql) -> None:
    """Behaviour 28: a full load has their rows, the stream only its own."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    sql("CREATE TABLE t_child () INHERITS (t)")
    with pytest.raises(OperationError, match=r"other tables inherit from it \(t_child\)"):
        lab.capture(CDC)


def test_copy_again_lands_what_waits_in_the_slot_first(lab: Lab, sql: Sql) -> None:
    """Behaviour 65: for a snapshot, and for another table that joins."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("CREATE TABLE u (id integer PRIMARY KEY)")
    sql("INSERT INTO t VALUES (1, 'a')")
    lab.capture(CDC)
    for value in "bc":
        sql(f"UPDATE t SET v = '{value}'")
    snapshot(lab.configure(CDC), "t").raise_for_error()
    assert ops(lab) == "ruutr"
    sql("UPDATE t SET v = 'd'")
    lab.capture({**CDC, "u": {"mode": "cdc"}})
    assert ops(lab) == "ruutru"


def test_generations_of_a_log_rise_whatever_its_source_is_called(lab: Lab, sql: Sql, dsn: str) -> None:
    """Behaviour 66: a new slot of a renamed source sorts behind the old one."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (1, 'a')")
    for _ in range(2):
        lab.capture(CDC)
        slot.drop(lab.configure(CDC), "src")
    sql("UPDATE t SET v = 'z'")
    renamed = (lab.directory / "pyops.yml").read_text("utf-8").replace("src:", "renamed:")
    (lab.directory / "pyops.yml").write_text(renamed, "utf-8")
    [done] = capture(load(lab.directory))
    done.raise_for_error()
    newest = "SELECT v, _generation FROM raw.t__changes ORDER BY _generation DESC, _lsn DESC, _seq DESC LIMIT 1"
    assert lab.rows(newest) == [("z", 3)]


def test_slots_of_two_databases_with_one_name_of_a_source_are_two(lab: Lab, sql: Sql, tmp_path: Path) -> None:
    """Behaviour 68: and only the one of its own database is dropped."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    lab.capture(CDC)
    [(name, database)] = sql(
        "SELECT slot_name::text, database::text FROM pg_replication_slots WHERE database = current_database()"
    )
    assert name == f"pyops_{database}_src"


def test_source_that_was_rolled_back_is_refused_until_somebody_acts(own_server: Server, tmp_path: Path) -> None:
    """Behaviour 67: also once it has written past what was landed from it."""
    lab = Lab(tmp_path, own_server.dsn())
    data, kept = own_server.data_directory, own_server.data_directory.with_name("kept")
    execute(lab.dsn, "CREATE TABLE t (id integer PRIMARY KEY)")
    execute(lab.dsn, "INSERT INTO t SELECT generate_series(1, 9)")
    lab.capture(CDC)
    own_server.stop()
    shutil.copytree(data, kept, symlinks=True, copy_function=shutil.copy2)
    owner = data.stat()
    for path in (kept, *kept.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    own_server.start(UNSAFE)
    execute(lab.dsn, "INSERT INTO t SELECT generate_series(10, 19)")
    lab.capture(CDC)
    own_server.stop()
    shutil.rmtree(data)
    kept.rename(data)
    own_server.start(UNSAFE)
    with pytest.raises(OperationError, match="it was restored"):
        lab.capture(CDC)
    execute(lab.dsn, "INSERT INTO t SELECT generate_series(1000, 9000)")
    execute(lab.dsn, "SELECT pg_switch_wal()::text")
    for _ in range(2):
        with pytest.raises(OperationError, match="it was restored") as raised:
            lab.capture(CDC)
    assert "pyops slot drop src" in raised.value.hint
    slot.drop(lab.configure(CDC), "src")
    lab.capture(CDC)
    assert len(current(lab, "t")) == 9 + 8001


def test_status_of_a_capture_that_fails_says_so(lab: Lab, sql: Sql) -> None:
    """A slot that is gone is a problem of the slot, and a failure of its tables."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    lab.capture(CDC)
    sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    with pytest.raises(OperationError):
        lab.capture(CDC)
    [found] = status(lab.configure(CDC))
    assert found.last_status == "failed"
    assert "is not there" in str(slot_status(lab.configure(CDC))[0].problem)
    assert extract(lab.configure(CDC)) == []


@pytest.mark.parametrize(
    "shape",
    [
        [
            "CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer) PARTITION BY RANGE (id)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
            "ALTER TABLE t_1 REPLICA IDENTITY FULL",
        ],
        [
            "CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer NOT NULL) PARTITION BY RANGE (id)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
            "CREATE UNIQUE INDEX other ON t_1 (w)",
            "ALTER TABLE t_1 REPLICA IDENTITY USING INDEX other",
        ],
        pytest.param(
            [
                "CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer GENERATED ALWAYS AS (v * 2) VIRTUAL)",
                "ALTER TABLE t REPLICA IDENTITY FULL",
            ],
            marks=needs_18,
        ),
    ],
)
def test_columns_are_left_out_only_where_no_leaf_needs_them(lab: Lab, sql: Sql, shape: list[str]) -> None:
    """Behaviour 62: otherwise PostgreSQL would refuse the source's updates."""
    for statement in shape:
        sql(statement)
    sql("INSERT INTO t (id, v) VALUES (1, 1)" if "VIRTUAL" in shape[0] else "INSERT INTO t VALUES (1, 1, 1)")
    with pytest.raises(OperationError, match="would refuse every update"):
        lab.capture({"t": {"mode": "cdc", "exclude": ["w"], "column_list": True}})
    sql("UPDATE t SET v = 2")


def test_mistyped_table_takes_no_other_out_of_the_publication(lab: Lab, sql: Sql) -> None:
    """A run that fails changes nothing at the source: the name, once corrected, costs no copy."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    lab.capture(CDC)
    with pytest.raises(OperationError, match=r"there is no table public\.tt"):
        lab.capture({"tt": {"mode": "cdc"}})
    sql("INSERT INTO t VALUES (1)")
    lab.capture(CDC)
    assert ops(lab) == "c"


def test_warehouse_that_is_a_link_to_nowhere_is_not_replaced(lab: Lab, sql: Sql) -> None:
    """A disk that is not mounted is no reason to begin anew."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    (lab.directory / "warehouse.duckdb").symlink_to(lab.directory / "disk" / "warehouse.duckdb")
    with pytest.raises(OperationError, match="which is not there"):
        lab.extract({"t": {"mode": "full"}})
    assert (lab.directory / "warehouse.duckdb").is_symlink()


def test_status_counts_the_rows_of_each_table_and_no_success_of_one_that_never_landed(lab: Lab, sql: Sql) -> None:
    """A run of the stream is of all tables that follow it, and of no other."""
    for name in "tu":
        sql(f"CREATE TABLE {name} (id integer PRIMARY KEY)")
    both = {name: {"mode": "cdc"} for name in "tu"}
    lab.capture(both)
    sql("INSERT INTO t VALUES (1), (2)")
    sql("INSERT INTO u VALUES (1)")
    lab.capture(both)
    assert {table.table: table.last_rows_written for table in status(lab.configure(both))} == {"src.t": 2, "src.u": 1}
    sql("CREATE TABLE w (id integer PRIMARY KEY, _lsn integer)")
    [done] = capture(lab.configure({**both, "w": {"mode": "cdc"}}))
    assert "pyops reserves the name" in str(done.error)
    found = {table.table: table.last_status for table in status(lab.configure({**both, "w": {"mode": "cdc"}}))}
    assert found["src.w"] == "failed"


def test_column_whose_name_is_taken_does_not_stop_the_stream(
    lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """The source's disk would fill: the column is left out, and that is said."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    lab.capture(CDC)
    sql('ALTER TABLE t ADD COLUMN "V" integer, ADD COLUMN _file text')
    sql("INSERT INTO t VALUES (1, 2, 3, 'x')")
    lab.capture(CDC)
    assert lab.rows("SELECT id, v FROM raw.t__changes") == [(1, 2)]
    assert "src.t: column V is left out: v differs from it only by case" in caplog.text
    assert "src.t: column _file is left out: pyops reserves the name" in caplog.text


def test_long_names_of_slots_are_cut_and_still_told_apart() -> None:
    """Behaviour 68: PostgreSQL has 63 bytes for a name."""
    one, other = (default_name(f"{'d' * 60}_{source}") for source in ("one", "other"))
    assert one != other
    assert max(len(one), len(other)) <= 57
    assert default_name("Shop-1") == "pyops_shop_1"


def test_partitions_that_come_or_go_with_rows_are_copied_and_empty_ones_are_not(lab: Lab, sql: Sql) -> None:
    """Behaviour 64: the stream has no row that a partition had before it was one, and no delete of one that left."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    sql("CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    sql("INSERT INTO t VALUES (1, 'a')")
    lab.capture(CDC)
    sql("CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (10) TO (20)")
    sql("ALTER TABLE t_1 ALTER COLUMN v SET STATISTICS 10")
    sql("INSERT INTO t VALUES (11, 'b')")
    lab.capture(CDC)
    assert ops(lab) == "rc"
    sql("CREATE TABLE t_2 (id integer NOT NULL, v text)")
    sql("INSERT INTO t_2 VALUES (21, 'c')")
    sql("ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (20) TO (30)")
    lab.capture(CDC)
    assert [row["id"] for row in current(lab, "t")] == [1, 11, 21]
    sql("ALTER TABLE t DETACH PARTITION t_1")
    lab.capture(CDC)
    assert [row["id"] for row in current(lab, "t")] == [1, 21]
    before = ops(lab)
    lab.capture(CDC)
    assert ops(lab) == before


def test_partition_made_filled_and_attached_in_one_transaction_is_copied(lab: Lab, sql: Sql, connect: Connect) -> None:
    """Behaviour 64: the usual way to load one; also below another partitioned table."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    lab.capture(CDC)
    loader = connect()
    with loader.cursor() as cursor:
        for statement in (
            "CREATE TABLE t_1 (id integer NOT NULL, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE t_11 PARTITION OF t_1 FOR VALUES FROM (0) TO (5)",
            "INSERT INTO t_1 VALUES (1, 'a')",
            "ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE t_2 (id integer NOT NULL, v text)",
            "INSERT INTO t_2 VALUES (11, 'b')",
            "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (10) TO (20)",
        ):
            cursor.execute(statement)
    loader.commit()
    lab.capture(CDC)
    assert [row["id"] for row in current(lab, "t")] == [1, 11]


def test_root_that_sends_whole_rows_and_a_partition_that_does_not_are_refused(lab: Lab, sql: Sql) -> None:
    """Behaviour 63: values that were not sent would become NULL, and deleted rows would stay."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    sql("CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    sql("ALTER TABLE t REPLICA IDENTITY FULL")
    with pytest.raises(OperationError, match="that of a partition is not"):
        lab.capture(CDC)
    sql("ALTER TABLE t_1 REPLICA IDENTITY FULL")
    sql("INSERT INTO t VALUES (1, 'a')")
    lab.capture(CDC)
    sql("UPDATE t SET id = 2")
    lab.capture(CDC)
    assert [row["id"] for row in current(lab, "t")] == [2]


def test_log_has_the_key_of_the_replica_identity(lab: Lab, sql: Sql) -> None:
    """Behaviour 63: a delete names its row by that, whatever the primary key is."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, w integer NOT NULL, v text)")
    sql("CREATE UNIQUE INDEX t_w ON t (w)")
    sql("ALTER TABLE t REPLICA IDENTITY USING INDEX t_w")
    sql("INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b')")
    lab.capture(CDC)
    sql("UPDATE t SET w = 11, v = 'c' WHERE id = 1")
    sql("DELETE FROM t WHERE id = 2")
    lab.capture(CDC)
    assert lab.rows("SELECT key FROM pyops.change_logs") == [(["w"],)]
    assert [row["w"] for row in current(lab, "t", ("w",))] == [11]


def test_leaf_without_a_root_key_tells_changed_keys(lab: Lab, sql: Sql) -> None:
    """Behaviour 63: a key on the leaves alone is enough, where it is named."""
    sql("CREATE TABLE t (id integer NOT NULL, v text) PARTITION BY RANGE (v)")
    sql("CREATE TABLE t_1 PARTITION OF t (PRIMARY KEY (id)) FOR VALUES FROM ('a') TO ('z')")
    sql("INSERT INTO t VALUES (1, 'b'), (2, 'c')")
    keyed = {"t": {"mode": "cdc", "primary_key": ["id"]}}
    lab.capture(keyed)
    sql("UPDATE t SET id = 3 WHERE id = 1")
    sql("DELETE FROM t WHERE id = 2")
    lab.capture(keyed)
    assert [row["id"] for row in current(lab, "t")] == [3]


def test_table_that_is_renamed_for_a_while_keeps_its_key(lab: Lab, sql: Sql) -> None:
    """Behaviour 64: its changes go on landing, under the key it has."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("CREATE TABLE u (id integer PRIMARY KEY)")
    sql("ALTER TABLE t REPLICA IDENTITY FULL")
    sql("CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)")
    sql("INSERT INTO t VALUES (1, 'a')")
    named = {"publication": "everything", "slot": "renamed_slot"}
    lab.capture({**CDC, "u": {"mode": "cdc"}}, **named)
    sql("ALTER TABLE t RENAME TO away")
    sql("UPDATE away SET id = 2")
    with pytest.raises(OperationError, match=r"there is no table public\.t"):
        lab.capture({**CDC, "u": {"mode": "cdc"}}, **named)
    sql("ALTER TABLE away RENAME TO t")
    sql("UPDATE t SET id = 3")
    lab.capture({**CDC, "u": {"mode": "cdc"}}, **named)
    assert [row["id"] for row in current(lab, "t")] == [3]


def test_table_that_left_its_schema_for_a_while_is_noticed(lab: Lab, sql: Sql) -> None:
    """Behaviour 64: what changed meanwhile is in no stream of that schema; other DDL costs nothing."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("CREATE SCHEMA other")
    sql("CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public WITH (publish_via_partition_root)")
    named = {"publication": "of_schema", "slot": "schema_slot"}
    lab.capture(CDC, **named)
    sql("ALTER TABLE t ADD COLUMN w integer")
    sql("INSERT INTO t VALUES (1, 'a', 1)")
    lab.capture(CDC, **named)
    sql("ALTER TABLE t SET SCHEMA other")
    sql("UPDATE other.t SET v = 'b'")
    sql("ALTER TABLE other.t SET SCHEMA public")
    with pytest.raises(OperationError, match="left the publication and joined it again") as raised:
        lab.capture(CDC, **named)
    assert "pyops snapshot src.t" in raised.value.hint
    snapshot(lab.configure(CDC, **named), "t").raise_for_error()
    assert [row["v"] for row in current(lab, "t")] == ["b"]


def restored(server: Server, lab: Lab, meanwhile: Callable[[], None]) -> None:
    """Has the server fall back, on its own timeline, to what it was before some work."""
    data, kept = server.data_directory, server.data_directory.with_name("kept")
    server.stop()
    shutil.copytree(data, kept, symlinks=True, copy_function=shutil.copy2)
    owner = data.stat()
    for path in (kept, *kept.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    server.start(UNSAFE)
    meanwhile()
    server.stop()
    shutil.rmtree(data)
    kept.rename(data)
    server.start(UNSAFE)


def test_source_that_wrote_past_the_offset_after_it_was_restored_is_refused(own_server: Server, tmp_path: Path) -> None:
    """Behaviour 67: its log is longer than what was landed, but the last landed transaction is not in it."""
    lab = Lab(tmp_path, own_server.dsn())
    execute(lab.dsn, "CREATE TABLE t (id integer PRIMARY KEY)")
    execute(lab.dsn, "INSERT INTO t SELECT generate_series(1, 9)")
    lab.capture(CDC)

    def work() -> None:
        execute(lab.dsn, "INSERT INTO t SELECT generate_series(10, 19)")
        lab.capture(CDC)

    restored(own_server, lab, work)
    execute(lab.dsn, "INSERT INTO t SELECT generate_series(1000, 9000)")
    for _ in range(2):
        with pytest.raises(OperationError, match="it was restored"):
            lab.capture(CDC)


def test_slot_that_fell_back_with_a_crashed_server_goes_on(own_server: Server, tmp_path: Path) -> None:
    """Behaviour 17: the same transactions are there still, and none lands twice."""
    lab = Lab(tmp_path, own_server.dsn())
    execute(lab.dsn, "CREATE TABLE t (id integer PRIMARY KEY)")
    lab.capture(CDC)
    execute(lab.dsn, "CHECKPOINT")
    for n in range(3):
        execute(lab.dsn, f"INSERT INTO t VALUES ({n})")
        lab.capture(CDC)
    postmaster = int((own_server.data_directory / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGQUIT)  # as a crash: without a checkpoint
    while own_server.is_running():
        time.sleep(0.05)
    own_server.start(UNSAFE)
    [(fell_back,)] = execute(
        lab.dsn, "SELECT confirmed_flush_lsn < pg_current_wal_flush_lsn() FROM pg_replication_slots"
    )
    assert fell_back
    execute(lab.dsn, "INSERT INTO t VALUES (3)")
    lab.capture(CDC)
    assert ops(lab) == "cccc"


def test_slot_of_a_source_that_left_the_configuration_is_shown_and_can_be_dropped(lab: Lab, sql: Sql) -> None:
    """Behaviour 68: nobody reads it any more, and the source keeps its log for it."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    lab.capture(CDC)
    text = (lab.directory / "pyops.yml").read_text("utf-8").replace("src:", "renamed:")
    (lab.directory / "pyops.yml").write_text(text, "utf-8")
    project = load(lab.directory)
    found = {item.source: item.problem for item in slot_status(project)}
    assert "is not in pyops.yml any more" in str(found["src"])
    slot.drop(project, "src")
    assert sql("SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()") == []
    assert sql("SELECT pubname::text FROM pg_publication") == []
    assert "src" not in {item.source for item in slot_status(project)}


BIG = "string_agg(md5(n::text || '{}'), '') FROM generate_series(1, 400) AS n"


@pytest.mark.parametrize("together", [True, False])
def test_change_that_leaves_a_value_which_a_dead_letter_set_is_one_too(lab: Lab, sql: Sql, together: bool) -> None:
    """Behaviour 18: otherwise its row would have an older value for good, and nothing would be open."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, big text, n numeric(10, 2), v integer)")
    sql("ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL")
    sql(f"INSERT INTO t SELECT k, (SELECT {BIG.format('a')}), 1, 1 FROM generate_series(1, 3) AS k")
    lab.capture(CDC)
    sql(f"UPDATE t SET big = (SELECT {BIG.format('b')}), n = 'NaN' WHERE id <= 2")
    together or lab.capture(CDC)
    sql("UPDATE t SET n = 2 WHERE id <= 2")
    together or lab.capture(CDC)
    sql("UPDATE t SET id = 12, v = 2 WHERE id = 2")
    together or lab.capture(CDC)
    sql("UPDATE t SET v = v + 1")
    lab.capture(CDC)
    letters = "SELECT key, status, count(*) FROM pyops.dead_letters GROUP BY ALL ORDER BY ALL"
    assert lab.rows(letters) == [('{"id":"1"}', "open", 3), ('{"id":"12"}', "open", 2), ('{"id":"2"}', "superseded", 2)]
    assert [(row["id"], row["v"]) for row in current(lab, "t")] == [(1, 1), (3, 2)]
    sql(f"UPDATE t SET big = (SELECT {BIG.format('c')})")
    lab.capture(CDC)
    assert [row["v"] for row in current(lab, "t")] == [2, 2, 3]
    assert lab.rows("SELECT count(*) FROM pyops.dead_letters WHERE status = 'open'") == [(0,)]
    assert [row["big"] for row in current(lab, "t")] == [v for (v,) in sql("SELECT big FROM t ORDER BY id")]


def test_dead_letter_that_a_later_change_of_the_same_run_makes_up_for_is_closed(lab: Lab, sql: Sql) -> None:
    """Behaviour 53: its row is landed, by a newer version; a truncation leaves nothing open, either."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, n numeric(10, 2))")
    lab.capture(CDC)
    sql("INSERT INTO t VALUES (1, 'NaN'), (2, 'NaN')")
    sql("UPDATE t SET n = 1 WHERE id = 1")
    lab.capture(CDC)
    statuses = "SELECT status FROM pyops.dead_letters ORDER BY letter_id"
    assert lab.rows(statuses) == [("superseded",), ("open",)]
    sql("INSERT INTO t VALUES (3, 'NaN')")
    sql("TRUNCATE t")
    lab.capture(CDC)
    assert lab.rows(statuses)[2:] == [("superseded",)]
    sql("INSERT INTO t VALUES (4, 'NaN')")
    lab.capture(CDC)
    sql("TRUNCATE t")
    lab.capture(CDC)
    assert lab.rows(statuses)[3:] == [("superseded",)]
