"""Stage, validate and publish as steps of their own."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pyops import extract, publish, validate
from pyops.errors import GateError
from tests.pyops.conftest import Lab
from tests.pyops.test_cli import command

CSV: dict[str, Any] = {"path": "in.csv", "format": "csv", "mode": "full"}
TYPED: dict[str, Any] = {**CSV, "types": {"id": "BIGINT", "quantity": "INTEGER"}}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, "")


def staged(lab: Lab) -> list[Path]:
    return sorted((lab.directory / ".pyops" / "staging").glob("*.duckdb"))


def test_staged_table_is_published_by_another_command(lab: Lab) -> None:
    lab.put("in.csv", "id,quantity\n1,5\n2,6\n")
    lab.configure_files({"t": {**TYPED, "gates": {"min_rows": 1}}})
    done = command(lab.directory, "extract", "t", "--stage", "--json")
    (table,) = json.loads(done.stdout)["tables"]
    assert (table["status"], table["rows_read"]) == ("staged", 2)
    assert lab.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw'") == [(0,)]

    done = command(lab.directory, "validate", "t", "--json")
    (table,) = json.loads(done.stdout)["tables"]
    assert (done.returncode, [gate["status"] for gate in table["gates"]]) == (0, ["passed"])

    done = command(lab.directory, "publish", "t", "--json")
    (table,) = json.loads(done.stdout)["tables"]
    assert (table["status"], table["rows_written"], table["load_id"]) == ("succeeded", 2, 1)
    assert lab.rows("SELECT id, quantity FROM raw.t ORDER BY id") == [(1, 5), (2, 6)]
    assert staged(lab) == []

    done = command(lab.directory, "publish", "t")
    assert done.returncode == 1
    assert "nothing is staged" in done.stderr


def test_failed_gate_publishes_nothing_and_keeps_the_rows_for_a_look(lab: Lab) -> None:
    """Behaviour 38."""
    lab.put("in.csv", "id,quantity\n1,5\n")
    lab.extract_files({"t": TYPED})
    lab.put("in.csv", "id,quantity\n1,5\n2,-6\n3,\n")
    gates = {"expect": {"positive_quantity": "quantity > 0"}, "max_null_rate": {"quantity": 0.1}}
    lab.configure_files({"t": {**TYPED, "gates": gates}})
    done = command(lab.directory, "extract")
    assert done.returncode == 1
    assert "web.t" in done.stderr
    assert "positive_quantity" in done.stderr
    assert "nothing was published" in done.stderr
    assert lab.rows("SELECT count(*) FROM raw.t") == [(1,)]
    results = lab.rows("SELECT gate, status FROM pyops.gate_results ORDER BY gate")
    assert ("expect", "failed") in results
    assert ("max_null_rate", "failed") in results
    assert lab.rows("SELECT status FROM pyops.runs ORDER BY started_at DESC LIMIT 1") == [("rejected",)]
    (path,) = staged(lab)
    queries = lab.rows("SELECT query FROM pyops.gate_results WHERE gate = 'expect'")
    with duckdb.connect(path, read_only=True) as connection:
        ((shown, *_),) = connection.execute(queries[0][0]).fetchall()
    assert shown == 2

    lab.configure_files({"t": TYPED})
    assert command(lab.directory, "publish").returncode == 0
    assert lab.rows("SELECT count(*) FROM raw.t") == [(3,)]
    assert staged(lab) == []


def test_check_restricts_validation_to_a_family_of_gates(lab: Lab) -> None:
    lab.put("in.csv", "id,quantity\n1,\n")
    gates = {"min_rows": 5, "max_null_rate": {"quantity": 0.1}}
    project = lab.configure_files({"t": {**TYPED, "gates": gates}})
    extract(project, stage_only=True)
    (done,) = validate(project, checks=["duplicates"])
    assert done.error is None
    (done,) = validate(project, checks=["nulls"])
    assert isinstance(done.error, GateError)
    assert [result.gate for result in done.gates] == ["max_null_rate"]
    done_ = command(lab.directory, "validate", "--check", "nuls")
    assert done_.returncode == 2


def test_newer_staging_takes_the_place_of_an_older_one(lab: Lab) -> None:
    lab.put("in.csv", "id,quantity\n1,5\n")
    project = lab.configure_files({"t": TYPED})
    extract(project, stage_only=True)
    lab.put("in.csv", "id,quantity\n2,5\n")
    extract(project, stage_only=True)
    assert len(staged(lab)) == 1
    publish(project)
    assert lab.rows("SELECT id FROM raw.t") == [(2,)]


def test_staged_rows_that_a_later_load_overtook_are_not_published(lab: Lab) -> None:
    lab.put("in.csv", "id,quantity\n1,5\n")
    project = lab.configure_files({"t": TYPED})
    extract(project, stage_only=True)
    old = staged(lab)[0]
    kept = old.read_bytes()
    lab.put("in.csv", "id,quantity\n2,5\n")
    lab.extract_files({"t": TYPED})
    old.write_bytes(kept)
    (done,) = publish(project)
    assert "another run has published it" in str(done.error)
    assert lab.rows("SELECT id FROM raw.t") == [(2,)]


def test_gate_looks_into_another_table_of_the_warehouse(lab: Lab) -> None:
    lab.put("users.csv", "user_id\n1\n2\n")
    lab.put("in.csv", "id,user_id\n1,1\n2,3\n")
    users = {"path": "users.csv", "format": "csv", "mode": "full"}
    gates = {"references": {"user_id": "raw.users.user_id"}}
    project = lab.configure_files({"users": users, "t": {**CSV, "gates": gates}})
    _, done = extract(project)
    assert "user_id" in str(done.error)


def test_rows_that_fail_an_expectation_can_become_dead_letters(lab: Lab) -> None:
    rows = "".join(f"{n},1\n" for n in range(300))
    lab.put("in.csv", "id,quantity\n" + rows + "300,-1\n")
    gates = {"expect": {"positive": {"check": "quantity > 0", "on_fail": "dead_letter"}}}
    run = lab.extract_files({"t": {**TYPED, "gates": gates}})[0]
    assert (run.rows_written, run.rows_dead_lettered) == (300, 1)
    ((line, payload),) = lab.rows("SELECT line, payload FROM pyops.dead_letters")
    assert line == 302
    assert '"quantity":"-1"' in payload
