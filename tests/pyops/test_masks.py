"""Columns that do not leave the source, or only as a hash."""

import hashlib
from typing import Any

from pyops import Extraction, extract, replay
from tests.pyops.conftest import Lab, Sql

SECRET = "mary.queen@example.com"


def prepare(sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, email text, phone numeric, note text)")
    sql(f"INSERT INTO t VALUES (1, '{SECRET}', 5550123, 'x'), (2, NULL, NULL, 'y')")


def land(lab: Lab, table: dict[str, Any], **source: Any) -> Extraction:
    project = lab.configure({"t": table}, **source)
    (plan,) = extract(project, dry_run=True)
    (done,) = extract(project)
    assert done.error is None
    return plan


def files(lab: Lab) -> bytes:
    return b"".join(p.read_bytes() for p in lab.directory.rglob("*") if p.is_file())


def test_excluded_column_is_absent_from_the_query(lab: Lab, sql: Sql) -> None:
    """Behaviour 43."""
    prepare(sql)
    plan = land(lab, {"mode": "full", "exclude": ["email", "phone"]})
    assert "email" not in plan.query
    assert "phone" not in plan.query
    assert lab.rows("SELECT id, note FROM raw.t ORDER BY id") == [(1, "x"), (2, "y")]
    assert SECRET.encode() not in files(lab)


def test_only_the_columns_named_are_read(lab: Lab, sql: Sql) -> None:
    """Behaviour 43."""
    prepare(sql)
    plan = land(lab, {"mode": "full", "columns": ["note", "id"]})
    assert "email" not in plan.query
    names = lab.rows("SELECT column_name FROM duckdb_columns() WHERE table_name = 't'")
    assert [name for (name,) in names] == ["id", "note", "_load_id", "_loaded_at"]


def test_masked_column_arrives_as_its_salted_hash(lab: Lab, sql: Sql) -> None:
    """Behaviour 43: hashed by the server, with a salt that no statement shows."""
    prepare(sql)
    plan = land(lab, {"mode": "full", "mask": ["email", "phone"]}, mask_salt="pepper & salt'")
    assert "pepper" not in plan.query
    hashed = [hashlib.sha256(f"pepper & salt'{value}".encode()).hexdigest() for value in (SECRET, "5550123")]
    assert lab.rows("SELECT email, phone FROM raw.t ORDER BY id") == [tuple(hashed), (None, None)]
    assert SECRET.encode() not in files(lab)


def test_masked_key_still_identifies_its_row(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (email text PRIMARY KEY, at bigint, note text)")
    table = {"mode": "incremental", "cursor": "at", "primary_key": "email", "mask": "email"}
    sql(f"INSERT INTO t VALUES ('{SECRET}', 1, 'old')")
    land(lab, table, mask_salt="s")
    sql("UPDATE t SET at = 2, note = 'new'")
    land(lab, table, mask_salt="s")
    assert lab.rows("SELECT note FROM raw.t") == [("new",)]


def test_masked_value_is_in_no_dead_letter(lab: Lab, sql: Sql) -> None:
    """Behaviour 43: of changes and of files, where values arrive in clear; nor does a replay land
    it, or a line that cannot be taken apart show it.
    """
    sql("CREATE TABLE t (id integer PRIMARY KEY, email text, n numeric(5, 2))")
    changes = {"t": {"mode": "cdc", "mask": ["email"]}}
    lab.capture(changes)
    sql(f"INSERT INTO t VALUES (1, '{SECRET}', 'NaN')")
    lab.capture(changes)
    lab.put("a.csv", f"id,email,n\n1,{SECRET},1.5\n2,{SECRET},3,4\n")
    table: dict[str, Any] = {"path": "a.csv", "format": "csv", "mode": "full", "mask": ["email"]}
    table["max_dead_letter_rate"] = 1.0
    lab.extract_files({"a": {**table, "types": {"n": "INTEGER"}}})
    assert lab.rows("SELECT count(*) FROM pyops.dead_letters") == [(3,)]
    replay(lab.configure_files({"a": {**table, "types": {"n": "DECIMAL(4,1)"}}}), "a")
    assert lab.rows("SELECT email = sha256(?), n::DOUBLE FROM raw.a", SECRET) == [(True, 1.5)]
    (lab.directory / "a.csv").unlink()
    assert SECRET.encode() not in files(lab)
