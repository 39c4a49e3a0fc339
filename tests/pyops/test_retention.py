"""Compaction: a log that is folded says what it said before, and dbt has read what is folded."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyops import compact
from pyops.commands.cdc import capture
from pyops.commands.compact import Compaction
from pyops.commands.snapshot import snapshot
from pyops.config.load import load
from pyops.errors import OperationError, UsageError
from pyops.records import utc_now
from tests.pyops.change_log import at_source, current, events, ops
from tests.pyops.conftest import Connect, Lab, Sql, examples
from tests.pyops.dbt_runs import put_manifest
from tests.pyops.traffic import batches, commit

KEPT: dict[str, dict[str, Any]] = {"t": {"mode": "cdc", "retention": "1h"}}
SHORT, LONG = timedelta(minutes=30), timedelta(days=400)
_numbers = itertools.count()


def later(by: timedelta = LONG) -> datetime:
    return utc_now() + by


def folded(lab: Lab, **options: Any) -> Compaction:
    """Compacts the log as if a year had passed; what it says is the same as before."""
    project = load(lab.directory)
    before = current(lab, "t")
    [done] = compact(project, **({"now": later()} | options))
    if done.error:
        raise done.error
    assert current(lab, "t") == before
    return done


@pytest.fixture
def table(sql: Sql) -> None:
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer, big text)")
    sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    sql("INSERT INTO t SELECT n, 0, repeat('x', 3000) FROM generate_series(1, 4) AS n")


@settings(
    max_examples=examples(4),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(batches=batches, how=st.tuples(st.sampled_from(["DEFAULT", "FULL"]), st.lists(st.integers(0, 40), min_size=1)))
def test_any_traffic_compacted_anywhere_ends_in_the_source(
    lab: Lab, sql: Sql, connect: Connect, batches: Any, how: tuple[str, list[int]]
) -> None:
    """Behaviours 15 to 22: what is folded, cut at any event, is the same rows as not folded."""
    table, (identity, cuts) = f"t{next(_numbers)}", how
    sql(f"CREATE TABLE {table} (id integer PRIMARY KEY, v integer, big text)")
    sql(f"ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL")
    sql(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    sql(f"INSERT INTO {table} SELECT n, 0, repeat('x', 3000) FROM generate_series(1, 4) AS n")
    project = lab.configure({table: {"mode": "cdc", "retention": "0s"}})
    assert capture(project)[0].error is None
    for (transactions, command), cut in zip(batches, itertools.cycle(cuts), strict=False):
        commit(connect, table, transactions)
        done = capture(project)[0] if command == "cdc" else snapshot(project, table)
        assert done.error is None
        times = lab.rows(f"SELECT _committed_at FROM raw.{table}__changes ORDER BY _generation, _lsn, _seq")
        now = [*(at for (at,) in times), later()][-1 - cut % (len(times) + 1)]
        [compaction] = compact(project, now=now)
        assert compaction.error is None
        assert compaction.rows_after == len(events(lab, table))
        rows = current(lab, table)
        assert [tuple(row.values()) for row in rows] == at_source(lab.dsn, table, "id, v, big")
    compact(project, now=later())
    assert set(ops(lab, table)) <= {"r"}
    assert [event.row for event in sorted(events(lab, table), key=lambda e: e.row["id"])] == rows


EVENT = st.tuples(
    st.sampled_from(["upsert"] * 8 + ["move"] * 6 + ["delete", "truncate"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.sampled_from(["n", "life"])),
)


@settings(max_examples=examples(12))
@given(statements=st.lists(EVENT, min_size=10, max_size=40), size=st.integers(1, 5), cut=st.integers(0, 20))
def test_any_log_folded_anywhere_says_the_same(statements: Any, size: int, cut: int) -> None:
    """As above, on logs that are made up: far more keys that change, and values that are not sent.

    Each value is a number of its own, so that none can be taken for another; the columns have
    names that the folding uses too.
    """
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), "postgresql://nowhere.invalid/")
        lab.configure({"t": {**KEPT["t"], "retention": "0s", "primary_key": "id"}})
        lab.write(
            "CREATE SCHEMA raw; CREATE TABLE raw.t__changes (id INTEGER, n INTEGER, life INTEGER,"
            " _op VARCHAR, _generation INTEGER, _lsn BIGINT, _seq BIGINT, _xid BIGINT,"
            " _committed_at TIMESTAMP, _unchanged VARCHAR[], _load_id BIGINT,"
            " _loaded_at TIMESTAMP)"
        )
        rows = [
            f"({key or 'NULL'}, {a or 'NULL'}, {b or 'NULL'}, '{op}', 1, {lsn}, {seq}, {lsn},"
            f" TIMESTAMP '2020-01-01' + INTERVAL {lsn} DAY, {sorted(unsent)}::VARCHAR[], 1, now())"
            for op, key, a, b, unsent, lsn, seq in made_up(statements, size)
        ]
        lab.write(f"INSERT INTO raw.t__changes VALUES {', '.join([*rows, KEYLESS_TRUNCATION])}")
        now = datetime(2020, 1, 1) + timedelta(days=cut)
        assert folded(lab, now=now).rows_after == len(events(lab, "t"))
        assert folded(lab).rows_after == len(current(lab, "t"))


KEYLESS_TRUNCATION = "(NULL, NULL, NULL, 't', 1, -1, 0, 0, TIMESTAMP '2019-01-01', []::VARCHAR[], 1, now())"


def made_up(statements: Any, size: int) -> Iterator[tuple[Any, ...]]:
    """The events of traffic on a table: op, key, a, b, what was not sent, position and place."""
    alive: set[int] = set()
    value = itertools.count(1)
    for number, (name, key, other, unsent) in enumerate(statements):
        lsn, seq = number // size, number % size * 2
        a, b = (None if column in unsent else next(value) for column in ("n", "life"))
        if name == "truncate":
            alive.clear()
            yield "t", None, None, None, set(), lsn, seq
        elif key not in alive:
            alive.add(key)
            yield "c", key, next(value), next(value), set(), lsn, seq
        elif name == "upsert":
            yield "u", key, a, b, unsent, lsn, seq
        else:
            alive.remove(key)
            yield "d", key, None, None, set(), lsn, seq
            if name == "move" and other not in alive:
                alive.add(other)
                yield "c", other, a, b, unsent, lsn, seq + 1


@pytest.mark.usefixtures("table")
def test_old_changes_become_one_row_a_key_in_the_place_of_its_last(lab: Lab, sql: Sql) -> None:
    lab.capture(KEPT)
    sql("UPDATE t SET v = v + 1")
    sql("UPDATE t SET v = 9 WHERE id = 2")
    sql("DELETE FROM t WHERE id = 1")
    sql("UPDATE t SET id = 7 WHERE id = 3")
    sql("UPDATE t SET id = 8 WHERE id = 7")
    lab.capture(KEPT)
    last = "SELECT _generation, _lsn, _seq, _xid, _committed_at, _load_id, _loaded_at"
    before = lab.rows(f"{last} FROM raw.t__changes QUALIFY max((_lsn, _seq)) OVER (PARTITION BY id)"
                      " = (_lsn, _seq) AND _op <> 'd' ORDER BY ALL")  # fmt: skip
    done = folded(lab)
    assert ops(lab, "t") == "rrr"
    assert (done.rows_before, done.rows_after) == (14, 3)
    assert lab.rows(f"{last} FROM raw.t__changes ORDER BY ALL") == before
    assert lab.rows("SELECT id, v, length(big), _unchanged FROM raw.t__changes ORDER BY id") == [
        (2, 9, 3000, []), (4, 1, 3000, []), (8, 1, 3000, [])
    ]  # fmt: skip
    assert done.run is not None
    assert (done.run.rows_written, done.run.rows_deleted) == (3, 14)


@pytest.mark.usefixtures("table")
def test_compaction_again_changes_nothing_and_younger_changes_stay(lab: Lab, sql: Sql) -> None:
    lab.capture(KEPT)
    sql("UPDATE t SET v = 1")
    lab.capture(KEPT)
    assert folded(lab, now=later(SHORT)).rows_after == 8
    assert folded(lab).rows_after == 4
    rows = lab.rows("FROM raw.t__changes ORDER BY ALL")
    done = folded(lab)
    assert (done.rows_before, done.rows_after) == (4, 4)
    assert done.run is not None
    assert (done.run.rows_written, done.run.rows_deleted) == (0, 0)
    assert lab.rows("FROM raw.t__changes ORDER BY ALL") == rows


@pytest.mark.usefixtures("table")
def test_what_comes_after_a_fold_finds_its_unchanged_values_there(lab: Lab, sql: Sql) -> None:
    """Behaviours 18 and 19: an update, and a key that is changed, of folded rows."""
    lab.capture(KEPT)
    folded(lab)
    sql("UPDATE t SET v = 5 WHERE id = 1")
    sql("UPDATE t SET id = 9 WHERE id = 2")
    lab.capture(KEPT)
    assert ops(lab, "t") == "rrrrudc"
    found = [tuple(row.values()) for row in current(lab, "t")]
    assert found == at_source(lab.dsn, "t", "id, v, big")
    folded(lab)
    assert ops(lab, "t") == "rrrr"


@pytest.mark.usefixtures("table")
def test_a_truncation_a_copy_and_a_new_slot_are_folded(lab: Lab, sql: Sql) -> None:
    """Behaviours 20 and 30a: also two copies at one position."""
    project = lab.configure(KEPT)
    lab.capture(KEPT)
    for _ in range(2):
        assert snapshot(project, "t").error is None
    folded(lab)
    assert ops(lab, "t") == "rrrr"
    assert snapshot(project, "t").error is None
    assert ops(lab, "t") == "rrrrtrrrr"
    current(lab, "t")  # no event is there twice
    sql("TRUNCATE t")
    sql("INSERT INTO t VALUES (1, 1, NULL)")
    lab.capture(KEPT)
    folded(lab)
    assert ops(lab, "t") == "r"
    sql("DELETE FROM t")
    lab.capture(KEPT)
    assert folded(lab).rows_after == 0
    assert snapshot(project, "t").error is None
    sql("INSERT INTO t VALUES (2, 2, NULL)")
    lab.capture(KEPT)
    assert ops(lab, "t") == "c"


@pytest.mark.usefixtures("table")
def test_a_slot_that_says_it_again_adds_nothing_to_a_folded_log(
    lab: Lab, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviours 16 and 17: what was landed is told by the offset, not by the log's rows."""
    lab.capture(KEPT)
    sql("UPDATE t SET v = 1")
    sql("DELETE FROM t WHERE id = 1")
    with monkeypatch.context() as patch:
        patch.setattr("pyops.cdc.postgres.stream.advance_slot", lambda *_: None)
        lab.capture(KEPT)
    folded(lab)
    lab.capture(KEPT)
    assert ops(lab, "t") == "rrr"


