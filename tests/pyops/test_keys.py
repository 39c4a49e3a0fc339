"""The key as text is one rule: a dead letter has the key of its row in the warehouse."""

from __future__ import annotations

from typing import Any

import pytest

import pyops
from tests.pyops.conftest import Lab, Sql

KEYS = {
    "smallint": "7",
    "integer": "70000",
    "bigint": "7000000000",
    "numeric(10,2)": "7.10",
    "numeric": "7.100",
    "text": "'a \"quoted\" key'",
    "varchar(9)": "'it''s'",
    "char(5)": "'ab'",
    "uuid": "'5f0c3a52-8a7f-4d3e-9f0e-0123456789ab'",
    "date": "'2024-02-29'",
    "timestamp": "'2024-02-29 12:00:00.123456'",
    "timestamptz": "'2024-02-29 12:00:00.5+02'",
    "time": "'12:00:00.25'",
    "bytea": r"'\x00ff5c'",
    "boolean": "true",
    "real": "0.1",
    "double precision": "1e100",
    "inet": "'10.0.0.1/24'",
    "mood": "'happy'",
}


@pytest.fixture(params=KEYS)
def key(request: pytest.FixtureRequest, sql: Sql) -> str:
    """A table with a row of that key whose amount is fine, and another row."""
    sql("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    sql(f"CREATE TABLE t (k {request.param} PRIMARY KEY, amount numeric(9,2))")
    sql(f"INSERT INTO t VALUES ({KEYS[request.param]}, 1)")
    return str(request.param)


def letters(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows("SELECT key, status FROM pyops.dead_letters ORDER BY letter_id")


@pytest.mark.usefixtures("key")
def test_row_whose_key_is_a_dead_letters_is_kept_and_closes_it(lab: Lab, sql: Sql) -> None:
    """Behaviours 7 and 37: for a key of every type, by batch."""
    table: dict[str, dict[str, Any]] = {
        "t": {"mode": "full", "write": "merge", "primary_key": "k", "max_dead_letter_rate": 1}
    }
    lab.extract(table)
    sql("UPDATE t SET amount = 'NaN'")
    lab.extract(table)
    [(key, status)] = letters(lab)
    assert (bool(key), status) == (True, "open")

    found = pyops.reconcile(pyops.load(lab.directory), "t", apply=True)

    assert (found.extra, found.dead_letters) == (0, 1)
    assert lab.rows("SELECT count(*) FROM raw.t") == [(1,)]
    sql("UPDATE t SET amount = 2")
    lab.extract(table)
    assert letters(lab) == [(key, "superseded")]
    assert lab.rows("SELECT amount::INTEGER FROM raw.t") == [(2,)]


@pytest.mark.usefixtures("key")
def test_change_of_a_dead_letters_key_closes_it(lab: Lab, sql: Sql) -> None:
    """Behaviour 37: for a key of every type, by change data capture."""
    table = {"t": {"mode": "cdc"}}
    lab.capture(table)
    sql("UPDATE t SET amount = 'NaN'")
    lab.capture(table)
    [(key, status)] = letters(lab)
    assert (bool(key), status) == (True, "open")
    sql("UPDATE t SET amount = 2")
    lab.capture(table)
    assert letters(lab) == [(key, "superseded")]
