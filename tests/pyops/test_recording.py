"""One lifecycle of a run: whatever becomes of it, it is a row, with its figures."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import pyops
from pyops.errors import GateError, PyopsError
from pyops.staging.file import Stage
from tests.pyops.conftest import Lab, Sql
from tests.pyops.test_faults import Project, halted, is_stopped_cleanly, project

__all__ = ["project"]  # a fixture

FULL: dict[str, dict[str, Any]] = {"t": {"mode": "full", "primary_key": ["id"]}}


def runs(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows("SELECT mode, status, rows_read, error FROM pyops.runs ORDER BY started_at")


def test_publication_that_fails_is_a_row(lab: Lab, sql: Sql) -> None:
    """Behaviour 41: also of what was staged by another command."""
    sql("CREATE TABLE t (id bigint)")
    lab.extract(FULL)
    sql("INSERT INTO t VALUES (1), (2)")
    lab.extract(FULL, stage_only=True)
    project = lab.configure(FULL)
    lab.write("UPDATE pyops.loads SET load_id = load_id + 1")  # as another run would have left it

    [done] = pyops.publish(project)

    assert isinstance(done.error, PyopsError)
    mode, status, rows_read, error = runs(lab)[-1]
    assert (mode, status, rows_read) == ("full", "failed", 2)
    assert "another run has published it" in error
    assert lab.rows("SELECT count(*) FROM raw.t") == [(0,)]


def test_replay_that_meets_a_failing_gate_is_rejected_and_names_no_file_that_is_gone(lab: Lab) -> None:
    """Behaviours 38 and 41."""
    table: dict[str, Any] = {"path": "t.csv", "format": "csv", "mode": "full", "primary_key": "id"}
    table |= {"max_dead_letter_rate": 1, "write": "merge"}
    lab.put("t.csv", "id,n\n1,10\n2,many\n")
    lab.extract_files({"t": table | {"types": {"n": "INTEGER"}}})
    gates = {"expect": {"few": "length(n) < 3"}}
    project = lab.configure_files({"t": table | {"types": {"n": "VARCHAR"}, "gates": gates}})
    lab.write("ALTER TABLE raw.t ALTER n TYPE VARCHAR")

    with pytest.raises(GateError, match="expectation few") as caught:
        pyops.replay(project, "t")

    assert "staging" not in caught.value.hint
    mode, status, rows_read, error = runs(lab)[-1]
    assert (mode, status, rows_read) == ("replay", "rejected", 1)
    assert "expectation few" in error
    assert lab.rows("SELECT gate, status FROM pyops.gate_results WHERE status = 'failed'") == [("expect", "failed")]
    assert [x.status for x in pyops.dead_letters(project)] == ["open"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_reconciliation_that_is_stopped_is_cancelled(project: Project, sql: Sql, number: signal.Signals) -> None:
    """Behaviour 45."""
    sql("CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 100) AS n")
    project.set_up(FULL)
    assert project.extract_by_command()[0] == 0
    sql("DELETE FROM t WHERE id > 50")
    with halted(project, Stage, "fill", command="reconcile", arguments=("t", "--apply")) as (command, released):
        os.kill(command.pid, number)
        released.set()
        code, output = command.end()
    is_stopped_cleanly(code, output, number)
    assert project.runs("mode, status")[-1] == ("reconcile", "cancelled")
    assert project.staged() == set()
    assert project.rows("SELECT count(*) FROM raw.t") == [(100,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_replay_that_is_stopped_is_cancelled(project: Project, sql: Sql, number: signal.Signals) -> None:
    """Behaviour 45."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, n numeric(5,2))")
    sql("INSERT INTO t VALUES (1, 1), (2, 'NaN')")
    project.set_up({"t": FULL["t"] | {"max_dead_letter_rate": 1}})
    assert project.extract_by_command()[0] == 0
    project.write("ALTER TABLE raw.t ALTER n TYPE VARCHAR")
    with halted(project, Stage, "fill_from_tables", command="dlq", arguments=("replay", "t")) as (command, released):
        os.kill(command.pid, number)
        released.set()
        code, output = command.end()
    is_stopped_cleanly(code, output, number)
    assert project.runs("mode, status")[-1] == ("replay", "cancelled")
    assert project.staged() == set()
    assert [x.status for x in pyops.dead_letters(pyops.load(project.directory))] == ["open"]


def test_runs_of_one_invocation_share_its_id(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE a (id bigint)")
    sql("CREATE TABLE b (id bigint)")
    for _ in range(2):
        lab.extract({"a": {"mode": "full"}, "b": {"mode": "full"}})
    found = lab.rows("SELECT count(*), count(DISTINCT table_name) FROM pyops.runs GROUP BY invocation_id")
    assert found == [(2, 2), (2, 2)]