@pytest.mark.usefixtures("table")
def test_a_dry_run_counts_and_writes_nothing(lab: Lab, sql: Sql) -> None:
    """Behaviour 42."""
    lab.capture(KEPT)
    sql("UPDATE t SET v = 1")
    lab.capture(KEPT)
    before = (lab.directory / "warehouse.duckdb").read_bytes()
    done = folded(lab, dry_run=True)
    assert (done.rows_before, done.rows_after, done.run) == (8, 4, None)
    assert (lab.directory / "warehouse.duckdb").read_bytes() == before


def test_the_key_is_known_without_the_source(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (a text, id integer, b text, v text, PRIMARY KEY (b, a))")
    sql("INSERT INTO t VALUES ('1', 1, '2', 'x'), ('2', 1, '1', 'y')")
    lab.capture(KEPT)
    sql("UPDATE t SET v = 'z'")
    lab.capture(KEPT)
    assert lab.rows("SELECT key FROM pyops.change_logs") == [(["b", "a"],)]
    lab.configure(KEPT, dsn="postgresql://nowhere.invalid/")
    [done] = compact(load(lab.directory), now=later())
    assert (done.error, done.rows_after) == (None, 2)


def test_a_table_without_a_key_cannot_be_compacted(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (v integer)")
    sql("INSERT INTO t VALUES (1), (1)")
    lab.capture(KEPT)
    [done] = compact(load(lab.directory), now=later())
    assert "no key is known" in str(done.error)
    assert ops(lab, "t") == "rr"


def test_a_key_that_deletes_do_not_bring_is_refused(lab: Lab, sql: Sql) -> None:
    """Behaviour 23: the replica identity is not the configured key."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    sql("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.capture(KEPT)
    sql("DELETE FROM t WHERE id = 1")
    lab.capture(KEPT)
    [done] = compact(lab.configure({"t": {**KEPT["t"], "primary_key": "v"}}), now=later())
    assert "1 changes lack a value of its key (v)" in str(done.error)


def test_a_table_without_a_retention_or_a_log_is_refused(lab: Lab) -> None:
    project = lab.configure({"t": {"mode": "cdc"}, "u": KEPT["t"]})
    with pytest.raises(UsageError, match=r"src\.t has no retention"):
        compact(project, ["t"])
    [done] = compact(project)
    assert "raw.u__changes is not there" in str(done.error)
    with pytest.raises(UsageError, match="retention means nothing"):
        lab.configure({"t": {"mode": "full", "retention": "1h"}})


# What dbt has applied


@pytest.fixture
def loads(lab: Lab, sql: Sql, table: None) -> None:
    """A log of three loads: 1 a copy of 4 rows, 2 an update of each, 3 another."""
    for value in range(3):
        sql(f"UPDATE t SET v = {value}")
        lab.capture(KEPT)
    lab.write("CREATE SCHEMA models")


@pytest.mark.usefixtures("loads")
def test_nothing_is_folded_before_all_that_remember_have_applied_it(lab: Lab) -> None:
    nodes = [("base", "view", "log"), ("mid", "table", "base"), ("inc", "incremental", "mid"),
             ("snap", "snapshot", "log"), ("mart", "incremental", "inc")]  # fmt: skip
    put_manifest(lab.directory, *((*node, {}) for node in nodes))
    lab.write("CREATE TABLE models.inc AS SELECT 1::BIGINT AS _load_id, 1 AS id")
    with pytest.raises(OperationError, match=r"models\.snap \(snapshot\) reads its log, and is not"):
        folded(lab)
    lab.write("CREATE TABLE models.snap AS SELECT 1 AS id")
    with pytest.raises(OperationError, match="has no column _load_id"):
        folded(lab)
    lab.write("ALTER TABLE models.snap ADD COLUMN _load_id BIGINT")
    done = folded(lab)
    assert (done.rows_after, done.held_back_by) == (12, ("models.inc", "models.snap"))
    lab.write("UPDATE models.snap SET _load_id = 3")
    lab.write("UPDATE models.inc SET _load_id = 2")
    done = folded(lab)
    assert (done.rows_after, done.held_back_by) == (8, ("models.inc",))
    assert ops(lab, "t") == "rrrruuuu"
    lab.write("UPDATE models.inc SET _load_id = 3")
    done = folded(lab)
    assert (done.rows_after, done.held_back_by) == (4, ())


@pytest.mark.usefixtures("loads")
def test_tables_and_views_alone_hold_nothing_back(lab: Lab) -> None:
    put_manifest(lab.directory, ("base", "view", "log", {}), ("mart", "table", "base", {}))
    assert folded(lab).rows_after == 4


@pytest.mark.usefixtures("loads")
def test_a_manifest_that_is_not_there_or_none_stops_it(lab: Lab) -> None:
    put_manifest(lab.directory)
    path = lab.directory / "target" / "manifest.json"
    for text in ("{", "[]", '{"nodes": {"a": {}}, "sources": {}}'):
        path.write_text(text)
        with pytest.raises(OperationError, match="no manifest that can be read") as error:
            folded(lab)
        assert error.value.hint == "run dbt build"
    path.unlink()
    with pytest.raises(OperationError, match="is not there: what dbt has built"):
        folded(lab)
