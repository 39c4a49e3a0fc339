"""Rows that are wide: the memory they need is there, however little a table usually needs."""

from __future__ import annotations

from pyops.extraction import extract
from pyops.steps import publish
from tests.pyops.conftest import Lab, Sql

# As many rows as DuckDB takes at once, 100 KB each.
_DOCUMENTS = """
CREATE TABLE documents AS
SELECT i AS id, repeat(md5(i::text), 3200) AS body FROM generate_series(1, 2048) AS i
"""
_SUMS = "count(*), sum(length(body)), min(length(body))"


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
