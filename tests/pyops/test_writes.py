"""The write patterns, and what of a target survives them."""

import threading
from contextlib import ExitStack
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pyops import Days
from pyops.config.project import Table
from pyops.errors import DataError, TransientError
from pyops.records import Run
from pyops.staging.columns import ColumnMapping
from pyops.staging.file import Stage
from pyops.warehouse.duckdb import DuckDBWarehouse
from pyops.warehouse.protocol import ByDays, Commit, Write
from tests.pyops.conftest import Lab, Sql

KEYED: dict[str, Any] = {"primary_key": ["id"]}
INCREMENTAL: dict[str, Any] = {"mode": "incremental", "cursor": "at"}
DAYS: dict[str, Any] = {"mode": "partition", "partition_by": "day"}


def rows(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows("SELECT * EXCLUDE (_load_id, _loaded_at) FROM raw.t ORDER BY ALL")


@pytest.mark.parametrize(
    "table",
    [
        {"mode": "full"},
        {"mode": "full", "write": "merge", **KEYED},
        {"mode": "full", "write": "delete_insert"},
        {**INCREMENTAL, **KEYED},
        {**INCREMENTAL, "write": "delete_insert", **KEYED},
        {**INCREMENTAL, "write": "append"},
        DAYS,
    ],
    ids=lambda table: f"{table['mode']}-{table.get('write', 'default')}",
)
def test_rerun_gives_the_same_table(lab: Lab, sql: Sql, table: dict[str, Any]) -> None:
    """Behaviour 10."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, day date, note text)")
    sql("INSERT INTO t SELECT i, i, '2020-01-01'::date + i::int % 5, 'a' || i FROM generate_series(1, 100) AS i")
    lab.extract({"t": table})
    lab.extract({"t": table})
    once = rows(lab)
    assert len(once) >= 99
    lab.extract({"t": table})
    assert rows(lab) == once


@pytest.mark.parametrize("write", ["merge", "delete_insert"])
def test_changed_rows_replace_their_old_versions(lab: Lab, sql: Sql, write: str) -> None:
    """Behaviour 10."""
    table = {**INCREMENTAL, "write": write, "primary_key": ["a", "b"]}
    sql("CREATE TABLE t (b text, at bigint, a bigint, note text, PRIMARY KEY (a, b))")
    sql("INSERT INTO t VALUES ('x', 1, 1, 'old'), ('y', 1, 1, 'kept'), ('x', 1, 2, NULL)")
    lab.extract({"t": table})
    sql("UPDATE t SET note = NULL, at = 2 WHERE (a, b) = (1, 'x')")
    sql("UPDATE t SET note = 'new', at = 2 WHERE (a, b) = (2, 'x')")
    run = lab.extract({"t": table})[0]
    assert rows(lab) == [("x", 2, 1, None), ("x", 2, 2, "new"), ("y", 1, 1, "kept")]
    assert run.rows_written - run.rows_deleted == 0


def test_merge_writes_only_what_differs(lab: Lab, sql: Sql) -> None:
    """Arrival is by load: what was read twice has not arrived twice."""
    table = {**INCREMENTAL, **KEYED}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, note text, ratio float8)")
    sql("INSERT INTO t VALUES (1, 5, NULL, 'NaN'), (2, 5, 'a', 0), (3, 5, 'c', 0)")
    lab.extract({"t": table})
    sql("UPDATE t SET note = 'b' WHERE id = 2")
    sql("UPDATE t SET ratio = '-0' WHERE id = 3")
    run = lab.extract({"t": table})[0]
    assert (run.rows_read, run.rows_unchanged, run.rows_written) == (3, 1, 2)
    assert lab.rows("SELECT id, ratio::VARCHAR, _load_id FROM raw.t ORDER BY id") == [
        (1, "nan", 1),
        (2, "0.0", 2),
        (3, "-0.0", 2),
    ]


def test_loads_are_numbered_in_the_order_of_their_commits(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    sql("CREATE TABLE u (id bigint PRIMARY KEY)")
    for _ in range(2):
        lab.extract({"t": {"mode": "full"}, "u": {"mode": "full"}})
    assert lab.rows("SELECT load_id, table_name FROM pyops.loads ORDER BY loaded_at") == [
        (1, "t"),
        (2, "u"),
        (3, "t"),
        (4, "u"),
    ]


def test_only_the_days_asked_for_are_replaced(lab: Lab, sql: Sql) -> None:
    """Behaviour 10."""
    sql("CREATE TABLE t (id bigint, day timestamptz)")
    sql("INSERT INTO t SELECT i, '2020-01-01'::timestamptz + i * interval '6 hours' FROM generate_series(0, 15) AS i")
    lab.extract({"t": DAYS})
    sql("UPDATE t SET id = id + 100")
    sql("DELETE FROM t WHERE id = 104")
    run = lab.extract({"t": DAYS}, days=Days.of("2020-01-02", "2020-01-03"))[0]
    assert (run.rows_deleted, run.rows_written) == (8, 7)
    found = [row[0] for row in lab.rows("SELECT id FROM raw.t ORDER BY day")]
    assert found == [0, 1, 2, 3, 105, 106, 107, 108, 109, 110, 111, 12, 13, 14, 15]


def test_day_that_is_empty_at_the_source_becomes_empty(lab: Lab, sql: Sql) -> None:
    """Behaviour 10: the query ran and found nothing."""
    sql("CREATE TABLE t (id bigint, day date)")
    sql("INSERT INTO t VALUES (1, '2020-01-01'), (2, '2020-01-02')")
    lab.extract({"t": DAYS})
    sql("DELETE FROM t WHERE id = 2")
    lab.extract({"t": DAYS}, days=Days.of("2020-01-02", "2020-01-02"))
    assert [row[0] for row in rows(lab)] == [1]


def test_failed_read_of_a_day_removes_nothing(lab: Lab, sql: Sql) -> None:
    """Behaviour 10: the query did not run to its end."""
    sql("CREATE TABLE base (id bigint, day date)")
    sql("INSERT INTO base VALUES (1, '2020-01-01'), (2, '2020-01-02')")
    sql("CREATE VIEW t AS SELECT 10 / id AS id, day FROM base")
    lab.extract({"t": DAYS})
    before = rows(lab)
    sql("INSERT INTO base VALUES (0, '2020-01-02')")
    with pytest.raises(Exception, match="division by zero"):
        lab.extract({"t": DAYS}, days=Days.of("2020-01-02", "2020-01-02"))
    assert rows(lab) == before


def test_reader_sees_the_old_or_the_new_table_during_a_swap(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 11: readers of this process; others wait outside the file."""
    sql("CREATE TABLE t (id bigint)")
    sql("INSERT INTO t SELECT 1 FROM generate_series(1, 50000)")
    lab.extract({"t": {"mode": "full"}})
    lab.write("CREATE VIEW raw.ids AS SELECT id FROM raw.t")
    seen: set[tuple[int, int]] = set()
    failures: list[Exception] = []
    done = threading.Event()

    commit = DuckDBWarehouse.commit

    def watched(warehouse: Any, stage: Stage, *arguments: Any) -> Run | None:
        reader = stage.connection.cursor()

        def read() -> None:
            while not done.is_set():
                try:
                    found = reader.execute("SELECT count(*), max(id) FROM warehouse.raw.t")
                    seen.add(found.fetchall()[0])
                except duckdb.CatalogException as error:  # not attached yet, or not any more
                    if "warehouse" not in str(error):
                        failures.append(error)
                except duckdb.BinderException as error:
                    if "warehouse" not in str(error):
                        failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            return commit(warehouse, stage, *arguments)
        finally:
            done.set()
            thread.join()
            reader.close()

    monkeypatch.setattr(DuckDBWarehouse, "commit", watched)
    sql("UPDATE t SET id = 2")
    lab.extract({"t": {"mode": "full"}})
    assert not failures
    assert seen <= {(50000, 1), (50000, 2)}
    assert seen
    assert lab.rows("SELECT DISTINCT id FROM raw.ids") == [(2,)], "views go on working"


def test_newest_of_two_rows_with_one_key_wins(lab: Lab, sql: Sql) -> None:
    """Behaviour 12."""
    sql("CREATE TABLE t (id bigint, at numeric, note text)")
    sql("INSERT INTO t VALUES (1, 9, 'old'), (1, 10, 'new'), (2, 1, 'only'), (1, NULL, 'none')")
    run = lab.extract({"t": {**INCREMENTAL, **KEYED}})[0]
    assert lab.rows("SELECT id, note FROM raw.t ORDER BY id") == [(1, "new"), (2, "only")]
    assert (run.rows_read, run.rows_written) == (4, 2)


@pytest.mark.parametrize("table", [INCREMENTAL, {"mode": "full", "write": "merge"}])
def test_two_rows_that_are_equally_new_are_an_error(lab: Lab, sql: Sql, table: dict[str, Any]) -> None:
    """Behaviour 12."""
    sql("CREATE TABLE t (id bigint, shop text, at bigint, note text)")
    sql("INSERT INTO t VALUES (1, 'a', 7, 'x'), (1, 'a', 7, 'y'), (1, 'b', 7, 'z')")
    with pytest.raises(DataError, match=r"same primary key \(id, shop\)"):
        lab.extract({"t": {**table, "primary_key": ["id", "shop"]}})


def test_file_does_not_grow_under_a_thousand_delete_inserts(lab: Lab) -> None:
    """Behaviour 14."""
    config = lab.configure({"t": DAYS}).config.sources["src"].tables["t"]
    table = Table.of("src", "t", config)
    warehouse = DuckDBWarehouse(lab.directory / "warehouse.duckdb")
    mappings = {"id": ColumnMapping("BIGINT", "", '"id"'), "day": ColumnMapping("DATE", "", '"day"::DATE')}
    sizes = []
    with ExitStack() as stages:
        loads = []
        for day in range(1, 11):
            run = Run(f"day-{day}", "src", "t", "partition", "delete_insert", "running", None)
            stage = stages.enter_context(Stage.create(lab.directory / "staging", run))
            batch = pa.record_batch({"id": pa.array(range(2000)), "day": pa.array([f"2020-01-{day:02}"] * 2000)})
            stage.fill(batch.schema, iter([batch]), mappings, key=())
            range_ = ("day", f"2020-01-{day:02}", f"2020-01-{day + 1:02}")
            columns = {name: item.warehouse for name, item in mappings.items()}
            write = Write(table, columns, ByDays(*range_))
            loads.append((stage, Commit((write,), run)))
        for _ in range(100):
            for stage, commit in loads:
                warehouse.commit(stage, commit)
            sizes.append(warehouse.path.stat().st_size)
    assert lab.rows("SELECT count(*), count(DISTINCT day) FROM raw.t") == [(20_000, 10)]
    assert lab.rows("SELECT count(*) FROM pyops.loads") == [(1000,)]
    assert sizes[-1] < 2 * sizes[9]


def test_run_that_another_one_overtook_publishes_nothing(lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slower run would put an older state in place of a newer one."""
    sql("CREATE TABLE t (id bigint)")
    sql("INSERT INTO t VALUES (1)")
    lab.extract({"t": {"mode": "full"}})

    commit = DuckDBWarehouse.commit

    def overtaken(*arguments: Any) -> Run | None:
        monkeypatch.setattr(DuckDBWarehouse, "commit", commit)
        sql("INSERT INTO t VALUES (2)")
        lab.extract({"t": {"mode": "full"}})
        return commit(*arguments)

    monkeypatch.setattr(DuckDBWarehouse, "commit", overtaken)
    with pytest.raises(TransientError, match="another run has published it"):
        lab.extract({"t": {"mode": "full"}})
    assert len(rows(lab)) == 2
