"""Rows that are wide: the memory they need is there, however little a table usually needs."""

from __future__ import annotations

from typing import Any

from pyops.commands.extract import extract
from pyops.commands.publish import publish
from tests.pyops.conftest import Lab, Sql

# As many rows as DuckDB takes at once, 100 KB each.
_DOCUMENTS = """
CREATE TABLE documents AS
SELECT i AS id, repeat(md5(i::text), 3200) AS body FROM generate_series(1, 2048) AS i
"""
_SUMS = "count(*), sum(length(body)), min(length(body))"
CDC: dict[str, dict[str, Any]] = {"documents": {"mode": "cdc"}}


def test_a_table_of_documents_lands(lab: Lab, sql: Sql) -> None:
    sql(_DOCUMENTS)
    lab.extract({"documents": {"mode": "full"}})
    assert lab.rows(f"SELECT {_SUMS} FROM raw.documents") == sql(f"SELECT {_SUMS} FROM documents")


def test_documents_that_were_staged_are_published_by_another_command(lab: Lab, sql: Sql) -> None:
    sql(_DOCUMENTS)
    project = lab.configure({"documents": {"mode": "full"}})
    assert [item.error for item in extract(project, stage_only=True)] == [None]
    assert [item.error for item in publish(project)] == [None]
    assert lab.rows(f"SELECT {_SUMS} FROM raw.documents") == sql(f"SELECT {_SUMS} FROM documents")


def test_changes_of_documents_land(lab: Lab, sql: Sql) -> None:
    """Behaviour 25: what did not fit would hold the slot back for ever."""
    sql(f"{_DOCUMENTS} LIMIT 0")
    sql("ALTER TABLE documents ADD PRIMARY KEY (id)")
    lab.capture(CDC)
    sql(_DOCUMENTS.replace("CREATE TABLE documents AS", "INSERT INTO documents"))
    lab.capture(CDC)
    landed = lab.rows(f"SELECT {_SUMS} FROM raw.documents__changes")
    assert landed == sql(f"SELECT {_SUMS} FROM documents")


def test_changes_of_a_table_with_a_thousand_columns_land(lab: Lab, sql: Sql) -> None:
    """Behaviour 25."""
    columns = ", ".join(f"c{n} text" for n in range(1000))
    sql(f"CREATE TABLE documents (id integer PRIMARY KEY, {columns})")
    lab.capture(CDC)
    sql("INSERT INTO documents (id, c7) SELECT n, 'a' FROM generate_series(1, 3000) AS n")
    sql("UPDATE documents SET c999 = 'b' WHERE id <= 2000")
    lab.capture(CDC)
    counted = "SELECT count(*), count(c7), count(c999) FROM raw.documents__changes"
    assert lab.rows(counted) == [(5000, 5000, 2000)]


def test_a_poison_change_of_many_megabytes_is_a_dead_letter(lab: Lab, sql: Sql) -> None:
    """Behaviours 25 and 37: written as JSON it is many times as large, and holds up no other."""
    sql("CREATE TABLE documents (id integer PRIMARY KEY, n numeric(8, 2), body text)")
    lab.capture(CDC)
    sql("INSERT INTO documents VALUES (1, 'NaN', repeat(chr(1) || 'abc', 7500000)), (2, 2, '')")
    lab.capture(CDC)
    assert lab.rows("SELECT id FROM raw.documents__changes") == [(2,)]
    assert lab.rows("SELECT length(payload) > 60000000 FROM pyops.dead_letters") == [(True,)]
