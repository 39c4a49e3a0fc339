"""From a log of changes to current state and history: whatever the changes, however they arrive."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyops.commands.cdc import capture
from pyops.commands.snapshot import snapshot
from tests.pyops.change_log import at_source
from tests.pyops.change_models import EMPTY_LOG, ChangeModels, apply, differences
from tests.pyops.conftest import Connect, Lab, Sql, examples
from tests.pyops.traffic import batches, commit

Place = tuple[int, int, int]
START = datetime(2020, 1, 1)


@dataclass(frozen=True)
class Change:
    """A row of a log, without when it arrived."""

    place: Place
    op: str
    at: datetime
    id: int | None = None
    v: int | None = None
    big: str | None = None
    unchanged: tuple[str, ...] = ()

    def values(self, load: int) -> tuple[Any, ...]:
        at = START + timedelta(days=load)
        stamps = (*self.place, None, self.at, list(self.unchanged), load, at)
        return (self.id, self.v, self.big, self.op, *stamps)


@dataclass
class Source:
    """A table whose every change is logged as pyops would, at random."""

    chance: Random
    sends_all: bool
    rows: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)
    generation: int = 1
    lsn: int = 10
    seconds: int = 0
    copied: int = 0
    log: list[Change] = field(default_factory=list)

    def copy(self) -> None:
        """A copy, sometimes of another generation, of a table that has changed unseen."""
        if self.log and self.chance.random() < 0.4:
            self.generation, self.lsn = self.generation + 1, 2 * self.chance.randint(1, 10)
            self.copied = 0
        if self.log:
            for key in list(self.rows):
                if self.chance.random() < 0.3:
                    self.rows[key] = (self.chance.randint(0, 3), self.rows[key][1])
                elif self.chance.random() < 0.2:
                    del self.rows[key]
        at, is_first = self._tick(), not self.log
        # Between two commits, behind the copy before it if nothing has followed that.
        place = self.generation, self.lsn + 1
        if not is_first:
            self.log.append(Change((*place, self.copied), "t", at))
        for key, row in sorted(self.rows.items()):
            self.copied += 1
            self.log.append(Change((*place, self.copied), "r", at, key, *row))
        self.copied += 1

    def transact(self) -> None:
        """A transaction of some changes."""
        self.lsn += 2 * self.chance.randint(1, 5)
        self.copied = 0
        changes = [c for _ in range(self.chance.randint(1, 6)) for c in self._change()]
        at = self._tick()
        for seq, (op, *rest) in enumerate(changes):
            self.log.append(Change((self.generation, self.lsn, seq), op, at, *rest))

    def _tick(self) -> datetime:
        self.seconds += self.chance.choice([0, 1, 1, 5, -2])  # a clock may stand still or go back
        return START + timedelta(seconds=self.seconds)

    def _change(self) -> Iterator[tuple[Any, ...]]:
        key, other = self.chance.randint(1, 4), self.chance.randint(1, 4)
        what = self.chance.choice(["insert", "update", "update", "delete", "move", "truncate"])
        big = self.chance.choice([None, "x", "y", "z"])
        v = self.chance.randint(0, 3)
        match what, key in self.rows:
            case "insert", False:
                self.rows[key] = v, big
                yield "c", key, v, big
            case "update", True:
                if (kept := self.rows[key][1]) and self.chance.random() < 0.7:
                    self.rows[key] = v, kept
                    yield "u", key, v, None, ("big",)
                else:
                    self.rows[key] = v, big
                    yield "u", key, v, big
            case "delete", True:
                del self.rows[key]
                yield "d", key
            case "move", True if other not in self.rows:
                row = self.rows[other] = self.rows.pop(key)
                yield "d", key
                if row[1] and not self.sends_all and self.chance.random() < 0.7:
                    yield "c", other, row[0], None, ("big",)
                else:
                    yield "c", other, *row
            case "truncate", _ if self.chance.random() < 0.3:
                self.rows.clear()
                yield ("t",)


@dataclass
class Fold:
    """What a log says, change by change, and what each key was from when until when."""

    rows: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)
    ends: dict[int, list[tuple[Any, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, log: list[Change]) -> Fold:
        fold = cls()
        moving: tuple[int | None, str | None] = (None, None)
        for change in sorted(log, key=lambda c: c.place):
            if change.op == "t":
                for key in list(fold.rows):
                    fold._end(key, change)
                continue
            assert change.id is not None
            if change.op == "d":
                moving = fold.rows.get(change.id, (None, None))
                fold._end(change.id, change)
                continue
            before = moving if change.op == "c" else fold.rows.get(change.id, (None, None))
            big = before[1] if change.unchanged else change.big
            fold.rows[change.id] = change.v, big
            fold._note(change.id, change, False, change.v, big)
        return fold

    def _end(self, key: int, change: Change) -> None:
        last = self.ends[key][-1][2:] if key in self.ends else (True, None, None)
        self.rows.pop(key, None)
        self._note(key, change, True, *last[1:])

    def _note(self, key: int, change: Change, *state: Any) -> None:
        transaction = (change.place[:2], change.at)
        self.ends.setdefault(key, []).append((transaction, change.at, *state))

    def history(self) -> list[tuple[Any, ...]]:
        """Each version: id, v, big, is_deleted, valid_from, valid_to."""
        found = []
        for key, ends in self.ends.items():
            seen = [e for e, after in zip(ends, [*ends[1:], None], strict=True)
                    if after is None or after[0] != e[0]]  # fmt: skip
            starts = [e for e, before in zip(seen, [None, *seen], strict=False)
                      if before is None or before[2:] != e[2:]]  # fmt: skip
            times = [max(e[1] for e in starts[: n + 1]) for n in range(len(starts))]
            for (*_, is_deleted, v, big), start, end in zip(starts, times, [*times[1:], None], strict=True):
                if start != end:
                    found.append((key, v, big, is_deleted, start, end))
        return sorted(found, key=repr)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ChangeModels:
    made = ChangeModels.made_in(tmp_path_factory.mktemp("models"))
    with duckdb.connect(made.warehouse) as connection:
        connection.execute("CREATE SCHEMA raw")
        connection.execute(EMPTY_LOG)
    made.compile()
    return made


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), arrival=st.sampled_from(["in order", "by key"]))
def test_any_changes_in_any_loads_end_in_their_last_state_and_exact_history(
    models: ChangeModels, seed: int, arrival: str
) -> None:
    """Behaviours 16, 18 to 21, 46: built in steps, as built at once, as folded change by change.

    Some changes never arrive, as dead letters do not; those of one key may arrive after what
    came later of another, as from a topic of several partitions. A truncation that has been applied
    ends such a key's history: of what arrives later only its current state is exact.
    """
    chance = Random(seed)
    source = Source(chance, sends_all=arrival == "by key")
    loads: list[list[Change]] = []
    for _ in range(chance.randint(1, 5)):
        known = len(source.log)
        if not loads or chance.random() < 0.2:
            source.copy()
        else:
            for _ in range(chance.randint(0, 4)):
                source.transact()
        loads.append([
            change for change in source.log[known:]
            if change.op in "dt" or change.unchanged or chance.random() < 0.95
        ])  # fmt: skip
    arrived = [change for load in loads for change in load]
    if arrival == "by key":
        delays = {key: chance.choice([0, 0, 1, 2]) for key in range(1, 5)}
        late: list[list[Change]] = [[] for _ in range(len(loads) + 2)]
        for number, load in enumerate(loads):
            for change in load:
                late[number + (delays[change.id] if change.id else 0)].append(change)
        loads = late

    with duckdb.connect() as connection:
        connection.execute("ATTACH ':memory:' AS warehouse; USE warehouse; CREATE SCHEMA raw")
        connection.execute(EMPTY_LOG)
        is_first = True
        for number, load in enumerate(loads, 1):
            if load:
                connection.executemany(
                    f"INSERT INTO raw.log VALUES ({', '.join('?' * 12)})", [change.values(number) for change in load]
                )
            if number == len(loads) or chance.random() < 0.7:
                apply(connection, models.whole if is_first else models.since, anew=is_first)
                is_first = False
        fold = Fold.of(arrived)
        current = connection.execute("SELECT id, v, big FROM t WHERE NOT _is_deleted").fetchall()
        assert sorted(current) == sorted((key, *row) for key, row in fold.rows.items())
        if arrival == "by key" and any(change.op == "t" for change in arrived):
            return
        history = connection.execute("SELECT id, v, big, is_deleted, valid_from, valid_to FROM t_history").fetchall()
        assert sorted(history, key=repr) == fold.history()
        assert differences(connection, models.whole) == []


@settings(
    max_examples=examples(4),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(batches=batches, how=st.tuples(st.sampled_from(["DEFAULT", "FULL"]), st.randoms()))
def test_any_traffic_ends_in_the_source_and_in_a_history_without_gap_or_overlap(
    lab: Lab, sql: Sql, connect: Connect, batches: Any, how: tuple[str, Random]
) -> None:
    """Behaviours 15, 18 to 22, 46: with a real PostgreSQL, and a dbt that runs now and then."""
    identity, chance = how
    table = f"t{chance.getrandbits(60)}"
    models = ChangeModels(lab.directory)
    if not (lab.directory / "dbt_project.yml").exists():
        ChangeModels.made_in(lab.directory)
    sql(f"CREATE TABLE {table} (id integer PRIMARY KEY, v integer, big text)")
    sql(f"ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL")
    sql(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    sql(f"INSERT INTO {table} SELECT n, 0, repeat('x', 3000) FROM generate_series(1, 4) AS n")
    project = lab.configure({table: {"mode": "cdc"}})
    assert capture(project)[0].error is None
    lab.write(f"CREATE OR REPLACE VIEW raw.log AS FROM raw.{table}__changes")
    whole = models.compiled("--full-refresh")
    models.dbt("run", "--full-refresh")
    for number, (transactions, command) in enumerate(batches, 1):
        commit(connect, table, transactions)
        done = capture(project)[0] if command == "cdc" else snapshot(project, table)
        assert done.error is None
        if number == len(batches) or chance.random() < 0.5:
            models.dbt("run")

    now = at_source(lab.dsn, table, "id, v, big")
    assert lab.rows("SELECT id, v, big FROM t WHERE NOT _is_deleted ORDER BY id") == now
    versions = "FROM t_history WHERE is_current AND NOT is_deleted"
    assert lab.rows(f"SELECT id, v, big {versions} ORDER BY id") == now
    wrong = lab.rows(
        "FROM (SELECT *, lead(valid_from) OVER (PARTITION BY id ORDER BY valid_from) AS next"
        " FROM t_history) WHERE valid_to IS DISTINCT FROM next OR is_current <> (next IS NULL)"
        " OR valid_to <= valid_from"
    )
    assert wrong == []
    with duckdb.connect(models.warehouse, read_only=True) as warehouse:
        assert differences(warehouse, whole) == []


def test_columns_have_any_name_and_keys_any_number_of_columns(lab: Lab, sql: Sql) -> None:
    """Behaviours 18, 19, 28; by a plain merge, as adapters without delete+insert have it."""
    sql(
        'CREATE TABLE t ("Id" integer, "select" text, "order" integer,'
        ' "Big Text" text STORAGE EXTERNAL, PRIMARY KEY ("Id", "select"))'
    )
    sql("""INSERT INTO t SELECT n, 'a', 0, repeat('x', 3000) FROM generate_series(1, 4) AS n""")
    project = lab.configure({"t": {"mode": "cdc"}})
    models = ChangeModels.made_in(lab.directory)
    arguments = "source('raw', 'log'), ['Id', 'select'], ['order', 'Big Text']"
    for name, macro, key in (
        ("t", "apply_changes", "['Id', '\"select\"']"),
        ("t_history", "keep_history", "['Id', '\"select\"', 'valid_from']"),
    ):
        (lab.directory / "models" / f"{name}.sql").write_text(
            "{{ config(materialized='incremental', incremental_strategy='merge',"
            f" unique_key={key}) }}}} {{{{ {macro}({arguments}) }}}}"
        )
    assert capture(project)[0].error is None
    lab.write("CREATE VIEW raw.log AS FROM raw.t__changes")
    models.dbt("run")
    sql("""UPDATE t SET "order" = 1 WHERE "Id" = 1""")
    sql("""UPDATE t SET "select" = 'b' WHERE "Id" = 2""")
    sql("""DELETE FROM t WHERE "Id" = 3""")
    assert capture(project)[0].error is None
    models.dbt("run")
    now = at_source(lab.dsn, "t", '"Id", "select", "order", "Big Text"', '"Id"')
    columns = """ "Id", "select", "order", "Big Text" """
    assert lab.rows(f"SELECT {columns} FROM t WHERE NOT _is_deleted ORDER BY 1") == now
    versions = "FROM t_history WHERE is_current AND NOT is_deleted"
    assert lab.rows(f"SELECT {columns} {versions} ORDER BY 1") == now
    assert lab.rows("SELECT count(*) FROM t_history") == [(8,)]


def test_dbt_that_is_killed_at_any_point_leaves_nothing_half_done(models: ChangeModels) -> None:
    """Behaviour 35: run again, the models are as if it had not been killed."""
    rows = (
        "SELECT i, {v}, repeat('x', 100), '{op}', 1, {lsn}, i, NULL, TIMESTAMP '2020-01-01'"
        " + to_hours({lsn}), [], {lsn}, TIMESTAMP '2020-01-01' FROM range(50000) AS r (i)"
    )
    with duckdb.connect(models.warehouse) as connection:
        connection.execute(EMPTY_LOG)
        connection.execute("INSERT INTO raw.log " + rows.format(v=0, op="r", lsn=1))
    models.dbt("run", "--full-refresh")
    code = (
        "import sys; from pathlib import Path; from tests.pyops.change_models import ChangeModels;"
        " ChangeModels(Path(sys.argv[1])).dbt('run')"
    )
    killed = 0
    for number, delay in enumerate((0.0, 0.05, 0.15, 0.3), 2):
        with duckdb.connect(models.warehouse) as connection:
            connection.execute("INSERT INTO raw.log " + rows.format(v=number, op="u", lsn=number))
        process = subprocess.Popen([sys.executable, "-c", code, str(models.folder)])
        wal = models.warehouse.with_name("warehouse.duckdb.wal")
        before = models.warehouse.stat().st_mtime_ns
        while process.poll() is None and not _writes(models.warehouse, wal, before):
            time.sleep(0.01)
        time.sleep(delay)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    models.dbt("run")
    with duckdb.connect(models.warehouse) as connection:
        assert connection.execute("SELECT DISTINCT v FROM t").fetchall() == [(5,)]
        assert differences(connection, models.whole) == []


def _writes(warehouse: Path, wal: Path, before: int) -> bool:
    return wal.exists() or warehouse.stat().st_mtime_ns != before
