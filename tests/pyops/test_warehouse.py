"""What every kind of warehouse does: one commit for all there is to publish, and bookkeeping."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import pyops
from pyops.errors import OperationError, SchemaChangeError, TransientError
from pyops.records import DeadLetter, GateResult, Offset, Run, TableId, Watermark
from pyops.staging.columns import ColumnMapping
from pyops.staging.file import Stage
from pyops.warehouse import bookkeeping
from pyops.warehouse.duckdb import DuckDBWarehouse
from pyops.warehouse.protocol import (
    Append,
    ByDays,
    ByFiles,
    ByKey,
    CaptureChange,
    Commit,
    Scope,
    Warehouse,
    WatermarkChange,
    Where,
    Whole,
    Write,
)
from tests.pyops.conftest import Lab, Sql

KINDS: dict[str, Callable[[Path], Warehouse]] = {
    "duckdb": lambda folder: DuckDBWarehouse(folder / "warehouse.duckdb", lock_timeout=0.2)
}
TABLE = TableId("src", "t", ("raw", "t"))
COLUMNS = {"id": "BIGINT", "day": "DATE", "_file": "VARCHAR", "_line": "BIGINT"}
Row = tuple[int, str, str]
_numbers = itertools.count()


@pytest.fixture(params=KINDS)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """A new warehouse of each kind."""
    return KINDS[request.param](tmp_path)


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """`staged(rows)` makes a staging file of these rows."""
    stages: list[Stage] = []

    def make(*rows: Row) -> Stage:
        stages.append(Stage.create(tmp_path / "staging", begun()))
        arrays = [pa.array(values) for values in zip(*rows, strict=True)]
        arrays.append(pa.array(range(len(rows))))
        batch = pa.record_batch(arrays, names=list(COLUMNS))
        mappings = {n: ColumnMapping(type_, "", f'"{n}"::{type_}') for n, type_ in COLUMNS.items()}
        stages[-1].fill(batch.schema, iter([batch]), mappings, key=())
        return stages[-1]

    yield make
    for stage in stages:
        with stage:
            pass


def begun() -> Run:
    return replace(Run.begun("src", "t", "full", "merge"), run_id=f"run-{next(_numbers)}")


def committed(warehouse: Warehouse, stage: Stage, scope: Scope, **more: object) -> Run:
    write = Write(TABLE, COLUMNS, scope, **more)  # type: ignore[arg-type]
    run = warehouse.commit(stage, Commit((write,), begun()))
    assert run is not None
    return run


def there(warehouse: Warehouse) -> list[tuple[int, str]]:
    with warehouse.attached() as at:
        query = f"SELECT id, day::VARCHAR FROM {at.name(TABLE.target)} ORDER BY ALL"
        return at.connection.execute(query).fetchall()


OLD = [(1, "2024-01-01", "a"), (2, "2024-01-02", "a"), (3, "2024-01-03", "b")]
NEW = [(2, "2024-02-02", "a"), (4, "2024-01-02", "c")]


@pytest.mark.parametrize(
    ("scope", "deleted", "ids"),
    [
        (Append(), 0, [1, 2, 2, 3, 4]),
        (ByKey(("id",)), 1, [1, 2, 3, 4]),
        (ByKey(("id",), skips_unchanged=True, deletes_extra=True), 3, [2, 4]),
        (ByDays("day", "2024-01-02", "2024-01-03"), 1, [1, 2, 3, 4]),
        (ByFiles(("a",)), 2, [2, 3, 4]),
        (Whole(swap=True), 3, [2, 4]),
        (Whole(swap=False), 3, [2, 4]),
        (Where("id >= 3"), 1, [1, 2, 2, 4]),
    ],
)
def test_scope_says_which_rows_a_write_replaces(
    warehouse: Warehouse, staged: Callable[..., Stage], scope: Scope, deleted: int, ids: list[int]
) -> None:
    """Behaviour 10."""
    committed(warehouse, staged(*OLD), Whole(swap=True))
    run = committed(warehouse, staged(*NEW), scope)
    assert [row[0] for row in there(warehouse)] == ids
    assert (run.status, run.rows_written, run.rows_deleted, run.load_id) == ("succeeded", 2, deleted, 2)


def test_commit_that_fails_leaves_everything_as_it_was(warehouse: Warehouse, staged: Callable[..., Stage]) -> None:
    """Behaviour 35: rows and bookkeeping are one."""
    committed(warehouse, staged(*OLD), Whole(swap=True))
    before = warehouse.states([TABLE])[TABLE]
    stage = staged(*NEW)
    write = Write(TABLE, COLUMNS, Append(), watermark=WatermarkChange("id", Watermark("4")))
    broken = Write(TABLE, COLUMNS, Where("no_such_column = 1"))
    with pytest.raises(duckdb.BinderException):
        warehouse.commit(stage, Commit((write, broken), begun()))
    assert warehouse.states([TABLE])[TABLE] == before
    assert len(there(warehouse)) == 3


def test_what_a_commit_expects_and_does_not_find_it_refuses(warehouse: Warehouse, staged: Callable[..., Stage]) -> None:
    committed(warehouse, staged(*OLD), Whole(swap=True), expects_load=0)
    with pytest.raises(TransientError, match="another run has published it"):
        committed(warehouse, staged(*NEW), Append(), expects_load=0)
    offset = Offset("src", 1, "active", "slot", "1", 1, lsn=10)
    warehouse.commit(None, Commit(capture=CaptureChange(offset, None)))
    moved = replace(offset, lsn=20)
    warehouse.commit(None, Commit(capture=CaptureChange(moved, offset)))
    for stale in (None, offset, replace(moved, generation=2)):
        with pytest.raises(TransientError, match="another run has landed changes"):
            warehouse.commit(None, Commit(capture=CaptureChange(replace(moved, lsn=30), stale)))
    assert warehouse.capture_state("src").offset == moved
    assert len(there(warehouse)) == 3


def test_state_is_what_was_committed(warehouse: Warehouse, staged: Callable[..., Stage]) -> None:
    assert warehouse.states([TABLE])[TABLE].columns == {}
    mark = Watermark("3", "4", frozenset({"v1/2"}))
    run = committed(
        *(warehouse, staged(*OLD), Whole(swap=True)), watermark=WatermarkChange("id", mark), files=(("a", 1, 2),)
    )
    state = warehouse.states([TABLE])[TABLE]
    assert (state.columns, state.rows, state.last_load) == (COLUMNS, 3, run.load_id)
    assert (state.cursor, state.watermark, state.files) == ("id", mark, {"a": (1, 2)})
    assert state.last_run == run
    committed(warehouse, staged(*NEW), Append(), watermark=WatermarkChange())
    assert warehouse.states([TABLE])[TABLE].watermark == Watermark()


def test_dead_letters_close_when_their_rows_are_read_again_and_can_be_purged(
    warehouse: Warehouse, staged: Callable[..., Stage]
) -> None:
    """Behaviour 37."""
    stage = staged(*OLD)
    stage.reject("id = 2", "id", "it is 2", key=("id",))
    committed(warehouse, stage, Whole(swap=True))
    [letter] = warehouse.rows(DeadLetter)
    assert (letter.key, letter.status) == ('{"id":"2"}', "open")
    committed(warehouse, staged(*NEW), ByKey(("id",)))
    assert [x.status for x in warehouse.rows(DeadLetter)] == ["superseded"]
    warehouse.commit(None, Commit(run=begun(), purges="status <> 'open'"))
    assert warehouse.rows(DeadLetter) == []


def test_staged_commit_is_the_same_after_its_way_through_the_file() -> None:
    mark = WatermarkChange("id", Watermark("1", "2", frozenset({"v1"})))
    scopes: list[Scope] = [Append(), ByKey(("id",), True), ByDays("d", "a", "b")]
    scopes += [ByFiles(("f",)), Whole(True), Where("true")]
    writes = tuple(Write(TABLE, COLUMNS, scope, watermark=mark) for scope in scopes)
    commit = Commit(writes, replayed=(1, 2))
    assert Commit.from_json(commit.to_json()) == commit


def test_columns_may_change_only_where_they_may(warehouse: Warehouse, staged: Callable[..., Stage]) -> None:
    committed(warehouse, staged(*OLD), Whole(swap=True))
    stage = staged(*NEW)
    stage.connection.execute("ALTER TABLE rows ADD COLUMN more VARCHAR DEFAULT 'x'")
    wider = Write(TABLE, COLUMNS | {"more": "VARCHAR"}, Append(), may_evolve=False)
    with pytest.raises(SchemaChangeError, match="column more VARCHAR was added"):
        warehouse.commit(stage, Commit((wider,), begun()))
    warehouse.commit(stage, Commit((replace(wider, may_evolve=True),), begun()))
    assert list(warehouse.states([TABLE])[TABLE].columns) == [*COLUMNS, "more"]


def test_runs_that_commit_nothing_are_recorded_once(warehouse: Warehouse) -> None:
    run = begun()
    gate = GateResult("min_rows", "", "failed", 1, 2, None, "fail", "", "too few")
    warehouse.record([run], [gate])
    warehouse.record([run])
    assert warehouse.rows(Run) == [run]
    assert warehouse.rows(GateResult) == [gate]


# The bookkeeping's versions; of DuckDB's file


@pytest.fixture
def old(lab: Lab) -> Lab:
    """A project whose warehouse was made before its bookkeeping had a version."""
    packed = Path(__file__).parents[1] / "data" / "warehouse" / "made_by_0_1.duckdb.gz"
    lab.put("warehouse.duckdb", gzip.decompress(packed.read_bytes()))
    lab.put("visits-1.csv", "id,n\n1,10\n2,20\n3,30\n")
    return lab


def test_warehouse_made_before_versions_opens_and_goes_on(old: Lab, sql: Sql) -> None:
    sql("CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz, amount numeric(5,2))")
    sql("INSERT INTO orders VALUES (110, '2024-01-02 01:50:00+00', 10), (111, now(), 11)")
    tables = {"orders": {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}}
    project = old.configure(tables)
    (old.directory / "pyops.yml").write_text((old.directory / "pyops.yml").read_text().replace("src:", "shop:"))
    project = pyops.load(old.directory)
    [before] = pyops.status(project)
    assert (before.rows, before.watermark) == (109, "2024-01-02 01:50:00+00")
    assert before.dead_letters == 1

    [done] = pyops.extract(project)

    done.raise_for_error()
    # Rows from the bound on are read, less the lookback: not the 109 again.
    assert (done.run.rows_read, done.run.rows_written) == (2, 1)
    assert old.rows("SELECT count(*), max(id) FROM raw.orders") == [(110, 111)]
    assert old.rows("SELECT version FROM pyops.bookkeeping") == [(bookkeeping.VERSION,)]
    ids = old.rows("SELECT invocation_id IS NULL, count(*) FROM pyops.runs GROUP BY 1 ORDER BY 1")
    assert ids[0] == (False, 1)
    assert ids[1][1] >= 7


def test_dry_run_leaves_an_older_warehouse_as_it_is(old: Lab, sql: Sql) -> None:
    """Behaviour 42."""
    sql("CREATE TABLE orders (id bigint)")
    project = old.configure({"orders": {"mode": "full"}})
    content = (old.directory / "warehouse.duckdb").read_bytes()
    with pytest.raises(OperationError, match="was made by an older pyops") as caught:
        pyops.extract(project, dry_run=True)
    assert "pyops status" in caught.value.hint
    assert (old.directory / "warehouse.duckdb").read_bytes() == content


def test_warehouse_made_by_a_newer_pyops_is_refused(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint)")
    lab.extract({"t": {"mode": "full"}})
    lab.write(f"UPDATE pyops.bookkeeping SET version = {bookkeeping.VERSION + 1}")
    project = pyops.load(lab.directory)
    for command in (pyops.status, pyops.extract):
        with pytest.raises(OperationError, match="made by a newer pyops") as caught:
            command(project)
        assert "upgrade pyops" in caught.value.hint


def test_upgrade_that_was_killed_between_two_scripts_is_made_again(old: Lab) -> None:
    first, *others = bookkeeping._MIGRATIONS
    path = old.directory / "warehouse.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS warehouse")
        for script in (first, *others):  # all but the number
            connection.execute(script.read_text("utf-8"))
        assert bookkeeping.version(connection) == 1
    assert len(pyops.dead_letters(old.configure({}))) == 2
    assert old.rows("SELECT version FROM pyops.bookkeeping") == [(bookkeeping.VERSION,)]
