"""Whatever is done to a table, wherever its stream is cut: its log ends in what the source has."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyops.replication import capture, snapshot
from tests.pyops.change_log import at_source, current
from tests.pyops.conftest import Connect, Lab, Sql

Step = tuple[str, int, int]
KEYS = st.integers(1, 6)
STATEMENTS = {
    "insert": "INSERT INTO {t} VALUES ({a}, {b}, repeat(md5('{a}{b}'), 100))"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "update": "UPDATE {t} SET v = {b} WHERE id = {a}",
    "touch": "UPDATE {t} SET v = v + 1",
    "write": "UPDATE {t} SET big = repeat(md5('{b}'), 100) WHERE id = {a}",
    "forget": "UPDATE {t} SET big = NULL WHERE id = {a}",
    "delete": "DELETE FROM {t} WHERE id = {a}",
    "move": "UPDATE {t} SET id = {b} + 10 WHERE id = {a} AND NOT EXISTS"
    " (SELECT FROM {t} WHERE id = {b} + 10)",
    "back": "UPDATE {t} SET id = id - 10 WHERE id = {a} + 10 AND NOT EXISTS"
    " (SELECT FROM {t} WHERE id = {a})",
    "truncate": "TRUNCATE {t}",
    "savepoint": "SAVEPOINT s",
    "rollback": "ROLLBACK TO SAVEPOINT s",
}
steps = st.tuples(st.sampled_from([*STATEMENTS, "insert", "update", "delete"]), KEYS, KEYS)
transactions = st.tuples(st.lists(steps, min_size=1, max_size=8), st.booleans())
batches = st.lists(
    st.tuples(st.lists(transactions, max_size=6), st.sampled_from(["cdc", "cdc", "snapshot"])),
    min_size=1,
    max_size=4,
)
_numbers = itertools.count()


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(batches=batches, how=st.tuples(st.sampled_from(["DEFAULT", "FULL"]), st.integers(1, 40)))
def test_any_traffic_cut_anywhere_ends_in_the_source(
    lab: Lab, sql: Sql, connect: Connect, batches: Any, how: tuple[str, int]
) -> None:
    """Behaviours 15, 16, 18 to 22: with copies in between, and pieces of any size."""
    table, (identity, piece) = f"t{next(_numbers)}", how
    sql(f"CREATE TABLE {table} (id integer PRIMARY KEY, v integer, big text STORAGE EXTERNAL)")
    sql(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    sql(f"INSERT INTO {table} SELECT n, 0, repeat('x', 3000) FROM generate_series(1, 4) AS n")
    project = lab.configure({table: {"mode": "cdc"}})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pyops.cdc.slot.MESSAGES", "pyops.replication.MESSAGES"):
            patch.setattr(name, piece)
        patch.setattr("pyops.cdc.slot._BATCH_BYTES", piece * 100)
        assert capture(project)[0].error is None
        for transactions, command in batches:
            connection = connect()
            for statements, is_committed in transactions:
                run_statements(connection, table, statements)
                connection.commit() if is_committed else connection.rollback()
            connection.close()
            done = capture(project)[0] if command == "cdc" else snapshot(project, table)
            assert done.error is None
            found = [tuple(row.values()) for row in current(lab, table)]
            assert found == at_source(lab.dsn, table, "id, v, big")


def run_statements(connection: Any, table: str, statements: list[Step]) -> None:
    has_savepoint = False
    with connection.cursor() as cursor:
        for name, a, b in statements:
            if name == "rollback" and not has_savepoint:
                continue
            has_savepoint = has_savepoint or name == "savepoint"
            cursor.execute(STATEMENTS[name].format(t=table, a=a, b=b))
