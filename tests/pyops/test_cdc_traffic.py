"""Whatever is done to a table, wherever its stream is cut: its log ends in what the source has."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyops.commands.cdc import capture
from pyops.commands.snapshot import snapshot
from tests.pyops.change_log import at_source, current
from tests.pyops.conftest import Connect, Lab, Sql, examples
from tests.pyops.traffic import batches, commit

_numbers = itertools.count()


@settings(
    max_examples=examples(10),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(batches=batches, how=st.tuples(st.sampled_from(["DEFAULT", "FULL"]), st.integers(1, 40)))
def test_any_traffic_cut_anywhere_ends_in_the_source(
    lab: Lab, sql: Sql, connect: Connect, batches: Any, how: tuple[str, int]
) -> None:
    """Behaviours 15, 16, 18 to 22: with copies in between, and chunks of any size."""
    table, (identity, chunk) = f"t{next(_numbers)}", how
    sql(f"CREATE TABLE {table} (id integer PRIMARY KEY, v integer, big text)")
    sql(f"ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL")
    sql(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    sql(f"INSERT INTO {table} SELECT n, 0, repeat('x', 3000) FROM generate_series(1, 4) AS n")
    project = lab.configure({table: {"mode": "cdc"}})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pyops.cdc.postgres.slot.MESSAGES", "pyops.cdc.postgres.stream.MESSAGES"):
            patch.setattr(name, chunk)
        patch.setattr("pyops.cdc.postgres.slot._BATCH_BYTES", chunk * 100)
        assert capture(project)[0].error is None
        for transactions, command in batches:
            commit(connect, table, transactions)
            done = capture(project)[0] if command == "cdc" else snapshot(project, table)
            assert done.error is None
            found = [tuple(row.values()) for row in current(lab, table)]
            assert found == at_source(lab.dsn, table, "id, v, big")
